"""Hugging Face's Trainer: ``OneCycleTrainer``, ``range_test`` and ``find_lr``."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from transformers import Seq2SeqTrainer, Trainer, TrainerCallback, TrainingArguments
from transformers.integrations import TensorBoardCallback

import clrfast
from clrfast.integrations import transformers as adapter
from clrfast.integrations.transformers import OneCycleTrainer, find_lr, range_test
from tests.helpers.language_models import bert, classification_samples, gpt2, language_samples
from tests.helpers.ranks import torchrun

pytestmark = pytest.mark.framework("Hugging Face Trainer", "transformers")

JOB = Path(__file__).parents[1] / "jobs" / "transformers_on_ranks.py"
SHORT = {"steps": 30, "min_lr": 1e-4, "max_lr": 3.0, "trials": False}
"""A short range test."""


@pytest.fixture
def arguments(tmp_path):
    def make(**given):
        defaults = {
            "output_dir": str(tmp_path),
            "per_device_train_batch_size": 8,
            "num_train_epochs": 2,
            "learning_rate": 1e-3,
            "weight_decay": 0.1,
            "use_cpu": True,
            "report_to": [],
            "disable_tqdm": True,
            "save_strategy": "no",
            "logging_strategy": "no",
        }
        return TrainingArguments(**(defaults | given))

    return make


def weights(model):
    return torch.cat([param.detach().reshape(-1) for param in model.parameters()])


def control_of(trainer):
    return trainer.optimizer.optimizer.control


def loop_of(trainer):
    """Return the trainer's model, a loader with the order of its first training, and an optimizer with its groups."""
    made = type(trainer).create_optimizer(trainer)
    optimizer = clrfast.AdamW(made.param_groups, lr=1e-3)
    trainer.optimizer = None
    return trainer.model, trainer.get_train_dataloader(), optimizer


def trained_by_hand(trainer, schedule, *, epochs=2, accumulate=1, max_norm=1.0, autocast=None):
    """Train the trainer's model in a plain loop, and return its weights and the losses of the updates."""
    model, loader, optimizer = loop_of(trainer)
    optimizer.set_schedule(schedule)
    losses = []
    for _ in range(epochs):
        batches = list(loader)
        for first in range(0, len(batches), accumulate):
            some = batches[first : first + accumulate]
            total = 0.0
            for batch in some:
                model.train()
                with torch.autocast("cpu", dtype=autocast, enabled=autocast is not None):
                    loss = model(**batch).loss
                (loss / len(some)).backward()
                total += loss.item() / len(some)
            if max_norm:
                torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(total)
    return weights(model), losses


def assert_equal_curves(one, other):
    np.testing.assert_array_equal(one.lr, other.lr)
    np.testing.assert_array_equal(one.loss, other.loss)
    assert one.suggest() == other.suggest()


# ------------------------------------------------------------------------------------------------------------ training


@pytest.mark.shows("trains")
def test_the_trainer_ends_where_a_plain_loop_with_the_same_schedule_does(arguments):
    data = classification_samples()
    trainer = OneCycleTrainer(model=bert(), args=arguments(), train_dataset=data, max_lr=0.01)
    trainer.train()
    by_hand, losses = trained_by_hand(
        Trainer(model=bert(), args=arguments(), train_dataset=data), clrfast.one_cycle(0.01, 16)
    )
    assert torch.equal(weights(trainer.model), by_hand)
    assert control_of(trainer).losses.tolist() == losses
    assert trainer.schedule.total_steps == 16
    assert trainer.suggestion is None


@pytest.mark.shows("trains")
def test_a_scheduled_optimizer_works_with_as_lr_scheduler(arguments):
    data, schedule = classification_samples(), clrfast.one_cycle(0.01, 16)
    plain = Trainer(model=bert(), args=arguments(), train_dataset=data)
    model, _, optimizer = loop_of(Trainer(model=bert(), args=arguments(), train_dataset=data))
    optimizer.set_schedule(schedule)
    trainer = Trainer(
        model=model,
        args=arguments(),
        train_dataset=data,
        optimizers=(optimizer, clrfast.as_lr_scheduler(optimizer)),
    )
    trainer.train()
    assert torch.equal(weights(model), trained_by_hand(plain, schedule)[0])


