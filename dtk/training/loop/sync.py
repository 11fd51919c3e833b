"""How long steps wait for other ranks."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from torch import Tensor
from torch.autograd import Variable

__all__ = ["SyncClock"]


class SyncClock:
    """Adds up the seconds that the thread which trains waits for gradients and weights to be summed over ranks.

    It is a clock on the wall, and asks nothing of a device. What is summed while backward still computes costs nothing,
    and is not in it; nor is what a GPU waits for by itself.
    """

    def __init__(self) -> None:
        self._seconds = 0.0
        self._computed_at = 0.0

    def take(self) -> float:
        """Return the seconds since this was called before.

        Returns
        -------
        float
            Seconds.
        """
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def backward(self, loss: Tensor) -> None:
        """Go backward, and measure from where this rank's own gradients are there to where the sums are.

        Parameters
        ----------
        loss : Tensor
            A scalar.
        """
        loss.register_hook(self._begin)
        loss.backward()
        self._seconds += time.perf_counter() - self._computed_at

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Measure a sum over ranks.

        Yields
        ------
        None
            While it is waited for.
        """
        asked = time.perf_counter()
        yield
        self._seconds += time.perf_counter() - asked

    def _begin(self, gradient: Tensor) -> None:
        # callbacks of the end of backward run in this order, and those that wait for sums come after this first one
        Variable._execution_engine.queue_callback(self._end)

    def _end(self) -> None:
        self._computed_at = time.perf_counter()
