"""Reading parts of Zarr arrays into memory that the caller owns.

Chunks of the common codecs are decoded straight to where they belong, past zarr's pipeline, which takes fresh memory
for each; all others go through it.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from itertools import product
from typing import Any, Final

import numpy as np
import zarr
from numpy.typing import NDArray

from dtk.errors import DataError
from dtk.sources.byte_ranges import REQUEST_NBYTES
from dtk.sources.forks import of_this_process
from dtk.sources.remote import FetchCost, gathered
from dtk.sources.remote_zarr import (
    Object,
    Objects,
    ShardPart,
    in_memory,
    is_remote,
    object_url,
    start_objects,
    store_fetcher,
)
from dtk.sources.whole_store import refuse_absent
from dtk.sources.zarr_layout import ZarrLayout, zarr_layout

__all__ = ["Region", "Scratch", "fetch_region", "read_region", "region_cost", "stored_chunk_nbytes"]

Region = tuple[slice, ...]

_SAMPLED_CHUNKS: Final = 16


class Scratch:
    """Memory that is used again for each read: first touching fresh pages costs more than decoding into them."""

    def __init__(self) -> None:
        self._buffers: dict[str, NDArray[np.uint8]] = {}

    def array(self, name: str, shape: Sequence[int], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return an array of this name; the next one of the name overwrites it.

        Parameters
        ----------
        name : str
            What it is for.
        shape : sequence of int
            Its shape.
        dtype : numpy.dtype
            Its type.

        Returns
        -------
        numpy.ndarray
            With any content.
        """
        nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        buffer = self._buffers.get(name)
        if buffer is None or len(buffer) < nbytes:
            buffer = self._buffers[name] = np.empty(nbytes, np.uint8)
        return buffer[:nbytes].view(dtype).reshape(tuple(shape))


def fetch_region(array: zarr.Array[Any], region: Region, object_nbytes: float | None = None) -> Future[Objects]:
    """Start to fetch the objects of a part of an array.

    Parameters
    ----------
    array : zarr.Array
        In a remote store.
    region : tuple of slice
        For each dimension, start and stop.
    object_nbytes : float, optional
        Bytes of an object in the store, about; of a decoded one if None.

    Returns
    -------
    concurrent.futures.Future
        For `read_region`.
    """
    layout = zarr_layout(array)
    outer = layout.outer if layout else tuple(array.shards or array.chunks)
    parts = {_path(array, cell): _shard_part(layout, cell, region) for cell in _cells(region, outer)}
    if object_nbytes is None:
        object_nbytes = float(np.prod(outer)) * array.dtype.itemsize
    return start_objects(array.store_path.store, parts, are_long=object_nbytes > REQUEST_NBYTES)


def read_region(
    array: zarr.Array[Any],
    region: Region,
    out: NDArray[Any],
    scratch: Scratch,
    fetched: Future[Objects] | None = None,
) -> None:
    """Read a part of an array.

    Parameters
    ----------
    array : zarr.Array
        Of numbers.
    region : tuple of slice
        For each dimension, start and stop.
    out : numpy.ndarray
        Where to, of the region's shape and the array's dtype.
    scratch : Scratch
        The thread's own.
    fetched : concurrent.futures.Future, optional
        What `fetch_region` returned for the same part; it is fetched now if None and the store is remote.

    Raises
    ------
    DataError
        If a chunk is damaged; it is named.
    FetchError
        If a remote store does not give it.
    """
    layout = zarr_layout(array)
    if fetched is None and is_remote(array.store_path.store):
        fetched = fetch_region(array, region)
    objects = None if fetched is None else fetched.result()
    if layout is None:
        _through_zarr(array, region, out, objects)
        return
    for cell in _cells(region, layout.outer):
        path = _path(array, cell)
        try:
            encoded = _get(array.store_path.store, path, scratch) if objects is None else objects[path]
            _place(layout, cell, encoded, region, out, scratch)
        except DataError:
            raise
        except (RuntimeError, ValueError, struct.error, OSError) as error:
            where = object_url(array.store_path.store, path)
            raise DataError(f"{where} cannot be decoded: {error}; write it again") from error


