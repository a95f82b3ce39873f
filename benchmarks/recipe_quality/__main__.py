"""Race of the short recipe's search against Optuna's searches and grids, with the same number of updates.

python -m benchmarks.recipe_quality --kept searches --results benchmarks/results
python -m benchmarks.recipe_quality --contenders clrfast --kept searches --results benchmarks/results

Every contender searches a learning rate and a weight decay with 15 % of the updates of a full grid with one seed. The
searches have seeds of their own, and see only half of the held-out samples. ``reference.py`` and ``rows.py`` hold the
formulas, ``contenders.py`` the contenders. All tasks are searched with one seed before any is searched with the next.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

from ..oracle import find_oracles
from ..peer_packages import why_missing
from ..quality_command import make_parser, parse
from ..result_files import read_rows, write_rows
from ..tables.race import race_tables
from ..task_library.definition import TaskDefinition
from .contenders import CONTENDERS
from .reference import OPTIMIZERS, Reference
from .rows import merged, task_rows
from .searches import Place, Search, find_search
from .tasks import SPLITS

SEARCH_SEEDS = range(100, 102)

BUDGET = 0.15
"""Fraction of the grid's updates with one seed."""

TINY_TASKS = ["diabetes_mlp", "breast_cancer_mlp"]
TINY_STEPS = 40
TINY_BUDGET = 0.35
"""So that ``find_recipe``'s minimum of 464 steps fits."""

References = dict[tuple[str, str], Reference]
"""By optimizer and task."""


def main() -> None:
    arguments, definitions = parse(_parser(), SPLITS, TINY_TASKS, CONTENDERS)
    references = find_references(definitions, arguments)
    if arguments.oracle_only:
        return
    searches: dict[Place, Search] = {}
    for place, search in run(references, arguments):
        searches[place] = search
        print(f"{place.seed} {place.optimizer:6}{place.task:24}{place.contender}", flush=True)
    rows = task_rows(searches, references)
    print(race_tables(rows))
    if arguments.results is not None:
        path = arguments.results / "recipe_quality.json"
        write_rows(path, merged(rows, read_rows(path)))


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("recipe_quality", __doc__, SPLITS)
    parser.add_argument(
        "--contenders", nargs="+", help=f"of {', '.join(CONTENDERS)}; the results of the others stay (default: all)"
    )
    parser.add_argument("--optimizer", nargs="+", choices=OPTIMIZERS, default=[*OPTIMIZERS], help="default: all")
    parser.add_argument("--budget", type=float, default=BUDGET, help="fraction of the grid (default: %(default)s)")
    parser.add_argument("--searches", type=int, default=len(SEARCH_SEEDS), help="per task (default: %(default)s)")
    parser.add_argument("--kept", type=Path, help="folder of searches; a finished one is not repeated")
    parser.add_argument("--oracle-only", action="store_true", help="make no search")
    return parser


def find_references(definitions: list[TaskDefinition], arguments: argparse.Namespace) -> References:
    """Return the reference of every selected task, for each optimizer that it is trained with."""
    references: References = {}
    for name in arguments.optimizer:
        grid, cache, steps = OPTIMIZERS[name].grid, arguments.oracle, None
        if arguments.tiny:
            grid, cache, steps = dataclasses.replace(grid, rates_per_decade=1), None, TINY_STEPS
        own = [each for each in definitions if any(each.name in split for split in OPTIMIZERS[name].splits.values())]
        oracles = find_oracles(own, grid, cache, processes=arguments.processes, steps=steps)
        references |= {(name, task): Reference(oracle, grid) for task, oracle in oracles.items()}
    return references


def run(references: References, arguments: argparse.Namespace) -> Iterator[tuple[Place, Search]]:
    """Run the chosen contenders on every task, one seed after the other. Every training runs on one thread."""
    contenders = [name for name in CONTENDERS if _is_here(name) and name in (arguments.contenders or CONTENDERS)]
    seeds = SEARCH_SEEDS[:1] if arguments.tiny else range(SEARCH_SEEDS[0], SEARCH_SEEDS[0] + arguments.searches)
    budget, kept = (TINY_BUDGET, None) if arguments.tiny else (arguments.budget, arguments.kept)
    places = [
        Place(contender, optimizer, task, seed, budget)
        for seed, (optimizer, task), contender in itertools.product(seeds, references, contenders)
    ]
    one_thread = {"initializer": torch.set_num_threads, "initargs": (1,)}
    with ProcessPoolExecutor(arguments.processes, mp_context=get_context("spawn"), **one_thread) as pool:
        found = [pool.submit(find_search, place, references[place.optimizer, place.task], kept) for place in places]
        for place, search in zip(places, found, strict=True):
            yield place, search.result()


def _is_here(contender: str) -> bool:
    """Return whether a contender's packages are installed; print why it is left out."""
    reason = why_missing(CONTENDERS[contender].packages)
    if reason:
        print(f"{contender}: left out, {reason}")
    return not reason


if __name__ == "__main__":
    main()
