"""When a rank takes checkpoints, and when it leaves before the end; all ranks do either before the same step."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping
from functools import partial
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

from dtk.training.checkpoints import Checkpoint
from dtk.training.saving import Saver

if TYPE_CHECKING:
    from torch import Tensor

    from dtk.training.rank import RankContext

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
        self._saved_step = 0  # the start itself needs none, and an optimizer that was never used is not what it seems
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
            self._saved_step = last.step

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
        due = self._agreement.due(step)
        is_due = checkpoint.every_steps is not None and step % checkpoint.every_steps == 0 and step > 0
        if due or is_due:
            self._save()
        reasons = sorted(due - {_SAVE})
        if reasons:
            raise Left(", ".join(reasons))

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
        step = self._loop.step
        if step != self._saved_step:
            self._saver.save(step, self._loop.tensors(), self._loop.standing())
            self._saved_step, self._saved_at = step, time.monotonic()

    def _leave(self, reason: str) -> None:
        self._agreement.ask(reason)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._leave(f"signal {signal.Signals(number).name}")
