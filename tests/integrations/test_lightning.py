"""1cycle and the finder inside Lightning, compared with plain loops on the same model, data and seed."""

from __future__ import annotations

import json
from functools import partial
from itertools import islice
from pathlib import Path

import pytest

pytest.importorskip("lightning")

import lightning as L
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler, LambdaCallback, LearningRateMonitor
from lightning.pytorch.callbacks import ModelCheckpoint as Checkpoint
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from torchmetrics import MeanMetric

import clrfast
from clrfast.integrations import lightning as integration
from clrfast.integrations.lightning import LRFinder, OneCycle
from tests.helpers.problems import blobs, blobs_without_dropout
from tests.helpers.ranks import needs_gloo, run_python, torchrun

pytestmark = [
    pytest.mark.framework("Lightning", "lightning"),
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The '(train|val)_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller than the logging interval"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
    pytest.mark.filterwarnings("ignore:Found `dataloader_iter` argument"),
    pytest.mark.filterwarnings("ignore:You are using the `dataloader_iter` step flavor"),
]

JOB = Path(__file__).parents[1] / "jobs" / "lightning_on_ranks.py"
OTHER_JOB = JOB.with_name("pytorch_lightning_fit.py")
SHORT = {"steps": 12, "min_lr": 1e-3, "max_lr": 1.0}
MAKERS = {
    "clrfast.SGD": partial(clrfast.SGD, lr=0.1, momentum=0.9),
    "clrfast.AdamW": partial(clrfast.AdamW, lr=1e-3),
    "torch.SGD": partial(torch.optim.SGD, lr=0.1, momentum=0.9),
}
every_optimizer = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


class Module(L.LightningModule):
    """A classifier that logs in its training step."""

    def __init__(self, net, make=MAKERS["clrfast.SGD"]):
        super().__init__()
        self.net, self.make, self.mean_loss = net, make, MeanMetric()

    def training_step(self, batch, batch_idx):
        inputs, targets = batch
        loss = nn.functional.cross_entropy(self.net(inputs), targets)
        self.mean_loss(loss)
        self.log("mean_loss", self.mean_loss, prog_bar=True)
        self.log_dict({"loss": loss, "batch_idx": float(batch_idx)})
        return {"loss": loss, "batch_idx": batch_idx}

    def configure_optimizers(self):
        return self.make(self.net.parameters())


class Memory(Logger):
    """A logger that keeps what it is given."""

    name = version = "memory"

    def __init__(self):
        super().__init__()
        self.rows = []

    def log_metrics(self, metrics, step=None):
        self.rows.append((step, dict(metrics)))

    def log_hyperparams(self, *args, **kwargs):
        pass

    def series(self, name):
        return [(step, metrics[name]) for step, metrics in self.rows if name in metrics]


