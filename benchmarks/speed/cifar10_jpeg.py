"""CIFAR-10 from JPEGs, 18 MB, into the published binary form that ``clrfast.tasks.cifar10`` reads.

    python -m benchmarks.speed.cifar10_jpeg FOLDER TARGET    writes TARGET/cifar-10-batches-bin, 184 MB; needs Pillow

The folder holds three files for each of ``train`` and ``test``: ``cifar10jpg_NAME.jpegs.bin.xz``, the JPEGs in a row,
compressed as a whole; ``cifar10jpg_NAME_lengths.npy``, the bytes of each; ``cifar10jpg_NAME_labels.npy``, from 0 to 9.
JPEG loses detail: results on these images are results on "CIFAR-10, JPEG-q75 re-encoded".
"""

from __future__ import annotations

import argparse
import io
import lzma
from pathlib import Path

import numpy as np

from clrfast.tasks.cifar10 import FOLDERS, IMAGE_SHAPE, N_VALUES, TEST_FILE, TRAIN_FILES

NAME = "CIFAR-10, JPEG-q75 re-encoded"
SPLITS = {"train": TRAIN_FILES, "test": (TEST_FILE,)}
ENDING = ".bin"


def is_packed(folder: Path) -> bool:
    """Return whether ``folder`` holds the packed form."""
    return _stream(folder, "train").exists()


def unpack(folder: Path, target: Path) -> Path:
    """Write the JPEGs in ``folder`` in the published form into ``target``, unless they are there.

    Returns:
        the folder in ``target`` with the published form.
    Raises:
        FileNotFoundError: a file of the packed form is missing.
        ValueError: the files do not belong together, or an image is not 32x32; the message says which.
    """
    target = target / FOLDERS[ENDING]
    target.mkdir(parents=True, exist_ok=True)
    for split, names in SPLITS.items():
        paths = [target / f"{name}{ENDING}" for name in names]
        if all(path.exists() for path in paths):
            continue
        for path, part in zip(paths, np.split(records(folder, split), len(paths)), strict=True):
            unfinished = path.with_suffix(".part")
            part.tofile(unfinished)
            unfinished.replace(path)
    return target


def records(folder: Path, split: str) -> np.ndarray:
    """Return uint8 ``[n, 1 + 3072]``: the label, then the image by channels."""
    labels, lengths = (np.load(folder / f"cifar10jpg_{split}_{name}.npy") for name in ("labels", "lengths"))
    if len(labels) != len(lengths):
        raise ValueError(f"cifar10jpg_{split}: it has {len(labels):,} labels for {len(lengths):,} images")
    found = np.empty((len(labels), 1 + N_VALUES), np.uint8)
    found[:, 0] = labels
    with lzma.open(_stream(folder, split)) as stream:
        for index, length in enumerate(lengths):
            found[index, 1:] = _values(stream.read(int(length)), f"cifar10jpg_{split}: image {index}")
        if stream.read(1):
            raise ValueError(f"cifar10jpg_{split}: there are bytes after the last of {len(lengths):,} images")
    return found


def _values(jpeg: bytes, what: str) -> np.ndarray:
    from PIL import Image

    try:
        image = np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")).transpose(2, 0, 1)
    except OSError as error:
        raise ValueError(f"{what} is no JPEG: {error}") from error
    if image.shape != IMAGE_SHAPE:
        raise ValueError(f"{what} has shape {image.shape} in place of {IMAGE_SHAPE}")
    return image.ravel()


def _stream(folder: Path, split: str) -> Path:
    return folder / f"cifar10jpg_{split}.jpegs.bin.xz"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    print(unpack(arguments.folder, arguments.target))


if __name__ == "__main__":
    main()
