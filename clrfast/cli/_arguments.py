"""The command line's arguments. This module imports nothing that takes time, so that ``--help`` is there at once."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, get_args

from .._version import __version__

METHODS = ("edge", "minimum_tenth", "slide", "steepest", "valley")
"""Rules of ``LRCurve.suggest`` without "clr_bounds", which needs a curve of accuracies."""

LARGEST_LEAP = 4.0
"""Factor between neighbouring rates of an exponential sweep, at most: beyond it one point decides the answer."""

TASK_HELP = (
    "'digits' (a small CNN on scikit-learn's handwritten digits), or your own as package.module:function, "
    "a function without arguments that returns clrfast.Task(model, loss_fn, train_loader, val_loader=None, "
    "compute_loss=None)"
)


class UsageError(Exception):
    """The command cannot be carried out as given; the message is shown, and the exit code is 2."""


class _Command(argparse.ArgumentParser):
    """The parser of one command; ``add_options(parser)`` is called once that command is the one to parse."""

    def __init__(self, *, add_options: Callable[[_Command], None] | None = None, **options: Any):
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)
        self._add_options = add_options

    def parse_known_args(self, *given: Any, **more: Any) -> Any:
        add_options, self._add_options = self._add_options, None
        if add_options is not None:
            add_options(self)
        return super().parse_known_args(*given, **more)


def parsed(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments; ``command`` is the name of the one to run.

    Raises:
        UsageError: they cannot be carried out.
        SystemExit: they cannot be parsed, or ask for help or the version.
    """
    arguments = _parser().parse_args(argv)
    check = {"find": _check_find, "train": _check_sweep, "recipe": _check_recipe, "schedule": _check_schedule}
    if arguments.command in check:
        check[arguments.command](arguments)
    return arguments


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="clrfast",
        description="Find a PyTorch model's learning rate and train it with 1cycle.",
        epilog="clrfast COMMAND --help tells more about each.",
    )
    parser.add_argument("--version", action="version", version=f"clrfast {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command", parser_class=_Command)
    commands.add_parser(
        "find",
        add_options=_find_options,
        help="find a learning rate with a range test",
        description="Trains the task's model for a short while with a rising learning rate, prints the suggested rate "
        "with its reason, and writes lr_range_test.png and lr_range_test.json.",
        epilog="examples:\n  clrfast find digits\n  clrfast find my_package.my_module:make_task --max-lr 1 --steps 200",
    )
    commands.add_parser(
        "train",
        add_options=_train_options,
        help="find a learning rate, then train with 1cycle, beside a constant rate",
        description="Runs the range test, trains the model with 1cycle up to the suggested rate and, from the same "
        "start, with that rate held constant, and prints the validation result of both.",
        epilog="examples:\n  clrfast train digits\n  clrfast train digits --epochs 10 --lr 0.3",
    )
    commands.add_parser(
        "recipe",
        add_options=_recipe_options,
        help="find the settings by short runs",
        description="Finds learning rate, weight decay and momentum by short runs. Writes what it measures to "
        "recipe.json as it comes, and a report for reading to recipe.html. After Ctrl-C the same command goes on from "
        "there.\n\n"
        "Under torchrun the ranks share the short runs. Each has its own CUDA device as the current one, so a task "
        "that puts its model on 'cuda' is spread over all.",
        epilog="examples:\n  clrfast recipe digits\n"
        "  clrfast recipe my_package.my_module:make_task --planned-steps 30000\n"
        "  torchrun --nproc-per-node 2 -m clrfast recipe digits --budget 5min",
    )
    commands.add_parser(
        "schedule",
        add_options=_add_policies,
        help="draw a schedule",
        description="Draws lr, momentum and weight decay of a policy over the run.",
        epilog="examples:\n"
        "  clrfast schedule one_cycle --max-lr 0.8 --total-steps 9310\n"
        "  clrfast schedule cosine_restarts --lr 0.1 --total-steps 700 --period-steps 100 --period-mult 2",
    )
    commands.add_parser(
        "doctor",
        help="tell which backends work here",
        description="Prints which backends work on this machine, and why the others do not.",
    )
    return parser


def _find_options(parser: argparse.ArgumentParser) -> None:
    _range_test_options(parser)
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the picture and the JSON (default: here)")


