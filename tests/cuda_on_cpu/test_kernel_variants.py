"""benchmarks/speed/kernel_variants on the CPU: every variant gives the right numbers."""

from __future__ import annotations

import json
import math
import re
import subprocess
from collections import Counter

import pytest

from benchmarks.speed import shapes

from . import build

FOLDER = build.ROOT / "benchmarks" / "speed" / "kernel_variants"


def test_every_variant_gives_the_right_numbers(tmp_path):
    if build.COMPILER is None:
        pytest.skip("no C++ compiler")
    program, results = tmp_path / "kernel_variants", tmp_path / "variants.json"
    build.compiled("-xc++", *build.FLAGS, "-DEMULATED_CUDART_VERSION=13000", FOLDER / "main.cu", to=program)
    made = subprocess.run([program, results, "--tiny"], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    rows = json.loads(results.read_text())["rows"]
    assert {row["form"] for row in rows} == {"merged", "two launches", "early", "nothing"}
    assert {row["search"] for row in rows if row["form"] != "nothing"} == {"segments", "bisection"}
    assert {row["dtype"] for row in rows} == {"float32", "bfloat16"}


@pytest.mark.parametrize(
    ("name", "made"),
    [("ResNet-56", shapes.resnet56), ("ResNet-50", shapes.resnet50), ("Llama 3.2 1B", shapes.decoder_1b)],
)
def test_the_models_are_those_of_the_other_benchmarks(name, made):
    (sizes,) = re.findall(rf'{{"{name}",\s*{{(.*?)}}}},?\n', (FOLDER / "model.h").read_text(), re.DOTALL)
    counted = {int(numel): int(count) for count, numel in re.findall(r"\{(\d+), (\d+)\}?", "{" + sizes)}
    assert counted == Counter(map(math.prod, made()))
