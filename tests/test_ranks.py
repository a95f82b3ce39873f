import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

import clrfast
from clrfast import Recipe, cli
from clrfast._ranks import Ranks
from clrfast.recipe._distributed import _digest, joined_ranks, require_same_start, torchrun_ranks

pytestmark = pytest.mark.usefixtures("one_thread")

HERE = Path(__file__).parent

GRID = (0.0, 1e-3, 0.1)
"""The grid of ``jobs/recipe_on_ranks.py``."""

OWN = """
    import os
    import signal
    import torch
    from torch.utils.data import DataLoader, TensorDataset
    from clrfast import Task

    def make_task(seed, before_each=lambda: None, seed_of_data=0):
        x = torch.randn(240, 6, generator=torch.Generator().manual_seed(seed_of_data))
        y = (x[:, 0] + x[:, 1] > 0).long()
        train, val = TensorDataset(x[:200], y[:200]), TensorDataset(x[200:], y[200:])
        loader = DataLoader(train, 20, shuffle=True, generator=torch.Generator().manual_seed(seed))

        def loss_fn(outputs, targets):
            if outputs.requires_grad:
                before_each()
            return torch.nn.functional.cross_entropy(outputs, targets)

        torch.manual_seed(seed)
        return Task(torch.nn.Linear(6, 2), loss_fn, loader, DataLoader(val, 40))

    def killed_once(seed):
        # Rank 1 has no part in the range test, so it ends in the middle of the short runs.
        updates = []

        def before_each():
            updates.append(0)
            if os.environ.get("RANK") == "1" and len(updates) == 60:
                os.kill(os.getpid(), signal.SIGKILL)

        return make_task(seed, before_each)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "own.py").write_text(textwrap.dedent(OWN))
    # Pictures for the reports take seconds, and nothing is told by them here.
    (tmp_path / "matplotlib.py").write_text("raise ModuleNotFoundError(name='matplotlib.figure')")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("own", None)


def torchrun(folder, *arguments):
    """Run two ranks; returns the finished process."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(folder), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *arguments]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=100)


two_ranks = pytest.mark.skipif(
    sys.platform == "win32" or not (dist.is_available() and dist.is_gloo_available()), reason="needs gloo"
)


@two_ranks
def test_two_ranks_agree_on_results_and_failures(folder, capsys):
    """All that two ranks do together, in one job, for its start takes seconds."""
    finished = torchrun(folder, str(HERE / "jobs" / "recipe_on_ranks.py"), str(folder))
    assert finished.returncode == 0, finished.stderr
    first, second = (json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1))

    import own

    made = []
    task = own.make_task(0, lambda: made.append(0))
    alone = clrfast.find_weight_decay(
        task.model,
        task.loss_fn,
        task.train_loader,
        val_loader=task.val_loader,
        max_lr=0.1,
        steps=20,
        grid=GRID,
    )
    expected = [alone.values.tolist(), alone.loss.tolist()]
    for came in (first, second):
        assert came["shared_out"]["found"] == expected
        assert came["shared_out"]["updates"] == pytest.approx(len(made) / 2, abs=2)  # losses, those after the runs too
        assert came["broadcast"] == [7, [0, 1]]
    told = [done for done, _ in first["shared_out"]["told"]]
    assert told == sorted(told)
    assert told[-1] == 20 * 2 * len(alone.values)
    assert second["shared_out"]["told"] == []
    assert first["without_group"] == "not called"
    assert second["without_group"] == expected

    long_ones = clrfast.find_recipe(own.make_task(0), 700, planned_steps=100).study.pair_trials.table()
    for came in (first, second):
        assert came["long_runs"]["found"] == [list(row) for row in long_ones]
    assert second["long_runs"]["updates"] == 0  # they follow from each other, and are the first rank's

    told_first = ["RankError", "rank 1 failed: OSError: no such disk"]
    for name in ("a_rank_that_raises", "a_rank_that_raises_at_the_end"):
        assert (first[name], second[name]) == (told_first, ["OSError", "no such disk"])
    assert first["the_first_rank_raises"] == ["ValueError", "saved: missing0 is no folder; make it first"]
    assert second["the_first_rank_raises"] == [
        "RankError",
        f"rank 0 failed: {': '.join(first['the_first_rank_raises'])}",
    ]
    assert second["what_cannot_be_pickled"][0] == "RankError"
    assert second["what_cannot_be_pickled"][1].startswith("rank 0 failed: ")
    assert first["not_in_the_group"][1] == [loss for value, loss in zip(*expected, strict=True) if value in GRID]
    assert second["not_in_the_group"][1].startswith("group: this process is not in it")
    for came in (first, second):
        for name, kind, text in (
            ("all_raise", "ValueError", "val_loader: got None"),
            ("other_models", "ValueError", "group: the ranks differ in model, and"),
            (
                "other_data_and_random_numbers",
                "ValueError",
                "group: the ranks differ in random numbers, train_loader, val",
            ),
            ("other_calls", "RankError", "the ranks came to different places: short runs with [("),
            ("wrapped", "ValueError", "model: got a DistributedDataParallel"),
        ):
            assert came[name][0] == kind
            assert came[name][1].startswith(text)

    assert (first["command"], second["command"]) == (0, 0)
    told = [line.partition(": ")[0] for line in finished.stdout.splitlines()]
    assert told.count("weight decay") == told.count("written") == 1  # by the first alone
    assert not (folder / "two1.json").exists()
    assert cli.main(["recipe", "own:make_task", "--budget", "464", "--out", "one.json"]) == 0
    assert (folder / "two0.json").read_text() == (folder / "one.json").read_text()
    assert Recipe.load("one.json").complete
    assert (folder / "two0.html").read_text().replace("two0.json", "one.json") == (folder / "one.html").read_text()


