"""DistributedDataParallel on two gloo ranks trains and searches as one process does that accumulates their batches."""

import pytest
import torch

import clrfast
from tests.helpers.rank_runs import (
    BREAK,
    MAX_NORM,
    RULES,
    STEPS,
    Network,
    near,
    require_same_curve,
    require_same_run,
    shard,
    train,
    train_alone,
    values,
)
from tests.helpers.ranks import needs_gloo, run_job

pytestmark = [
    pytest.mark.framework("DistributedDataParallel", "torch"),
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.slow,
    needs_gloo,
]
every_rule = pytest.mark.parametrize("rule", RULES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ddp")


@pytest.fixture(scope="module")
def results(folder):
    """The results of both ranks by optimizer and case."""
    return run_job("ddp_on_ranks", folder)


@pytest.mark.shows("trains", "two processes")
@every_rule
def test_two_ranks_train_as_one_process_and_as_torchs_optimizer(results, rule):
    require_same_run(results, rule, "trained")
    for own in results:
        assert own[rule]["trained by torch"] == near(own[rule]["trained"]["params"])


@pytest.mark.shows("trains", "two processes")
@every_rule
def test_a_layer_that_the_batches_of_one_rank_skip_is_updated_on_both(results, rule):
    used = {tuple(bool(shard(step, rank, 2)[0, 0] > 0) for rank in (0, 1)) for step in range(STEPS)}
    assert len(used) == 4  # by none, by one and by both
    require_same_run(results, rule, "with a layer that some batches skip", skips=True)


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
def test_the_norm_is_that_of_the_averaged_gradients(results, rule):
    require_same_run(results, rule, "clipped", clip_norm=MAX_NORM)
    require_same_curve(results, rule, "search, clipped", clip_norm=MAX_NORM)


@pytest.mark.shows("finds the plain loop's rate", "two processes")
@every_rule
def test_both_ranks_find_the_rate_of_one_process(results, rule):
    require_same_curve(results, rule, "search")


@pytest.mark.shows("resumes bit for bit", "two processes")
@every_rule
def test_a_run_resumes_from_the_first_ranks_checkpoint_bit_for_bit(results, rule):
    for own in results:
        found, wanted = own[rule]["resumed"], own[rule]["trained"]
        for name in ("params", "losses", "step", "lr"):
            assert found[name] == wanted[name]
        assert found["recorded"] == results[0][rule]["trained"]["losses"][:BREAK] + wanted["losses"][BREAK:]


@pytest.mark.shows("resumes bit for bit")
@every_rule
def test_one_process_without_a_wrapper_resumes_the_run_of_two_ranks(results, folder, rule):
    saved, model = torch.load(folder / f"{rule}.pt"), Network()
    optimizer = getattr(clrfast, rule)(model.parameters())  # the checkpoint has the schedule
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    losses, wanted = train(model, optimizer, 0, 1, first=BREAK), train_alone(rule)
    assert values(model) == near(wanted["params"])
    assert losses == near(torch.tensor(wanted["losses"]).mean(0)[BREAK:].tolist())
    assert optimizer.control.synchronize() == STEPS
