"""The smoke test of a device passes on the CPU, and says what is wrong with a broken build."""

import sys

import pytest
import torch

from benchmarks.speed import gpu_smoke
from clrfast import _native
from tests.cuda_on_cpu import emulated_graphs

CPU = torch.device("cpu")


@pytest.mark.skipif(_native.why_missing is not None, reason="no native backend")
def test_every_check_passes_on_the_cpu(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu_smoke", "--device", "cpu"])
    gpu_smoke.main()
    printed = capsys.readouterr().out
    assert printed.count("bit for bit") == len(gpu_smoke.RULES) * len(gpu_smoke.DTYPES) + 1
    assert "cpp    works" in printed
    assert f"torch {torch.__version__}: tensors are read through" in printed


def test_a_captured_cycle_is_the_eager_one(monkeypatch):
    monkeypatch.setitem(gpu_smoke.BACKENDS, "cpu", "torch")
    emulated_graphs.install(monkeypatch)
    assert gpu_smoke.captured_as_eager(CPU).startswith("TrainStep, captured: 30 steps")


def test_a_backend_that_does_not_work_ends_the_smoke_test(monkeypatch):
    monkeypatch.setattr(gpu_smoke.doctor, "report", lambda: ["  cpp    BROKEN  native, CPU", "  cuda   works   native"])
    monkeypatch.setattr(sys, "argv", ["gpu_smoke", "--device", "cpu"])
    with pytest.raises(SystemExit, match=r"FAILED, doctor: (?s:.*)backend 'cpp' does not work here"):
        gpu_smoke.main()


def test_a_value_that_differs_is_named():
    expected = {"parameter": [torch.zeros(3), torch.tensor([1.0, 2.0])]}
    found = {"parameter": [torch.zeros(3), torch.tensor([1.0, 2.5])]}
    with pytest.raises(gpu_smoke.Failed, match=r"parameter 1: 1 of 2 values differ, by up to 0\.5"):
        gpu_smoke._require_equal(found, expected)
