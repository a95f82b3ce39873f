"""One training step in all its forms (eager, captured in a CUDA graph, several copies at once) and its batches."""

from ._captured_step import CapturedStep
from ._device_dataset import DeviceDataset, crop_and_flip
from ._prefetch import prefetch
from ._step_options import StepOptions
from ._sweep import SweepResult, sweep
from ._task_training import Score, evaluate, steps_per_epoch, train
from ._train_step import TrainStep

__all__ = [
    "CapturedStep",
    "DeviceDataset",
    "Score",
    "StepOptions",
    "SweepResult",
    "TrainStep",
    "crop_and_flip",
    "evaluate",
    "prefetch",
    "steps_per_epoch",
    "sweep",
    "train",
]
