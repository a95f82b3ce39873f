"""Helpers for tests of optimizers: rules, backends, a tolerance table, parameters and their steps."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import clrfast
from clrfast import _native, _torch_compat

NO_NATIVE = "the native backend 'cpp' is missing"
"""Start of the warning that every optimizer gives in an install without the native module."""

COMPARES_QUICKLY = _native.why_missing is None and _torch_compat.EXCHANGE_API is not None
"""Whether a replay's checks are the compiled ones."""

# Backend "cuda" runs its kernels on the CPU, except in tests marked `gpu`; see conftest.py.
CPP = pytest.param("cpp", marks=pytest.mark.skipif(_native.why_missing is not None, reason="no native backend"))
GPU = pytest.param("cuda", id="gpu", marks=pytest.mark.gpu)
past_the_end = pytest.mark.filterwarnings("ignore:the schedule has ended")
"""For tests of what happens past a schedule's end; the warning has its own test."""
KERNELS = ["cuda", GPU]
NATIVE = [CPP, *KERNELS]
BACKENDS = ["torch", CPP, "cuda"]

# Relative to the largest value of a tensor, after `n` steps. One step rounds each of its about five operations once
# (half an ulp each) in either implementation; errors of earlier steps decay or add up linearly.
#   float32, float64: both implementations round every operation; torch contracts some, we do not: 5 ulp a step.
#   float16, bfloat16: we compute in float32 and round once a step; torch's loop rounds every operation: 8 ulp a step.
ULPS_PER_STEP = {torch.float32: 5, torch.float64: 5, torch.float16: 8, torch.bfloat16: 8}
DTYPES = list(ULPS_PER_STEP)

SHAPES = [(3, 4), (5,), (), (0,), (4097,), (70_001,)]
"""Scalars, empty tensors, and sizes of one chunk of a kernel and of several."""

LIMITS = [(0,), (), (1,), (3,), (4,), (1023,), (4095,), (4096,), (4097,), (12293,), (65537,), (7, 5, 3)]
"""Sizes around the limits: chunks of 4,096 elements in the kernel and of 65,536 on the CPU, ends of 128-bit loads."""


@dataclass(frozen=True, repr=False)
class TestedRule:
    """An update rule in the tests.

    Attributes:
        ours, theirs: the optimizer, and the one whose numbers it has.
        states: the tensors of a parameter's state that updates write, as torch names them.
        usual: options with which an update uses every state.
        values: for each option, the values that tests combine.
        goes_together: whether options are valid together.
        bad: invalid arguments, and a pattern of their error.
    """

    ours: type[clrfast.SGD] | type[clrfast.Adam]
    theirs: type[torch.optim.Optimizer]
    states: tuple[str, ...]
    usual: Mapping[str, Any]
    values: Mapping[str, tuple[Any, ...]]
    bad: tuple[tuple[dict[str, Any], str], ...]
    goes_together: Callable[[Mapping[str, Any]], bool] = lambda options: True

    __test__ = False

    def __repr__(self) -> str:
        return self.name

    @property
    def name(self) -> str:
        return self.ours.__name__

    @property
    def options(self) -> list[dict[str, Any]]:
        """All combinations of ``values`` that are valid."""
        combined = (dict(zip(self.values, each, strict=True)) for each in itertools.product(*self.values.values()))
        return [options for options in combined if self.goes_together(options)]

    def make(self, params: Any, **given: Any) -> Any:
        """Make our optimizer with the usual options."""
        return self.ours(params, **{"lr": 0.1, **self.usual, **given})

    def make_theirs(self, params: Any, **given: Any) -> Any:
        """Make the other one with the usual options."""
        return self.theirs(params, **{"lr": 0.1, **self.usual, **given})


def larger_eps(rule: TestedRule, dtype: torch.dtype) -> dict[str, float]:
    """Return an eps for comparisons with torch in float16: torch rounds eps and the moments, and small ones to 0."""
    return {"eps": 0.01} if dtype == torch.float16 and "eps" in rule.values else {}


ADAM_VALUES = {
    "betas": ((0.9, 0.999), (0.0, 0.99), (0.5, 0.0)),
    "eps": (1e-8, 0.0),
    "weight_decay": (0.0, 0.05),
    "amsgrad": (False, True),
    "maximize": (False, True),
}
BAD_BETAS = "betas: got .*; give two numbers in \\[0, 1\\)"
BAD_FOR_ADAM = (
    *(({"betas": betas}, BAD_BETAS) for betas in ((0.9,), (0.9, 0.99, 0.999), (1.0, 0.9), (0.9, 1.0), (-0.1, 0.9))),
    *(({"betas": betas}, BAD_BETAS) for betas in ("ab", ("0.9", "0.99"), None, 0.9, (0.9, None), (0.9, float("nan")))),
    *(
        ({"eps": eps}, "eps: got .*; give a finite number >= 0")
        for eps in (-1e-8, float("nan"), float("inf"), "0", None)
    ),
    ({"weight_decay": "0.1"}, "weight_decay: got '0.1'"),
    ({"schedule": clrfast.Schedule(0.1, momentum=1.0, total_steps=3)}, "schedule: its momentum reaches 1; it is beta1"),
    (
        {"schedule": clrfast.Schedule(0.1, momentum=clrfast.schedules.Linear(0.9, 1.1, 2), total_steps=3)},
        "schedule: its momentum reaches 1.1; it is beta1",
    ),
)