def trainer(*callbacks, **options):
    quiet = {"logger": False, "enable_checkpointing": any(isinstance(each, Checkpoint) for each in callbacks)}
    quiet |= {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return L.Trainer(**{"max_epochs": 3, **quiet, **options}, callbacks=list(callbacks))


def fit(callback, make=MAKERS["clrfast.SGD"], *, problem=blobs, seed=1, callbacks=(), **options):
    """Return the trainer and the module after a fit on ``blobs``: 8 batches an epoch."""
    net, _, loader = problem()
    module, fitter = Module(net, make), trainer(callback, *callbacks, **options)
    torch.manual_seed(seed)
    fitter.fit(module, loader)
    return fitter, module


def plain_loop(schedule, make=MAKERS["clrfast.SGD"], *, accumulate=1, clip_norm=None, autocast=None, seed=1):
    """Train as ``fit`` does, in a loop of torch alone; return the net and the mean loss of each update."""
    net, loss_fn, loader = blobs()
    optimizer, losses = make(net.parameters()), []
    scheduler = None
    if isinstance(optimizer, clrfast.optim.FusedOptimizer):
        optimizer.set_schedule(schedule)
    else:
        scheduler = clrfast.as_lr_scheduler(optimizer, schedule)
    torch.manual_seed(seed)
    while len(losses) < schedule.total_steps:
        batches = list(islice(loader, len(loader)))  # as Lightning, not to the end, where the sampler draws once more
        for first in range(0, len(batches), accumulate):
            group = []
            optimizer.zero_grad()
            for inputs, targets in batches[first : first + accumulate]:
                with torch.autocast("cpu", dtype=autocast, enabled=autocast is not None):
                    loss = loss_fn(net(inputs), targets)
                (loss / accumulate).backward()
                group.append(loss.detach())
            if clip_norm is not None:
                nn.utils.clip_grad_norm_(net.parameters(), clip_norm)
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
            losses.append(torch.stack(group).mean().item())
    return net, losses


def plain_search(make=MAKERS["clrfast.SGD"], *, iterated=True, seed=1, **keywords):
    net, loss_fn, loader = blobs()
    torch.manual_seed(seed)
    if iterated:
        iter(loader)  # as the trainer has done at the start of a fit
    return clrfast.range_test(net, loss_fn, loader, optimizer=make(net.parameters()), **keywords)


def assert_equal(one, other):
    theirs = dict(other.named_parameters()) | dict(other.named_buffers())
    for name, value in [*one.named_parameters(), *one.named_buffers()]:
        assert torch.equal(value, theirs[name]), name


def assert_same_curve(one, other):
    assert one.lr.tolist() == other.lr.tolist()
    assert one.loss.tolist() == other.loss.tolist()
    assert one.initial_loss == other.initial_loss


@pytest.fixture
def no_search(monkeypatch):
    def fail(*args, **keywords):
        raise AssertionError("a search was made")

    monkeypatch.setattr(integration, "range_test", fail)


# ------------------------------------------------------------------------------------------------------------- training


@pytest.mark.shows("trains")
@every_optimizer
def test_a_fit_is_the_plain_loop_with_the_schedule(make, no_search):
    callback = OneCycle(0.05)
    fitter, module = fit(callback, make)
    schedule = callback.schedule
    assert (schedule.total_steps, callback.suggestion, callback.curve) == (24, None, None)
    net, losses = plain_loop(schedule, make)
    assert_equal(module.net, net)
    (optimizer,) = fitter.optimizers
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05 / 10 / 100)
    if isinstance(optimizer, clrfast.optim.FusedOptimizer):
        assert optimizer.control.losses.tolist() == losses


@pytest.mark.parametrize(("options", "total_steps"), [({"max_steps": 10}, 10), ({"max_epochs": -1, "max_steps": 5}, 5)])
def test_max_steps_is_the_length_of_the_schedule(options, total_steps):
    callback = OneCycle(0.05)
    fitter, _ = fit(callback, **options)
    assert callback.schedule.total_steps == total_steps == fitter.global_step == fitter.optimizers[0].control.step


def test_another_policy_is_followed():
    callback = OneCycle(0.05, policy=clrfast.schedules.cosine_annealing)
    fit(callback)
    assert callback.schedule == clrfast.schedules.cosine_annealing(0.05, 24)


def test_a_second_fit_has_a_schedule_of_its_own():
    callback = OneCycle(steps=12, min_lr=1e-3)
    fit(callback, max_epochs=2)
    first = callback.suggestion, callback.curve
    fit(callback, max_epochs=1)
    assert callback.suggestion == first[0]
    assert callback.curve is not first[1]
    assert callback.schedule.total_steps == 8


def test_a_fit_that_continues_has_a_schedule_for_the_rest():
    callback = OneCycle(0.05)
    fitter, module = fit(callback)
    fitter.fit_loop.max_epochs = 5
    fitter.fit(module, blobs()[2])
    assert callback.schedule.total_steps == fitter.optimizers[0].control.step == 2 * 8


def test_a_dataset_without_a_length_needs_max_steps():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(blobs()[2].dataset)

    def run(**options):
        callback = OneCycle(0.05)
        fitter = trainer(callback, **options)
        fitter.fit(Module(blobs()[0]), DataLoader(Stream(), 32))
        return callback.schedule.total_steps

    assert run(max_steps=5) == 5
    with pytest.raises(ValueError, match=r"trainer: got max_epochs=3 and max_steps=-1, .* give max_epochs, or max_st"):
        run()


# --------------------------------------------------------------------------------------------------------- the search


