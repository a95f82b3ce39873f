"""The arguments of all commands. This module imports nothing slow, so that ``--help`` answers at once."""

from __future__ import annotations

import argparse
import inspect
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, get_args

from .._checks import require_positive, require_ramp_steps
from .._version import __version__

METHODS = ("trials", "edge", "minimum_tenth", "slide", "steepest", "valley")
"""Methods of ``LRCurve.suggest`` except "clr_bounds", which needs a curve of accuracies."""

OPTIMIZERS = ("sgd", "adamw")
"""Optimizers by which a command trains."""

POLICY_PREFIX = "policy_"
"""Prefix of the attributes that hold a policy's arguments, so that they cannot collide with others."""

TASK_HELP = (
    "'digits' (a small CNN on scikit-learn's handwritten digits), or your own as package.module:function, "
    "a function that returns clrfast.Task(model, loss_fn, train_loader, val_loader=None, compute_loss=None); an "
    "argument seed is optional"
)

TEXTS: dict[str, dict[str, Any]] = {
    "find": {
        "help": "find a learning rate with a range test",
        "description": "Trains the task's model for a short while with a rising learning rate, prints the suggested "
        "rate with its reason, and writes lr_range_test.png and lr_range_test.json.",
        "epilog": "examples:\n  clrfast find digits\n  clrfast find digits --optimizer adamw\n"
        "  clrfast find my_package.my_module:make_task --max-lr 1 --steps 200",
    },
    "train": {
        "help": "find a learning rate, then compare 1cycle with a constant rate",
        "description": "Runs the range test, trains the model with 1cycle up to the suggested rate and, from the same "
        "start, with that rate held constant, and prints the validation result of both.",
        "epilog": "examples:\n  clrfast train digits\n  clrfast train digits --epochs 10 --lr 0.3",
    },
    "recipe": {
        "help": "find the settings with short runs",
        "description": "Finds learning rate, weight decay and momentum with short runs. Writes the recipe to "
        "recipe.json, and a readable report to recipe.html.\n\n"
        "With --storage the runs are trials of an Optuna study in a file or a database. The same command, typed again "
        "on any machine that sees the storage, or started by torchrun, Slurm or Kubernetes, adds a worker. Workers "
        "come and go; after Ctrl-C or a kill the same command continues. Under torchrun each worker has its own "
        "current CUDA device.",
        "epilog": "examples:\n  clrfast recipe digits\n  clrfast recipe digits --optimizers sgd adamw\n"
        "  clrfast recipe my_package.my_module:make_task --planned-steps 30000\n"
        "  clrfast recipe digits --storage recipe.log           # in several terminals\n"
        "  clrfast recipe digits --storage recipe.log --report  # while the search runs\n"
        "  torchrun --nproc-per-node 2 -m clrfast recipe digits --storage recipe.log --budget 5min",
    },
    "schedule": {
        "help": "draw a schedule",
        "description": "Draws lr, momentum and weight decay of a policy over the run.",
        "epilog": "examples:\n"
        "  clrfast schedule one_cycle --max-lr 0.8 --total-steps 9310\n"
        "  clrfast schedule cosine_restarts --lr 0.1 --total-steps 700 --period-steps 100 --period-mult 2",
    },
    "doctor": {
        "help": "show which backends work here",
        "description": "Prints which backends work on this machine, and why the others do not.",
    },
}
"""Help of each command."""


GREETING = f"""\
clrfast {__version__} finds the learning rate of a PyTorch model and trains it with 1cycle.

  clrfast find digits               find a learning rate, on handwritten digits
  clrfast find my_module:make_task  the same for your own model, loss and data
  clrfast train digits              find the rate, then train with 1cycle

clrfast --help lists all commands, clrfast COMMAND --help explains one."""
"""What ``clrfast`` prints without a command."""


class UsageError(Exception):
    """The command cannot be carried out as given; the message is shown, and the exit code is 2."""


class _Command(argparse.ArgumentParser):
    """The parser of one command; ``add_options(parser)`` is called only if that command is parsed."""

    def __init__(self, *, add_options: Callable[[_Command], None] | None = None, description: str = "", **options: Any):
        formatter = argparse.RawDescriptionHelpFormatter  # for the lines of examples and formulas
        super().__init__(formatter_class=formatter, description=_wrap(description), **options)
        self._add_options = add_options

    def parse_known_args(self, *given: Any, **more: Any) -> Any:
        add_options, self._add_options = self._add_options, None
        if add_options is not None:
            add_options(self)
        arguments, unknown = super().parse_known_args(*given, **more)
        if unknown:
            self.error(
                f"{' '.join(unknown)}: {self.prog} has no such argument; see {self.prog} --help, or leave it out"
            )
        return arguments, unknown


