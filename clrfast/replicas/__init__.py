"""Several copies of a model trained in one job, each by its own schedule."""

from .sweep import Replicas, sweep

__all__ = ["Replicas", "sweep"]
