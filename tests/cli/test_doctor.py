import os
import shutil
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import clrfast
from clrfast import _native
from clrfast.cli import _doctor as doctor
from clrfast.optim._backends import cuda, native


def line(backend):
    return next(line for line in doctor.report() if line.strip().startswith(backend))


@pytest.mark.parametrize("backend", ["torch", "cpp"])
def test_backends_work_or_say_why_not(backend):
    assert ("works" in line(backend)) == (backend == "torch" or _native.why_missing is None)


@pytest.mark.parametrize("optimizer", [clrfast.SGD, clrfast.Adam, clrfast.AdamW])
def test_a_backend_whose_step_is_wrong_is_named_with_its_optimizer(monkeypatch, optimizer):
    monkeypatch.setitem(doctor._STEPS, optimizer, 0.25)
    assert f"BROKEN  pure torch, any device: a step of {optimizer.__name__} from 1 with" in line("torch")


def test_a_missing_native_backend_is_explained(monkeypatch):
    monkeypatch.setattr(_native, "why_missing", "it was not built")
    assert "it was not built; install a C++17 compiler" in line("cpp")
    assert "takes: torch on the CPU" in doctor.report()[-1]


@pytest.mark.skipif(_native.why_missing is not None, reason="no native backend")
@pytest.mark.parametrize(
    ("has_api", "named"),
    [(True, "DLPack exchange API"), (False, "Python (this torch has no exchange API: slower)")],
)
def test_the_access_to_the_tensors_memory_is_named(monkeypatch, has_api, named):
    monkeypatch.setattr(native, "has_exchange_api", has_api)
    assert line("native backends") == f"  native backends find the tensors' memory by: {named}"


@pytest.mark.skipif(_native.why_missing is not None, reason="no native backend")
def test_the_exchange_api_is_used_if_torch_has_it():
    assert native.has_exchange_api == hasattr(torch.Tensor, "__dlpack_c_exchange_api__")


@pytest.mark.slow
@pytest.mark.parametrize("built", [True, False])
def test_a_checkout_that_hides_an_installed_build_is_named(tmp_path, built):
    """As after ``pip install .`` in a checkout, for ``python -m``, pytest and torchrun in it."""
    checkout, installed = tmp_path / "checkout" / "clrfast", tmp_path / "site" / "clrfast"
    shutil.copytree(Path(clrfast.__file__).parent, checkout, ignore=shutil.ignore_patterns("_C*", "__pycache__"))
    installed.mkdir(parents=True)
    if built:
        (installed / f"_C{EXTENSION_SUFFIXES[0]}").touch()
    others = [path for path in sys.path if path and not Path(path, "clrfast").exists()]
    paths = [str(installed.parent), *others]
    # Without the site module, by which an editable install would take part.
    command = [sys.executable, "-S", "-c", "import sys; from clrfast.cli import main; sys.exit(main(['doctor']))"]
    printed = subprocess.run(
        command, cwd=checkout.parent, env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)}, capture_output=True
    ).stdout.decode()
    assert f"imported from {checkout}" in printed
    hides = f"this clrfast, in {checkout}, was not built, and it hides the one in {installed}, which was"
    advice = "start Python in another folder, or build the checkout, too: pip install -e ."
    assert (f"{hides}; {advice}" in printed) == built
    assert ("clrfast._C was not built; install a C++17 compiler" in printed) == (not built)


def test_missing_cuda_is_explained(monkeypatch):
    monkeypatch.setattr(_native, "why_missing", None)
    monkeypatch.setattr(_native, "_C", SimpleNamespace(sgd_=None))
    assert "there was no nvcc, or CLRFAST_CUDA=0); install the CUDA toolkit" in cuda.why_not_built()
    built = SimpleNamespace(sgd_cuda_=None, cuda_targets="sm_75, sm_90, sm_120", cuda_problem=lambda: "no driver found")
    monkeypatch.setattr(_native, "_C", built)
    monkeypatch.setattr(doctor, "_test", lambda backend: "works")
    assert line("cuda") == "  cuda   no      native, CUDA devices: built for sm_75 … sm_120, no driver found"
    assert doctor.report()[-1].endswith("cpp on the CPU, torch on CUDA devices, torch elsewhere")
    built.cuda_problem = lambda: ""
    monkeypatch.setattr(doctor.torch.version, "cuda", None)
    assert "itself is built without CUDA" in line("cuda")
