"""What is called while a training runs: nothing that dtk ships is written with more than these hooks."""

from __future__ import annotations

import importlib.util
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dtk.errors import ArgumentError

if TYPE_CHECKING:
    from dtk.training.loop.training import Training

__all__ = ["Callback", "MetricsLog", "TensorBoard", "load_states", "states_of"]


class Callback:
    """Called at the turns of a training; each method does nothing until it is overridden.

    It travels to the ranks and is called on all of them, in the same order. What raises ends the training. What it must
    remember through a restart it returns from `state_dict`.
    """

    def on_train_start(self, training: Training) -> None:
        """Begin, or go on after a restart; what `load_state_dict` brings is there already.

        Parameters
        ----------
        training : Training
            Where it stands.
        """

    def on_epoch_start(self, training: Training) -> None:
        """Begin an epoch, or the rest of one.

        Parameters
        ----------
        training : Training
            Where it stands.
        """

    def on_step_start(self, training: Training) -> None:
        """Come before a step.

        Parameters
        ----------
        training : Training
            Where it stands.
        """

    def on_step_end(self, training: Training) -> None:
        """Come after a step.

        Parameters
        ----------
        training : Training
            Where it stands: `step` is the next one.
        """

    def on_validation_step(self, training: Training) -> None:
        """Come after a batch of a validation.

        Parameters
        ----------
        training : Training
            Where it stands.
        """

    def on_epoch_end(self, training: Training, entry: Mapping[str, Any]) -> None:
        """Come after an epoch and its validation.

        Parameters
        ----------
        training : Training
            Where it stands.
        entry : mapping of str to object
            The epoch's figures, the same on all ranks but for seconds.
        """

    def on_train_end(self, training: Training) -> None:
        """Come after the last step, also where a callback stopped it.

        Parameters
        ----------
        training : Training
            Where it stands.
        """

    def on_exception(self, training: Training, error: BaseException) -> None:
        """Come in place of `on_train_end` where an error, or a request to leave, ends the training.

        Parameters
        ----------
        training : Training
            Where it stands.
        error : BaseException
            Why.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must hold for this callback to go on.

        Returns
        -------
        dict
            In types of JSON.
        """
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned.

        Parameters
        ----------
        state : mapping
            That of rank 0.
        """


def states_of(callbacks: Sequence[Callback]) -> list[list[Any]]:
    """Return what a checkpoint holds of callbacks.

    Parameters
    ----------
    callbacks : sequence of Callback
        Each is known again by its class, and by how many of that class come before it.

    Returns
    -------
    list of list
        Name and state of each, in types of JSON.
    """
    return [[type(one).__name__, one.state_dict()] for one in callbacks]


def load_states(callbacks: Sequence[Callback], states: Sequence[Sequence[Any]]) -> None:
    """Let callbacks go on.

    Parameters
    ----------
    callbacks : sequence of Callback
        Those there are now.
    states : sequence of [str, dict]
        From `states_of`.
    """
    left = [list(one) for one in states]
    for callback in callbacks:
        own = next((one for one in left if one[0] == type(callback).__name__), None)
        if own is not None:
            left.remove(own)
            callback.load_state_dict(own[1])
    lost = [name for name, state in left if state]
    if lost:
        warnings.warn(f"the checkpoint holds what no callback takes: of {', '.join(lost)}", stacklevel=2)


class MetricsLog(Callback):
    """Writes a line of JSON an epoch, from rank 0.

    Parameters
    ----------
    path : str or path
        Of the file, on a disk of rank 0. A training that goes on from a checkpoint takes back the lines after it; one
        that begins anew takes back all.
    every_steps : int, optional
        Writes a line each so many steps, too: epoch, step, loss and learning rate.
    """

    def __init__(self, path: str | os.PathLike[str], every_steps: int | None = None) -> None:
        if every_steps is not None and every_steps < 1:
            raise ArgumentError(f"every_steps={every_steps} must be at least 1, or None")
        self._path, self._every_steps = os.path.abspath(path), every_steps
        self._nbytes = 0

    def on_train_start(self, training: Training) -> None:
        """See `Callback`."""
        if training.rank == 0:
            os.makedirs(os.path.dirname(self._path), exist_ok=True)
            with open(self._path, "ab") as file:
                self._nbytes = min(file.seek(0, os.SEEK_END), self._nbytes)  # less on another host
                file.truncate(self._nbytes)

    def on_step_end(self, training: Training) -> None:
        """See `Callback`."""
        if self._every_steps is not None and training.step % self._every_steps == 0:
            figures = {"loss": training.loss, "learning_rate": training.learning_rate}
            self._write(training, {"epoch": training.epoch + 1, "step": training.step} | figures)

    def on_epoch_end(self, training: Training, entry: Mapping[str, Any]) -> None:
        """See `Callback`."""
        self._write(training, {"step": training.step, **entry})

    def state_dict(self) -> dict[str, Any]:
        """See `Callback`."""
        return {"nbytes": self._nbytes}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Callback`."""
        self._nbytes = state["nbytes"]

    def _write(self, training: Training, line: Mapping[str, Any]) -> None:
        if training.rank == 0:
            with open(self._path, "ab") as file:
                file.write(json.dumps(line).encode() + b"\n")
                self._nbytes = file.tell()


class TensorBoard(Callback):
    """Writes the figures of steps and epochs for TensorBoard, from rank 0.

    Parameters
    ----------
    path : str or path
        A directory, on a disk of rank 0.
    every_steps : int
        Steps from one point of the training loss to the next.
    """

    def __init__(self, path: str | os.PathLike[str], every_steps: int = 50) -> None:
        if importlib.util.find_spec("tensorboard") is None:
            raise ArgumentError("TensorBoard(...) needs the package tensorboard; pip install 'dask-dtk[tensorboard]'")
        if every_steps < 1:
            raise ArgumentError(f"every_steps={every_steps} must be at least 1")
        self._path, self._every_steps = os.path.abspath(path), every_steps
        self._writer: Any = None

    def on_train_start(self, training: Training) -> None:
        """See `Callback`."""
        if training.rank == 0:
            from torch.utils.tensorboard import SummaryWriter

            # what an earlier launch wrote of the steps to come goes
            self._writer = SummaryWriter(self._path, purge_step=training.step + 1)

    def on_step_end(self, training: Training) -> None:
        """See `Callback`."""
        if self._writer is not None and training.step % self._every_steps == 0:
            self._writer.add_scalar("train/loss", training.loss, training.step)
            self._writer.add_scalar("train/learning_rate", training.learning_rate, training.step)

    def on_epoch_end(self, training: Training, entry: Mapping[str, Any]) -> None:
        """See `Callback`."""
        if self._writer is not None:
            for name, value in entry.items():
                if isinstance(value, int | float):
                    self._writer.add_scalar(f"epoch/{name}", value, training.step)

    def on_train_end(self, training: Training) -> None:
        """See `Callback`."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def on_exception(self, training: Training, error: BaseException) -> None:
        """See `Callback`."""
        self.on_train_end(training)
