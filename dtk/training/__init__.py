"""Ranks on Dask workers, and the loop that they run."""

from __future__ import annotations

from dtk.training.fitting import train
from dtk.training.gang import launch
from dtk.training.run import TrainingReport

__all__ = ["TrainingReport", "launch", "train"]
