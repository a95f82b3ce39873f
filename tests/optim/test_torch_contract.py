"""The optimizer behaves like torch's own: keywords, defaults, hooks, scalers, compilation, other processes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import clrfast
from tests.helpers.optimizers import RULES, all_state, assert_same, every_rule
from tests.helpers.scheduled_runs import SCHEDULE, assert_equal, network, train

pytestmark = pytest.mark.filterwarnings("ignore:.*(process group|torch.jit|ShardedTensor|TypedStorage).*")


@every_rule
def test_the_repr_of_an_optimizer_is_short_for_any_schedule(rule):
    schedule = clrfast.Schedule(lr=lambda step: 0.1 + 0 * step, total_steps=100_000)
    text = repr(rule.ours([nn.Parameter(torch.ones(1))], schedule=schedule))
    assert "schedule_step: 0" in text
    assert len(text) < 600


KEYWORDS = [
    *({name: value} for name in ("foreach", "fused") for value in (None, False, True)),
    {"differentiable": False},
    {"capturable": True},
]


@pytest.mark.parametrize(
    ("rule", "more"),
    [
        pytest.param(rule, more, id=f"{rule.name}-{more}")
        for rule in RULES.values()
        for more in (*KEYWORDS, rule.make_theirs([torch.zeros(1)], lr=0.05).defaults)
    ],
)
def test_torchs_keywords_are_accepted(rule, more):
    model, other = network(), network()
    ours = rule.make(model.parameters(), **{"lr": 0.05, **more})
    stock = rule.make_theirs(other.parameters(), lr=0.05)
    for own, wanted in zip(train(model, ours, 0, 5), train(other, stock, 0, 5), strict=True):
        torch.testing.assert_close(own, wanted, rtol=1e-5, atol=1e-6)


@every_rule
def test_differentiable_is_refused_with_a_reason(rule):
    with pytest.raises(ValueError, match=rf"differentiable: got True, .* use torch\.optim\.{rule.name}"):
        rule.ours([nn.Parameter(torch.ones(1))], lr=0.1, differentiable=True)


@pytest.mark.parametrize(
    ("rule", "name"),
    [
        (rule, name)
        for rule in RULES.values()
        for name in ("lr", "momentum", "eps", "weight_decay")
        if name in rule.ours([torch.ones(1)]).defaults
    ],
)
@pytest.mark.parametrize("value", [float("inf"), float("nan"), -1.0, torch.tensor(float("nan"))])
def test_options_that_are_not_finite_numbers_are_refused(rule, name, value):
    with pytest.raises(ValueError, match=rf"{name}: got .*; give a finite number >= 0"):
        rule.ours([nn.Parameter(torch.ones(1))], **{"lr": 0.1, name: value})


@every_rule
@pytest.mark.parametrize("options", [{"clip_norm": 1.0}, {"schedule": SCHEDULE, "backend": "torch"}])
def test_the_defaults_make_the_same_optimizer(rule, options):
    models = network(), network()
    first = rule.make(models[0].parameters(), weight_decay=1e-3, master_weights=True, **options)
    second = type(first)(models[1].parameters(), **first.defaults)
    assert second.defaults == first.defaults
    assert second.backend == first.backend
    assert second.clip_norm == first.clip_norm
    assert_equal(train(models[1], second, 0, 5), train(models[0], first, 0, 5))
    first.add_param_group({"params": [nn.Parameter(torch.ones(2))]})
    assert first.param_groups[0].keys() == first.param_groups[1].keys()


@every_rule
def test_the_groups_have_the_entries_of_torchs(rule):
    ours, theirs = ({**kind([torch.ones(1)], lr=0.1).param_groups[0]} for kind in (rule.ours, rule.theirs))
    assert ours.keys() >= theirs.keys()
    assert ours.keys() - theirs.keys() <= {"capturable", "decoupled_weight_decay"}  # newer torch has the second
    assert {name: ours[name] for name in theirs if name != "params"} == {n: theirs[n] for n in theirs if n != "params"}


class Wrapper:
    """A wrapper that calls ``step`` without a loss, as frameworks do."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def step(self, closure=None):
        self.optimizer.step()


def test_a_wrapper_can_record_the_loss():
    params = [nn.Parameter(torch.ones(2))]
    optimizer = clrfast.SGD(params, schedule=SCHEDULE)
    wrapper = Wrapper(optimizer)
    for losses in ([3.0], [2.0, 4.0], [], [torch.tensor([5.0], requires_grad=True)]):
        for loss in losses:
            optimizer.control.record(loss)
        params[0].grad = torch.zeros(2)
        wrapper.step()
    torch.testing.assert_close(
        optimizer.control.losses[:5], torch.tensor([3.0, 3.0, float("nan"), 5.0, float("nan")]), equal_nan=True
    )
    with pytest.raises(ValueError, match="loss: got shape"):
        optimizer.control.record(torch.ones(2))


