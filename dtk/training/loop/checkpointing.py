"""Checkpoints as a callback."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dtk.training.checkpoints.chronicle import Chronicle
from dtk.training.checkpoints.keeper import Keeper, Left
from dtk.training.loop.callbacks import Callback

if TYPE_CHECKING:
    from dtk.training.checkpoints.directory import Checkpoint
    from dtk.training.gang.rank import RankContext
    from dtk.training.loop.training import Training

__all__ = ["Checkpointing"]


class Checkpointing(Callback):
    """Goes on from the last checkpoint, and takes others; comes before all callbacks that shall go on with it.

    Parameters
    ----------
    checkpoint : Checkpoint
        Where, how often, how many.
    context : RankContext
        Who this rank is.
    """

    def __init__(self, checkpoint: Checkpoint, context: RankContext) -> None:
        self._checkpoint, self._context = checkpoint, context
        self._keeper: Keeper | None = None
        self._chronicle: Chronicle | None = None
        self._entered = contextlib.ExitStack()

    @property
    def incarnation(self) -> int:
        """Which launch of the training this is."""
        return 0 if self._keeper is None else self._keeper.incarnation

    def on_train_start(self, training: Training) -> None:
        """See `Callback`."""
        self._keeper = self._entered.enter_context(Keeper(self._checkpoint, training.state, self._context))
        self._keeper.restore()
        if training.rank == 0:
            checkpoint = self._checkpoint
            self._chronicle = Chronicle(
                checkpoint.path, self.incarnation, training.ranks, training.step, checkpoint.storage_options
            )

    def on_step_start(self, training: Training) -> None:
        """See `Callback`."""
        assert self._keeper is not None
        self._keeper.before_step()

    def on_validation_step(self, training: Training) -> None:
        """See `Callback`."""
        assert self._keeper is not None
        self._keeper.after_validation_step()

    def on_epoch_end(self, training: Training, entry: Mapping[str, Any]) -> None:
        """See `Callback`."""
        self._write(training)

    def on_train_end(self, training: Training) -> None:
        """See `Callback`."""
        self._finish(training, "")

    def on_exception(self, training: Training, error: BaseException) -> None:
        """See `Callback`."""
        if isinstance(error, Left):  # its checkpoint is on the way
            self._finish(training, str(error))
        else:
            self._entered.__exit__(type(error), error, error.__traceback__)

    def _finish(self, training: Training, left: str) -> None:
        assert self._keeper is not None
        self._keeper.finish()
        self._write(training, left)
        self._entered.close()

    def _write(self, training: Training, left: str | None = None) -> None:
        """Write down how it goes; `left` says at the end why it came early, or is empty."""
        if self._chronicle is not None:
            self._chronicle.write(training.history, step=training.step, left=left)
