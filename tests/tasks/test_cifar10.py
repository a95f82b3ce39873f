"""CIFAR-10's loader, on files of a few records in both published forms, whole and broken."""

import io
import os
import pickle
import struct

import numpy as np
import pytest
import torch

from clrfast.tasks import cifar10

N = 7
NAMES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
RNG = np.random.default_rng(0)
IMAGES = {name: RNG.integers(256, size=(N, 3072), dtype=np.uint8) for name in NAMES}
LABELS = {name: RNG.integers(10, size=N).tolist() for name in NAMES}


class Python2Pickler(pickle._Pickler):
    """Writes every string as a byte string, as Python 2 did when the set was published."""

    def save_bytes(self, value):
        data = value.encode("ascii") if isinstance(value, str) else value
        self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
        self.memoize(value)

    dispatch = {**pickle._Pickler.dispatch, bytes: save_bytes, str: save_bytes}  # noqa: RUF012 - as in its base


def pickled(content):
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(content)
    return file.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")  # NumPy 2's name


def binary(images, labels):
    return np.column_stack([np.array(labels, np.uint8), images]).tobytes()


def batch(images, labels, **others):
    keys = {key.encode(): value for key, value in others.items()}
    return pickled({b"batch_label": b"training batch 1 of 5", b"labels": labels, b"data": images, **keys})


FORMS = {"bin": (binary, ".bin", "cifar-10-batches-bin"), "py": (batch, "", "cifar-10-batches-py")}


@pytest.fixture(autouse=True)
def few_records(monkeypatch):
    monkeypatch.setattr(cifar10, "_N_RECORDS", N)


def write(folder, form):
    encode, ending, _ = FORMS[form]
    folder.mkdir(exist_ok=True)
    for name in NAMES:
        (folder / f"{name}{ending}").write_bytes(encode(IMAGES[name], LABELS[name]))
    return folder


def assert_whole(found):
    for (images, labels), names in zip(found, (NAMES[:5], NAMES[5:]), strict=True):
        assert images.dtype == torch.uint8
        assert labels.dtype == torch.int64
        expected = np.concatenate([IMAGES[name] for name in names]).reshape(-1, 3, 32, 32)
        np.testing.assert_array_equal(images.numpy(), expected)
        assert labels.tolist() == [label for name in names for label in LABELS[name]]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("inside", [False, True])
def test_binary_files_and_pickles_are_read(tmp_path, form, inside):
    write(tmp_path / FORMS[form][2] if inside else tmp_path, form)
    assert_whole(cifar10.load(tmp_path))
    assert_whole(cifar10.load(str(tmp_path)))


def test_the_tensors_are_writable_and_share_no_memory(tmp_path):
    _, (images, labels) = cifar10.load(write(tmp_path, "bin"))
    images.zero_(), labels.zero_()
    assert_whole(cifar10.load(tmp_path))


class RunsACommand:
    def __reduce__(self):
        return os.mkdir, ("made_by_a_pickle",)


class Text(np.ndarray):
    """An array's subclass, whose code no file may bring in."""


IMAGES_1, LABELS_1 = IMAGES["data_batch_1"], LABELS["data_batch_1"]
BROKEN = {
    "cut short": ("bin", binary(IMAGES_1, LABELS_1)[:-1], "it has 21,510 bytes instead of 21,511; is the file cut"),
    "too long": ("bin", binary(IMAGES_1, LABELS_1) + b"0", "it has 21,512 bytes instead of 21,511"),
    "empty": ("bin", b"", "it has 0 bytes instead of 21,511"),
    "a label of 10": ("bin", binary(IMAGES_1, [0, 9, 10, 0, 0, 0, 255]), "the label of image 2 is 10; labels are from"),
    "pickle, empty": ("py", b"", "it is not a pickle of CIFAR-10: Ran out of input"),
    "pickle, cut short": ("py", batch(IMAGES_1, LABELS_1)[:-40], "it is not a pickle of CIFAR-10"),
    "pickle, no pickle": ("py", b"<html>not found</html>", "it is not a pickle of CIFAR-10"),
    "pickle of a list": ("py", pickled([1, 2]), "it holds a list instead of a dict"),
    "pickle without labels": ("py", pickled({b"data": IMAGES_1}), r"its dict lacks b'labels'; it has \[b'data'\]"),
    "pickle without data": ("py", pickled({b"labels": LABELS_1}), "its dict lacks b'data'"),
    "pickle with other images": (
        *("py", batch(IMAGES_1.astype(np.float32), LABELS_1)),
        r"its images are float32 \[7, 3072\] instead of uint8 \[7, 3072\]",
    ),
    "pickle with too few images": ("py", batch(IMAGES_1[:5], LABELS_1), r"its images are uint8 \[5, 3072\]"),
    "pickle with a list of images": ("py", batch([], LABELS_1), "its images are list instead of uint8"),
    "pickle with too few labels": ("py", batch(IMAGES_1, LABELS_1[:3]), "it has 3 labels for 7 images"),
    "pickle with a label of -1": ("py", batch(IMAGES_1, [*LABELS_1[:6], -1]), "the label of image 6 is -1"),
    "pickle with a huge label": ("py", batch(IMAGES_1, [10**30] * N), "the label of image 0 is 1000000"),
    "pickle with labels of text": ("py", batch(IMAGES_1, [b"cat"] * N), "its labels are not a list of whole numbers"),
    "pickle with labels that are no list": ("py", batch(IMAGES_1, 3), "its labels are not a list of whole numbers"),
    "pickle with a command": (
        "py",
        batch(IMAGES_1, LABELS_1, more=RunsACommand()),
        r"it refers to \w+.mkdir, which no",
    ),
    "pickle with a class": (
        "py",
        batch(IMAGES_1.view(Text), LABELS_1),
        "it refers to tests.tasks.test_cifar10.Text, which no",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_errors_name_the_file_and_what_is_wrong(tmp_path, monkeypatch, name):
    form, content, message = BROKEN[name]
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, form) / f"data_batch_1{FORMS[form][1]}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        cifar10.load(tmp_path)
    assert str(caught.value).startswith(f"{path}: ")
    assert not (tmp_path / "made_by_a_pickle").exists()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["data_batch_1", "data_batch_4", "test_batch"])
def test_a_missing_file_is_named(tmp_path, form, name):
    path = write(tmp_path, form) / f"{name}{FORMS[form][1]}"
    path.unlink()
    with pytest.raises(FileNotFoundError, match="missing, unlike other files of CIFAR-10") as caught:
        cifar10.load(tmp_path)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_folder_without_the_files_is_named(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match="give the folder of CIFAR-10's unpacked archive") as caught:
            cifar10.load(folder)
        assert str(caught.value).startswith(f"folder: {folder} holds neither")


def test_published_files_hold_10000_records(tmp_path, monkeypatch):
    monkeypatch.undo()
    write(tmp_path, "bin")
    with open(tmp_path / "data_batch_1.bin", "wb") as file:
        file.truncate(10_000 * 3073)  # zeros
    with pytest.raises(ValueError, match="it has 21,511 bytes instead of 30,730,000") as caught:
        cifar10.load(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'data_batch_2.bin'}: ")  # so the first one was right
