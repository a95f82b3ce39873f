"""fastai: OneCycle, find_lr, and the optimizers of clrfast in a Learner."""

import copy
import random
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

pytest.importorskip("fastai")

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # it uses torch.jit.script
    import fastai.basics  # noqa: F401

from fastai import optimizer as fastai_optimizers
from fastai.basics import DataLoader, DataLoaders, Learner, OptimWrapper
from fastai.callback import fp16
from fastai.callback.core import Callback, CancelFitException, CancelStepException
from fastai.callback.progress import ProgressCallback
from fastai.callback.rnn import RNNCallback
from fastai.callback.training import GradientAccumulation, GradientClip

import clrfast
from clrfast.integrations.fastai import OneCycle, adamw, find_lr, range_test, sgd

pytestmark = [
    pytest.mark.framework("fastai", "fastai"),
    pytest.mark.filterwarnings("ignore:numpy.core:DeprecationWarning"),
]

SIZE, BATCH, EPOCHS = 92, 16, 3  # the last batch is smaller
STEPS = EPOCHS * 6
SHORT = {"steps": 20, "trials": False, "min_lr": 1e-3}
FASTAIS_SGD = partial(fastai_optimizers.SGD, mom=0.9, decouple_wd=False)
OURS = {"sgd": sgd, "adamw": adamw}
OTHERS = {
    "fastai's SGD": FASTAIS_SGD,
    "fastai's Adam": fastai_optimizers.Adam,
    "torch's AdamW": partial(OptimWrapper, opt=torch.optim.AdamW),
}
every_optimizer = pytest.mark.parametrize("opt_func", [*OURS.values(), *OTHERS.values()], ids=[*OURS, *OTHERS])


def split(net):
    return [list(net[:2].parameters()), list(net[2:].parameters())]


def make_learner(opt_func=sgd, *, cbs=None, metrics=None, loader=DataLoader, **options):
    """A new Learner, always with the same weights, data and order of the data."""
    random.seed(0)
    torch.manual_seed(0)
    inputs = torch.randn(SIZE + 32, 5)
    data = TensorDataset(inputs, (inputs[:, 0] + inputs[:, 1] > 0).long())
    train, valid = torch.utils.data.Subset(data, range(SIZE)), torch.utils.data.Subset(data, range(SIZE, SIZE + 32))
    dls = DataLoaders(loader(train, batch_size=BATCH, shuffle=True), loader(valid, batch_size=BATCH))
    net = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    learn = Learner(dls, net, nn.CrossEntropyLoss(), opt_func=opt_func, cbs=cbs, metrics=metrics, **options)
    learn.remove_cb(ProgressCallback)
    learn.logger = lambda *_: None
    return learn


def weights(learn):
    return [value.clone() for value in learn.model.state_dict().values()]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def groups_of(net, weight_decay):
    """The parameter groups of a plain loop: fastai exempts biases and normalisation."""
    return [
        {"params": [net[0].weight, net[3].weight], "weight_decay": weight_decay},
        {"params": [net[0].bias, net[1].weight, net[1].bias, net[3].bias], "weight_decay": 0.0},
    ]


PLAIN = {
    sgd: lambda net: clrfast.SGD(groups_of(net, 0.1), momentum=0.9),
    adamw: lambda net: clrfast.AdamW(groups_of(net, 0.1), betas=(0.9, 0.99), eps=1e-5),
}


def plain_loop(opt_func, schedule, *, clip=None):
    """Train by hand on the Learner's data, and return weights and losses."""
    learn = make_learner()
    net, losses = learn.model.train(), []
    optimizer = PLAIN[opt_func](net)
    optimizer.set_schedule(schedule)
    for _ in range(EPOCHS):
        for x, y in learn.dls.train:
            loss = learn.loss_func(net(x), y)
            loss.backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(net.parameters(), clip)
            optimizer.step(loss=loss)
            optimizer.zero_grad()
            losses.append(loss.item())
    return weights(learn), losses


class SeedEpochs(Callback):
    """Gives each epoch its own order of the data, as a run that resumes needs it."""

    order = 80

    def before_epoch(self):
        self.dls.train.rng = random.Random(self.epoch)


