"""Several optimizers that train one model together, such as those of the GAN in the README."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import clrfast
from clrfast import range_test
from tests.helpers.state import full_state


def gan():
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 2))
    critic = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 1))
    return nn.ModuleDict({"generator": generator, "critic": critic})


def compute_loss(gan, real):
    fake = gan["generator"](torch.randn(len(real), 64, device=real.device))
    critic_loss = F.softplus(-gan["critic"](real)).mean() + F.softplus(gan["critic"](fake.detach())).mean()
    frozen = {name: param.detach() for name, param in gan["critic"].named_parameters()}
    return critic_loss + F.softplus(-torch.func.functional_call(gan["critic"], frozen, fake)).mean()


def real(n=20):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(16, 2, generator=generator) + 3 for _ in range(n)]


KINDS = {"adam": torch.optim.Adam, "torch": torch.optim.SGD, "clrfast": clrfast.SGD}


def optimizers(model, kind="adam"):
    make = KINDS[kind]
    return [make(model["generator"].parameters(), lr=1e-4), make(model["critic"].parameters(), lr=4e-4)]


@pytest.mark.parametrize("kind", KINDS)
def test_each_optimizer_keeps_the_ratio_of_its_rate_and_is_restored(kind):
    model = gan()
    made, rates = optimizers(model, kind), []
    compute_loss(model, real(1)[0]).backward()
    for optimizer in made:
        optimizer.step()
        optimizer.register_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
    before = [full_state(model, optimizer) for optimizer in made]
    curve = range_test(model, loader=real(), compute_loss=compute_loss, optimizer=made, steps=20, max_lr=0.1)
    np.testing.assert_allclose(np.reshape(rates, (-1, 2)), np.outer(curve.lr, [0.25, 1.0]), rtol=1e-6)
    assert [full_state(model, optimizer) for optimizer in made] == before


def test_a_joined_optimizer_steps_all_groups():
    """The losses equal those of one optimizer with both as its groups."""
    model = gan()
    one = torch.optim.Adam([group for each in optimizers(model) for group in each.param_groups])
    given = {"loader": real(), "compute_loss": compute_loss, "steps": 20, "max_lr": 0.1}
    several = range_test(model, optimizer=tuple(optimizers(model)), **given)
    np.testing.assert_array_equal(several.loss, range_test(model, optimizer=one, **given).loss)


def test_a_list_of_one_is_that_optimizer():
    model = gan()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    curve = range_test(model, loader=real(), compute_loss=compute_loss, optimizer=[sgd], steps=5)
    assert curve.momentum == 0.5


def test_the_losses_of_the_readme_train_each_network_with_its_own_loss():
    model, batch = gan(), real(1)[0]
    torch.manual_seed(1)
    compute_loss(model, batch).backward()
    torch.manual_seed(1)
    fake = model["generator"](torch.randn(len(batch), 64))
    of_critic = F.softplus(-model["critic"](batch)).mean() + F.softplus(model["critic"](fake.detach())).mean()
    of_generator = F.softplus(-model["critic"](fake)).mean()
    for name, loss in (("critic", of_critic), ("generator", of_generator)):
        params = list(model[name].parameters())
        for param, grad in zip(params, torch.autograd.grad(loss, params, retain_graph=True), strict=True):
            torch.testing.assert_close(param.grad, grad)


def test_a_scaler_and_a_monitor_take_several_optimizers():
    model = gan()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**100, growth_interval=1000)
    given = {"loader": real(), "compute_loss": compute_loss, "optimizer": optimizers(model), "max_lr": 0.1}
    assert len(range_test(model, scaler=scaler, steps=5, **given).loss) == 5
    monitor = clrfast.RateMonitor(model, steps=20, **given)
    monitor(0)
    assert monitor.history[0].lr == 4e-4


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda model: [], r"optimizer: got a list of \[\]"),
        (
            lambda model: [torch.optim.SGD(model.parameters(), 0.1), "adam"],
            r"optimizer: got a list of \['SGD', 'str'\]; give",
        ),
        (
            lambda model: [torch.optim.SGD(model.parameters(), 0.1)] * 2,
            "optimizer: got several that cannot be combined",
        ),
        (
            lambda model: [
                torch.optim.SGD(model.parameters(), 0.1),
                torch.optim.SGD(nn.Linear(1, 1).parameters(), 0.1),
            ],
            "optimizer: it has no trainable parameter of the model",
        ),
        (
            lambda model: [
                torch.optim.SGD(model["critic"].parameters(), 0.1),
                torch.optim.LBFGS(model["generator"].parameters()),
            ],
            "optimizer: LBFGS",
        ),
        (
            lambda model: [
                torch.optim.SGD(model["critic"].parameters(), 0.1),
                clrfast.SGD(model["generator"].parameters(), schedule=clrfast.one_cycle(0.1, 10)),
            ],
            "one of them is a clrfast.SGD with a schedule",
        ),
    ],
)
def test_optimizers_that_cannot_be_joined_are_refused(make, named):
    model = gan()
    with pytest.raises(ValueError, match=named):
        range_test(model, loader=real(), compute_loss=compute_loss, optimizer=make(model))
