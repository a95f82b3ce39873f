"""The ways to train without tuning that are compared: a search with clrfast, usual rates, other packages."""

from __future__ import annotations

from functools import partial

from torch.optim.lr_scheduler import OneCycleLR

import clrfast
from clrfast.training._loss_modules import trainable_parameters

from ..finder_quality.contenders import find_lr
from ..finder_quality.optimizers import OPTIMIZERS
from ..task_library.definition import BenchmarkTask
from .peers import PEERS
from .training import Contender, Method, stepped

GRID, SPLITS = OPTIMIZERS["sgd"].grid, OPTIMIZERS["sgd"].splits
"""The oracle that scores are relative to, and the tasks that it has."""


def _search(task: BenchmarkTask, optimizer: str) -> float:
    return find_lr(task, optimizer).max_lr


_search_sgd, _search_adamw = (partial(_search, optimizer=name) for name in ("sgd", "adamw"))


def _clrfast_sgd(task: BenchmarkTask, steps: int, lr: float) -> Method:
    schedule = clrfast.one_cycle(lr, steps)
    optimizer = clrfast.SGD(trainable_parameters(task.model), momentum=0.9, schedule=schedule)
    return stepped(task, optimizer)


def _adamw_constant(task: BenchmarkTask, steps: int, lr: float) -> Method:
    return stepped(task, OPTIMIZERS["adamw"].make(task, lr))


def _one_cycle(task: BenchmarkTask, steps: int, lr: float, optimizer: str) -> Method:
    made = OPTIMIZERS[optimizer].make(task, lr)
    return stepped(task, made, OneCycleLR(made, [group["lr"] for group in made.param_groups], total_steps=steps))


_sgd_one_cycle, _adamw_one_cycle = (partial(_one_cycle, optimizer=name) for name in ("sgd", "adamw"))

OURS = "clrfast SGD, 1cycle"
"""The contender that others are compared with one by one."""

CONTENDERS: dict[str, Contender] = {
    OURS: Contender(_clrfast_sgd, _search_sgd),
    f"{OURS}, charged": Contender(_clrfast_sgd, _search_sgd, charged=True),
    "clrfast AdamW, 1cycle": Contender(_adamw_one_cycle, _search_adamw),
    "clrfast AdamW, 1cycle, charged": Contender(_adamw_one_cycle, _search_adamw, charged=True),
    **PEERS,
    "AdamW 0.001, constant": Contender(_adamw_constant, 0.001),
    **{f"AdamW {lr:g}, 1cycle": Contender(_adamw_one_cycle, lr) for lr in (0.001, 0.01, 0.03)},
    "SGD 0.1, 1cycle": Contender(_sgd_one_cycle, 0.1),
}
"""Contenders by name. "charged" takes the forward passes of the search off the number of updates."""
