"""csrc's CUDA sources compile with every CUDA from 12.1 on: the host code with each version's headers, the kernels with
its NVRTC.

CLRFAST_CUDA_WHEELS names a folder with one folder for each version; ``tests/cuda_versions/install`` fills it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.kernels import RULE_KERNELS

CSRC = Path(__file__).parents[1] / "csrc"
STAND_INS = Path(__file__).with_name("cuda_versions")
VERSIONS = ["12.1", "12.4", "12.8", "13"]
SOURCES = sorted(path.name for path in CSRC.glob("cuda/*.cu"))
COMPILER = shutil.which(os.environ.get("CXX", "c++"))


@pytest.fixture(params=VERSIONS)
def version(request):
    return request.param


@pytest.fixture
def cuda(version):
    """Return the folder with a version's headers and libraries."""
    folder = Path(os.environ.get("CLRFAST_CUDA_WHEELS", os.devnull), version)
    if not folder.is_dir():
        if "CLRFAST_CUDA_WHEELS" in os.environ:
            pytest.fail(f"{folder} is missing; tests/cuda_versions/install makes it")
        pytest.skip("CLRFAST_CUDA_WHEELS is not set; see tests/cuda_versions/install")
    return folder


@pytest.mark.parametrize("source", SOURCES)
def test_the_hosts_side_compiles_with_the_headers(cuda, source):
    if COMPILER is None:
        pytest.skip("no C++ compiler")
    headers = [f"-isystem{path}" for path in cuda.glob("nvidia/*/include")] + [f"-I{CSRC}"]
    flags = ["-std=c++17", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-Wno-attributes", "-Wno-unknown-pragmas"]
    command = [COMPILER, *flags, *headers, "-include", STAND_INS / "host.h", "-xc++", CSRC / "cuda" / source]
    made = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert made.returncode == 0, made.stderr


def kernels(source, version):
    """Return the names of the kernels of a source that a version launches; arguments above 4 KB need CUDA 13."""
    sizes = (4096,) if version.startswith("12") else (4096, 8192, 32764)
    if source == "device.cu":
        grads = f"UpdateArgument<Sgd, float, TensorMetadata, {sizes[-1] - 16}>"  # beside one pointer
        return ["advance_kernel", f"sum_kernel<SumArgument<{grads}>>", "clip_kernel"]
    (rule,) = (rule for rule in RULE_KERNELS if source == f"{rule.file}.cu")
    return [
        f"update_kernel<UpdateArgument<{rule.struct}, {value}, {metadata}, {size}>>"
        for value, metadata, size in rule.kernels(sizes)
    ]


@pytest.mark.parametrize("architecture", ["75", "90"])
@pytest.mark.parametrize("source", SOURCES)
def test_the_kernels_compile_by_nvrtc(cuda, version, source, architecture):
    names = kernels(source, version)
    command = [sys.executable, STAND_INS / "nvrtc.py", cuda, architecture, *names]
    made = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    release, ptx = made.stdout.split("\n", 1)
    assert release.startswith(version)
    assert f".target sm_{architecture}" in ptx
    # Those of a name without arguments are always there.
    functions = {name.partition("<")[0] for name in names}
    entries = re.findall(r"\.entry _ZN7clrfast\d+([a-z_]+_kernel)", ptx)
    assert len([entry for entry in entries if entry in functions]) == len(names), ptx
