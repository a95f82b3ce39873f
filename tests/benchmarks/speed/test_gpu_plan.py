"""The plan of benchmarks/gpu.sh: its deadline, order and files, on parts that take no time."""

import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

from benchmarks.speed import gpu_plan
from benchmarks.speed.gpu_plan import COMMANDS, GRACE_S, MAX_FILES, PARTS, ROOT, Command, Part

VALUES = {"out": "/results", "targets": "75,90", "arch": "75"}


class FakeMachine:
    """A clock that only running parts advance; ``takes`` and ``statuses`` hold their seconds and exit statuses."""

    def __init__(self, takes=None, statuses=None):
        self.now, self.takes, self.statuses = 1000.0, takes or {}, statuses or {}
        self.ran = []

    def execute(self, words, limit_s):
        self.ran.append((words, limit_s))
        seconds = self.takes.get(words[0], 1)
        self.now += min(seconds, limit_s)
        return 124 if seconds > limit_s else self.statuses.get(words[0], 0)

    def run(self, parts, budget_s):
        return gpu_plan.run(parts, budget_s, VALUES, execute=self.execute, clock=lambda: self.now)


def part(name, seconds=10, limit_s=20, **options):
    return Part(name, seconds, limit_s, options.pop("words", name), **options)


def results(outcomes):
    return {outcome.name: outcome.result for outcome in outcomes}


def test_the_plan_fits():
    assert gpu_plan.problems(COMMANDS, PARTS) == []
    assert COMMANDS["first"].budget_s <= 240
    assert COMMANDS["rest"].budget_s <= 330
    assert {part for command in COMMANDS.values() for part in command.parts} == set(PARTS)
    assert len(gpu_plan.files_of("all", list(PARTS.values()))) <= MAX_FILES


def test_the_script_prints_the_plan():
    printed = subprocess.run(["bash", "benchmarks/gpu.sh", "--dry-run"], cwd=ROOT, capture_output=True, text=True)
    assert printed.returncode == 0, printed.stderr
    assert all(name in printed.stdout for name in [*COMMANDS, *PARTS])


def test_every_part_gets_its_limit_or_what_is_left():
    machine = FakeMachine(takes={"a": 20, "b": 12, "c": 1})
    outcomes = machine.run([part("a"), part("b"), part("c", limit_s=100)], 60)
    assert [limit_s for _, limit_s in machine.ran] == [20, 20, 60 - 20 - 12 - GRACE_S]
    assert [outcome.seconds for outcome in outcomes] == [20, 12, 1]
    assert set(results(outcomes).values()) == {"ok"}


def test_a_part_that_hangs_is_stopped_and_the_next_one_runs():
    outcomes = FakeMachine(takes={"a": 1000}).run([part("a"), part("b")], 60)
    assert results(outcomes) == {"a": "STOPPED at its limit of 20 s", "b": "ok"}
    assert [outcome.failed for outcome in outcomes] == [True, False]


def test_a_part_with_less_than_half_of_its_time_is_left_out_and_a_shorter_one_runs():
    machine = FakeMachine(takes={"a": 20})
    outcomes = machine.run([part("a"), part("b", seconds=60, limit_s=60), part("c")], 20 + GRACE_S + 29)
    assert results(outcomes) == {"a": "ok", "b": "left out, no time", "c": "ok"}
    assert not any(outcome.failed for outcome in outcomes)


def test_a_failed_part_does_not_stop_the_others():
    outcomes = FakeMachine(statuses={"a": 3}).run([part("a"), part("b")], 60)
    assert results(outcomes) == {"a": "FAILED with 3", "b": "ok"}


def test_a_failed_build_stops_all():
    machine = FakeMachine(statuses={"make": 1})
    outcomes = machine.run([part("build", words="make", required=True), part("a"), part("b")], 60)
    assert results(outcomes) == {"build": "FAILED with 1", **dict.fromkeys("ab", "left out, build failed")}
    assert len(machine.ran) == 1
    assert PARTS["build"].required
    assert all(command.parts[0] == "build" for command in COMMANDS.values())


