"""The job that ``test_clip_norm`` runs on two gloo ranks.

Each rank trains a sharded model with a parameter that is not, by our optimizers with ``clip_norm`` and by torch's after
``clip_grad_norm_``, and returns norms and parameters.
"""

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard

import clrfast
from tests.helpers.ranks import run_rank

MAX_NORM = 0.05


def made():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 2))
    fully_shard(model[0])
    return fully_shard(model)


def trained(kind, clips, **given):
    """Return the norm of the gradients at each of 5 steps, the parameters after them, and the optimizer."""
    model, norms = made(), []
    optimizer = kind(model.parameters(), lr=0.1, **given)
    for step in range(5):
        inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(2 * step + dist.get_rank()))
        optimizer.zero_grad()
        (model(inputs) - inputs[:, :2]).square().mean().backward()
        if clips:
            norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM).full_tensor().item())
        optimizer.step()
        if not clips:
            norms.append(optimizer.grad_norm.item())
    params = torch.cat([param.full_tensor().reshape(-1) for param in model.parameters()])
    return norms, params.tolist(), optimizer


def main(rank, count):
    found = {}
    for name in ("SGD", "Adam", "AdamW"):
        theirs, their_params, _ = trained(getattr(torch.optim, name), True)
        ours, our_params, _ = trained(getattr(clrfast, name), False, clip_norm=MAX_NORM)
        schedule = clrfast.Schedule(0.1, total_steps=5)
        _, _, scheduled = trained(getattr(clrfast, name), False, clip_norm=MAX_NORM, schedule=schedule)
        found[name] = {
            "norms": ours,
            "torchs norms": theirs,
            "params": our_params,
            "torchs params": their_params,
            "recorded": scheduled.control.grad_norms.tolist(),
        }
    return found


if __name__ == "__main__":
    run_rank(main)
