"""Every error that dtk raises on purpose, drawn by what a handler would do.

::

    DtkError                          catch all of them
    ├── ArgumentError (ValueError)    mend the call: an argument, its value, the remedy
    ├── DataError (ValueError)        mend the data: it is empty, truncated, mixed or of another type
    │   └── NotFoundError (FileNotFoundError)   nothing is there
    ├── FetchError (OSError)          try again later: a remote store failed, also after several attempts
    ├── SourceError (TypeError)       spool first: the ranks cannot read this expression block by block
    ├── BundleError (ValueError)      use another bundle: damaged, newer, or in need of a class
    ├── MemoryLimitError (MemoryError)  give more memory, or ask for less
    ├── DiskLimitError (OSError)      free some disk, or write elsewhere
    ├── ClusterError (RuntimeError)   mend the cluster: none, too small, or a worker is lost
    ├── RankError (RuntimeError)      read the rank's traceback: it raised, died or hung
    └── DependencyError (ImportError) install the named extra

All of them cross process borders: they pickle with every field.
"""

from __future__ import annotations

__all__ = [
    "ArgumentError",
    "BundleError",
    "ClusterError",
    "DataError",
    "DependencyError",
    "DiskLimitError",
    "DtkError",
    "FetchError",
    "MemoryLimitError",
    "NotFoundError",
    "RankError",
    "SourceError",
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


class MemoryLimitError(DtkError, MemoryError):
    """A plan or a process needs more memory than its share."""

    __new__ = Exception.__new__  # type: ignore[assignment]  # for the same reason


class DiskLimitError(DtkError, OSError):
    """What is written takes more disk than there is, or than it may take."""

    __new__ = OSError.__new__  # type: ignore[assignment]


class ClusterError(DtkError, RuntimeError):
    """The cluster is missing, too small, or lost a worker."""


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
    """

    def __init__(
        self,
        message: str,
        rank: int | None = None,
        worker: str | None = None,
        rank_traceback: str | None = None,
    ) -> None:
        super().__init__(message, rank, worker, rank_traceback)
        self.message = message
        self.rank = rank
        self.worker = worker
        self.rank_traceback = rank_traceback

    def __str__(self) -> str:
        if not self.rank_traceback:
            return self.message
        return f"{self.message}\n\n{self.rank_traceback.rstrip()}"


class DependencyError(DtkError, ImportError):
    """An optional package is missing; the message says what to install."""
