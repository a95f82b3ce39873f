"""``clrfast doctor``: which backends work here, and why the others do not."""

from __future__ import annotations

import argparse
import itertools
import math
import os
import platform
from collections.abc import Callable

import torch

from .. import _native
from .._checks import count
from .._version import __version__
from ..optim import SGD, Adam, AdamW, FusedOptimizer
from ..optim import _backends as backends
from ..optim._backends import cuda, native

_STEPS: dict[Callable[..., FusedOptimizer], float] = {SGD: 0.5, Adam: 0.5, AdamW: 0.495}
"""Value of a parameter of 1 with gradient 1 after the first step of each optimizer with lr 0.5."""

_BACKENDS = {"torch": "pure torch, any device", "cpp": "native, CPU", "cuda": "native, CUDA devices"}


def run(arguments: argparse.Namespace) -> None:
    """Print the report."""
    print("\n".join(report()))


def report() -> list[str]:
    """Return the findings as lines."""
    lines = [
        f"clrfast {__version__}, torch {torch.__version__}, Python {platform.python_version()}, "
        f"{platform.system()} {platform.machine()}, {count(os.cpu_count() or 1, 'CPU')}, "
        f"{count(torch.get_num_threads(), 'thread')}",
        f"  imported from {_native.HERE}",
        "",
    ]
    cpu = torch.device("cpu")
    reasons = {name: backends.BACKENDS[name].why_not(cpu) for name in ("torch", "cpp")}
    reasons["cuda"] = cuda.why_not_built() or cuda.why_no_device()
    for name, what in _BACKENDS.items():
        lines.append(f"  {name:6} {_test(name) if reasons[name] is None else f'no      {what}: {reasons[name]}'}")
    on_cpu, on_cuda = (name if reasons[name] is None else "torch" for name in ("cpp", "cuda"))
    if reasons["cpp"] is None:
        lines += ["", f"  native backends find the tensors' memory by: {_memory_path()}"]
    lines += ["", f"  backend='auto' takes: {on_cpu} on the CPU, {on_cuda} on CUDA devices, torch elsewhere"]
    return lines


def _memory_path() -> str:
    if native.has_exchange_api:
        return "DLPack exchange API"
    return "Python (this torch has no exchange API: slower)"


def _test(backend: str) -> str:
    """Make one step of each optimizer with ``backend`` on each of its devices and return the result in words."""
    devices = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if backend == "cuda" else ["cpu"]
    for device, (make, expected) in itertools.product(devices, _STEPS.items()):
        param = torch.nn.Parameter(torch.ones(3, device=device))
        param.grad = torch.ones_like(param)
        try:
            make([param], lr=0.5, backend=backend).step()
            result = param.tolist()
        except RuntimeError as error:
            return f"no      {_BACKENDS[backend]}: {error}"
        if not all(math.isclose(value, expected, rel_tol=1e-6) for value in result):
            return (
                f"BROKEN  {_BACKENDS[backend]}: a step of {make.__name__} from 1 with gradient 1 and lr 0.5 on "
                f"{device} gave {result}; please report this"
            )
    names = {torch.cuda.get_device_name(device) for device in devices} if backend == "cuda" else set()
    return f"works   {_BACKENDS[backend]}{''.join(f', {name}' for name in sorted(names))}"
