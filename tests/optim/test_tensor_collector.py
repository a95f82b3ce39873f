"""Native backends read every tensor where it is now, whatever has changed since the last step."""

from __future__ import annotations

import copy
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_map_only

import clrfast
from clrfast import _native, _torch_compat
from tests.helpers.optimizers import (
    LIMITS,
    NATIVE,
    RULES,
    all_state,
    assert_same,
    every_rule,
    give_grads,
    make_params,
    past_the_end,
    run_steps,
)

pytestmark = pytest.mark.parametrize("backend", NATIVE)

CHANGES = {
    "new gradient tensor": lambda o, p: None,
    "parameter data swapped": lambda o, p: setattr(p[0], "data", p[0].data.clone()),
    "parameter moved to another layout": lambda o, p: setattr(p[0], "data", p[0].data.t().contiguous().t()),
    "tensor of the state replaced": lambda o, p: o.state[p[0]].update({first_state(o): torch.ones_like(p[0])}),
    "tensor of the state dropped": lambda o, p: o.state[p[0]].pop(first_state(o)),
    "last tensor of the state dropped": lambda o, p: o.state[p[0]].pop(list(o.state[p[0]])[-1]),
    "state of one parameter replaced": lambda o, p: o.state.__setitem__(p[0], {}),
    "state cleared": lambda o, p: o.state.clear(),
    "memory of the state swapped": lambda o, p: setattr(
        o.state[p[0]][first_state(o)], "data", torch.ones_like(o.state[p[0]][first_state(o)])
    ),
    "counter dropped": lambda o, p: o.counters.by_tensor.clear(),
    "parameter viewed the other way": lambda o, p: view_otherwise(p[2]),
    "parameter made smaller in place": lambda o, p: make_smaller(o, p[0]),
    "gradient taken away": lambda o, p: setattr(p[1], "grad", None),
    "parameter list shortened": lambda o, p: o.param_groups[0]["params"].pop(),
    "option changed": lambda o, p: o.param_groups[0].update(lr=0.5, weight_decay=0.1, maximize=True),
    "state loaded": lambda o, p: o.load_state_dict(copy.deepcopy(o.state_dict())),
}
CHANGES_OF = {
    "SGD": {
        "counter dropped while momentum is off": lambda o, p: drop_counters_without_momentum(o),
        "momentum switched off": lambda o, p: o.param_groups[0].update(momentum=0.0),
        "Nesterov switched on": lambda o, p: o.param_groups[0].update(nesterov=True, dampening=0.0),
    },
    "Adam": {
        "step written in place": lambda o, p: o.state[p[0]]["step"].fill_(7.0),
        "step replaced": lambda o, p: o.state[p[0]].update(step=torch.tensor(7.0)),
        "step of another type": lambda o, p: o.state[p[0]].update(step=torch.tensor([7], dtype=torch.int64)),
        "step a number": lambda o, p: o.state[p[0]].update(step=7),
        "step dropped": lambda o, p: o.state[p[0]].pop("step"),
        "memory of the step swapped": lambda o, p: setattr(o.state[p[0]]["step"], "data", torch.tensor(7.0)),
        "AMSGrad switched off": lambda o, p: o.param_groups[0].update(amsgrad=False),
        "betas changed": lambda o, p: o.param_groups[0].update(betas=(0.5, 0.9)),
        "eps changed": lambda o, p: o.param_groups[0].update(eps=0.5),
        "decay coupled": lambda o, p: o.param_groups[0].update(decoupled_weight_decay=False),
    },
}


def first_state(optimizer):
    return optimizer.rule.states[0]


def drop_counters_without_momentum(optimizer):
    """Such a state comes from torch's SGD, loaded before momentum is switched on."""
    optimizer.counters.by_tensor.clear()
    optimizer.param_groups[0]["momentum"] = 0.0
    optimizer.step()
    optimizer.param_groups[0]["momentum"] = 0.9


def view_otherwise(param):
    param.data, param.grad = param.data.t(), param.grad.t().clone().t()


def make_smaller(optimizer, param):
    del optimizer.state[param]
    param.grad, grad = None, param.grad
    param.data = param.data[:2]
    param.grad = grad[:2].clone()


