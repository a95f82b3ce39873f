"""CIFAR-10 as JPEGs: a few generated ones, packed and unpacked, whole and broken."""

import io
import lzma

import numpy as np
import pytest

from benchmarks.speed import cifar10_jpeg
from clrfast.tasks import cifar10

Image = pytest.importorskip("PIL.Image", reason="needs Pillow")

N = {"train": 10, "test": 2}
RNG = np.random.default_rng(0)


def jpeg(size=(32, 32)):
    """A JPEG of few grey levels a pixel, as pictures have: noise would not survive."""
    coarse = RNG.integers(256, size=(4, 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize(size).save(buffer, "JPEG", quality=75)
    return buffer.getvalue()


def decoded(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).transpose(2, 0, 1)


def write(folder, split, jpegs, labels, lengths=None, tail=b""):
    folder.joinpath(f"cifar10jpg_{split}.jpegs.bin.xz").write_bytes(lzma.compress(b"".join(jpegs) + tail))
    np.save(folder / f"cifar10jpg_{split}_labels.npy", np.array(labels, np.uint8))
    np.save(folder / f"cifar10jpg_{split}_lengths.npy", np.array(lengths or [*map(len, jpegs)], np.uint16))


@pytest.fixture
def packed(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar10, "_N_RECORDS", 2)
    jpegs = {split: [jpeg() for _ in range(n)] for split, n in N.items()}
    labels = {split: RNG.integers(10, size=n).tolist() for split, n in N.items()}
    for split in N:
        write(tmp_path, split, jpegs[split], labels[split])
    return tmp_path, jpegs, labels


def test_the_published_form_holds_the_same_images_in_the_same_order(packed, tmp_path):
    folder, jpegs, labels = packed
    assert cifar10_jpeg.is_packed(folder)
    assert cifar10_jpeg.unpack(folder, tmp_path / "unpacked").name == "cifar-10-batches-bin"
    for (images, targets), split in zip(cifar10.load(tmp_path / "unpacked"), N, strict=True):
        np.testing.assert_array_equal(images.numpy(), np.stack([*map(decoded, jpegs[split])]))
        assert targets.tolist() == labels[split]


def test_what_is_unpacked_is_left_alone_and_what_is_missing_comes_back(packed):
    folder, _, _ = packed
    target = cifar10_jpeg.unpack(folder, folder)
    expected = {path.name: path.read_bytes() for path in target.iterdir()}
    (target / "test_batch.bin").unlink()
    (folder / "cifar10jpg_train.jpegs.bin.xz").write_bytes(b"not needed any more")
    cifar10_jpeg.unpack(folder, folder)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == expected


def test_a_folder_without_the_packed_form_is_none(tmp_path):
    assert not cifar10_jpeg.is_packed(tmp_path)


BROKEN = {
    "too few labels": ({"labels": [1] * 9}, "it has 9 labels for 10 images"),
    "bytes too many": ({"tail": b"x"}, "there are bytes after the last of 10 images"),
    "another size": ({"jpegs": [jpeg((32, 31)), *(jpeg() for _ in range(9))]}, r"image 0 has shape \(3, 31, 32\)"),
    "no JPEG": ({"jpegs": [b"GIF", *(jpeg() for _ in range(9))]}, "image 0 is no JPEG"),
    "lengths of others": ({"lengths": [5] * 10}, "image 0 is no JPEG"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_with_the_files_is_named(tmp_path, name):
    changes, message = BROKEN[name]
    contents = {"jpegs": [jpeg() for _ in range(10)], "labels": [1] * 10, **changes}
    write(tmp_path, "train", **contents)
    with pytest.raises(ValueError, match=message) as caught:
        cifar10_jpeg.unpack(tmp_path, tmp_path)
    assert str(caught.value).startswith("cifar10jpg_train: ")
