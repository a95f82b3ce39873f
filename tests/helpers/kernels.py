"""Helpers for tests of the CUDA kernels: sizes around a chunk, and an optimizer that is ready for its step."""

from __future__ import annotations

import clrfast
from tests.helpers.optimizers import give_grads, make_params

CHUNK = 4096
"""Elements of a chunk of float32 parameters."""

SIZES = [0, 1, 3, 4, 1023, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 1, 3 * CHUNK + 5]


def prepared(backend, **options):
    """Return parameters with gradients, their optimizer, and copies of the parameters."""
    params = make_params([(3,), (4, 2)])
    give_grads(params, 0)
    optimizer = clrfast.SGD(params, lr=0.1, backend=backend, **options)
    return params, optimizer, [param.detach().clone() for param in params]