def _train_options(parser: argparse.ArgumentParser) -> None:
    _range_test_options(parser)
    parser.add_argument("--epochs", type=_positive, default=5, help="passes over the training data (default: 5)")
    parser.add_argument("--lr", type=float, help="highest rate; skips the range test")


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
    parser.add_argument("--method", choices=METHODS, default="edge", help="of the suggestion (default: edge)")
    _add_seed(parser)


def _recipe_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("task", help=TASK_HELP)
    parser.add_argument("--planned-steps", type=int, help="updates of the training that it is for (default: 10000)")
    parser.add_argument(
        "--budget",
        type=_budget,
        help="updates of the search, at least 464, or its time, as 90s, 5min or 1h (default: a tenth of "
        "--planned-steps)",
    )
    parser.add_argument(
        "--batch-sizes", action="store_true", help="look for a faster batch size, too; tries all memory"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("recipe.json"), help="the JSON; the report is beside it (default: recipe.json)"
    )
    parser.add_argument("--anew", action="store_true", help="begin anew, though the JSON is there")
    _add_seed(parser)


def _add_seed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="of all random numbers, and of the task if its function has an argument seed (default: 0)",
    )


def _add_policies(parser: argparse.ArgumentParser) -> None:
    """A command for each policy. What they do and take is told by the functions, so this imports them, and torch."""
    from ..schedules import POLICIES

    policies = parser.add_subparsers(required=True, metavar="POLICY", dest="policy")
    for name, policy in POLICIES.items():
        text = (inspect.getdoc(policy) or "").replace("``", "").split("\n\n>>> ")[0]
        options = policies.add_parser(name, help=text.split("\n\n")[0].replace("%", "%%"), description=text)
        _policy_options(options, policy)
        options.add_argument("--out", type=Path, help="the picture's path (default: POLICY.png here)")


def _policy_options(parser: argparse.ArgumentParser, policy: Callable[..., Any]) -> None:
    """An option for every argument of ``policy`` that numbers can express."""
    from ..schedules._policies import Spacing

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


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a positive number")
    return value


def _steps(text: str) -> int | Literal["auto"]:
    return "auto" if text == "auto" else _positive(text)


def _budget(text: str) -> int | timedelta:
    """600 -> 600 updates; 90s, 5min, 1.5h -> a time."""
    if found := re.fullmatch(r"([0-9]*\.?[0-9]+) ?(s|min|h)", text):
        return timedelta(seconds=float(found[1]) * {"s": 1, "min": 60, "h": 3600}[found[2]])
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {text!r}; give updates, as 600, or a time, as 90s, 5min or 1h") from None


def _check_find(arguments: argparse.Namespace) -> None:
    _require_folder(arguments.out)
    _check_sweep(arguments)


def _check_sweep(arguments: argparse.Namespace) -> None:
    """Refuse a sweep whose rates lie so far apart that it measures nothing between them."""
    steps, min_lr, max_lr = arguments.steps, arguments.min_lr, 10.0 if arguments.max_lr is None else arguments.max_lr
    if steps == "auto" or arguments.spacing != "exponential" or not 0 < min_lr < max_lr:
        return
    least = least_steps(min_lr, max_lr)
    if steps < least:
        raise UsageError(
            f"--steps: got {steps}; give at least {least}, or auto: with fewer from {min_lr:g} to {max_lr:g} each rate "
            f"is more than {LARGEST_LEAP:g} times the one before, and the answer says nothing"
        )


def least_steps(min_lr: float, max_lr: float) -> int:
    """The fewest updates of an exponential sweep without leaps of the rate.

    >>> least_steps(1, 4), least_steps(1, 16.1), least_steps(1e-7, 10)
    (2, 4, 15)
    """
    steps = 2
    while max_lr / min_lr > LARGEST_LEAP ** (steps - 1):
        steps += 1
    return steps


def _check_recipe(arguments: argparse.Namespace) -> None:
    out = arguments.out
    _require_folder(out.parent)
    if out.suffix != ".json":
        raise UsageError(f"--out: got {out}; give a path that ends in .json: the report goes beside it, in .html")


def _check_schedule(arguments: argparse.Namespace) -> None:
    if arguments.out is not None:
        _require_folder(arguments.out.parent)


def _require_folder(path: Path) -> None:
    if not path.is_dir():
        raise UsageError(f"--out: {path} is no folder; make it first")
