"""Giving files and directories their names when they are complete, on a disk that several processes share."""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
import socket
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from dtk.errors import ArgumentError

__all__ = ["LOCK", "finish_replacing", "is_held", "publish", "sole_writer", "written_whole"]

LOCK: Final = ".lock"


@contextmanager
def written_whole(path: str, *, is_lasting: bool = True) -> Iterator[str]:
    """Write a file under a temporary name, which starts with a dot, and give it its own when it is complete.

    Parameters
    ----------
    path : str
        Its name; what has it is replaced, and its directory is made.
    is_lasting : bool
        Whether it must survive that the machine loses its power.

    Yields
    ------
    str
        The temporary name; the file is removed if its writing fails.
    """
    directory, name = os.path.split(path)
    os.makedirs(directory, exist_ok=True)
    temporary = f"{directory}/.{name}.{uuid.uuid4().hex[:8]}"
    try:
        yield temporary
        if is_lasting:
            _sync(temporary)
        os.replace(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.remove(temporary)
        raise


@contextmanager
def sole_writer(directory: str, path: str) -> Iterator[bool]:
    """Make a directory that no other process writes to; one that does is waited for, with a warning.

    Parameters
    ----------
    directory : str
        Where parts of a result are written; it is removed if nothing was.
    path : str
        What the result is called, for the warning.

    Yields
    ------
    bool
        Whether another process was waited for: it may have published the result.

    Warns
    -----
    UserWarning
        If another process is waited for.

    Notes
    -----
    The lock is the kernel's, who frees it when a process ends in any way. A file system without locks has none.
    """
    lock, has_waited = f"{directory}/{LOCK}", False
    while True:
        os.makedirs(directory, exist_ok=True)
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # another process has just published the directory
            continue
        has_waited |= _wait_for(descriptor, path)
        if _is_same(descriptor, lock):
            break
        os.close(descriptor)
    try:
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield has_waited
    finally:
        if _is_same(descriptor, lock):
            os.remove(lock)
        with suppress(OSError):
            os.rmdir(directory)
        os.close(descriptor)


def is_held(directory: str) -> bool:
    """Tell whether a process writes to a directory.

    Parameters
    ----------
    directory : str
        One that `sole_writer` made.

    Returns
    -------
    bool
        True also where the file system cannot tell.
    """
    try:
        descriptor = os.open(f"{directory}/{LOCK}", os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def publish(partial_path: str, target: str, *, replaces: bool) -> None:
    """Give a directory its name.

    Parameters
    ----------
    partial_path : str
        The directory.
    target : str
        Its name, on the same disk.
    replaces : bool
        Whether it takes the place of what is there, and not of nothing or an empty directory.

    Raises
    ------
    ArgumentError
        If something came into being there that is not to be replaced; what was written stays.
    """
    for name in os.listdir(partial_path):  # what a killed process left
        if name.startswith(".") and name != LOCK:
            os.remove(f"{partial_path}/{name}")
    _sync(partial_path)
    aside = f"{target}.replaced-{uuid.uuid4().hex[:8]}"
    if replaces and os.path.lexists(target):
        os.rename(target, aside)
    try:
        os.rename(partial_path, target)
    except OSError as error:
        if os.path.lexists(target):
            raise ArgumentError(
                f"path={target!r} came into being while its content was written, which is in {partial_path!r} now; "
                "give overwrite=True or another path"
            ) from error
        if os.path.lexists(aside):
            os.rename(aside, target)
        raise
    with suppress(FileNotFoundError):  # only now, so that nobody takes the lock of what has another name
        os.remove(f"{target}/{LOCK}")
    _sync(os.path.dirname(target))
    finish_replacing(target)


def finish_replacing(target: str) -> None:
    """Do what a process that was killed while it published has left undone.

    Parameters
    ----------
    target : str
        The name of a result. An older one that was put aside is removed, or put back where there is no newer one.

    Warns
    -----
    UserWarning
        If the older one cannot be removed.
    """
    for aside in glob.glob(f"{glob.escape(target)}.replaced-{'[0-9a-f]' * 8}"):
        if not os.path.lexists(target):
            os.rename(aside, target)
            continue
        shutil.rmtree(aside, ignore_errors=True)
        if os.path.lexists(aside):  # on NFS, while another process reads it
            warnings.warn(f"{aside!r}, which was replaced, cannot be removed whole; remove it later", stacklevel=2)


def _wait_for(descriptor: int, path: str) -> bool:
    """Take a lock; tell whether another process had it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(descriptor, 1000, 0).decode() or "another process"
        warnings.warn(f"path={path!r} is being written by {owner}; waiting for it, to take its result", stacklevel=5)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return True
    except OSError:  # a file system without locks
        pass
    return False


def _is_same(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _sync(path: str) -> None:
    """Wait until a file or a directory is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
