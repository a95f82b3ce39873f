"""Builds a C++ source of this folder as a shared library."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path


def build_library(source: str, folder: Path, *flags: str) -> Path | None:
    """Return the library of ``source``, made in ``folder``; None without a compiler.

    It is linked to nothing, so OpenMP's functions are those of the runtime that torch has loaded. A second runtime
    would have threads of its own, which compete with torch's for the cores.
    """
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        return None
    path, made, library = Path(__file__).with_name(source), folder / "made.o", (folder / source).with_suffix(".so")
    compile_ = [compiler, "-std=c++17", "-O3", "-fPIC", *flags, "-c", str(path), "-o", str(made)]
    for command in (compile_, [compiler, "-shared", str(made), "-o", str(library)]):
        subprocess.run(command, check=True)
    return library
