"""The plan of benchmarks/gpu.sh on a machine with a GPU: its parts, their order, and the seconds of each.

    python -m benchmarks.speed.gpu_plan DIR [first | rest | PART]...
    python -m benchmarks.speed.gpu_plan --dry-run

A command has a deadline. Each part gets its own limit or the time left, whichever is less, and is left out when less
than half of its expected time is left. A failed part does not stop the others, except for the build.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
MAX_FILES = 8
"""Upper bound of the files that one command leaves, its log included."""
GRACE_S = 5
"""Seconds from the interrupt at a part's limit to its end, in which pytest prints the failures that it found."""


@dataclass(frozen=True)
class Part:
    """One step of the plan.

    Attributes:
        name: its name on the command line.
        seconds: expected run time.
        limit_s: longest run time.
        words: command line, split as a shell does. ``{out}`` is the folder of the results, ``{limit}`` the seconds that
            the part gets, ``{targets}`` the compute capabilities of the GPUs here, ``{arch}`` the first of them.
        files: result files that the part writes to ``{out}``.
        required: whether its failure ends the command.
    """

    name: str
    seconds: int
    limit_s: int
    words: str
    files: tuple[str, ...] = ()
    required: bool = False

    def granted_s(self, left_s: float) -> int | None:
        """Return the seconds that the part gets when ``left_s`` are left; None if they are too few to start it."""
        usable_s = int(left_s) - GRACE_S
        return None if usable_s < self.seconds / 2 else min(self.limit_s, usable_s)


@dataclass(frozen=True)
class Command:
    """Parts that run in one call, in this order, within ``budget_s`` seconds."""

    budget_s: int
    parts: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """The end of a part: ``result`` is "ok" or says what happened."""

    name: str
    result: str
    seconds: float = 0.0

    @property
    def failed(self) -> bool:
        return self.result.startswith(("FAILED", "STOPPED"))


def _pytest(path: str) -> str:
    return f"python3 -m pytest -q -p no:cacheprovider {path} --device=cuda --results={{out}}"


_TESTS = "python3 -m pytest -m gpu -p no:cacheprovider"
# Without the caching allocator every tensor has its own allocation, and an access past its end is an error.
_SANITIZER = "env PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --error-exitcode 1 --launch-timeout 0"
_SANITIZED = f"{_TESTS} tests/gpu/test_sanitized.py"
_OURS = "--kernel-name kernel_substring=clrfast"  # the namespace, in the kernel's mangled name

_LIST = [
    Part(
        *("build", 15, 60),
        "env CLRFAST_CPP=1 CLRFAST_CUDA=1 CLRFAST_CUDA_TARGETS={targets} python3 setup.py -q build_ext --inplace",
        required=True,
    ),
    Part("smoke", 25, 40, "python3 -m benchmarks.speed.gpu_smoke"),
    Part(
        *("variants", 30, 60),
        "bash -c 'nvcc -O3 -std=c++17 -fmad=false -arch=sm_{arch} -Icsrc benchmarks/speed/kernel_variants/main.cu"
        " -o build/kernel_variants && build/kernel_variants {out}/kernel_variants_gpu.json'",
        files=("kernel_variants_gpu.json",),
    ),
    Part("step", 65, 90, "python3 -m benchmarks.speed.bench_gpu --results {out}", files=("step_gpu.json",)),
    Part("tests", 100, 200, f"{_TESTS} -ra -o faulthandler_timeout=30"),
    Part(
        *("ncu", 20, 40),
        "ncu --clock-control none --profile-from-start off"
        " --kernel-name regex:(advance|update|sum|clip)_kernel"
        " --section SpeedOfLight --section MemoryWorkloadAnalysis --section WarpStateStats --section LaunchStats"
        " --section Occupancy --print-details all python3 -m benchmarks.speed.ncu_target",
    ),
    Part(
        *("headline", 115, 150),
        # Only the published run may take longer than expected: a 1cycle that is cut short has no result.
        "python3 -m benchmarks.speed.headline --cifar10 .cifar10 --limit-s {limit} --spare-s 115 --results {out}",
        files=("headline_gpu.json",),
    ),
    Part("range_test", 45, 60, _pytest("benchmarks/speed/bench_range_test.py"), files=("range_test_gpu.json",)),
    Part("train", 45, 70, _pytest("benchmarks/speed/bench_train.py"), files=("train_gpu.json",)),
    Part("host", 15, 40, _pytest("benchmarks/speed/bench_host.py"), files=("host_gpu.json",)),
    # torch makes calls that may fail: errors of the API are not errors of clrfast's kernels.
    Part("memcheck", 25, 60, f"{_SANITIZER} --tool memcheck {_OURS} --report-api-errors no {_SANITIZED}"),
    Part("sweep", 30, 60, _pytest("benchmarks/speed/bench_sweep.py"), files=("sweep_gpu.json",)),
    # All kernels are watched: what an unwatched kernel has written counts as uninitialised.
    Part("initcheck", 20, 60, f"{_SANITIZER} --tool initcheck {_SANITIZED} -k float32"),
]
PARTS = {part.name: part for part in _LIST}
"""Parts by name. There is no racecheck: it watches shared memory, of which the kernels use little. One thread writes it
before a barrier and all read it after that."""

