"""CIFAR-10 from the files in which it is published, binary or Python pickles; nothing is downloaded.

Source: Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images".
"""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

TRAIN_FILES = tuple(f"data_batch_{number}" for number in range(1, 6))
TEST_FILE = "test_batch"
FORMS = {".bin": "cifar-10-batches-bin", "": "cifar-10-batches-py"}
"""How the names of the binary files and of the pickles end, and the folder that their archive makes."""

N_CLASSES = 10
IMAGE_SHAPE = (3, 32, 32)
N_VALUES = 3 * 32 * 32
_N_RECORDS = 10_000

Split = tuple[Tensor, Tensor]
"""Images, uint8 ``[n, 3, 32, 32]``, red, green and blue, and labels, int64 ``[n]``, from 0 to 9, on the CPU."""


def load(folder: str | os.PathLike[str]) -> tuple[Split, Split]:
    """The training and the test data in ``folder``, or in the folder that the published archive makes inside it.

    Reads ``data_batch_1.bin`` to ``_5.bin`` and ``test_batch.bin``, or else the pickles of these names without ending.
    Of a pickle, nothing is run but what makes NumPy's arrays.

    Args:
        folder: for example ``"data"`` or ``"data/cifar-10-batches-py"``.
    Returns:
        ``(train_images, train_labels), (test_images, test_labels)``: 50,000 and 10,000 of them.
    Raises:
        FileNotFoundError: there is none of the files, or not all of them; the message names what is missing.
        ValueError: a file does not hold 10,000 images with labels from 0 to 9; the message names it and what is wrong.
    """
    place, ending = _found(Path(folder))
    read = _read_binary if ending else _read_pickle
    paths = [place / f"{name}{ending}" for name in (*TRAIN_FILES, TEST_FILE)]
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: missing beside the other files of CIFAR-10; unpack the archive once more")
    *train, test = [_checked(path, *read(path)) for path in paths]
    images, labels = zip(*train, strict=True)
    return (torch.cat(images), torch.cat(labels)), test


def _found(folder: Path) -> tuple[Path, str]:
    """The folder that holds files of CIFAR-10, and how their names end."""
    for ending, inside in FORMS.items():
        for place in (folder, folder / inside):
            if any((place / f"{name}{ending}").is_file() for name in (*TRAIN_FILES, TEST_FILE)):
                return place, ending
    raise FileNotFoundError(
        f"folder: {folder} holds neither data_batch_1.bin nor data_batch_1, nor does {' or '.join(FORMS.values())} "
        "in it; give the folder of CIFAR-10's unpacked archive"
    )


def _read_binary(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Records of one byte for the label and 3,072 for the image."""
    data = np.fromfile(path, np.uint8)
    size, expected = data.size, _N_RECORDS * (1 + N_VALUES)
    if size != expected:
        raise ValueError(f"{path}: it has {size:,} bytes in place of {expected:,}; is the file cut short?")
    records = data.reshape(_N_RECORDS, 1 + N_VALUES)
    return records[:, 1:], records[:, 0]


def _read_pickle(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """A dict with ``b"data"``, uint8 ``[n, 3072]``, and ``b"labels"``, a list of n numbers."""
    try:
        batch = _ArraysOnly(io.BytesIO(path.read_bytes()), encoding="bytes").load()
    except Exception as error:  # what a broken pickle raises depends on where it is broken
        raise ValueError(f"{path}: it is no pickle as CIFAR-10's: {error}") from error
    if not isinstance(batch, dict):
        raise ValueError(f"{path}: it holds a {type(batch).__name__} in place of a dict")
    for key in (b"data", b"labels"):
        if key not in batch:
            raise ValueError(f"{path}: its dict lacks {key!r}; it has {list(batch)}")
    images, labels = batch[b"data"], batch[b"labels"]
    if not (isinstance(images, np.ndarray) and images.dtype == np.uint8 and images.shape == (_N_RECORDS, N_VALUES)):
        got = f"{images.dtype} {list(images.shape)}" if isinstance(images, np.ndarray) else type(images).__name__
        raise ValueError(f"{path}: its images are {got} in place of uint8 {[_N_RECORDS, N_VALUES]}")
    if not (isinstance(labels, list) and all(type(label) is int for label in labels)):
        raise ValueError(f"{path}: its labels are no list of whole numbers")
    return images, np.array(labels, dtype=object)  # of any size; _checked tells which are too large


def _checked(path: Path, images: np.ndarray, labels: np.ndarray) -> Split:
    """What was read from ``path``, as tensors."""
    if len(labels) != len(images):
        raise ValueError(f"{path}: it has {len(labels):,} labels for {len(images):,} images")
    wrong = np.flatnonzero((labels < 0) | (labels >= N_CLASSES))
    if wrong.size:
        raise ValueError(f"{path}: the label of image {wrong[0]} is {labels[wrong[0]]}; labels are from 0 to 9")
    return _tensor(images).reshape(-1, *IMAGE_SHAPE), _tensor(labels.astype(np.int64))


def _tensor(values: np.ndarray) -> Tensor:
    return torch.tensor(values, device="cpu")  # whatever the default device


class _ArraysOnly(pickle.Unpickler):
    """Makes what CIFAR-10's pickles are made of: dicts, lists, bytes, numbers and NumPy's arrays; refuses all else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        raise pickle.UnpicklingError(f"it wants {module}.{name}, which no such file needs")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],  # wherever this NumPy keeps it
}
