"""The kernels of csrc/cuda/kernels.h equal the reference bit for bit.

They run on the CPU over every block and thread, and on a GPU where there is one. tests/optim tests what all backends
have in common.
"""

from __future__ import annotations

import copy
import gc
import itertools
import weakref

import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

import clrfast
from clrfast import _native
from clrfast.optim import _capture as capture
from clrfast.optim._backends import cuda
from clrfast.schedules import Linear
from tests.helpers.optimizers import DTYPES, KERNELS, assert_same, give_grads, make_params, randn

from . import build

pytestmark = pytest.mark.parametrize("backend", KERNELS)

CHUNK = 4096
SIZES = [0, 1, 3, 4, 1023, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 1, 3 * CHUNK + 5]


@pytest.fixture
def emulation(request):
    """What only the emulation shows and decides."""
    if "gpu" in request.keywords:
        pytest.skip("of the emulation")
    controls = request.getfixturevalue("emulated")[1]
    controls.launches()
    yield controls
    controls.ascending(False)
    controls.capturing(False)


@pytest.fixture(params=[True, False], ids=["merged", "two launches"])
def merged(request, monkeypatch):
    """Whether an update launch of any size advances the schedule itself."""
    monkeypatch.setattr(cuda, "MAX_MERGED_CHUNKS", 2**31 if request.param else 0)
    return request.param


