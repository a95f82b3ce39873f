"""One eager training step: forward, backward and update, with accumulation, autocast, loss scaling and clipping."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._torch_compat import found_inf_tensors
from ..optim import FusedOptimizer
from ..optim._options import agreed_clip_norm
from ._batches import move_batch
from ._losses import ComputeLoss, require_differentiable
from ._optimizer_list import split_optimizer
from ._step_options import StepOptions


class EagerStep:
    """Turns batches into one update of a model.

    Args:
        model: the model to train, which is not put into training mode.
        compute_loss: ``compute_loss(model, batch) -> loss``.
        optimizer: any torch optimizer whose ``step`` needs no closure.
        options: None for the defaults. An optimizer of clrfast clips by itself: the gradients are read once more, and
            are unchanged.
    Raises:
        ValueError: the optimizer and the options have different values of ``clip_norm``.
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
        self.accumulate, self.scaler = options.accumulate, options.scaler
        self.clip_norm = None if options.clip_norm is None else float(options.clip_norm)
        for part in split_optimizer(optimizer):
            agreed_clip_norm(getattr(part, "clip_norm", None), self.clip_norm)
        self._compute_loss, self._autocast = compute_loss, options.autocast
        self.device = device_of(model)
        self.sum_found_inf: Callable[[Tensor], None] | None = None
        """Function that sums ``found_inf`` over ranks in place, so that all of them skip an update or none does."""

    @property
    def _params(self) -> list[Tensor]:
        # Collected at every use, because groups may have been added.
        return [param for group in self.optimizer.param_groups for param in group["params"]]

    @property
    def may_skip(self) -> bool:
        """Whether an update may be skipped, which the host learns only by waiting for the device: the scaler skips
        gradients that are not finite, and an optimizer of clrfast that clips skips those whose norm is not."""
        fused = self.optimizer if isinstance(self.optimizer, FusedOptimizer) else None
        clips = fused is not None and (self.clip_norm is not None or fused.clip_norm is not None)
        return self.scaler is not None or clips

    def compute_loss(self, batch: Any) -> Tensor:
        """Move ``batch`` to the model's device and return the model's loss on it."""
        with self.autocast_context():
            return self._compute_loss(self.model, move_batch(batch, self.device))

    def autocast_context(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context of the forward pass."""
        if self._autocast is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self._autocast)

    def __call__(self, *batches: Any) -> Tensor:
        """Make one update from ``accumulate`` batches and return their mean loss, detached; the host does not wait."""
        self.require_n_batches(batches)
        loss = self.backward(batches)
        self.update(loss)
        return loss

    def require_n_batches(self, batches: Sequence[Any]) -> None:
        """Raise ValueError unless the number of ``batches`` is ``accumulate``."""
        if len(batches) != self.accumulate:
            raise ValueError(
                f"batches: got {len(batches)}, and accumulate is {self.accumulate}; a step takes exactly that many, "
                "each as a separate argument"
            )

    def backward(self, batches: Sequence[Any]) -> Tensor:
        """Set the gradients of the mean loss over ``batches`` and return that loss, detached."""
        self.optimizer.zero_grad(set_to_none=True)
        total: Tensor | None = None
        with torch.enable_grad():
            for batch in batches:
                loss = require_differentiable(self.compute_loss(batch))
                part = loss if len(batches) == 1 else loss / len(batches)
                (part if self.scaler is None else self.scaler.scale(part)).backward()
                total = part.detach() if total is None else total + part.detach()
        assert total is not None
        return total

    def update(self, loss: Tensor | None = None) -> None:
        """Clip the gradients and step the optimizer, unless the scaler skips the update.

        Args:
            loss: the loss that the control of a ``clrfast`` optimizer records.
        """
        fused = self.optimizer if isinstance(self.optimizer, FusedOptimizer) else None
        clips_here = self.clip_norm is not None and fused is None
        if self.scaler is not None and (clips_here or self.sum_found_inf is not None):
            self.scaler.unscale_(self.optimizer)
            if self.sum_found_inf is not None:
                for found_inf in found_inf_tensors(self.scaler, self.optimizer):
                    self.sum_found_inf(found_inf)
        if clips_here:
            nn.utils.clip_grad_norm_(self._params, self.clip_norm)  # type: ignore[arg-type]
        keywords: dict[str, Any] = {}
        if fused is not None:
            keywords = {"loss": loss} if self.clip_norm is None else {"loss": loss, "clip_norm": self.clip_norm}
        if self.scaler is None:
            self.optimizer.step(**keywords)
        else:
            with contextlib.nullcontext() if fused is None else fused.unscaling():
                self.scaler.step(self.optimizer, **keywords)
            self.scaler.update()


def require_optimizes(optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    """Raise ValueError unless ``optimizer`` has a trainable parameter of ``model``.

    It has none if the model was created again after the optimizer.
    """
    trainable = {param for param in model.parameters() if param.requires_grad}
    if trainable.isdisjoint(param for group in optimizer.param_groups for param in group["params"]):
        raise ValueError("optimizer: it has no trainable parameter of the model; make it from model.parameters()")


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the model's first trainable parameter."""
    return next(param.device for param in model.parameters() if param.requires_grad)


@contextlib.contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Run a block in eval mode and without gradients, and restore the training flag of every module afterwards."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in flags:
            module.training = training
