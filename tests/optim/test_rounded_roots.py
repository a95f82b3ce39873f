"""The roots of the pure-torch rules are correctly rounded, as those of compilers are."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from clrfast.optim._rules import _sqrt


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [0.0, 1e-310, 1e-200, 1e-30, 1.0, 3.0, 1e30, 1e300])
def test_roots_are_those_of_numpy(dtype, scale):
    values = torch.rand(100_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * scale
    x = values.to(dtype)
    np.testing.assert_array_equal(_sqrt(x).numpy(), np.sqrt(x.numpy()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_special_values_have_their_usual_roots(dtype):
    x = torch.tensor([0.0, -0.0, math.inf, math.nan, -1.0], dtype=dtype)
    torch.testing.assert_close(_sqrt(x), torch.sqrt(x), rtol=0, atol=0, equal_nan=True)


def test_a_number_has_the_root_of_a_number():
    assert _sqrt(2.0) == math.sqrt(2.0)
