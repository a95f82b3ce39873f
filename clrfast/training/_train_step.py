"""A whole training step as one unit: captured in a CUDA graph where that can be, the same step eagerly elsewhere."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .. import _native
from .._checks import is_whole
from .._torch_compat import buffers_of, children_of, forget_step, parameters_of, scale_tensor
from ..optim import SGD
from ..optim._parameters import devices_of
from ..tasks import Task
from . import _graph_cache as graphs
from ._captured_step import CapturedStep
from ._eager_step import EagerStep, device_of, require_optimizes
from ._fingerprint import Fingerprint
from ._graph_cache import MAX_GRAPHS, GraphCache
from ._losses import ComputeLoss, resolve_loss
from ._step_options import STEP_OPTIONS, StepKeywords, StepOptions, resolve_options
from ._task_argument import resolve_task

if TYPE_CHECKING:
    from typing_extensions import Unpack


class TrainStep(EagerStep):
    """Forward, backward, record of the loss and update as one call: ``loss = step(batch)``.

    On a CUDA device the first two steps with batches of a kind (their shapes, dtypes and plain values, and which
    modules and parameters are in training) run eagerly; the third is captured, and from then on a step is a copy of
    the batch and the replay of one CUDA graph. Everywhere else, and where a capture is impossible, every step runs
    eagerly, with the same results, and ``eager_reason`` says why.

    What Python does in the model or the loss (printing, counting, hooks) happens at a capture and not in a replay: a
    model that decides in Python what to compute, other than by its training flags, is not for this class.

    Args:
        model: what is trained; it is not put into training mode. Or a ``Task``, whose model and loss are used:
            ``TrainStep(task, optimizer=optimizer)``.
        loss_fn: ``loss_fn(outputs, targets) -> loss``, for batches of ``(inputs, targets)``; None for a model that
            returns its own loss for a dict batch.
        optimizer: to be captured, a ``clrfast.SGD``; others step eagerly. Its schedule moves on in the replay.
        compute_loss: ``compute_loss(model, batch) -> loss``, in place of ``loss_fn``.
        max_graphs: kinds of batches that are captured; those beyond run eagerly.
        options, step_options: a ``StepOptions``, or its fields as keywords. With ``accumulate`` a step takes as many
            batches: ``step(first, second, ...)``.
    Raises:
        TypeError: an unknown keyword.
        ValueError: an argument that cannot be used; the message names it.
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
        if optimizer is None:
            raise ValueError(
                "optimizer: got None; give an optimizer of the model's parameters, for example clrfast.SGD"
            )
        super().__init__(task.model, resolve_loss(task.loss_fn, task.compute_loss), optimizer, options)
        require_optimizes(optimizer, task.model)
        if not is_whole(max_graphs) or max_graphs < 1:
            raise ValueError(f"max_graphs: got {max_graphs!r}; give a whole number of kinds of batches, at least 1")
        self._roots = [root for root in (task.model, task.loss_fn) if isinstance(root, nn.Module)]
        self._max_graphs, self._graph = max_graphs, options.graph
        self.reset()

    def reset(self) -> None:
        """Forget what was captured; the next steps warm up and capture anew, with everything as it is then."""
        self.device = device_of(self.model)
        self._modules = [module for root in self._roots for module in root.modules()]
        self._flagged = self._params
        self._why_never = self._why_impossible()
        self._why_not_now: str | None = None
        self._graphs: GraphCache | None = None
        if self._why_never is None:
            self._graphs = GraphCache(self.device, self._max_graphs)

    @property
    def eager_reason(self) -> str | None:
        """One sentence on why the last step ran eagerly; None if it was replayed, and before the first if it may be."""
        return self._why_never or self._why_not_now or (self._graphs.eager_reason if self._graphs is not None else None)

    def __call__(self, *batches: Any) -> Tensor:
        """One update; returns the mean loss before it, detached, a tensor of its own, without waiting for the device.

        Args:
            batches: ``accumulate`` of them, on the model's device or not.
        Raises:
            RuntimeError: since the capture, the model's dtype or memory, the optimizer's groups, options, schedule or
                state, or the scaler have changed: the message names what. After ``reset()`` it goes on with them.
            ValueError: another number of batches, or a loss that cannot be trained with.
        """
        self.require_n_batches(batches)
        self._why_not_now = None
        if self._graphs is not None and isinstance(self.optimizer, SGD) and self.optimizer.has_hooks():
            self._why_not_now = "the optimizer has step hooks, which a replay would not call"
        if self._graphs is None or self._why_not_now is not None:
            return super().__call__(*batches)
        kind = self.device.type
        casting = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind)  # of a block around this call
        flags = self._flags(), casting
        loss: Tensor = self._graphs(super().__call__, batches, also=flags, capture=self._captured)
        if self._graphs.eager_reason is not None and any(p.requires_grad and p.grad is None for p in self._params):
            self._graphs.impossible = "a trainable parameter got no gradient, and no replay would ever update it"
        return loss

    def _flags(self) -> Any:
        """Which modules and parameters are in training, of those at the last reset: a group of later is no other kind
        of batch, but named by the replay."""
        if _native.why_missing is None:
            flags = _native.load().flags(self._modules, self._flagged)
            if flags is not None:
                return flags
        return [module.training for module in self._modules], [param.requires_grad for param in self._flagged]

    def _why_impossible(self) -> str | None:
        """Why no step of this model and optimizer can be captured; None if that is not known."""
        if self._graph is False:
            return "graph=False was given"
        no_graphs = graphs.reason_against_graphs(self.device)
        if no_graphs is not None:
            return no_graphs
        if not isinstance(self.optimizer, SGD):
            name = type(self.optimizer).__name__
            return f"the optimizer is {name}, whose rates a graph would keep as they are now; clrfast.SGD's live on"
        if len(devices_of(self.optimizer.param_groups)) > 1:
            return "the parameters are on several devices, and a graph is of one"
        if any(isinstance(module, DistributedDataParallel) for module in self._modules):
            return "the model is a DistributedDataParallel, whose communication is not captured"
        return None

    def _captured(self, call: Callable[[], Any], stream: torch.cuda.Stream, pool: Any) -> _GuardedReplay:
        try:
            return _GuardedReplay(self, CapturedStep(call, self.optimizer, stream=stream, pool=pool))  # type: ignore[arg-type]
        except Exception:
            if self.scaler is not None:
                # What its step() and update() may not have reached: it would multiply the next scale by one left there.
                forget_step(self.scaler)
                for name in ("grad_scale", "found_inf"):
                    vars(self.optimizer).pop(name, None)
            raise

    def snapshot(self) -> Fingerprint:
        """What ``children`` and ``memory`` return, to be compared quickly."""
        return Fingerprint(self._modules)

    def children(self) -> list[nn.Module | None]:
        """The modules in each module."""
        return [child for module in self._modules for child in children_of(module).values()]

    def memory(self) -> list[tuple[int, torch.dtype]]:
        """Where the model's tensors lie, and their dtypes."""
        return [
            (tensor.data_ptr(), tensor.dtype)
            for module in self._modules
            for tensor in (*parameters_of(module).values(), *buffers_of(module).values())
            if tensor is not None
        ]

    def scaling(self) -> tuple[Any, ...]:
        """What a capture takes from the scaler as numbers."""
        scaler = self.scaler
        if scaler is None or not scaler.is_enabled():
            return ()
        scale = scale_tensor(scaler)
        factors = scaler.get_growth_factor(), scaler.get_backoff_factor(), scaler.get_growth_interval()
        return (*factors, None if scale is None else scale.data_ptr())

    def gradients(self) -> list[Tensor | None]:
        return [param.grad for param in self._params]

    def show_gradients(self, grads: list[Tensor | None]) -> None:
        """Have every parameter's ``grad`` be that of the graph just replayed, whatever ran before it."""
        if _native.why_missing is None and _native.load().show_gradients_(self.optimizer.param_groups, grads):
            return
        for param, grad in zip(self._params, grads, strict=True):
            if param.grad is not grad:
                param.grad = grad


