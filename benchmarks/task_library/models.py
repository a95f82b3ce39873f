"""Models of the tasks that ``nn.Sequential`` alone cannot express."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


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

    def forward(self, text: Tensor) -> Tensor:  # [B, T] -> [B, characters, T]
        hidden = self.block(self.embedding(text) + self.position, src_mask=self.mask, is_causal=True)
        return self.head(self.norm(hidden)).transpose(1, 2)


class MatrixFactorization(nn.Module):
    """Entries of a matrix as products of row and column factors."""

    def __init__(self, n_rows: int, n_columns: int, rank: int, std: float):
        super().__init__()
        self.rows, self.columns = nn.Embedding(n_rows, rank), nn.Embedding(n_columns, rank)
        for factor in (self.rows, self.columns):
            nn.init.normal_(factor.weight, std=std)

    def forward(self, index: Tensor) -> Tensor:  # [B, 2] -> [B]
        return (self.rows(index[:, 0]) * self.columns(index[:, 1])).sum(-1)


class Residual(nn.Module):
    """``inputs + inner(inputs)``."""

    def __init__(self, *inner: nn.Module):
        super().__init__()
        self.inner = nn.Sequential(*inner)

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + self.inner(inputs)


class PatchAttention(nn.Module):
    """A vision transformer of one post-norm block; classifies the mean of the patches."""

    def __init__(self, image: int, patch: int, width: int, dropout: float, n_classes: int):
        super().__init__()
        self.patches = nn.Conv2d(1, width, patch, stride=patch)
        self.position = nn.Parameter(torch.randn((image // patch) ** 2, width) * 0.1)
        self.block = nn.TransformerEncoderLayer(
            width, nhead=4, dim_feedforward=2 * width, dropout=dropout, activation="gelu", batch_first=True
        )
        self.head = nn.Linear(width, n_classes)

    def forward(self, images: Tensor) -> Tensor:  # [B, 1, H, W] -> [B, classes]
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        return self.head(self.block(tokens + self.position).mean(1))


class LSTMRegressor(nn.Module):
    """A number from the last state of an LSTM."""

    def __init__(self, width: int):
        super().__init__()
        self.lstm = nn.LSTM(1, width, batch_first=True)
        self.head = nn.Linear(width, 1)

    def forward(self, series: Tensor) -> Tensor:  # [B, T, 1] -> [B]
        return self.head(self.lstm(series)[0][:, -1])[:, 0]


class TiedAutoencoder(nn.Module):
    """An autoencoder whose decoder uses the encoder's weights."""

    def __init__(self, n_inputs: int, width: int):
        super().__init__()
        self.encoder = nn.Linear(n_inputs, width)
        self.bias = nn.Parameter(torch.zeros(n_inputs))

    def forward(self, inputs: Tensor) -> Tensor:  # [B, n] -> [B, n] logits
        return torch.sigmoid(self.encoder(inputs)) @ self.encoder.weight + self.bias


class CouplingFlow(nn.Module):
    """A normalizing flow of affine coupling layers: one half decides how the other is shifted and scaled."""

    def __init__(self, n_inputs: int, width: int, n_layers: int):
        super().__init__()
        half = n_inputs // 2
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(half, width), nn.Tanh(), nn.Linear(width, n_inputs)) for _ in range(n_layers)
        )

    def forward(self, points: Tensor) -> Tensor:  # [B, n] -> [B] log densities
        fixed, moved = points.chunk(2, 1)
        log_volume = torch.zeros(len(points))
        for layer in self.layers:
            shift, log_scale = layer(fixed).chunk(2, 1)
            log_volume = log_volume + log_scale.sum(1)
            fixed, moved = (moved - shift) * log_scale.exp(), fixed
        normal = torch.cat([fixed, moved], 1)
        return log_volume - 0.5 * (normal.square() + math.log(2 * math.pi)).sum(1)


class Sine(nn.Module):
    """``sin(frequency * inputs)``."""

    def __init__(self, frequency: float):
        super().__init__()
        self.frequency = frequency

    def forward(self, inputs: Tensor) -> Tensor:
        return (self.frequency * inputs).sin()


