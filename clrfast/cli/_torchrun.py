"""Commands under ``torchrun``: a command finds its ranks, and ends on all of them."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from .._distributed import SINGLE_PROCESS, Ranks
from .._errors import RankError
from ..recipe._shared_trials import shared_failures
from ..tasks import TaskError

TIMEOUT = timedelta(hours=3)
"""Maximum time for which a rank of ``torchrun`` waits for the others, which may be in a range test or a trial. The end
of a process is noticed at once, so this limit is for machines that disappear."""


@contextlib.contextmanager
def torchrun_ranks() -> Iterator[Ranks]:
    """Yield the ranks that ``torchrun`` started, or a single rank without torchrun.

    Each rank gets its own current CUDA device if there are enough. The first rank treats SIGTERM, which torchrun sends
    to all ranks when one has ended, as Ctrl-C, and reports errors. The other ranks exit silently.
    """
    if not dist.is_available() or not dist.is_torchelastic_launched() or os.environ["WORLD_SIZE"] == "1":
        yield SINGLE_PROCESS
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    dist.init_process_group("gloo", timeout=TIMEOUT)
    ranks = Ranks(dist.group.WORLD)
    if ranks.rank == 0:
        signal.signal(signal.SIGTERM, _raise_interrupt)
    try:
        with shared_failures(ranks):
            yield ranks
    except (RankError, TaskError, ValueError, KeyboardInterrupt):
        if ranks.rank == 0:
            raise
        raise SystemExit(1) from None
    finally:
        dist.destroy_process_group()


def ignore_signals() -> None:
    """Ignore SIGINT and SIGTERM until this process ends: torchrun repeats the Ctrl-C that the terminal has sent."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _raise_interrupt(*_: Any) -> None:
    raise KeyboardInterrupt("SIGTERM, which torchrun sends when a rank has ended or all are to end")