class _GuardedReplay:
    """A captured step, and what it was captured with."""

    def __init__(self, step: TrainStep, captured: CapturedStep):
        self._step, self._captured = weakref.proxy(step), captured  # no cycle: a graph's memory goes with its step
        self._grads, self._children = step.gradients(), step.children()
        self._memory, self._scaling = step.memory(), step.scaling()
        self._snapshot = step.snapshot()

    def replay(self) -> Any:
        if not self._snapshot.holds():
            self._require_same_model()
            self._snapshot = self._step.snapshot()  # what has changed is nothing that a replay works on
        if self._step.scaling() != self._scaling:
            raise _changed("scaler: its settings have changed")
        loss = self._captured.replay()
        self._step.show_gradients(self._grads)
        return loss

    def _require_same_model(self) -> None:
        """Raises RuntimeError, naming the change, if a replay would work on memory that is not the model's any more."""
        if self._step.children() != self._children:
            raise _changed("model: it has got other modules")
        memory = self._step.memory()
        if len(memory) != len(self._memory):
            raise _changed("model: it has got or lost parameters or buffers")
        for (_, old), (_, new) in zip(self._memory, memory, strict=True):
            if old != new:
                raise _changed(f"model: its dtype has changed from {old} to {new}")
        if memory != self._memory:
            raise _changed("model: a parameter or buffer was moved, or replaced by another,")


def _changed(what: str) -> RuntimeError:
    return RuntimeError(f"{what} since this step was captured; call reset() to capture it as it is now")