class SmallUNet(nn.Module):
    """A U-Net with one lower level."""

    def __init__(self, width: int):
        super().__init__()

        def convolution(n_in: int, n_out: int) -> nn.Module:
            return nn.Sequential(nn.Conv2d(n_in, n_out, 3, padding=1), nn.InstanceNorm2d(n_out, affine=True), nn.ReLU())

        self.before = convolution(1, width)
        self.below = nn.Sequential(
            nn.MaxPool2d(2),
            convolution(width, 2 * width),
            convolution(2 * width, 2 * width),
            nn.Upsample(scale_factor=2),
        )
        self.behind = nn.Sequential(convolution(3 * width, width), nn.Conv2d(width, 1, 1))

    def forward(self, images: Tensor) -> Tensor:  # [B, 1, H, W] -> [B, 1, H, W] logits
        fine = self.before(images)
        return self.behind(torch.cat([fine, self.below(fine)], 1))


class VariationalAutoencoder(nn.Module):
    """A variational autoencoder; outside of training the code is its mean."""

    def __init__(self, n_inputs: int, width: int, n_code: int):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(n_inputs, width), nn.ReLU(), nn.Linear(width, 2 * n_code))
        self.decoder = nn.Sequential(nn.Linear(n_code, width), nn.ReLU(), nn.Linear(width, n_inputs))

    def forward(self, inputs: Tensor) -> Tensor:  # [B, n] -> [B, n + 2 * n_code]: logits, means and log variances
        mean, log_var = self.encoder(inputs).chunk(2, 1)
        code = mean + (0.5 * log_var).exp() * torch.randn_like(mean) if self.training else mean
        return torch.cat([self.decoder(code), mean, log_var], 1)


class DualEncoder(nn.Module):
    """Similarities of the upper half of every image with the lower half of every image, by one encoder for each half.

    The scale of the similarities is learned.
    """

    def __init__(self, n_half: int, width: int, n_code: int):
        super().__init__()
        self.encoders = nn.ModuleList(
            nn.Sequential(nn.Linear(n_half, width), nn.ReLU(), nn.Linear(width, n_code)) for _ in range(2)
        )
        self.log_scale = nn.Parameter(torch.tensor(math.log(5.0)))

    def forward(self, images: Tensor) -> Tensor:  # [B, 1, H, W] -> [B, B]
        halves = images.flatten(1).chunk(2, 1)
        upper, lower = (
            nn.functional.normalize(encoder(half), dim=1) for encoder, half in zip(self.encoders, halves, strict=True)
        )
        return self.log_scale.exp() * upper @ lower.T


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


class OrdinalThresholds(nn.Module):
    """Logits that a score is above each of ``n`` learned thresholds."""

    def __init__(self, n: int):
        super().__init__()
        self.thresholds = nn.Parameter(torch.linspace(-1, 1, n))

    def forward(self, scores: Tensor) -> Tensor:  # [B, 1] -> [B, n]
        return scores - self.thresholds


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


class _ResNetBlock(nn.Module):
    """A residual block of ResNet-56."""

    def __init__(self, c_in: int, c_out: int, stride: int):
        super().__init__()
        self.convs = nn.Sequential(
            nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(c_out),
            nn.ReLU(),
            nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False),
            nn.BatchNorm2d(c_out),
        )
        self.stride, self.extra = stride, c_out - c_in

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x[:, :, :: self.stride, :: self.stride]
        return functional.relu(self.convs(x) + functional.pad(shortcut, (0, 0, 0, 0, 0, self.extra)))


def resnet56() -> nn.Module:
    """Return ResNet-56 for CIFAR-10 (He et al. 2015, section 4.2); its shortcuts have no parameters (option A)."""
    blocks: list[nn.Module] = []
    c_in = 16
    for width in (16, 32, 64):
        for block in range(9):
            blocks.append(_ResNetBlock(c_in, width, 2 if block == 0 and width > 16 else 1))
            c_in = width
    stem = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
