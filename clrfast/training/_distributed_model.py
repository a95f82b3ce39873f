"""Models whose ranks communicate in every step: DistributedDataParallel and FSDP2 (``fully_shard``)."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor, nn


def is_data_parallel(model: nn.Module) -> bool:
    """Return whether the model is or contains a DistributedDataParallel, whose backward pass waits for all ranks."""
    return any(isinstance(module, nn.parallel.DistributedDataParallel) for module in model.modules())


def is_sharded(model: nn.Module) -> bool:
    """Return whether the model's parameters are DTensors, whose forward pass waits for all ranks as well."""
    return any(map(_is_fsdp, model.modules())) or any(hasattr(param, "to_local") for param in model.parameters())


def require_not_distributed(model: nn.Module) -> None:
    """Raise ValueError for a model whose ranks wait for each other.

    A rank that trains alone stops at its own loss, and the other ranks would wait for it.
    """
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
            "step; leave group out, or give the model without its wrapper to find a rate on each rank alone"
        )


def reshard(module: nn.Module) -> None:
    """Free the gathered parameters that an FSDP2 module keeps after a forward pass without a backward pass.

    Afterwards its parameters are its shards, and the next forward pass gathers their values at that time. Other modules
    are left unchanged.
    """
    if _is_fsdp(module):
        module.reshard()  # type: ignore[operator]


def local_part(tensor: Tensor) -> Tensor:
    """Return the part of a DTensor on this rank, without communication; any other tensor is returned unchanged."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _is_fsdp(module: nn.Module) -> bool:
    # By name: the import path of the class depends on the version of torch, and importing it takes a second.
    return any(kind.__name__ == "FSDPModule" for kind in type(module).__mro__)
