"""The command line: ``clrfast find``, ``train``, ``recipe``, ``schedule`` and ``doctor``."""

from __future__ import annotations

import argparse
import inspect
import random
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from . import doctor, saving
from ._version import __version__
from .finder import LRCurve, NoSuggestionError, Suggestion, range_test
from .finder.restore import restored
from .finder.suggest import METHODS
from .progress import progress_bar
from .ranks import RankError
from .recipe import command as recipe
from .schedules import POLICIES, Schedule, constant, one_cycle
from .schedules.policies import Spacing
from .tasks import Task, TaskError, make_task
from .training import Score, evaluate, steps_per_epoch, train

TASK_HELP = (
    "'digits' (a small CNN on scikit-learn's handwritten digits), or your own as package.module:function, "
    "a function without arguments that returns clrfast.Task(model, loss_fn, train_loader, val_loader=None, "
    "compute_loss=None)"
)


class UsageError(Exception):
    """The command cannot be carried out as given; the message is shown, and the exit code is 2."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except (UsageError, TaskError, ValueError) as error:
        print(f"clrfast: {error}", file=sys.stderr)
        return 2
    except (RankError, saving.NotWrittenError) as error:
        print(f"clrfast: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        print("clrfast: interrupted" + (f": {interrupt}" if interrupt.args else ""), file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="clrfast",
        description="Find a PyTorch model's learning rate and train it with 1cycle.",
        epilog="clrfast COMMAND --help tells more about each.",
    )
    parser.add_argument("--version", action="version", version=f"clrfast {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    find = _command(
        commands,
        "find",
        _find,
        "find a learning rate with a range test",
        "Trains the task's model for a short while with a rising learning rate, prints the suggested rate with its "
        "reason, and writes lr_range_test.png and lr_range_test.json.",
        "examples:\n  clrfast find digits\n  clrfast find my_package.my_module:make_task --max-lr 1 --steps 200",
    )
    _range_test_options(find)
    find.add_argument("--out", type=Path, default=Path("."), help="folder for the picture and the JSON (default: here)")
    training = _command(
        commands,
        "train",
        _train,
        "find a learning rate, then train with 1cycle, beside a constant rate",
        "Runs the range test, trains the model with 1cycle up to the suggested rate and, from the same start, with "
        "that rate held constant, and prints the validation result of both.",
        "examples:\n  clrfast train digits\n  clrfast train digits --epochs 10 --lr 0.3",
    )
    _range_test_options(training)
    training.add_argument("--epochs", type=_positive, default=5, help="passes over the training data (default: 5)")
    training.add_argument("--lr", type=float, help="highest rate; skips the range test")
    search = _command(commands, "recipe", _recipe, "find the settings by short runs", *recipe.HELP)
    search.add_argument("task", help=TASK_HELP)
    recipe.add_options(search)
    drawing = _command(
        commands,
        "schedule",
        None,
        "draw a schedule",
        "Draws lr, momentum and weight decay of a policy over the run.",
        "examples:\n"
        "  clrfast schedule one_cycle --max-lr 0.8 --total-steps 9310\n"
        "  clrfast schedule cosine_restarts --lr 0.1 --total-steps 700 --period-steps 100 --period-mult 2",
    )
    policies = drawing.add_subparsers(required=True, metavar="POLICY")
    for name, policy in POLICIES.items():
        text = (inspect.getdoc(policy) or "").replace("``", "").split("\n\n>>> ")[0]
        options = _command(policies, name, _draw, text.split("\n\n")[0].replace("%", "%%"), text, None)
        _policy_options(options, policy)
        options.add_argument("--out", type=Path, help="the picture's path (default: POLICY.png here)")
        options.set_defaults(policy=name)
    _command(
        commands,
        "doctor",
        lambda _: print("\n".join(doctor.report())),
        "tell which backends work here",
        "Prints which backends work on this machine, and why the others do not.",
        None,
    )
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    run: Callable[[argparse.Namespace], None] | None,
    summary: str,
    description: str | None,
    epilog: str | None,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def _policy_options(parser: argparse.ArgumentParser, policy: Callable[..., Schedule]) -> None:
    """An option for every argument of ``policy`` that numbers can express."""
    for name, parameter in inspect.signature(policy).parameters.items():
        required = parameter.default is parameter.empty
        kinds = {"int": int, "float": float, "float | None": float, "CurveLike | None": float}
        option: dict[str, Any] = {"required": required, "metavar": "NUMBER"}
        if parameter.annotation == "Momentum":
            option |= {"type": float, "nargs": "+", "metavar": ("UPPER", "LOWER")}
        elif parameter.annotation == "Spacing":
            option |= {"choices": get_args(Spacing), "metavar": None}
        elif parameter.annotation in kinds:
            option |= {"type": kinds[parameter.annotation]}
        else:
            continue
        note = "required" if required else f"default: {parameter.default}"
        parser.add_argument(f"--{name.replace('_', '-')}", dest=f"policy_{name}", help=note, **option)


def _range_test_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("task", help=TASK_HELP)
    parser.add_argument("--min-lr", type=float, default=1e-7, help="rate of the first update (default: 1e-7)")
    parser.add_argument(
        "--max-lr", type=float, help="rate of the last update (default: 10, with --steps auto higher until divergence)"
    )
    parser.add_argument(
        "--steps",
        type=_steps,
        default="auto",
        help="updates in the range test, or auto: a coarse sweep, then a fine one where it matters (default: auto)",
    )
    parser.add_argument("--repeats", type=_positive, default=1, help="sweeps, on other batches each (default: 1)")
    parser.add_argument(
        "--spacing",
        choices=("exponential", "linear"),
        default="exponential",
        help="of the rates (default: exponential)",
    )
    methods = sorted(set(METHODS) - {"clr_bounds"})  # that one needs an accuracy curve
    parser.add_argument("--method", choices=methods, default="edge", help="of the suggestion (default: edge)")
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="of all random numbers, and of the task if its function has an argument seed (default: 0)",
    )


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a positive number")
    return value


def _steps(text: str) -> int | Literal["auto"]:
    return "auto" if text == "auto" else _positive(text)


def _find(arguments: argparse.Namespace) -> None:
    task = _made(arguments)
    # Before the work, so that a missing folder costs nothing.
    if not arguments.out.is_dir():
        raise UsageError(f"--out: {arguments.out} is no folder; make it first")
    curve = _measured(task, arguments)
    data, picture = arguments.out / "lr_range_test.json", arguments.out / "lr_range_test.png"
    curve.save(data)
    try:
        suggestion: Suggestion | None = curve.suggest(arguments.method)
    except NoSuggestionError as error:
        suggestion, problem = None, error
    written = [data]
    try:
        figure: Any = curve.plot(suggestion=suggestion).figure
        saving.write_figure(picture, figure)
        written.append(picture)
    except ModuleNotFoundError as error:
        print(f'no picture: {error.name} is not installed (pip install "clrfast[plot]")', file=sys.stderr)
    print(f"range test: {curve.stop_reason}")
    if suggestion is not None:
        print(
            f"suggested learning rate: {suggestion.max_lr:.3g} ({suggestion.low:.2g} to {suggestion.high:.2g}), "
            f"lower bound {suggestion.base_lr:.2g}\n  {suggestion.method}: {suggestion.reason}"
        )
    print("written: " + ", ".join(map(str, written)))
    if suggestion is None:
        raise UsageError(f"no suggestion: {problem}")


def _train(arguments: argparse.Namespace) -> None:
    task = _made(arguments)
    max_lr = arguments.lr
    if max_lr is None:
        suggestion = _measured(task, arguments).suggest(arguments.method)
        max_lr = suggestion.max_lr
        print(f"suggested learning rate: {max_lr:.3g} ({suggestion.reason})")
    total_steps = arguments.epochs * steps_per_epoch(task)
    print(f"{arguments.epochs} epochs, {total_steps} steps:")
    for name, schedule in (
        ("1cycle", one_cycle(max_lr, total_steps)),
        ("constant", constant(max_lr, total_steps)),
    ):
        # Both runs start from the same weights, random numbers and order of the data.
        with restored(task.model, loader=task.train_loader):
            with progress_bar(name) as progress:
                losses = train(task, schedule, progress=progress)
            result = _described(evaluate(task), float(losses[-1]))
        print(f"  {name:9} {result}")


def _recipe(arguments: argparse.Namespace) -> None:
    recipe.run(partial(_made, arguments), arguments)


def _draw(arguments: argparse.Namespace) -> None:
    prefix = "policy_"
    given = {k.removeprefix(prefix): v for k, v in vars(arguments).items() if k.startswith(prefix) and v is not None}
    momentum = given.get("momentum")
    if isinstance(momentum, list):
        given["momentum"] = momentum[0] if len(momentum) == 1 else tuple(momentum)
    schedule = POLICIES[arguments.policy](**given)
    path = arguments.out or Path(f"{arguments.policy}.png")
    if not path.parent.is_dir():
        raise UsageError(f"--out: {path.parent} is no folder; make it first")
    try:
        saving.write_figure(path, schedule.plot())
    except ModuleNotFoundError as error:
        raise UsageError(f'{error.name} is not installed (pip install "clrfast[plot]")') from None
    print(f"written: {path}")


def _made(arguments: argparse.Namespace) -> Task:
    torch.manual_seed(arguments.seed)
    random.seed(arguments.seed)
    np.random.seed(arguments.seed)  # noqa: NPY002 - the task's function may use it
    return make_task(arguments.task, arguments.seed)


def _measured(task: Task, arguments: argparse.Namespace) -> LRCurve:
    return range_test(
        task.model,
        task.loss_fn,
        task.train_loader,
        compute_loss=task.compute_loss,
        min_lr=arguments.min_lr,
        max_lr=arguments.max_lr,
        steps=arguments.steps,
        spacing=arguments.spacing,
        repeats=arguments.repeats,
        progress=True,
    )


def _described(score: Score | None, last_loss: float) -> str:
    if score is None:
        return f"last training loss {last_loss:.4g} (the task has no validation data)"
    accuracy = "" if score.accuracy is None else f"validation accuracy {100 * score.accuracy:.2f} %, "
    return f"{accuracy}validation loss {score.loss:.4g}"