@pytest.mark.shows("finds the plain loop's rate")
@every_optimizer
def test_a_fit_searches_first_and_then_trains_as_without_a_search(make):
    callback = OneCycle()
    _, module = fit(callback, make, max_epochs=2)
    curve = plain_search(make)
    assert_same_curve(callback.curve, curve)
    assert callback.suggestion == curve.suggest()
    _, given = fit(OneCycle(callback.suggestion.max_lr), make, max_epochs=2)
    assert_equal(module, given)


@pytest.mark.shows("finds the plain loop's rate")
@every_optimizer
def test_the_finder_leaves_everything_as_it_was(make):
    net, _, loader = blobs()
    module = Module(net, make)
    module.net[0].weight.grad = torch.ones_like(module.net[0].weight)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    attributes, grad, order = dict(vars(module)), module.net[0].weight.grad, loader.generator.get_state()
    torch.manual_seed(1)
    rng = torch.get_rng_state()
    finder = LRFinder()
    suggestion = finder.suggest(module, train_dataloaders=loader)
    curve = plain_search(make, iterated=False)
    assert_same_curve(finder.curve, curve)
    assert suggestion == curve.suggest()
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert module.net[0].weight.grad is grad
    assert vars(module) == attributes
    assert module.mean_loss._update_count == 0
    assert torch.equal(loader.generator.get_state(), order)
    assert torch.equal(torch.get_rng_state(), rng)


class Data(L.LightningDataModule):
    """A data module that prepares itself step by step."""

    prepared = False

    def prepare_data(self):
        self.prepared = True

    def setup(self, stage):
        self.loader = blobs()[2] if self.prepared and stage == "fit" else None

    def train_dataloader(self):
        return self.loader


def test_a_module_that_uses_its_logger_can_be_searched_without_a_trainer():
    class Logging(Module):
        def training_step(self, batch, batch_idx):
            self.logger.experiment.add_scalar("batch", batch_idx, batch_idx)
            return super().training_step(batch, batch_idx)

    net, _, loader = blobs()
    suggestion = LRFinder(**SHORT).suggest(Logging(net), train_dataloaders=loader)
    assert suggestion == LRFinder(**SHORT).suggest(Module(blobs()[0]), train_dataloaders=blobs()[2])


def test_the_finder_takes_a_data_module_and_the_settings_of_a_trainer(tmp_path):
    seen, memory = [], Memory()
    callback = LambdaCallback(on_fit_start=lambda *_: seen.append("callback"))
    fitter = trainer(callback, accumulate_grad_batches=2, gradient_clip_val=0.1, precision="bf16-mixed", logger=memory)
    datamodule, module, finder = Data(), Module(blobs()[0]), LRFinder(**SHORT)
    torch.manual_seed(1)
    finder.suggest(module, datamodule, trainer=fitter)
    plain = plain_search(iterated=True, accumulate=2, clip_norm=0.1, autocast=torch.bfloat16, **SHORT)
    assert_same_curve(finder.curve, plain)
    assert (seen, memory.rows, fitter.loggers, fitter.callbacks[0]) == ([], [], [memory], callback)
    assert (datamodule.trainer, module._trainer, fitter.global_step) == (None, None, 0)
    fitter.fit(module, datamodule)
    assert (seen, fitter.global_step) == (["callback"], 12)
    with pytest.raises(ValueError, match="trainer: it has no training left"):
        finder.suggest(module, datamodule, trainer=fitter)


def test_the_module_may_have_the_data_and_schedulers():
    class Whole(Module):
        def train_dataloader(self):
            return blobs()[2]

        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            steps = self.trainer.estimated_stepping_batches
            return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)]

    finder, module = LRFinder(**SHORT), Whole(blobs()[0], MAKERS["torch.SGD"])
    torch.manual_seed(1)
    finder.suggest(module)
    assert_same_curve(finder.curve, plain_search(MAKERS["torch.SGD"], **SHORT))


def test_a_failed_search_raises_the_users_error_and_restores():
    class Broken(Module):
        def training_step(self, batch, batch_idx):
            if batch_idx == 3:
                raise ZeroDivisionError("the user's own")
            return super().training_step(batch, batch_idx)

    module = Broken(blobs()[0])
    fitter = trainer()
    with pytest.raises(ZeroDivisionError, match="the user's own"):
        LRFinder(**SHORT).suggest(module, train_dataloaders=blobs()[2], trainer=fitter)
    assert_equal(module.net, blobs()[0])
    assert (module._trainer, "log" in vars(module)) == (None, False)


