"""PEFT: adapters of a model are trained by what trains any model."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

pytest.importorskip("peft")
pytest.importorskip("transformers")

from peft import LoraConfig, PeftModel, get_peft_model
from torch.utils.data import DataLoader
from transformers import default_data_collator

import clrfast
from tests.helpers.language_models import gpt2, language_samples

pytestmark = [
    pytest.mark.framework("PEFT", "peft"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]

SEARCH = {"steps": 30, "trials": False}


def made(kind=clrfast.AdamW):
    """Return a model with LoRA adapters, an optimizer over these, and a loader."""
    torch.manual_seed(1)
    config = LoraConfig(r=4, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True, task_type="CAUSAL_LM")
    model = get_peft_model(gpt2(), config)
    trainable = [param for param in model.parameters() if param.requires_grad]
    return model, kind(trainable, lr=1e-3), loader()


def loader():
    generator = torch.Generator().manual_seed(0)
    data = language_samples()
    return DataLoader(data, batch_size=8, shuffle=True, generator=generator, collate_fn=default_data_collator)


def weights(model, *, trainable):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters() if p.requires_grad == trainable])


def train(model, optimizer, batches, scheduler=None):
    losses = []
    for batch in batches:
        loss = model(**batch).loss
        loss.backward()
        optimizer.step() if scheduler is not None else optimizer.step(loss=loss)
        optimizer.zero_grad()
        losses.append(loss.item())
        if scheduler is not None:
            scheduler.step()
    return losses


@pytest.mark.shows("trains")
def test_a_cycle_trains_the_adapter_alone_as_torchs_optimizer_does():
    model, optimizer, batches = made()
    base = weights(model, trainable=False).clone()
    optimizer.set_schedule(clrfast.one_cycle(0.05, 8))
    losses = train(model, optimizer, batches)
    assert torch.equal(weights(model, trainable=False), base)
    assert optimizer.control.losses.tolist() == losses

    plain, theirs, batches = made(torch.optim.AdamW)
    train(plain, theirs, batches, clrfast.as_lr_scheduler(theirs, clrfast.one_cycle(0.05, 8)))
    torch.testing.assert_close(weights(model, trainable=True), weights(plain, trainable=True), rtol=1e-4, atol=1e-6)


@pytest.mark.shows("finds the plain loop's rate")
def test_the_range_test_leaves_adapter_and_base_bit_for_bit_as_they_were():
    model, optimizer, batches = made()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    curve = clrfast.range_test(model, loader=batches, optimizer=optimizer, **SEARCH)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not optimizer.state
    assert curve.suggest().max_lr > 0

    merged, other, batches = made()
    same = clrfast.range_test(
        merged,
        loader=batches,
        compute_loss=lambda model, batch: model.base_model(**batch).loss,
        optimizer=other,
        **SEARCH,
    )
    np.testing.assert_array_equal(curve.loss, same.loss)


@pytest.mark.shows("resumes bit for bit")
def test_a_saved_adapter_and_optimizer_continue_bit_for_bit(tmp_path):
    model, optimizer, batches = made()
    batches = list(batches)
    optimizer.set_schedule(clrfast.one_cycle(0.05, 8))
    train(model, optimizer, batches[:3])
    model.save_pretrained(str(tmp_path))
    saved = copy.deepcopy(optimizer.state_dict())
    train(model, optimizer, batches[3:])

    resumed = PeftModel.from_pretrained(gpt2(), str(tmp_path), is_trainable=True)
    again = clrfast.AdamW([param for param in resumed.parameters() if param.requires_grad], lr=1e-3)
    again.load_state_dict(saved)
    train(resumed, again, batches[3:])
    assert torch.equal(weights(resumed, trainable=True), weights(model, trainable=True))
    assert int(again.control.step) == 8
