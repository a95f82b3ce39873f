"""Import this module before timm: it makes torchvision importable beside a torch of another build than its own."""

from __future__ import annotations

import sys

import torch

_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def declare_missing_operators() -> None:
    """Declare the operators that torchvision registers at its import, where its compiled part cannot be loaded.

    timm imports torchvision. A torchvision for CUDA does not load its operators with a torch for the CPU, and then
    fails at the first that it needs.
    """
    try:
        import torchvision  # noqa: F401
    except ModuleNotFoundError:
        return  # there is none
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", _SIGNATURE)


declare_missing_operators()
