"""Where the iterations of a loader stand, and what they took."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Position"]


@dataclass
class Position:
    """Where iterations stand. A loader and its views on devices share one.

    Parameters
    ----------
    epoch : int
        The epoch of the next iteration, or of the one that is under way.
    step : int
        The step after the one whose batch was handed out last.
    is_ahead : bool
        Whether the next iteration starts at (epoch, step), and not with the epoch after.
    wait_s : float
        Seconds that iterations waited for data so far.
    read_nbytes : int
        Bytes on disk of what was read so far.
    """

    epoch: int = 0
    step: int = 0
    is_ahead: bool = True
    wait_s: float = 0.0
    read_nbytes: int = 0

    @property
    def next_epoch(self) -> int:
        """The epoch of the next iteration."""
        return self.epoch if self.is_ahead else self.epoch + 1

    def begin(self) -> tuple[int, int]:
        """Begin an iteration.

        Returns
        -------
        tuple of int
            Its epoch and first step.
        """
        if not self.is_ahead:
            self.epoch, self.step = self.epoch + 1, 0
        self.is_ahead = False
        return self.epoch, self.step

    def go_to(self, epoch: int, step: int = 0) -> None:
        """Choose where the next iteration starts.

        Parameters
        ----------
        epoch : int
            The epoch.
        step : int
            The step.
        """
        self.epoch, self.step, self.is_ahead = epoch, step, True