def test_a_search_logs_its_curve_and_nothing_else():
    memory, callback = Memory(), OneCycle(steps=12, min_lr=1e-3)
    seen = {}

    def look(fitter, module):
        seen.update(
            rows=list(memory.rows), metrics=dict(fitter.callback_metrics), updates=module.mean_loss._update_count
        )

    fit(callback, callbacks=[LambdaCallback(on_train_start=look)], logger=memory, log_every_n_steps=1)
    names = {name for _, metrics in seen["rows"] for name in metrics}
    assert names == {f"lr_range_test/{name}" for name in ("lr", "loss", "smoothed_loss", "suggested_lr")}
    assert (seen["metrics"], seen["updates"]) == ({}, 0)
    assert memory.series("loss")


def test_the_training_step_may_take_several_loaders_and_no_index():
    class Pairs(Module):
        def training_step(self, batch):
            assert batch.keys() == {"a", "b"}
            return super().training_step(batch["a"], 0)

        def on_before_batch_transfer(self, batch, dataloader_idx):
            inputs, targets = batch["a"]
            return {**batch, "a": (2 * inputs, targets)}

    (net, _, loader), callback = blobs(), OneCycle(steps=12, min_lr=1e-3)
    other = DataLoader(range(3), generator=torch.Generator())
    fitter = trainer(callback, max_epochs=1)
    torch.manual_seed(1)
    fitter.fit(Pairs(net), {"a": loader, "b": other})
    net, loss_fn, loader = blobs()
    torch.manual_seed(1)
    iter(loader)
    doubled = clrfast.range_test(
        net,
        loader=loader,
        compute_loss=lambda net, batch: loss_fn(net(2 * batch[0]), batch[1]),
        optimizer=MAKERS["clrfast.SGD"](net.parameters()),
        steps=12,
        min_lr=1e-3,
    )
    assert_same_curve(callback.curve, doubled)
    assert fitter.global_step == 8


def test_limit_train_batches_holds_in_the_search_too():
    callback = OneCycle(**{**SHORT, "max_lr": None})
    (net, loss_fn, loader) = blobs_without_dropout()
    plain = DataLoader(TensorDataset(*loader.dataset.tensors), 32)
    trainer(callback, limit_train_batches=3).fit(Module(net), plain)
    net, loss_fn, _ = blobs_without_dropout()
    first = clrfast.range_test(
        net, loss_fn, list(plain)[:3], optimizer=MAKERS["clrfast.SGD"](net.parameters()), steps=12, min_lr=1e-3
    )
    assert_same_curve(callback.curve, first)
    assert callback.schedule.total_steps == 9


def test_a_fast_dev_run_takes_the_optimizers_rate(no_search):
    callback = OneCycle()
    fit(callback, fast_dev_run=3)
    assert callback.schedule == clrfast.one_cycle(0.1, 3)


# ------------------------------------------------------------------------------- accumulation, clipping and precision


@pytest.mark.shows("accumulation")
@every_optimizer
def test_accumulated_batches_make_one_update(make):
    """The last update of an epoch has 2 batches, each divided by 3 as Lightning does."""
    callback = OneCycle(0.05)
    fitter, module = fit(callback, make, accumulate_grad_batches=3)
    assert callback.schedule.total_steps == fitter.global_step == 9
    net, losses = plain_loop(callback.schedule, make, accumulate=3)
    assert_equal(module.net, net)
    if (control := getattr(fitter.optimizers[0], "control", None)) is not None:
        assert control.losses.tolist() == pytest.approx(losses, rel=1e-6)


@pytest.mark.shows("accumulation")
def test_a_search_accumulates():
    callback = OneCycle(steps=12, min_lr=1e-3)
    fit(callback, accumulate_grad_batches=2)
    assert_same_curve(callback.curve, plain_search(accumulate=2, steps=12, min_lr=1e-3))


