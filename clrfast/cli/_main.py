"""The entry of the command line: it runs one command and turns errors into exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from .._errors import NotWrittenError, TaskError
from ._arguments import GREETING, UsageError, parse

FAILED = 1
WRONG_USE = 2
INTERRUPTED = 130
"""Exit code of a program that Ctrl-C ends."""

BROKEN_PIPE = 141
"""Exit code of a program that SIGPIPE ends."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code.

    A reader that closes the pipe, as ``head`` does, is not an error. Torch is imported only once the arguments are
    checked.

    Args:
        argv: the arguments; None takes those of the process.
    """
    try:
        try:
            return _run(argv)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more when it ends
        return BROKEN_PIPE


def _run(argv: Sequence[str] | None) -> int:
    try:
        arguments = parse(argv)
        if arguments.command is None:
            print(GREETING)
            return 0
        import_module(f"{__package__}._{arguments.command}").run(arguments)
    except (UsageError, TaskError, ValueError) as error:
        return _fail(error, WRONG_USE)
    except NotWrittenError as error:
        return _fail(error, FAILED)
    except KeyboardInterrupt as interrupt:
        return _fail("interrupted" + (f": {interrupt}" if interrupt.args else ""), INTERRUPTED)
    return 0


def _fail(message: object, code: int) -> int:
    print(f"clrfast: {message}", file=sys.stderr)
    return code
