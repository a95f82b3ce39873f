"""Train in few steps without tuning: 1cycle at the suggested rate, and a piecewise constant rate at each of four rates.

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
budgets, n_seeds = ((1, 2), 1) if short else ((1, 2, 3, 5, 10), 4)
RATES = (0.3,) if short else (0.01, 0.1, 0.3, 3.0)
"""Rates of the baseline."""


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
    **{
        f"piecewise constant from {lr:g}": [
            [accuracy(seed, piecewise_constant, lr, epochs) for seed in range(n_seeds)] for epochs in budgets
        ]
        for lr in RATES
    },
}

figure = Figure(figsize=(6.4, 3.8), dpi=150, layout="constrained")
ax = figure.subplots()
colors = ("#009E73", "#E69F00", "#D55E00", "#AA4499", "#6b6b6b")
for (name, values), color in zip(runs.items(), colors, strict=False):
    errors = 100 - torch.tensor(values)  # [budgets, seeds]
    ours = name.startswith("1cycle")
    ax.plot(budgets, errors.mean(1), color=color, marker="o", lw=2.2 if ours else 1.2, label=name)
    print(f"{name}: " + ", ".join(f"{mean:.2f} %" for mean in errors.mean(1).tolist()))
ax.set(xlabel="epochs of the whole training", ylabel="validation error (%)", yscale="log", xscale="log")
ax.set_xticks(budgets, map(str, budgets))
ax.minorticks_off()
ax.set_title(f"Handwritten digits, small CNN: mean of {n_seeds} seeds", loc="left", fontsize=10)
ax.grid(alpha=0.25, lw=0.6)
ax.spines[["top", "right"]].set_visible(False)
ax.legend(frameon=False, fontsize=8.5)
figure.savefig("super_convergence.png" if short else Path(__file__).with_suffix(".png"))
