"""A learning-rate range test: clrfast's against other packages' and a bare loop, the same steps on the same data.

    pytest benchmarks/speed/bench_range_test.py --results benchmarks/results [--device cuda]

The rates stay so low that nothing diverges and every contender makes all of its steps. All run in one process, in
turns, each from a fresh model. A range test with its trials is compared with a bare loop that makes as many updates and
as many other forward passes. A package that is not installed gets a row that says so. ResNet-56 at batch 512 is left
out: its steps take so long that they hide what a finder adds.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.data import DataLoader, TensorDataset

import clrfast
from clrfast.training._batches import cycle_loader

from ..peer_packages import quiet, why_missing
from . import timing
from .setting import Setting
from .workloads import WORKLOADS, Workload

pytestmark = pytest.mark.filterwarnings("ignore")  # other packages warn

LOW, HIGH = 1e-7, 1e-4
LIMIT_S = 90.0
"""Time limit of a measurement on a CPU, in seconds; no round begins after it."""

BARE = "a bare loop"
OURS = "clrfast.range_test"
WITH_TRIALS = "clrfast.range_test, with its trials"
WITH_ADAMW = "clrfast.range_test, AdamW over AdamW"
UNCAPTURED = "clrfast.range_test(graph=False)"
ROWS: list[dict[str, Any]] = []


def loader(workload: Workload, steps: int) -> DataLoader:
    return DataLoader(TensorDataset(*workload.data(min(steps, 8))), workload.batch_size, shuffle=True, drop_last=True)


def sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=LOW, momentum=0.9)


def device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def adamw(model: nn.Module) -> torch.optim.AdamW:
    return torch.optim.AdamW(model.parameters(), lr=LOW)


def bare(
    model: nn.Module,
    data: DataLoader,
    steps: int,
    n_forward_passes: int = 0,
    make_optimizer: Callable[[nn.Module], torch.optim.Optimizer] = sgd,
) -> None:
    """Make ``steps`` updates, then ``n_forward_passes`` forward passes."""
    optimizer, loss_fn = make_optimizer(model), nn.CrossEntropyLoss()
    model.train()
    device = device_of(model)
    batches = cycle_loader(data)
    for inputs, targets in islice(batches, steps):
        optimizer.zero_grad()
        loss_fn(model(inputs.to(device)), targets.to(device)).backward()
        optimizer.step()
    with torch.no_grad():
        for inputs, targets in islice(batches, n_forward_passes):
            loss_fn(model(inputs.to(device)), targets.to(device))


def ours(model: nn.Module, data: DataLoader, steps: int, **options: Any) -> None:
    curve = clrfast.range_test(model, nn.CrossEntropyLoss(), data, min_lr=LOW, max_lr=HIGH, steps=steps, **options)
    assert len(curve.lr) == steps


def torch_lr_finder(model: nn.Module, data: DataLoader, steps: int) -> None:
    from torch_lr_finder import LRFinder

    finder = LRFinder(model, sgd(model), nn.CrossEntropyLoss(), device=device_of(model))
    finder.range_test(data, end_lr=HIGH, num_iter=steps, diverge_th=1e9)
    finder.reset()


def fastai(model: nn.Module, data: DataLoader, steps: int) -> None:
    from fastai.callback import schedule  # noqa: F401 - it adds lr_find
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    from fastai.optimizer import OptimWrapper

    with tempfile.TemporaryDirectory() as folder:
        opt_func = partial(OptimWrapper, opt=torch.optim.SGD, momentum=0.9)
        learner = Learner(
            DataLoaders(data, data, device=device_of(model)),
            model,
            loss_func=nn.CrossEntropyLoss(),
            opt_func=opt_func,
            path=folder,
        )
        with learner.no_bar():
            learner.lr_find(LOW, HIGH, steps, stop_div=False, show_plot=False)


def lightning(model: nn.Module, data: DataLoader, steps: int) -> None:
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.tuner import Tuner

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.lr = model, LOW

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            inputs, targets = batch
            return nn.functional.cross_entropy(self.model(inputs), targets)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)

    with tempfile.TemporaryDirectory() as folder:
        on = "gpu" if device_of(model).type == "cuda" else "cpu"
        quietly = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
        trainer = Trainer(accelerator=on, devices=1, default_root_dir=folder, **dict.fromkeys(quietly, False))
        Tuner(trainer).lr_find(
            Module(),
            train_dataloaders=data,
            min_lr=LOW,
            max_lr=HIGH,
            num_training=steps,
            early_stop_threshold=None,
        )


def ignite(model: nn.Module, data: DataLoader, steps: int) -> None:
    from ignite.engine import create_supervised_trainer
    from ignite.handlers import FastaiLRFinder

    optimizer = sgd(model)
    trainer = create_supervised_trainer(model, optimizer, nn.CrossEntropyLoss(), device=device_of(model))
    to_save = {"model": model, "optimizer": optimizer}
    with FastaiLRFinder().attach(
        trainer, to_save=to_save, start_lr=LOW, end_lr=HIGH, num_iter=steps, diverge_th=1e9
    ) as attached:
        attached.run(data)


Run = Callable[[nn.Module, DataLoader, int], None]
CONTENDERS: dict[str, tuple[Run, tuple[str, ...]]] = {
    BARE: (bare, ()),
    OURS: (ours, ()),
    UNCAPTURED: (partial(ours, graph=False), ()),
    "torch-lr-finder": (torch_lr_finder, ("torch_lr_finder",)),
    "fastai": (fastai, ("fastai.callback.schedule",)),
    "Lightning": (lightning, ("lightning.pytorch.tuner",)),
    "Ignite": (ignite, ("ignite.handlers",)),
}


@contextlib.contextmanager
def counted(steps: list[int]) -> Iterator[None]:
    """Count the optimizer steps in the block: a contender that makes fewer steps is not faster."""
    before = len(steps)
    handle = register_optimizer_step_post_hook(lambda *_: steps.append(1))
    try:
        yield
    finally:
        handle.remove()
    steps[:] = [len(steps) - before]


@pytest.mark.parametrize("name", [name for name in WORKLOADS if name != "ResNet-56, batch 512"])
def test_range_test(benchmark: Any, setting: Setting, name: str) -> None:
    workload, steps, rounds = setting.work(name)
    data = loader(workload, steps)
    missing = {who: lacking for who, (_, modules) in CONTENDERS.items() if (lacking := why_missing(modules))}
    # Without graphs, both calls of clrfast are the same.
    left_out = set(missing) | (set() if setting.on_gpu else {UNCAPTURED})
    runs = {who: run for who, (run, _) in CONTENDERS.items() if who not in left_out}

    def once(run: Run) -> None:
        torch.manual_seed(0)
        with quiet():
            run(workload.make().to(setting.device), data, steps)

    made: list[int] = []
    for who, run in runs.items():
        with counted(made):
            once(run)
        assert steps - 1 <= made[0] <= steps + 1, f"{who} made {made[0]} steps, not {steps}"

    calls = {who: partial(once, run) for who, run in runs.items()}
    limit_s = setting.limit_s(name, LIMIT_S)
    seconds = setting.seconds(benchmark, calls, rounds, limit_s, warm_up=0)  # the counted runs were the warm-up
    case = {"benchmark": "range_test", "model": name}
    for who, values in seconds.items():
        over_bare = timing.ratios(values, seconds[BARE], "over_bare")
        ROWS.append({**case, "steps": steps, "contender": who, **timing.statistics(values), **over_bare})
        benchmark.extra_info[who] = over_bare["over_bare"]
    ROWS.extend({**case, "contender": who, "missing": lacking} for who, lacking in missing.items())
    setting.write("range_test", ROWS)


@pytest.mark.parametrize("name", ["MLP, batch 128", "transformer, batch 64"])
def test_range_test_with_adamw(benchmark: Any, setting: Setting, name: str) -> None:
    workload, steps, rounds = setting.work(name)
    data = loader(workload, steps)

    def find(model: nn.Module) -> None:
        ours(model, data, steps, optimizer=clrfast.AdamW(model.parameters(), lr=LOW))

    def once(run: Callable[[nn.Module], Any]) -> None:
        torch.manual_seed(0)
        with quiet():
            run(workload.make().to(setting.device))

    stock = partial(bare, data=data, steps=steps, make_optimizer=adamw)
    calls = {WITH_ADAMW: partial(once, find), BARE: partial(once, stock)}
    seconds = setting.seconds(benchmark, calls, rounds, setting.limit_s(name, LIMIT_S))
    over_bare = timing.ratios(seconds[WITH_ADAMW], seconds[BARE], "over_bare")
    row = {"benchmark": "range_test", "model": name, "steps": steps, "contender": WITH_ADAMW}
    ROWS.append({**row, **timing.statistics(seconds[WITH_ADAMW]), **over_bare})
    benchmark.extra_info[WITH_ADAMW] = over_bare["over_bare"]
    setting.write("range_test", ROWS)


@pytest.mark.parametrize("name", ["digits CNN, batch 64", "MLP, batch 128", "transformer, batch 64"])
def test_range_test_with_trials(benchmark: Any, setting: Setting, name: str) -> None:
    """The trials' own rates decide how many there are, so the bare loop is made to measure."""
    if setting.on_gpu:
        pytest.skip("the time on a GPU is short")
    workload, _, rounds = setting.work(name)
    data = loader(workload, 8)

    def once(run: Callable[[nn.Module], Any]) -> Any:
        torch.manual_seed(0)
        with quiet():
            return run(workload.make().to(setting.device))

    def find(model: nn.Module) -> clrfast.LRCurve:
        return clrfast.range_test(model, nn.CrossEntropyLoss(), data, max_steps=200)

    curve = once(find)
    work = {"data": data, "steps": curve.update_steps, "n_forward_passes": curve.extra_forward_passes}
    calls = {WITH_TRIALS: partial(once, find), BARE: partial(once, partial(bare, **work))}
    seconds = setting.seconds(benchmark, calls, rounds, setting.limit_s(name, LIMIT_S), warm_up=0)
    over_bare = timing.ratios(seconds[WITH_TRIALS], seconds[BARE], "over_bare")
    row = {"benchmark": "range_test", "model": name, "steps": curve.update_steps, "contender": WITH_TRIALS}
    ROWS.append({**row, **timing.statistics(seconds[WITH_TRIALS]), **over_bare})
    setting.write("range_test", ROWS)
