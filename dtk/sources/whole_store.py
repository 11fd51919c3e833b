"""Zarr stores of spools, in which no chunk is absent: one that is not there is lost, and no fill value."""

from __future__ import annotations

import re
from typing import Any, Final

from zarr import storage

from dtk.errors import DataError
from dtk.sources.remote_zarr import object_url

__all__ = ["FsspecStore", "LocalStore", "refuse_absent"]

_CHUNK: Final = re.compile(r"(.*/)?c(/[0-9]+)*")


def refuse_absent(store: Any, key: str) -> None:
    """Raise if what is not there should be.

    Parameters
    ----------
    store : zarr.abc.store.Store
        Any store.
    key : str
        What it lacks.

    Raises
    ------
    DataError
        If it is a chunk of a spool.
    """
    if isinstance(store, _Whole) and _CHUNK.fullmatch(key):
        raise DataError(f"{object_url(store, key)} is missing; spool again with overwrite=True")


class _Whole:
    """What both have in common."""

    published = ""  # digest of the list of its files: Dask's names of what is read follow it

    def __dask_tokenize__(self) -> tuple[str, ...]:
        return type(self).__qualname__, str(self), self.published

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
        """Read an object, or a part of it."""
        found = await super().get(key, prototype, byte_range)  # type: ignore[misc]
        if found is None:
            refuse_absent(self, key)
        return found


# Of the names of zarr's own, by which others tell whether a store is near.
class LocalStore(_Whole, storage.LocalStore):
    """A spool on a disk.

    Parameters
    ----------
    root : str or path
        Its directory.
    read_only : bool
        Whether nothing is written.
    """

    def get_sync(self, key: str, *, prototype: Any = None, byte_range: Any = None) -> Any:
        """Read an object, or a part of it, without an event loop.

        Parameters
        ----------
        key : str
            Its name.
        prototype : zarr.core.buffer.BufferPrototype, optional
            Of the buffer.
        byte_range : zarr.abc.store.ByteRequest, optional
            The part; all of it if None.

        Returns
        -------
        zarr.core.buffer.Buffer or None
            None for metadata that is not there.

        Raises
        ------
        DataError
            If it is a chunk that is not there.
        """
        found = super().get_sync(key, prototype=prototype, byte_range=byte_range)
        if found is None:
            refuse_absent(self, key)
        return found


class FsspecStore(_Whole, storage.FsspecStore):
    """A spool in an object store, or one that is read through a cache.

    Parameters
    ----------
    fs : fsspec.AbstractFileSystem
        Asynchronous.
    read_only : bool
        Whether nothing is written.
    path : str
        Where it lies.
    allowed_exceptions : tuple of type
        What a key that is not there raises.
    """
