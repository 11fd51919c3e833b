"""Train PyTorch models on data bigger than memory, on the Dask cluster you already have.

The names below are handed out on first use, so that ``import dtk`` loads no other library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

from dtk.errors import (
    ArgumentError,
    BundleError,
    CheckpointError,
    ClusterError,
    DataError,
    DependencyError,
    DiskLimitError,
    DtkError,
    FetchError,
    MemoryLimitError,
    NotFoundError,
    RankError,
    SlotsTakenError,
    SourceError,
    WorkerLostError,
)

if TYPE_CHECKING:  # type checkers and editors look here; _LAZY says the same at run time
    from dtk.analytics import Report, TimeWindow, aggregate, profile
    from dtk.analytics.sql import sql
    from dtk.bundle import Bundle, load
    from dtk.estimators import TorchClassifier, TorchRegressor
    from dtk.loader import Loader
    from dtk.preparation import TablePreparation
    from dtk.runtime import connect
    from dtk.sources import Window, open, split, spool, write_parquet
    from dtk.statistics import map_reduce
    from dtk.training import Callback, Checkpoint, Task, launch, train

__all__ = [
    "ArgumentError",
    "Bundle",
    "BundleError",
    "Callback",
    "Checkpoint",
    "CheckpointError",
    "ClusterError",
    "DataError",
    "DependencyError",
    "DiskLimitError",
    "DtkError",
    "FetchError",
    "Loader",
    "MemoryLimitError",
    "NotFoundError",
    "RankError",
    "Report",
    "SlotsTakenError",
    "SourceError",
    "TablePreparation",
    "Task",
    "TimeWindow",
    "TorchClassifier",
    "TorchRegressor",
    "Window",
    "WorkerLostError",
    "__version__",
    "aggregate",
    "connect",
    "launch",
    "load",
    "map_reduce",
    "open",
    "profile",
    "split",
    "spool",
    "sql",
    "train",
    "write_parquet",
]

__version__ = "0.1.0.dev0"

_LAZY: Final = {
    "Bundle": "dtk.bundle",
    "Loader": "dtk.loader",
    "Report": "dtk.analytics",
    "TablePreparation": "dtk.preparation",
    "TimeWindow": "dtk.analytics",
    "TorchClassifier": "dtk.estimators",
    "TorchRegressor": "dtk.estimators",
    "Window": "dtk.sources",
    "aggregate": "dtk.analytics",
    "connect": "dtk.runtime",
    "Callback": "dtk.training",
    "Checkpoint": "dtk.training",
    "Task": "dtk.training",
    "launch": "dtk.training",
    "load": "dtk.bundle",
    "map_reduce": "dtk.statistics",
    "open": "dtk.sources",
    "profile": "dtk.analytics",
    "split": "dtk.sources",
    "spool": "dtk.sources",
    "sql": "dtk.analytics.sql",
    "train": "dtk.training",
    "write_parquet": "dtk.sources",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module 'dtk' has no attribute {name!r}")
    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value  # the next look-up is an ordinary one
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
