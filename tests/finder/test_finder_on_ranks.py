import math
import re
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import clrfast
from clrfast._distributed import SINGLE_PROCESS, Ranks, resolve_group
from clrfast._errors import RankError
from clrfast.finder._loss_reader import RankMeanLosses
from clrfast.optim import StepControl
from tests.helpers.ranks import needs_gloo, run_job

pytestmark = pytest.mark.usefixtures("one_thread")


class RankResults(dict):
    """The results of one rank by the name of the case; skips the test of a case that this torch cannot run."""

    def __missing__(self, case):
        if "sharded" in case and torch.__version__ < (2, 6):
            pytest.skip("fully_shard is public from torch 2.6 on")
        raise KeyError(case)


@pytest.fixture(
    scope="module",
    params=[pytest.param(2, marks=needs_gloo), pytest.param(3, marks=[needs_gloo, pytest.mark.slow])],
    ids="{} ranks".format,
)
def results(request, tmp_path_factory):
    """The results of all cases of ``finder_on_ranks`` on each rank, from one job, because its start takes seconds."""
    found = run_job("finder_on_ranks", tmp_path_factory.mktemp("ranks"), count=request.param)
    return [RankResults(each) for each in found]


def same(results, name):
    """The result of a case, which is the same on all ranks."""
    first, *others = (each[name] for each in results)
    assert all(other == first for other in others)
    return first


@pytest.mark.parametrize("case", ["distributed_data_parallel", "sharded_model"])
def test_all_ranks_get_one_curve_and_one_suggestion(results, case):
    found = same(results, case)
    assert 1e-4 < found["rate"] < 1


@pytest.mark.parametrize("case", ["distributed_data_parallel", "sharded_model"])
def test_the_default_trials_are_the_same_on_all_ranks_and_decide_the_suggestion(results, case):
    found = same(results, case)
    (steps, rates, losses, initial_loss), *_ = found["trials"]
    assert steps == 20
    assert len(rates) >= 3
    assert min(losses) < initial_loss
    assert "trials: in " in found["suggestion"]


def test_each_rank_counts_its_updates_and_extra_forward_passes(results):
    found = same(results, "sharded_model")
    assert found["calls"] == sum(found["counts"])


def test_a_run_that_diverges_ends_at_the_same_loss_on_all_ranks(results):
    found = same(results, "diverging")
    assert found["stopped"] == "diverged"
    assert len(found["loss"]) < 60


def test_a_sharded_model_is_restored(results):
    assert same(results, "sharded_model")["as before"]


def test_the_curve_equals_that_of_one_process_if_all_ranks_have_the_same_data(results):
    assert same(results, "same_data") < 1e-3


def test_without_a_group_each_rank_gets_its_own_suggestion(results):
    assert len({each["alone"]["rate"] for each in results}) == len(results)


def test_validations_are_means_over_the_samples_of_all_ranks(results):
    metric = same(results, "held_out")["metric"]
    assert len(metric) >= 5
    assert metric == pytest.approx([(len(results) - 1) / 2] * len(metric))  # all ranks use equally many batches


def test_trials_are_the_same_on_all_ranks(results):
    found = same(results, "trials")
    assert len(found["rates"]) == 3
    assert min(found["loss"]) < found["start"]


def test_a_monitor_records_the_same_on_all_ranks(results):
    assert same(results, "monitor").endswith(" resampled curves")


def test_ranks_with_loaders_of_different_lengths_take_the_same_steps(results):
    assert same(results, "unequal_loaders")["stopped"] == "completed"


def test_a_nan_on_one_rank_ends_the_ramp_of_all_ranks_at_that_step(results):
    assert same(results, "a_nan_on_one") == {"losses": 13, "stopped": "non-finite", "finite": True}


def test_an_update_that_one_rank_skips_is_skipped_by_all(results):
    assert [losses for losses, _ in same(results, "a_skipped_update")] == [30, 30]


def test_ranks_take_the_same_steps_if_one_of_them_skips_an_update_for_its_norm(results):
    assert len(same(results, "a_norm_that_is_not_finite")["loss"]) == 30


def test_adamw_of_a_sharded_model_gives_the_losses_of_torchs(results):
    ours, theirs = same(results, "adamw_of_a_sharded_model")
    assert len(ours) == 30
    assert ours == pytest.approx(theirs, rel=1e-4)