class Arena:
    """A block of memory for tensors at chosen distances from a 16-byte boundary, with guards between them."""

    GUARD = 64

    def __init__(self, n_bytes: int):
        self.memory = torch.randint(0, 256, (n_bytes + 16,), dtype=torch.uint8)
        self.end = -self.memory.data_ptr() % 16
        self.free = torch.ones(len(self.memory), dtype=torch.bool)

    def place(self, values: torch.Tensor, offset: int) -> torch.Tensor:
        """Return a copy of ``values`` that begins ``offset`` elements after a boundary."""
        begin = self.end + self.GUARD + offset * values.element_size()
        length = values.numel() * values.element_size()
        self.free[begin : begin + length] = False
        self.end += -(-(2 * self.GUARD + offset * values.element_size() + length) // 16) * 16
        placed = self.memory[begin : begin + length].view(values.dtype)
        placed.copy_(values)
        return placed

    def guards(self) -> torch.Tensor:
        return self.memory[self.free]


OFFSETS = {"aligned": (0, 0, 0), "alike": (1, 1, 1), "gradient off": (0, 3, 0), "all differ": (1, 2, 5)}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offsets", OFFSETS)
@pytest.mark.parametrize(
    "options", [{}, {"momentum": 0.9}, {"momentum": 0.9, "dampening": 0.5, "master_weights": True}]
)
def test_unaligned_views_are_updated_and_their_surroundings_are_not(backend, dtype, offsets, options):
    arena = Arena(40 * (CHUNK * 4 + 3 * CHUNK) * len(OFFSETS))
    narrow = dtype in (torch.float16, torch.bfloat16)
    state_type = torch.float32 if narrow and "master_weights" in options else dtype
    ours, theirs = [], []
    for index, size in enumerate(SIZES):
        values = randn([(4, size)], index)[0]
        param_values, grad_values = values[:2].to(dtype)
        buffer, master = values[2].to(state_type), param_values.float()
        for_p, for_g, for_b = OFFSETS[offsets]
        ours.append([arena.place(param_values, for_p), arena.place(grad_values, for_g)])
        ours[-1] += [arena.place(buffer, for_b), arena.place(master, for_g)]
        ours[-1].append(arena.place(torch.ones((1,), dtype=torch.int64), 0)[0])
        theirs.append([tensor.clone() for tensor in ours[-1]])
    guards = arena.guards().clone()
    for tensors, chosen in ((ours, backend), (theirs, "torch")):
        params = [nn.Parameter(param) for param, *_ in tensors]
        optimizer = clrfast.SGD(params, lr=0.1, weight_decay=0.01, backend=chosen, **options)
        for param, (_, grad, buffer, master, started) in zip(params, tensors, strict=True):
            param.grad = grad
            if "momentum" in options:
                optimizer.state[param]["momentum_buffer"] = buffer
                optimizer.momentum_flags.by_buffer[buffer] = started
            if narrow and "master_weights" in options:
                optimizer.state[param]["master_param"] = master
        optimizer.step()
    for own, other in zip(ours, theirs, strict=True):
        assert_same(own, other)
    assert torch.equal(arena.guards(), guards)


def mixed(param_type, grad_type, buffer_type, chosen, **options):
    params = make_params([(size,) for size in SIZES], param_type)
    optimizer = clrfast.SGD(params, lr=0.1, momentum=0.9, weight_decay=0.01, backend=chosen, **options)
    for index, param in enumerate(params):
        optimizer.state[param]["momentum_buffer"] = randn([param.shape], index)[0].to(buffer_type)
    for step in range(2):
        for index, param in enumerate(params):
            if hasattr(param, "grad_dtype"):
                param.grad_dtype = grad_type
            param.grad = randn([param.shape], 100 * step + index)[0].to(grad_type)
        optimizer.step()
    return [*params, *(optimizer.state[param]["momentum_buffer"] for param in params)], optimizer


@pytest.mark.parametrize(
    "types", list(itertools.product(DTYPES, repeat=3)), ids=lambda types: "-".join(map(str, types))
)
def test_gradients_and_buffers_may_have_other_dtypes(backend, types):
    if types[0] != types[1] and not hasattr(nn.Parameter(torch.ones(1)), "grad_dtype"):
        pytest.skip("this torch knows no gradient of another type than its parameter")
    for nesterov in (False, True):
        ours, optimizer = mixed(*types, backend, nesterov=nesterov)
        assert not optimizer._updates[0]._left_to_reference
        assert_same(ours, mixed(*types, "torch", nesterov=nesterov)[0])


# Each number of tensors is the most that one size of the argument holds.
@pytest.mark.parametrize(
    ("n_tensors", "launches"), [(1, 1), (118, 1), (119, 1), (246, 1), (247, 1), (1015, 1), (1016, 2), (3000, 3)]
)
def test_many_tensors_take_the_expected_number_of_launches(backend, emulation, merged, n_tensors, launches):
    shapes = [(1 + index % 7,) for index in range(n_tensors)]
    results = []
    for chosen in ("torch", backend):
        params = make_params(shapes)
        optimizer = clrfast.SGD(params, schedule=clrfast.one_cycle(0.1, 4), backend=chosen)
        for step in range(2):
            give_grads(params, step)
            emulation.launches()
            optimizer.step(loss=torch.tensor(1.0))
        results.append(params)
    assert emulation.launches() == (0 if merged else 1) + launches
    assert_same(*results)


def test_a_step_without_a_schedule_is_one_launch(backend, emulation):
    params = make_params([(3,)] * 5)
    give_grads(params, 0)
    optimizer = clrfast.SGD(params, lr=0.1, momentum=0.9, backend=backend)
    optimizer.step()
    assert emulation.launches() == 1
    for param in params:
        param.grad = None
    optimizer.step()
    assert emulation.launches() == 0


@pytest.mark.parametrize("scheduled", [False, True])
@pytest.mark.parametrize("n_groups", [2, 40, 600])
def test_groups_are_updated_with_their_own_options(backend, merged, n_groups, scheduled):
    def run(chosen):
        params = make_params([(5,)] * n_groups)
        groups = [
            {"params": [p], "lr": 0.001 * (i % 9 + 1), "weight_decay": 0.01 * (i % 2)} for i, p in enumerate(params)
        ]
        optimizer = clrfast.SGD(groups, momentum=0.9, backend=chosen)
        if scheduled:
            optimizer.set_schedule(clrfast.one_cycle(0.1, 4).for_groups(optimizer.param_groups))
        else:
            for index, group in enumerate(optimizer.param_groups):
                group.update(momentum=0.1 * (index % 4), dampening=0.2 * (index % 3), maximize=index % 5 == 0)
        for step in range(3):
            give_grads(params, step)
            optimizer.step()
        return params

    assert_same(run(backend), run("torch"))


@pytest.mark.parametrize("ascending", [False, True])
@pytest.mark.parametrize("scheduled", [False, True])
def test_dampening_leaves_out_the_first_update(backend, emulation, merged, ascending, scheduled):
    """All chunks of a tensor agree on which update is the first, in any order: also after skipped updates, with a late
    gradient, and when the state moves from one optimizer to another."""
    emulation.ascending(ascending)
    schedule = clrfast.one_cycle(0.1, 10) if scheduled else None

    def run(chosen):
        params = make_params([(3 * CHUNK,), (CHUNK + 1,), (5,)])
        make = lambda: clrfast.SGD(  # noqa: E731
            params, lr=0.1, momentum=0.9, dampening=0.7, schedule=schedule, backend=chosen
        )
        optimizer = make()
        for step in range(8):
            give_grads(params, step)
            if step < 4:
                params[1].grad = None
            optimizer.found_inf = torch.tensor(1.0 if step in (0, 4) else 0.0)
            optimizer.step()
            if step == 5:
                saved, optimizer = optimizer.state_dict(), make()
                optimizer.load_state_dict(saved)
        return params

    assert_same(run(backend), run("torch"))


def test_stop_freezes_everything(backend, merged):
    def run(chosen):
        params = make_params([(5,), (CHUNK + 1,)])
        optimizer = clrfast.SGD(params, schedule=clrfast.one_cycle(0.1, 10), backend=chosen)
        optimizer.control.watch_divergence(smoothing=0.0)
        for step, loss in enumerate((1.0, 0.9, float("nan"), 0.5)):
            give_grads(params, step)
            optimizer.step(loss=torch.tensor(loss))
        return optimizer, [*params, optimizer.control.losses, optimizer.control.step.float()]

    (optimizer, ours), (_, theirs) = run(backend), run("torch")
    assert_same(ours, theirs)
    assert optimizer.control.stop
    assert int(optimizer.control.step) == 2


def test_a_schedule_advances_once_over_several_kernels(backend, emulation, merged):
    """The first launch advances the schedule, and the others read its row."""

    def run(chosen):
        params = [
            *make_params([(5,), (3 * CHUNK,)], torch.bfloat16),
            *make_params([(7,), (2 * CHUNK + 1,)]),
            *make_params([(CHUNK + 1,)], torch.float64),
        ]
        schedule = clrfast.one_cycle(0.1, 5)
        optimizer = clrfast.SGD(params, schedule=schedule, dampening=0.3, master_weights=True, backend=chosen)
        for step in range(4):
            give_grads(params, step)
            optimizer.found_inf = torch.tensor(float(step == 1))
            emulation.launches()
            optimizer.step(loss=torch.tensor(1.0))
        return optimizer, [*params, optimizer.control.losses, optimizer.control.row]

    (optimizer, ours), (_, theirs) = run(backend), run("torch")
    assert emulation.launches() == 0  # by the reference
    assert_same(ours, theirs)
    assert int(optimizer.control.step) == 3
    assert int(optimizer.control.blocks_done) == 0


@pytest.mark.parametrize("n_chunks", [1, 3, 4])
def test_a_small_update_advances_the_schedule_itself(backend, emulation, monkeypatch, n_chunks):
    monkeypatch.setattr(cuda, "MAX_MERGED_CHUNKS", 3)
    params = make_params([(1,)] * (n_chunks - 1) + [(CHUNK,)])
    give_grads(params, 0)
    optimizer = clrfast.SGD(params, schedule=clrfast.one_cycle(0.1, 4), backend=backend)
    optimizer.step()
    assert emulation.launches() == (1 if n_chunks <= 3 else 2)


def test_the_rate_may_be_a_tensor_on_the_device(backend):
    for dtype, lr_type in itertools.product(
        (torch.float32, torch.float64), (torch.float32, torch.float64, torch.bfloat16)
    ):
        results = []
        for chosen in ("torch", backend):
            params = make_params([(5,)], dtype)
            lr = torch.tensor(0.1, dtype=lr_type)
            optimizer = clrfast.SGD(params, lr=lr, momentum=0.9, backend=chosen)
            for step in range(3):
                give_grads(params, step)
                optimizer.step()
                lr *= 0.5
            results.append(params)
        assert_same(*results)


# ------------------------------------------------------------------------------------------------------- master weights


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}])
@pytest.mark.parametrize("offset", [0, 1])
def test_master_weights_equal_the_reference(backend, dtype, options, offset):
    def run(chosen):
        params = [
            nn.Parameter(p.detach().repeat(2)[offset : offset + p.numel()])
            for p in make_params([(s,) for s in SIZES], dtype)
        ]
        optimizer = clrfast.SGD(params, lr=0.01, master_weights=True, backend=chosen, **options)
        for step in range(4):
            give_grads(params, step)
            if step == 2:
                with torch.no_grad():
                    for param in params:
                        param[::2] = 1.5  # an external write overrides the master weights, element by element
            optimizer.step()
        states = [state[name] for state in optimizer.state.values() for name in sorted(state)]
        assert all(state.dtype == (torch.float64 if dtype == torch.float64 else torch.float32) for state in states)
        return optimizer, [*params, *states]

    (optimizer, ours), (_, theirs) = run(backend), run("torch")
    assert_same(ours, theirs)
    assert not optimizer._updates[0]._left_to_reference
    assert ("master_param" in optimizer.state_dict()["state"].get(1, {})) == (dtype in (torch.float16, torch.bfloat16))


