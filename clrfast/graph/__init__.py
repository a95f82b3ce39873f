"""A whole training step as one replayable unit, and batches that keep up with it."""

from .captured import CapturedStep
from .device_dataset import DeviceDataset, crop_and_flip
from .staging import prefetched
from .train_step import TrainStep

__all__ = ["CapturedStep", "DeviceDataset", "TrainStep", "crop_and_flip", "prefetched"]