@pytest.mark.parametrize(
    ("case", "rank", "text"),
    [
        ("an_empty_loader", 1, "ValueError: loader: it is empty; "),
        ("a_loader_that_ends", 1, "ValueError: loader: it was used up after 9 batches"),
        ("a_loss_that_fails", 1, "IndexError: no such class"),
        ("a_sharded_models_loss_that_fails", 1, "IndexError: no such class"),
        ("batches_that_do_not_fit", 1, r"RuntimeError: (addmm: )?mat1 and mat2 shapes cannot be multiplied"),
        ("a_loss_that_always_fails", 1, "IndexError: no such class"),
        ("a_metric_that_fails", 1, "IndexError: no such class"),
        ("progress_that_fails", 0, "IndexError: no such class"),
        ("a_bad_argument_on_one", 1, "ValueError: steps: got -1; "),
    ],
)
def test_a_failure_on_one_rank_is_a_rank_error_on_all(results, case, rank, text):
    kind, summary = same(results, case)
    assert kind == "RankError"
    assert re.match(f"rank {rank} failed: {text}", summary)


@pytest.mark.parametrize(
    ("case", "kind", "text"),
    [
        ("a_bad_argument_on_all", "ValueError", "steps: got -1; "),
        ("other_arguments", "ValueError", "min_lr: not the same on all ranks; "),
        (
            "wrapped_and_alone",
            "ValueError",
            "group: got a single rank, and the ranks of this Distributed",
        ),
        ("sharded_and_alone", "ValueError", "group: got a single rank, and the ranks of this FSDPSequ"),
        ("no_answer", "NoSuggestionError", "the loss never falls"),
    ],
)
def test_an_error_of_one_class_on_all_ranks_is_raised_unchanged(results, case, kind, text):
    found = same(results, case)
    assert found[0] == kind
    assert found[1].startswith(text)


def test_a_group_of_some_ranks_gets_its_own_suggestion(results):
    members, others = results[:2], results[2:]
    assert same(members, "a_group_of_some")["stopped"] == "completed"
    assert all(each["a_group_of_some"][1].startswith("group: this process is not in it") for each in others)


# ------------------------------------------------------------ in one process


@pytest.mark.parametrize("group", [None, "auto"])
def test_a_single_process_has_one_rank(group):
    ranks = resolve_group(group)
    assert (ranks.rank, ranks.world_size) == (0, 1)
    ranks.require_same("arguments", steps=3)


def test_an_argument_that_is_no_group_is_named():
    with pytest.raises(ValueError, match="group: got 'world'; give 'auto', "):
        clrfast.range_test(nn.Linear(2, 2), nn.MSELoss(), [], group="world")


@pytest.mark.parametrize(
    "summary",
    [
        "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:6113",
        "Application timeout caused pair closure",
    ],
)
def test_ranks_out_of_reach_are_reported_as_such(summary):
    ranks = Ranks()
    ranks.world_size = 2
    with (
        pytest.raises(RankError, match="another rank has ended, cannot be reached or does not make this call"),
        ranks.end_together(),
    ):
        raise RuntimeError(summary)
    with pytest.raises(RankError, match="another rank has ended"):
        ranks.defer(RuntimeError(summary))
    ranks.defer(RuntimeError("an error of its own"))
    assert str(ranks.deferred) == "an error of its own"


def test_a_read_on_a_cuda_device_returns_the_losses_of_the_previous_read(monkeypatch):
    """Emulated: which losses a rank sees must not depend on how far its device is."""
    waited, empty = [], torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, pin_memory, **options: empty(*size, **options))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "its stream")
    monkeypatch.setattr(
        torch.cuda, "Event", lambda: SimpleNamespace(record=waited.append, synchronize=lambda: waited.append("waits"))
    )
    control = StepControl(clrfast.constant(0.1, 5).table(), backend="torch")
    control.device = torch.device("cuda")
    ranks = Ranks()
    ranks.world_size, ranks.all_reduce = 2, lambda tensor: tensor.mul_(2)
    record, seen = RankMeanLosses(control, ranks), []
    for loss in (4.0, 3.0, 2.0):
        control.losses[control.step] = loss
        control.step += 1
        seen.append(record.read().tolist())
    assert seen == [[], [4.0], [4.0, 3.0]]
    assert waited == ["its stream", "its stream", "waits", "its stream", "waits"]
    assert record.read_all().tolist() == [4.0, 3.0, 2.0]


def test_an_error_of_a_single_process_is_raised_unchanged():
    with pytest.raises(OSError, match="as it is"), Ranks().end_together():
        raise OSError("as it is")
    with pytest.raises(OSError, match="at once"):
        SINGLE_PROCESS.defer(OSError("at once"))


@pytest.mark.parametrize("case", ["a_bad_batch", "a_bad_batch_of_a_sharded_model"])
def test_a_bad_batch_of_one_rank_is_named_and_left_out_on_all(results, case):
    everyone = [each[case] for each in results]
    assert all(each["loss"] == everyone[0]["loss"] for each in everyone)
    assert all(map(math.isfinite, everyone[0]["loss"]))
    assert len(everyone[0]["loss"]) == 30
    assert any("batch 3 of rank 1 gives a loss of nan" in summary for summary in everyone[1]["warned"])
