"""What a CUDA graph capture requires of a step: gradients and state must exist before the capture begins."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from ._parameters import ParamWithGrad, describe
from ._protocols import OptimizerView


def is_capturing(devices: Sequence[torch.device]) -> bool:
    """Return whether a graph captures what is launched on ``devices`` now."""
    if devices[0].type != "cuda":
        return False
    if devices[0].index == torch.cuda.current_device():
        return torch.cuda.is_current_stream_capturing()
    with torch.cuda.device(devices[0]):
        return torch.cuda.is_current_stream_capturing()


def require_complete(optimizer: OptimizerView, parameters: Iterable[ParamWithGrad]) -> None:
    """Refuse to capture a step whose replays would differ from it.

    Raises:
        RuntimeError: a trainable parameter has no gradient, so no replay would ever update it; or its state is missing,
            so every replay would begin with new zeros. Nothing has changed then.
    """
    with_gradient = {parameter.index for parameter in parameters}
    index = 0
    for group, options in enumerate(optimizer.param_groups):
        for param in options["params"]:
            if index not in with_gradient and param.requires_grad:
                raise RuntimeError(
                    f"{describe(index, group, param)} has no gradient, so the graph that is being captured would "
                    "never update it; run the backward pass inside the capture, or set requires_grad_(False) on it"
                )
            if index in with_gradient and optimizer.lacks_state(group, param):
                raise RuntimeError(
                    f"{describe(index, group, param)} lacks some of its state ({', '.join(optimizer.rule.states)} or "
                    "master weights), and a graph would begin with a new one at every replay; call "
                    "optimizer.init_state() before the capture"
                )
            index += 1
