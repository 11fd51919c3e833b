"""What a rank tells of its progress."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dtk.training.loop.callbacks import Callback

if TYPE_CHECKING:
    from dtk.training.gang.rank import RankContext
    from dtk.training.loop.training import Training

__all__ = ["Beats"]


class Beats(Callback):
    """Tells the client how far the training is, and its supervisor that the rank is alive.

    Parameters
    ----------
    context : RankContext
        Whom it tells.
    """

    def __init__(self, context: RankContext) -> None:
        self._context = context

    def on_step_end(self, training: Training) -> None:
        """See `Callback`."""
        self._context.report(lambda: _message(training, "training"))

    def on_validation_step(self, training: Training) -> None:
        """See `Callback`."""
        self._context.report(lambda: {"phase": "validation"})

    def on_epoch_end(self, training: Training, entry: Mapping[str, Any]) -> None:
        """See `Callback`."""
        self._context.report(lambda: _message(training, "epoch") | {"entry": dict(entry)}, at_once=True)


def _message(training: Training, phase: str) -> dict[str, Any]:
    return {
        "phase": phase,
        "epoch": training.epoch + 1,
        "epochs": training.epochs,
        "step": training.step,
        "steps": training.steps,
        "loss": training.loss,
        "samples": training.samples,
        "read_nbytes": training.read_nbytes,
        "wait_s": training.wait_s,
        "sync_s": training.sync_s,
        "compute_s": training.compute_s,
    }
