"""Objects of remote Zarr stores, fetched many at a time; of a shard that is little needed, only the chunks wanted."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dtk.errors import DataError, NotFoundError
from dtk.sources.byte_ranges import REQUEST_NBYTES, Span, merged, split
from dtk.sources.forks import of_this_process
from dtk.sources.remote import Fetcher, fetcher_of, gathered
from dtk.sources.shards import Cell, ShardIndex

if TYPE_CHECKING:
    import zarr

__all__ = ["Object", "Objects", "ShardPart", "in_memory", "is_remote", "object_url", "start_objects", "store_fetcher"]

Object = memoryview | Mapping[Cell, memoryview | None] | None  # whole, or some chunks of a shard; None if not there
Objects = Mapping[str, Object]  # by path in the store

_NEAR: Final = frozenset({"LocalStore", "MemoryStore", "GpuMemoryStore", "ManagedMemoryStore", "ZipStore"})


@dataclass(frozen=True)
class ShardPart:
    """The chunks of a shard that are wanted.

    Parameters
    ----------
    index : ShardIndex
        How its index is written.
    wanted : tuple of tuple of int
        Places of the chunks in its grid.
    """

    index: ShardIndex
    wanted: tuple[Cell, ...]


def is_remote(store: Any) -> bool:
    """Tell whether reading from a store means waiting for others.

    Parameters
    ----------
    store : zarr.abc.store.Store
        Any store.

    Returns
    -------
    bool
        False for local files and memory.
    """
    return type(store).__name__ not in _NEAR


def store_fetcher() -> Fetcher:
    """Return the fetcher of the event loop on which Zarr calls its stores.

    Returns
    -------
    Fetcher
        Always the same one.
    """
    from zarr.core.sync import _get_loop

    return fetcher_of(_get_loop())


def object_url(store: Any, path: str) -> str:
    """Return the address of an object, for people.

    Parameters
    ----------
    store : zarr.abc.store.Store
        Where it is.
    path : str
        Its path in the store.

    Returns
    -------
    str
        A URL, where the store knows one.
    """
    if hasattr(store, "fs") and hasattr(store, "path"):
        return str(store.fs.unstrip_protocol(f"{store.path.rstrip('/')}/{path}"))
    return f"{store}/{path}"


def start_objects(store: Any, parts: Mapping[str, ShardPart | None], *, are_long: bool) -> Future[Objects]:
    """Start to fetch objects.

    Parameters
    ----------
    store : zarr.abc.store.Store
        Where they are.
    parts : mapping of str to ShardPart or None
        By path, what of a shard is wanted; None for all of an object.
    are_long : bool
        Whether whole objects may be too long for one request.

    Returns
    -------
    concurrent.futures.Future
        The objects by path; of a shard that is wanted in part, its chunks.
    """
    fetcher, store = store_fetcher(), of_this_process(store)

    async def _object(path: str, part: ShardPart | None) -> Object:
        if part is not None:
            return await _shard(fetcher, store, path, part)
        return await (_long if are_long else _get)(fetcher, store, path)

    async def _all() -> Objects:
        contents = await gathered(_object(path, part) for path, part in parts.items())
        return dict(zip(parts, contents, strict=True))

    return fetcher.start(_all)


async def _shard(fetcher: Fetcher, store: Any, path: str, part: ShardPart) -> dict[Cell, memoryview | None] | None:
    """Fetch a shard's index, then the chunks wanted."""
    from zarr.abc.store import RangeByteRequest, SuffixByteRequest

    nbytes = part.index.nbytes
    place = RangeByteRequest(0, nbytes) if part.index.is_first else SuffixByteRequest(nbytes)
    head = await _get(fetcher, store, path, place)
    if head is None:
        return None
    try:
        spans = part.index.spans(head, part.wanted)
    except ValueError as error:
        raise DataError(f"{object_url(store, path)} cannot be decoded: {error}; write it again") from error
    found: dict[Span, memoryview] = {}

    async def fill(group: list[Span]) -> None:
        start = group[0][0]
        content = await _range(fetcher, store, path, start, group[-1][1])
        for first, last in group:  # a copy, where it would keep what lies between
            chunk = content[first - start : last - start]
            found[first, last] = chunk if len(group) == 1 else memoryview(bytes(chunk))

    await gathered(fill(group) for group in merged([span for span in spans.values() if span is not None]))
    return {cell: None if span is None else found[span] for cell, span in spans.items()}


async def _long(fetcher: Fetcher, store: Any, path: str) -> memoryview | None:
    """Fetch an object in several requests, if it is long."""
    try:
        nbytes = await fetcher.request(object_url(store, path), lambda: store.getsize(path))
    except NotFoundError:
        return None
    return await (_range(fetcher, store, path, 0, nbytes) if nbytes > REQUEST_NBYTES else _get(fetcher, store, path))


async def _range(fetcher: Fetcher, store: Any, path: str, start: int, stop: int) -> memoryview:
    from zarr.abc.store import RangeByteRequest

    async def _piece(first: int, last: int) -> memoryview:
        content = await _get(fetcher, store, path, RangeByteRequest(first, last))
        if content is None or len(content) != last - first:
            raise DataError(f"{object_url(store, path)} was changed while it was read; open the data again")
        return content

    pieces = split(start, stop)
    if len(pieces) == 1:
        return await _piece(start, stop)
    whole = np.empty(stop - start, np.uint8)

    async def _fill(first: int, last: int) -> None:
        whole[first - start : last - start] = await _piece(first, last)

    await gathered(_fill(*piece) for piece in pieces)
    return memoryview(whole)  # type: ignore[arg-type]


async def _get(fetcher: Fetcher, store: Any, path: str, byte_range: Any = None) -> memoryview | None:
    from zarr.core.buffer import default_buffer_prototype

    def get() -> Awaitable[Any]:
        found: Awaitable[Any] = store.get(path, prototype=default_buffer_prototype(), byte_range=byte_range)
        return found

    found = await fetcher.request(object_url(store, path), get)
    return None if found is None else memoryview(found.as_numpy_array()).cast("B")


def in_memory(array: zarr.Array[Any], objects: Objects) -> zarr.Array[Any]:
    """Make an array whose chunks are in memory, for Zarr's own pipeline.

    Parameters
    ----------
    array : zarr.Array
        The array in its store.
    objects : mapping of str to memoryview
        Those that will be read, whole; others count as not there.

    Returns
    -------
    zarr.Array
        With the same metadata.
    """
    import zarr
    from zarr.core.buffer import default_buffer_prototype
    from zarr.storage import MemoryStore, StorePath

    buffer = default_buffer_prototype().buffer
    whole = {path: content for path, content in objects.items() if isinstance(content, memoryview)}
    contents = {path: buffer.from_bytes(content) for path, content in whole.items()}
    place = StorePath(MemoryStore(contents, read_only=True), array.store_path.path)
    return zarr.Array(zarr.AsyncArray(metadata=array.metadata, store_path=place, config=array.async_array.config))
