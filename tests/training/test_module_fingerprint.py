"""Which changes a Fingerprint sees, and which modules it cannot compare."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from clrfast import _native
from clrfast.training._module_fingerprint import Fingerprint
from tests.helpers.optimizers import COMPARES_QUICKLY

pytestmark = pytest.mark.skipif(not COMPARES_QUICKLY, reason="it needs the native module and DLPack's exchange API")


def net():
    return nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), nn.ReLU(), nn.Sequential(nn.Linear(4, 2)))


def modules_of(model):
    return list(model.modules())


def replaced(tensor):
    """Return a tensor of the same values in other memory."""
    return tensor.detach().clone()


def in_place(tensor, value):
    tensor.data = value


def with_other_attributes(module):
    """Replace the dict of the module's attributes and its dict of parameters by copies."""
    module.__dict__ = {**vars(module), "_parameters": dict(module._parameters)}


def set_memory(tensor):
    with torch.no_grad():
        tensor.set_(replaced(tensor))


CHANGES = {
    "a parameter's memory moved": lambda m: in_place(m[0].weight, replaced(m[0].weight)),
    "a parameter given other memory": lambda m: set_memory(m[0].weight),
    "a parameter replaced": lambda m: setattr(m[0], "weight", nn.Parameter(m[0].weight.data)),
    "a parameter's dtype": lambda m: in_place(m[0].weight, m[0].weight.data.double()),
    "a parameter dropped": lambda m: setattr(m[3][0], "bias", None),
    "a parameter added": lambda m: m[0].register_parameter("more", nn.Parameter(torch.zeros(1))),
    "a buffer's memory moved": lambda m: in_place(m[1].running_mean, replaced(m[1].running_mean)),
    "a buffer replaced": lambda m: setattr(m[1], "running_var", replaced(m[1].running_var)),
    "a counter replaced": lambda m: setattr(m[1], "num_batches_tracked", replaced(m[1].num_batches_tracked)),
    "a buffer where there was none": lambda m: m[2].register_buffer("more", torch.zeros(1)),
    "a module replaced": lambda m: m.__setitem__(2, nn.ReLU()),
    "a module added": lambda m: m[2].add_module("more", nn.ReLU()),
    "a module renamed": lambda m: m.add_module("other", m._modules.pop("3")),
    "modules in another order": lambda m: m.add_module("0", m._modules.pop("0")),
    "the dict of parameters replaced": lambda m: setattr(m[0], "_parameters", dict(m[0]._parameters)),
    "the dict of buffers replaced": lambda m: setattr(m[1], "_buffers", dict(m[1]._buffers)),
    "the dict of modules replaced": lambda m: setattr(m, "_modules", dict(m._modules)),
    "a module's attributes replaced": lambda m: with_other_attributes(m[0]),
    "the whole model converted": lambda m: m.double(),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_fingerprint_sees_every_change_of_a_model(name):
    model = net()
    fingerprint = Fingerprint(modules_of(model))
    assert fingerprint.matches()
    CHANGES[name](model)
    assert not fingerprint.matches()
    assert Fingerprint(modules_of(model)).matches()


def test_training_does_not_change_the_fingerprint():
    model = net()
    fingerprint = Fingerprint(modules_of(model))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    model.eval().requires_grad_(False)
    assert fingerprint.matches()


def state():
    return {"a": {"buffer": torch.zeros(3), "n": 1}, "b": {"buffer": torch.zeros(2)}, "c": {}}


STATE_CHANGES = {
    "a value replaced": lambda s: s["b"].update(buffer=torch.zeros(2)),
    "a value moved": lambda s: in_place(s["b"]["buffer"], torch.ones(2)),
    "a plain value": lambda s: s["a"].update(n=2),
    "a key dropped": lambda s: s["a"].pop("n"),
    "the last key dropped": lambda s: s["b"].clear(),
    "a key added": lambda s: s["c"].update(n=1),
    "a dict replaced": lambda s: s.update(b=dict(s["b"])),
    "a dict added": lambda s: s.update(d={}),
    "a dict dropped": lambda s: s.pop("c"),
}


def fingerprint_of(state):
    return Fingerprint(dicts=[state, *state.values()])


@pytest.mark.parametrize("name", STATE_CHANGES)
def test_a_fingerprint_sees_every_change_of_an_optimizer_state(name):
    values = state()
    fingerprint = fingerprint_of(values)
    assert fingerprint.matches()
    STATE_CHANGES[name](values)
    assert not fingerprint.matches()
    assert fingerprint_of(values).matches()


def test_a_fingerprint_sees_an_entry_that_moves_to_the_next_dict():
    first, second = {"x": 1, "y": 2}, {"z": 3}
    fingerprint = Fingerprint(dicts=[first, second])
    moved = first.pop("y")
    rest = dict(second)
    second.clear()
    second.update(y=moved, **rest)
    assert [*first.items(), *second.items()] == [("x", 1), ("y", 2), ("z", 3)]
    assert not fingerprint.matches()


def test_a_new_tensor_at_the_address_of_a_freed_one_is_a_change():
    """The fingerprint keeps its tensors alive, so no other tensor can have their identity or memory."""
    values = {"buffer": torch.zeros(1000)}
    fingerprint = Fingerprint(dicts=[values])
    for _ in range(20):
        del values["buffer"]
        values["buffer"] = torch.zeros(1000)
        assert not fingerprint.matches()


class Read(nn.Module):
    """A module whose buffers do not lie in its own dict."""

    @property
    def _buffers(self):
        return {"weight": torch.zeros(1)}

    @_buffers.setter
    def _buffers(self, value):
        pass


class Asked(nn.Module):
    def __getattribute__(self, name):
        return super().__getattribute__(name)


UNKNOWN = {
    "a property": lambda: Read(),
    "attributes of its own kind": lambda: Asked(),
    "a script": lambda: torch.jit.script(nn.Linear(2, 2)),
    "sparse": lambda: holding(torch.eye(3).to_sparse()),
    "without memory": lambda: holding(torch.zeros(3, device="meta")),
}


def holding(tensor):
    module = nn.Module()
    module.register_buffer("held", tensor)
    return module


@pytest.mark.parametrize("name", UNKNOWN)
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")
def test_modules_that_cannot_be_compared_quickly_never_match(name):
    assert not Fingerprint([UNKNOWN[name]()]).matches()


def test_without_the_native_module_nothing_matches(monkeypatch):
    fingerprint = Fingerprint(modules_of(net()))
    assert fingerprint.matches()
    monkeypatch.setattr(_native, "why_missing", "clrfast._C was not built")
    assert not Fingerprint(modules_of(net())).matches()


def test_training_flags_are_read_one_by_one_and_only_if_they_are_bools():
    model = net()
    model[1].eval()
    model[0].weight.requires_grad_(False)
    flags = _native.load().training_flags
    assert flags(modules_of(model), list(model.parameters())) == b"110111" + b"01111"
    model[2].training = 1
    assert flags(modules_of(model), []) is None
    with pytest.raises(AttributeError):
        flags([object()], [])


def test_locations_must_have_a_row_for_each_tensor():
    for shape in ((2, 2), (1, 3), (2,)):
        with pytest.raises(ValueError, match=r"locations must be \[n_tensors, 2\]"):
            _native.load().read_locations_([torch.zeros(1)], np.zeros(shape, np.int64))


def test_gradients_are_shown_only_if_there_is_one_for_each_parameter():
    params = [nn.Parameter(torch.zeros(2)) for _ in range(3)]
    grads = [torch.ones(2), None, torch.ones(2)]
    groups = [{"params": params[:1]}, {"params": params[1:]}]
    params[1].grad = torch.zeros(2)
    show = _native.load().set_gradients_
    assert show(groups, grads)
    assert all(param.grad is grad for param, grad in zip(params, grads, strict=True))
    assert not show(groups, grads[:2])
    assert not show(groups, [*grads, None])
    assert not show([{}], grads)
