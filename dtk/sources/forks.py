"""What has connections, made anew in a forked process: those of its parent are served by a thread that it lacks."""

from __future__ import annotations

import os
import pickle
from typing import Any, Final, TypeVar

__all__ = ["of_this_process"]

Made = TypeVar("Made")

_HOME: Final = os.getpid()  # forked processes have another
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
    """
    if os.getpid() == _HOME:
        return made
    if id(made) not in _remade:
        _remade[id(made)] = made, pickle.loads(pickle.dumps(made))
    copy: Made = _remade[id(made)][1]
    return copy
