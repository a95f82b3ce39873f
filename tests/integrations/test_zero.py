"""ZeroRedundancyOptimizer on two gloo ranks trains and searches as one process does, and resumes on any number."""

import pytest
import torch

from tests.helpers.rank_runs import (
    MAX_NORM,
    RULES,
    near,
    require_end,
    require_resumed,
    require_same_curve,
    require_same_run,
)
from tests.helpers.ranks import needs_gloo, run_in_turn

pytestmark = [
    pytest.mark.framework("ZeroRedundancyOptimizer", "torch"),
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.slow,
    needs_gloo,
]
every_rule = pytest.mark.parametrize("rule", RULES)


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """The results of each job's ranks, by their number."""
    return run_in_turn("zero_on_ranks", tmp_path_factory.mktemp("zero"), counts=(2, 4, 1))


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
def test_a_rank_without_parameters_follows_the_schedule(results, rule):
    first, second = (own[rule]["without parameters"] for own in results)
    assert first["params"] == second["params"]
    for found in (first, second):
        assert found["losses"][-1] < found["losses"][0]
        assert found["recorded"] == found["losses"]
        require_end(found)


@pytest.mark.shows("accumulation", "two processes")
@every_rule
def test_gradients_that_no_sync_accumulates_count_once_an_update(results, rule):
    require_same_run(results, rule, "accumulated", parts=2)
    require_same_curve(results, rule, "search, accumulated", accumulate=2)


@pytest.mark.shows("mixed precision", "two processes")
@every_rule
def test_autocast_on_two_ranks_is_that_of_one_process(results, rule):
    require_same_run(results, rule, "in bfloat16", autocast=True)
    require_same_curve(results, rule, "search in bfloat16", autocast=torch.bfloat16)


@pytest.mark.shows("clipping", "two processes")
@every_rule
def test_torchs_clipping_is_that_of_clip_norm_in_one_process(results, rule):
    """A rank's optimizer knows its own parameters only, so ``clip_norm`` would measure the norm of a part."""
    require_same_run(results, rule, "clipped", exact=False, clip_norm=MAX_NORM)
    require_same_curve(results, rule, "search, clipped", clip_norm=MAX_NORM)


@pytest.mark.shows("finds the plain loop's rate", "two processes")
@every_rule
def test_both_ranks_find_the_rate_of_one_process(results, rule):
    require_same_curve(results, rule, "search")


@pytest.mark.shows("resumes bit for bit", "two processes")
@pytest.mark.parametrize("count", [1, 2])
@every_rule
def test_a_run_resumes_from_a_consolidated_state_bit_for_bit(jobs, rule, count):
    require_resumed(jobs[count], rule, f"of {count}", exact=True)


@pytest.mark.shows("resumes bit for bit")
@pytest.mark.parametrize(("saved", "count"), [(2, 4), (4, 4), (2, 1), (4, 1)])
@every_rule
def test_a_run_resumes_on_another_number_of_ranks(jobs, rule, saved, count):
    """The sums of the gradients are rounded differently; step, rate and data continue exactly.

    That includes 4 ranks after 4: DistributedDataParallel arranges its buckets anew after the first backward pass, and
    so the order in which gloo adds the gradients of more than two ranks.
    """
    require_resumed(jobs[count], rule, f"of {saved}", exact=False)