def test_a_scheduled_optimizer_without_a_scheduler_is_an_error_that_names_the_way_out(arguments):
    model = bert()
    optimizer = clrfast.SGD(model.parameters(), schedule=clrfast.one_cycle(0.1, 16))
    trainer = Trainer(
        model=model, args=arguments(), train_dataset=classification_samples(), optimizers=(optimizer, None)
    )
    with pytest.raises(RuntimeError, match=r"clrfast\.as_lr_scheduler\(optimizer\)"):
        trainer.train()


def test_a_second_training_follows_a_schedule_of_its_own(arguments):
    trainer = OneCycleTrainer(model=bert(), args=arguments(), train_dataset=classification_samples(), max_lr=0.01)
    trainer.train()
    trainer.args.num_train_epochs = 1
    trainer.train()
    assert trainer.schedule.total_steps == 8
    assert int(control_of(trainer).step) == 8


def test_it_goes_in_front_of_another_trainer(arguments):
    class MyTrainer(OneCycleTrainer, Seq2SeqTrainer):
        pass

    from transformers import Seq2SeqTrainingArguments

    given = arguments()
    args = Seq2SeqTrainingArguments(
        given.output_dir, use_cpu=True, report_to=[], disable_tqdm=True, save_strategy="no", max_steps=5
    )
    trainer = MyTrainer(model=bert(), args=args, train_dataset=classification_samples(), max_lr=0.01)
    trainer.train()
    assert int(control_of(trainer).step) == 5


def test_an_optimizer_that_clrfast_does_not_have_follows_the_schedule_too(arguments):
    class Rates(TrainerCallback):
        def __init__(self):
            self.seen = []

        def on_pre_optimizer_step(self, args, state, control, optimizer=None, **_):
            self.seen.append(optimizer.param_groups[0]["lr"])

    rates = Rates()
    trainer = OneCycleTrainer(
        model=bert(),
        args=arguments(),
        train_dataset=classification_samples(),
        optimizer_cls_and_kwargs=(torch.optim.RMSprop, {"lr": 1e-3}),
        callbacks=[rates],
        max_lr=0.01,
    )
    trainer.train()
    assert isinstance(trainer.optimizer.optimizer, torch.optim.RMSprop)
    np.testing.assert_array_equal(rates.seen, clrfast.one_cycle(0.01, 16).table()[:, 0, 0])


@pytest.mark.parametrize("scheduled", ["optimizer", "scheduler"])
def test_optimizers_with_a_schedule_are_refused(arguments, scheduled):
    model = bert()
    if scheduled == "optimizer":
        optimizers = (clrfast.SGD(model.parameters(), schedule=clrfast.one_cycle(0.1, 4)), None)
    else:
        optimizer = clrfast.SGD(model.parameters(), lr=0.1)
        optimizers = (optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer))
    with pytest.raises(ValueError, match="optimizers: they have a schedule already"):
        OneCycleTrainer(model=model, args=arguments(), optimizers=optimizers)


# -------------------------------------------------------------------------------------------------------------- search


@pytest.mark.shows("finds the plain loop's rate")
def test_the_range_test_equals_that_of_a_plain_loop(arguments):
    data = classification_samples()
    model, loader, optimizer = loop_of(Trainer(model=bert(dropout=0.1), args=arguments(), train_dataset=data))
    plain = clrfast.range_test(model, loader=loader, optimizer=optimizer, clip_norm=1.0, max_steps=200)
    trainer = OneCycleTrainer(model=bert(dropout=0.1), args=arguments(), train_dataset=data)
    assert_equal_curves(range_test(trainer, max_steps=200), plain)


@pytest.mark.shows("finds the plain loop's rate")
def test_a_training_without_a_rate_searches_at_its_start(arguments):
    data = classification_samples()
    model, loader, optimizer = loop_of(Trainer(model=bert(), args=arguments(), train_dataset=data))
    plain = clrfast.range_test(model, loader=loader, optimizer=optimizer, clip_norm=1.0, **SHORT)
    trainer = OneCycleTrainer(model=bert(), args=arguments(), train_dataset=data, search=SHORT)
    trainer.train()
    assert_equal_curves(trainer.curve, plain)
    assert trainer.suggestion == plain.suggest()
    given = OneCycleTrainer(model=bert(), args=arguments(), train_dataset=data, max_lr=plain.suggest().max_lr)
    given.train()
    assert torch.equal(weights(trainer.model), weights(given.model))


