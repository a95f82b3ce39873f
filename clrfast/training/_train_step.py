"""``TrainStep``: a whole training step in one call, replayed as a CUDA graph where possible, else eager."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .. import _native
from .._checks import is_whole
from .._torch_compat import forget_step
from ..optim import FusedOptimizer
from ..optim._parameters import devices_of
from ..tasks import Task
from . import _graph_cache as graph_cache
from ._captured_step import CapturedStep
from ._eager_step import EagerStep, device_of, require_optimizes
from ._graph_cache import MAX_GRAPHS, GraphCache
from ._guarded_replay import GuardedReplay
from ._losses import ComputeLoss, resolve_loss
from ._step_options import STEP_OPTIONS, StepKeywords, StepOptions, resolve_options
from ._task_argument import resolve_task

if TYPE_CHECKING:
    from typing_extensions import Unpack


class TrainStep(EagerStep):
    """Forward pass, backward pass, recording of the loss and update in one call: ``loss = step(batch)``.

    On a CUDA device, the first two steps with batches of one kind run eagerly, the third is captured, and each further
    step copies the batch and replays one CUDA graph. Batches are of one kind if their shapes, dtypes and plain values
    agree, and the same modules and parameters are in training. On other devices, and where a capture is impossible,
    every step runs eagerly with the same results; ``eager_reason`` says why.

    Python code in the model or the loss (printing, counting, hooks) runs at the capture and not in a replay. So do not
    use this class for a model whose computation depends on Python values other than its training flags.

    Args:
        model: the model to train, which is not put into training mode; or a ``Task``, whose model and loss are used:
            ``TrainStep(task, optimizer=optimizer)``.
        loss_fn: ``loss_fn(outputs, targets) -> loss`` for batches of ``(inputs, targets)``; None for a model that
            returns its own loss for a dict batch.
        optimizer: the optimizer of the model's parameters. Only steps with an optimizer of clrfast are captured; its
            schedule advances in each replay. It also clips by itself, without blocking the host; see ``clrfast.SGD``.
        compute_loss: ``compute_loss(model, batch) -> loss`` instead of ``loss_fn``.
        max_graphs: maximum number of kinds of batches that are captured, at least 1; batches of further kinds run
            eagerly.
        options, step_options: a ``StepOptions``, or its fields as keywords. With ``accumulate=n``, a step takes n
            batches: ``step(first, second, ...)``.

    Attributes:
        model, optimizer, scaler: as given.
        device: device of the model's parameters at the last ``reset``.

    Raises:
        TypeError: a keyword is unknown.
        ValueError: an argument is out of range; the message names it.
    """

    def __init__(
        self,
        model: nn.Module | Task,
        loss_fn: Callable[[Any, Any], Tensor] | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        compute_loss: ComputeLoss | None = None,
        max_graphs: int = MAX_GRAPHS,
        options: StepOptions | None = None,
        **step_options: Unpack[StepKeywords],
    ):
        options = resolve_options(options, step_options, "TrainStep", (*STEP_OPTIONS, "compute_loss", "max_graphs"))
        task = resolve_task(model, loss_fn, None, compute_loss)
        if optimizer is None or not hasattr(optimizer, "param_groups"):
            got = None if optimizer is None else type(optimizer).__name__
            raise ValueError(
                f"optimizer: got {got}; give an optimizer of the model's parameters, for example clrfast.SGD or AdamW"
            )
        super().__init__(task.model, resolve_loss(task.loss_fn, task.compute_loss), optimizer, options)
        require_optimizes(optimizer, task.model)
        if not is_whole(max_graphs) or max_graphs < 1:
            raise ValueError(f"max_graphs: got {max_graphs!r}; give a whole number of kinds of batches, at least 1")
        self._roots = [root for root in (task.model, task.loss_fn) if isinstance(root, nn.Module)]
        self._max_graphs, self._graph = max_graphs, options.graph
        self.reset()

    def reset(self) -> None:
        """Drop all graphs; the next steps warm up and capture again, with the present model and optimizer."""
        self.device = device_of(self.model)
        self._modules = [module for root in self._roots for module in root.modules()]
        self._params_at_reset = self._params
        self._permanent_reason = self._reason_against_capture()
        self._hook_reason: str | None = None
        self._graphs: GraphCache | None = None
        if self._permanent_reason is None:
            self._graphs = GraphCache(self.device, self._max_graphs)

    @property
    def eager_reason(self) -> str | None:
        """Why the last step ran eagerly, in one sentence; None after a replay, and before the first step if it may be
        captured."""
        cache_reason = self._graphs.eager_reason if self._graphs is not None else None
        return self._permanent_reason or self._hook_reason or cache_reason

    def __call__(self, *batches: Any) -> Tensor:
        """Make one update and return the mean loss before it; the host does not wait.

        Args:
            batches: ``accumulate`` batches, on any device.
        Returns:
            The detached loss, a tensor that no later step overwrites.
        Raises:
            RuntimeError: since the capture, the model's memory or dtype, the optimizer's groups, options, schedule or
                state, or the scaler has changed. The message names the change; ``reset()`` accepts it.
            ValueError: the number of batches differs from ``accumulate``, or the loss is not a differentiable scalar.
        """
        self.require_n_batches(batches)
        self._hook_reason = None
        if self._graphs is not None and isinstance(self.optimizer, FusedOptimizer) and self.optimizer.has_hooks():
            self._hook_reason = "the optimizer has step hooks, which a replay would not call"
        if self._graphs is None or self._hook_reason is not None:
            return super().__call__(*batches)
        kind = self.device.type
        outer_autocast = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind)
        depends_on = self._training_flags(), outer_autocast, self.clip_norm
        loss: Tensor = self._graphs(super().__call__, batches, depends_on=depends_on, capture=self._capture)
        if self._graphs.eager_reason is not None and any(p.requires_grad and p.grad is None for p in self._params):
            self._graphs.impossible = "a trainable parameter got no gradient, and no replay would ever update it"
        return loss

    def _training_flags(self) -> Any:
        """Return the training flags of the modules, and ``requires_grad`` of the parameters, that the last reset found.

        Parameters of groups that were added later are left out, because the replay reports such groups as a change.
        """
        if _native.why_missing is None:
            flags = _native.load().training_flags(self._modules, self._params_at_reset)
            if flags is not None:
                return flags
        return [module.training for module in self._modules], [param.requires_grad for param in self._params_at_reset]

    def _reason_against_capture(self) -> str | None:
        """Return why no step of this model and optimizer can be captured; None if no reason is known."""
        if self._graph is False:
            return "graph=False was given"
        no_graphs = graph_cache.reason_against_graphs(self.device)
        if no_graphs is not None:
            return no_graphs
        if not isinstance(self.optimizer, FusedOptimizer):
            kind = type(self.optimizer)
            return (
                f"the optimizer is {kind.__module__}.{kind.__qualname__}, whose rates a graph would freeze; "
                "those of clrfast's optimizers follow the schedule in every replay"
            )
        if len(devices_of(self.optimizer.param_groups)) > 1:
            return "the parameters are on several devices, and a graph covers only one"
        if any(isinstance(module, DistributedDataParallel) for module in self._modules):
            return "the model is a DistributedDataParallel, whose communication is not captured"
        return None

    def _capture(self, call: Callable[[], Any], stream: torch.cuda.Stream, pool: Any) -> GuardedReplay:
        try:
            captured = CapturedStep(call, self.optimizer, stream=stream, pool=pool)  # type: ignore[arg-type]
            return GuardedReplay(captured, self._modules, self.optimizer, self.scaler)
        except Exception:
            if self.scaler is not None:
                # An interrupted step() or update() leaves these, and they would scale the next update.
                forget_step(self.scaler)
                for name in ("grad_scale", "found_inf"):
                    vars(self.optimizer).pop(name, None)
            raise