COMMANDS = {
    "first": Command(240, ("build", "smoke", "variants", "step", "tests")),
    "rest": Command(330, ("build", "ncu", "headline", "range_test", "train", "host", "memcheck", "sweep", "initcheck")),
}
"""The commands, their most valuable parts first. The second build takes no time if the first one is still there."""


def files_of(name: str, parts: Sequence[Part]) -> list[str]:
    """Return the files that a command leaves."""
    return [f"gpu_{name}.log", *dict.fromkeys(file for part in parts for file in part.files)]


def problems(commands: Mapping[str, Command], parts: Mapping[str, Part]) -> list[str]:
    """Return what is wrong with a plan, one sentence each."""
    found = []
    for name, command in commands.items():
        chosen = [parts[part] for part in command.parts]
        seconds, n_files = sum(part.seconds for part in chosen), len(files_of(name, chosen))
        if seconds > command.budget_s:
            found.append(f"{name}: its parts take {seconds} s, and it has {command.budget_s} s")
        if n_files > MAX_FILES:
            found.append(f"{name}: it leaves {n_files} files, and {MAX_FILES} come back")
        for part in chosen:
            if part.limit_s < part.seconds:
                found.append(f"{part.name}: its limit of {part.limit_s} s is below the {part.seconds} s that it takes")
    return found


def print_plan(commands: Mapping[str, Command], parts: Mapping[str, Part]) -> None:
    for name, command in commands.items():
        chosen = [parts[part] for part in command.parts]
        print(f"{name}: {sum(part.seconds for part in chosen)} of {command.budget_s} s")
        print(f"  {'part':12} {'seconds':>7} {'at most':>7}  files")
        for part in chosen:
            print(f"  {part.name:12} {part.seconds:7} {part.limit_s:7}  {' '.join(part.files)}".rstrip())
        files = files_of(name, chosen)
        print(f"  {len(files)} of {MAX_FILES} files: {' '.join(files)}\n")


def interrupted_at(words: list[str], limit_s: int) -> int:
    """Run a command; interrupt it like Ctrl-C after ``limit_s`` seconds, and kill it ``GRACE_S`` later."""
    limits = ["timeout", "--signal=INT", f"--kill-after={GRACE_S}", str(limit_s)]
    return subprocess.run([*limits, *words], cwd=ROOT).returncode


