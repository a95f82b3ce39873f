"""A check that validation data and training data are disjoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Subset, TensorDataset

_CONTAINERS = (Tensor, np.ndarray, tuple, list, Mapping)


def require_disjoint(loader: Any, val_loader: Any) -> None:
    """Raise ValueError unless both loaders can be iterated repeatedly and, as far as visible, share no data."""
    if val_loader is None:
        raise ValueError(
            "val_loader: got None; the values are judged on data that the runs are not trained on: give batches of "
            "samples that were held out, for example by torch.utils.data.random_split"
        )
    for name, given in (("loader", loader), ("val_loader", val_loader)):
        if isinstance(given, Iterator):
            raise ValueError(
                f"{name}: got a {type(given).__name__}, which can be iterated only once, and every run needs the same "
                "batches; give a DataLoader or a list"
            )
    train, val = _samples(loader), _samples(val_loader)
    if train[0] is not val[0]:
        n_shared = len(np.intersect1d(_addresses(*train), _addresses(*val)))
    elif train[1] is None or val[1] is None:
        n_shared = None
    else:
        n_shared = len(set(train[1]) & set(val[1]))
    if n_shared == 0:
        return
    shared = "the same data as" if n_shared is None else f"{n_shared} samples or batches that are in"
    raise ValueError(
        f"val_loader: got {shared} the training's loader too; on samples that were trained on, overfitting does not "
        "show: hold some out, for example with torch.utils.data.random_split"
    )


def _samples(loader: Any) -> tuple[Any, list[int] | None]:
    """Return the dataset of a loader, and the indices of the samples that it draws; None for all."""
    data = getattr(loader, "dataset", loader)
    drawn = getattr(getattr(loader, "sampler", None), "indices", None)
    indices = None if drawn is None else [int(i) for i in drawn]
    while isinstance(data, Subset):
        indices = [int(data.indices[i]) for i in (range(len(data.indices)) if indices is None else indices)]
        data = data.dataset
    return data, indices


def _addresses(data: Any, indices: list[int] | None) -> np.ndarray:
    """Return the addresses of the samples, or of a list's batches, as far as they are known: int64 ``[n]``."""
    if isinstance(data, TensorDataset):
        inputs = data.tensors[0]
        drawn = np.arange(len(inputs)) if indices is None else np.array(indices, dtype=np.int64)
        if inputs.layout is not torch.strided or inputs.numel() == 0 or inputs.stride(0) == 0:
            return drawn[:0]
        return inputs.data_ptr() + inputs.stride(0) * inputs.element_size() * drawn
    if isinstance(data, list | tuple):
        drawn_from = data if indices is None else [data[i] for i in indices]
        # Equal numbers and strings may be one object.
        return np.array([id(x) for x in drawn_from if isinstance(x, _CONTAINERS)], dtype=np.int64)
    return np.empty(0, dtype=np.int64)
