"""The contenders of the race by name. Another one is a function from a ``SearchedTask`` to an ``Answer``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

import clrfast

from . import peers
from .searched_task import Answer, SearchedTask


@dataclass(frozen=True)
class Contender:
    """A way to find rate and weight decay.

    Attributes:
        search: finds them.
        packages: that ``search`` imports.
    """

    search: Callable[[SearchedTask], Answer]
    packages: tuple[str, ...] = ()


def clrfast_recipe(searched: SearchedTask) -> Answer:
    """Call ``clrfast.find_recipe`` with the budget."""
    task = searched.make()
    user_task = clrfast.Task(task.model, task.loss_fn, task.loader(), [searched.validation(task)])
    torch.manual_seed(searched.seed)
    recipe = clrfast.find_recipe(
        user_task, searched.max_steps, planned_steps=searched.steps, optimizers=searched.optimizer
    )
    return Answer(recipe.optimizer_name, recipe.max_lr, recipe.weight_decay, recipe.steps, momentum=recipe.momentum)


def full_grid(searched: SearchedTask) -> Answer:
    """Return the cell with the lowest test loss of one of the grid's seeds: no search, but what the whole grid gives.

    Its choice is not made on the validation samples, so it has an advantage over all searches.
    """
    cells = searched.reference.best_cell_by_seed()
    lr, weight_decay = cells[searched.seed % len(cells)]
    n_cells = searched.reference.grid_steps // searched.steps
    return Answer(searched.optimizer, lr, weight_decay, searched.reference.grid_steps, n_cells)


OPTUNA = ("optuna",)

CONTENDERS = {
    "clrfast": Contender(clrfast_recipe),
    "TPE": Contender(peers.tpe, OPTUNA),
    "GP": Contender(peers.gaussian_process, (*OPTUNA, "scipy")),
    "random": Contender(peers.random_search, OPTUNA),
    "ASHA": Contender(peers.asha, OPTUNA),
    "ASHA-TPE": Contender(peers.asha_tpe, OPTUNA),
    "coarse-grid": Contender(peers.coarse_grid),
    "full-grid": Contender(full_grid),
}
"""By name."""