class StopAfter(Callback):
    order = 90

    def __init__(self, epoch):
        self.last = epoch

    def after_epoch(self):
        if self.epoch == self.last:
            raise CancelFitException


# ------------------------------------------------------------------------------------------------------- training


@pytest.mark.shows("trains")
@pytest.mark.parametrize("opt_func", OURS.values(), ids=OURS)
def test_a_fit_equals_a_plain_loop(opt_func):
    learn = make_learner(opt_func, wd=0.1)
    learn.fit(EPOCHS, cbs=(cycle := OneCycle(0.2)))
    expected, losses = plain_loop(opt_func, clrfast.one_cycle(0.2, STEPS))
    assert same(weights(learn), expected)
    assert learn.opt.control.losses.tolist() == losses
    assert cycle.suggestion is None
    assert cycle.curve is None
    assert cycle.schedule == clrfast.one_cycle(0.2, STEPS)


@pytest.mark.shows("trains")
@pytest.mark.parametrize("opt_func", OTHERS.values(), ids=OTHERS)
def test_a_fit_of_any_other_optimizer_equals_one_with_its_values_set_by_hand(opt_func):
    learn = make_learner(opt_func, wd=0.1)
    learn.fit(EPOCHS, cbs=OneCycle(0.2))
    table = clrfast.one_cycle(0.2, STEPS).table()[:, 0].tolist()

    class ByHand(Callback):
        order, run_valid = 60, False

        def before_batch(self):
            lr, mom, _ = table[self.train_iter]
            self.opt.set_hypers(lr=lr, mom=mom)

    expected = make_learner(opt_func, wd=0.1)
    expected.fit(EPOCHS, cbs=ByHand())
    assert same(weights(learn), weights(expected))
    assert learn.opt.hypers[0]["schedule_step"] == STEPS
    assert learn.recorder.hps["lr"] == [lr for lr, _, _ in table]


@pytest.mark.parametrize(("ours", "theirs"), [(sgd, FASTAIS_SGD), (adamw, fastai_optimizers.Adam)])
@pytest.mark.parametrize("wd_bn_bias", [False, True])
def test_the_optimizers_have_fastais_numbers(ours, theirs, wd_bn_bias):
    learners = [make_learner(opt, wd=0.5, wd_bn_bias=wd_bn_bias, splitter=split) for opt in (ours, theirs)]
    for learn in learners:
        learn.fit_one_cycle(EPOCHS, slice(0.01, 0.1))
    for a, b in zip(*map(weights, learners), strict=True):
        torch.testing.assert_close(a, b, rtol=2e-4, atol=2e-5)
    for name in learners[0].recorder.hps:
        np.testing.assert_allclose(*[learn.recorder.hps[name] for learn in learners])
    ours_hypers, theirs_hypers = (learn.opt.hypers for learn in learners)
    for own, fastais in zip(ours_hypers, theirs_hypers, strict=True):
        assert {name: own[name] for name in fastais} == pytest.approx(fastais)


def test_weight_decay_of_the_schedule_spares_biases_and_normalisation():
    policy = partial(clrfast.one_cycle, weight_decay=0.3)
    learn = make_learner(adamw)
    learn.fit(1, cbs=OneCycle(0.1, policy=policy))
    assert [group["weight_decay"] for group in learn.opt.opt.param_groups] == pytest.approx([0.3, 0.0])
    assert learn.opt.hypers[0]["wd"] == pytest.approx(0.3)


@every_optimizer
def test_layer_groups_keep_the_ratios_of_their_rates(opt_func):
    learn = make_learner(opt_func, splitter=split)
    rates, momenta = [], []

    class Watch(Callback):
        order, run_valid = 70, False

        def before_batch(self):
            rates.append([hyper["lr"] for hyper in self.opt.hypers])
            momenta.append([hyper["mom"] for hyper in self.opt.hypers])

    learn.fit(EPOCHS, lr=slice(0.001, 0.01), cbs=[OneCycle(0.2), Watch()])
    expected = clrfast.one_cycle(0.2, STEPS).lr(np.arange(STEPS))
    np.testing.assert_allclose(np.array(rates), expected[:, None] * [0.1, 1.0], rtol=1e-6)
    np.testing.assert_allclose(np.array(momenta).T, [clrfast.one_cycle(0.2, STEPS).table()[:, 0, 1]] * 2, rtol=1e-6)