def test_small_updates_add_up_in_master_weights(backend):
    for mastered in (False, True):
        param = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
        optimizer = clrfast.SGD([param], lr=1e-4, master_weights=mastered, backend=backend)
        for _ in range(100):
            param.grad = torch.ones_like(param)
            optimizer.step()
        expected = torch.tensor(0.99).bfloat16() if mastered else 1.0
        assert (param == expected).all()


def test_master_weights_survive_a_checkpoint(backend):
    def make(params):
        return clrfast.SGD(params, lr=1e-3, momentum=0.9, master_weights=True, backend=backend)

    params = make_params([(50,)], torch.bfloat16)
    optimizer = make(params)
    for step in range(6):
        if step == 3:
            saved = copy.deepcopy(optimizer.state_dict())
            params = [nn.Parameter(param.detach().clone()) for param in params]
            resumed = make(params)
            resumed.load_state_dict(saved)
            before, optimizer = optimizer, resumed
        give_grads(params, step)
        optimizer.step()
    uninterrupted = before.param_groups[0]["params"]
    for step in range(3, 6):
        give_grads(uninterrupted, step)
        before.step()
    assert_same(params, uninterrupted)
    assert_same(optimizer.state_dict()["state"][0].values(), before.state_dict()["state"][0].values())


# ------------------------------------------------------------------------------------------------------------- capture