@pytest.mark.shows("finds the plain loop's rate")
@pytest.mark.parametrize("trained", [False, True])
def test_the_range_test_leaves_the_trainer_as_it_was(arguments, trained):
    class Noisy(Trainer):
        def compute_loss(self, model, inputs, *args, **keywords):
            self.log({"noise": 1.0})
            self.seen = len(inputs)
            return super().compute_loss(model, inputs, *args, **keywords)

    trainer = Noisy(
        model=bert(dropout=0.1), args=arguments(max_steps=5, bf16=True), train_dataset=classification_samples()
    )
    if trained:
        trainer.train()
    own, accelerator = dict(vars(trainer)), trainer.accelerator
    loaders, models = list(accelerator._dataloaders), list(accelerator._models)
    model, callbacks = copy.deepcopy(trainer.model.state_dict()), list(trainer.callback_handler.callbacks)
    attributes, logged = dict(vars(trainer.model)), list(trainer.state.log_history)
    optimizer = copy.deepcopy(trainer.optimizer.state_dict()) if trained else None
    gradients, random = copy.copy(vars(accelerator.gradient_state)), torch.get_rng_state()

    find_lr(trainer, **SHORT)

    assert vars(trainer).keys() == own.keys()
    assert all(vars(trainer)[name] is value for name, value in own.items())
    assert (accelerator._dataloaders, accelerator._models) == (loaders, models)
    assert trainer.callback_handler.callbacks == callbacks
    assert trainer.state.log_history == logged
    assert dict(vars(trainer.model)) == attributes
    assert all(torch.equal(value, model[name]) for name, value in trainer.model.state_dict().items())
    assert vars(accelerator.gradient_state) == gradients
    assert torch.equal(torch.get_rng_state(), random)
    if trained:
        torch.testing.assert_close(trainer.optimizer.state_dict(), optimizer, rtol=0, atol=0)


def test_the_search_uses_the_trainers_own_loss(arguments):
    class Doubled(Trainer):
        def compute_loss(self, *args, **keywords):
            return 2 * super().compute_loss(*args, **keywords)

    curves = [
        range_test(kind(model=bert(), args=arguments(), train_dataset=classification_samples()), **SHORT)
        for kind in (Trainer, Doubled)
    ]
    assert curves[1].loss[0] == 2 * curves[0].loss[0]


def test_the_search_validates_on_the_batches_of_an_evaluation(arguments):
    data = classification_samples()
    trainer = Trainer(model=bert(), args=arguments(), train_dataset=data[:48], eval_dataset=data[48:])
    curve = range_test(trainer, val_loader=trainer.get_eval_dataloader(), **SHORT)
    assert len(curve.metric) > 1


def test_the_search_refuses_a_model_that_is_sharded(arguments):
    trainer = Trainer(model=bert(), args=arguments(), train_dataset=classification_samples())
    trainer.is_fsdp_enabled = True
    with pytest.raises(ValueError, match="trainer: it uses DeepSpeed, FSDP or DataParallel"):
        find_lr(trainer)


# ---------------------------------------------------------------------------------------------------------- precision


@pytest.mark.shows("mixed precision", "finds the plain loop's rate")
def test_bfloat16_holds_in_training_and_search(arguments):
    data = classification_samples()
    plain = Trainer(model=bert(), args=arguments(), train_dataset=data)
    model, loader, optimizer = loop_of(plain)
    curve = clrfast.range_test(
        model, loader=loader, optimizer=optimizer, clip_norm=1.0, autocast=torch.bfloat16, **SHORT
    )
    trainer = OneCycleTrainer(model=bert(), args=arguments(bf16=True), train_dataset=data, search=SHORT)
    trainer.train()
    assert_equal_curves(trainer.curve, curve)
    assert_equal_curves(
        range_test(OneCycleTrainer(model=bert(), args=arguments(bf16=True), train_dataset=data), **SHORT), curve
    )
    by_hand, losses = trained_by_hand(plain, clrfast.one_cycle(curve.suggest().max_lr, 16), autocast=torch.bfloat16)
    assert torch.equal(weights(trainer.model), by_hand)
    assert control_of(trainer).losses.tolist() == losses


