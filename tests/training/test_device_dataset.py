from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import clrfast
from clrfast.training import DeviceDataset, crop_and_flip

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(params=DEVICES)
def device(request):
    return request.param


def numbered(n, device):
    return torch.arange(n, device=device), -torch.arange(n, device=device)


@pytest.mark.parametrize(("n", "batch_size", "drop_last", "sizes"), [(10, 4, False, [4, 4, 2]), (10, 4, True, [4, 4])])
def test_an_epoch_has_every_sample_once(device, n, batch_size, drop_last, sizes):
    for shuffle in (False, True):
        data = DeviceDataset(numbered(n, device), batch_size, shuffle=shuffle, drop_last=drop_last)
        batches = list(data)
        assert [len(inputs) for inputs, _ in batches] == sizes
        assert len(data) == len(sizes)
        seen = torch.cat([inputs for inputs, _ in batches])
        assert len(set(seen.tolist())) == sum(sizes)
        assert (seen.tolist() == list(range(sum(sizes)))) != shuffle
        for inputs, targets in batches:
            assert torch.equal(inputs, -targets)
            assert inputs.device.type == device


def test_the_seed_decides_the_order_and_every_epoch_has_another(device):
    def orders(seed):
        data = DeviceDataset(torch.arange(50, device=device), 50, shuffle=True, seed=seed)
        return [next(iter(data)).tolist() for _ in range(3)]

    assert orders(0) == orders(0)
    assert orders(0) != orders(1)
    assert len({tuple(order) for order in orders(0)}) == 3


def test_a_range_test_preserves_the_order_of_the_next_epoch(device):
    generator = torch.Generator(device).manual_seed(0)
    inputs = torch.randn(64, 4, generator=generator, device=device)
    data = DeviceDataset((inputs, inputs.sum(1, keepdim=True)), 16, shuffle=True)
    expected = DeviceDataset((inputs, inputs.sum(1, keepdim=True)), 16, shuffle=True)
    curve = clrfast.range_test(nn.Linear(4, 1).to(device), nn.MSELoss(), data, steps=20, min_lr=1e-4)
    assert len(curve.lr)
    for (a, _), (b, _) in zip(data, expected, strict=True):
        assert torch.equal(a, b)


def test_augmentation_changes_the_first_tensor_and_draws_from_the_generator(device):
    def noisy(inputs, generator):
        return inputs + torch.rand(inputs.shape, generator=generator, device=inputs.device)

    inputs, targets = torch.zeros(6, 2, device=device), torch.zeros(6, device=device)
    one, other = (DeviceDataset((inputs, targets), 3, augment=noisy, seed=4) for _ in range(2))
    torch.manual_seed(0)
    first = list(one)
    torch.manual_seed(1)
    for (a, unchanged), (b, _) in zip(first, other, strict=True):
        assert torch.equal(a, b)
        assert a.min() > 0
        assert torch.equal(unchanged, torch.zeros(3, device=device))
    assert not inputs.any()


def test_crops_are_windows_of_the_padded_image(device):
    """The value of every pixel is its position, which shows where a crop starts and whether it is mirrored."""
    n, channels, height, width, padding = 400, 2, 5, 6, 2
    places = 1 + torch.arange(channels * height * width, device=device).view(channels, height, width)
    images = places.expand(n, -1, -1, -1).contiguous()
    generator = torch.Generator(device).manual_seed(0)
    crops = crop_and_flip(padding)(images, generator)
    assert crops.shape == images.shape
    padded = nn.functional.pad(places, (padding,) * 4)
    seen = set()
    for crop in crops:
        windows = {
            (top, left, mirrored): padded[:, top : top + height, left : left + width].flip(2 if mirrored else ())
            for top in range(2 * padding + 1)
            for left in range(2 * padding + 1)
            for mirrored in (False, True)
        }
        found = [place for place, window in windows.items() if torch.equal(window, crop)]
        assert len(found) == 1
        seen.add(found[0])
    assert len(seen) > 45  # of 50
    assert {mirrored for *_, mirrored in seen} == {False, True}


def test_without_padding_images_are_only_mirrored(device):
    images = torch.randn(64, 1, 4, 4, device=device)
    crops = crop_and_flip(0)(images, torch.Generator(device).manual_seed(0))
    mirrored = [torch.equal(crop, image.flip(2)) for crop, image in zip(crops, images, strict=True)]
    kept = [torch.equal(crop, image) for crop, image in zip(crops, images, strict=True)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True))
    assert abs(sum(mirrored) - 32) < 4 * math.sqrt(64 / 4)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: DeviceDataset((), 1), "tensors: give one or more"),
        (lambda: DeviceDataset([1, 2], 1), "tensors: give one or more"),
        (lambda: DeviceDataset(torch.tensor(1.0), 1), "tensors: give one or more"),
        (lambda: DeviceDataset((torch.zeros(3), torch.zeros(4)), 1), r"tensors: they have \[3, 4\] samples"),
        (
            lambda: DeviceDataset((torch.zeros(3), torch.zeros(3, device="meta")), 1),
            r"tensors: they are on \['cpu', 'm",
        ),
        (lambda: DeviceDataset(torch.zeros(0), 1), "tensors: they have no samples"),
        (lambda: DeviceDataset(torch.zeros(3), 4), "batch_size: got 4; give a whole number from 1 to 3"),
        (lambda: DeviceDataset(torch.zeros(3), 1.5), "batch_size: got 1.5"),
        (lambda: DeviceDataset(torch.zeros(3), 1, augment="flip"), "augment: got 'flip'"),
        (lambda: crop_and_flip(-1), "padding: got -1"),
        (lambda: crop_and_flip()(torch.zeros(3, 4), torch.Generator()), r"images: got shape \(3, 4\)"),
    ],
)
def test_an_argument_out_of_range_is_refused_by_its_name(make, told):
    with pytest.raises(ValueError, match=told):
        make()
