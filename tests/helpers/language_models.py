"""Random-weight language models of a few thousand weights, and samples of a text, for Hugging Face's libraries."""

from __future__ import annotations

import torch
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel

TEXT = """
the hyper-parameters of a training run live on the device, as a table; the host never waits for a step. everything
below follows from it. change what measurement proves wrong, and change this idea only with figures. a curve is a
function from a step to a value, vectorised over an array of steps, without state. a schedule holds one curve each for
the rate, the momentum and the weight decay. curves compose; policies are a few lines each over curves. an update that
is skipped never moves the schedule. the update kernels read the current row and return at once where it says so. all
forms agree bit for bit. without a schedule it is an optimizer of that name, with any scheduler on top of it.
"""
N_CHARACTERS, LENGTH = 128, 12


def classification_samples(n=64):
    """Return windows of the text, each labelled by whether it has a "t" among its first characters."""
    codes = torch.tensor([ord(character) for character in TEXT])
    windows = codes.unfold(0, LENGTH, 7)[:n]
    return [{"input_ids": window, "labels": int((window[:4] == ord("t")).any())} for window in windows]


def language_samples(n=64):
    """Return windows of the text whose labels are the characters themselves; some labels are left out."""
    samples = [sample["input_ids"] for sample in classification_samples(n)]
    labels = [window.clone() for window in samples]
    for index, each in enumerate(labels):
        each[: index % 5] = -100
    return [{"input_ids": window, "labels": each} for window, each in zip(samples, labels, strict=True)]


def bert(seed=0, dropout=0.0):
    torch.manual_seed(seed)
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=N_CHARACTERS,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=LENGTH,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            num_labels=2,
        )
    )


def gpt2(seed=0):
    torch.manual_seed(seed)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=N_CHARACTERS,
            n_embd=32,
            n_layer=2,
            n_head=2,
            n_positions=LENGTH,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=0,
            eos_token_id=0,
            loss_type="ForCausalLMLoss",
        )
    )
