"""Progress of long work: a bar in a terminal, plain lines in a batch log, silence when asked."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

__all__ = ["Progress"]


class Progress:
    """Shows how far a piece of work is, how long it still takes, and a few figures.

    Parameters
    ----------
    label : str
        What the work is, for example ``"training"``.
    total : int, optional
        Units of work; None where it is not known.
    enabled : bool
        Whether anything is shown at all.
    every_s : float
        Seconds between two lines in a batch log.

    Notes
    -----
    In a terminal it is a bar on standard error. Elsewhere it is a line each `every_s` seconds, and one at the end
    of work that took longer than that, so that a log stays short.
    """

    def __init__(self, label: str, total: int | None = None, *, enabled: bool = True, every_s: float = 5.0) -> None:
        self.label = label
        self.total = total
        self.enabled = enabled
        self._every_s = every_s
        self._start = time.monotonic()
        self._shown = self._start
        self._shown_done = -1
        self._done = 0
        self._first: tuple[float, int] | None = None  # the start may take long, and says nothing of what follows
        self._figures = ""
        self._bar: RichProgress | None = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if self.enabled and sys.stderr.isatty():
            from rich import progress
            from rich.console import Console

            self._bar = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(bar_width=24),
                progress.TaskProgressColumn(),
                progress.TimeRemainingColumn(compact=True),
                progress.TextColumn("{task.fields[figures]}"),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(self.label, total=self.total, figures="")
        return self

    def update(self, done: int, figures: str = "") -> None:
        """Say how much of the work is done.

        Parameters
        ----------
        done : int
            Units of work done so far.
        figures : str
            A few figures to show beside it, for example ``"loss 0.41, 120k samples/s"``.
        """
        self._done, self._figures = done, figures or self._figures
        self._first = self._first or (time.monotonic(), done)
        if self._bar is not None:
            self._bar.update(self._task, completed=done, figures=self._figures)
        elif self.enabled and time.monotonic() - self._shown >= self._every_s:
            self._shown = time.monotonic()
            self._print_line()

    def say(self, line: str) -> None:
        """Print a line that stays, above the bar.

        Parameters
        ----------
        line : str
            The line, without its end.
        """
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False)
        elif self.enabled:
            print(line, file=sys.stderr, flush=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            return
        is_long = time.monotonic() - self._start >= self._every_s
        is_new = self._shown_done != self._done  # the last update may have been due for a line itself
        if self.enabled and error is None and is_long and is_new:
            self._print_line()

    def _print_line(self) -> None:
        self._shown_done = self._done
        elapsed_s = time.monotonic() - self._start
        share = f"{self._done}/{self.total}" if self.total else str(self._done)
        left = ""
        if self.total and self._first is not None and self._first[1] < self._done < self.total:
            since_s, since_done = time.monotonic() - self._first[0], self._done - self._first[1]
            left = f", {since_s / since_done * (self.total - self._done):.0f} s left"
        figures = f", {self._figures}" if self._figures else ""
        print(f"{self.label}: {share} in {elapsed_s:.0f} s{left}{figures}", file=sys.stderr, flush=True)
