"""The blocks of Python in a page of the docs, and the names that the pages take for granted."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import clrfast

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FRAMEWORKS = ROOT / "docs" / "integrations.md"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^## (.*)\n", re.MULTILINE)


def blocks(page: Path) -> list[str]:
    """Return the blocks of a page, each after as many empty lines as precede it in the page, for line numbers."""
    return [block for section in sections(page).values() for block in section]


def sections(page: Path) -> dict[str, list[str]]:
    """Return the blocks of a page by the heading of their section; those before the first heading are under ""."""
    text = page.read_text(encoding="utf-8")
    headings = [(0, ""), *((found.start(), found[1]) for found in HEADING.finditer(text))]
    found_sections: dict[str, list[str]] = {}
    for found in BLOCK.finditer(text):
        heading = [name for start, name in headings if start <= found.start()][-1]
        block = "\n" * text.count("\n", 0, found.start(1)) + found[1]
        found_sections.setdefault(heading, []).append(block)
    return found_sections


def execute(some_blocks: list[str], page: Path, names: dict[str, Any]) -> None:
    """Run blocks of a page one after the other, in one namespace."""
    for block in some_blocks:
        exec(compile(block, page, "exec"), names)


def make_model() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 10))


def names_at_hand() -> dict[str, Any]:
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
