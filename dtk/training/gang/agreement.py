"""What ranks agree on while they train: where all of them take a checkpoint, or leave.

Ranks that train together are never more than a step apart: a step ends in a sum over all of them. So rank 0 names the
step after the next one, waits until all have heard it, and takes its own step then: all come to the named step later,
and act before it. Steps in which nobody asks for anything cost nothing. In a validation, which has no sums, ranks meet
about twice a second (`Meetings`); each meeting is a place like the one before a step.

Drawn::

    any rank ── ask("checkpoint") ──► rank 0, before step 7: "before step 9" ──► all ranks
                                      waits for them      ◄── heard ────────────┘
"""

from __future__ import annotations

import contextlib
import json
import queue
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from torch.distributed import Store

__all__ = ["Agreement", "Meetings"]

AHEAD: Final = 2
END: Final = "end"
MEET_EVERY_S: Final = 0.5
LISTEN_S: Final = 60.0  # how long a question to the store lasts, before it is asked anew


class Agreement:
    """Lets ranks act before the same step, whichever of them asks for it, and when.

    Parameters
    ----------
    rank, ranks : int
        This process's number, and how many there are.
    connect : callable, optional
        Makes a new connection to the ranks' store: a connection answers one question at a time. Not needed by a rank
        that is alone.
    hang_timeout_s : float
        Seconds after which a rank that does not hear counts as hung.
    """

    def __init__(
        self, rank: int, ranks: int, connect: Callable[[], Store] | None = None, *, hang_timeout_s: float = 300.0
    ) -> None:
        self._rank, self._ranks, self._timeout = rank, ranks, timedelta(seconds=hang_timeout_s)
        self._asked: queue.SimpleQueue[str] = queue.SimpleQueue()  # signal handlers may put into it
        self._due: dict[int, set[str]] = {}
        self._announced = 0
        self._store = None
        self._threads: list[threading.Thread] = []
        if ranks > 1:
            assert connect is not None
            self._store = connect()
            for target in (self._hear,) if rank == 0 else (self._hear, self._pass_on):
                thread = threading.Thread(target=target, args=(connect(),), name="dtk-agreement", daemon=True)
                thread.start()
                self._threads.append(thread)

    def ask(self, what: str) -> None:
        """Ask all ranks to act before one of the next steps; any thread or signal handler may.

        Parameters
        ----------
        what : str
            How: what `due` will say.
        """
        self._asked.put(what)

    def due(self, place: int, *, ahead: int = AHEAD) -> frozenset[str]:
        """Say what all ranks do at a place, such as before a step; every rank asks at each.

        Parameters
        ----------
        place : int
            One more each time.
        ahead : int
            At which of the next places all act on what is asked for now: the first, where no rank comes there before
            rank 0 is on its way.

        Returns
        -------
        frozenset of str
            What was asked for, most often nothing; the same on all ranks.
        """
        if self._rank == 0 and not self._asked.empty():
            self._announce(place + ahead if self._ranks > 1 else place)
        return frozenset(self._due.pop(place, ()))

    def close(self) -> None:
        """End what listens; every rank calls it once, after its last step."""
        if self._rank > 0:
            self._asked.put(END)
        elif self._store is not None:
            self._announce(-1, {END})
            _ask(self._store, END)
        for thread in self._threads:
            thread.join(self._timeout.total_seconds())

    def _announce(self, place: int, asked: set[str] | None = None) -> None:
        if asked is None:
            asked = set()
            with contextlib.suppress(queue.Empty):
                while True:
                    asked.add(self._asked.get_nowait())
        self._due.setdefault(place, set()).update(asked)
        if self._store is not None:
            self._announced += 1
            self._store.set(f"dtk/named/{self._announced}", json.dumps([place, sorted(asked)]))
            self._store.wait([f"dtk/heard/{self._announced}"], self._timeout)

    def _hear(self, store: Any) -> None:
        """Take in what others tell: what they ask for on rank 0, and places on all other ranks."""
        number, asked = 0, set[str]()
        with contextlib.suppress(_store_error()):  # the store goes with rank 0
            while END not in asked:
                number += 1
                if self._rank == 0:
                    asked = {_told(store, f"dtk/asked/{number}")}
                    self._asked.put(next(iter(asked)))
                    continue
                place, told = json.loads(_told(store, f"dtk/named/{number}"))
                asked = set(told)
                self._due.setdefault(place, set()).update(asked)
                if store.add(f"dtk/ears/{number}", 1) == self._ranks - 1:
                    store.set(f"dtk/heard/{number}", "all")

    def _pass_on(self, store: Any) -> None:
        with contextlib.suppress(_store_error()):
            while (what := self._asked.get()) != END:
                _ask(store, what)


class Meetings:
    """Says after which batches of a validation ranks meet: all after the same ones, about twice a second.

    Parameters
    ----------
    longest : callable
        Takes this rank's seconds, waits for all ranks, and returns the most of them.
    """

    def __init__(self, longest: Callable[[float], float]) -> None:
        self._longest = longest
        self.begin()

    def begin(self) -> None:
        """Begin a validation."""
        self._batches, self._next, self._stride = 0, 1, 1
        self._met_at = time.monotonic()

    def is_met(self) -> bool:
        """Count a batch; every rank does so after each of its own.

        Returns
        -------
        bool
            Whether all ranks have just met; the same on all of them.
        """
        self._batches += 1
        if self._batches < self._next:
            return False
        batch_s = self._longest(time.monotonic() - self._met_at) / self._stride
        wanted = int(MEET_EVERY_S / max(batch_s, 1e-9))
        self._stride = max(1, min(wanted, 2 * self._stride))  # the first batches may not be like the others
        self._next += self._stride
        self._met_at = time.monotonic()
        return True


def _ask(store: Any, what: str) -> None:
    store.set(f"dtk/asked/{store.add('dtk/questions', 1)}", what)


def _told(store: Any, key: str) -> str:
    """Wait for a value without end: rank 0's end ends the wait, too."""
    while True:
        try:
            store.wait([key], timedelta(seconds=LISTEN_S))
        except _store_error():
            if not store.check([key]):  # raises if the store is gone
                continue
        return str(store.get(key).decode())


def _store_error() -> type[Exception]:
    from torch.distributed import DistError

    return DistError
