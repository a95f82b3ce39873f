"""Optimizers of clrfast in fastai's terms, and fastai's own optimizers in torch's terms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from fastai.optimizer import Lookahead, OptimWrapper, adam_step, radam_step, set_item_pg
from torch import Tensor, nn

from ..optim import SGD, AdamW, FusedOptimizer

__all__ = ["LayerGroups", "adamw", "groups_of", "sgd", "torch_optimizer_of"]


class LayerGroups(OptimWrapper):
    """An optimizer of clrfast with fastai's layer groups and hyper-parameters: lr, mom, wd, sqr_mom, eps.

    A layer group has two groups of the optimizer. The second one has no weight decay. It takes the parameters that the
    Learner exempts (``wd_bn_bias=False``), which the Learner names after it has made the optimizer.

    Args:
        params: a list of parameters, or a list of lists, as a Learner's ``splitter`` returns it.
        make: the class of the optimizer.
        lr: a number, or a slice as in fastai.
        options: the options of ``make``, with torch's names.
    """

    _xtra = [*OptimWrapper._xtra, "control", "schedule"]  # noqa: RUF012 - the optimizer's attributes to show here

    def __init__(self, params: Any, make: Callable[..., FusedOptimizer], lr: Any, **options: Any):
        params = list(params)
        self.layers = [params] if not params or isinstance(params[0], Tensor) else [list(layer) for layer in params]
        groups = [group for layer in self.layers for group in ({"params": layer}, {"params": [], "weight_decay": 0.0})]
        super().__init__(opt=make(groups, **options))
        self.is_split = self.follows_schedule = False
        self.set_hyper("lr", lr)

    @property
    def param_lists(self) -> list[list[nn.Parameter]]:
        return self.layers

    @property
    def hypers(self) -> list[dict[str, Any]]:
        """The numbers of each layer group, which fastai's loggers write."""
        return [{k: v for k, v in group.items() if type(v) in (int, float)} for group in super().hypers[::2]]

    def _set_hyper(self, k: str, v: Any) -> None:
        for index, group in enumerate(self.opt.param_groups):
            exempt = k == "wd" and index % 2 == 1
            set_item_pg(group, self.bwd_map[k], 0.0 if exempt else float(v[index // 2]))

    def split(self) -> FusedOptimizer:
        """Return the optimizer, with the exempt parameters in their groups."""
        groups = self.opt.param_groups
        for layer, decayed, exempt in zip(self.layers, groups[::2], groups[1::2], strict=True):
            if not self.is_split:
                decayed["params"] = [p for p in layer if self.state[p].get("do_wd", True)]
                exempt["params"] = [p for p in layer if not self.state[p].get("do_wd", True)]
        self.is_split = True
        return self.opt

    def step(self) -> None:
        """Make an update; in a fit without ``OneCycle``, one with the values that fastai has set."""
        optimizer = self.split()
        if not self.follows_schedule:
            optimizer.remove_schedule()
        optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        return self.split().state_dict()

    def load_state_dict(self, sd: dict[str, Any]) -> None:
        self.split().load_state_dict(sd)


def sgd(params: Any, lr: Any = 1e-3, mom: float = 0.9, wd: float = 0.0, **options: Any) -> OptimWrapper:
    """Make ``clrfast.SGD`` with fastai's names, for ``Learner(..., opt_func=sgd)``.

    Its numbers are those of fastai's ``SGD(decouple_wd=False)``: weight decay is added to the gradient.

    Args:
        params: a list of parameters, or a list of lists, as the Learner's ``splitter`` returns it.
        lr, mom, wd: as in fastai, all >= 0; ``lr`` may be a slice.
        options: those of ``clrfast.SGD``, for example ``opt_func=partial(sgd, nesterov=True)``.
    Raises:
        ValueError: an argument is outside its range.
    """
    return LayerGroups(params, SGD, lr, momentum=mom, weight_decay=wd, **options)


def adamw(
    params: Any,
    lr: Any = 1e-3,
    mom: float = 0.9,
    sqr_mom: float = 0.99,
    eps: float = 1e-5,
    wd: float = 0.01,
    **options: Any,
) -> OptimWrapper:
    """Make ``clrfast.AdamW`` with the names, defaults and numbers of fastai's ``Adam``, for ``opt_func=adamw``.

    Args:
        params: a list of parameters, or a list of lists, as the Learner's ``splitter`` returns it.
        lr, mom, sqr_mom, eps, wd: as in fastai's ``Adam``; ``lr`` may be a slice.
        options: those of ``clrfast.AdamW``.
    Raises:
        ValueError: an argument is outside its range.
    """
    return LayerGroups(params, AdamW, lr, betas=(mom, sqr_mom), eps=eps, weight_decay=wd, **options)


class _TorchView(torch.optim.Optimizer):
    """fastai's own optimizer as one of torch: the same parameters, state and arithmetic."""

    def __init__(self, opt: Any):
        groups = [{"params": list(p), "lr": h["lr"]} for p, h in zip(opt.param_lists, opt.hypers, strict=True)]
        torch.optim.Optimizer.__init__(self, groups, {})
        self.opt, self.state = opt, opt.state

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.opt.set_hyper("lr", [group["lr"] for group in self.param_groups])
        self.opt.step()


class _TorchAdamView(_TorchView, torch.optim.AdamW):
    """The view of an Adam. Its class tells the finder which rates to expect."""


def torch_optimizer_of(opt: Any) -> torch.optim.Optimizer:
    """Return the torch optimizer inside a wrapper, or a view of fastai's own optimizer.

    Raises:
        ValueError: the optimizer keeps state that a search cannot restore.
    """
    if isinstance(opt, LayerGroups):
        return opt.split()
    if isinstance(opt, OptimWrapper):
        return opt.opt
    if isinstance(opt, Lookahead):
        raise ValueError(
            "opt_func: got a Lookahead (ranger), whose slow weights a search cannot restore; give OneCycle(max_lr), or "
            "range_test(learn, optimizer=...) with the optimizer that it wraps"
        )
    is_adam = any(getattr(stepper, "func", stepper) in (adam_step, radam_step) for stepper in opt.cbs)
    return (_TorchAdamView if is_adam else _TorchView)(opt)


def groups_of(opt: Any) -> list[dict[str, Any]]:
    """Return the dicts that hold the hyper-parameters of any optimizer of a Learner and are saved with it."""
    return opt.opt.param_groups if isinstance(opt, OptimWrapper) else opt.hypers
