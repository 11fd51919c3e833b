"""What a rank prints is kept in a file on its worker's host: the last of it, and for the last gangs."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final, TextIO

__all__ = ["RankLog"]

MOST_NBYTES: Final = 2**24
"""Of a rank: the older half goes where there is more."""
MOST_FILES: Final = 64


class RankLog:
    """The log of one rank.

    Parameters
    ----------
    directory : str
        The worker's own.
    gang : str
        The gang's name.
    rank : int
        The rank's number.

    Attributes
    ----------
    path : pathlib.Path
        Of the file; what was before the last 8 MiB or more is in another one of that name and ``.1``.
    """

    def __init__(self, directory: str, gang: str, rank: int) -> None:
        self.path = Path(directory) / "dtk-logs" / f"{gang}-rank-{rank}.txt"
        self._nbytes = 0
        self._file: TextIO | None = None
        with contextlib.suppress(OSError):  # a disk that is full must not end a rank
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._remove_oldest()
            self._file = self.path.open("w", encoding="utf-8")

    def write(self, line: str) -> None:
        """Keep a line.

        Parameters
        ----------
        line : str
            Without its end.
        """
        if self._file is None:
            return
        try:
            if self._nbytes > MOST_NBYTES // 2:
                self._file.close()
                self.path.replace(f"{self.path}.1")
                self._file, self._nbytes = self.path.open("w", encoding="utf-8"), 0
            self._nbytes += self._file.write(f"{line}\n")
            self._file.flush()
        except OSError:
            self.close()

    def close(self) -> None:
        """Keep no more."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing was kept."""
        return self._nbytes == 0

    def _remove_oldest(self) -> None:
        found = sorted((path.stat().st_mtime, path) for path in self.path.parent.iterdir())
        for _, path in found[: max(0, len(found) - MOST_FILES + 1)]:
            path.unlink(missing_ok=True)