def test_a_recorded_loss_precedes_that_of_a_closure():
    """A framework's closure may return the loss divided by the number of accumulated batches."""
    params = [nn.Parameter(torch.ones(2))]
    optimizer = clrfast.SGD(params, schedule=SCHEDULE)
    params[0].grad = torch.zeros(2)
    for given in ({}, {"loss": 5.0}):
        optimizer.control.record(3.0)
        assert optimizer.step(lambda: 1.5, **given) == 1.5
    optimizer.step(lambda: 1.5)
    assert optimizer.control.losses[:3].tolist() == [3.0, 5.0, 1.5]


def test_the_loss_is_recorded_in_float32_as_it_was():
    params = [nn.Parameter(torch.ones(2))]
    optimizer = clrfast.SGD(params, schedule=SCHEDULE)
    loss = torch.tensor(8.0)
    optimizer.control.record(loss)
    loss /= 4  # gradient accumulation does this
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]})
    params[0].grad = torch.zeros(2)
    optimizer.step()
    for _ in range(512):
        optimizer.control.record(torch.tensor(30_000.0, dtype=torch.float16))
    optimizer.step()
    assert optimizer.control.losses[:2].tolist() == [8.0, 30_000.0]


def test_hooks_see_the_arguments_of_step_and_no_others():
    seen = []
    optimizer = clrfast.SGD([nn.Parameter(torch.ones(2))], lr=0.1)
    optimizer.register_step_pre_hook(lambda _, args, kwargs: seen.append((len(args), sorted(kwargs))))
    optimizer.step()
    optimizer.step(closure=lambda: 1.0)
    optimizer.step(loss=2.0)
    assert seen == [(1, []), (1, ["closure"]), (1, ["loss"])]


@every_rule
@pytest.mark.parametrize("fused", [None, False, True])
def test_the_same_party_unscales_as_with_torchs_optimizer(rule, fused):
    """Wrappers notice a skipped step because GradScaler does not call ``step``, except with ``fused=True``."""
    ours, theirs = (kind([nn.Parameter(torch.ones(2))], lr=0.1, fused=fused) for kind in (rule.ours, rule.theirs))
    seen = {}
    for optimizer in (ours, theirs):
        scaler, calls = torch.amp.GradScaler("cpu", init_scale=4.0), []
        optimizer.register_step_post_hook(lambda *_, calls=calls: calls.append(1))
        for overflow in (True, False):
            (param,) = optimizer.param_groups[0]["params"]
            param.grad = torch.full((2,), float("inf") if overflow else 4.0)
            scaler.scale(torch.ones(1))  # makes the scale
            scaler.step(optimizer)
            scaler.update()
        seen[optimizer] = len(calls), param.tolist()
    assert seen[ours] == (seen[theirs][0], pytest.approx(seen[theirs][1], rel=1e-6))
    assert seen[ours][0] == (2 if fused else 1)


def step_in_another_process(optimizer, queue):
    for param in optimizer.param_groups[0]["params"]:
        param.grad = torch.zeros_like(param)
    optimizer.step(loss=2.0)
    queue.put(optimizer.control.losses.tolist())


@every_rule
def test_an_optimizer_sent_to_another_process_continues_in_both(rule):
    """Sending moves the tensors into shared memory in place, so both processes see one run."""
    params = [nn.Parameter(torch.ones(size)) for size in (5, 300)]
    optimizer = rule.make(params, schedule=clrfast.one_cycle(0.1, 6))
    expected = [nn.Parameter(param.detach().clone()) for param in params]
    alone = rule.make(expected, schedule=clrfast.one_cycle(0.1, 6))
    for gradient in (1.0, 0.0, 1.0):
        for param in expected:
            param.grad = torch.full_like(param, gradient)
        alone.step()

    def give_gradients():
        for param in params:
            param.grad = torch.ones_like(param)

    give_gradients()
    optimizer.step(loss=1.0)
    context = torch.multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    process = context.Process(target=step_in_another_process, args=(optimizer, queue))
    process.start()
    seen = queue.get()
    process.join()
    assert process.exitcode == 0
    assert seen[:2] == [1.0, 2.0]
    give_gradients()
    optimizer.step(loss=3.0)
    assert optimizer.control.synchronize() == 3
    assert optimizer.control.losses[:3].tolist() == [1.0, 2.0, 3.0]
    assert optimizer.param_groups[0]["lr"] == pytest.approx(optimizer.schedule.table()[3, 0, 0])
    assert_same(params, expected)
    assert_same(all_state(optimizer), all_state(alone))
