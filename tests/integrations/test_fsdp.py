"""FSDP2 on two gloo ranks trains and searches as one process does; checkpoints continue on other numbers of ranks."""

import pytest
import torch

from tests.helpers.rank_runs import MAX_NORM, RULES, near, require_resumed, require_same_curve, require_same_run
from tests.helpers.ranks import needs_fully_shard, needs_gloo, run_in_turn

pytestmark = [
    pytest.mark.framework("FSDP2", "torch"),
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.slow,
    needs_gloo,
    needs_fully_shard,
]
every_rule = pytest.mark.parametrize("rule", RULES)
every_form = pytest.mark.parametrize("form", ["nested", "flattened"])


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """The results of each job's ranks, by their number."""
    return run_in_turn("fsdp_on_ranks", tmp_path_factory.mktemp("fsdp"), counts=(2, 4, 1))


@pytest.fixture
def results(jobs):
    """The results of two ranks by optimizer and case."""
    return jobs[2]


@pytest.mark.shows("trains", "two processes")
@every_rule
def test_two_ranks_train_as_one_process_and_as_torchs_optimizer(results, rule):
    require_same_run(results, rule, "trained")
    assert results[0][rule]["trained by torch"] == near(results[0][rule]["trained"]["params"])


@pytest.mark.shows("trains")
@every_rule
def test_ranks_with_empty_shards_train_as_one_process(jobs, rule):
    require_same_run(jobs[4], rule, "saved", exact=False, count=4)  # two of the ranks hold no row of the last layer


@pytest.mark.shows("accumulation", "two processes")
@every_rule
def test_gradients_that_wait_for_their_synchronization_count_once_an_update(results, rule):
    require_same_run(results, rule, "accumulated", parts=2)
    require_same_curve(results, rule, "search, accumulated", accumulate=2)


@pytest.mark.shows("mixed precision", "two processes")
@every_rule
def test_a_mixed_precision_policy_computes_in_bfloat16_and_updates_in_float32(results, rule):
    require_same_run(results, rule, "in bfloat16", autocast=True)
    assert results[0][rule]["in bfloat16 by torch"] == near(results[0][rule]["in bfloat16"]["params"])
    require_same_curve(results, rule, "search in bfloat16", autocast=torch.bfloat16)


@pytest.mark.shows("clipping", "two processes")
@every_rule
def test_the_norm_is_that_of_all_shards(results, rule):
    require_same_run(results, rule, "clipped", exact=False, clip_norm=MAX_NORM)
    assert results[0][rule]["clipped by torch"] == near(results[0][rule]["clipped"]["params"])
    require_same_curve(results, rule, "search, clipped", clip_norm=MAX_NORM)


@pytest.mark.shows("finds the plain loop's rate", "two processes")
@every_rule
def test_both_ranks_find_the_rate_of_one_process(results, rule):
    require_same_curve(results, rule, "search")


@pytest.mark.shows("resumes bit for bit", "two processes")
@pytest.mark.parametrize("count", [1, 2, 4])
@every_form
@every_rule
def test_a_run_resumes_from_a_distributed_checkpoint_bit_for_bit(jobs, rule, form, count):
    require_resumed(jobs[count], rule, f"of {count}, {form}", exact=True)


@pytest.mark.shows("resumes bit for bit")
@pytest.mark.parametrize(("saved", "count"), [(2, 4), (2, 1), (4, 1)])
@every_form
@every_rule
def test_a_run_resumes_on_another_number_of_ranks(jobs, rule, form, saved, count):
    """The sums of the gradients are rounded differently; step, rate and data continue exactly."""
    require_resumed(jobs[count], rule, f"of {saved}, {form}", exact=False)