def swap_in_group(optimizer, params):
    optimizer.param_groups[0]["params"].reverse()


def swap_states(optimizer, params):
    """Swap the states of two parameters; the order of the states stays."""
    first, second = (optimizer.state.pop(param) for param in params)
    optimizer.state[params[1]] = first
    optimizer.state[params[0]] = second


def counter_of_first(optimizer, params):
    return optimizer.counters.counter_of(optimizer.state[params[0]])


def forget_the_updates(optimizer, params):
    counter = counter_of_first(optimizer, params)
    counter.data = torch.zeros_like(counter)  # other memory, the same tensor


def counter_of_another_type(optimizer, params):
    counter = counter_of_first(optimizer, params)
    (identifying,) = (key for key, value in optimizer.counters.by_tensor.items() if value is counter)
    optimizer.counters.by_tensor[identifying] = torch.zeros(2, dtype=torch.float64)


REARRANGED = {
    "SGD": [swap_in_group, swap_states, forget_the_updates, counter_of_another_type],
    "Adam": [swap_in_group, swap_states, forget_the_updates],
}


def alike(backend, make, steps, shapes, before):
    """Require equal parameters and states of the reference and ``backend``."""
    (left, reference), (right, native) = (
        run_steps(lambda p, b=b: make(p, backend=b), steps, shapes, before_step=before) for b in ("torch", backend)
    )
    assert_same(left, right)
    assert_same(all_state(reference), all_state(native))


@pytest.mark.parametrize(
    ("rule", "change"),
    [(rule, change) for rule in RULES.values() for change in REARRANGED["SGD" if rule.name == "SGD" else "Adam"]],
)
def test_state_belongs_to_its_parameter_wherever_its_memory_moves(rule, backend, change):
    def before(step, optimizer, params):
        if step == 2:
            change(optimizer, params)

    alike(backend, rule.make, 4, [(4, 3), (4, 3)], before)


@pytest.mark.parametrize(
    ("rule", "name"),
    [
        (rule, name)
        for rule in RULES.values()
        for name in (*CHANGES, *CHANGES_OF["SGD" if rule.name == "SGD" else "Adam"])
    ],
)
def test_a_change_made_between_steps_is_noticed(rule, backend, name):
    """Nothing that was cached in an earlier step is used after it has changed."""
    change = {**CHANGES, **CHANGES_OF["SGD"], **CHANGES_OF["Adam"]}[name]

    def before(step, optimizer, params):
        if step == 2:
            change(optimizer, params)

    alike(backend, rule.make, 4, [(4, 3), (5,), (2, 2)], before)


@every_rule
def test_a_gradient_that_needs_the_reference_is_applied_once(rule, backend):
    """C++ must not apply the gradient of an earlier step to a parameter that the reference updates."""

    def before(step, optimizer, params):
        if step == 0:
            params[0].grad = params[0].grad.t().contiguous().t()
        else:
            params[0].grad = None

    results = [
        run_steps(lambda p, b=b: rule.make(p, backend=b), 4, [(4, 3), (5,)], before_step=before)[0]
        for b in ("torch", backend)
    ]
    assert_same(*results)


@every_rule
def test_rearranged_groups_are_updated_with_their_own_options(rule, backend):
    def before(step, optimizer, params):
        first, second = optimizer.param_groups[:2] if step < 3 else (None, None)
        if step == 1:
            second["params"].insert(0, first["params"].pop())
        if step == 2:
            first["params"].extend(second["params"])
            del optimizer.param_groups[1]

    def make(params, backend):
        groups = [{"params": params[:2]}, {"params": params[2:], "lr": 0.001}]
        return rule.make(groups, backend=backend)

    results = [run_steps(lambda p, b=b: make(p, b), 4, [(3,)] * 4, before_step=before)[0] for b in ("torch", backend)]
    assert_same(*results)


class Doubling(nn.Parameter):
    """A parameter whose gradient is a property in Python."""

    @property
    def grad(self):
        grad = torch.Tensor.grad.__get__(self)
        return None if grad is None else 2 * grad

    @grad.setter
    def grad(self, value):
        torch.Tensor.grad.__set__(self, value)


