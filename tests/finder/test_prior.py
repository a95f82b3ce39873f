import math

import pytest
import torch
from torch import nn

import clrfast
from clrfast import range_test
from clrfast.finder._prior import ADAM, expect_lr, is_normalized
from clrfast.training._optimizer_list import join_optimizers
from tests.helpers.problems import blobs


def small(*layers):
    return nn.Sequential(nn.Linear(7, 32, bias=False), *layers, nn.Linear(32, 1, bias=False))  # 2 ** 8 parameters


@pytest.mark.parametrize("kind", ADAM)
def test_the_expected_rate_falls_with_the_size_of_the_model_and_is_higher_with_normalization(kind):
    model = small()
    assert math.log2(expect_lr(kind(model.parameters()), model)) == pytest.approx(-0.5 - 0.44 * 8)
    model = small(nn.LayerNorm(32, elementwise_affine=False))
    assert math.log2(expect_lr(kind(model.parameters()), model)) == pytest.approx(-0.5 - 0.44 * 8 + 0.73)


def test_frozen_parameters_and_those_that_the_optimizer_lacks_do_not_count():
    model = small()
    expected = math.log2(expect_lr(torch.optim.Adam(model[1].parameters()), model))
    assert expected == pytest.approx(-0.5 - 0.44 * 5)
    model[0].requires_grad_(False)
    assert math.log2(expect_lr(torch.optim.Adam(model.parameters()), model)) == pytest.approx(expected)


def test_there_is_no_prior_for_other_optimizers():
    model = small()
    assert expect_lr(None, model) is None
    for optimizer in (torch.optim.SGD(model.parameters()), clrfast.SGD(model.parameters(), lr=0.1)):
        assert expect_lr(optimizer, model) is None


def test_a_list_of_optimizers_has_a_prior_if_all_are_kinds_of_adam():
    model = small()
    first = torch.optim.Adam(model[0].parameters())
    both = join_optimizers([first, torch.optim.AdamW(model[1].parameters())])
    assert expect_lr(both, model) == expect_lr(torch.optim.Adam(model.parameters()), model)
    assert expect_lr(join_optimizers([first, torch.optim.SGD(model[1].parameters())]), model) is None


def test_there_is_no_prior_for_an_optimizer_of_nothing():
    model = nn.Sequential(nn.Linear(2, 2), nn.ParameterList([torch.zeros(0)]))
    assert expect_lr(torch.optim.Adam(model[1].parameters()), model) is None


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.BatchNorm1d(4), True),
        (nn.GroupNorm(2, 4), True),
        (nn.InstanceNorm1d(4), True),
        (type("LlamaRMSNorm", (nn.Module,), {})(), True),
        (nn.TransformerEncoderLayer(4, 1, 8), True),
        (nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), False),
        (nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)), False),
    ],
)
def test_normalization_layers_are_known_by_their_names(layer, expected):
    assert is_normalized(nn.Sequential(layer)) is expected


@pytest.mark.parametrize("kind", [torch.optim.AdamW, clrfast.AdamW])
def test_a_range_test_with_adam_has_a_prior_that_is_saved(kind, tmp_path):
    model, loss_fn, loader = blobs()
    curve = range_test(model, loss_fn, loader, optimizer=kind(model.parameters()))
    assert curve.prior_lr == expect_lr(torch.optim.AdamW(model.parameters()), model)
    curve.save(tmp_path / "curve.json")
    loaded = clrfast.LRCurve.load(tmp_path / "curve.json")
    assert loaded.prior_lr == curve.prior_lr
    assert loaded.suggest() == curve.suggest()
    assert range_test(model, loss_fn, loader).prior_lr is None
