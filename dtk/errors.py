"""Every error that dtk raises on purpose, drawn by what a handler would do.

::

    DtkError                          catch all of them
    ├── ArgumentError (ValueError)    mend the call: an argument, its value, the remedy
    ├── DataError (ValueError)        mend the data: it is empty, truncated, mixed or of another type
    │   └── NotFoundError (FileNotFoundError)   nothing is there
    ├── FetchError (OSError)          try again later: a remote store failed, also after several attempts
    ├── SourceError (TypeError)       spool first: the ranks cannot read this expression block by block
    ├── BundleError (ValueError)      use another bundle: damaged, newer, or in need of a class
    ├── CheckpointError (RuntimeError)  give another checkpoint=: of another training, taken over, or not writable
    ├── MemoryLimitError (MemoryError)  give more memory, or ask for less
    ├── DiskLimitError (OSError)      free some disk, or write elsewhere
    ├── ClusterError (RuntimeError)   mend the cluster: none, or too small
    │   ├── SlotsTakenError           wait for the gangs that hold them
    │   └── WorkerLostError           run it again: a worker is gone, and its ranks with it
    ├── RankError (RuntimeError)      read the rank's traceback: it raised, died or hung
    └── DependencyError (ImportError) install the named extra

All of them cross process borders: they pickle with every field.
"""

from __future__ import annotations

__all__ = [
    "ArgumentError",
    "BundleError",
    "CheckpointError",
    "ClusterError",
    "DataError",
    "DependencyError",
    "DiskLimitError",
    "DtkError",
    "FetchError",
    "MemoryLimitError",
    "NotFoundError",
    "RankError",
    "SlotsTakenError",
    "SourceError",
    "WorkerLostError",
]


class DtkError(Exception):
    """The base of all errors that dtk raises on purpose."""


class ArgumentError(DtkError, ValueError):
    """An argument cannot work; the message names it, its value and the remedy."""


class DataError(DtkError, ValueError):
    """Data is not what it should be; the message names the file or the column."""


class NotFoundError(DataError, FileNotFoundError):
    """Nothing is at the given path."""

    # distributed unpickles with the first __new__ that it finds, which would be ValueError's
    __new__ = FileNotFoundError.__new__  # type: ignore[assignment]


class FetchError(DtkError, OSError):
    """A remote store did not give what was asked; the message names the URL, the attempts and the cause."""


class SourceError(DtkError, TypeError):
    """An expression cannot be read block by block in the ranks; spool it first."""


class BundleError(DtkError, ValueError):
    """A bundle is damaged, of a newer version, or needs a class that was not given."""


class CheckpointError(DtkError, RuntimeError):
    """A directory of checkpoints is of another training, was taken over by a later one, or cannot be written."""


class MemoryLimitError(DtkError, MemoryError):
    """A plan or a process needs more memory than its share."""

    __new__ = Exception.__new__  # type: ignore[assignment]  # for the same reason


class DiskLimitError(DtkError, OSError):
    """What is written takes more disk than there is, or than it may take."""

    __new__ = OSError.__new__  # type: ignore[assignment]


class ClusterError(DtkError, RuntimeError):
    """The cluster is missing or too small."""


class SlotsTakenError(ClusterError):
    """Other gangs hold the workers that a gang needs."""


class WorkerLostError(ClusterError):
    """A worker is gone, and with it the ranks that it ran."""


class RankError(DtkError, RuntimeError):
    """A rank raised, died or hung.

    Parameters
    ----------
    message : str
        What happened, in one line.
    rank : int, optional
        The rank that failed first.
    worker : str, optional
        The address of the Dask worker that ran it.
    rank_traceback : str, optional
        The traceback as it was in the rank, formatted.
    is_recoverable : bool
        Whether the same may go well another time: the rank died, hung or lost the others, and raised nothing itself.
    """

    def __init__(
        self,
        message: str,
        rank: int | None = None,
        worker: str | None = None,
        rank_traceback: str | None = None,
        is_recoverable: bool = False,
    ) -> None:
        super().__init__(message, rank, worker, rank_traceback, is_recoverable)
        self.message = message
        self.rank = rank
        self.worker = worker
        self.rank_traceback = rank_traceback
        self.is_recoverable = is_recoverable

    def __str__(self) -> str:
        if not self.rank_traceback:
            return self.message
        return f"{self.message}\n\n{self.rank_traceback.rstrip()}"


class DependencyError(DtkError, ImportError):
    """An optional package is missing; the message says what to install."""