@every_rule
def test_the_gradient_is_read_from_the_attribute(rule, backend):
    """A group may mix parameters of several classes."""
    results = []
    for b in ("torch", backend):
        values = [param.detach() for param in make_params([(4, 3)] * 5)]
        kinds = (nn.Parameter, Doubling, nn.Parameter, Doubling, lambda value: value.requires_grad_())
        params = [kind(value) for kind, value in zip(kinds, values, strict=True)]
        optimizer = rule.make(params, backend=b)
        for step in range(3):
            give_grads(params, step)
            optimizer.step()
        results.append(params)
    assert_same(*results)


@every_rule
@past_the_end
def test_without_the_exchange_api_the_result_is_the_same(rule, backend, monkeypatch):
    """Older versions of torch have no exchange API of DLPack."""
    expected, _ = run_steps(lambda p: rule.make(p, schedule=clrfast.one_cycle(0.1, 5), backend="torch"), 6, LIMITS)
    slow = SimpleNamespace(**vars(_native.load()))
    slow.TensorCollector = lambda *_: SimpleNamespace(collect=lambda *_: None)
    monkeypatch.setattr(_native, "_C", slow)
    params, _ = run_steps(lambda p: rule.make(p, schedule=clrfast.one_cycle(0.1, 5), backend=backend), 6, LIMITS)
    assert_same(params, expected)


@pytest.mark.hardware
def test_gradients_are_held_while_the_update_runs(backend, monkeypatch):
    """Another thread may drop a gradient while the interpreter's lock is released."""
    params = make_params([(4,), (5,)])
    give_grads(params, 0)
    grads = [param.grad for param in params]
    optimizer = clrfast.SGD(params, lr=0.1, backend=backend)
    module, held, name = _native.load(), [], {"cpp": "sgd_", "cuda": "sgd_cuda_"}[backend]

    def sgd_(*arguments):
        held.extend(optimizer._updates[0]._grads)
        return getattr(module, name)(*arguments)

    monkeypatch.setattr(_native, "_C", SimpleNamespace(**{**vars(module), name: sgd_}))
    optimizer.step()
    assert all(a is b for a, b in zip(held, grads, strict=True))
    assert not optimizer._updates[0]._grads


@pytest.mark.hardware
def test_gradients_may_be_replaced_and_steps_taken_by_other_threads(backend):
    """torch.optim.SGD allows it. Either gradient may be used, but no freed memory."""
    params = make_params([(50_000,)] * 8)
    for param in params:
        param.grad = torch.ones_like(param)
    optimizer = clrfast.SGD(params, lr=1.0, momentum=0.0, backend=backend)
    done, n_steps = threading.Event(), 4

    def replace():
        while not done.is_set():
            for param in params:
                param.grad = torch.ones_like(param)

    def step():
        for _ in range(n_steps):
            optimizer.step()

    before = [param.detach().clone() for param in params]
    replacing = threading.Thread(target=replace)
    replacing.start()
    stepping = [threading.Thread(target=step) for _ in range(2)]
    for thread in stepping:
        thread.start()
    for thread in stepping:
        thread.join()
    done.set()
    replacing.join()
    for param, old in zip(params, before, strict=True):
        torch.testing.assert_close(param.detach(), old - 2 * n_steps)


def negated(tensor):
    return torch._neg_view(-tensor)


@every_rule
@pytest.mark.parametrize("what", ["param", "grad", "state", "param in place", "state in place"])
@pytest.mark.parametrize("shape", [(1,), (3, 4)])
def test_negated_tensors_are_updated(rule, backend, what, shape):
    """The imaginary part of a conjugate is such a tensor."""

    def run(chosen):
        (param,) = make_params([shape])
        if what == "param":
            param = nn.Parameter(negated(param.detach()))
        optimizer, last = rule.make([param], backend=chosen), rule.states[-1]
        for step in range(4):
            give_grads([param], step)
            if what == "grad" and step > 1:  # after ordinary steps
                param.grad = negated(param.grad)
            if what == "state" and step == 2:
                optimizer.state[param][last] = negated(optimizer.state[param][last])
            if what.endswith("in place") and step == 2:
                changed = param if what.startswith("param") else optimizer.state[param][last]
                changed.data = negated(changed.data)
            optimizer.step()
        return [param.detach() + 0]

    assert_same(run(backend), run("torch"))


