import sys
import textwrap
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch import nn

import clrfast
from clrfast import Recipe, cli
from clrfast._distributed import Ranks
from clrfast.cli._torchrun import torchrun_ranks
from clrfast.recipe._shared_trials import _digest, joined_ranks, require_same_start
from tests.helpers.ranks import needs_gloo, run_job, torchrun

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]

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


def write_modules(folder):
    (folder / "own.py").write_text(textwrap.dedent(OWN))
    # Pictures for the reports take seconds, and no test here looks at them.
    (folder / "matplotlib.py").write_text("raise ModuleNotFoundError(name='matplotlib.figure')")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with the module ``own``."""
    write_modules(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("own", None)


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """The results of ``jobs/recipe_on_ranks.py`` on both ranks: one job, because a start takes seconds."""
    folder = tmp_path_factory.mktemp("job")
    write_modules(folder)
    first, second = run_job("recipe_on_ranks", folder)
    return SimpleNamespace(folder=folder, first=first, second=second, both=(first, second))


def find_weight_decay_alone():
    """Run the job's search in this process; return values and losses, and the number of losses computed."""
    import own

    losses = []
    task = own.make_task(0, lambda: losses.append(0))
    found = clrfast.find_weight_decay(
        task.model,
        task.loss_fn,
        task.train_loader,
        val_loader=task.val_loader,
        max_lr=0.1,
        steps=20,
        grid=GRID,
    )
    return [found.values.tolist(), found.loss.tolist()], len(losses)


@needs_gloo
def test_short_runs_shared_by_two_ranks_equal_those_of_one_process(job, folder):
    expected, n_losses = find_weight_decay_alone()
    for results in job.both:
        assert results["shared_out"]["found"] == expected
        assert results["shared_out"]["updates"] == pytest.approx(n_losses / 2, abs=2)  # with the losses after the runs
        assert results["broadcast"] == [7, [0, 1]]
    done = [steps for steps, _ in job.first["shared_out"]["told"]]
    assert done == sorted(done)
    assert done[-1] == 20 * 2 * len(expected[0])
    assert job.second["shared_out"]["told"] == []  # only the first rank reports progress
    assert job.first["without_group"] == "not called"
    assert job.second["without_group"] == expected
    in_grid = [loss for value, loss in zip(*expected, strict=True) if value in GRID]
    assert job.first["not_in_the_group"][1] == in_grid


@needs_gloo
def test_long_runs_are_made_by_the_first_rank_alone(job, folder):
    import own

    expected = clrfast.find_recipe(own.make_task(0), 700, planned_steps=100).study.pair_trials.table()
    for results in job.both:
        assert results["long_runs"]["found"] == [list(row) for row in expected]
    assert job.second["long_runs"]["updates"] == 0  # each follows from those before it, so they cannot be shared


@needs_gloo
def test_an_error_on_one_rank_is_a_rank_error_on_the_other(job):
    rank_error = ["RankError", "rank 1 failed: OSError: no such disk"]
    for name in ("a_rank_that_raises", "a_rank_that_raises_at_the_end"):
        assert (job.first[name], job.second[name]) == (rank_error, ["OSError", "no such disk"])
    assert job.first["the_first_rank_raises"] == ["ValueError", "saved: missing0 is no folder; make it first"]
    assert job.second["the_first_rank_raises"] == [
        "RankError",
        f"rank 0 failed: {': '.join(job.first['the_first_rank_raises'])}",
    ]
    assert job.second["what_cannot_be_pickled"][0] == "RankError"
    assert job.second["what_cannot_be_pickled"][1].startswith("rank 0 failed: ")
    assert job.second["not_in_the_group"][1].startswith("group: this process is not in it")


@needs_gloo
@pytest.mark.parametrize(
    ("case", "kind", "text"),
    [
        ("all_raise", "ValueError", "val_loader: got None"),
        ("other_models", "ValueError", "group: the ranks differ in model, and"),
        (
            "other_data_and_random_numbers",
            "ValueError",
            "group: the ranks differ in random numbers, train_loader, val",
        ),
        ("other_calls", "RankError", "the ranks came to different places: short runs with [("),
        ("wrapped", "ValueError", "model: got a DistributedDataParallel"),
    ],
)
def test_an_error_of_all_ranks_is_raised_on_all(job, case, kind, text):
    for results in job.both:
        assert results[case][0] == kind
        assert results[case][1].startswith(text)


@needs_gloo
def test_the_command_on_two_ranks_prints_and_writes_once_what_one_process_does(job, folder, capsys):
    assert (job.first["command"], job.second["command"]) == (0, 0)
    printed = [line.partition(": ")[0] for line in job.first["printed"].splitlines()]
    assert printed.count("weight decay") == printed.count("written") == 1
    assert job.second["printed"] == ""
    assert not (job.folder / "two1.json").exists()
    assert cli.main(["recipe", "own:make_task", "--budget", "464", "--out", "one.json"]) == 0
    assert (job.folder / "two0.json").read_text() == (folder / "one.json").read_text()
    assert Recipe.load("one.json").complete
    report = (job.folder / "two0.html").read_text()
    assert report.replace("two0.json", "one.json") == (folder / "one.html").read_text()


@needs_gloo
def test_a_killed_rank_ends_all_and_one_process_continues(folder, capsys):
    arguments = ["recipe", "own:killed_once", "--budget", "464", "--out"]
    finished = torchrun(folder, "-m", "clrfast", *arguments, "two.json")
    assert finished.returncode != 0
    (message,) = (line for line in finished.stderr.splitlines() if line.startswith("clrfast: "))
    assert "another rank has ended" in message or "SIGTERM" in message  # whichever is noticed first
    assert message.endswith("the results so far are in two.json and two.html; the same command continues from there")
    found = Recipe.load("two.json")
    assert not found.complete
    assert len(found.study.range_tests) == 1
    for out in ("two.json", "one.json"):
        assert cli.main([*arguments, out]) == 0
    assert "learning rate: " not in capsys.readouterr().out.partition("written: two.json")[0]  # it is not found again
    assert (folder / "two.json").read_text() == (folder / "one.json").read_text()


@needs_gloo
def test_the_ranks_of_a_job_end_while_threads_of_gloo_wait_for_the_gil(tmp_path):
    assert run_job("late_work_on_ranks", tmp_path) == [0, 1]


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
