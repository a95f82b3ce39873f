"""A training on several gloo ranks, and the same training in one process, which it must equal."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import clrfast

STEPS, BREAK = 12, 7
SCHEDULE = clrfast.one_cycle(0.1, STEPS, weight_decay=1e-3)
RULES = ("SGD", "AdamW")
MAX_NORM = 0.3
SEARCH: dict[str, Any] = {"steps": 24, "min_lr": 1e-3, "max_lr": 0.5, "trials": False}
"""A range test that takes less than a second."""


class Network(nn.Module):
    """A network whose 7 and 2 rows do not divide evenly among 2 and 4 ranks.

    Args:
        skips: use the layer ``extra`` only for batches whose first entry is positive.
    """

    def __init__(self, skips: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.skips = skips
        self.first, self.last, self.extra = nn.Linear(4, 7), nn.Linear(7, 2), nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = self.last(torch.tanh(self.first(inputs)))
        return outputs if self.skips and inputs[0, 0] <= 0 else outputs + self.extra(inputs)


def shard(step: int, rank: int, count: int, part: int = 0) -> Tensor:
    """Return one rank's part of a batch of 8 samples: float32 ``[8 / count, 4]``."""
    return torch.randn(8, 4, generator=torch.Generator().manual_seed(10 * step + part))[rank::count]


def compute_loss(model: nn.Module, inputs: Tensor) -> Tensor:
    return (model(inputs).float() - inputs[:, :2]).square().mean()


def control_of(optimizer: Any) -> clrfast.StepControl:
    return getattr(optimizer, "optim", optimizer).control  # that of a ZeroRedundancyOptimizer is its own optimizer's


def train(
    model: nn.Module,
    optimizer: Any,
    rank: int,
    count: int,
    *,
    first: int = 0,
    last: int = STEPS,
    parts: int = 1,
    unsynchronized: Any = contextlib.nullcontext,
    autocast: bool = False,
    max_norm: float | None = None,
    scheduler: Any = None,
) -> list[float]:
    """Train on one rank and return the loss of each update, the mean over its parts.

    Args:
        parts: number of batches of one update.
        unsynchronized: a context in which a backward pass leaves gradients to this rank; for all parts but the last.
        max_norm: gradients are clipped by torch to this norm.
        scheduler: a scheduler of torch; None for an optimizer with a schedule.
    """
    losses = []
    for step in range(first, last):
        optimizer.zero_grad()
        total = torch.zeros(())
        for part in range(parts):
            with contextlib.nullcontext() if part == parts - 1 else unsynchronized():
                with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                    loss = compute_loss(model, shard(step, rank, count, part))
                (loss / parts).backward()
            total += loss.detach()
            if scheduler is None:
                control_of(optimizer).record(loss)
        if max_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        losses.append((total / parts).item())
    return losses


def train_alone(
    rule: str, count: int = 2, *, parts: int = 1, autocast: bool = False, skips: bool = False, **given: Any
) -> dict[str, list[Any]]:
    """Make the whole training in this process: gradients are the mean over ``count`` ranks, whose losses it returns.

    With 2 ranks the numbers are those of DistributedDataParallel bit for bit: the mean of two is one rounded sum.
    """
    model = Network(skips)
    optimizer = getattr(clrfast, rule)(model.parameters(), schedule=SCHEDULE, **given)
    losses = []
    for step in range(STEPS):
        found, own = [], []
        for rank in range(count):
            optimizer.zero_grad()
            total = torch.zeros(())
            for part in range(parts):
                with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                    loss = compute_loss(model, shard(step, rank, count, part))
                (loss / parts).backward()
                total += loss.detach()
            own.append((total / parts).item())
            found.append([param.grad for param in model.parameters()])
        for param, *grads in zip(model.parameters(), *found, strict=True):
            used = [grad for grad in grads if grad is not None]
            param.grad = sum(used) / count if used else None
        optimizer.step()
        losses.append(own)
    return {"params": values(model), "losses": [list(each) for each in zip(*losses, strict=True)]}


