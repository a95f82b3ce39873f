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

CSRC = Path(__file__).parents[1] / "csrc"
STAND_INS = Path(__file__).with_name("cuda_versions")
VERSIONS = ["12.1", "12.4", "12.8", "13"]
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


def test_the_hosts_side_compiles_with_the_headers(cuda):
    if COMPILER is None:
        pytest.skip("no C++ compiler")
    headers = [f"-isystem{path}" for path in cuda.glob("nvidia/*/include")] + [f"-I{CSRC}"]
    flags = ["-std=c++17", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-Wno-attributes", "-Wno-unknown-pragmas"]
    command = [
        COMPILER,
        *flags,
        *headers,
        "-include",
        STAND_INS / "host.h",
        "-xc++",
        CSRC / "cuda" / "sgd.cu",
    ]
    made = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert made.returncode == 0, made.stderr


def kernels(version):
    """Return the names of the kernels that a version launches; arguments above 4 KB need CUDA 13."""
    sizes = [4096] if version.startswith("12") else [4096, 8192, 32764]
    launches = [
        (value, metadata, n)
        for value in ("float", "double")
        for metadata in ("TensorMetadata", "FullTensorMetadata")
        for n in sizes
    ]
    return ["advance_kernel", *("update_kernel<UpdateArgument<{}, {}, {}>>".format(*launch) for launch in launches)]


@pytest.mark.parametrize("architecture", ["75", "90"])
def test_the_kernels_compile_by_nvrtc(cuda, version, architecture):
    command = [sys.executable, STAND_INS / "nvrtc.py", cuda, architecture, *kernels(version)]
    made = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    release, ptx = made.stdout.split("\n", 1)
    assert release.startswith(version)
    assert f".target sm_{architecture}" in ptx
    assert len(re.findall(r"\.entry \w+_kernel", ptx)) == len(kernels(version)), ptx