def test_words_are_split_and_filled_in():
    machine = FakeMachine()
    machine.run([part("a", words="x {out}/r.json --targets {targets} -arch=sm_{arch} '{limit} s'")], 60)
    assert machine.ran == [(["x", "/results/r.json", "--targets", "75,90", "-arch=sm_75", "20 s"], 20)]


@pytest.mark.parametrize("name", PARTS)
def test_every_part_can_be_filled_in(name):
    machine = FakeMachine()
    machine.run([PARTS[name]], 600)
    ((words, limit_s),) = machine.ran
    assert limit_s == PARTS[name].limit_s
    assert not any("{" in word for word in words)
    assert bool(PARTS[name].files) == ("/results" in " ".join(words))


WRONG = {
    "too long": (Command(19, ("a", "b")), {}, "its parts take 20 s, and it has 19 s"),
    "too many files": (
        *(Command(60, ("a", "b")), {"files": tuple(f"{number}.json" for number in range(MAX_FILES))}),
        f"it leaves {MAX_FILES + 1} files, and {MAX_FILES} come back",
    ),
    "a limit below what it takes": (Command(60, ("a",)), {"limit_s": 9}, "its limit of 9 s is below the 10 s"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_with_a_plan_is_a_sentence(name):
    command, changes, message = WRONG[name]
    (problem,) = gpu_plan.problems({"first": command}, {"a": replace(part("a"), **changes), "b": part("b")})
    assert message in problem


def test_a_file_counts_once():
    assert gpu_plan.files_of("rest", [part("a", files=("x", "y")), part("b", files=("y",))]) == [
        *("gpu_rest.log", "x", "y")
    ]


def test_commands_and_parts_are_chosen_by_name():
    parts, budget_s = gpu_plan.chosen(["first", "rest"])
    assert [part.name for part in parts] == list(dict.fromkeys(COMMANDS["first"].parts + COMMANDS["rest"].parts))
    assert budget_s == 240 + 330
    parts, budget_s = gpu_plan.chosen(["build", "tests"])
    assert [part.name for part in parts] == ["build", "tests"]
    assert all(part.granted_s(budget_s) == part.limit_s for part in parts)
    with pytest.raises(SystemExit, match="there is no part 'nothing'; give one of first rest build"):
        gpu_plan.chosen(["build", "nothing"])


@pytest.mark.skipif(shutil.which("timeout") is None, reason="needs GNU timeout")
def test_at_its_limit_a_command_is_interrupted_as_by_ctrl_c():
    program = "import time\ntry: time.sleep(60)\nexcept KeyboardInterrupt: raise SystemExit(0)"
    assert gpu_plan.interrupted_at([sys.executable, "-c", program], 1) == 124
    assert gpu_plan.interrupted_at([sys.executable, "-c", "raise SystemExit(7)"], 20) == 7


def test_without_a_gpu_or_a_commit_nothing_runs(monkeypatch):
    monkeypatch.delenv("CLRFAST_COMMIT", raising=False)
    monkeypatch.setattr(gpu_plan, "_printed", lambda *words: "")
    with pytest.raises(SystemExit, match="nvidia-smi finds no GPU"):
        gpu_plan.capabilities()
    with pytest.raises(SystemExit, match="set CLRFAST_COMMIT"):
        gpu_plan.require_commit()
    monkeypatch.setenv("CLRFAST_COMMIT", "abc1234")
    gpu_plan.require_commit()


def test_capabilities_are_sorted_and_each_is_named_once(monkeypatch):
    monkeypatch.setattr(gpu_plan, "_printed", lambda *words: "12.0\n9.0\n9.0\n")
    assert gpu_plan.capabilities() == ["90", "120"]
