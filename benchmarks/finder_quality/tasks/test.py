"""The tasks that no finder was run on when they were written, of other kinds than the development tasks."""

from __future__ import annotations

import copy

from torch import nn

from ...task_library import data, pretrained
from ...task_library.definition import BenchmarkTask, Split, build_task

TEST = Split()

# --- pre-trained ------------------------------------------------------------------------------------------------------


@TEST.task(low=-5, high=1)
def digits_other_classes(seed: int) -> BenchmarkTask:
    """A CNN that knows the digits 0 to 4 learns the others with a new last layer; all of it is trained."""
    high, val_high = ((labels >= 5) for labels in data.digits()[1::2])
    train, labels, val, val_labels = data.digits()
    arrays = (train[high], labels[high] - 5, val[val_high], val_labels[val_high] - 5)

    def model() -> nn.Module:
        return nn.Sequential(*copy.deepcopy(pretrained.low_digits_cnn())[:-1], nn.Linear(96, 5))

    return build_task(seed, model, nn.CrossEntropyLoss(), arrays, batch_size=16, steps=60)


@TEST.task(low=-5, high=1, packed=True)
def fashion_after_mnist(seed: int) -> BenchmarkTask:
    """A CNN with group norm that knows MNIST is trained on 120 images of clothes, in batches of 4."""
    train, labels, val, val_labels = data.fashion(8000, 1000)

    def model() -> nn.Module:
        return nn.Sequential(*copy.deepcopy(pretrained.mnist_cnn())[:-1], nn.Linear(784, 10))

    arrays = (train[:120], labels[:120], val, val_labels)
    return build_task(seed, model, nn.CrossEntropyLoss(), arrays, batch_size=4, steps=150)


# --- vision -----------------------------------------------------------------------------------------------------------


# --- text and series --------------------------------------------------------------------------------------------------


# --- tables, points and graphs ----------------------------------------------------------------------------------------