def test_a_learners_slice_of_rates_reaches_the_optimizer():
    learn = make_learner(splitter=split, lr=slice(0.001, 0.01))
    learn.create_opt()
    assert [hyper["lr"] for hyper in learn.opt.hypers] == pytest.approx([0.001, 0.01])


@pytest.mark.parametrize("opt_func", [sgd, fastai_optimizers.Adam])
def test_frozen_layers_keep_still_and_then_train(opt_func):
    learn = make_learner(opt_func, splitter=split)
    learn.freeze()
    before = learn.model[0].weight.clone(), learn.model[3].weight.clone()
    learn.fit(1, cbs=OneCycle(0.1))
    assert torch.equal(learn.model[0].weight, before[0])
    assert not torch.equal(learn.model[3].weight, before[1])
    learn.unfreeze()
    learn.fit(2, lr=slice(1e-3, 1e-2), cbs=(cycle := OneCycle(0.1)))
    assert not torch.equal(learn.model[0].weight, before[0])
    assert cycle.schedule.total_steps == 12


@every_optimizer
def test_the_learners_moms_are_those_of_the_cycle(opt_func):
    learn = make_learner(opt_func, moms=(0.9, 0.7, 0.9))
    learn.fit(1, cbs=OneCycle(0.1))
    assert learn.recorder.hps["mom"] == pytest.approx(clrfast.one_cycle(0.1, 6, momentum=(0.9, 0.7)).table()[:, 0, 1])


def test_a_schedule_without_momentum_drives_an_optimizer_without_it():
    learn = make_learner(partial(OptimWrapper, opt=torch.optim.Adagrad))
    learn.fit(1, cbs=OneCycle(0.1))
    assert learn.recorder.hps["lr"] == pytest.approx(clrfast.one_cycle(0.1, 6).table()[:, 0, 0])


def test_an_optimizer_in_fastais_own_wrapper_follows_on_its_device():
    learn = make_learner(partial(OptimWrapper, opt=clrfast.SGD, momentum=0.9))
    learn.fit(1, cbs=OneCycle(0.1))
    assert int(learn.opt.opt.control.step) == 6
    assert learn.opt.opt.control.losses.isfinite().all()


# ---------------------------------------------------------------------------------------------------------- search


@pytest.mark.shows("finds the plain loop's rate")
@pytest.mark.parametrize("opt_func", OURS.values(), ids=OURS)
def test_the_search_equals_that_of_a_plain_range_test(opt_func):
    learn, other = make_learner(opt_func, wd=0.1), make_learner()
    expected = clrfast.range_test(
        other.model, other.loss_func, other.dls.train, optimizer=PLAIN[opt_func](other.model), **SHORT
    )
    curve = range_test(learn, **SHORT)
    assert curve.loss.tolist() == expected.loss.tolist()
    assert curve.lr.tolist() == expected.lr.tolist()
    assert curve.suggest() == expected.suggest() == find_lr(make_learner(opt_func, wd=0.1), **SHORT)


def test_the_search_with_trials_equals_that_of_a_plain_range_test():
    learn, other = make_learner(wd=0.1), make_learner()
    expected = clrfast.range_test(other.model, other.loss_func, other.dls.train, optimizer=PLAIN[sgd](other.model))
    assert find_lr(learn) == expected.suggest()


@pytest.mark.parametrize(("own", "equal"), [(FASTAIS_SGD, sgd), (fastai_optimizers.Adam, adamw)])
def test_fastais_optimizers_find_what_those_with_the_same_numbers_find(own, equal):
    curve, expected = (range_test(make_learner(opt_func, wd=0.1)) for opt_func in (own, equal))
    below = expected.lr < 0.5
    np.testing.assert_allclose(curve.loss[below], expected.loss[below], rtol=1e-3)
    assert curve.suggest().max_lr == pytest.approx(expected.suggest().max_lr, rel=0.01)
    assert curve.prior_lr == expected.prior_lr