@pytest.mark.shows("clipping")
@every_optimizer
def test_gradients_are_clipped(make):
    callback = OneCycle(steps=12, min_lr=1e-3)
    _, module = fit(callback, make, gradient_clip_val=0.1)
    assert_same_curve(callback.curve, plain_search(make, clip_norm=0.1, steps=12, min_lr=1e-3))
    net, _ = plain_loop(callback.schedule, make, clip_norm=0.1)
    assert_equal(module.net, net)
    free, _ = plain_loop(callback.schedule, make)
    assert not torch.equal(free[0].weight, net[0].weight)


def test_a_search_does_not_clip_by_value_and_says_so():
    callback, options = OneCycle(steps=12, min_lr=1e-3), {"gradient_clip_val": 0.1, "gradient_clip_algorithm": "value"}
    with pytest.warns(UserWarning, match="gradient_clip_algorithm: got 'value', and a search clips by norm only"):
        fit(callback, **options)
    assert_same_curve(callback.curve, plain_search(steps=12, min_lr=1e-3))
    fit(OneCycle(steps=12, min_lr=1e-3, clip_norm=1.0), **options)
    fit(OneCycle(0.1), **options)


@pytest.mark.shows("mixed precision")
@every_optimizer
def test_autocast_is_that_of_the_trainer(make):
    callback = OneCycle(steps=12, min_lr=1e-3)
    _, module = fit(callback, make, precision="bf16-mixed")
    assert_same_curve(callback.curve, plain_search(make, autocast=torch.bfloat16, steps=12, min_lr=1e-3))
    net, _ = plain_loop(callback.schedule, make, autocast=torch.bfloat16)
    assert_equal(module.net, net)


class Overflowing(Module):
    """Its gradients are infinite at batch 3 of an epoch."""

    def training_step(self, batch, batch_idx):
        output = super().training_step(batch, batch_idx)
        return {"loss": output["loss"] * (torch.inf if batch_idx == 3 and self.overflows else 1)}

    overflows = True


@pytest.mark.shows("mixed precision")
@every_optimizer
def test_an_update_that_the_scaler_skips_does_not_advance_the_schedule(make):
    scaler, callback, rates = torch.amp.GradScaler("cpu"), OneCycle(0.05), []
    record = LambdaCallback(
        on_train_batch_start=lambda fitter, *_: rates.append(fitter.optimizers[0].param_groups[0]["lr"])
    )
    fitter = trainer(callback, record, max_epochs=1, plugins=[MixedPrecision("16-mixed", "cpu", scaler)])
    net, _, loader = blobs()
    fitter.fit(Overflowing(net, make), loader)
    assert rates[3] == rates[4] != rates[5]
    assert rates[:4] == pytest.approx(callback.schedule.table(8)[:4, 0, 0].tolist())
    if (control := getattr(fitter.optimizers[0], "control", None)) is not None:
        assert control.step == 7
        assert control.losses[:7].isfinite().all()
        assert 0 < control.losses[6] < 3


@pytest.mark.shows("mixed precision")
@every_optimizer
def test_a_search_uses_the_scaler_and_restores_it(make):
    scaler, callback = (
        torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=5),
        OneCycle(steps=12, min_lr=1e-3),
    )
    scales = []
    look = LambdaCallback(on_train_start=lambda *_: scales.append(scaler.get_scale()))
    fit(callback, make, callbacks=[look], plugins=[MixedPrecision("16-mixed", "cpu", scaler)])
    theirs = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=5)
    plain = plain_search(make, scaler=theirs, autocast=torch.float16, steps=12, min_lr=1e-3)
    assert_same_curve(callback.curve, plain)
    assert scales == [1024.0]
    assert scaler.get_scale() > 1024


# ----------------------------------------------------------------------------------------------------------- resuming


class Resumable(DataLoader):
    """A loader whose position Lightning saves; the epoch determines its order."""

    epoch = position = 0

    def state_dict(self):
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state):
        vars(self).update(state)

    def __iter__(self):
        if self.position == len(self):
            self.epoch, self.position = self.epoch + 1, 0
        order = torch.randperm(len(self.dataset), generator=torch.Generator().manual_seed(self.epoch))
        for indices in order.split(self.batch_size)[self.position :]:
            self.position += 1
            yield self.dataset[indices]


