"""Processes that wait for a rank to be: a gang that follows another on the same workers starts in under a second.

A rank's process takes seconds to load its libraries. So each rank that ends leaves a spare behind, which has loaded
them already and waits for its orders. It serves a rank that needs the very environment which it was started with, as
some of it counts only then; every other rank is started anew. A spare holds no GPU and no slot. There are as many on a
worker as its last gang had ranks there; they end with their worker, and when nobody needs them for some minutes.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from dtk.config import spare_s
from dtk.runtime import PinnedTask
from dtk.training.gang.process import RankProcess, start_process

__all__ = ["keep_spare", "take_process"]

POLL_S: Final = 0.5


@dataclass(frozen=True)
class _Spare:
    task: PinnedTask  # whose worker it belongs to
    needs: tuple[Mapping[str, str], str, str]
    process: RankProcess
    since: float = field(default_factory=time.monotonic)


_spares: list[_Spare] = []
_lock = threading.Lock()
_keeper: threading.Thread | None = None


def take_process(task: PinnedTask, environment: Mapping[str, str]) -> RankProcess | None:
    """Take a spare for a rank.

    Parameters
    ----------
    task : PinnedTask
        Of the rank's supervisor.
    environment : mapping of str to str
        What the rank's process must have been started with.

    Returns
    -------
    RankProcess or None
        None if there is none that fits.
    """
    needs = _needs(environment)
    with _lock:
        for spare in _spares:
            if spare.task.address == task.address and spare.needs == needs and spare.process.popen.poll() is None:
                _spares.remove(spare)
                return spare.process
    return None


def keep_spare(task: PinnedTask, environment: Mapping[str, str], modules: Sequence[str], *, most: int) -> None:
    """Start a spare in the background, for the rank after the one that ends.

    Parameters
    ----------
    task : PinnedTask
        Of the supervisor of the rank that ends.
    environment : mapping of str to str
        What that rank was started with.
    modules : sequence of str
        What it has loaded of dtk.
    most : int
        How many the worker may have; older ones make room.
    """
    global _keeper  # noqa: PLW0603  # one thread serves the process
    if spare_s() <= 0 or not task.is_worker_open:
        return
    try:
        process = start_process(environment, is_spare=True, modules=modules)
    except OSError:  # no memory or files for it: then the next rank will start without one
        return
    with _lock:
        _spares.append(_Spare(task, _needs(environment), process))
        own = [spare for spare in _spares if spare.task.address == task.address]
        surplus = own[: max(0, len(own) - most)]
        for spare in surplus:
            _spares.remove(spare)
        if _keeper is None:
            _keeper = threading.Thread(target=_keep, name="dtk-spares", daemon=True)
            _keeper.start()
    for spare in surplus:
        spare.process.discard()


def _keep() -> None:
    """End spares that are not needed any more, until there are none."""
    global _keeper  # noqa: PLW0603
    while True:
        time.sleep(POLL_S)
        with _lock:
            oldest = time.monotonic() - spare_s()
            past = [
                spare
                for spare in _spares
                if spare.since < oldest or not spare.task.is_worker_open or spare.process.popen.poll() is not None
            ]
            for spare in past:
                _spares.remove(spare)
            is_over = not _spares
            if is_over:
                _keeper = None
        for spare in past:
            spare.process.discard()
        if is_over:
            return


def _needs(environment: Mapping[str, str]) -> tuple[Mapping[str, str], str, str]:
    return environment, os.getcwd(), sys.executable
