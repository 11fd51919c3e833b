"""Ranks on Dask workers, and the loop that they run.

The names below are handed out on first use: a worker that supervises ranks, and a rank that runs a loop of the user's
own, need little of it, and would load all of it at their start.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:  # type checkers and editors look here; _LAZY says the same at run time
    from dtk.training.checkpoints.directory import Checkpoint
    from dtk.training.fitting import train
    from dtk.training.gang.launching import launch
    from dtk.training.loop.callbacks import Callback, MetricsLog, TensorBoard
    from dtk.training.loop.schedules import Schedule
    from dtk.training.loop.task import Task, TensorSpec
    from dtk.training.run import TrainingReport

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
    "Callback": "dtk.training.loop.callbacks",
    "Checkpoint": "dtk.training.checkpoints.directory",
    "MetricsLog": "dtk.training.loop.callbacks",
    "Schedule": "dtk.training.loop.schedules",
    "Task": "dtk.training.loop.task",
    "TensorBoard": "dtk.training.loop.callbacks",
    "TensorSpec": "dtk.training.loop.task",
    "TrainingReport": "dtk.training.run",
    "launch": "dtk.training.gang.launching",
    "train": "dtk.training.fitting",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module 'dtk.training' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
