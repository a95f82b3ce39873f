"""Models whose ranks communicate: DistributedDataParallel and FSDP2 (``fully_shard``)."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor, nn


def is_data_parallel(model: nn.Module) -> bool:
    """Whether ``model`` is, or holds, a DistributedDataParallel: its ranks wait for each other in backward passes."""
    return any(isinstance(module, nn.parallel.DistributedDataParallel) for module in model.modules())


def is_sharded(model: nn.Module) -> bool:
    """Whether ``model`` has DTensors for parameters: its ranks wait for each other in forward passes, too."""
    return any(map(_is_fsdp, model.modules())) or any(hasattr(param, "to_local") for param in model.parameters())


def require_not_distributed(model: nn.Module) -> None:
    """Raises ValueError for a model whose ranks wait for each other: alone, each would end a sweep by its own loss."""
    sizes = [1]
    for module in model.modules():
        if isinstance(module, nn.parallel.DistributedDataParallel):
            sizes.append(dist.get_world_size(module.process_group))
        elif _is_fsdp(module):
            sizes.append(dist.get_world_size())
    sizes += [param.device_mesh.size() for param in model.parameters() if hasattr(param, "device_mesh")]
    if max(sizes) > 1:
        raise ValueError(
            f"group: got a single rank, and the ranks of this {type(model).__name__} wait for each other in every "
            "step; leave group out, or give the model without its wrapper for a rate of each rank's own"
        )


def reshard(module: nn.Module) -> None:
    """Give up the gathered parameters of an FSDP2 module, which a forward pass without backward leaves behind: its
    parameters are its shards then, and its next forward pass gathers them as they are by then."""
    if _is_fsdp(module):
        module.reshard()  # type: ignore[operator]


def local_part(tensor: Tensor) -> Tensor:
    """The memory of ``tensor`` on this rank, of which a DTensor is one part; without communication."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _is_fsdp(module: nn.Module) -> bool:
    # By name: where the class is imported from depends on the version of torch, and importing it takes a second.
    return any(kind.__name__ == "FSDPModule" for kind in type(module).__mro__)
