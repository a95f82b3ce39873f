"""Kills workers of a search at random, and compares what is left with an undisturbed search.

python -m benchmarks.recipe_quality.kill_workers --workers 16 --seconds 120

Every killed worker is replaced. The study has to end with the same finished trials as that of one undisturbed worker,
each once, with the same losses. Needs ``fork``, so that a new worker starts at once.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch

import clrfast
from clrfast.recipe import Study, _storage

from .engine import make

BUDGET = 20_000
"""Updates of the search: 22 short trials of about 900."""

LEASE_SECONDS = 5.0
"""Lease of a trial here, in place of a minute."""


def search(storage: Path) -> Study:
    """Work on the search until it is complete."""
    torch.set_num_threads(1)
    _storage.LEASE_SECONDS = LEASE_SECONDS
    return clrfast.find_recipe(make(), BUDGET, planned_steps=BUDGET, storage=storage).study


def search_with_kills(storage: Path, n_workers: int, seconds: float) -> int:
    """Search with ``n_workers``, of which one is killed about every second; return the number of kills."""
    fork = multiprocessing.get_context("fork")
    chosen = random.Random(0)

    def start() -> multiprocessing.process.BaseProcess:
        worker = fork.Process(target=search, args=(storage,))
        worker.start()
        return worker

    workers, n_killed, end = [start() for _ in range(n_workers)], 0, time.monotonic() + seconds
    while time.monotonic() < end and any(worker.is_alive() for worker in workers):
        time.sleep(chosen.uniform(0.5, 1.5))
        place = chosen.randrange(n_workers)
        if workers[place].is_alive():
            workers[place].kill()
            workers[place].join()
            n_killed += workers[place].exitcode == -signal.SIGKILL
            workers[place] = start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0, worker.exitcode
    return n_killed


def compare(disturbed: Study, undisturbed: Study) -> None:
    """Raise AssertionError unless both have the same trials with the same losses, each once."""
    for study in (disturbed, undisturbed):
        assert max(Counter(trial.spec.key for trial in study.trials).values()) == 1
    expected = {trial.spec.key: trial.to_plain()["outcome"]["result"] for trial in undisturbed.trials}
    assert {trial.spec.key: trial.to_plain()["outcome"]["result"] for trial in disturbed.trials} == expected


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=120.0, help="during which workers are killed")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        one, many = Path(folder, "one.log"), Path(folder, "many.log")
        start = time.monotonic()
        n_killed = search_with_kills(many, arguments.workers, arguments.seconds)
        seconds = time.monotonic() - start
        disturbed = clrfast.Recipe.from_storage(many).study
        compare(disturbed, search(one))
    n_workers = len({trial.worker for trial in disturbed.trials})
    print(
        f"{n_killed} kills in {seconds:.0f} s; {len(disturbed.trials)} trials by {n_workers} workers, each once, equal"
    )


if __name__ == "__main__":
    main()
