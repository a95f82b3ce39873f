"""Attributes that ``forward`` writes are restored, and warnings name those that would break a long training."""

import contextlib
import warnings
from collections import deque

import numpy as np
import pytest
import torch
from torch import nn

from clrfast import range_test
from clrfast.training import _module_attributes as attributes
from clrfast.training._module_attributes import ModuleAttributes
from clrfast.training._preservation import preserve_all
from tests.helpers.optimizers import NO_NATIVE


class Writer(nn.Module):
    """Calls ``write(self, h)`` in every forward pass."""

    def __init__(self, write, **held):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.write = nn.Linear(4, 4), write
        vars(self).update(held)

    def forward(self, x):
        h = self.layer(x)
        self.write(self, h)
        return h


def replaced(module, h):
    module.state = h.detach()


def written(module, h):
    module.state.copy_(h.detach())


def appended(module, h):
    module.state.append(h.detach())


def in_a_dict(module, h):
    module.state["h"] = (h.detach(), len(module.state))


def in_an_array(module, h):
    module.state[:] = h.detach().numpy()


def added(module, h):
    module.another = h.detach()


def removed(module, h):
    vars(module).pop("state", None)


WRITES = {
    "a tensor replaced": (replaced, lambda: torch.zeros(8, 4)),
    "a tensor written": (written, lambda: torch.zeros(8, 4)),
    "a list appended to": (appended, list),
    "a deque appended to": (appended, lambda: deque(maxlen=3)),
    "a dict written": (in_a_dict, dict),
    "an array written": (in_an_array, lambda: np.zeros((8, 4))),
    "an attribute added": (added, lambda: None),
    "an attribute removed": (removed, lambda: torch.ones(2)),
}


def loader(n=6):
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(8, 4, generator=generator), torch.randn(8, 4, generator=generator)) for _ in range(n)]


@contextlib.contextmanager
def unwarned():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def plain(value):
    """Return ``value`` with its tensors and arrays as lists, which == compares."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | deque | tuple):
        return [plain(each) for each in value]
    return value.tolist() if isinstance(value, torch.Tensor | np.ndarray) else value


@pytest.mark.parametrize("case", WRITES)
def test_attributes_that_forward_writes_are_restored_before_every_ramp_and_at_the_end(case):
    write, make = WRITES[case]
    state = make()
    model, held = Writer(write, state=state), plain(state)
    before = set(vars(model))
    with unwarned():
        first = range_test(model, nn.functional.mse_loss, loader(), steps=10)
        assert set(vars(model)) == before
        assert model.state is state
        assert plain(state) == held
        np.testing.assert_array_equal(range_test(model, nn.functional.mse_loss, loader(), steps=10).loss, first.loss)


def test_a_warning_names_an_attribute_that_keeps_the_autograd_graph():
    def hang(module, h):
        module.state = [h]

    with pytest.warns(UserWarning, match="'0.state', which forward writes, keeps the autograd graph"):
        range_test(nn.Sequential(Writer(hang)), nn.functional.mse_loss, loader(), steps=10)


@pytest.mark.parametrize("kind", ["list", "tensor"])
def test_a_warning_names_an_attribute_that_grows(kind):
    def grow(module, h):
        if kind == "list":
            module.state.append(h.detach())
        else:
            module.state = torch.cat((module.state, h.detach()))

    held = [] if kind == "list" else torch.zeros(0, 4)
    with pytest.warns(UserWarning, match="'state', which forward writes, grows with every batch"):
        range_test(Writer(grow, state=held), nn.functional.mse_loss, loader(), steps=10)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "write", [appended, lambda module, h: setattr(module, "state", [h])], ids=["grows", "has a graph"]
)
def test_there_is_no_warning_of_a_metric(write):
    """torchmetrics keeps the values of an epoch, and the last one with its graph."""
    metric = type("Metric", (Writer,), {"__module__": "torchmetrics.metric"})(write, state=[])
    measured = ModuleAttributes({"metric": metric})
    for batch in range(9):
        metric(torch.ones(2, 4))
        if batch == 0:
            measured.record_sizes()
    measured.restore()
    assert metric.state == []


@pytest.mark.parametrize("write", [replaced, added])
def test_an_attribute_of_constant_size_gives_no_warning(write):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", NO_NATIVE)
        range_test(Writer(write, state=torch.zeros(1, 4)), nn.functional.mse_loss, loader(), steps=10)


def test_a_warning_names_a_large_tensor_that_was_written_and_not_copied(monkeypatch):
    monkeypatch.setattr(attributes, "MAX_BYTES", 100)
    model = Writer(written, state=torch.zeros(8, 4), small=torch.zeros(2))

    def disturb():
        with preserve_all(model):
            model.small.fill_(1)
            model(torch.ones(8, 4))

    with pytest.warns(UserWarning, match="'state', which forward writes, is too large to be restored"):
        disturb()
    assert model.state.any()
    assert not model.small.any()


def test_parameters_and_buffers_in_lists_are_not_saved_as_attributes():
    model = Writer(replaced, state=None)
    model.all = [model.layer.weight]
    kept = ModuleAttributes(dict(model.named_modules()))
    with torch.no_grad():
        model.layer.weight.fill_(3)
    kept.restore()
    assert (model.layer.weight == 3).all()


def test_attributes_of_torch_modules_are_not_restored():
    layer = nn.Linear(2, 2)
    kept = ModuleAttributes({"": layer})
    layer.note = 1
    kept.restore()
    assert layer.note == 1
