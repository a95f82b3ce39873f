"""Parameter shapes of well-known networks: all that an optimizer step needs of them."""

from __future__ import annotations

Shape = tuple[int, ...]


def _conv_bn(c_in: int, c_out: int, kernel: int) -> list[Shape]:
    return [(c_out, c_in, kernel, kernel), (c_out,), (c_out,)]


def resnet56() -> list[Shape]:
    """Return the shapes of ResNet-56 for CIFAR-10 (He et al. 2015, section 4.2): 167 tensors, 853,018 values."""
    shapes, c_in = _conv_bn(3, 16, 3), 16
    for width in (16, 32, 64):
        for _ in range(9):
            shapes += _conv_bn(c_in, width, 3) + _conv_bn(width, width, 3)
            c_in = width
    return [*shapes, (10, 64), (10,)]


def resnet50() -> list[Shape]:
    """Return the shapes of ResNet-50 for ImageNet (He et al. 2015, table 1): 161 tensors, 25,557,032 values."""
    shapes, c_in = _conv_bn(3, 64, 7), 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            shapes += _conv_bn(c_in, width, 1) + _conv_bn(width, width, 3) + _conv_bn(width, 4 * width, 1)
            shapes += _conv_bn(c_in, 4 * width, 1) if block == 0 else []
            c_in = 4 * width
    return [*shapes, (1000, 2048), (1000,)]


def decoder_1b() -> list[Shape]:
    """Return the shapes of Llama 3.2 1B with tied embeddings (Grattafiori et al. 2024, section 3.2).

    They are 146 tensors and 1,235,814,400 values.
    """
    vocabulary, hidden, inner, keys_and_values = 128_256, 2048, 8192, 8 * 64
    attention = [(hidden, hidden), (keys_and_values, hidden), (keys_and_values, hidden), (hidden, hidden)]
    feed_forward = [(inner, hidden), (inner, hidden), (hidden, inner)]
    layer = [*attention, *feed_forward, (hidden,), (hidden,)]
    return [(vocabulary, hidden), *layer * 16, (hidden,)]


def tiny() -> list[Shape]:
    """Return three small shapes, to check that a benchmark runs."""
    return [(4, 3), (4,), (2, 4)]
