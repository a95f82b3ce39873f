"""The kernels of csrc/cuda/kernels.h equal the reference bit for bit.

They run on the CPU over every block and thread, and on a GPU where there is one. tests/optim tests what all backends
have in common.
"""

from __future__ import annotations

import itertools
from functools import partial

import pytest
import torch
from torch import nn

import clrfast
from tests.helpers.kernels import CHUNK, OPTIMIZERS, SIZES, every_optimizer, give_counter, kept_by
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


# Of the parameter, the gradient, the first state and the others.
OFFSETS = {
    "aligned": (0, 0, 0, 0),
    "alike": (1, 1, 1, 1),
    "gradient off": (0, 3, 0, 0),
    "last state off": (0, 0, 0, 3),
    "all differ": (1, 2, 5, 3),
}

UNALIGNED = {
    "SGD without state": clrfast.SGD,
    "SGD": partial(clrfast.SGD, momentum=0.9),
    "SGD with master weights": partial(clrfast.SGD, momentum=0.9, dampening=0.5, master_weights=True),
    "AdamW": clrfast.AdamW,
    "AdamW with master weights": partial(clrfast.AdamW, master_weights=True),
    "Adam": clrfast.Adam,
    "AMSGrad": partial(clrfast.AdamW, amsgrad=True),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offsets", OFFSETS)
@pytest.mark.parametrize("made", UNALIGNED)
def test_unaligned_views_are_updated_and_their_surroundings_are_not(backend, dtype, offsets, made):
    narrow = dtype in (torch.float16, torch.bfloat16) and "master weights" in made
    for_p, for_g, *for_states = OFFSETS[offsets]
    names = UNALIGNED[made]([nn.Parameter(torch.ones(1))]).states_of(0)
    arena = Arena(64 * sum(size + CHUNK for size in SIZES))
    ours, theirs = [], []
    for index, size in enumerate(SIZES):
        p, g, *states = randn([(2 + len(names), size)], index)[0]
        placed = {"param": arena.place(p.to(dtype), for_p), "grad": arena.place(g.to(dtype), for_g)}
        for k, (name, values) in enumerate(zip(names, states, strict=True)):
            values = values if k == 0 else values.square()  # a second moment is not negative
            placed[name] = arena.place(values.to(torch.float32 if narrow else dtype), for_states[k > 0])
        placed["master_param"] = arena.place(placed["param"].float(), for_g)
        placed["counter"] = arena.place(torch.tensor([1.0, 0.0]), 0)  # counted one update
        ours.append(placed)
        theirs.append({name: tensor.clone() for name, tensor in placed.items()})
    guards = arena.guards().clone()
    for tensors, chosen in ((ours, backend), (theirs, "torch")):
        params = [nn.Parameter(placed["param"]) for placed in tensors]
        optimizer = UNALIGNED[made](params, lr=0.1, weight_decay=0.01, backend=chosen)
        for param, placed in zip(params, tensors, strict=True):
            param.grad = placed["grad"]
            kept = [*names, *(["master_param"] if narrow else [])]
            optimizer.state[param].update({name: placed[name] for name in kept})
            if names:
                give_counter(optimizer, optimizer.state[param], placed["counter"])
        optimizer.step()
    for own, other in zip(ours, theirs, strict=True):
        for placed in (own, other):
            # The other half belongs to the kernels, and no kernel updates an empty tensor.
            placed["counter"] = placed["counter"][: min(placed["param"].numel(), 1)]
        assert_same(own.values(), other.values())
    assert torch.equal(arena.guards(), guards)


def mixed(make, param_type, grad_type, state_type, chosen):
    params = make_params([(size,) for size in SIZES], param_type)
    optimizer = make(params, lr=0.1, weight_decay=0.01, backend=chosen)
    for index, param in enumerate(params):
        for k, name in enumerate(optimizer.states_of(0)):
            values = randn([param.shape], 10 * index + k)[0].to(state_type)
            optimizer.state[param][name] = values if k == 0 else values.square()
    for step in range(2):
        for index, param in enumerate(params):
            if hasattr(param, "grad_dtype"):
                param.grad_dtype = grad_type
            param.grad = randn([param.shape], 100 * step + index)[0].to(grad_type)
        optimizer.step()
    return [*params, *kept_by(optimizer)], optimizer


@pytest.mark.parametrize(
    "types", list(itertools.product(DTYPES, repeat=3)), ids=lambda types: "-".join(map(str, types))
)
def test_gradients_and_states_may_have_other_dtypes(backend, types):
    if types[0] != types[1] and not hasattr(nn.Parameter(torch.ones(1)), "grad_dtype"):
        pytest.skip("this torch knows no gradient of another type than its parameter")
    for make in (*OPTIMIZERS.values(), partial(clrfast.SGD, momentum=0.9, nesterov=True)):
        ours, optimizer = mixed(make, *types, backend)
        assert not optimizer._updates[0]._left_to_reference
        assert_same(ours, mixed(make, *types, "torch")[0])


# Options of the groups without a schedule, by the group's index. Adam's states and arithmetic differ within a launch.
OF_GROUPS = {
    "SGD": lambda i: {"momentum": 0.1 * (i % 4), "dampening": 0.2 * (i % 3)},
    "Adam": lambda i: {
        "betas": (0.2 * (i % 5), 0.9 + 0.01 * (i % 3)),
        "eps": 1e-8 * (1 + i % 2),
        "amsgrad": i % 2 == 0,
        "decoupled_weight_decay": i % 4 < 2,
    },
}


@pytest.mark.parametrize("scheduled", [False, True])
@pytest.mark.parametrize("n_groups", [2, 40, 600])
@pytest.mark.parametrize("rule", OF_GROUPS)
def test_groups_are_updated_with_their_own_options(backend, merged, n_groups, scheduled, rule):
    def run(chosen):
        params = make_params([(5,)] * n_groups)
        groups = [
            {"params": [p], "lr": 0.001 * (i % 9 + 1), "weight_decay": 0.01 * (i % 2)} for i, p in enumerate(params)
        ]
        optimizer = OPTIMIZERS[rule](groups, backend=chosen)
        if scheduled:
            optimizer.set_schedule(clrfast.one_cycle(0.1, 4).for_groups(optimizer.param_groups))
        else:
            for index, group in enumerate(optimizer.param_groups):
                group.update(OF_GROUPS[rule](index), maximize=index % 5 == 0)
        for step in range(3):
            give_grads(params, step)
            optimizer.step()
        return [*params, *kept_by(optimizer)]

    assert_same(run(backend), run("torch"))


COUNTED = {
    "SGD": partial(clrfast.SGD, momentum=0.9, dampening=0.7),
    "AdamW": clrfast.AdamW,
    "AMSGrad": OPTIMIZERS["AMSGrad"],
}


@pytest.mark.parametrize("ascending", [False, True])
@pytest.mark.parametrize("scheduled", [False, True])
@pytest.mark.parametrize("rule", COUNTED)
def test_all_chunks_of_a_tensor_agree_on_the_number_of_its_update(
    backend, emulation, merged, ascending, scheduled, rule
):
    """In any order of the blocks: also after skipped updates, with a late gradient, and when the state moves from one
    optimizer to another."""
    emulation.ascending(ascending)
    schedule = clrfast.one_cycle(0.1, 10) if scheduled else None

    def run(chosen):
        params = make_params([(3 * CHUNK,), (CHUNK + 1,), (5,)])
        make = lambda: COUNTED[rule](params, lr=0.1, schedule=schedule, backend=chosen)  # noqa: E731
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
        counters = [optimizer.counters.counter_of(optimizer.state[param]) for param in params]
        return [*params, *kept_by(optimizer), *(counter.view(-1)[0] for counter in counters)]

    assert_same(run(backend), run("torch"))


@every_optimizer
def test_stop_freezes_everything(backend, merged, rule):
    def run(chosen):
        params = make_params([(5,), (CHUNK + 1,)])
        optimizer = OPTIMIZERS[rule](params, schedule=clrfast.one_cycle(0.1, 10), backend=chosen)
        optimizer.control.watch_divergence(smoothing=0.0)
        for step, loss in enumerate((1.0, 0.9, float("nan"), 0.5)):
            give_grads(params, step)
            optimizer.step(loss=torch.tensor(loss))
        return optimizer, [*params, *kept_by(optimizer), optimizer.control.losses, optimizer.control.step.float()]

    (optimizer, ours), (_, theirs) = run(backend), run("torch")
    assert_same(ours, theirs)
    assert optimizer.control.stop
    assert int(optimizer.control.step) == 2


@every_optimizer
def test_the_rate_may_be_a_tensor_on_the_device(backend, rule):
    for dtype, lr_type in itertools.product(
        (torch.float32, torch.float64), (torch.float32, torch.float64, torch.bfloat16)
    ):
        results = []
        for chosen in ("torch", backend):
            params = make_params([(1000,)], dtype)
            lr = torch.tensor(0.1, dtype=lr_type)
            optimizer = OPTIMIZERS[rule](params, lr=lr, backend=chosen)
            for step in range(8):  # a rate that was rounded to float32 gives another step size in some of them
                give_grads(params, step)
                optimizer.step()
                lr *= 0.73
            results.append([*params, *kept_by(optimizer)])
        assert_same(*results)


@every_optimizer
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1, "maximize": True}])
def test_scaled_and_skipped_updates_equal_the_reference(backend, merged, dtype, rule, options):
    def run(chosen, schedule):
        params = make_params([(size,) for size in SIZES], dtype)
        optimizer = OPTIMIZERS[rule](params, lr=0.01, schedule=schedule, backend=chosen, **options)
        for step in range(4):
            give_grads(params, step)
            optimizer.grad_scale = torch.tensor(3.0)
            optimizer.found_inf = torch.tensor(2.0 if step in (0, 2) else 0.0)
            optimizer.step()
        return [*params, *kept_by(optimizer)]

    # The weight decay begins at 0, so the form of the update changes within the run.
    cycle = clrfast.one_cycle(0.05, 6, weight_decay=clrfast.schedules.Linear(0.0, 0.1, 3))
    for schedule in (None, cycle):
        assert_same(run(backend, schedule), run("torch", schedule))
