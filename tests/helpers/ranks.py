"""Jobs on several gloo ranks: how a test starts one of ``tests/jobs``, and how the job runs on each rank."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

ROOT = Path(__file__).parents[2]

needs_gloo = pytest.mark.skipif(
    sys.platform == "win32" or not (dist.is_available() and dist.is_gloo_available()), reason="needs gloo"
)
needs_fully_shard = pytest.mark.skipif(torch.__version__ < (2, 6), reason="fully_shard is public from torch 2.6 on")


def run_python(folder: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a script or ``-m MODULE`` with its arguments in ``folder``; it imports from there and from the checkout."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder), os.environ.get("PYTHONPATH", "")]),
    }
    return subprocess.run(
        [sys.executable, *command], env=environment, cwd=folder, capture_output=True, text=True, timeout=300
    )


def torchrun(folder: Path, *command: str | Path, count: int = 2) -> subprocess.CompletedProcess[str]:
    """Run a command as ``run_python`` does, on ``count`` ranks."""
    return run_python(folder, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count), *command)


def run_job(name: str, folder: Path, *arguments: str, count: int = 2) -> list[Any]:
    """Run ``tests/jobs/NAME.py`` and return the results of its ranks; ``folder`` is a new one."""
    finished = torchrun(folder, ROOT / "tests" / "jobs" / f"{name}.py", folder, *arguments, count=count)
    assert finished.returncode == 0, finished.stderr
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(count)]


def run_in_turn(name: str, folder: Path, counts: Sequence[int]) -> dict[int, list[Any]]:
    """Run a job once for each number of ranks, and return the results of all ranks by their number.

    The job's further arguments are ``folder / "of COUNT"``, for checkpoints of its own, and those of the jobs before.
    """
    found: dict[int, list[Any]] = {}
    for count in counts:
        saved = [str(folder / f"of {each}") for each in (count, *found)]
        own = folder / f"job of {count}"
        own.mkdir()
        found[count] = run_job(name, own, *saved, count=count)
    return found


def run_rank(main: Callable[[int, int], Any]) -> None:
    """Run a job's ``main(rank, count)`` in a gloo group and write what it returns for ``run_job``; end the process.

    The interpreter does not finalize. A thread of gloo drops the tensors of a collective after its ``wait()`` has
    returned, and takes the GIL to do so. If the interpreter begins to finalize while that thread waits for the GIL,
    Python ends the thread within a destructor, and the process aborts: "terminate called without an active exception".
    ``destroy_process_group`` joins the threads, but not where something else holds the group, as FSDP2's meshes do.
    """
    torch.set_num_threads(1)
    folder, rank, count = Path(sys.argv[1]), int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    # Not torchrun's own store: a process can make only one group with it, and a job may need that for a command.
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=count, timeout=timedelta(seconds=60))
    results = main(rank, count)
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
    (folder / f"{rank}.json").write_text(json.dumps(results))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
