"""Models of text and series."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm


class CharGRU(nn.Module):
    """A recurrent model of the next character."""

    def __init__(self, n_characters: int, width: int):
        super().__init__()
        self.embedding = nn.Embedding(n_characters, width)
        self.gru = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, n_characters)

    def forward(self, text: Tensor) -> Tensor:  # [B, T] -> [B, characters, T]
        return self.head(self.gru(self.embedding(text))[0]).transpose(1, 2)


class CharTransformer(nn.Module):
    """A causal transformer of one block that predicts the next character."""

    def __init__(self, n_characters: int, length: int, width: int):
        super().__init__()
        self.embedding = nn.Embedding(n_characters, width)
        self.position = nn.Parameter(torch.randn(length, width) * 0.1)
        self.block = nn.TransformerEncoderLayer(
            width, nhead=2, dim_feedforward=2 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, n_characters)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(length))

    def hidden(self, text: Tensor) -> Tensor:  # [B, T] -> [B, T, width]
        return self.norm(self.block(self.embedding(text) + self.position, src_mask=self.mask, is_causal=True))

    def forward(self, text: Tensor) -> Tensor:  # [B, T] -> [B, characters, T]
        return self.head(self.hidden(text)).transpose(1, 2)


class TextClassifier(nn.Module):
    """A new head on the mean of the hidden states of a language model."""

    def __init__(self, language_model: CharTransformer, width: int, n_classes: int):
        super().__init__()
        self.language_model = language_model
        self.head = nn.Linear(width, n_classes)

    def forward(self, text: Tensor) -> Tensor:  # [B, T] -> [B, classes]
        return self.head(self.language_model.hidden(text).mean(1))


class LSTMRegressor(nn.Module):
    """A number from the last state of an LSTM."""

    def __init__(self, width: int):
        super().__init__()
        self.lstm = nn.LSTM(1, width, batch_first=True)
        self.head = nn.Linear(width, 1)

    def forward(self, series: Tensor) -> Tensor:  # [B, T, 1] -> [B]
        return self.head(self.lstm(series)[0][:, -1])[:, 0]


class ConvGRU(nn.Module):
    """A convolution along a series, a bidirectional GRU, and the mean over time."""

    def __init__(self, n_inputs: int, width: int, n_outputs: int):
        super().__init__()
        self.convolution = nn.Conv1d(n_inputs, width, 5, stride=3)
        self.gru = nn.GRU(width, width, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * width, n_outputs)

    def forward(self, series: Tensor) -> Tensor:  # [B, n_inputs, T] -> [B, n_outputs]
        hidden = self.convolution(series).relu().transpose(1, 2)
        return self.head(self.gru(hidden)[0].mean(1))


class DerivativeRollout(nn.Module):
    """A learned derivative of a state, integrated for ``n_steps`` with Heun's method."""

    def __init__(self, n_state: int, width: int, n_steps: int, interval: float):
        super().__init__()
        self.derivative = nn.Sequential(nn.Linear(n_state, width), nn.Tanh(), nn.Linear(width, n_state))
        self.n_steps, self.interval = n_steps, interval

    def forward(self, state: Tensor) -> Tensor:  # [B, n_state] -> [B, n_steps, n_state]
        states = []
        for _ in range(self.n_steps):
            here = self.derivative(state)
            there = self.derivative(state + self.interval * here)
            state = state + 0.5 * self.interval * (here + there)
            states.append(state)
        return torch.stack(states, 1)


class GRURegressor(nn.Module):
    """A number from the last state of a GRU."""

    def __init__(self, n_inputs: int, width: int):
        super().__init__()
        self.gru = nn.GRU(n_inputs, width, batch_first=True)
        self.head = nn.Linear(width, 1)

    def forward(self, series: Tensor) -> Tensor:  # [B, T, n_inputs] -> [B]
        return self.head(self.gru(series)[0][:, -1])[:, 0]


