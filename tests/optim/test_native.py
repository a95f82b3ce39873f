"""The native backends equal the reference bit for bit. The CUDA one runs its kernels on the CPU; see conftest.py."""

import copy
import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_map_only

import clrfast
from clrfast import _native, _torch_compat
from clrfast.optim._control import StepControl
from tests.helpers.optimizers import (
    DTYPES,
    NATIVE,
    OPTIONS,
    assert_same,
    give_grads,
    make_params,
    option_id,
    past_the_end,
    randn,
    run_steps,
)

pytestmark = pytest.mark.parametrize("backend", NATIVE)

# Sizes around the limits: chunks of 4,096 elements in the kernel and of 65,536 on the CPU, ends of 128-bit loads.
SHAPES = [(0,), (), (1,), (3,), (4,), (1023,), (4095,), (4096,), (4097,), (12293,), (65537,), (7, 5, 3)]


def both(backend, make, steps=4, **kwargs):
    results = [run_steps(lambda p, b=b: make(p, b), steps, SHAPES, **kwargs) for b in ("torch", backend)]
    for (params, optimizer), expected in zip(results, ("torch", backend), strict=True):
        assert optimizer.backend == expected
        assert all(param.isfinite().all() for param in params)
    (left, reference), (right, native) = results
    assert_same(left, right)
    assert_same(buffers(reference), buffers(native))


def buffers(optimizer):
    return [state["momentum_buffer"] for state in optimizer.state.values() if "momentum_buffer" in state]


@pytest.mark.parametrize("options", OPTIONS, ids=option_id)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_update_equals_the_reference(backend, options, dtype):
    both(backend, lambda p, b: clrfast.SGD(p, lr=0.01, backend=b, **options), dtype=dtype)