@pytest.fixture
def capturing(emulation, monkeypatch):
    monkeypatch.setattr(capture, "is_capturing", lambda devices: True)
    emulation.capturing(True)


def prepared(backend, **options):
    params = make_params([(3,), (4, 2)])
    give_grads(params, 0)
    optimizer = clrfast.SGD(params, lr=0.1, backend=backend, **options)
    return params, optimizer, [param.detach().clone() for param in params]


def test_a_capture_without_preparation_is_refused(backend, capturing):
    params, optimizer, before = prepared(backend, momentum=0.9)
    with pytest.raises(RuntimeError, match=r"init_state\(\) before"):
        optimizer.step()
    assert_same(params, before)
    assert not optimizer.state


def test_a_capture_with_a_missing_gradient_is_refused(backend, capturing):
    params, optimizer, before = prepared(backend, schedule=clrfast.one_cycle(0.1, 4))
    optimizer.init_state()
    params[1].grad = None
    with pytest.raises(RuntimeError, match=r"parameter 1 \(group 0, shape \(4, 2\)\) has no gradient.*requires_grad_"):
        optimizer.step()
    assert int(optimizer.control.step) == 0
    params[1].requires_grad_(False)
    optimizer.step()
    assert_same(params[1:], before[1:])
    assert not torch.equal(params[0], before[0])


def test_a_step_at_a_rate_of_0_is_captured(backend, capturing):
    """Its gradients must not be read, although a distributed checkpoint takes such steps as well."""
    params, optimizer, _ = prepared(backend, schedule=clrfast.Schedule(lr=Linear(0.0, 0.1, 3), total_steps=4))
    for param in params:
        param.grad = torch.zeros_like(param)
    optimizer.init_state()
    optimizer.step()
    assert int(optimizer.control.step) == 1


