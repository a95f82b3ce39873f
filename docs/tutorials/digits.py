"""Find the rate of a small CNN on handwritten digits, and train it with 1cycle and with constant rates.

python docs/tutorials/digits.py   writes docs/tutorials/digits.png; --short: two epochs, into the current folder
"""

import argparse
from copy import deepcopy
from pathlib import Path

import torch
from matplotlib.figure import Figure

import clrfast
from clrfast.tasks import digits
from clrfast.training import evaluate

parser = argparse.ArgumentParser()
parser.add_argument("--short", action="store_true")
short = parser.parse_args().short
epochs, n_seeds = (2, 1) if short else (5, 5)


def validation_errors(task: clrfast.Task, schedule: clrfast.Schedule) -> list[float]:
    """Train a copy of the model, and return its validation error in per cent after each epoch."""
    copy = deepcopy(task)  # with the same order of the batches
    optimizer = clrfast.SGD(copy.model.parameters(), weight_decay=1e-4, schedule=schedule)
    errors = []
    for _ in range(epochs):
        copy.model.train()
        for inputs, targets in copy.train_loader:
            optimizer.zero_grad()
            loss = copy.loss_fn(copy.model(inputs), targets)
            loss.backward()
            optimizer.step(loss=loss)
        errors.append(100 * (1 - evaluate(copy).accuracy))
    return errors


figure = Figure(figsize=(6.4, 7.6), dpi=150, layout="constrained")
upper, lower = figure.subplots(2, height_ratios=(3, 2))
errors: dict[str, list[list[float]]] = {}
for seed in range(n_seeds):
    torch.manual_seed(seed)
    task = digits.make_task(seed)
    curve = clrfast.range_test(task)
    suggestion = curve.suggest()
    print(f"seed {seed}: {suggestion}")
    if seed == 0:
        curve.plot(upper, suggestion=suggestion)
    steps = epochs * len(task.train_loader)
    for name, schedule in {
        "1cycle up to the suggested rate": clrfast.one_cycle(suggestion.max_lr, steps),
        "constant, the suggested rate": clrfast.constant(suggestion.max_lr, steps, momentum=0.9),
        "constant, a tenth of it": clrfast.constant(suggestion.max_lr / 10, steps, momentum=0.9),
    }.items():
        errors.setdefault(name, []).append(validation_errors(task, schedule))

for (name, runs), color in zip(errors.items(), ("#009E73", "#D55E00", "#6b6b6b"), strict=True):
    values = torch.tensor(runs)  # [seeds, epochs]
    lower.plot(range(1, epochs + 1), values.T, color=color, lw=0.6, alpha=0.5)
    lower.plot(range(1, epochs + 1), values.mean(0), color=color, marker="o", label=name)
    print(f"{name}: {values[:, -1].mean():.2f} % wrong after {epochs} epochs")
lower.set(xlabel="epoch", ylabel="validation error (%)", yscale="log", xticks=range(1, epochs + 1))
lower.set_title(f"Validation error of {n_seeds} seeds (thin) and their mean", loc="left", fontsize=10)
lower.grid(alpha=0.25, lw=0.6)
lower.spines[["top", "right"]].set_visible(False)
lower.legend(frameon=False, fontsize=8.5)
figure.savefig("digits.png" if short else Path(__file__).with_suffix(".png"))