@pytest.mark.shows("mixed precision")
@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused", "rmsprop"])
def test_an_update_that_the_scaler_skips_does_not_move_the_schedule(arguments, optim):
    trainer = OneCycleTrainer(
        model=bert(),
        args=arguments(max_grad_norm=0, optim=optim),
        train_dataset=classification_samples(),
        max_lr=0.01,
    )
    scaler = trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=1000)
    trainer.train()
    n_skipped = 127 - round(np.log2(scaler.get_scale()))
    assert n_skipped > 0
    assert trainer.lr_scheduler.last_epoch == 16 - n_skipped
    if optim != "rmsprop":
        assert int(control_of(trainer).step) == 16 - n_skipped
        assert torch.isfinite(control_of(trainer).losses[: 16 - n_skipped]).all()


# ------------------------------------------------------------------------------------------- accumulation and clipping


@pytest.mark.shows("accumulation")
def test_accumulation_counts_updates_and_records_means(arguments):
    data = classification_samples(n=56)  # 7 batches: the last update of an epoch has one batch fewer
    trainer = OneCycleTrainer(
        model=bert(), args=arguments(gradient_accumulation_steps=2), train_dataset=data, max_lr=0.01
    )
    trainer.model_accepts_loss_kwargs = False  # as a model whose loss is the mean over a batch says it
    trainer.train()
    assert trainer.schedule.total_steps == 8
    by_hand, losses = trained_by_hand(
        Trainer(model=bert(), args=arguments(), train_dataset=data), clrfast.one_cycle(0.01, 8), accumulate=2
    )
    assert torch.equal(weights(trainer.model), by_hand)
    np.testing.assert_allclose(control_of(trainer).losses, losses, rtol=1e-6)


