"""The hash by which workers compare what they hold."""

import numpy as np
import torch

from clrfast._digest import digest


def test_digests_differ_exactly_where_values_differ():
    x = torch.arange(6.0).reshape(2, 3)
    same = {"x": x, "more": [1, "a", None, (x.t(),)]}
    assert digest(same) == digest({"x": x.clone(), "more": [1, "a", None, (x.t().contiguous(),)]})
    others = [
        {"x": x.t(), "more": same["more"]},
        {"x": x.double(), "more": same["more"]},
        {"x": x + 1e-6, "more": same["more"]},
        {"y": x, "more": same["more"]},
        {"x": x, "more": [1, "b", None, (x.t(),)]},
    ]
    assert len({digest(other) for other in (same, *others)}) == len(others) + 1
    assert digest(torch.tensor(True)) != digest(torch.tensor(False))
    assert digest(object()) == digest(object())  # by its kind


def test_arrays_are_hashed_by_their_numbers():
    x = np.arange(6.0).reshape(2, 3)
    others = [x, x.T, x + 1e-6, x.astype(np.float32), np.array([object()])]
    assert len({digest(other) for other in others}) == len(others)
    assert digest(x) == digest(x.copy())


def test_tensors_of_all_kinds_have_a_digest():
    kinds = [torch.zeros(0), torch.zeros(()), torch.zeros(2, dtype=torch.bfloat16), torch.eye(2).to_sparse()]
    assert len({digest(kind) for kind in kinds}) == len(kinds)
    assert digest(torch.ones(2, requires_grad=True)) == digest(torch.ones(2))
    assert digest(torch.ones(1, 2).expand(3, 2)) == digest(torch.ones(3, 2))