@past_the_end
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("nesterov", [False, True])
def test_the_update_equals_the_reference_under_a_schedule(backend, dtype, nesterov):
    schedule = clrfast.one_cycle(0.05, 6, weight_decay=clrfast.schedules.Linear(0.0, 0.1, 3))
    both(
        backend,
        lambda p, b: clrfast.SGD(p, momentum=0.9, nesterov=nesterov, schedule=schedule, backend=b),
        steps=8,
        dtype=dtype,
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_update_equals_the_reference_when_scaled_and_skipped(backend, dtype):
    def before(step, optimizer, params):
        optimizer.grad_scale, optimizer.found_inf = torch.tensor(3.0), torch.tensor(2.0 if step in (0, 2) else 0.0)

    both(
        backend,
        lambda p, b: clrfast.SGD(p, lr=0.01, momentum=0.9, dampening=0.5, backend=b),
        dtype=dtype,
        before_step=before,
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_16_bit_pattern_survives_and_rounds_as_in_torch(backend, dtype):
    """p - 0 * g keeps every pattern, and p - lr * g rounds like torch's conversion from float32."""
    patterns = torch.arange(2**16).to(torch.uint16).view(dtype)
    param = nn.Parameter(patterns.clone())
    param.grad = torch.ones_like(param)
    clrfast.SGD([param], lr=0.0, backend=backend).step()
    assert_same([param.data], [patterns])
    with torch.no_grad():
        param.copy_(patterns)
    clrfast.SGD([param], lr=1e-3, backend=backend).step()
    assert_same([param.data], [(patterns.float() - 1e-3).to(dtype)])


@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_the_result_does_not_depend_on_the_number_of_threads(backend, n_threads):
    if backend != "cpp":
        pytest.skip("threads of the CPU")
    before = torch.get_num_threads()
    expected, _ = run_steps(lambda p: clrfast.SGD(p, momentum=0.9, backend="torch"), 3, [(100_000,), (70_000,)])
    torch.set_num_threads(n_threads)
    try:
        params, _ = run_steps(lambda p: clrfast.SGD(p, momentum=0.9, backend=backend), 3, [(100_000,), (70_000,)])
    finally:
        torch.set_num_threads(before)
    assert_same(params, expected)


def test_every_layout_of_memory_is_updated(backend):
    """Transposed, strided and channels-last parameters, and gradients with another layout than their parameter."""
    base, images = randn([(6, 8), (2, 3, 4, 5)], 0)

    def make():
        return [
            nn.Parameter(base.clone().t()),
            nn.Parameter(torch.stack([base, base], -1)[..., 0]),
            nn.Parameter(images.to(memory_format=torch.channels_last)),
            nn.Parameter(base.clone()),
            nn.Parameter(base.clone()[1:, 1:]),
        ]

    results = []
    for b in ("torch", backend):
        params = make()
        optimizer = clrfast.SGD(params, lr=0.1, momentum=0.9, weight_decay=0.01, backend=b)
        for step in range(3):
            give_grads(params, step)
            params[3].grad = params[3].grad.t().contiguous().t()
            params[2].grad = params[2].grad.to(memory_format=torch.channels_last)
            optimizer.step()
        results.append(params)
    assert_same(*results)


def test_nothing_is_written_outside_a_view(backend):
    memory = torch.zeros(100)
    param = nn.Parameter(memory[10:20])
    param.grad = torch.ones(10)
    clrfast.SGD([param], lr=1.0, backend=backend).step()
    assert memory.tolist() == [0.0] * 10 + [-1.0] * 10 + [0.0] * 80


CHANGES = {
    "new gradient tensor": lambda o, p: None,
    "parameter data swapped": lambda o, p: setattr(p[0], "data", p[0].data.clone()),
    "parameter moved to another layout": lambda o, p: setattr(p[0], "data", p[0].data.t().contiguous().t()),
    "buffer replaced": lambda o, p: o.state[p[0]].update(momentum_buffer=torch.ones_like(p[0])),
    "buffer dropped": lambda o, p: o.state[p[0]].pop("momentum_buffer"),
    "state of one parameter replaced": lambda o, p: o.state.__setitem__(p[0], {}),
    "state cleared": lambda o, p: o.state.clear(),
    "buffer memory swapped": lambda o, p: setattr(
        o.state[p[0]]["momentum_buffer"], "data", torch.ones_like(o.state[p[0]]["momentum_buffer"])
    ),
    "flag dropped": lambda o, p: o.momentum_flags.by_buffer.clear(),
    "parameter viewed the other way": lambda o, p: view_otherwise(p[2]),
    "parameter made smaller in place": lambda o, p: make_smaller(o, p[0]),
    "flag dropped while momentum is off": lambda o, p: drop_flags_without_momentum(o),
    "momentum switched off": lambda o, p: o.param_groups[0].update(momentum=0.0),
    "gradient taken away": lambda o, p: setattr(p[1], "grad", None),
    "parameter list shortened": lambda o, p: o.param_groups[0]["params"].pop(),
    "option changed": lambda o, p: o.param_groups[0].update(lr=0.5, weight_decay=0.1, nesterov=True),
    "state loaded": lambda o, p: o.load_state_dict(copy.deepcopy(o.state_dict())),
}


def drop_flags_without_momentum(optimizer):
    """Such a state comes from torch's SGD, loaded before momentum is switched on."""
    optimizer.momentum_flags.by_buffer.clear()
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


def forget_the_first_update(optimizer, params):
    flag = optimizer.momentum_flags.by_buffer[optimizer.state[params[0]]["momentum_buffer"]]
    flag.data = torch.zeros_like(flag)  # other memory, the same tensor


def flag_of_another_type(optimizer, params):
    optimizer.momentum_flags.by_buffer[optimizer.state[params[0]]["momentum_buffer"]] = torch.zeros(
        (), dtype=torch.float64
    )


REARRANGED = [swap_in_group, swap_states, forget_the_first_update, flag_of_another_type]


@pytest.mark.parametrize("change", REARRANGED)
def test_state_belongs_to_its_parameter_wherever_its_memory_moves(backend, change):
    def before(step, optimizer, params):
        if step == 2:
            change(optimizer, params)

    results = [
        run_steps(
            lambda p, b=b: clrfast.SGD(p, lr=0.1, momentum=0.9, dampening=0.5, backend=b),
            4,
            [(4, 3), (4, 3)],
            before_step=before,
        )
        for b in ("torch", backend)
    ]
    assert_same(results[0][0], results[1][0])
    assert_same(buffers(results[0][1]), buffers(results[1][1]))


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_made_between_steps_is_noticed(backend, name):
    """Nothing that was cached in an earlier step is used after it has changed."""

    def before(step, optimizer, params):
        if step == 2:
            CHANGES[name](optimizer, params)

    results = [
        run_steps(
            lambda p, b=b: clrfast.SGD(p, lr=0.1, momentum=0.9, backend=b),
            4,
            [(4, 3), (5,), (2, 2)],
            before_step=before,
        )
        for b in ("torch", backend)
    ]
    assert_same(results[0][0], results[1][0])


def test_a_gradient_that_needs_the_reference_is_applied_once(backend):
    """C++ must not apply the gradient of an earlier step to a parameter that the reference updates."""

    def before(step, optimizer, params):
        if step == 0:
            params[0].grad = params[0].grad.t().contiguous().t()
        else:
            params[0].grad = None

    results = [
        run_steps(lambda p, b=b: clrfast.SGD(p, lr=0.1, backend=b), 4, [(4, 3), (5,)], before_step=before)[0]
        for b in ("torch", backend)
    ]
    assert_same(*results)


def test_rearranged_groups_are_updated_with_their_own_options(backend):
    def before(step, optimizer, params):
        first, second = optimizer.param_groups[:2] if step < 3 else (None, None)
        if step == 1:
            second["params"].insert(0, first["params"].pop())
        if step == 2:
            first["params"].extend(second["params"])
            del optimizer.param_groups[1]

    def make(params, backend):
        groups = [{"params": params[:2]}, {"params": params[2:], "lr": 0.001}]
        return clrfast.SGD(groups, lr=0.1, momentum=0.9, backend=backend)

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


def test_the_gradient_is_read_from_the_attribute(backend):
    """A group may mix parameters of several classes."""
    results = []
    for b in ("torch", backend):
        values = [param.detach() for param in make_params([(4, 3)] * 5)]
        kinds = (nn.Parameter, Doubling, nn.Parameter, Doubling, lambda value: value.requires_grad_())
        params = [kind(value) for kind, value in zip(kinds, values, strict=True)]
        optimizer = clrfast.SGD(params, lr=0.1, momentum=0.9, backend=b)
        for step in range(3):
            give_grads(params, step)
            optimizer.step()
        results.append(params)
    assert_same(*results)


@past_the_end
def test_without_the_exchange_api_the_result_is_the_same(backend, monkeypatch):
    """Older versions of torch have no exchange API of DLPack."""
    expected, _ = run_steps(lambda p: clrfast.SGD(p, schedule=clrfast.one_cycle(0.1, 5), backend="torch"), 6, SHAPES)
    slow = SimpleNamespace(**vars(_native.load()))
    slow.TensorCollector = lambda *_: SimpleNamespace(collect=lambda *_: None)
    monkeypatch.setattr(_native, "_C", slow)
    params, _ = run_steps(lambda p: clrfast.SGD(p, schedule=clrfast.one_cycle(0.1, 5), backend=backend), 6, SHAPES)
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


@pytest.mark.parametrize("what", ["param", "grad", "buffer", "param in place", "buffer in place"])
@pytest.mark.parametrize("shape", [(1,), (3, 4)])
def test_negated_tensors_are_updated(backend, what, shape):
    """The imaginary part of a conjugate is such a tensor."""

    def run(chosen):
        (param,) = make_params([shape])
        if what == "param":
            param = nn.Parameter(negated(param.detach()))
        optimizer = clrfast.SGD([param], lr=0.1, momentum=0.9, backend=chosen)
        for step in range(4):
            give_grads([param], step)
            if what == "grad" and step > 1:  # after ordinary steps
                param.grad = negated(param.grad)
            if what == "buffer" and step == 2:
                optimizer.state[param]["momentum_buffer"] = negated(optimizer.state[param]["momentum_buffer"])
            if what.endswith("in place") and step == 2:
                changed = param if what.startswith("param") else optimizer.state[param]["momentum_buffer"]
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
@pytest.mark.parametrize("what", ["param", "buffer"])
def test_tensors_that_become_wrappers_in_place_are_updated(backend, what):
    """torch.utils.swap_tensors does this, by which modules can convert their parameters."""

    def run(chosen):
        (param,) = make_params([(3, 4)])
        optimizer = clrfast.SGD([param], lr=0.1, momentum=0.9, backend=chosen)
        for step in range(4):
            give_grads([param], step)
            if step == 2 and what == "buffer":
                buffer = optimizer.state[param]["momentum_buffer"]
                torch.utils.swap_tensors(buffer, Unwrapped(buffer.clone()))
            optimizer.step()
            if step == 1 and what == "param":
                param.grad = None
                torch.utils.swap_tensors(param, nn.Parameter(Unwrapped(param.detach().clone())))
        return [param.detach() + 0]

    assert_same(run(backend), run("torch"))


def test_parameters_that_share_memory_are_updated_one_after_the_other(backend):
    """No update is lost, as with torch.optim.SGD."""

    def run(chosen):
        params = make_params([(60_000,), (60_000,), (7,)])
        params[1].data = params[0].data
        optimizer = clrfast.SGD(params, schedule=clrfast.one_cycle(0.1, 8), backend=chosen)
        threads = torch.get_num_threads()
        torch.set_num_threads(2)
        for step in range(5):
            give_grads(params, step)
            optimizer.step()
        torch.set_num_threads(threads)
        return params

    assert_same(run(backend), run("torch"))


@pytest.mark.hardware
@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("losses", lambda losses: losses[:2].clone()),
        ("losses", lambda losses: torch.zeros(2 * len(losses))[::2]),
        ("table", lambda table: table[:2].clone()),
        ("step", lambda step: step.int()),
        ("average", lambda average: average.double()),
        ("row", lambda row: torch._neg_view(row.clone())),
    ],
)
def test_a_control_whose_memory_was_changed_in_place_is_refused(backend, name, changed):
    (param,) = make_params([(3,)])
    optimizer = clrfast.SGD([param], schedule=clrfast.one_cycle(0.1, 8), backend=backend)
    give_grads([param], 0)
    optimizer.step(loss=1.0)
    before = param.detach().clone()
    tensor = getattr(optimizer.control, name)
    tensor.data = changed(tensor)
    with pytest.raises(RuntimeError, match=rf"control\.{name}: got .*; it must be"):
        optimizer.step(loss=1.0)
    assert_same([param], [before])


