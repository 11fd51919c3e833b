"""Ranks on Dask workers, and the loop that they run.

The names below are handed out on first use: a worker that supervises ranks, and a rank that runs a loop of the user's
own, need little of it, and would load all of it at their start.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:  # type checkers and editors look here; _LAZY says the same at run time
    from dtk.training.callbacks import Callback, MetricsLog, TensorBoard
    from dtk.training.checkpoints import Checkpoint
    from dtk.training.fitting import train
    from dtk.training.gang import launch
    from dtk.training.run import TrainingReport
    from dtk.training.schedules import Schedule
    from dtk.training.task import Task, TensorSpec

__all__ = [
    "Callback",
    "Checkpoint",
    "MetricsLog",
    "Schedule",
    "Task",
    "TensorBoard",
    "TensorSpec",
    "TrainingReport",
    "launch",
    "train",
]

_LAZY: Final = {
    "Callback": "dtk.training.callbacks",
    "Checkpoint": "dtk.training.checkpoints",
    "MetricsLog": "dtk.training.callbacks",
    "Schedule": "dtk.training.schedules",
    "Task": "dtk.training.task",
    "TensorBoard": "dtk.training.callbacks",
    "TensorSpec": "dtk.training.task",
    "TrainingReport": "dtk.training.run",
    "launch": "dtk.training.gang",
    "train": "dtk.training.fitting",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module 'dtk.training' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
