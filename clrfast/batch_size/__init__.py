"""The batch size: what fits into memory, and how fast each size trains."""

from ._find_batch_size import BatchSizes, StepCost, find_batch_size

__all__ = ["BatchSizes", "StepCost", "find_batch_size"]