def region_cost(
    array: zarr.Array[Any],
    region: Region,
    axis: int,
    starts: NDArray[np.int64],
    stops: NDArray[np.int64],
    object_nbytes: float,
) -> FetchCost:
    """Estimate what fetching runs of a part of an array takes.

    Parameters
    ----------
    array : zarr.Array
        In a remote store.
    region : tuple of slice
        For each dimension, start and stop; along the axis, the first run's.
    axis : int
        The dimension along which the runs are.
    starts : numpy.ndarray
        An int64 ``[runs]``: where runs begin, counted from the start of the region.
    stops : numpy.ndarray
        An int64 ``[runs]``: where they end.
    object_nbytes : float
        Bytes of an object in the store.

    Returns
    -------
    FetchCost
        By run.
    """
    layout, sizes = zarr_layout(array), array.shards or array.chunks
    first, size = region[axis].start, sizes[axis]
    others = [len(range(part.start // step, -(-part.stop // step))) for part, step in zip(region, sizes, strict=True)]
    others[axis] = 1
    objects = (-(-(stops + first) // size) - (starts + first) // size) * int(np.prod(others, dtype=np.int64))
    part = _shard_part(layout, next(_cells(region, sizes)), region)
    share = 1.0 if part is None else len(part.wanted) / int(np.prod(part.index.grid))
    requests = objects if part is None else 2 * objects  # its index, and what is wanted of it
    if part is None and object_nbytes > REQUEST_NBYTES:
        requests = objects * (1 + int(np.ceil(object_nbytes / REQUEST_NBYTES)))  # its size, and its parts
    return FetchCost(np.ceil(objects * object_nbytes * share).astype(np.int64), requests.astype(np.int64))


def _path(array: zarr.Array[Any], cell: tuple[int, ...]) -> str:
    """Return where in its store an object lies."""
    key = array.metadata.encode_chunk_key(cell)
    return f"{array.store_path.path}/{key}" if array.store_path.path else key


def _shard_part(layout: ZarrLayout | None, cell: tuple[int, ...], region: Region) -> ShardPart | None:
    """Choose the chunks of a shard to fetch; None for all of it, which is one request, where most are wanted."""
    if layout is None or layout.index is None:
        return None
    wanted = tuple(_cells(_within(layout, cell, region), layout.inner))
    return ShardPart(layout.index, wanted) if 2 * len(wanted) <= int(np.prod(layout.index.grid)) else None


def _within(layout: ZarrLayout, cell: tuple[int, ...], region: Region) -> Region:
    """Return the part of a region that lies in a shard, counted from where the shard begins."""
    return tuple(
        slice(max(part.start - number * size, 0), min(part.stop - number * size, size))
        for part, number, size in zip(region, cell, layout.outer, strict=True)
    )


def _through_zarr(array: zarr.Array[Any], region: Region, out: NDArray[Any], objects: Objects | None) -> None:
    """Read by zarr's own pipeline, and find out which chunk is damaged if it fails."""
    readable = array if objects is None else in_memory(array, objects)
    try:
        out[...] = readable[region]
    except MemoryError:
        raise
    except Exception as error:  # codecs raise what they like
        raise DataError(f"{_damaged(array, readable, region)} cannot be decoded: {error}; write it again") from error


def _damaged(array: zarr.Array[Any], readable: zarr.Array[Any], region: Region) -> str:
    """Name the first chunk of a region that cannot be read."""
    shape = tuple(array.shards or array.chunks)
    for cell in _cells(region, shape):
        try:
            readable[tuple(slice(number * size, (number + 1) * size) for number, size in zip(cell, shape, strict=True))]
        except Exception:
            return object_url(array.store_path.store, _path(array, cell))
    return str(array.store_path)


def _cells(region: Region, chunk: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """List the cells of a grid that a region touches."""
    return product(
        *(range(part.start // size, -(-part.stop // size)) for part, size in zip(region, chunk, strict=True))
    )


def _place(
    layout: ZarrLayout,
    cell: tuple[int, ...],
    encoded: Object,
    region: Region,
    out: NDArray[Any],
    scratch: Scratch,
) -> None:
    """Decode what is one object in the store, as far as the region wants it."""
    origin = tuple(number * size for number, size in zip(cell, layout.outer, strict=True))
    if isinstance(encoded, memoryview) and layout.index is not None:
        encoded = layout.index.chunks(encoded, _cells(_within(layout, cell, region), layout.inner))
    if not isinstance(encoded, Mapping):
        _decode(layout, _box(origin, layout.outer), encoded, region, out, scratch)
        return
    for inner, chunk in encoded.items():
        start = [first + number * size for first, number, size in zip(origin, inner, layout.inner, strict=True)]
        _decode(layout, _box(start, layout.inner), chunk, region, out, scratch)


def _box(origin: Sequence[int], shape: tuple[int, ...]) -> Region:
    return tuple(slice(start, start + size) for start, size in zip(origin, shape, strict=True))


def _decode(
    layout: ZarrLayout,
    cell: Region,
    encoded: memoryview | None,
    region: Region,
    out: NDArray[Any],
    scratch: Scratch,
) -> None:
    """Decode the chunk of a cell of the array to its part of `out`."""
    to, source = [], []
    shape = tuple(part.stop - part.start for part in cell)
    for part, start, size in zip(region, (one.start for one in cell), shape, strict=True):
        first, last = max(part.start, start), min(part.stop, start + size)
        to.append(slice(first - part.start, last - part.start))
        source.append(slice(first - start, last - start))
    target = out[tuple(to)]
    if encoded is None:
        target[...] = layout.fill_value
        return
    if target.shape == shape and target.flags.c_contiguous:
        layout.decode(encoded, target)
        return
    whole = scratch.array("chunk", shape, layout.dtype)
    layout.decode(encoded, whole)
    target[...] = whole[tuple(source)]


def _get(store: Any, path: str, scratch: Scratch) -> memoryview | None:
    """Read an object of a store; None where it is not there."""
    root = getattr(store, "root", None)
    if type(store).__name__ == "LocalStore" and root is not None:
        try:
            descriptor = os.open(os.path.join(root, path), os.O_RDONLY)
        except FileNotFoundError:
            refuse_absent(store, path)
            return None
        try:
            nbytes = os.fstat(descriptor).st_size
            buffer = memoryview(scratch.array("encoded", (nbytes,), np.dtype(np.uint8)))  # type: ignore[arg-type]
            done = 0
            while done < nbytes:
                count = os.readv(descriptor, [buffer[done:]])
                if count == 0:
                    raise OSError(f"{nbytes - done} bytes are missing at the end")
                done += count
            return buffer
        finally:
            os.close(descriptor)
    from zarr.core.buffer import default_buffer_prototype
    from zarr.core.sync import sync

    found = sync(store.get(path, prototype=default_buffer_prototype()))
    return None if found is None else memoryview(found.as_numpy_array()).cast("B")


def stored_chunk_nbytes(array: zarr.Array[Any]) -> float:
    """Estimate the bytes of a chunk, or of a shard, in the store, from a few of them.

    Parameters
    ----------
    array : zarr.Array
        The array.

    Returns
    -------
    float
        The mean of at most 16, those that are not there left out; 0 if none is there.
    """
    grid = [-(-size // chunk) for size, chunk in zip(array.shape, array.shards or array.chunks, strict=True)]
    total = int(np.prod(grid, dtype=np.int64))
    numbers = np.unique(np.linspace(0, total - 1, min(total, _SAMPLED_CHUNKS)).astype(np.int64)).tolist()
    cells = [tuple(int(index) for index in np.unravel_index(number, grid)) if grid else () for number in numbers]
    store, fetcher = array.store_path.store, store_fetcher()
    if is_remote(store):
        store = of_this_process(store)

    async def _size(path: str) -> int | None:
        try:
            return await fetcher.request(object_url(store, path), lambda: store.getsize(path))
        except FileNotFoundError:
            return None

    found = fetcher.start(gathered, (_size(_path(array, cell)) for cell in cells)).result()
    sizes = [nbytes for nbytes in found if nbytes is not None]
    return float(np.mean(sizes)) if sizes else 0.0
