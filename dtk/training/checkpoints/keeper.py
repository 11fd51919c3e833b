"""When a rank takes checkpoints, and when it leaves before the end; all ranks do either at the same place."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping
from functools import partial
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

from dtk.training.checkpoints.directory import Checkpoint
from dtk.training.checkpoints.saving import Saver
from dtk.training.gang.agreement import Meetings

if TYPE_CHECKING:
    from torch import Tensor

    from dtk.training.gang.rank import RankContext

__all__ = ["Keeper", "Left", "Stateful"]

_SIGNALS: Final = (signal.SIGTERM, signal.SIGUSR1)
_SAVE: Final = "checkpoint"


class Left(Exception):  # noqa: N818  # it is no error
    """The training ends before its end, with a checkpoint; the text says why."""


class Stateful(Protocol):
    """What a keeper asks of a loop."""

    @property
    def step(self) -> int:
        """The step that comes next, counted over all epochs."""

    @property
    def epochs_done(self) -> int:
        """The epochs whose validation is over, too."""

    def longest(self, seconds: float) -> float:
        """Return the most of all ranks' seconds; each of them asks.

        Parameters
        ----------
        seconds : float
            This rank's.

        Returns
        -------
        float
            The same on all.
        """

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of a checkpoint."""

    def standing(self) -> dict[str, Any]:
        """Return all else of it, in types of JSON."""

    def restore(self, standing: Mapping[str, Any], load: Callable[[dict[str, Tensor]], None]) -> None:
        """Go on from a checkpoint.

        Parameters
        ----------
        standing : mapping
            What `standing` returned.
        load : callable
            Fills tensors, by the names that `tensors` gave, with those of the checkpoint.
        """


class Keeper:
    """Takes the checkpoints of one rank's loop; to be used in a ``with`` statement.

    Parameters
    ----------
    checkpoint : Checkpoint
        Where, how often, how many.
    loop : Stateful
        What is kept.
    context : RankContext
        Who this rank is.
    """

    def __init__(self, checkpoint: Checkpoint, loop: Stateful, context: RankContext) -> None:
        self._checkpoint, self._loop, self._context = checkpoint, loop, context
        self._saver = Saver(checkpoint, context.rank, context.ranks, hang_timeout_s=context.hang_timeout_s)
        self._agreement = context.agreement()
        self._meetings = Meetings(loop.longest)
        self._place = 0  # before a step, or where ranks meet in a validation
        self._is_owed = False  # a checkpoint that was asked for in a validation
        self._saved = (0, 0)  # the start itself needs none, and an optimizer that was never used is not what it seems
        self._saved_at = time.monotonic()
        self._asked_at = 0.0
        self._before: dict[signal.Signals, Any] = {}
        self.incarnation = 0

    def __enter__(self) -> Self:
        self._context.on_leave = self._leave
        if self._context.owns_process:
            self._before = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._context.on_leave = None
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if error is None:
            self._agreement.close()
        elif self._context.ranks == 1:  # with others, it may be that one of them is gone, and the end must be told
            self._saver.settle()

    def restore(self) -> None:
        """Claim the directory, and go on from its last checkpoint that is whole."""
        self.incarnation, manifests = self._saver.claim()
        last = self._saver.load_last(
            manifests, lambda manifest, path: self._loop.restore(manifest.state, partial(self._saver.load, path))
        )
        if last is not None:
            self._saved = self._stage()

    def before_step(self) -> None:
        """Take a checkpoint if one is due, and leave if anybody asked for it; every rank calls it before each step.

        Raises
        ------
        Left
            If this rank shall leave.
        """
        step, checkpoint = self._loop.step, self._checkpoint
        now = time.monotonic()
        if self._context.rank == 0 and checkpoint.every_s is not None:
            since = max(self._saved_at, self._asked_at)
            if now - since >= checkpoint.every_s and not self._saver.is_writing:  # a slow disk keeps no step waiting
                self._asked_at = now
                self._agreement.ask(_SAVE)
        self._place += 1
        due = self._agreement.due(self._place)
        is_due = checkpoint.every_steps is not None and step % checkpoint.every_steps == 0 and step > 0
        if due or is_due or self._is_owed:
            self._save()
            self._is_owed = False
        self._meetings.begin()
        _leave_for(due)

    def after_validation_step(self) -> None:
        """Leave if anybody asked for it; every rank calls it after each batch of a validation.

        The checkpoint comes with `finish`, once the loop is back where it was before the validation.

        Raises
        ------
        Left
            If this rank shall leave.
        """
        if self._meetings.is_met():
            self._place += 1
            due = self._agreement.due(self._place, ahead=1)
            self._is_owed |= _SAVE in due
            _leave_for(due)

    def finish(self) -> None:
        """Take the last checkpoint, and wait until it is published.

        Raises
        ------
        CheckpointError
            If it could not be.
        """
        self._save()
        self._saver.wait(is_last=True)

    def _save(self) -> None:
        if self._stage() != self._saved:
            self._saver.save(self._loop.step, self._loop.tensors(), self._loop.standing())
            self._saved, self._saved_at = self._stage(), time.monotonic()

    def _stage(self) -> tuple[int, int]:
        return self._loop.step, self._loop.epochs_done

    def _leave(self, reason: str) -> None:
        self._agreement.ask(reason)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._leave(f"signal {signal.Signals(number).name}")


def _leave_for(due: frozenset[str]) -> None:
    reasons = sorted(due - {_SAVE})
    if reasons:
        raise Left(", ".join(reasons))
