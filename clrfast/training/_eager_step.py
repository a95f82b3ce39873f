"""One training step, eagerly: forward, backward and update, with accumulation, autocast, loss scaling and clipping."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._torch_compat import found_inf_tensors
from ..optim import SGD
from ._batches import move_batch
from ._losses import ComputeLoss, require_differentiable
from ._step_options import StepOptions


class EagerStep:
    """What happens between a batch and the updated model.

    Args:
        compute_loss: ``compute_loss(model, batch) -> loss``.
        optimizer: any torch optimizer whose ``step`` needs no closure.
        options: None for the defaults.
    """

    def __init__(
        self,
        model: nn.Module,
        compute_loss: ComputeLoss,
        optimizer: torch.optim.Optimizer,
        options: StepOptions | None = None,
    ):
        options = StepOptions() if options is None else options
        self.model, self.optimizer = model, optimizer
        self.accumulate, self.scaler, self.clip_norm = options.accumulate, options.scaler, options.clip_norm
        self._compute_loss, self._autocast = compute_loss, options.autocast
        self.device = device_of(model)
        self.sum_found_inf: Callable[[Tensor], None] | None = None
        """Of several ranks: adds up, over them, how many gradients are not finite, so that all skip or none does."""

    @property
    def _params(self) -> list[Tensor]:
        # Asked anew, for the optimizer may have got another group.
        return [param for group in self.optimizer.param_groups for param in group["params"]]

    def loss(self, batch: Any) -> Tensor:
        """The model's loss on ``batch``, after moving it to the model's device."""
        with self.autocast_context():
            return self._compute_loss(self.model, move_batch(batch, self.device))

    def autocast_context(self) -> contextlib.AbstractContextManager[Any]:
        """The context of the forward pass."""
        if self._autocast is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self._autocast)

    def __call__(self, *batches: Any) -> Tensor:
        """One update from ``accumulate`` batches; returns their mean loss, detached, without waiting for the device."""
        self.require_n_batches(batches)
        loss = self.backward(batches)
        self.update(loss)
        return loss

    def require_n_batches(self, batches: Sequence[Any]) -> None:
        """Raises ValueError unless these are as many batches as an update takes."""
        if len(batches) != self.accumulate:
            raise ValueError(
                f"batches: got {len(batches)}, and accumulate is {self.accumulate}; a step takes exactly so many, each "
                "an argument of its own"
            )

    def backward(self, batches: Sequence[Any]) -> Tensor:
        """Set the gradients of the mean loss over ``batches``, and return that loss, detached."""
        self.optimizer.zero_grad(set_to_none=True)
        total: Tensor | None = None
        with torch.enable_grad():
            for batch in batches:
                loss = require_differentiable(self.loss(batch))
                part = loss if len(batches) == 1 else loss / len(batches)
                (part if self.scaler is None else self.scaler.scale(part)).backward()
                total = part.detach() if total is None else total + part.detach()
        assert total is not None
        return total

    def update(self, loss: Tensor | None = None) -> None:
        """Clip, and step the optimizer unless the scaler skips that; ``loss`` is for a schedule's record."""
        if self.scaler is not None and (self.clip_norm is not None or self.sum_found_inf is not None):
            self.scaler.unscale_(self.optimizer)
            if self.sum_found_inf is not None:
                for found_inf in found_inf_tensors(self.scaler, self.optimizer):
                    self.sum_found_inf(found_inf)
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self._params, self.clip_norm)
        ours = self.optimizer if isinstance(self.optimizer, SGD) else None
        own: dict[str, Any] = {} if ours is None else {"loss": loss}
        if self.scaler is None:
            self.optimizer.step(**own)
        else:
            with contextlib.nullcontext() if ours is None else ours.unscaling():
                self.scaler.step(self.optimizer, **own)
            self.scaler.update()


def require_optimizes(optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    """Raises ValueError if ``optimizer`` holds no trainable parameter of ``model``, as after making the model again."""
    trainable = {param for param in model.parameters() if param.requires_grad}
    if trainable.isdisjoint(param for group in optimizer.param_groups for param in group["params"]):
        raise ValueError("optimizer: it has no trainable parameter of the model; make it from model.parameters()")


def device_of(model: nn.Module) -> torch.device:
    return next(param.device for param in model.parameters() if param.requires_grad)


@contextlib.contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """A block with ``model`` in eval mode and without gradients; every module's own flag is as before after it."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in flags:
            module.training = training
