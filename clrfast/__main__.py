"""The entry of the command line: ``clrfast`` and ``python -m clrfast``."""

from __future__ import annotations

import os
import sys

from .cli._arguments import UsageError, parsed

BROKEN_PIPE = 141
"""Exit code, as of a program that SIGPIPE has ended."""


def main() -> int:
    """Run the command line; returns the exit code. A reader that closes the pipe, as ``head`` does, is no error."""
    try:
        try:
            return _run()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python flushes when it ends
        return BROKEN_PIPE


def _run() -> int:
    try:
        parsed()
    except UsageError as error:
        print(f"clrfast: {error}", file=sys.stderr)
        return 2
    from .cli import _commands as cli  # not before the arguments are known to be good, because this imports torch

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
