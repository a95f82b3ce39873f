"""The numbers of a CUDA device: those of the C++ backend, and those of torch's optimizers on the same device."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import clrfast
from tests.helpers.captured import conv_net, image_batch
from tests.helpers.kernels import OPTIMIZERS, every_optimizer, kept_by
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


@pytest.mark.parametrize("rule", ["AdamW", "Adam", "AMSGrad"])
@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.05, "maximize": True, "clip_norm": 1.0}])
@pytest.mark.parametrize("dtype", DTYPES)
def test_adam_updates_are_near_those_of_the_cpp_backend(rule, options, dtype):
    """Host and device round powers of beta differently, in the last place of a float64."""

    def on(device, backend):
        torch.set_default_device(device)
        params, optimizer = run_steps(
            lambda p: OPTIMIZERS[rule](p, lr=0.01, backend=backend, **options), 4, SHAPES, dtype
        )
        return [tensor.detach().cpu() for tensor in (*params, *kept_by(optimizer))]

    assert_near(on("cuda:0", "cuda"), on("cpu", "cpp"), steps=4)


# Ours, torch's, and their options. The gradient of a bias before batch normalization is noise, and with a small eps
# Adam would make large updates of it.
PAIRS = {
    "SGD": (clrfast.SGD, torch.optim.SGD, {"lr": 0.05, "weight_decay": 1e-3}),
    "SGD with Nesterov": (
        clrfast.SGD,
        torch.optim.SGD,
        {"lr": 0.05, "weight_decay": 1e-3, "momentum": 0.9, "nesterov": True},
    ),
    "SGD with dampening": (
        clrfast.SGD,
        torch.optim.SGD,
        {"lr": 0.05, "weight_decay": 1e-3, "momentum": 0.9, "dampening": 0.5},
    ),
    "AdamW": (clrfast.AdamW, torch.optim.AdamW, {"lr": 1e-3, "eps": 1e-3}),
    "AMSGrad": (clrfast.AdamW, torch.optim.AdamW, {"lr": 1e-3, "eps": 1e-3, "amsgrad": True}),
    "Adam": (clrfast.Adam, torch.optim.Adam, {"lr": 1e-3, "eps": 1e-3, "weight_decay": 1e-3}),
}


@pytest.mark.parametrize("clip_norm", [None, 0.1])
@pytest.mark.parametrize("implementation", ["foreach", "fused"])
@pytest.mark.parametrize("pair", PAIRS)
def test_100_steps_of_a_model_are_those_of_torchs_optimizer(implementation, pair, clip_norm):
    make, make_torchs, options = PAIRS[pair]
    nets = conv_net(), conv_net()
    ours = make(nets[0].parameters(), backend="cuda", clip_norm=clip_norm, **options)
    theirs = make_torchs(nets[1].parameters(), **{implementation: True}, **options)
    for step in range(100):
        inputs, targets = image_batch(step)
        ours.zero_grad()
        nn.functional.cross_entropy(nets[0](inputs), targets).backward()
        # The same gradients for both: what is compared is the update, not how far training carries a rounding.
        for own, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
            other.grad = own.grad.clone()
        ours.step()
        if clip_norm is not None:
            norm = nn.utils.clip_grad_norm_(nets[1].parameters(), clip_norm)
            torch.testing.assert_close(ours.grad_norm.float(), norm)
        theirs.step()
    assert_near(nets[0].parameters(), nets[1].parameters(), steps=100)


@pytest.mark.parametrize("overflow", [(0,), (3,), (0, 1, 5)])
@pytest.mark.parametrize("scheduled", [False, True])
@pytest.mark.parametrize("pair", ["SGD with Nesterov", "AdamW"])
def test_a_step_that_overflows_is_skipped_as_by_torchs_optimizer(overflow, scheduled, pair):
    make, make_torchs, options = PAIRS[pair]

    def run(make):
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

    if not scheduled:
        options = {**options, "lr": min(options["lr"], 0.01)}
        theirs, _ = run(lambda p: make_torchs(p, **options))
        assert_near(run(lambda p: make(p, **options))[0], theirs, steps=8)
        return
    schedule = clrfast.one_cycle(0.05, 10, weight_decay=1e-3)
    results = [run(lambda p, b=b: make(p, schedule=schedule, backend=b)) for b in ("cuda", "torch")]
    for _, optimizer in results:
        assert optimizer.control.synchronize() == 8 - len(overflow)
    assert_same(results[0][0], results[1][0])


@pytest.mark.parametrize("rule", ["SGD", "AdamW"])
def test_master_weights_follow_a_float32_run(rule):
    exact, rounded = (
        run_steps(lambda p: OPTIMIZERS[rule](p, lr=1e-3, master_weights=True), 50, [(4097,), (33,)], dtype=dtype)[1]
        for dtype in (torch.float32, torch.bfloat16)
    )
    for param, other in zip(exact.param_groups[0]["params"], rounded.param_groups[0]["params"], strict=True):
        torch.testing.assert_close(rounded.state[other]["master_param"], param, rtol=0.01, atol=0.02)
        assert_same([other], [rounded.state[other]["master_param"].bfloat16()])


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@every_optimizer
def test_one_optimizer_updates_parameters_on_two_devices(rule):
    schedule = clrfast.one_cycle(0.1, 10)

    def run(devices):
        params = [nn.Parameter(value.to(device)) for value, device in zip(randn([(5,)] * 4, 0), devices, strict=True)]
        optimizer = OPTIMIZERS[rule](params, schedule=schedule)
        for step in range(6):
            for param, value in zip(params, randn([(5,)] * 4, step), strict=True):
                param.grad = value.to(param.device)
            optimizer.found_inf = torch.tensor(1.0 if step == 2 else 0.0)
            optimizer.step(loss=torch.tensor(1.0))
        assert {int(control.step) for control in optimizer.controls.values()} == {5}
        return [param.detach().cpu() for param in params]

    assert_same(run(["cuda:0", "cuda:1"] * 2), run(["cuda:0"] * 4))