class Unwrapped(torch.Tensor):
    """A wrapper around a tensor, without memory."""

    @staticmethod
    def __new__(cls, held):
        alike = {"strides": held.stride(), "dtype": held.dtype, "device": held.device}
        return torch.Tensor._make_wrapper_subclass(
            cls, held.shape, storage_offset=3, requires_grad=held.requires_grad, **alike
        )

    def __init__(self, held):
        self.held = held.detach()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.detach.default:
            return cls(args[0].held)
        plain = tree_map_only(cls, lambda one: one.held, (args, kwargs or {}))
        return func(*plain[0], **plain[1])


@pytest.mark.hardware
@every_rule
@pytest.mark.parametrize("what", ["param", "state"])
def test_tensors_that_become_wrappers_in_place_are_updated(rule, backend, what):
    """torch.utils.swap_tensors does this, by which modules can convert their parameters."""

    def run(chosen):
        (param,) = make_params([(3, 4)])
        optimizer = rule.make([param], backend=chosen)
        for step in range(4):
            give_grads([param], step)
            if step == 2 and what == "state":
                state = optimizer.state[param][rule.states[0]]
                torch.utils.swap_tensors(state, Unwrapped(state.clone()))
            optimizer.step()
            if step == 1 and what == "param":
                param.grad = None
                torch.utils.swap_tensors(param, nn.Parameter(Unwrapped(param.detach().clone())))
        return [param.detach() + 0]

    assert_same(run(backend), run("torch"))


@every_rule
def test_state_moved_to_shared_memory_in_place_is_updated(rule, backend):
    """Hogwild and torch.multiprocessing do this: the tensors stay, and their memory moves."""

    def run(chosen, moves):
        params = make_params([(9,), (5,)])
        optimizer = rule.make(params, schedule=clrfast.one_cycle(0.1, 8), backend=chosen)
        for step in range(6):
            if moves and step == 3:
                control = optimizer.control
                counters = [counter for counter in optimizer.counters.by_tensor.values() if counter is not None]
                states = [tensor for state in optimizer.state.values() for tensor in state.values()]
                for tensor in (*params, *states, *counters, *control.tensors(), control.blocks_done):
                    tensor.share_memory_()
                noise = [torch.full((size,), 7.0) for size in range(1, 40) for _ in range(20)]  # in the freed memory
            give_grads(params, step)
            optimizer.step(loss=torch.tensor(1.0))
        if moves:
            assert all((tensor == 7).all() for tensor in noise)
        return [*params, optimizer.control.losses, optimizer.control.row]

    assert_same(run(backend, True), run("torch", False))


@every_rule
def test_gradients_may_change_their_layout_between_steps(rule, backend):
    """The native backend applies some updates of a parameter and the reference others, the first one included."""

    def before(step, optimizer, params):
        if step % 2:
            params[0].grad = params[0].grad.t().contiguous().t()

    results = [
        run_steps(
            lambda p, b=b: rule.make(p, backend=b),
            8,
            [(4, 3), (5,)],
            before_step=before,
        )[0]
        for b in ("torch", backend)
    ]
    assert_same(*results)


@pytest.mark.hardware
@pytest.mark.skipif(_torch_compat.EXCHANGE_API is None, reason="only the exchange API shows the device")
def test_parameters_on_other_devices_are_left_out(backend):
    params = make_params([(3,), (4,)])
    give_grads(params, 0)
    optimizer = clrfast.SGD(params, lr=0.1, backend=backend)
    kind = 2 if params[0].is_cuda else 1

    def collected(device, other_ids):
        rows = np.ones((2, 10), dtype=np.int64)
        collector = _native.load().TensorCollector(device, other_ids, False, False)
        cache = rows, [], [], [None, None], np.zeros((2, 24), dtype=np.int64)
        found = collector.collect(optimizer.param_groups, {}, {}, [0], [False], cache)
        return None if found is None else (len(found[0]), int(rows.any()))

    assert collected((kind, 0), [5]) == (2, 1)
    assert collected((kind, 5), [0]) == (0, 0)
    assert collected((kind, 5), [4]) is None
    assert collected((7, 0), [0]) is None
