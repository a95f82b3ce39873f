"""Diagnoses of a training run by its losses."""

from ._diagnosis import Diagnosis, diagnose
from ._loss_history import History

__all__ = ["Diagnosis", "History", "diagnose"]
