"""Workers of a search for a recipe, each a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from clrfast import Recipe
from clrfast.recipe import Study
from clrfast.recipe._storage import TrialStore
from tests.helpers.ranks import ROOT

SCRIPT = """
import sys
import time
import torch
from clrfast import find_recipe
from clrfast.recipe import _find_recipe, _storage
from tests.helpers.problems import clouds

torch.set_num_threads(1)
_storage.LEASE_SECONDS, _find_recipe.POLL_SECONDS = {lease}, 0.02
task = clouds()
loss_fn = task.loss_fn
task.loss_fn = lambda *given: time.sleep({seconds_per_loss}) or loss_fn(*given)
print("begun", flush=True)
recipe = find_recipe(task, storage=sys.argv[1], **{options!r})
recipe.save(sys.argv[2])
"""


def start_worker(
    journal: Path, out: Path, *, lease: float = 60.0, seconds_per_loss: float = 0.0, **options: Any
) -> subprocess.Popen[str]:
    """Start a worker of the search for a recipe of ``clouds()``; it writes the recipe to ``out``."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    script = SCRIPT.format(lease=lease, seconds_per_loss=seconds_per_loss, options=options)
    command = [sys.executable, "-c", script, str(journal), str(out)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def require_end(worker: subprocess.Popen[str]) -> None:
    """Wait for a worker, and raise AssertionError with its output unless it ends well."""
    printed, _ = worker.communicate(timeout=300)
    assert worker.returncode == 0, printed


def read_study(journal: Path) -> Study:
    """Return what the journal of a search holds."""
    store = TrialStore(journal, "recipe")
    store.load()
    return store.read()[0]


def completed_keys(journal: Path, study_name: str = "recipe") -> list[str]:
    """Return the key of each completed trial, in the order of their numbers."""
    store = TrialStore(journal, study_name)
    store.load()
    return [each.user_attrs["key"] for each in store.study.get_trials(states=[TrialState.COMPLETE])]


def losses(found: Recipe | Study) -> dict[str, list[float]]:
    """Return all losses of each trial, by its key; of a pair by its settings."""
    study = found.study if isinstance(found, Recipe) else found
    by_key = {}
    for trial in study.trials:
        spec, result = trial.spec, trial.result
        key = spec.key if spec.stage != "pair" else f"{spec.optimizer} {spec.max_lr} {spec.weight_decay}"
        losses = [result.loss] if hasattr(result, "loss") else [result.train_loss, result.val_loss]
        by_key[key] = [float(loss) for each in losses for loss in each]
    return by_key


def told(recipe: Recipe) -> tuple[Any, ...]:
    """Return all that a recipe tells, for comparisons."""
    return str(recipe), recipe.settings, recipe.evidence, recipe.warnings, recipe.diagnoses, recipe.steps
