import pytest
import torch
from torch import nn

import clrfast
from clrfast import layer_groups


def make():
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)),
        nn.ReLU(),
        nn.Sequential(nn.Conv2d(4, 4, 3, bias=False), nn.BatchNorm2d(4)),
        nn.Flatten(),
        nn.Linear(4, 2),
    )


def test_groups_are_ordered_by_depth_with_geometric_rates():
    model = make()
    groups = layer_groups(model, 0.9, n_groups=3, factor=3)
    assert [group["lr"] for group in groups] == pytest.approx([0.1, 0.3, 0.9])
    named = {id(param): name for name, param in model.named_parameters()}
    assert [[named[id(p)] for p in group["params"]] for group in groups] == [
        ["0.0.weight", "0.0.bias"],
        ["0.1.weight", "0.1.bias", "2.0.weight"],
        ["2.1.weight", "2.1.bias", "4.weight", "4.bias"],
    ]
    assert all("weight_decay" not in group for group in groups)


def test_norms_and_biases_may_have_no_weight_decay():
    groups = layer_groups(make(), 0.9, n_groups=2, weight_decay=0.1, decay_norm_and_bias=False)
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0, 0.1, 0.0]
    for group in groups:
        assert all((p.dim() > 1) == (group["weight_decay"] > 0) for p in group["params"])


def test_every_normalisation_layer_counts_as_one():
    norms = [nn.BatchNorm1d(4), nn.LayerNorm(4), nn.GroupNorm(2, 4), nn.InstanceNorm1d(4, affine=True)]
    norms += [nn.RMSNorm(4)] if hasattr(nn, "RMSNorm") else []
    groups = layer_groups(nn.Sequential(nn.Linear(4, 4), *norms), 0.1, n_groups=1, decay_norm_and_bias=False)
    assert [tuple(p.shape) for p in groups[0]["params"]] == [(4, 4)]


def test_a_weight_decay_curve_leaves_out_exempt_groups():
    groups = layer_groups(make(), 0.9, n_groups=1, weight_decay=0.2, decay_norm_and_bias=False)
    optimizer = clrfast.SGD(groups, schedule=clrfast.one_cycle(0.9, 10, weight_decay=0.2).for_groups(groups))
    assert [group["weight_decay"] for group in optimizer.param_groups] == pytest.approx([0.2, 0.0])


def test_a_schedule_keeps_the_ratios_of_the_rates_and_the_exemptions_for_adamw():
    groups = layer_groups(make(), 0.9, n_groups=2, factor=3, decay_norm_and_bias=False)
    optimizer = clrfast.AdamW(groups, schedule=clrfast.one_cycle(0.9, 10, weight_decay=0.2).for_groups(groups))
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.03, 0.03, 0.09, 0.09])
    assert [group["weight_decay"] for group in optimizer.param_groups] == pytest.approx([0.2, 0.0, 0.2, 0.0])
    assert [group["betas"] for group in optimizer.param_groups] == [(pytest.approx(0.95), 0.999)] * 4


def test_every_trainable_parameter_is_in_one_group():
    model = make()
    model[4].weight = nn.Parameter(torch.zeros(2, 4))
    model.add_module("again", model[4])
    model[0][0].weight.requires_grad_(False)
    params = [p for group in layer_groups(model, 0.1) for p in group["params"]]
    assert sorted(map(id, params)) == sorted({id(p) for p in model.parameters() if p.requires_grad})


def test_a_schedule_and_a_range_test_keep_the_ratios_of_the_rates():
    model = make()
    groups = layer_groups(model, 0.9, n_groups=3, factor=3)
    schedule = clrfast.one_cycle(0.9, 10).for_groups(groups)
    optimizer = clrfast.SGD(groups, schedule=schedule)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.01, 0.03, 0.09])
    data = [(torch.randn(4, 1, 5, 5), torch.zeros(4, dtype=torch.long))]
    clrfast.range_test(model, nn.CrossEntropyLoss(), data, optimizer=optimizer, steps=3)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.01, 0.03, 0.09])


@pytest.mark.parametrize(
    ("kwargs", "named"),
    [
        ({"n_groups": 0}, "n_groups: got 0; the model has 5 layers"),
        ({"n_groups": 6}, "n_groups: got 6"),
        ({"n_groups": 2.5}, "n_groups: got 2.5"),
        ({"max_lr": float("inf")}, "max_lr: got inf"),
        ({"weight_decay": -1}, "weight_decay: got -1"),
        ({"max_lr": 0}, "max_lr: got 0"),
        ({"factor": 0.5}, "factor: got 0.5"),
    ],
)
def test_an_error_names_the_bad_argument(kwargs, named):
    with pytest.raises(ValueError, match=named):
        layer_groups(make(), **{"max_lr": 0.1, **kwargs})
