"""Import this module before timm: it makes torchvision importable beside a torch of another build than its own.

The variable CLRFAST_TORCHVISION is a folder that holds a torchvision of another build, which no other package sees:
``pip install --no-deps --target FOLDER torchvision``. ``python -m tests.helpers.torchvision_operators SCRIPT`` runs a
script that imports timm.
"""

from __future__ import annotations

import os
import runpy
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


sys.path += filter(None, [os.environ.get("CLRFAST_TORCHVISION")])
declare_missing_operators()

if __name__ == "__main__":
    runpy.run_path(sys.argv[1], run_name="__main__")