class CharLSTM(nn.Module):
    """Two LSTM layers that predict the next character, with dropout between them and before the head."""

    def __init__(self, n_characters: int, width: int, dropout: float):
        super().__init__()
        self.embedding = nn.Embedding(n_characters, width)
        self.lstm = nn.LSTM(width, width, num_layers=2, dropout=dropout, batch_first=True)
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, n_characters))

    def forward(self, text: Tensor) -> Tensor:  # [B, T] -> [B, characters, T]
        return self.head(self.lstm(self.embedding(text))[0]).transpose(1, 2)


class TokenTransformer(nn.Module):
    """A pre-norm transformer that classifies the mean of its tokens."""

    def __init__(self, n_tokens: int, length: int, width: int, n_layers: int, dropout: float, n_classes: int):
        super().__init__()
        self.embedding = nn.Embedding(n_tokens, width)
        self.position = nn.Parameter(torch.randn(length, width) * 0.1)
        layer = nn.TransformerEncoderLayer(
            width, nhead=4, dim_feedforward=2 * width, dropout=dropout, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, n_layers, nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, n_classes)

    def forward(self, tokens: Tensor) -> Tensor:  # [B, T] -> [B, classes]
        return self.head(self.layers(self.embedding(tokens) + self.position).mean(1))


class LetterTagger(nn.Module):
    """A logit for every letter by a bidirectional LSTM."""

    def __init__(self, n_letters: int, width: int):
        super().__init__()
        self.embedding = nn.Embedding(n_letters, width)
        self.lstm = nn.LSTM(width, width, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * width, 1)

    def forward(self, letters: Tensor) -> Tensor:  # [B, T] -> [B, T]
        return self.head(self.lstm(self.embedding(letters))[0])[..., 0]


class CausalConvolutions(nn.Module):
    """A number from the last place of dilated causal convolutions with weight norm and residual connections."""

    def __init__(self, width: int, dilations: tuple[int, ...]):
        super().__init__()
        self.dilations = dilations
        self.first = nn.Conv1d(1, width, 1)
        self.convolutions = nn.ModuleList(
            weight_norm(nn.Conv1d(width, width, 3, dilation=dilation)) for dilation in dilations
        )
        self.head = nn.Linear(width, 1)

    def forward(self, series: Tensor) -> Tensor:  # [B, 1, T] -> [B]
        hidden = self.first(series)
        for dilation, convolution in zip(self.dilations, self.convolutions, strict=True):
            hidden = hidden + convolution(functional.pad(hidden, (2 * dilation, 0))).relu()
        return self.head(hidden[:, :, -1])[:, 0]


class Translator(nn.Module):
    """An encoder and a decoder of one transformer block each; the decoder sees the characters before the next one.

    Args:
        lengths: of the source, and of the characters behind it that the decoder starts from.
    """

    def __init__(self, n_characters: int, lengths: tuple[int, int], width: int, dropout: float):
        super().__init__()
        self.lengths = lengths
        self.embedding = nn.Embedding(n_characters, width)
        self.position = nn.Parameter(torch.randn(sum(lengths), width) * 0.1)
        self.encoder = nn.TransformerEncoderLayer(
            width, nhead=4, dim_feedforward=2 * width, dropout=dropout, batch_first=True, norm_first=True
        )
        self.decoder = nn.TransformerDecoderLayer(
            width, nhead=4, dim_feedforward=2 * width, dropout=dropout, batch_first=True, norm_first=True
        )
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, n_characters))
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(lengths[1]))

    def forward(self, text: Tensor) -> Tensor:  # [B, sum of lengths] -> [B, characters, lengths[1]]
        source, before = (self.embedding(text) + self.position).split(list(self.lengths), 1)
        decoded = self.decoder(before, self.encoder(source), tgt_mask=self.mask, tgt_is_causal=True)
        return self.head(decoded).transpose(1, 2)
