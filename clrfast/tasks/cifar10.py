"""CIFAR-10 from its published files, binary or Python pickles. Nothing is downloaded.

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
FOLDERS = {".bin": "cifar-10-batches-bin", "": "cifar-10-batches-py"}
"""Folder in the published archive, by the suffix of its files: binary files, then pickles."""

N_CLASSES = 10
IMAGE_SHAPE = (3, 32, 32)
N_VALUES = 3 * 32 * 32
_N_RECORDS = 10_000

Split = tuple[Tensor, Tensor]
"""Images, uint8 ``[n, 3, 32, 32]`` in RGB, and labels, int64 ``[n]`` from 0 to 9, on the CPU."""


def load(folder: str | os.PathLike[str]) -> tuple[Split, Split]:
    """Load the training and the test data.

    Reads ``data_batch_1.bin`` to ``_5.bin`` and ``test_batch.bin``, or else the pickles of these names without suffix.
    A pickle can make NumPy's arrays and run no other code.

    Args:
        folder: folder of the files, or the one in which the published archive was unpacked; for example
            ``"data/cifar-10-batches-py"`` or ``"data"``.
    Returns:
        ``(train_images, train_labels), (test_images, test_labels)``: 50,000 and 10,000 samples.
    Raises:
        FileNotFoundError: some or all of the files are missing; the message names them.
        ValueError: a file does not hold 10,000 images with labels from 0 to 9; the message says why.
    """
    place, suffix = _find_files(Path(folder))
    read = _read_binary if suffix else _read_pickle
    paths = [place / f"{name}{suffix}" for name in (*TRAIN_FILES, TEST_FILE)]
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: missing, unlike other files of CIFAR-10; unpack the archive again")
    *train, test = [_to_tensors(path, *read(path)) for path in paths]
    images, labels = zip(*train, strict=True)
    return (torch.cat(images), torch.cat(labels)), test


def _find_files(folder: Path) -> tuple[Path, str]:
    """Return the folder with files of CIFAR-10, and their suffix."""
    for suffix, inner in FOLDERS.items():
        for place in (folder, folder / inner):
            if any((place / f"{name}{suffix}").is_file() for name in (*TRAIN_FILES, TEST_FILE)):
                return place, suffix
    raise FileNotFoundError(
        f"folder: {folder} holds neither data_batch_1.bin nor data_batch_1, nor does {' or '.join(FOLDERS.values())} "
        "in it; give the folder of CIFAR-10's unpacked archive"
    )


def _read_binary(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read records of one byte for the label and 3,072 for the image."""
    data = np.fromfile(path, np.uint8)
    size, expected = data.size, _N_RECORDS * (1 + N_VALUES)
    if size != expected:
        raise ValueError(f"{path}: it has {size:,} bytes instead of {expected:,}; is the file cut short?")
    records = data.reshape(_N_RECORDS, 1 + N_VALUES)
    return records[:, 1:], records[:, 0]


def _read_pickle(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a dict with ``b"data"``, uint8 ``[n, 3072]``, and ``b"labels"``, a list of n integers."""
    try:
        batch = _ArraysOnly(io.BytesIO(path.read_bytes()), encoding="bytes").load()
    except Exception as error:  # a broken pickle can raise almost anything
        raise ValueError(f"{path}: it is not a pickle of CIFAR-10: {error}") from error
    if not isinstance(batch, dict):
        raise ValueError(f"{path}: it holds a {type(batch).__name__} instead of a dict")
    for key in (b"data", b"labels"):
        if key not in batch:
            raise ValueError(f"{path}: its dict lacks {key!r}; it has {list(batch)}")
    images, labels = batch[b"data"], batch[b"labels"]
    if not (isinstance(images, np.ndarray) and images.dtype == np.uint8 and images.shape == (_N_RECORDS, N_VALUES)):
        got = f"{images.dtype} {list(images.shape)}" if isinstance(images, np.ndarray) else type(images).__name__
        raise ValueError(f"{path}: its images are {got} instead of uint8 {[_N_RECORDS, N_VALUES]}")
    if not (isinstance(labels, list) and all(type(label) is int for label in labels)):
        raise ValueError(f"{path}: its labels are not a list of whole numbers")
    return images, np.array(labels, dtype=object)  # of any size; _to_tensors refuses those that are too large


def _to_tensors(path: Path, images: np.ndarray, labels: np.ndarray) -> Split:
    """Check the labels and convert both arrays to tensors."""
    if len(labels) != len(images):
        raise ValueError(f"{path}: it has {len(labels):,} labels for {len(images):,} images")
    wrong = np.flatnonzero((labels < 0) | (labels >= N_CLASSES))
    if wrong.size:
        raise ValueError(f"{path}: the label of image {wrong[0]} is {labels[wrong[0]]}; labels are from 0 to 9")
    return _tensor(images).reshape(-1, *IMAGE_SHAPE), _tensor(labels.astype(np.int64))


def _tensor(values: np.ndarray) -> Tensor:
    return torch.tensor(values, device="cpu")  # the default device may be another one


class _ArraysOnly(pickle.Unpickler):
    """Unpickles dicts, lists, bytes, numbers and NumPy's arrays, and refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        raise pickle.UnpicklingError(f"it refers to {module}.{name}, which no file of CIFAR-10 needs")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],  # its module depends on NumPy's version
}