class LateStrategy(SingleDeviceStrategy):
    """Restores modules and callbacks after the start of the fit, as the strategies for sharded models do."""

    restore_checkpoint_after_setup = True


def resumable(callback, make, folder, n_epochs=2, **options):
    """A trainer that saves after every update, a module without random numbers, and its loader."""
    net, _, loader = blobs_without_dropout()
    checkpoint = Checkpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    fitter = trainer(callback, checkpoint, max_epochs=n_epochs, **options)
    return fitter, Module(net, make), Resumable(loader.dataset, 32)


@pytest.mark.shows("resumes bit for bit")
@pytest.mark.parametrize(
    ("step", "late"), [(5, False), (8, False), (5, True)], ids=["in an epoch", "between epochs", "late strategy"]
)
@every_optimizer
def test_a_resumed_fit_ends_as_the_uninterrupted_one(make, step, late, tmp_path, monkeypatch):
    options = {"strategy": LateStrategy("cpu")} if late else {}
    callback = OneCycle(steps=12, min_lr=1e-3)
    fitter, whole, loader = resumable(callback, make, tmp_path, **options)
    fitter.fit(whole, loader)

    monkeypatch.setattr(integration, "range_test", None)  # a search would fail
    again = OneCycle(steps=12, min_lr=1e-3)
    options = {"strategy": LateStrategy("cpu")} if late else {}
    second, module, loader = resumable(again, make, tmp_path / "again", **options)
    second.fit(module, loader, ckpt_path=tmp_path / f"step={step}.ckpt")
    assert_equal(module.net, whole.net)
    assert second.global_step == fitter.global_step == 16
    assert (again.suggestion, again.schedule) == (callback.suggestion, callback.schedule)
    assert_same_curve(again.curve, callback.curve)
    states = [each.lr_scheduler_configs[0].scheduler.state_dict() for each in (fitter, second)]
    assert states[0] == states[1]
    assert states[0]["last_epoch"] == 16
    control, theirs = (getattr(each.optimizers[0], "control", None) for each in (second, fitter))
    if control is not None:
        assert control.losses.tolist() == theirs.losses.tolist()


def test_a_checkpoint_of_a_fit_without_it_gets_a_schedule_for_the_rest(tmp_path):
    fitter, module, loader = resumable(LambdaCallback(), MAKERS["clrfast.SGD"], tmp_path)
    fitter.fit(module, loader)
    callback = OneCycle(0.05)
    second, module, loader = resumable(callback, MAKERS["clrfast.SGD"], tmp_path / "again")
    second.fit(module, loader, ckpt_path=tmp_path / "step=12.ckpt")
    assert callback.schedule.total_steps == second.optimizers[0].control.step == 4


# ----------------------------------------------------------------------------------------------------------- logging


@pytest.mark.parametrize("first", [False, True])
def test_a_learning_rate_monitor_sees_the_rate_of_the_table(first):
    memory, monitor, callback = Memory(), LearningRateMonitor("step"), OneCycle(0.05)
    callbacks = [monitor, callback] if first else [callback, monitor]
    net, _, loader = blobs()
    trainer(*callbacks, logger=memory, log_every_n_steps=1).fit(Module(net), loader)
    rates = memory.series("lr-SGD")
    assert [step for step, _ in rates] == list(range(24))
    assert [rate for _, rate in rates] == callback.schedule.table()[:, 0, 0].tolist()


def test_losses_and_schedule_of_all_updates_are_logged_once(tmp_path):
    memories, callback = [Memory(), Memory()], OneCycle(0.05)
    fitter, module, loader = resumable(callback, MAKERS["clrfast.SGD"], tmp_path, logger=memories)
    fitter.fit(module, loader)
    control = fitter.optimizers[0].control
    for memory in memories:
        assert memory.series("clrfast/loss") == list(enumerate(control.losses.tolist()))
        assert memory.series("clrfast/lr") == list(enumerate(control.host_table[:, 0, 0].tolist()))
    resumed = Memory()
    fitter, module, loader = resumable(OneCycle(), MAKERS["clrfast.SGD"], tmp_path / "again", logger=resumed)
    fitter.fit(module, loader, ckpt_path=tmp_path / "step=12.ckpt")
    assert resumed.series("clrfast/loss") == list(enumerate(control.losses.tolist()))[8:]


