from types import SimpleNamespace

import pytest
import torch

from clrfast import _native, doctor
from clrfast.optim import cuda, native


def line(backend):
    return next(line for line in doctor.report() if line.strip().startswith(backend))


@pytest.mark.parametrize("backend", ["torch", "cpp"])
def test_backends_work_or_say_why_not(backend):
    assert ("works" in line(backend)) == (backend == "torch" or _native.why_missing is None)


def test_missing_native_backend_is_explained(monkeypatch):
    monkeypatch.setattr(_native, "why_missing", "it was not built")
    assert "it was not built; install a C++17 compiler" in line("cpp")
    assert "takes: torch on the CPU" in doctor.report()[-1]


@pytest.mark.skipif(_native.why_missing is not None, reason="no native backend")
@pytest.mark.parametrize(
    ("has_api", "told"),
    [(True, "DLPack exchange API"), (False, "Python (this torch has no exchange API: slower)")],
)
def test_the_way_to_the_tensors_memory_is_told(monkeypatch, has_api, told):
    monkeypatch.setattr(native, "has_exchange_api", has_api)
    assert line("native backends") == f"  native backends find the tensors' memory by: {told}"


@pytest.mark.skipif(_native.why_missing is not None, reason="no native backend")
def test_the_exchange_api_is_used_where_torch_has_it():
    assert native.has_exchange_api == hasattr(torch.Tensor, "__dlpack_c_exchange_api__")


def test_missing_cuda_is_explained(monkeypatch):
    monkeypatch.setattr(_native, "why_missing", None)
    monkeypatch.setattr(_native, "_C", SimpleNamespace(sgd_=None))
    assert "there was no nvcc, or CLRFAST_CUDA=0); install the CUDA toolkit" in cuda.why_not_built()
    built = SimpleNamespace(sgd_cuda_=None, cuda_targets="sm_75, sm_90, sm_120", cuda_problem=lambda: "no driver found")
    monkeypatch.setattr(_native, "_C", built)
    monkeypatch.setattr(doctor, "_state", lambda backend: "works")
    assert line("cuda") == "  cuda   no      native, CUDA devices: built for sm_75 … sm_120, no driver found"
    assert doctor.report()[-1].endswith("cpp on the CPU, torch on CUDA devices, torch elsewhere")
    built.cuda_problem = lambda: ""
    monkeypatch.setattr(doctor.torch.version, "cuda", None)
    assert "itself is built without CUDA" in line("cuda")