@pytest.mark.shows("finds the plain loop's rate")
@every_optimizer
@pytest.mark.parametrize("trained", [False, True])
def test_the_search_leaves_a_learner_as_it_was(opt_func, trained):
    learn, other = (make_learner(opt_func, splitter=split) for _ in range(2))
    for each in (learn, other):
        if trained:
            each.fit(1, 0.01)
        torch.manual_seed(1)
        random.seed(1)
    before = copy.deepcopy(learn.model.state_dict()), list(learn.cbs), learn.opt, learn.lr, set(vars(learn.dls.train))
    saved = copy.deepcopy(learn.opt.state_dict()) if trained else None
    range_test(learn, **SHORT)
    assert same(learn.model.state_dict().values(), before[0].values())
    assert (list(learn.cbs), learn.opt, learn.lr, set(vars(learn.dls.train))) == before[1:]
    if trained:
        assert str(learn.opt.state_dict()) == str(saved)
    for each in (learn, other):
        each.fit(2, 0.02)
    assert same(weights(learn), weights(other))
    assert learn.recorder.losses == other.recorder.losses


@every_optimizer
def test_a_fit_searches_first_and_then_trains_as_with_the_found_rate(opt_func):
    learn = make_learner(opt_func)
    learn.fit(EPOCHS, cbs=(cycle := OneCycle(**SHORT)))
    assert cycle.suggestion == range_test(make_learner(opt_func), **SHORT).suggest()
    assert cycle.curve.suggest() == cycle.suggestion
    given = make_learner(opt_func)
    given.fit(EPOCHS, cbs=OneCycle(cycle.suggestion.max_lr))
    assert same(weights(learn), weights(given))


def test_keywords_override_what_the_learner_has():
    learn = make_learner()
    optimizer = torch.optim.SGD(learn.model.parameters(), lr=0.1)
    curve = range_test(learn, optimizer=optimizer, loss_fn=nn.CrossEntropyLoss(label_smoothing=0.5), **SHORT)
    other = make_learner()
    expected = clrfast.range_test(
        other.model,
        nn.CrossEntropyLoss(label_smoothing=0.5),
        other.dls.train,
        optimizer=torch.optim.SGD(other.model.parameters(), lr=0.1),
        **SHORT,
    )
    assert curve.loss.tolist() == expected.loss.tolist()


def test_torchs_loaders_serve_as_well():
    learn = make_learner(loader=torch.utils.data.DataLoader)
    assert find_lr(learn, **SHORT).max_lr > 0
    learn.fit(1, cbs=[OneCycle(0.1), GradientAccumulation(32)])
    assert int(learn.opt.control.step) == 2


# ---------------------------------------------------------------------------------------------------------- resume


@pytest.mark.shows("resumes bit for bit")
@every_optimizer
def test_a_run_resumes_from_fastais_file(opt_func, tmp_path):
    whole = make_learner(opt_func, cbs=SeedEpochs(), splitter=split, wd=0.1)
    whole.fit(EPOCHS, lr=slice(0.01, 0.1), cbs=OneCycle(**SHORT))
    first = make_learner(opt_func, cbs=SeedEpochs(), splitter=split, wd=0.1, path=tmp_path)
    first.fit(EPOCHS, lr=slice(0.01, 0.1), cbs=[OneCycle(**SHORT), StopAfter(0)])
    first.save("run")
    second = make_learner(opt_func, cbs=SeedEpochs(), splitter=split, wd=0.1, path=tmp_path)
    second.load("run")
    second.fit(EPOCHS, lr=slice(0.01, 0.1), cbs=(cycle := OneCycle(**SHORT)), start_epoch=1)
    assert cycle.suggestion is None
    assert same(weights(second), weights(whole))
    assert second.opt.hypers == whole.opt.hypers
    assert second.opt.hypers[0]["schedule_step"] == STEPS
    if opt_func in OURS.values():
        assert second.opt.control.losses.tolist() == whole.opt.control.losses.tolist()


@every_optimizer
def test_a_run_resumes_from_weights_alone_at_the_step_of_its_epoch(opt_func, tmp_path):
    learn = make_learner(opt_func)
    learn.fit(EPOCHS, cbs=OneCycle(0.1), start_epoch=1)
    assert learn.recorder.hps["lr"] == pytest.approx(clrfast.one_cycle(0.1, STEPS).table()[6:, 0, 0])


