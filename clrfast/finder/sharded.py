"""Models whose ranks communicate: DistributedDataParallel and FSDP2 (``fully_shard``)."""

from __future__ import annotations

from torch import Tensor, nn


def is_wrapped(model: nn.Module) -> bool:
    """Whether ``model`` is, or holds, a DistributedDataParallel: its ranks wait for each other in backward passes."""
    return any(isinstance(module, nn.parallel.DistributedDataParallel) for module in model.modules())


def is_sharded(model: nn.Module) -> bool:
    """Whether ``model`` has DTensors for parameters: its ranks wait for each other in forward passes, too."""
    return any(hasattr(param, "to_local") for param in model.parameters())


def gather_no_more(module: nn.Module) -> None:
    """Give up the gathered parameters of an FSDP2 module, which a forward pass without backward leaves behind: its
    parameters are its shards then, and its next forward pass gathers them as they are by then."""
    # By name: where it is imported from depends on the version of torch, and importing it takes a second.
    if any(kind.__name__ == "FSDPModule" for kind in type(module).__mro__):
        module.reshard()  # type: ignore[operator]


def own_part(tensor: Tensor) -> Tensor:
    """The memory of ``tensor`` on this rank, of which a DTensor is one part; without communication."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor
