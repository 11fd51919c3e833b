"""The Dask cluster: the client, chunk-wise work on it, and what ranks need of it.

This package is the only importer of ``distributed``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dtk.runtime.chunkwise import delayed_reduce, map_reduce
from dtk.runtime.client import connect, current_client
from dtk.runtime.events import subscribed
from dtk.runtime.inside import mapped_inside
from dtk.runtime.pinned import (
    PinnedTask,
    WorkerInfo,
    ask_workers,
    is_error,
    live_workers,
    run_on,
    submit_pinned,
    workers_of,
)
from dtk.runtime.scaling import workers_wanted
from dtk.runtime.shares import RankShare, rank_shares
from dtk.runtime.shipping import is_installed, pack, unpack
from dtk.runtime.slots import held_slots, release_slots, take_slots
from dtk.runtime.task_place import TaskPlace, task_place

if TYPE_CHECKING:
    from distributed import Client as Client
    from distributed import Future as Future

__all__ = [
    "PinnedTask",
    "RankShare",
    "TaskPlace",
    "WorkerInfo",
    "ask_workers",
    "connect",
    "current_client",
    "delayed_reduce",
    "held_slots",
    "is_error",
    "is_installed",
    "live_workers",
    "map_reduce",
    "mapped_inside",
    "pack",
    "rank_shares",
    "release_slots",
    "run_on",
    "submit_pinned",
    "subscribed",
    "take_slots",
    "task_place",
    "unpack",
    "workers_of",
    "workers_wanted",
]
