"""What has connections, made anew in a forked process: those of its parent are served by a thread that it lacks."""

from __future__ import annotations

import os
import pickle
from typing import Any, Final, TypeVar

from dtk.errors import ArgumentError

__all__ = ["of_this_process"]

Made = TypeVar("Made")

_HOME: Final = os.getpid()  # forked processes have another
_NATIVE: Final = {"ObjectStore": "obstore", "IcechunkStore": "Icechunk"}  # their threads are out of Python's reach
_used: set[str] = set()  # of these, by the parents of this process, too
_remade: dict[int, tuple[Any, Any]] = {}  # by id, what was given and its copy
os.register_at_fork(after_in_child=_remade.clear)


def of_this_process(made: Made) -> Made:
    """Return a file system or store that this process may use.

    Parameters
    ----------
    made : fsspec.AbstractFileSystem or zarr.abc.store.Store
        Maybe of the process that this one was forked from.

    Returns
    -------
    object
        The same in a process that was not forked; else what its pickle makes, once.

    Raises
    ------
    ArgumentError
        If it is of a library that cannot be used in a forked process.
    """
    kind = type(made).__name__
    if os.getpid() == _HOME:
        _used.update({kind} & _NATIVE.keys())
        return made
    if kind in _used:
        raise ArgumentError(
            f"a forked process cannot use a store of {_NATIVE[kind]} that its parent has used: it would wait for ever; "
            "pass num_workers=0 or multiprocessing_context='spawn' to the DataLoader"
        )
    if id(made) not in _remade:
        _remade[id(made)] = made, pickle.loads(pickle.dumps(made))
    copy: Made = _remade[id(made)][1]
    return copy
