"""Every block of Python in the README and the docs runs, page by page, with a small model and its data at hand."""

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import clrfast

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page):
    """Return the blocks of a page, each after as many empty lines as precede it in the page, for line numbers."""
    text = page.read_text(encoding="utf-8")
    return ["\n" * text.count("\n", 0, found.start(1)) + found[1] for found in BLOCK.finditer(text)]


def make_model():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 10))


def names_at_hand():
    """Return what the pages take for granted: a model, its loss and its data."""
    torch.manual_seed(0)
    labels = torch.randint(10, (640,))
    images = torch.randn(640, 1, 8, 8) + F.one_hot(labels, 64).view(-1, 1, 8, 8) * 4
    train_set, val_set = TensorDataset(images[:512], labels[:512]), TensorDataset(images[512:], labels[512:])
    return {
        **{"torch": torch, "nn": nn, "F": F, "clrfast": clrfast, "DataLoader": DataLoader},
        **{
            "make_model": make_model,
            "model": make_model(),
            "loss_fn": nn.CrossEntropyLoss(),
            "epochs": 2,
            "total_steps": 64,
        },
        **{"train_set": train_set, "val_set": val_set, "images": images, "labels": labels, "device": "cpu"},
        "train_loader": DataLoader(train_set, 16, shuffle=True),
        "val_loader": DataLoader(val_set, 64),
        "real_loader": DataLoader(images[:512].flatten(1), 16),
    }


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.stem)
def test_all_blocks_of_a_page_run(page, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    names = names_at_hand()
    for block in blocks(page):
        exec(compile(block, page, "exec"), names)


def test_the_module_of_getting_started_is_complete():
    pytest.importorskip("sklearn")
    (module,) = [block for block in blocks(ROOT / "docs" / "getting-started.md") if "def make_task" in block]
    names = {}
    exec(module, names)
    task = names["make_task"]()
    assert clrfast.range_test(task, steps=20).initial_loss > 1
    assert clrfast.training.evaluate(task).n_samples == 397


def test_a_failing_block_is_reported_with_its_line(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("text\n\n```python\nfirst = 1\n\nsecond = missing\n```\n")
    (block,) = blocks(page)
    with pytest.raises(NameError) as caught:
        exec(compile(block, page, "exec"), {})
    assert caught.traceback[-1].lineno == 5  # counted from 0
