"""A smoke test of this build on a device: 25 seconds on a GPU.

    python -m benchmarks.speed.gpu_smoke
    python -m benchmarks.speed.gpu_smoke --device cpu    the same for the native backend of CPUs, with eager steps

It prints a line for each check, and exits with 1 at the first that fails: the backend takes one step, two rules in
three dtypes agree with the reference bit for bit, and a captured 1cycle equals the eager one bit for bit.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterable

import torch
from torch import Tensor, nn

import clrfast
from clrfast.cli import _doctor as doctor
from clrfast.training import TrainStep
from clrfast.training._eager_step import EagerStep

from .workloads import mlp

BACKENDS = {"cuda": "cuda", "cpu": "cpp"}
RULES = ("SGD", "AdamW")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SHAPES = [(3, 4), (5,), (), (4097,), (70_001,)]
STEPS, CYCLE_STEPS = 6, 30


class Failed(Exception):
    """A check failed; the message says what it found."""


def doctors_report(device: torch.device) -> list[str]:
    """Return the report of ``clrfast doctor``.

    Raises:
        Failed: the device's backend does not work.
    """
    report = doctor.report()
    backend = BACKENDS[device.type]
    if not any(line.split()[:2] == [backend, "works"] for line in report):
        raise Failed("\n".join([*report, "", f"backend {backend!r} does not work here"]))
    return report


def tensor_path() -> str:
    """Return a line on how this torch's native backends find the memory of tensors."""
    path = "DLPack's exchange API" if hasattr(torch.Tensor, "__dlpack_c_exchange_api__") else "Python, tensor by tensor"
    return f"torch {torch.__version__}: tensors are read through {path}"


def same_as_reference(device: torch.device, rule: str, dtype: torch.dtype) -> str:
    """Compare a few scheduled and clipped steps of the native backend with the reference."""

    def run(backend: str) -> dict[str, list[Tensor]]:
        params = [nn.Parameter(value) for value in _values(device, dtype, 0)]
        schedule = clrfast.one_cycle(0.1, STEPS, weight_decay=1e-2)
        optimizer = getattr(clrfast, rule)(params, schedule=schedule, clip_norm=1.0, backend=backend)
        for step in range(STEPS):
            for param, grad in zip(params, _values(device, dtype, 1 + step), strict=True):
                param.grad = grad
            optimizer.step(loss=torch.tensor(1.0 / (1 + step), device=device))
        return _trained(params, optimizer)

    backend = BACKENDS[device.type]
    _require_equal(run(backend), run("torch"))
    name = f"{rule}, {str(dtype).removeprefix('torch.')}"
    return f"{name}: {STEPS} steps of backend {backend!r} are those of 'torch', bit for bit"


def captured_as_eager(device: torch.device) -> str:
    """Compare a 1cycle of a small network with ``TrainStep`` to one with eager steps."""
    loss_fn = nn.CrossEntropyLoss()
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(CYCLE_STEPS, 32, 784, generator=generator).to(device)
    targets = torch.randint(10, (CYCLE_STEPS, 32), generator=generator).to(device)

    def run(captured: bool) -> tuple[dict[str, list[Tensor]], EagerStep]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = mlp().to(device)
        schedule = clrfast.one_cycle(0.1, CYCLE_STEPS, weight_decay=1e-4)
        optimizer = clrfast.SGD(model.parameters(), schedule=schedule, backend=BACKENDS[device.type])
        if captured:
            step: EagerStep = TrainStep(model, loss_fn, optimizer)
        else:
            step = EagerStep(model, lambda model, batch: loss_fn(model(batch[0]), batch[1]), optimizer)
        for batch in zip(inputs, targets, strict=True):
            step(batch)
        return _trained(model.parameters(), optimizer), step

    (found, step), (expected, _) = run(captured=True), run(captured=False)
    assert isinstance(step, TrainStep)
    if device.type == "cuda" and step.eager_reason is not None:
        raise Failed(f"TrainStep was not captured: {step.eager_reason}")
    _require_equal(found, expected)
    kind = "captured" if step.eager_reason is None else "eager"
    return f"TrainStep, {kind}: {CYCLE_STEPS} steps of a 1cycle are those of EagerStep, bit for bit"


def _values(device: torch.device, dtype: torch.dtype, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(device, dtype) for shape in SHAPES]


def _trained(params: Iterable[Tensor], optimizer: clrfast.SGD | clrfast.AdamW) -> dict[str, list[Tensor]]:
    """Return everything that a run changes."""
    control = optimizer.control
    assert control is not None
    return {
        "parameter": [param.detach() for param in params],
        "state": [tensor for state in optimizer.state.values() for tensor in state.values()],
        "control": [control.losses, control.step, control.row],
    }


def _require_equal(found: dict[str, list[Tensor]], expected: dict[str, list[Tensor]]) -> None:
    for what in expected:
        for index, (ours, theirs) in enumerate(zip(found[what], expected[what], strict=True)):
            if not torch.equal(ours, theirs):
                n = int((ours != theirs).sum())
                largest = (ours.double() - theirs.double()).abs().max().item()
                raise Failed(f"{what} {index}: {n} of {ours.numel()} values differ, by up to {largest:.3g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=list(BACKENDS), default="cuda", help="default: %(default)s")
    device = torch.device(parser.parse_args().device)
    begin = time.monotonic()
    what = "doctor"
    try:
        print("\n".join([*doctors_report(device), "", tensor_path()]), flush=True)
        for rule, dtype in itertools.product(RULES, DTYPES):
            what = f"{rule}, {dtype}"
            print(same_as_reference(device, rule, dtype), flush=True)
        what = "captured 1cycle"
        print(captured_as_eager(device), flush=True)
    except Failed as error:
        raise SystemExit(f"FAILED, {what}: {error}") from None
    print(f"All of it works, in {time.monotonic() - begin:.1f} s after the imports.")


if __name__ == "__main__":
    main()
