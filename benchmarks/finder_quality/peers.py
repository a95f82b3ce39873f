"""What other learning-rate finders suggest, through their public interfaces, at their own defaults.

All tune SGD with momentum 0.9. Whatever a finder leaves to its user is as in its documentation: torch-lr-finder and
Ignite start at the optimizer's rate, which is 1e-7 here. An exception inside a finder is no answer, with its reason.

pip install torch-lr-finder fastai lightning pytorch-ignite matplotlib
"""

from __future__ import annotations

import contextlib
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from ..peer_packages import quiet, why_missing
from ..task_library.definition import RegretTask

START_LR = 1e-7


@dataclass(frozen=True)
class Answer:
    """What a finder said, and what it took.

    Attributes:
        rate: None if there is no answer.
        steps: forward passes in training mode.
        seconds: wall time of the whole call.
        reason: why there is no answer.
    """

    rate: float | None
    steps: int
    seconds: float
    reason: str = ""


@dataclass
class Passes:
    """A count of forward passes."""

    n: int = 0


@contextlib.contextmanager
def forward_passes(task: RegretTask) -> Iterator[Passes]:
    """Count the model's forward passes in training mode: the same measure of cost for all finders."""
    passes = Passes()

    def count(module: torch.nn.Module, *_: Any) -> None:
        passes.n += module.training

    handle = task.model.register_forward_hook(count)
    try:
        yield passes
    finally:
        handle.remove()


Call = Callable[[RegretTask], dict[str, Answer]]
Found = dict[str, float | str | None]
"""By name: a rate, or the reason why there is none."""
Find = Callable[[RegretTask], Found]


def _peer(names: tuple[str, ...], modules: tuple[str, ...], find: Find) -> Call:
    """``find`` with its cost, errors and output dealt with; ``names`` are those that it answers under."""

    def call(task: RegretTask) -> dict[str, Answer]:
        if lacking := why_missing(modules):
            return {name: Answer(None, 0, 0.0, lacking) for name in names}
        found: Found = dict.fromkeys(names)
        begin = time.perf_counter()
        with quiet(), forward_passes(task) as passes:
            try:
                found |= find(task)
            except Exception as error:
                found |= dict.fromkeys(names, _reason(error))
        seconds = time.perf_counter() - begin
        return {name: _answer(found[name], passes.n, seconds) for name in names}

    return call


def _answer(found: float | str | None, steps: int, seconds: float) -> Answer:
    if isinstance(found, float) and math.isfinite(found) and found > 0:
        return Answer(found, steps, seconds)
    return Answer(None, steps, seconds, found if isinstance(found, str) else f"the finder gave {found}")


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def _sgd(task: RegretTask) -> torch.optim.SGD:
    return torch.optim.SGD(task.model.parameters(), lr=START_LR, momentum=0.9)


def _torch_lr_finder(task: RegretTask) -> Found:
    from matplotlib.figure import Figure
    from torch_lr_finder import LRFinder

    finder = LRFinder(task.model, _sgd(task), task.loss_fn, device="cpu")
    finder.range_test(task.loader())
    _, rate = finder.plot(ax=Figure().subplots())
    finder.reset()
    return {"torch-lr-finder": float(rate)}


FASTAI = ("valley", "slide", "steep", "minimum")


def _fastai(task: RegretTask) -> Found:
    from fastai.callback import schedule
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    from fastai.optimizer import OptimWrapper
    from torch.utils.data import DataLoader, TensorDataset

    found: Found = {}
    with tempfile.TemporaryDirectory() as folder:
        loaders = DataLoaders(task.loader(), DataLoader(TensorDataset(*task.val), batch_size=len(task.val[0])))
        opt_func = partial(OptimWrapper, opt=torch.optim.SGD, momentum=0.9)
        learner = Learner(loaders, task.model, loss_func=task.loss_fn, opt_func=opt_func, path=folder)
        with learner.no_bar():
            # All over one sweep; where one function fails, the others still answer.
            functions = [_recorded(getattr(schedule, name), found) for name in FASTAI]
            learner.lr_find(show_plot=False, suggest_funcs=functions)
    return found


def _recorded(function: Callable[..., Any], found: Found) -> Callable[..., Any]:
    """A suggestion function of fastai's that notes its rate under its name, and survives its errors."""

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


def _lightning(task: RegretTask) -> Found:
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
            return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)

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


def _ignite(task: RegretTask, name: str, **arguments: Any) -> Found:
    from ignite.engine import create_supervised_trainer
    from ignite.handlers import FastaiLRFinder

    optimizer = _sgd(task)
    trainer = create_supervised_trainer(task.model, optimizer, task.loss_fn)
    finder = FastaiLRFinder()
    with finder.attach(trainer, to_save={"model": task.model, "optimizer": optimizer}, **arguments) as attached:
        attached.run(task.loader())
    return {name: float(finder.lr_suggestion())}


def _fixed(rate: float) -> Call:
    return lambda task: {f"always {rate:g}": Answer(rate, 0, 0.0)}


PEERS: dict[str, Call] = {
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
    "always 0.01": _fixed(0.01),
    "always 0.1": _fixed(0.1),
}
"""``task -> answers by name``."""
