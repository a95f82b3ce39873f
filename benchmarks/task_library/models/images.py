"""Models of images."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


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


class TiedAutoencoder(nn.Module):
    """An autoencoder whose decoder uses the encoder's weights."""

    def __init__(self, n_inputs: int, width: int):
        super().__init__()
        self.encoder = nn.Linear(n_inputs, width)
        self.bias = nn.Parameter(torch.zeros(n_inputs))

    def forward(self, inputs: Tensor) -> Tensor:  # [B, n] -> [B, n] logits
        return torch.sigmoid(self.encoder(inputs)) @ self.encoder.weight + self.bias


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


class _MixerBlock(nn.Module):
    """An MLP over the patches of every channel, then one over the channels of every patch."""

    def __init__(self, n_patches: int, width: int):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.patches, self.channels = (
            nn.Sequential(nn.Linear(n, 2 * n), nn.GELU(), nn.Linear(2 * n, n)) for n in (n_patches, width)
        )

    def forward(self, patches: Tensor) -> Tensor:  # [B, patches, width]
        patches = patches + self.patches(self.norms[0](patches).transpose(1, 2)).transpose(1, 2)
        return patches + self.channels(self.norms[1](patches))


class Mixer(nn.Module):
    """An MLP-mixer (Tolstikhin et al. 2021); classifies the mean of the patches."""

    def __init__(self, image: int, patch: int, width: int, n_blocks: int, n_classes: int):
        super().__init__()
        self.embedding = nn.Conv2d(1, width, patch, stride=patch)
        self.blocks = nn.Sequential(*(_MixerBlock((image // patch) ** 2, width) for _ in range(n_blocks)))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, n_classes))

    def forward(self, images: Tensor) -> Tensor:  # [B, 1, H, W] -> [B, classes]
        patches = self.embedding(images).flatten(2).transpose(1, 2)
        return self.head(self.blocks(patches).mean(dim=1))


class ColumnReader(nn.Module):
    """A CNN that reads an image from left to right: scores of the classes at every second column."""

    def __init__(self, height: int, width: int, n_classes: int):
        super().__init__()
        self.convolutions = nn.Sequential(
            *(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU()),
        )
        self.head = nn.Linear(2 * width * (height // 2), n_classes)

    def forward(self, images: Tensor) -> Tensor:  # [B, 1, H, W] -> [B, W / 2, classes]
        return self.head(self.convolutions(images).flatten(1, 2).transpose(1, 2))


class Siamese(nn.Module):
    """Logits that two images are of one class: a learned limit minus the distance of their embeddings by one CNN."""

    def __init__(self, size: int, width: int, n_code: int):
        super().__init__()
        self.embedding = nn.Sequential(
            *(nn.Conv2d(1, width, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(2 * width * ((size + 3) // 4) ** 2, n_code)),
        )
        self.limit = nn.Parameter(torch.tensor(1.0))

    def forward(self, pairs: Tensor) -> Tensor:  # [B, 2, H, W] -> [B]
        first, second = self.embedding(pairs.flatten(0, 1).unsqueeze(1)).unflatten(0, (-1, 2)).unbind(1)
        return self.limit - (first - second).square().sum(1)


class ClassTokenTransformer(nn.Module):
    """A vision transformer of pre-norm blocks that classifies the state of an additional token."""

    def __init__(self, image: int, patch: int, width: int, n_blocks: int, dropout: float, n_classes: int):
        super().__init__()
        self.patches = nn.Conv2d(1, width, patch, stride=patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.randn(1 + (image // patch) ** 2, width) * 0.1)
        block = nn.TransformerEncoderLayer(
            width,
            nhead=4,
            dim_feedforward=4 * width,
            dropout=dropout,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.blocks = nn.TransformerEncoder(block, n_blocks, nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, n_classes)

    def forward(self, images: Tensor) -> Tensor:  # [B, 1, H, W] -> [B, classes]
        patches = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(patches), -1, -1), patches], 1)
        return self.head(self.blocks(tokens + self.position)[:, 0])
