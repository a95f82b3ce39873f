import pytest

from clrfast import _native, doctor


def line(backend):
    return next(line for line in doctor.report() if line.strip().startswith(backend))


@pytest.mark.parametrize("backend", ["torch", "cpp"])
def test_backends_work_or_say_why_not(backend):
    assert ("works" in line(backend)) == (backend == "torch" or _native.why_missing is None)


def test_missing_native_backend_is_explained(monkeypatch):
    monkeypatch.setattr(_native, "why_missing", "it was not built")
    assert "it was not built; install a C++17 compiler" in line("cpp")
    assert "takes: torch on the CPU" in doctor.report()[-1]
