"""Objects of remote Zarr stores, fetched many at a time; of a shard that is little needed, only the chunks wanted."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from dtk.errors import DataError
from dtk.sources.byte_ranges import Span, merged
from dtk.sources.remote import Fetcher, fetcher_of, gathered

if TYPE_CHECKING:
    import zarr

__all__ = ["Objects", "ShardPart", "in_memory", "is_remote", "object_url", "start_objects", "store_fetcher"]

Objects = Mapping[str, memoryview | None]  # by path in the store; None where nothing is there

_NEAR: Final = frozenset({"LocalStore", "MemoryStore", "GpuMemoryStore", "ManagedMemoryStore", "ZipStore"})
_ABSENT: Final = 2**64 - 1  # what a shard's index says of a chunk that is not there


@dataclass(frozen=True)
class ShardPart:
    """The chunks of a shard that are wanted.

    Parameters
    ----------
    index : slice
        Where the shard has its index: at its start, or counted from its end.
    grid : tuple of int
        The chunks of the shard along each dimension.
    wanted : tuple of tuple of int
        Places of the chunks in this grid.
    """

    index: slice
    grid: tuple[int, ...]
    wanted: tuple[tuple[int, ...], ...]


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


def start_objects(store: Any, parts: Mapping[str, ShardPart | None]) -> Future[Objects]:
    """Start to fetch objects.

    Parameters
    ----------
    store : zarr.abc.store.Store
        Where they are.
    parts : mapping of str to ShardPart or None
        By path, what of a shard is wanted; None for all of an object.

    Returns
    -------
    concurrent.futures.Future
        The objects by path; of a shard that is wanted in part, all else is undefined.
    """
    fetcher = store_fetcher()

    async def _all() -> Objects:
        contents = await gathered(_object(fetcher, store, path, part) for path, part in parts.items())
        return dict(zip(parts, contents, strict=True))

    return fetcher.start(_all)


async def _object(fetcher: Fetcher, store: Any, path: str, part: ShardPart | None) -> memoryview | None:
    if part is None:
        return await _get(fetcher, store, path)
    return await _shard(fetcher, store, path, part)


async def _shard(fetcher: Fetcher, store: Any, path: str, part: ShardPart) -> memoryview | None:
    """Fetch a shard's index and the chunks wanted, each to its place."""
    from zarr.abc.store import RangeByteRequest, SuffixByteRequest

    is_first = part.index.start == 0
    nbytes = part.index.stop if is_first else -part.index.start
    head = await _get(fetcher, store, path, RangeByteRequest(0, nbytes) if is_first else SuffixByteRequest(nbytes))
    if head is None:
        return None
    places = np.frombuffer(head[part.index], "<u8").reshape(*part.grid, 2)  # of each chunk: first byte, bytes
    wanted = [places[cell].tolist() for cell in part.wanted]
    spans = [(begin, begin + length) for begin, length in wanted if begin != _ABSENT]
    filled = places[places[..., 0] != _ABSENT]
    end = int((filled[:, 0] + filled[:, 1]).max(initial=0))
    whole: npt.NDArray[np.uint8] = np.empty(max(end, nbytes) if is_first else end + nbytes, np.uint8)
    whole[slice(0, nbytes) if is_first else slice(-nbytes, None)] = head

    async def fill(span: Span) -> None:
        content = await _get(fetcher, store, path, RangeByteRequest(*span))
        if content is None or len(content) != span[1] - span[0]:
            raise DataError(f"{object_url(store, path)} was changed while it was read; open the data again")
        whole[slice(*span)] = content

    await gathered(fill((group[0][0], group[-1][1])) for group in merged(spans))
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
        Those that will be read; others count as not there.

    Returns
    -------
    zarr.Array
        With the same metadata.
    """
    import zarr
    from zarr.core.buffer import default_buffer_prototype
    from zarr.storage import MemoryStore, StorePath

    buffer = default_buffer_prototype().buffer
    contents = {path: buffer.from_bytes(content) for path, content in objects.items() if content is not None}
    place = StorePath(MemoryStore(contents, read_only=True), array.store_path.path)
    return zarr.Array(zarr.AsyncArray(metadata=array.metadata, store_path=place, config=array.async_array.config))
