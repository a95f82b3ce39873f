"""Which backends work here, and why the others do not."""

from __future__ import annotations

import os
import platform

import torch

from . import _native
from ._version import __version__
from .optim import SGD


def report() -> list[str]:
    """The findings, a line each."""
    lines = [
        f"clrfast {__version__}, torch {torch.__version__}, Python {platform.python_version()}, "
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs, {torch.get_num_threads()} threads",
        "",
    ]
    lines += [f"  {name:6} {_state(name)}" for name in ("torch", "cpp")]
    lines += [
        "",
        f"  backend='auto' takes: {'cpp' if _native.why_missing is None else 'torch'} on the CPU, torch elsewhere",
    ]
    return lines


def _state(backend: str) -> str:
    """Whether one step of ``backend`` does what it must; else why not."""
    what = {"torch": "pure torch, any device", "cpp": "native, CPU"}[backend]
    if backend == "cpp" and _native.why_missing is not None:
        return f"no      {what}: {_native.why_missing}; {_native.HOW_TO_BUILD}"
    param = torch.nn.Parameter(torch.ones(3))
    param.grad = torch.ones(3)
    SGD([param], lr=0.5, backend=backend).step()
    if not torch.equal(param, torch.full((3,), 0.5)):
        return f"BROKEN  {what}: a step from 1 with gradient 1 and lr 0.5 gave {param.tolist()}; please report this"
    return f"works   {what}"