def values(model: nn.Module) -> list[float]:
    """Return all parameters of a model, gathered from the ranks; those of a wrapped model, in the same order."""
    whole = [param.full_tensor() if hasattr(param, "full_tensor") else param for param in model.parameters()]
    return torch.cat([param.detach().reshape(-1) for param in whole]).tolist()


def summary(model: nn.Module, optimizer: Any, losses: list[float]) -> dict[str, Any]:
    """Return what a run has come to, as plain data."""
    control = control_of(optimizer)
    return {
        "params": values(model),
        "losses": losses,
        "recorded": control.losses.tolist(),
        "step": control.synchronize(),
        "lr": optimizer.param_groups[0]["lr"],
    }


def search(model: nn.Module, optimizer: Any, rank: int, count: int, **options: Any) -> dict[str, Any]:
    """Return the curve of a range test on one rank, and whether the model is as before."""
    before = values(model)
    curve = _curve(model, optimizer, [shard(step, rank, count) for step in range(60)], **options)
    return {**curve, "as before": values(model) == before}


def search_alone(rule: str, count: int = 2, *, accumulate: int = 1, **options: Any) -> dict[str, Any]:
    """Return the curve of one process that accumulates the batches of ``count`` ranks for each update."""
    model = Network()
    batches = [
        shard(update + part, rank, count)
        for update in range(0, 60, accumulate)
        for rank in range(count)
        for part in range(accumulate)
    ]
    optimizer = getattr(clrfast, rule)(model.parameters(), lr=0.1)
    return {**_curve(model, optimizer, batches, accumulate=count * accumulate, **options), "as before": True}


def _curve(model: nn.Module, optimizer: Any, batches: list[Tensor], **options: Any) -> dict[str, Any]:
    curve = clrfast.range_test(
        model, loader=batches, compute_loss=compute_loss, optimizer=optimizer, **{**SEARCH, **options}
    )
    return {"lr": curve.lr.tolist(), "loss": curve.loss.tolist(), "rate": curve.suggest().max_lr}


def require_same_run(results: list[Any], rule: str, case: str, *, exact: bool = True, **given: Any) -> None:
    """Require that each rank has come to what one process comes to.

    Args:
        results: what came of the cases on each rank.
        exact: bit for bit, or else within rounding.
        given: arguments of ``train_alone``.
    """
    wanted = train_alone(rule, **given)
    for rank, own in enumerate(results):
        found, losses = own[rule][case], wanted["losses"][rank]
        assert found["params"] == (wanted["params"] if exact else near(wanted["params"]))
        assert found["losses"] == (losses if exact else near(losses))
        assert found["recorded"] == found["losses"]
        require_end(found)


def require_end(found: dict[str, Any]) -> None:
    """Require that a run has made all steps of the schedule."""
    assert found["step"] == STEPS
    assert found["lr"] == pytest.approx(float(SCHEDULE.lr(STEPS - 1)))


def require_resumed(results: list[Any], rule: str, case: str, *, exact: bool) -> None:
    """Require that a run that continued from a checkpoint ends as the one without a break."""
    for own in results:
        found, wanted = own[rule][case], own[rule]["saved"]
        for values, others in ((found["params"], wanted["params"]), (found["losses"], wanted["losses"][BREAK:])):
            assert values == (others if exact else near(others))
        assert found["recorded"][BREAK:] == found["losses"]
        require_end(found)


def require_same_curve(results: list[Any], rule: str, case: str, **options: Any) -> None:
    """Require that all ranks get one curve, that of one process. The means of the losses are rounded differently."""
    first, *others = (own[rule][case] for own in results)
    assert all(other == first for other in others)
    wanted = search_alone(rule, **options)
    assert first["lr"] == wanted["lr"]
    assert first["loss"] == near(wanted["loss"])
    assert first["rate"] == pytest.approx(wanted["rate"], rel=1e-3)
    assert first["as before"]


def near(values: list[float]) -> Any:
    """Return what equals ``values`` within the rounding of a few updates."""
    return pytest.approx(values, rel=1e-5, abs=1e-6)