def run(
    parts: Sequence[Part],
    budget_s: float,
    values: Mapping[str, str],
    *,
    execute: Callable[[list[str], int], int] = interrupted_at,
    clock: Callable[[], float] = time.monotonic,
) -> list[Outcome]:
    """Run ``parts`` one after the other within ``budget_s`` seconds.

    Args:
        values: of the names in braces in ``Part.words``, except for ``limit``.
        execute: ``execute(words, limit_s)`` runs a command and returns its exit status; 124 or 137 past the limit.
        clock: returns seconds.
    """
    end = clock() + budget_s
    outcomes: list[Outcome] = []
    for index, part in enumerate(parts):
        limit_s = part.granted_s(end - clock())
        if limit_s is None:
            outcomes.append(Outcome(part.name, "left out, no time"))
            continue
        print(f"\n== {part.name}, at most {limit_s} s", flush=True)
        begin = clock()
        status = execute([word.format(**values, limit=limit_s) for word in shlex.split(part.words)], limit_s)
        outcomes.append(Outcome(part.name, _result(status, limit_s), clock() - begin))
        if part.required and status != 0:
            outcomes += [Outcome(other.name, f"left out, {part.name} failed") for other in parts[index + 1 :]]
            break
    return outcomes


def _result(status: int, limit_s: int) -> str:
    if status == 0:
        return "ok"
    return f"STOPPED at its limit of {limit_s} s" if status in (124, 137) else f"FAILED with {status}"


def chosen(names: Sequence[str]) -> tuple[list[Part], int]:
    """Return the parts of the given commands and parts, each once, and their budget in seconds.

    Raises:
        SystemExit: there is no such command or part.
    """
    unknown = [name for name in names if name not in COMMANDS and name not in PARTS]
    if unknown:
        raise SystemExit(f"gpu.sh: there is no part {unknown[0]!r}; give one of {' '.join([*COMMANDS, *PARTS])}")
    budget_s = sum(COMMANDS[name].budget_s if name in COMMANDS else PARTS[name].limit_s + GRACE_S for name in names)
    each = [COMMANDS[name].parts if name in COMMANDS else (name,) for name in names]
    return [PARTS[part] for part in dict.fromkeys(part for some in each for part in some)], budget_s


def capabilities() -> list[str]:
    """Return the compute capabilities of the GPUs here, such as "90", ascending.

    Raises:
        SystemExit: there is no GPU.
    """
    printed = _printed("nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader")
    found = {int(major + minor) for major, minor in re.findall(r"^(\d+)\.(\d)\s*$", printed, re.MULTILINE)}
    if not found:
        raise SystemExit("gpu.sh: nvidia-smi finds no GPU here")
    return [str(capability) for capability in sorted(found)]


def require_commit() -> None:
    """Check that the commit is known: results without it are worthless.

    Raises:
        SystemExit: neither git nor CLRFAST_COMMIT says it.
    """
    if not (os.environ.get("CLRFAST_COMMIT") or _printed("git", "rev-parse", "HEAD")):
        raise SystemExit(
            "gpu.sh: the commit is unknown; set CLRFAST_COMMIT to what `git rev-parse --short HEAD` prints where the "
            "history is"
        )


def _printed(*words: str) -> str:
    """Return what a command prints; nothing if it does not exist."""
    try:
        return subprocess.run(words, cwd=ROOT, capture_output=True, text=True).stdout
    except OSError:
        return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="for logs and results")
    parser.add_argument("names", nargs="*", help="first, rest or parts (default: first rest)")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and check that it fits")
    arguments = parser.parse_args()
    if arguments.dry_run:
        print_plan(COMMANDS, PARTS)
        wrong = problems(COMMANDS, PARTS)
        print("\n".join(wrong) or "It fits.")
        return bool(wrong)
    if arguments.folder is None:
        parser.error("give a folder for the results, or --dry-run")
    require_commit()
    targets = capabilities()
    # A command in the background inherits an ignored interrupt. Its parts must react to interrupts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    parts, budget_s = chosen(arguments.names or list(COMMANDS))
    values = {"out": str(arguments.folder.resolve()), "targets": ",".join(targets), "arch": targets[0]}
    outcomes = run(parts, budget_s, values)
    print()
    for outcome in outcomes:
        print(f"{outcome.name:12} {outcome.seconds:5.0f} s  {outcome.result}")
    return any(outcome.failed for outcome in outcomes)


if __name__ == "__main__":
    raise SystemExit(main())