@two_ranks
def test_a_killed_rank_ends_all_and_one_process_continues(folder, capsys):
    arguments = ["recipe", "own:killed_once", "--budget", "464", "--out"]
    finished = torchrun(folder, "-m", "clrfast", *arguments, "two.json")
    assert finished.returncode != 0
    (told,) = (line for line in finished.stderr.splitlines() if line.startswith("clrfast: "))
    assert "another rank has ended" in told or "SIGTERM" in told  # whichever is noticed first
    assert told.endswith("what was found is in two.json and two.html; the same command goes on from there")
    found = Recipe.load("two.json")
    assert not found.complete
    assert len(found.study.range_tests) == 1
    for out in ("two.json", "one.json"):
        assert cli.main([*arguments, out]) == 0
    assert "learning rate: " not in capsys.readouterr().out.partition("written: two.json")[0]  # it is not found again
    assert (folder / "two.json").read_text() == (folder / "one.json").read_text()


# ------------------------------------------------------------ in one process


def test_a_single_process_makes_the_same_calls_trivially():
    with torchrun_ranks() as ranks:
        assert (ranks.rank, ranks.world_size) == (0, 1)
        assert ranks.all_gather("a place", 3) == [3]
        assert ranks.compute_on_first("a place", lambda: 4) == 4
        require_same_start(ranks, nn.Linear(2, 2), loader=[])
        assert ranks.progress_on_first(True) is True
    with joined_ranks(None) as ranks, joined_ranks(ranks) as same:
        assert same is ranks
    with pytest.raises(OSError, match="as it is"), joined_ranks(None):
        raise OSError("as it is")


def test_one_rank_of_torchrun_is_a_single_process(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("WORLD_SIZE", "1")
    with torchrun_ranks() as ranks:
        assert isinstance(ranks, Ranks)
        assert ranks.world_size == 1
        assert not dist.is_initialized()


def test_each_rank_takes_its_own_cuda_device_as_far_as_they_suffice(monkeypatch):
    for name, value in (("TORCHELASTIC_RUN_ID", "1"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "3")):
        monkeypatch.setenv(name, value)
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(dist, "init_process_group", lambda backend, timeout: chosen.append(backend) or 1 / 0)
    with pytest.raises(ZeroDivisionError), torchrun_ranks():
        pass
    assert chosen == [1, "gloo"]  # before the task is made


def test_a_group_without_a_cpu_backend_is_refused(monkeypatch):
    monkeypatch.setattr(dist, "get_backend_config", lambda group: "cuda:nccl")
    with (
        pytest.raises(ValueError, match=r'group: got one of cuda:nccl, .*new_group\(backend="gloo"\)'),
        joined_ranks(object()),
    ):
        pass


def test_digests_differ_exactly_where_ranks_differ():
    x = torch.arange(6.0).reshape(2, 3)
    same = {"x": x, "more": [1, "a", None, (x.t(),)]}
    assert _digest(same) == _digest({"x": x.clone(), "more": [1, "a", None, (x.t().contiguous(),)]})
    others = [
        {"x": x.t(), "more": same["more"]},
        {"x": x.double(), "more": same["more"]},
        {"x": x + 1e-6, "more": same["more"]},
        {"y": x, "more": same["more"]},
        {"x": x, "more": [1, "b", None, (x.t(),)]},
    ]
    assert len({_digest(other) for other in (same, *others)}) == len(others) + 1
    assert _digest(torch.tensor(True)) != _digest(torch.tensor(False))
    assert _digest(object()) == _digest(object())  # by its kind