def test_a_capture_with_a_missing_state_is_refused(backend, capturing):
    params, optimizer, before = prepared(backend, momentum=0.9)
    optimizer.init_state()
    optimizer.state.clear()
    with pytest.raises(RuntimeError, match=r"parameter 0 \(group 0, shape \(3,\)\) has no momentum buffer.*init_state"):
        optimizer.step()
    assert_same(params, before)


def test_a_graph_keeps_alive_what_it_points_at(backend, capturing, emulation):
    params, optimizer, _ = prepared(backend, schedule=clrfast.one_cycle(0.1, 4), dampening=0.3)
    optimizer.init_state()
    loss, control = torch.tensor(1.0), optimizer.control
    optimizer.step(loss=loss)
    wanted = [*params, *(p.grad for p in params), *control.tensors(), control.blocks_done, control.step_count, loss]
    wanted += optimizer.state_tensors()
    assert len(optimizer.state_tensors()) == 4  # buffers, and flags of their first updates
    memory = [StorageWeakRef(tensor.untyped_storage()) for tensor in wanted]
    for param in params:
        param.grad = None
    del wanted, params, param, optimizer, control, loss
    gc.collect()
    assert not any(reference.expired() for reference in memory)
    emulation.end_graph()  # the interpreter drops the references without another call of the library
    assert all(reference.expired() for reference in memory)


def test_a_graph_may_end_while_others_hold_many_objects(backend, capturing, emulation):
    """The interpreter's queue of pending calls is short."""
    alive = []
    for _ in range(100):
        thing = torch.zeros(1)
        alive.append(weakref.ref(thing))
        _native.load().hold_for_graph(0, [thing])
        emulation.end_graph()
        del thing
    assert all(reference() is None for reference in alive)


# --------------------------------------------------------------------------------------------------------------- errors


def test_a_refused_launch_is_an_error_and_changes_nothing(backend, emulation):
    params, optimizer, before = prepared(backend, schedule=clrfast.one_cycle(0.1, 4))
    emulation.fail_next_launch()
    with pytest.raises(
        RuntimeError, match=r"CUDA: an emulated error .*an earlier kernel failed; CUDA_LAUNCH_BLOCKING=1"
    ):
        optimizer.step()
    assert_same(params, before)
    assert int(optimizer.control.step) == optimizer.control.host_step == 0
    optimizer.step()
    assert int(optimizer.control.step) == 1


def test_a_refused_update_names_its_first_parameter(backend, emulation):
    params, optimizer, before = prepared(backend, momentum=0.9)
    params[0].grad = None
    emulation.fail_next_launch()
    with pytest.raises(RuntimeError, match=r"parameter 1 \(group 0, shape \(4, 2\)\) and those .* an emulated error"):
        optimizer.step()
    assert_same(params, before)


def test_a_few_tensors_of_both_kinds_share_a_launch(backend, emulation):
    params = [*make_params([(3,)], torch.bfloat16), *make_params([(4,)])]
    give_grads(params, 0)
    optimizer = clrfast.SGD(params, lr=0.1, master_weights=True, backend=backend)
    optimizer.step()
    assert emulation.launches() == 1


def test_a_missing_backend_is_an_error_that_names_the_parameter(backend, monkeypatch):
    monkeypatch.setattr(cuda, "why_not", lambda device: "there is no driver")
    params = make_params([(2,), (3, 4)])
    message = r"backend: 'cuda' cannot update parameter 0 \(group 0, shape \(2,\)\) on \w+.*: there is no driver"
    with pytest.raises(RuntimeError, match=message):
        clrfast.SGD(params, lr=0.1, backend="cuda")


def test_older_toolkits_use_small_arguments(backend, emulation, pytestconfig, monkeypatch):
    """Before CUDA 13 an argument has 4 KB, so there are more launches with the same numbers."""
    module, controls = build.build(pytestconfig.cache.mkdir("cuda_on_cpu"), cudart_version=12080)
    build.install(module, monkeypatch)
    assert module.tensors_per_launch < 128
    results = []
    for chosen in ("torch", backend):
        params = make_params([(index,) for index in range(300)])
        give_grads(params, 0)
        controls.launches()
        clrfast.SGD(params, lr=0.1, momentum=0.9, backend=chosen).step()
        results.append(params)
    assert controls.launches() == -(-299 // module.tensors_per_launch)
    assert_same(*results)
