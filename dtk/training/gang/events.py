"""What the ranks of a gang tell: every rank leaves its last figures in the gang's store, rank 0 makes one message.

Drawn::

    rank 1 ── figures, in JSON ──► key dtk/rank/1 ┐
    rank 2 ── figures, in JSON ──► key dtk/rank/2 ├─► rank 0: its own message, with a table of all ──► supervisor
    ...                                           ┘    at most twice a second                         ──► topic

The figures of a step are taken by the thread that trains; all else is done by another one, and no rank waits for
another. A message is bounded: a number a rank and figure, of so many ranks at most.
"""

from __future__ import annotations

import contextlib
import json
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from dtk.memory import held_nbytes

if TYPE_CHECKING:
    from torch.distributed import Store

__all__ = ["Events", "rank_key"]

EVERY_S: Final = 0.5
SHARE: Final = 0.01  # of the time at most: many ranks tell less often
MOST_RANKS: Final = 128
MOST_FIGURES: Final = 24
CLOSE_TIMEOUT_S: Final = 2.0

Figures = dict[str, float]


def rank_key(rank: int) -> str:
    """Name the key of a rank in the gang's store: it is there once the rank has started.

    Parameters
    ----------
    rank : int
        Its number.

    Returns
    -------
    str
        The key.
    """
    return f"dtk/rank/{rank}"


class Events:
    """Tells the figures of one rank; on rank 0, those of all.

    Parameters
    ----------
    rank, ranks : int
        This process's number, and how many there are.
    publish : callable
        Takes rank 0's messages.
    on_gpu : bool
        Whether the rank has a GPU, whose use is told, too.
    """

    def __init__(
        self, rank: int, ranks: int, publish: Callable[[dict[str, Any]], None], *, on_gpu: bool = False
    ) -> None:
        self._rank, self._ranks, self._publish, self._on_gpu = rank, ranks, publish, on_gpu
        self._store: Store | None = None
        self._told: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._table = _Table(ranks)
        self._last: dict[str, Any] = {}
        self._own: Figures = {}

    def open(self, store: Store) -> None:
        """Begin, once all ranks have started.

        Parameters
        ----------
        store : torch.distributed.Store
            The gang's, with a key a rank: see `rank_key`.
        """
        self._store = store

    def tell(self, message: dict[str, Any]) -> None:
        """Tell how far this rank is; returns at once.

        Parameters
        ----------
        message : dict
            Rank 0's is passed on, with what it told before and does not tell anew; what it holds as ``"entry"`` becomes
            one of ``"entries"``. The numbers in it count as the rank's figures.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._follow, name="dtk-events", daemon=True)
            self._thread.start()
        self._told.put(message)

    def close(self) -> None:
        """Tell what is left to tell, and end."""
        if self._thread is not None:
            self._told.put(None)
            self._thread.join(CLOSE_TIMEOUT_S)

    def _follow(self) -> None:
        period_s, is_over = EVERY_S, False
        while not is_over:
            told = self._told_within(period_s)
            is_over = None in told
            messages = [message for message in told if message is not None]
            started = time.monotonic()
            if messages or not is_over:
                with contextlib.suppress(_store_error()):  # the gang ends, and with it its store
                    self._pass_on(messages, started)
            period_s = max(EVERY_S, (time.monotonic() - started) / SHARE)

    def _told_within(self, period_s: float) -> list[dict[str, Any] | None]:
        told: list[dict[str, Any] | None] = []
        end = time.monotonic() + period_s
        with contextlib.suppress(queue.Empty):
            while None not in told[-1:]:
                told.append(self._told.get(timeout=max(0.0, end - time.monotonic())))
        return told

    def _pass_on(self, told: list[dict[str, Any]], now: float) -> None:
        if told:
            for message in told:
                self._last |= message
                self._own |= figures(message)
            self._own |= self._measure()
        if self._rank > 0:
            if told and self._store is not None:
                self._store.set(rank_key(self._rank), json.dumps(self._own))
            return
        # also where rank 0 tells nothing, because it waits for another rank: that is when people look
        self._table.take(self._look(), now)
        entries = [message["entry"] for message in told if message.get("entry")]
        last = {name: value for name, value in self._last.items() if name != "entry"}
        self._publish(last | {"entries": entries, "ranks": self._table.columns(now)})

    def _look(self) -> list[bytes]:
        """Read what every rank has left; rank 0's own is at hand."""
        own = json.dumps(self._own).encode()
        if self._store is None or self._ranks == 1:
            return [own]
        return [own, *self._store.multi_get([rank_key(rank) for rank in range(1, self._ranks)])]

    def _measure(self) -> Figures:
        """Measure what is the process's and not the loop's."""
        measured: Figures = {"held_nbytes": held_nbytes(), "cpu_s": round(time.process_time(), 2)}
        if self._on_gpu:
            import torch

            measured["gpu_nbytes"] = torch.cuda.memory_reserved()
            with contextlib.suppress(ImportError, RuntimeError):  # the driver's library is optional
                measured["gpu_use"] = torch.cuda.utilization() / 100
        return measured


class _Table:
    """The last figures of every rank, as rank 0 has found them."""

    def __init__(self, num_ranks: int) -> None:
        self._raw = [b""] * num_ranks
        self._figures: list[Figures] = [{} for _ in range(num_ranks)]
        self._heard_at = [time.monotonic()] * num_ranks

    def take(self, raw: list[bytes], now: float) -> None:
        """Take in what ranks have left; only what is new is read."""
        for rank, text in enumerate(raw):
            if text != self._raw[rank]:
                self._raw[rank], self._heard_at[rank] = text, now
                if text.startswith(b"{"):
                    self._figures[rank] = json.loads(text)

    def columns(self, now: float) -> dict[str, list[float | None]]:
        """Lay the figures out by name; of many ranks only those that are behind, or silent."""
        ranks = range(len(self._raw))
        if len(ranks) > MOST_RANKS:
            behind = sorted(ranks, key=lambda rank: (self._figures[rank].get("step", -1), self._heard_at[rank]))
            ranks = sorted(behind[:MOST_RANKS])  # type: ignore[assignment]
        names = dict.fromkeys(name for rank in ranks for name in self._figures[rank])
        return {
            "rank": list(ranks),
            "silent_s": [round(now - self._heard_at[rank], 1) for rank in ranks],
            **{name: [self._figures[rank].get(name) for rank in ranks] for name in list(names)[:MOST_FIGURES]},
        }


def figures(message: Mapping[str, Any]) -> Figures:
    """Take the numbers of a message, to six digits.

    Parameters
    ----------
    message : mapping of str to object
        What a rank tells.

    Returns
    -------
    dict of str to float
        Whole numbers as they are.

    Examples
    --------
    >>> figures({"phase": "training", "step": 3, "loss": 0.123456789, "entry": None})
    {'step': 3, 'loss': 0.123457}
    """
    numbers = {name: value for name, value in message.items() if type(value) in (int, float)}
    return {
        name: float(f"{value:.6g}") if type(value) is float else value
        for name, value in list(numbers.items())[:MOST_FIGURES]
    }


def _store_error() -> type[Exception]:
    from torch.distributed import DistError

    return DistError
