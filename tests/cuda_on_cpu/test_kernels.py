"""The kernels of csrc/cuda/kernels.h equal the reference bit for bit.

They run on the CPU over every block and thread, and on a GPU where there is one. tests/optim tests what all backends
have in common.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

import clrfast
from tests.helpers.kernels import CHUNK, SIZES
from tests.helpers.optimizers import DTYPES, KERNELS, assert_same, give_grads, make_params, randn

pytestmark = pytest.mark.parametrize("backend", KERNELS)


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
        ours[-1].append(arena.place(torch.tensor([1.0, 0.0]), 0))  # counted one update
        theirs.append([tensor.clone() for tensor in ours[-1]])
    guards = arena.guards().clone()
    for tensors, chosen in ((ours, backend), (theirs, "torch")):
        params = [nn.Parameter(param) for param, *_ in tensors]
        optimizer = clrfast.SGD(params, lr=0.1, weight_decay=0.01, backend=chosen, **options)
        for param, (_, grad, buffer, master, counter) in zip(params, tensors, strict=True):
            param.grad = grad
            if "momentum" in options:
                optimizer.state[param]["momentum_buffer"] = buffer
                optimizer.counters.by_tensor[buffer] = counter
            if narrow and "master_weights" in options:
                optimizer.state[param]["master_param"] = master
        optimizer.step()
    for own, other in zip(ours, theirs, strict=True):
        for tensors in (own, other):
            # The other half belongs to the kernels, and no kernel updates an empty tensor.
            tensors[-1] = tensors[-1][: min(tensors[0].numel(), 1)]
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