def test_log_false_writes_nothing():
    memory = Memory()
    fit(OneCycle(steps=12, min_lr=1e-3, log=False), logger=memory)
    assert not any(name.startswith(("clrfast/", "lr_range_test/")) for _, metrics in memory.rows for name in metrics)


# --------------------------------------------------------------------------------------------------------- refusals


class Manual(Module):
    def __init__(self, *args):
        super().__init__(*args)
        self.automatic_optimization = False


class WithScheduler(Module):
    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]


class WithSchedule(Module):
    def configure_optimizers(self):
        return clrfast.SGD(self.parameters(), schedule=clrfast.one_cycle(0.1, 24))


class WithIterator(Module):
    def training_step(self, dataloader_iter):
        raise NotImplementedError


@pytest.mark.parametrize(
    ("kind", "callbacks", "message"),
    [
        (Manual, [], "module: it has automatic_optimization=False.* clrfast.SGD.params, schedule="),
        (WithScheduler, [], "configure_optimizers: it returns StepLR, and OneCycle sets the rate, too; return the opt"),
        (WithSchedule, [], "configure_optimizers: its optimizer follows a schedule of its own"),
        (WithIterator, [], "training_step: it takes a dataloader_iter"),
        (Module, [GradientAccumulationScheduler({0: 1, 1: 2})], "GradientAccumulationScheduler changes the number"),
    ],
)
def test_what_decides_the_rate_or_the_updates_besides_it_is_refused(kind, callbacks, message):
    net, _, loader = blobs()
    with pytest.raises(ValueError, match=message):
        trainer(OneCycle(), *callbacks).fit(kind(net, MAKERS["torch.SGD"]), loader)


@pytest.mark.parametrize("kind", [Manual, WithIterator])
def test_the_finder_refuses_what_it_cannot_drive(kind):
    net, _, loader = blobs()
    order, rng = loader.generator.get_state(), torch.get_rng_state()
    with pytest.raises(ValueError, match="OneCycle and LRFinder need"):
        LRFinder().suggest(kind(net), train_dataloaders=loader)
    assert torch.equal(loader.generator.get_state(), order)
    assert torch.equal(torch.get_rng_state(), rng)


@pytest.mark.parametrize("kind", [LRFinder, OneCycle])
def test_unknown_keywords_are_refused_at_once(kind):
    with pytest.raises(TypeError, match=f"step: {kind.__name__} has no such argument; .* 'steps'"):
        kind(step=5)


def test_a_policy_that_returns_something_else_is_refused():
    with pytest.raises(ValueError, match=r"policy: it returned float; return a clrfast.Schedule"):
        fit(OneCycle(0.1, policy=lambda max_lr, total_steps: max_lr))


# --------------------------------------------------------------------------------------------- processes and packages


@pytest.mark.slow
@pytest.mark.shows("two processes", "finds the plain loop's rate", "trains")
@needs_gloo
def test_two_processes_find_one_rate_and_train_one_model(tmp_path):
    job = torchrun(tmp_path, JOB, tmp_path)
    assert job.returncode == 0, job.stderr
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first["max_lr"] == second["max_lr"] == first["plain max_lr"]
    assert first["curve"] == second["curve"] == first["plain curve"]
    assert first["params"] == second["params"] == first["plain params"]
    assert first["losses"] != second["losses"]  # each rank has its own shard
    assert first["losses"] == first["plain losses"]
    assert first["total_steps"] == first["step"] == 8
    assert (first["n_logged"], second["n_logged"]) == (8, 0)


@pytest.mark.parametrize("order", [integration._DISTRIBUTIONS, integration._DISTRIBUTIONS[::-1]])
def test_the_package_that_was_imported_first_is_used(order, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(integration.sys, "modules", dict.fromkeys(["torch", *order]))
        name = integration._distribution()
    assert name == order[0]


@pytest.mark.slow
def test_pytorch_lightning_is_supported_too(tmp_path):
    pytest.importorskip("pytorch_lightning")
    job = run_python(tmp_path, OTHER_JOB)
    assert job.stdout.split()[-3:] == ["pytorch_lightning", "24", "24"]