def _wrap(text: str) -> str:
    """Wrap the paragraphs of ``text`` at the width of argparse's help, except those that begin with a space."""
    width = shutil.get_terminal_size().columns - 2
    paragraphs = text.split("\n\n")
    return "\n\n".join(each if each.startswith(" ") else textwrap.fill(each, width) for each in paragraphs)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse and check the arguments; the attribute ``command`` is the name of the command, None without one.

    Raises:
        UsageError: the command cannot be carried out with these arguments.
        SystemExit: they cannot be parsed, or ask for help or the version.
    """
    words = [_rename_optimizers(word) for word in (sys.argv[1:] if argv is None else argv)]
    arguments = _make_parser().parse_args(words)
    check = {"find": _check_find, "train": _check_ramp, "recipe": _check_recipe, "schedule": _check_schedule}
    if arguments.command in check:
        check[arguments.command](arguments)
    return arguments


def _rename_optimizers(word: str) -> str:
    """Return ``word`` with the option --optimizers, the spelling of ``recipe``, as --optimizer.

    argparse completes it there. As a second spelling in the other commands it would make --opt ambiguous.

    >>> _rename_optimizers("--optimizers"), _rename_optimizers("--optimizers=sgd"), _rename_optimizers("--opt")
    ('--optimizer', '--optimizer=sgd', '--opt')
    """
    return re.sub("^--optimizers(?==|$)", "--optimizer", word)


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="clrfast",
        description="Find a PyTorch model's learning rate and train it with 1cycle.",
        epilog="clrfast COMMAND --help describes one in detail.",
    )
    parser.add_argument("--version", action="version", version=f"clrfast {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", dest="command", parser_class=_Command)
    add_options = {
        "find": _add_find_options,
        "train": _add_train_options,
        "recipe": _add_recipe_options,
        "schedule": _add_policies,
    }
    for name, texts in TEXTS.items():
        commands.add_parser(name, add_options=add_options.get(name), **texts)
    return parser


def _add_find_options(parser: argparse.ArgumentParser) -> None:
    _add_range_test_options(parser)
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the picture and the JSON (default: here)")


def _add_train_options(parser: argparse.ArgumentParser) -> None:
    _add_range_test_options(parser)
    parser.add_argument("--epochs", type=_positive, default=5, help="passes over the training data (default: 5)")
    parser.add_argument("--lr", type=float, help="highest rate; skips the range test")


def _add_range_test_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("task", help=TASK_HELP)
    parser.add_argument("--min-lr", type=float, default=1e-7, help="rate of the first update (default: 1e-7)")
    parser.add_argument(
        "--max-lr", type=float, help="rate of the last update (default: 10; --steps auto goes higher until divergence)"
    )
    parser.add_argument(
        "--steps",
        type=_steps,
        default="auto",
        help="updates in the range test, or auto: a coarse ramp, then a fine one where it matters (default: auto)",
    )
    parser.add_argument("--repeats", type=_positive, default=1, help="ramps, on other batches each (default: 1)")
    parser.add_argument(
        "--spacing",
        choices=("exponential", "linear"),
        default="exponential",
        help="spacing of the rates (default: exponential)",
    )
    parser.add_argument(
        "--method",
        choices=METHODS,
        help="method of the suggestion: trials, or a rule for the ramp alone, without trials (default: trials with "
        "--steps auto, else edge)",
    )
    parser.add_argument("--thorough", action="store_true", help="always run the longer trials, too")
    parser.add_argument(
        "--optimizer",
        choices=OPTIMIZERS,
        default="sgd",
        help="optimizer: sgd with momentum, or adamw with weight decay 0.01 (default: sgd)",
    )
    _add_seed(parser)


def _add_recipe_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("task", help=TASK_HELP)
    parser.add_argument("--planned-steps", type=int, help="updates of the planned training (default: 10000)")
    parser.add_argument(
        "--budget",
        type=_budget,
        help="updates of the search, at least 464, or its time, as 90s, 5min or 1h (default: a tenth of "
        "--planned-steps)",
    )
    parser.add_argument(
        "--optimizers",
        nargs="+",
        choices=OPTIMIZERS,
        default=["sgd"],
        help="the optimizer that the settings are for, or several to choose from (default: sgd)",
    )
    parser.add_argument(
        "--batch-sizes", action="store_true", help="look for a faster batch size, too; may use all memory"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("recipe.json"),
        help="the JSON; the report goes to the same folder (default: recipe.json)",
    )
    parser.add_argument(
        "--storage", help="journal file, or URL of a database, that the workers of a search share (default: no other)"
    )
    parser.add_argument("--study-name", help="name of the search in the storage (default: the task)")
    parser.add_argument("--report", action="store_true", help="only write what the storage holds now, and end")
    _add_seed(parser)


def _add_seed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="seed of all random numbers, and of the task if its function has an argument seed (default: 0)",
    )


def _add_policies(parser: argparse.ArgumentParser) -> None:
    """Add a subcommand for each policy. Help and options come from the functions, so this imports them, and torch."""
    from ..schedules import POLICIES

    policies = parser.add_subparsers(required=True, metavar="POLICY", dest="policy")
    for name, policy in POLICIES.items():
        texts = [text for text in _paragraphs(policy) if not re.match("(Args|Examples|Raises|Source):", text)]
        options = policies.add_parser(name, help=texts[0].replace("%", "%%"), description="\n\n".join(texts))
        _add_policy_options(options, policy, _argument_texts(policy, POLICIES))
        options.add_argument("--out", type=Path, help="the picture's path (default: POLICY.png here)")


def _paragraphs(policy: Callable[..., Any]) -> list[str]:
    return (inspect.getdoc(policy) or "").replace("``", "").split("\n\n")


def _argument_texts(policy: Callable[..., Any], policies: Mapping[str, Callable[..., Any]]) -> dict[str, str]:
    """Return what the docstring of a policy says of each argument, after "Args:".

    Where it says "as in ``other``", return the text of that policy.
    """
    paragraphs = _paragraphs(policy)
    section = next((text for text in paragraphs if text.startswith("Args:")), "").partition("\nRaises:")[0]
    found = re.findall(r"^    ([\w, ]+): (.*(?:\n {5,}.*)*)", section, re.MULTILINE)
    texts = {name: " ".join(text.split()).rstrip(".") for names, text in found for name in names.split(", ")}
    for name, text in texts.items():
        if (other := policies.get(text.removeprefix("as in "))) is not None:
            texts[name] = _argument_texts(other, policies)[name]
    return texts


def _add_policy_options(parser: argparse.ArgumentParser, policy: Callable[..., Any], texts: dict[str, str]) -> None:
    """Add an option for every argument of ``policy`` that numbers can express, with what ``texts`` says of it."""
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
        note = (f"{texts[name]} ({note})" if name in texts else note).replace("%", "%%")
        parser.add_argument(f"--{name.replace('_', '-')}", dest=f"{POLICY_PREFIX}{name}", help=note, **option)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a positive number")
    return value


def _steps(text: str) -> int | Literal["auto"]:
    return "auto" if text == "auto" else _positive(text)


def _budget(text: str) -> int | timedelta:
    """Parse updates, as 600, or a time, as 90s, 5min or 1.5h."""
    if found := re.fullmatch(r"([0-9]*\.?[0-9]+) ?(s|min|h)", text):
        return timedelta(seconds=float(found[1]) * {"s": 1, "min": 60, "h": 3600}[found[2]])
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {text!r}; give updates, as 600, or a time, as 90s, 5min or 1h") from None


def _check_find(arguments: argparse.Namespace) -> None:
    _require_writable(arguments.out)
    _check_ramp(arguments)


def _check_ramp(arguments: argparse.Namespace) -> None:
    """Refuse a ramp without an end or with too few rates for an answer."""
    steps, min_lr, max_lr = arguments.steps, arguments.min_lr, 10.0 if arguments.max_lr is None else arguments.max_lr
    require_positive(**{"--max-lr": max_lr})
    if steps != "auto" and 0 < min_lr < max_lr:
        require_ramp_steps("--steps", steps, min_lr, max_lr, arguments.spacing)


def _check_recipe(arguments: argparse.Namespace) -> None:
    out = arguments.out
    _require_writable(out.parent)
    if arguments.report and arguments.storage is None:
        raise UsageError("--report: it reads a storage; give --storage, as in the search's own command")
    if arguments.storage is None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("--storage: it is missing; the processes of torchrun share a search through it: give a file")
    if out.suffix != ".json":
        raise UsageError(f"--out: got {out}; give a path that ends in .json; the report has the same path with .html")


def _check_schedule(arguments: argparse.Namespace) -> None:
    if arguments.out is not None:
        _require_folder(arguments.out.parent)


def _require_folder(path: Path) -> None:
    if not os.path.isdir(path):  # Path.is_dir raises where the path is too long or in a closed folder
        raise UsageError(f"--out: {path} is not a folder; create it first")


def _require_writable(path: Path) -> None:
    """Refuse a folder that cannot be written to, before any training."""
    _require_folder(path)
    if not os.access(path, os.W_OK | os.X_OK):
        raise UsageError(f"--out: {path} cannot be written to; change its permissions, or give another folder")