@pytest.mark.shows("accumulation")
def test_a_loss_per_token_is_that_of_the_whole_update_in_training_and_search(arguments):
    args, data = arguments(gradient_accumulation_steps=4), language_samples()
    curve = range_test(OneCycleTrainer(model=gpt2(), args=args, train_dataset=data), **SHORT)
    trainer = OneCycleTrainer(model=gpt2(), args=args, train_dataset=data, max_lr=0.01)
    trainer.train()

    plain_trainer = Trainer(model=gpt2(), args=args, train_dataset=data)
    model, loader, optimizer = loop_of(plain_trainer)
    batches = list(loader)
    n_items = [plain_trainer._get_num_items_in_batch(batches[first : first + 4], args.device) for first in (0, 4)]
    weighed = [(batch, n_items[index // 4]) for index, batch in enumerate(batches)]
    plain = clrfast.range_test(
        model,
        loader=weighed,
        compute_loss=lambda model, pair: 4 * model(**pair[0], num_items_in_batch=pair[1]).loss,
        optimizer=optimizer,
        accumulate=4,
        clip_norm=1.0,
        **SHORT,
    )
    assert curve.loss[0] == plain.loss[0]  # after the first update; then the loader comes in another order
    per_update = [sum(4 * model(**batch, num_items_in_batch=n).loss for batch, n in weighed[f : f + 4]) for f in (0, 4)]
    assert control_of(trainer).losses[0].item() == pytest.approx(per_update[0].item() / 4, rel=1e-6)


def test_more_micro_batches_than_an_epoch_has_make_one_update(arguments):
    args = arguments(gradient_accumulation_steps=20)
    curve = range_test(Trainer(model=bert(), args=args, train_dataset=classification_samples()), **SHORT)
    assert len(curve.loss) > 2


@pytest.mark.shows("clipping", "finds the plain loop's rate")
@pytest.mark.parametrize("max_norm", [0.05, 0])
def test_clipping_holds_in_training_and_search(arguments, max_norm):
    args, data = arguments(max_grad_norm=max_norm), classification_samples()
    plain = Trainer(model=bert(), args=args, train_dataset=data)
    model, loader, optimizer = loop_of(plain)
    curve = clrfast.range_test(model, loader=loader, optimizer=optimizer, clip_norm=max_norm or None, **SHORT)
    trainer = OneCycleTrainer(model=bert(), args=args, train_dataset=data, search=SHORT)
    trainer.train()
    assert_equal_curves(trainer.curve, curve)
    schedule = clrfast.one_cycle(curve.suggest().max_lr, 16)
    assert torch.equal(weights(trainer.model), trained_by_hand(plain, schedule, max_norm=max_norm)[0])


# -------------------------------------------------------------------------------------------------------------- resume


def no_search(*args, **keywords):
    raise AssertionError("it searches")


@pytest.mark.shows("resumes bit for bit")
@pytest.mark.parametrize("save_steps", [5, 8])
@pytest.mark.parametrize("kind", ["ours", "torch's"])
def test_a_resumed_run_ends_where_the_uninterrupted_one_does(arguments, tmp_path, monkeypatch, save_steps, kind):
    given = {} if kind == "ours" else {"optimizer_cls_and_kwargs": (torch.optim.RMSprop, {"lr": 1e-3})}

    def make(seed=0):
        return OneCycleTrainer(
            model=bert(seed, dropout=0.1),
            args=arguments(save_strategy="steps", save_steps=save_steps),
            train_dataset=classification_samples(),
            search=SHORT,
            **given,
        )

    whole = make()
    whole.train()
    monkeypatch.setattr(adapter, "range_test", no_search)
    resumed = make(seed=1)
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{save_steps}"))
    assert torch.equal(weights(resumed.model), weights(whole.model))
    assert resumed.schedule == whole.schedule
    assert resumed.lr_scheduler.last_epoch == whole.lr_scheduler.last_epoch == 16
    if kind == "ours":
        assert torch.equal(control_of(resumed).losses, control_of(whole).losses)


def test_the_last_checkpoint_is_found(arguments, monkeypatch):
    args = arguments(save_strategy="steps", save_steps=5)
    data = classification_samples()
    OneCycleTrainer(model=bert(), args=args, train_dataset=data, search=SHORT).train()
    monkeypatch.setattr(adapter, "range_test", no_search)
    resumed = OneCycleTrainer(model=bert(), args=args, train_dataset=data)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 16


def test_a_resumed_run_of_another_length_follows_the_schedule_of_that_length(arguments, tmp_path):
    data = classification_samples()
    OneCycleTrainer(
        model=bert(), args=arguments(save_strategy="steps", save_steps=5), train_dataset=data, max_lr=0.01
    ).train()
    longer = OneCycleTrainer(model=bert(), args=arguments(num_train_epochs=3), train_dataset=data)
    with pytest.warns(UserWarning, match="the saved schedule differs"):
        longer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert longer.schedule == clrfast.one_cycle(0.01, 24)
    assert int(control_of(longer).step) == 24


def test_the_checkpoint_of_another_trainer_needs_a_rate(arguments, tmp_path):
    data, args = classification_samples(), arguments(save_strategy="steps", save_steps=5)
    Trainer(model=bert(), args=args, train_dataset=data).train()
    checkpoint = str(tmp_path / "checkpoint-5")
    with pytest.raises(ValueError, match=r"resume_from_checkpoint: .* give it: OneCycleTrainer"):
        OneCycleTrainer(model=bert(), args=args, train_dataset=data).train(resume_from_checkpoint=checkpoint)
    resumed = OneCycleTrainer(model=bert(), args=args, train_dataset=data, max_lr=0.01)
    with pytest.warns(UserWarning, match="no step of a schedule"):
        resumed.train(resume_from_checkpoint=checkpoint)
    assert resumed.state.global_step == 16


# ----------------------------------------------------------------------------------------------------------------- log


class Writer:
    """A TensorBoard writer that keeps what it gets."""

    def __init__(self):
        self.rows = []

    def add_scalar(self, name, value, step):
        self.rows.append((name, value, step))

    def add_text(self, *_):
        pass

    flush = close = add_text


@pytest.mark.parametrize("log", [True, False])
def test_the_curve_and_every_update_go_to_tensorboard(arguments, log):
    writer = Writer()
    trainer = OneCycleTrainer(
        model=bert(),
        args=arguments(logging_strategy="steps", logging_steps=5),
        train_dataset=classification_samples(),
        callbacks=[TensorBoardCallback(writer)],
        search=SHORT,
        log=log,
    )
    trainer.train()
    losses = [value for name, value, _ in writer.rows if name == "clrfast/loss"]
    assert losses == (control_of(trainer).losses.tolist() if log else [])
    assert [step for name, _, step in writer.rows if name == "clrfast/loss"] == list(range(16 if log else 0))
    assert any(name.startswith("lr_range_test") for name, *_ in writer.rows) == log


# ----------------------------------------------------------------------------------------------------------- processes


@pytest.mark.slow
@pytest.mark.shows("two processes")
def test_two_processes_find_one_rate_train_equal_parameters_and_resume(tmp_path):
    job = torchrun(tmp_path, JOB, tmp_path)
    assert job.returncode == 0, job.stderr
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second
    assert first["updates"] == 8
    assert first["max_lr"] == first["searched before"]
    assert first["weights"] == first["by hand"]
    assert first["weights"] == first["resumed"]
