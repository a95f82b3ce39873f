"""Helpers for tests of the CUDA kernels: sizes around a chunk, one optimizer per rule, and the names of the kernels."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import pytest

import clrfast
from tests.helpers.optimizers import give_grads, make_params

CHUNK = 4096
"""Elements of a chunk of float32 parameters."""

SIZES = [0, 1, 3, 4, 1023, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 1, 3 * CHUNK + 5]

OPTIMIZERS = {
    "SGD": partial(clrfast.SGD, momentum=0.9),
    "AdamW": clrfast.AdamW,
    "Adam": clrfast.Adam,
    "AMSGrad": partial(clrfast.AdamW, amsgrad=True),
}
"""A constructor for each rule and each number of its states. The options that matter to a test are its own."""

every_optimizer = pytest.mark.parametrize("rule", OPTIMIZERS)


def prepared(backend, rule="SGD", **options):
    """Return parameters with gradients, their optimizer, and copies of the parameters."""
    params = make_params([(3,), (4, 2)])
    give_grads(params, 0)
    optimizer = OPTIMIZERS[rule](params, lr=0.1, backend=backend, **options)
    return params, optimizer, [param.detach().clone() for param in params]


def give_counter(optimizer, state, counter):
    """Make ``counter``, float32 ``[2]``, that of the parameter with ``state``."""
    key = state.get("momentum_buffer")
    if key is None:
        key = state["step"] = counter[0]
    optimizer.counters.by_tensor[key] = counter


def kept_by(optimizer):
    """Return the state of all parameters in the order of the parameters, counters included.

    A kernel counts no update of an empty tensor, so counters of empty tensors are left out.
    """
    kept = []
    for group in optimizer.param_groups:
        for param in group["params"]:
            state = optimizer.state.get(param, {})
            kept += [state[name] for name in sorted(state) if name != "step" or param.numel()]
    return kept


class RuleKernels(NamedTuple):
    """The update kernels of one rule of csrc/rules.

    Attributes:
        struct: the rule's name in C++; the name of its files is the same in lower case.
        metadata: the kinds of metadata of its tensors. The float kernel of the first comes in all sizes.
        states: the numbers of states for which it has loops over vectors.
        costly: whether one thread of a block computes the hyper-parameters, in double, and shares them.
        resident_blocks: blocks of 256 threads that a multiprocessor can hold, by the type of the arithmetic.
    """

    struct: str
    metadata: tuple[str, ...]
    states: tuple[int, ...]
    costly: bool
    resident_blocks: dict[str, int]

    @property
    def file(self) -> str:
        return self.struct.lower()

    def kernels(self, sizes: tuple[int, ...]) -> Iterator[tuple[str, str, int]]:
        """Return type, metadata and bytes of the argument of each kernel; ``sizes`` are those of the usual kernel."""
        for value in ("float", "double"):
            for metadata in self.metadata:
                usual = (value, metadata) == ("float", self.metadata[0])
                for size in sizes if usual else sizes[-1:]:
                    yield value, metadata, size


RULE_KERNELS = (
    RuleKernels("Sgd", ("TensorMetadata", "FullTensorMetadata"), (0, 1), False, {"float": 4, "double": 4}),
    RuleKernels("AdamW", ("FullTensorMetadata",), (2,), True, {"float": 4, "double": 2}),
)