def test_a_step_ends_in_a_child_forked_during_a_step(backend):
    """The thread that holds the lock does not exist in the child."""
    if backend != "cpp" or not hasattr(os, "fork"):
        pytest.skip("of fork")
    script = """
import os, signal, threading, torch, clrfast
torch.set_num_threads(1)
param = torch.nn.Parameter(torch.ones(3_000_000))
param.grad = torch.zeros_like(param)
optimizer = clrfast.SGD([param], lr=0.5, backend="cpp")
done = threading.Event()
def step():
    while not done.is_set():
        optimizer.step()
thread = threading.Thread(target=step)
thread.start()
codes = []
for _ in range(5):
    child = os.fork()
    if not child:
        signal.alarm(20)
        optimizer.step()
        os._exit(0)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
done.set()
thread.join()
raise SystemExit(any(codes))
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_step_ends_in_a_forked_child(backend):
    """OpenMP's threads do not exist in the child."""
    if backend != "cpp" or not hasattr(os, "fork"):
        pytest.skip("of OpenMP and fork")
    script = """
import os, signal, torch, clrfast
torch.set_num_threads(2)
params = [torch.nn.Parameter(torch.ones(40_000)) for _ in range(3)]
for param in params:
    param.grad = torch.ones_like(param)
optimizer = clrfast.SGD(params, lr=0.5, backend="cpp")
optimizer.step()
child = os.fork()
if not child:
    signal.alarm(20)
    optimizer.step()
    os._exit(0 if params[0][0] == 0 else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_state_moved_to_shared_memory_in_place_is_updated(backend):
    """Hogwild and torch.multiprocessing do this: the tensors stay, and their memory moves."""

    def run(chosen, moves):
        params = make_params([(9,), (5,)])
        optimizer = clrfast.SGD(params, schedule=clrfast.one_cycle(0.1, 8), dampening=0.2, backend=chosen)
        for step in range(6):
            if moves and step == 3:
                control = optimizer.control
                flags = [flag for flag in optimizer.momentum_flags.by_buffer.values() if flag is not None]
                states = [tensor for state in optimizer.state.values() for tensor in state.values()]
                for tensor in (*params, *states, *flags, *control.tensors(), control.blocks_done):
                    tensor.share_memory_()
                noise = [torch.full((size,), 7.0) for size in range(1, 40) for _ in range(20)]  # in the freed memory
            give_grads(params, step)
            optimizer.step(loss=torch.tensor(1.0))
        if moves:
            assert all((tensor == 7).all() for tensor in noise)
        return [*params, optimizer.control.losses, optimizer.control.row]

    assert_same(run(backend, True), run("torch", False))


def test_autograd_counts_an_update_as_an_in_place_change(backend):
    param = nn.Parameter(torch.ones(3))
    loss = (param**2).sum()
    param.grad = torch.ones(3)
    clrfast.SGD([param], lr=0.1, backend=backend).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def control_pair(backend, **watch):
    table = clrfast.one_cycle(1.0, 6).table()
    step_count = torch.ones((), dtype=torch.int64)
    device = torch.get_default_device()
    controls = [StepControl(table, device=device, backend=b, step_count=step_count) for b in ("torch", backend)]
    for control in controls:
        if watch:
            control.watch_divergence(**watch)
    return controls


LOSSES = {
    "falling": [3.0, 2.0, 1.5, 1.2, 1.1, 1.0, 0.9, 0.8],
    "diverging": [1.0, 0.9, 2.0, 5.0, 50.0, 500.0, 1.0],
    "not finite": [1.0, float("nan"), 1.0, 1.0],
    "infinite": [1.0, 2.0, float("inf"), 1.0],
    "negative": [-1.0, -2.0, -3.0, -2.0, 8.0, 30.0, 30.0],
    "none": [None, None, 1.0, None],
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("watch", [{}, {"smoothing": 0.5, "stop_factor": 4.0}, {"smoothing": 0.0, "stop_factor": 1.5}])
def test_the_control_equals_the_reference(backend, name, watch):
    pair = control_pair(backend, **watch)
    for step, loss in enumerate(LOSSES[name]):
        found_inf = torch.tensor(2.0) if step == 1 else None
        for control in pair:
            control.advance(None if loss is None else torch.tensor(loss), found_inf)
        for attribute in ("step", "losses", "average", "stop", "row"):
            assert_same([getattr(pair[0], attribute)], [getattr(pair[1], attribute)])
        if pair[0].step.device.type == "cuda":  # the host does not know of the skipped update
            assert pair[0].host_step == pair[1].host_step == step + 1
        else:
            assert pair[0].host_step == pair[1].host_step == int(pair[0].step)


def test_the_binding_refuses_what_memory_safety_forbids(backend):
    module = _native.load()
    rows = np.zeros((1, 8), dtype=np.int64)
    group = (0.1, 0.0, 0.0, 0.0, 0.0, 0.0)

    def sgd(rows=rows, groups=(group,)):
        if backend == "cpp":
            module.sgd_(rows, list(groups), None, True, 1.0, 1)
        else:
            module.sgd_cuda_(rows, [(*group, 0, 0) for group in groups], (None, 0.0, 0.0, 0, 0, 0, 0), 0, 0, 0, 0)

    for column, value, named in ((7, 1, "group out of range"), (6, 64, "unknown dtype"), (5, -1, "negative numel")):
        bad = rows.copy()
        bad[0, column] = value
        with pytest.raises(ValueError, match=named):
            sgd(bad)
    bad = rows.copy()
    bad[0, [1, 5]] = 8
    with pytest.raises(ValueError, match="no memory"):
        sgd(bad)
    with pytest.raises(ValueError, match="must be"):
        sgd(np.zeros((1, 7), dtype=np.int64))
    with pytest.raises(TypeError):
        sgd(rows.astype(np.int32))
    with pytest.raises(ValueError, match="a control needs all of its memory"):
        module.advance_((8, 1, 1, 8, 8, 0, 8, 8), 0.98, 0.0, None, 0.0)


def test_many_groups_are_updated_with_their_own_options(backend):
    def make(params, backend):
        groups = [{"params": [p], "lr": 0.01 * (i + 1), "momentum": 0.1 * (i % 3)} for i, p in enumerate(params)]
        return clrfast.SGD(groups, lr=0.1, backend=backend)

    results = [run_steps(lambda p, b=b: make(p, b), 3, [(5,)] * 40)[0] for b in ("torch", backend)]
    assert_same(*results)


def test_parameters_without_a_gradient_are_left_alone(backend):
    params = make_params([(3,), (4,)])
    before = [param.clone() for param in params]
    optimizer = clrfast.SGD(params, lr=0.1, momentum=0.9, backend=backend)
    optimizer.step()
    assert_same(params, before)
    assert not optimizer.state_dict()["state"]


def test_gradients_may_change_their_layout_between_steps(backend):
    """The native backend applies some updates of a parameter and the reference others, the first one included."""

    def before(step, optimizer, params):
        if step % 2:
            params[0].grad = params[0].grad.t().contiguous().t()

    results = [
        run_steps(
            lambda p, b=b: clrfast.SGD(p, lr=0.1, momentum=0.9, dampening=0.3, backend=b),
            8,
            [(4, 3), (5,)],
            before_step=before,
        )[0]
        for b in ("torch", backend)
    ]
    assert_same(*results)


def test_memory_between_the_elements_is_not_written(backend):
    memory = randn([(20,), (20,)], 0)
    before = [values.clone() for values in memory]
    param = nn.Parameter(memory[0][::2])
    param.grad = memory[1][::2]
    clrfast.SGD([param], lr=0.5, backend=backend).step()
    assert_same([memory[0][1::2], memory[1]], [before[0][1::2], before[1]])
    assert_same([memory[0][::2]], [before[0][::2] - 0.5 * before[1][::2]])


@pytest.mark.hardware
@pytest.mark.skipif(_torch_compat.EXCHANGE_API is None, reason="only the exchange API shows the device")
def test_parameters_on_other_devices_are_left_out(backend):
    params = make_params([(3,), (4,)])
    give_grads(params, 0)
    optimizer = clrfast.SGD(params, lr=0.1, backend=backend)
    kind = 2 if params[0].is_cuda else 1

    def collected(device, other_ids):
        rows = np.ones((2, 8), dtype=np.int64)
        collector = _native.load().TensorCollector(device, other_ids, False, False)
        cache = rows, [], [], [None, None]
        found = collector.collect(optimizer.param_groups, {}, {}, [False], [False], cache)
        return None if found is None else (len(found[0]), int(rows.any()))

    assert collected((kind, 0), [5]) == (2, 1)
    assert collected((kind, 5), [0]) == (0, 0)
    assert collected((kind, 5), [4]) is None
    assert collected((7, 0), [0]) is None


CONTROL_CHANGES = {
    "table on another device": ("table", lambda t: t.to("meta"), r"control.table: got .* on meta; it must be .* on"),
    "losses too short": ("losses", lambda t: t[:2].clone(), r"control.losses: got torch.float32 of shape \(2,\)"),
    "step of another type": ("step", lambda t: t.int(), "control.step: got torch.int32"),
}


@pytest.mark.hardware
@pytest.mark.parametrize("name", CONTROL_CHANGES)
def test_a_control_with_a_tensor_that_does_not_fit_is_refused(backend, name):
    attribute, change, message = CONTROL_CHANGES[name]
    params = make_params([(3,)])
    before = [param.detach().clone() for param in params]
    optimizer = clrfast.SGD(params, schedule=clrfast.one_cycle(0.1, 5), backend=backend)
    give_grads(params, 0)
    setattr(optimizer.control, attribute, change(getattr(optimizer.control, attribute)))
    with pytest.raises(RuntimeError, match=message):
        optimizer.step()
    assert_same(params, before)


def test_a_replaced_tensor_of_the_control_is_used(backend):
    params = make_params([(3,)])
    optimizer = clrfast.SGD(params, schedule=clrfast.one_cycle(0.1, 5), backend=backend)
    for step in range(3):
        give_grads(params, step)
        optimizer.control.losses = torch.full_like(optimizer.control.losses, -1.0)
        optimizer.step(loss=torch.tensor(float(step)))
    assert optimizer.control.losses.tolist() == [-1.0, -1.0, 2.0, -1.0, -1.0]
