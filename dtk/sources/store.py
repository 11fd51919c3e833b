"""What tells one state of a Zarr store from another: its place, its snapshot, its objects."""

from __future__ import annotations

import os
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dtk.sources.answers import tag_of
from dtk.sources.forks import of_this_process
from dtk.sources.remote import gathered, steadily
from dtk.sources.remote_zarr import is_remote, object_url, store_fetcher

__all__ = ["list_objects", "snapshot_of", "store_place"]

_PAGE: Final = 1000  # objects that a store lists at once


def snapshot_of(store: Any) -> str | None:
    """Return the snapshot that an Icechunk store reads.

    Parameters
    ----------
    store : zarr.abc.store.Store
        Any store.

    Returns
    -------
    str or None
        Its id; None for any other store.
    """
    session = getattr(store, "session", None)
    snapshot = getattr(session, "snapshot_id", None)
    return None if snapshot is None else str(snapshot)


def store_place(store_path: Any) -> str:
    """Say where an array lies, in the same words in each process.

    Parameters
    ----------
    store_path : zarr.storage.StorePath
        Of the array.

    Returns
    -------
    str
        The store and the path in it.
    """
    snapshot = snapshot_of(store_path.store)
    return str(store_path) if snapshot is None else f"icechunk/{store_path.path}"


def list_objects(store_path: Any) -> tuple[list[str], list[str], npt.NDArray[np.int64]]:
    """List the objects of an array.

    Parameters
    ----------
    store_path : zarr.storage.StorePath
        Of the array.

    Returns
    -------
    names : list of str
        Their keys in the store, sorted.
    versions : list of str
        Bytes, and the time or tag that changes when the object does; nothing after the colon where none is known.
    sizes : numpy.ndarray
        An int64 ``[objects]``: bytes of each.
    """
    store, prefix = store_path.store, store_path.path
    if is_remote(store):
        store = of_this_process(store)
    if type(store).__name__ == "LocalStore":
        found = _of_directory(str(store.root), prefix)
    elif type(store).__name__ == "FsspecStore":
        found = _of_filesystem(store, prefix)
    elif type(store).__name__ == "ObjectStore":
        found = _of_obstore(store, prefix)
    else:
        found = _of_store(store, prefix)
    names = sorted(found)
    sizes = np.array([found[name][0] for name in names], np.int64)
    return names, [f"{found[name][0]}:{found[name][1]}" for name in names], sizes


def _of_directory(root: str, prefix: str) -> dict[str, tuple[int, str]]:
    found = {}
    for directory, _, files in os.walk(os.path.join(root, prefix)):
        for file in files:
            path = os.path.join(directory, file)
            status = os.stat(path)
            found[os.path.relpath(path, root)] = (status.st_size, str(status.st_mtime_ns))
    return found


def _of_filesystem(store: Any, prefix: str) -> dict[str, tuple[int, str]]:
    from zarr.core.sync import sync

    fs, fetcher, root = store.fs, store_fetcher(), store.path.rstrip("/")
    place = f"{root}/{prefix}".rstrip("/")

    async def _told(path: str, info: dict[str, Any]) -> dict[str, Any]:
        if info.get("size") is not None:
            return info
        asked: dict[str, Any] = await fetcher.request(path, lambda: fs._info(path))  # a web server lists names alone
        return asked

    fs.invalidate_cache()  # some keep what they listed
    listed: dict[str, dict[str, Any]] = steadily(place, lambda: sync(fs._find(place, detail=True)))
    infos = fetcher.start(gathered, (_told(*one) for one in listed.items())).result()
    start = len(fs._strip_protocol(root).rstrip("/")) + 1
    return {path[start:]: (int(info["size"]), tag_of(info)) for path, info in zip(listed, infos, strict=True)}


def _of_obstore(store: Any, prefix: str) -> dict[str, tuple[int, str]]:
    def listed() -> list[Any]:
        return [info for page in store.store.list(prefix, chunk_size=_PAGE) for info in page]

    infos = steadily(f"{store}/{prefix}", listed)
    return {info["path"]: (int(info["size"]), info["e_tag"] or str(info["last_modified"])) for info in infos}


def _of_store(store: Any, prefix: str) -> dict[str, tuple[int, str]]:
    """List what zarr knows of any store: no times."""
    from zarr.core.sync import sync

    async def collected() -> list[str]:
        return [key async for key in store.list_prefix(f"{prefix}/" if prefix else "")]

    fetcher, keys = store_fetcher(), steadily(f"{store}/{prefix}", lambda: sync(collected()))
    sizes = (fetcher.request(object_url(store, key), partial(store.getsize, key)) for key in keys)
    return {key: (size, "") for key, size in zip(keys, fetcher.start(gathered, sizes).result(), strict=True)}
