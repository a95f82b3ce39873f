"""A small convolutional network and a training step over static inputs, ready for a CUDA graph."""

from __future__ import annotations

import torch
from torch import nn

import clrfast

from .optimizers import randn


def conv_net(dtype=torch.float32, width=32):
    """A network with batch normalization; the same at every call."""
    with torch.random.fork_rng(devices=[torch.device("cuda:0")]):
        torch.manual_seed(0)
        net = nn.Sequential(
            *(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()),
            *(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)),
        )
    return net.to(dtype)


def image_batch(seed, dtype=torch.float32):
    """16 images of 8 x 8 pixels and their classes, on the default device; the same values on every device."""
    generator = torch.Generator("cpu").manual_seed(seed)
    targets = torch.randint(0, 10, (16,), generator=generator, device="cpu")
    return randn([(16, 3, 8, 8)], seed)[0].to(dtype), targets.to(torch.get_default_device())


def static_training(schedule=None, backend="cuda", dtype=torch.float32, make=clrfast.SGD, **options):
    """Return a network, its optimizer, a training step on static inputs, its warm-up, and a loader of new inputs."""
    net = conv_net(dtype)
    optimizer = make(net.parameters(), schedule=schedule, backend=backend, **options)
    inputs, targets = image_batch(0, dtype)

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(net(inputs).float(), targets)
        loss.backward()
        optimizer.step(loss=loss)
        return loss

    def warm_up():
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            state = {name: value.clone() for name, value in net.state_dict().items()}
            for _ in range(2):
                nn.functional.cross_entropy(net(inputs).float(), targets).backward()
            net.load_state_dict(state)
            optimizer.zero_grad(set_to_none=True)
        torch.cuda.current_stream().wait_stream(stream)

    def load(seed):
        for static, new in zip((inputs, targets), image_batch(seed, dtype), strict=True):
            static.copy_(new)

    return net, optimizer, step, warm_up, load
