"""``clrfast schedule``: the picture of a policy."""

from __future__ import annotations

import argparse
from pathlib import Path

from .. import _saving as saving
from ..schedules import POLICIES
from ._arguments import POLICY_PREFIX, UsageError
from ._screen import write


def run(arguments: argparse.Namespace) -> None:
    """Draw the schedule that the policy makes of its arguments, and write the picture.

    Raises:
        UsageError: matplotlib is not installed.
    """
    options = {
        name.removeprefix(POLICY_PREFIX): value
        for name, value in vars(arguments).items()
        if name.startswith(POLICY_PREFIX) and value is not None
    }
    momentum = options.get("momentum")
    if isinstance(momentum, list):
        options["momentum"] = momentum[0] if len(momentum) == 1 else tuple(momentum)
    schedule = POLICIES[arguments.policy](**options)
    path = arguments.out or Path(f"{arguments.policy}.png")
    try:
        figure = schedule.plot()
    except ModuleNotFoundError as error:
        raise UsageError(f"{error.name} is not installed (pip install matplotlib)") from None
    written = write(path, lambda path: saving.write_figure(path, figure))
    print(f"written: {written}")
