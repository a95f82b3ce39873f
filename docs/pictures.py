"""Draw the pictures of docs/schedules.md.

python docs/pictures.py
"""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from clrfast.schedules import POLICIES, Schedule, one_cycle, one_cycle_cos, one_cycle_fastai

HERE = Path(__file__).parent
STEPS = 1000
FORMS = {
    "Smith: one_cycle": one_cycle,
    "torch: one_cycle_cos": one_cycle_cos,
    "fastai: one_cycle_fastai": one_cycle_fastai,
}
ARGUMENTS = {
    "constant": {"lr": 1.0},
    "lr_ramp": {"min_lr": 1e-4, "max_lr": 1.0},
    "triangular": {"base_lr": 0.1, "max_lr": 1.0, "step_size": 125},
    "triangular2": {"base_lr": 0.1, "max_lr": 1.0, "step_size": 125},
    "exp_range": {"base_lr": 0.1, "max_lr": 1.0, "step_size": 125, "gamma": 0.998},
    "step_decay": {"lr": 1.0, "step_size": 300, "gamma": 0.3},
    "exponential_decay": {"lr": 1.0, "gamma": 0.997},
    "polynomial_decay": {"lr": 1.0, "power": 2.0},
    "cosine_annealing": {"lr": 1.0},
    "cosine_restarts": {"lr": 1.0, "period_steps": 140, "period_mult": 2},
    "flat_cosine": {"lr": 1.0},
    "inverse_sqrt": {"lr": 1.0, "scale_steps": 50},
}


def one_cycle_forms() -> Figure:
    figure = Figure(figsize=(9.6, 4.2), dpi=150, layout="constrained")
    axes = figure.subplots(2, len(FORMS), sharex=True, sharey="row", height_ratios=(2, 1))
    for column, (title, policy) in enumerate(FORMS.items()):
        table = policy(1.0, STEPS).table()[:, 0]
        for row, name in enumerate(("learning rate", "momentum")):
            axes[row, column].plot(table[:, row], color="#0072B2", lw=1.8)
            axes[row, 0].set_ylabel(name)
        axes[0, column].set_title(title, fontsize=11)
        axes[1, column].set_xlabel("step")
    return _finished(figure)


def gallery() -> Figure:
    n_columns = 3
    figure = Figure(figsize=(9.6, 9.0), dpi=150, layout="constrained")
    axes = figure.subplots(-(-(len(POLICIES) + 1) // n_columns), n_columns, sharex=True).flatten()
    for ax, (name, policy) in zip(axes, POLICIES.items(), strict=False):
        schedule = policy(total_steps=STEPS, **ARGUMENTS.get(name, {"max_lr": 1.0}))
        _line(ax, schedule, name)
    warm = POLICIES["cosine_annealing"](lr=1.0, total_steps=STEPS - 150).with_warm_up(150)
    _line(axes[len(POLICIES)], warm, "cosine_annealing, with_warm_up")
    n_drawn = len(POLICIES) + 1
    for ax in axes[n_drawn:]:
        ax.remove()
    for ax in axes[n_drawn - n_columns : n_drawn]:  # the lowest of each column
        ax.tick_params(labelbottom=True)
        ax.set_xlabel("step")
    return _finished(figure)


def _line(ax: object, schedule: Schedule, name: str) -> None:
    ax.plot(schedule.table()[:, 0, 0], color="#0072B2", lw=1.6)  # type: ignore[attr-defined]
    ax.set_title(name, fontsize=9)  # type: ignore[attr-defined]
    ax.set_ylim(0, 1.08)  # type: ignore[attr-defined]


def _finished(figure: Figure) -> Figure:
    for ax in figure.axes:
        ax.grid(alpha=0.25, lw=0.6)
        ax.spines[["top", "right"]].set_visible(False)
    return figure


if __name__ == "__main__":
    one_cycle_forms().savefig(HERE / "one_cycle_forms.png")
    gallery().savefig(HERE / "policies.png")
