"""What the fine-tuning tasks are made of: pre-training, low-rank updates, rates by depth, and a packaged encoder."""

import copy

import pytest
import torch
from torch import nn

from benchmarks.finder_quality.tasks.fine_tuning import FINE_TUNING, by_depth
from benchmarks.task_library import minilm, models
from benchmarks.task_library.definition import make_step
from benchmarks.task_library.pretrained import pretrain


def train(task, lr):
    optimizer = torch.optim.AdamW(task.parameter_groups(lr))
    assert task.fit(make_step(optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=2)), 2)


def test_pretraining_is_the_same_at_every_call_and_leaves_the_global_state_alone():
    inputs = torch.arange(8.0).reshape(8, 1)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first, second = (
        pretrain(lambda: nn.Linear(1, 1), nn.MSELoss(), (inputs,) * 4, lr=0.1, batch_size=2, steps=9) for _ in range(2)
    )
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.fixture(scope="module")
def language_model():
    torch.manual_seed(0)
    return models.CharTransformer(11, 6, 8)


def test_a_low_rank_update_changes_nothing_at_first_and_trains_little(language_model):
    adapted = models.adapt_low_rank(copy.deepcopy(language_model), rank=2)
    text = torch.arange(6).repeat(3, 1)
    torch.testing.assert_close(adapted(text), language_model(text))
    names = {name.rpartition(".")[2] for name, p in adapted.named_parameters() if p.requires_grad}
    assert names == {"down", "up"}
    n_trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert 0 < n_trained < sum(p.numel() for p in language_model.parameters())


def test_a_low_rank_update_acts_in_training_and_in_eval_mode(language_model):
    adapted = models.adapt_low_rank(copy.deepcopy(language_model), rank=2)
    text = torch.arange(6).repeat(3, 1)
    before = adapted(text)
    with torch.no_grad():
        for p in adapted.parameters():
            if p.requires_grad:
                p.add_(0.1)
        in_training, in_eval = adapted(text), adapted.eval()(text)
    torch.testing.assert_close(in_training, in_eval)
    assert not torch.allclose(in_training, before)


def test_a_task_trains_a_copy_of_its_pretrained_model():
    pytest.importorskip("sklearn", reason="needs scikit-learn's data")
    task, again = (FINE_TUNING["drifted_teacher"].make(seed) for seed in (0, 1))
    before = [p.clone() for p in again.model.parameters()]
    assert all(map(torch.equal, task.model.parameters(), before))  # nothing is new, so the seed changes no weight
    train(task, 0.01)
    assert not any(map(torch.equal, task.model.parameters(), before))
    assert all(map(torch.equal, again.model.parameters(), before))


def test_rates_by_depth_rise_towards_the_output():
    model = models.PatchAttention(8, 2, 8, 0.0, 10)
    groups = by_depth(model, 0.26)
    assert [group["lr"] for group in groups] == pytest.approx([0.26 / 2.6**2, 0.1, 0.26])
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_a_word_is_split_into_the_longest_known_pieces(monkeypatch):
    known = {piece: i for i, piece in enumerate(["[UNK]", "un", "##aff", "##able", "##affable", "a"])}
    monkeypatch.setattr(minilm, "_vocabulary", lambda: known)
    assert minilm._pieces("unaffable") == [1, 4]
    assert minilm._pieces("unable") == [1, 3]
    assert minilm._pieces("xyz") == [0]


def test_the_packaged_encoder_classifies_windows_of_tokens():
    pytest.importorskip(minilm.PACKAGE, reason="needs the package with the weights")
    task = FINE_TUNING["minilm_topics"].make(0)
    tokens = task.train[0]
    assert (tokens[:, 0] == tokens[0, 0]).all()
    assert (tokens[:, -1] == tokens[0, -1]).all()
    assert not task.model.words.weight.requires_grad
    assert task.evaluate(*task.val) < float("inf")