@every_optimizer
def test_a_second_fit_is_a_new_run(opt_func):
    learn = make_learner(opt_func)
    learn.fit(1, cbs=OneCycle(0.1))
    learn.fit(2, cbs=OneCycle(0.2))
    assert learn.recorder.hps["lr"] == pytest.approx(clrfast.one_cycle(0.2, 12).table()[:, 0, 0])


@every_optimizer
def test_a_saved_schedule_of_another_length_is_refused(opt_func):
    learn = make_learner(opt_func)
    learn.fit(2, cbs=[OneCycle(0.1), StopAfter(0)])
    with pytest.raises(ValueError, match="n_epoch: the fit has 18 updates, and the saved schedule 12"):
        learn.fit(3, cbs=OneCycle(), start_epoch=1)


@pytest.mark.parametrize("n_acc", [1, 2 * SIZE])  # the second makes no update in an epoch
def test_a_start_epoch_without_a_saved_schedule_is_refused(n_acc):
    with pytest.raises(ValueError, match=r"start_epoch: got 1, .* no saved schedule"):
        make_learner().fit(3, cbs=[OneCycle(), GradientAccumulation(n_acc)], start_epoch=1)


# ------------------------------------------------------------------------------- precision, accumulation, clipping


@pytest.fixture
def mixed_precision_on_cpu(monkeypatch):
    """fastai writes "cuda" into its mixed precision."""
    monkeypatch.setattr(fp16, "autocast", lambda device, dtype: torch.autocast("cpu", dtype))
    monkeypatch.setattr(fp16, "GradScaler", lambda device, **options: torch.amp.GradScaler("cpu", **options))


@pytest.mark.shows("mixed precision")
@pytest.mark.usefixtures("mixed_precision_on_cpu")
def test_a_fit_and_its_search_are_in_bfloat16():
    learn = make_learner().to_bf16()
    seen = []
    learn.model[0].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    curve = range_test(learn, **SHORT)
    other = make_learner()
    loss_fn = lambda outputs, targets: other.loss_func(outputs.float(), targets)  # noqa: E731
    optimizer = clrfast.SGD(groups_of(other.model, 0.0), momentum=0.9)
    expected = clrfast.range_test(
        other.model, loss_fn, other.dls.train, optimizer=optimizer, autocast=torch.bfloat16, **SHORT
    )
    assert curve.loss.tolist() == expected.loss.tolist()
    learn.fit(1, cbs=OneCycle(0.1))
    assert set(seen[:6]) == {torch.bfloat16}
    assert learn.opt.control.losses.isfinite().all()
    assert same(weights(learn), bfloat16_loop())


