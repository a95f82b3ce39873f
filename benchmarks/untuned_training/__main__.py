"""Compare ways to train a model without tuning anything, by the validation loss at the end.

python -m benchmarks.untuned_training --results benchmarks/results

Every contender trains the tasks of ``finder_quality`` for the same number of updates. The search of clrfast comes on
top; its "charged" variants make that many updates less. ``rows.py`` holds the formula of the score. The oracle of
``finder_quality`` gives the best SGD 1cycle; the contenders run with other seeds.
"""

from __future__ import annotations

import dataclasses

from ..environment import environment
from ..finder_quality.regret import RegretCurve
from ..oracle import find_oracles
from ..quality_command import make_parser, parse
from ..result_files import read_rows, write_rows
from ..tables.untuned import untuned_table
from .contenders import CONTENDERS, GRID, SPLITS
from .measurement import installed, measure_all
from .rows import merged, task_line

FIRST_SEED = 100
"""The first seed of the contenders; far from the oracle's."""

TINY_TASKS = ["wine_mlp", "iris_mlp"]
TINY_GRID = dataclasses.replace(GRID, rates_per_decade=2, seeds=range(1))
TINY_STEPS = 20


def main() -> None:
    parser = make_parser("untuned_training", __doc__, SPLITS)
    parser.add_argument("--contenders", nargs="+", help="run only these (default: all)")
    parser.add_argument("--seeds", type=int, default=3, help="trainings per task (default: %(default)s)")
    arguments, definitions = parse(parser, SPLITS, TINY_TASKS, CONTENDERS)

    grid, cache, steps = (TINY_GRID, None, TINY_STEPS) if arguments.tiny else (GRID, arguments.oracle, None)
    oracles = find_oracles(definitions, grid, cache, processes=arguments.processes, steps=steps)
    curves = {name: RegretCurve(oracle) for name, oracle in oracles.items()}
    seeds = range(FIRST_SEED, FIRST_SEED + (1 if arguments.tiny else arguments.seeds))
    path = None if arguments.results is None else arguments.results / "untuned_training.json"
    rows = [] if path is None else read_rows(path)
    names = installed(arguments.contenders or list(CONTENDERS))
    for found in measure_all(definitions, names, seeds, steps, arguments.processes, curves):
        rows = merged(rows, found)
        print(*map(task_line, found), sep="\n", flush=True)
        if path is not None:
            write_rows(path, rows)
    print(untuned_table({"environment": environment(), "rows": rows}))


if __name__ == "__main__":
    main()
