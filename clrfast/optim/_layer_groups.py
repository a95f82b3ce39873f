"""Parameter groups by depth, for differential learning rates."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from .._checks import is_whole, require_positive
from .._torch_compat import NormBase

_NORMS = (
    NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    *((nn.RMSNorm,) if hasattr(nn, "RMSNorm") else ()),
)


def layer_groups(
    model: nn.Module,
    max_lr: float,
    *,
    n_groups: int = 3,
    factor: float = 2.6,
    weight_decay: float | None = None,
    decay_norm_and_bias: bool = True,
) -> list[dict[str, Any]]:
    """Split a model's trainable parameters by depth into groups with geometrically spaced rates.

        lr of group i = max_lr / factor ** (n_groups - 1 - i)        i = 0: the layers nearest to the input

    Layers are the modules that own parameters, in the order in which the model registers them. All groups get the same
    number of layers; if the layers cannot be divided evenly, later groups get one more.

    Args:
        model: any module with trainable parameters. A parameter that several layers share belongs to the first.
        max_lr: the rate of the last group, > 0.
        n_groups: >= 1, at most the number of layers with trainable parameters.
        factor: ratio of the rates of neighbouring groups, >= 1.
        weight_decay: weight decay of all groups, >= 0; None leaves it to the optimizer.
        decay_norm_and_bias: False puts the parameters of normalisation layers and all biases into groups with weight
            decay 0. Each depth then has up to two groups, the decayed one first.
    Returns:
        Parameter groups for any optimizer: dicts with "params", "lr" and, where an argument sets it, "weight_decay".
        ``schedule.for_groups(groups)`` keeps the ratios of their rates over a schedule.
    Raises:
        ValueError: an argument is out of range.

    Source: Howard and Ruder 2018, "Universal Language Model Fine-tuning for Text Classification", section 3.2
    (discriminative fine-tuning, and its factor of 2.6).

    Examples:
        >>> model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
        >>> [(g["lr"], len(g["params"])) for g in layer_groups(model, 0.4, n_groups=2, factor=4)]
        [(0.1, 2), (0.4, 4)]
    """
    layers = _layers(model)
    if not is_whole(n_groups) or not 1 <= n_groups <= len(layers):
        raise ValueError(
            f"n_groups: got {n_groups}; the model has {len(layers)} layers with trainable parameters: "
            f"give 1 to {len(layers)}"
        )
    require_positive(max_lr=max_lr)
    if weight_decay is not None and not 0 <= weight_decay < math.inf:
        raise ValueError(f"weight_decay: got {weight_decay}; give a finite number >= 0, or None")
    if not factor >= 1:
        raise ValueError(f"factor: got {factor}; give a number >= 1")
    groups: list[dict[str, Any]] = []
    for depth in range(n_groups):
        begin, end = (len(layers) * i // n_groups for i in (depth, depth + 1))
        decayed: list[nn.Parameter] = []
        exempt: list[nn.Parameter] = []
        for module, params in layers[begin:end]:
            for name, param in params:
                spared = not decay_norm_and_bias and (isinstance(module, _NORMS) or name.endswith("bias"))
                (exempt if spared else decayed).append(param)
        common = {"lr": max_lr / factor ** (n_groups - 1 - depth)}
        if decayed:
            own = {} if weight_decay is None else {"weight_decay": weight_decay}
            groups.append({"params": decayed, **common, **own})
        if exempt:
            groups.append({"params": exempt, **common, "weight_decay": 0.0})
    return groups


def _layers(model: nn.Module) -> list[tuple[nn.Module, list[tuple[str, nn.Parameter]]]]:
    """Return the modules that own trainable parameters, each with its own; every parameter appears once."""
    seen: set[int] = set()
    layers = []
    for module in model.modules():
        own = []
        for name, param in module.named_parameters(recurse=False):
            if param.requires_grad and id(param) not in seen:
                seen.add(id(param))
                own.append((name, param))
        if own:
            layers.append((module, own))
    return layers