def bfloat16_loop():
    learn = make_learner()
    optimizer = clrfast.SGD(groups_of(learn.model, 0.0), momentum=0.9, schedule=clrfast.one_cycle(0.1, 6))
    for x, y in learn.dls.train:
        with torch.autocast("cpu", torch.bfloat16):
            loss = learn.loss_func(learn.model(x).float(), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return weights(learn)


@pytest.mark.shows("mixed precision")
@pytest.mark.usefixtures("mixed_precision_on_cpu")
@every_optimizer
def test_a_step_that_the_scaler_skips_does_not_advance_the_schedule(opt_func):
    class Overflow(Callback):
        order, run_valid = 5, False

        def before_step(self):
            if self.train_iter == 2:
                self.model[0].weight.grad.fill_(float("inf"))

    learn = make_learner(opt_func).to_fp16(init_scale=4.0)
    learn.fit(1, cbs=[OneCycle(0.1), Overflow()])
    assert learn.opt.hypers[0]["schedule_step"] == 5
    assert learn.recorder.hps["lr"] == pytest.approx(clrfast.one_cycle(0.1, 6).table()[:5, 0, 0])


@pytest.mark.usefixtures("mixed_precision_on_cpu")
def test_a_search_scales_its_losses_in_float16():
    learn, other = make_learner().to_fp16(init_scale=4.0), make_learner()
    curve = range_test(learn, **SHORT)
    expected = clrfast.range_test(
        other.model,
        lambda outputs, targets: other.loss_func(outputs.float(), targets),
        other.dls.train,
        optimizer=clrfast.SGD(groups_of(other.model, 0.0), momentum=0.9),
        autocast=torch.float16,
        scaler=torch.amp.GradScaler("cpu", init_scale=4.0),
        **SHORT,
    )
    assert curve.loss.tolist() == expected.loss.tolist()


@pytest.mark.filterwarnings("ignore:CUDA is not available", "ignore:torch.cuda.amp.GradScaler is enabled")
@pytest.mark.skipif(torch.cuda.is_available(), reason="mixed precision then works")
def test_mixed_precision_that_fastai_cannot_use_here_is_off_in_the_search():
    assert (
        range_test(make_learner().to_fp16(), **SHORT).loss.tolist() == range_test(make_learner(), **SHORT).loss.tolist()
    )


@pytest.mark.shows("accumulation")
@pytest.mark.parametrize("n_acc", [32, 48])
def test_accumulated_batches_are_one_update(n_acc):
    """Samples are counted across epochs, and those left at the end are dropped."""
    learn = make_learner(wd=0.1)
    learn.fit(EPOCHS, cbs=[OneCycle(0.2), GradientAccumulation(n_acc)])
    expected, losses = counted_loop(n_acc)
    assert learn.opt.control.total_steps == len(losses) == int(learn.opt.control.step)
    np.testing.assert_allclose(learn.opt.control.losses, losses, rtol=1e-5)
    for a, b in zip(weights(learn), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def counted_loop(n_acc):
    """Train by hand as GradientAccumulation does."""
    learn = make_learner()
    updates, part = [], []
    for x, y in [batch for _ in range(EPOCHS) for batch in learn.dls.train]:
        part.append((x, y))
        if sum(len(y) for _, y in part) >= n_acc:
            updates.append(part)
            part = []
    optimizer = PLAIN[sgd](learn.model)
    optimizer.set_schedule(clrfast.one_cycle(0.2, len(updates)))
    recorded = []
    for batches in updates:
        losses = []
        for x, y in batches:
            loss = learn.loss_func(learn.model(x), y)
            (loss * len(y) / n_acc).backward()
            losses.append(loss.item())
        optimizer.step()
        optimizer.zero_grad()
        recorded.append(np.mean(losses))
    for x, _ in part:  # without an update, these batches still count for batch normalization
        learn.model(x)
    return weights(learn), recorded


@pytest.mark.shows("accumulation")
def test_a_search_accumulates_as_many_batches():
    learn, other = make_learner(wd=0.1, cbs=GradientAccumulation(40)), make_learner()
    expected = clrfast.range_test(
        other.model, other.loss_func, other.dls.train, optimizer=PLAIN[sgd](other.model), accumulate=3, **SHORT
    )
    assert range_test(learn, **SHORT).loss.tolist() == expected.loss.tolist()


@pytest.mark.shows("clipping")
def test_gradients_are_clipped_in_a_fit_and_its_search():
    learn = make_learner(wd=0.1, cbs=GradientClip(0.1))
    learn.fit(EPOCHS, cbs=OneCycle(0.2))
    expected, _ = plain_loop(sgd, clrfast.one_cycle(0.2, STEPS), clip=0.1)
    assert same(weights(learn), expected)
    learn, other = make_learner(wd=0.1, cbs=GradientClip(0.1)), make_learner()
    plain = clrfast.range_test(
        other.model, other.loss_func, other.dls.train, optimizer=PLAIN[sgd](other.model), clip_norm=0.1, **SHORT
    )
    assert range_test(learn, **SHORT).loss.tolist() == plain.loss.tolist()


def test_a_search_refuses_to_clip_by_another_norm():
    with pytest.raises(ValueError, match=r"norm_type: got GradientClip.norm_type=1"):
        range_test(make_learner(cbs=GradientClip(norm_type=1)))


# ---------------------------------------------------------------------------------------- beside fastai's own means


def test_a_cancelled_step_does_not_count():
    class Cancel(Callback):
        order, run_valid = 20, False

        def before_step(self):
            if self.train_iter % 2:
                raise CancelStepException

    learn = make_learner(fastai_optimizers.Adam)
    learn.fit(1, cbs=[OneCycle(0.1), Cancel()])
    assert learn.opt.hypers[0]["schedule_step"] == 3


@pytest.mark.parametrize("fit", [lambda learn: learn.fit_one_cycle(1), lambda learn: learn.fine_tune(1)])
def test_two_schedulers_in_one_fit_are_refused(fit):
    learn = make_learner(splitter=split, cbs=OneCycle(0.1))
    with pytest.raises(ValueError, match=r"cbs: OneCycle and another scheduler .* learn.unfreeze"):
        fit(learn)


@every_optimizer
def test_a_learners_own_callback_leaves_other_calls_alone(opt_func, tmp_path):
    learn = make_learner(opt_func, cbs=OneCycle(0.1), path=tmp_path)
    assert len(learn.validate()) == 1
    assert len(learn.get_preds()[0]) == 32
    learn.lr_find(show_plot=False)
    assert learn.one_cycle.schedule is None
    learn.fit(1)
    assert learn.opt.hypers[0]["schedule_step"] == 6
    learn.validate()
    assert learn.one_cycle.schedule == clrfast.one_cycle(0.1, 6)


def test_a_fit_without_one_cycle_trains_by_fastais_values():
    learn = make_learner(adamw)
    learn.fit(1, cbs=OneCycle(0.01))
    assert learn.opt.control.losses.isfinite().all()
    learn.fit(1, 1e-3)
    assert learn.opt.schedule is None
    assert [group["lr"] for group in learn.opt.opt.param_groups] == [1e-3] * 2
    learn.fit_one_cycle(1, 1e-3)
    learn.fit(1, cbs=OneCycle(0.01))
    assert learn.opt.control.synchronize() == 6


def test_a_search_takes_the_first_output_of_a_recurrent_network():
    class Recurrent(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, inputs):
            return self.net(inputs), [inputs], [inputs]

    learn = make_learner()
    learn.model = Recurrent(learn.model)
    learn.add_cb(RNNCallback())
    np.testing.assert_array_equal(range_test(learn, **SHORT).loss, range_test(make_learner(), **SHORT).loss)


def test_options_replace_those_of_the_learners_callbacks():
    learn = make_learner(cbs=[GradientClip(0.1), GradientAccumulation(2 * BATCH)])
    options = clrfast.StepOptions(clip_norm=0.5)
    plain = range_test(make_learner(), clip_norm=0.5, **SHORT)
    np.testing.assert_array_equal(range_test(learn, options=options, **SHORT).loss, plain.loss)


def test_an_unknown_keyword_is_refused_before_the_fit():
    with pytest.raises(TypeError, match="max_lrs: OneCycle has no such argument"):
        OneCycle(0.1, max_lrs=1.0)


def test_moms_that_no_cycle_has_are_refused():
    with pytest.raises(ValueError, match="moms: got"):
        make_learner(moms=(0.95, 0.85, 0.9)).fit(1, cbs=OneCycle(0.1))


def test_an_optimizer_whose_state_a_search_cannot_restore_is_refused():
    learn = make_learner(fastai_optimizers.ranger)
    with pytest.raises(ValueError, match="opt_func: got a Lookahead"):
        range_test(learn)
    learn.fit(1, cbs=OneCycle(0.01))
    assert learn.opt.hypers[0]["schedule_step"] == 6


def test_losses_and_the_curve_reach_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from fastai.callback.tensorboard import TensorBoardCallback
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    learn = make_learner(cbs=TensorBoardCallback(tmp_path, trace_model=False, log_preds=False))
    learn.fit(2, cbs=OneCycle(**SHORT))
    written = EventAccumulator(str(tmp_path)).Reload()
    losses = written.Scalars("clrfast/loss")
    assert [event.step for event in losses] == list(range(12))
    assert [event.value for event in losses] == learn.opt.control.losses.tolist()
    assert {"clrfast/lr", "lr_range_test/loss", "lr_range_test/suggested_lr"} <= set(written.Tags()["scalars"])


def test_nothing_is_logged_without_log():
    class Writer:
        def add_scalar(self, *_):
            raise AssertionError

    learn = make_learner()
    learn.tensor_board = type("TensorBoard", (), {"writer": Writer()})()
    learn.fit(1, cbs=OneCycle(0.1, log=False))