RULES = {
    rule.name: rule
    for rule in (
        TestedRule(
            clrfast.SGD,
            torch.optim.SGD,
            ("momentum_buffer",),
            {"momentum": 0.9, "dampening": 0.1},
            {
                "momentum": (0.0, 0.9),
                "dampening": (0.0, 0.3),
                "weight_decay": (0.0, 0.05),
                "nesterov": (False, True),
                "maximize": (False, True),
            },
            (
                ({"momentum": -0.1}, "momentum: got -0.1"),
                ({"momentum": "0.9"}, "momentum: got '0.9'"),
                ({"nesterov": True}, "nesterov: it needs momentum"),
                ({"nesterov": True, "momentum": 0.9, "dampening": 0.1}, "nesterov: it needs momentum"),
                ({"nesterov": True, "schedule": clrfast.constant(0.1, 3)}, "nesterov: .* > 0; the schedule has none"),
            ),
            lambda options: not (options["nesterov"] and (options["momentum"] == 0 or options["dampening"] != 0)),
        ),
        TestedRule(
            clrfast.Adam,
            torch.optim.Adam,
            ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"),
            {"betas": (0.8, 0.95), "weight_decay": 0.01, "amsgrad": True},
            ADAM_VALUES,
            BAD_FOR_ADAM,
        ),
        TestedRule(
            clrfast.AdamW,
            torch.optim.AdamW,
            ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"),
            {"betas": (0.8, 0.95), "weight_decay": 0.01, "amsgrad": True},
            ADAM_VALUES,
            BAD_FOR_ADAM,
        ),
    )
}
"""Every update rule, by the name of its optimizer."""

every_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
every_option = pytest.mark.parametrize(
    ("rule", "options"),
    [
        pytest.param(rule, options, id=f"{name}-{','.join(f'{k}={v}' for k, v in options.items() if v)}")
        for name, rule in RULES.items()
        for options in rule.options
    ],
)

OPTIONS = RULES["SGD"].options


def option_id(options: dict[str, object]) -> str:
    return ",".join(f"{name}={value}" for name, value in options.items() if value) or "plain"


def randn(shapes: Iterable[tuple[int, ...]], seed: int) -> list[Tensor]:
    """Draw tensors on the default device; the values are the same on every device."""
    generator = torch.Generator("cpu").manual_seed(seed)
    values = [torch.randn(shape, generator=generator, device="cpu") for shape in shapes]
    return [value.to(torch.get_default_device()) for value in values]


def make_params(
    shapes: Iterable[tuple[int, ...]], dtype: torch.dtype = torch.float32, seed: int = 0
) -> list[nn.Parameter]:
    return [nn.Parameter(value.to(dtype)) for value in randn(shapes, seed)]


def give_grads(params: Iterable[Tensor], seed: int) -> None:
    params = list(params)
    for param, value in zip(params, randn([param.shape for param in params], 1000 + seed), strict=True):
        param.grad = value.to(param.dtype)


def run_steps(
    make: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
    steps: int,
    shapes: Iterable[tuple[int, ...]] = ((3, 4), (5,), (), (0,)),
    dtype: torch.dtype = torch.float32,
    before_step: Callable[[int, torch.optim.Optimizer, list[nn.Parameter]], None] | None = None,
) -> tuple[list[nn.Parameter], torch.optim.Optimizer]:
    """Step an optimizer ``steps`` times, always from the same values; return its parameters and the optimizer."""
    params = make_params(shapes, dtype)
    optimizer = make(params)
    for step in range(steps):
        give_grads(params, step)
        if before_step is not None:
            before_step(step, optimizer, params)
        optimizer.step()
    return params, optimizer


def assert_same(left: Iterable[Tensor], right: Iterable[Tensor]) -> None:
    """Require equal bits (NaN equals NaN)."""
    for index, (a, b) in enumerate(zip(left, right, strict=True)):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True, msg=lambda m, i=index: f"tensor {i}: {m}")


def assert_near(ours: Iterable[Tensor], theirs: Iterable[Tensor], steps: int) -> None:
    """Require the precision that ``ULPS_PER_STEP`` promises after ``steps`` steps."""
    for index, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        assert a.dtype == b.dtype
        if b.numel():
            scale = max(b.detach().abs().max().item(), 1.0)
            limit = steps * ULPS_PER_STEP[b.dtype] * torch.finfo(b.dtype).eps * scale
            difference = (a.detach().double() - b.detach().double()).abs().max().item()
            assert difference <= limit, f"tensor {index}: differs by {difference}, allowed {limit}"


def momentum_buffers(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Return the momentum buffers of an optimizer, in the order of its state."""
    return [state["momentum_buffer"] for state in optimizer.state.values() if "momentum_buffer" in state]


def all_state(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Return all tensors of the state of parameters that are not empty, by parameter and name."""
    params = [param for group in optimizer.param_groups for param in group["params"] if param.numel()]
    states = [optimizer.state.get(param, {}) for param in params]
    return [state[name] for state in states for name in sorted(state) if isinstance(state[name], Tensor)]


def checkpoint_of(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the state of an optimizer as a file holds it."""
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)
