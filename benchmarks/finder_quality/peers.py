"""The finders of other packages, called through their public interfaces at their own defaults.

All get the optimizer whose rate is wanted. Arguments without a default are as in the finder's documentation:
torch-lr-finder and Ignite start at the optimizer's rate, which is 1e-7 here. A finder that raises makes no suggestion;
the error is the reason.

pip install torch-lr-finder fastai lightning pytorch-ignite matplotlib
"""

from __future__ import annotations

import math
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from ..peer_packages import quiet, why_missing
from ..task_library.definition import BenchmarkTask
from .optimizers import OPTIMIZERS
from .suggestion import Finder, PassCounter, Suggestion, count_forward_passes

START_LR = 1e-7

Found = dict[str, float | str | None]
"""By contender: a rate, or the reason why there is none."""


def _peer(names: tuple[str, ...], modules: tuple[str, ...], find: Callable[[BenchmarkTask, str], Found]) -> Finder:
    """Wrap ``find``: measure its cost, suppress its output, and turn its errors into reasons.

    A finder whose package is not installed is left out.

    Args:
        names: the contenders that ``find`` returns rates for.
        modules: that ``find`` imports.
    """

    def suggest(task: BenchmarkTask, optimizer: str) -> dict[str, Suggestion]:
        if reason := why_missing(modules):
            warnings.warn(f"left out: {', '.join(names)}: {reason}", stacklevel=2)
            return {}
        found: Found = dict.fromkeys(names)
        begin = time.perf_counter()
        with quiet(), count_forward_passes(task.model) as passes:
            try:
                found |= find(task, optimizer)
            except Exception as error:
                found |= dict.fromkeys(names, _reason(error))
        seconds = time.perf_counter() - begin
        return {name: _suggestion(found[name], passes, seconds) for name in names}

    return suggest


def _suggestion(found: float | str | None, passes: PassCounter, seconds: float) -> Suggestion:
    if isinstance(found, float) and math.isfinite(found) and found > 0:
        return Suggestion(found, passes.n, seconds, extra_passes=passes.n_extra)
    reason = found if isinstance(found, str) else f"the finder gave {found}"
    return Suggestion(None, passes.n, seconds, reason, passes.n_extra)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def _optimizer(task: BenchmarkTask, name: str) -> torch.optim.Optimizer:
    return OPTIMIZERS[name].make(task, START_LR)


def _torch_lr_finder(task: BenchmarkTask, optimizer: str) -> Found:
    from matplotlib.figure import Figure
    from torch_lr_finder import LRFinder

    finder = LRFinder(task.model, _optimizer(task, optimizer), task.loss_fn, device="cpu")
    finder.range_test(task.loader())
    _, rate = finder.plot(ax=Figure().subplots())
    finder.reset()
    return {"torch-lr-finder": float(rate)}


FASTAI = ("valley", "slide", "steep", "minimum")


def _fastai(task: BenchmarkTask, optimizer: str) -> Found:
    from fastai.callback import schedule
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    from fastai.optimizer import OptimWrapper
    from torch.utils.data import DataLoader, TensorDataset

    found: Found = {}
    with tempfile.TemporaryDirectory() as folder:
        loaders = DataLoaders(task.loader(), DataLoader(TensorDataset(*task.val), batch_size=len(task.val[0])))
        tuned = OPTIMIZERS[optimizer]
        opt_func = partial(OptimWrapper, opt=tuned.torch_class, **tuned.arguments)
        learner = Learner(loaders, task.model, loss_func=task.loss_fn, opt_func=opt_func, path=folder)
        with learner.no_bar():
            # One range test for all rules; if one rule fails, the others still suggest a rate.
            functions = [_recorded(getattr(schedule, name), found) for name in FASTAI]
            learner.lr_find(show_plot=False, suggest_funcs=functions)
    return found


def _recorded(function: Callable[..., Any], found: Found) -> Callable[..., Any]:
    """Wrap a suggestion function of fastai: put its rate or its error into ``found`` under its name."""

    def suggest(lrs: Any, losses: Any, num_it: int) -> tuple[float, tuple[float, float]]:
        try:
            rate, point = function(lrs, losses, num_it)
        except Exception as error:
            found[f"fastai {function.__name__}"] = _reason(error)
            return math.nan, (math.nan, math.nan)
        found[f"fastai {function.__name__}"] = float(rate)
        return rate, point

    suggest.__name__ = function.__name__
    return suggest


def _lightning(task: BenchmarkTask, optimizer: str) -> Found:
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.tuner import Tuner

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.lr = task.model, START_LR

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            inputs, targets = batch
            return task.loss_fn(self.model(inputs), targets)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return OPTIMIZERS[optimizer].make(task, self.lr)

    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator="cpu",
            devices=1,
            default_root_dir=folder,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        finder = Tuner(trainer).lr_find(Module(), train_dataloaders=task.loader())
        return {"lightning": None if finder is None else finder.suggestion()}


def _ignite(task: BenchmarkTask, optimizer: str, name: str, **arguments: Any) -> Found:
    from ignite.engine import create_supervised_trainer
    from ignite.handlers import FastaiLRFinder

    tuned = _optimizer(task, optimizer)
    trainer = create_supervised_trainer(task.model, tuned, task.loss_fn)
    finder = FastaiLRFinder()
    with finder.attach(trainer, to_save={"model": task.model, "optimizer": tuned}, **arguments) as attached:
        attached.run(task.loader())
    return {name: float(finder.lr_suggestion())}


PEERS: dict[str, Finder] = {
    "torch-lr-finder": _peer(("torch-lr-finder",), ("torch_lr_finder", "matplotlib"), _torch_lr_finder),
    "fastai": _peer(
        tuple(f"fastai {name}" for name in FASTAI), ("fastai.callback.schedule", "fastai.callback.progress"), _fastai
    ),
    "lightning": _peer(("lightning",), ("lightning.pytorch.tuner",), _lightning),
    "ignite": _peer(("ignite",), ("ignite.handlers",), partial(_ignite, name="ignite")),
    "ignite, 100 iterations": _peer(
        ("ignite, 100 iterations",),
        ("ignite.handlers",),
        partial(_ignite, name="ignite, 100 iterations", num_iter=100),
    ),
}
"""Finders by name. One finder may suggest for several contenders, such as the rules of fastai."""
