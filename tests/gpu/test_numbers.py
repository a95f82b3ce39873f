"""The numbers of a CUDA device: those of the C++ backend, and those of torch's SGD on the same device."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import clrfast
from tests.helpers.captured import conv_net, image_batch
from tests.helpers.optimizers import (
    DTYPES,
    OPTIONS,
    SHAPES,
    assert_near,
    assert_same,
    option_id,
    randn,
    run_steps,
)

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("options", OPTIONS, ids=option_id)
@pytest.mark.parametrize("dtype", DTYPES)
def test_updates_are_those_of_the_cpp_backend(options, dtype):
    def on(device, backend):
        torch.set_default_device(device)
        params, _ = run_steps(lambda p: clrfast.SGD(p, lr=0.01, backend=backend, **options), 4, SHAPES, dtype)
        return [param.detach().cpu() for param in params]

    assert_same(on("cuda:0", "cuda"), on("cpu", "cpp"))


@pytest.mark.parametrize("implementation", ["foreach", "fused"])
@pytest.mark.parametrize("options", [{}, {"momentum": 0.9, "nesterov": True}, {"momentum": 0.9, "dampening": 0.5}])
def test_100_steps_of_a_model_are_those_of_torchs_sgd(implementation, options):
    nets = conv_net(), conv_net()
    ours = clrfast.SGD(nets[0].parameters(), lr=0.05, weight_decay=1e-3, backend="cuda", **options)
    theirs = torch.optim.SGD(nets[1].parameters(), lr=0.05, weight_decay=1e-3, **{implementation: True}, **options)
    for step in range(100):
        inputs, targets = image_batch(step)
        ours.zero_grad()
        nn.functional.cross_entropy(nets[0](inputs), targets).backward()
        # The same gradients for both: what is compared is the update, not how far training carries a rounding.
        for own, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
            other.grad = own.grad.clone()
        ours.step()
        theirs.step()
    assert_near(nets[0].parameters(), nets[1].parameters(), steps=100)


@pytest.mark.parametrize("overflow", [(0,), (3,), (0, 1, 5)])
@pytest.mark.parametrize("scheduled", [False, True])
def test_a_step_that_overflows_is_skipped_as_by_torchs_sgd(overflow, scheduled):
    def run(make, advance=None):
        net = conv_net()
        optimizer = make(net.parameters())
        scaler = torch.amp.GradScaler("cuda", init_scale=1024.0)
        for step in range(8):
            inputs, targets = image_batch(step)
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(net(inputs), nn.functional.one_hot(targets, 10).float())
            scaler.scale(loss).backward()
            if step in overflow:
                next(net.parameters()).grad[0] = math.inf
            scaler.step(optimizer)
            scaler.update()
        return list(net.parameters()), optimizer

    options = {"momentum": 0.9, "weight_decay": 1e-3}
    if not scheduled:
        theirs, _ = run(lambda p: torch.optim.SGD(p, lr=0.01, **options))
        assert_near(run(lambda p: clrfast.SGD(p, lr=0.01, **options))[0], theirs, steps=8)
        return
    schedule = clrfast.one_cycle(0.05, 10, weight_decay=1e-3)
    results = [run(lambda p, b=b: clrfast.SGD(p, schedule=schedule, backend=b)) for b in ("cuda", "torch")]
    for _, optimizer in results:
        assert optimizer.control.synchronize() == 8 - len(overflow)
    assert_same(results[0][0], results[1][0])


def test_master_weights_follow_a_float32_run():
    exact, rounded = (
        run_steps(
            lambda p: clrfast.SGD(p, lr=1e-3, momentum=0.9, master_weights=True), 50, [(4097,), (33,)], dtype=dtype
        )[1]
        for dtype in (torch.float32, torch.bfloat16)
    )
    for param, other in zip(exact.param_groups[0]["params"], rounded.param_groups[0]["params"], strict=True):
        torch.testing.assert_close(rounded.state[other]["master_param"], param, rtol=0.01, atol=0.02)
        assert_same([other], [rounded.state[other]["master_param"].bfloat16()])


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_one_optimizer_updates_parameters_on_two_devices():
    schedule = clrfast.one_cycle(0.1, 10)

    def run(devices):
        params = [nn.Parameter(value.to(device)) for value, device in zip(randn([(5,)] * 4, 0), devices, strict=True)]
        optimizer = clrfast.SGD(params, schedule=schedule)
        for step in range(6):
            for param, value in zip(params, randn([(5,)] * 4, step), strict=True):
                param.grad = value.to(param.device)
            optimizer.found_inf = torch.tensor(1.0 if step == 2 else 0.0)
            optimizer.step(loss=torch.tensor(1.0))
        assert {int(control.step) for control in optimizer.controls.values()} == {5}
        return [param.detach().cpu() for param in params]

    assert_same(run(["cuda:0", "cuda:1"] * 2), run(["cuda:0"] * 4))
