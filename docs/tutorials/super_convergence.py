"""Train in fewer steps: 1cycle against a piecewise constant rate, with budgets of one to ten epochs.

python docs/tutorials/super_convergence.py   writes docs/tutorials/super_convergence.png; --short: into this folder
"""

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure

import clrfast
from clrfast.schedules import Constant, Joined, Schedule
from clrfast.tasks import digits
from clrfast.training import evaluate, train

parser = argparse.ArgumentParser()
parser.add_argument("--short", action="store_true")
short = parser.parse_args().short
budgets, n_seeds = ((1, 2), 1) if short else ((1, 2, 3, 5, 7, 10), 5)
RATES = (0.3,) if short else (0.03, 0.1, 0.3, 1.0)
"""Rates of the baseline. It gets the best of them at each budget, in hindsight."""


def piecewise_constant(lr: float, steps: int) -> Schedule:
    """Return the usual schedule: the rate is divided by 10 after half and after three quarters of the steps."""
    parts = Constant(lr), Constant(lr / 10), Constant(lr / 100)
    return Schedule(Joined(parts, (steps // 2, 3 * steps // 4)), momentum=0.9, weight_decay=1e-4, total_steps=steps)


def accuracy(seed: int, make_schedule, lr: float, epochs: int) -> float:
    """Return the validation accuracy in per cent after a training of ``epochs``, from the weights of ``seed``."""
    task = digits.make_task(seed)
    torch.manual_seed(seed)
    train(task, make_schedule(lr, epochs * len(task.train_loader)))
    return 100 * evaluate(task).accuracy


def one_cycle(lr: float, steps: int) -> Schedule:
    return clrfast.one_cycle(lr, steps, weight_decay=1e-4)


suggested = [clrfast.range_test(digits.make_task(seed)).suggest().max_lr for seed in range(n_seeds)]
runs = {
    "1cycle at the suggested rate": [
        [accuracy(seed, one_cycle, suggested[seed], epochs) for seed in range(n_seeds)] for epochs in budgets
    ],
    "piecewise constant, the best of four rates": [
        max(([accuracy(seed, piecewise_constant, lr, epochs) for seed in range(n_seeds)] for lr in RATES), key=sum)
        for epochs in budgets
    ],
}

figure = Figure(figsize=(6.4, 3.8), dpi=150, layout="constrained")
ax = figure.subplots()
for (name, values), color in zip(runs.items(), ("#009E73", "#D55E00"), strict=True):
    found = torch.tensor(values)  # [budgets, seeds]
    ax.plot(budgets, found.mean(1), color=color, marker="o", label=name)
    ax.fill_between(budgets, found.amin(1), found.amax(1), color=color, alpha=0.15, lw=0)
    print(f"{name}: " + ", ".join(f"{mean:.2f} %" for mean in found.mean(1).tolist()))
ax.set(xlabel="epochs of the whole training", ylabel="validation accuracy (%)")
ax.set_title(f"Handwritten digits, small CNN: mean and range of {n_seeds} seeds", loc="left", fontsize=10)
ax.grid(alpha=0.25, lw=0.6)
ax.spines[["top", "right"]].set_visible(False)
ax.legend(frameon=False, fontsize=9, loc="lower right")
figure.savefig("super_convergence.png" if short else Path(__file__).with_suffix(".png"))
