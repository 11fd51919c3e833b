"""How the chunks of a Zarr array lie in its store, and how they are decoded, where its codecs are common ones."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final

import numpy as np
import zarr

from dtk.sources.chunk_codecs import Decode, decoder
from dtk.sources.shards import ShardIndex

__all__ = ["ZarrLayout", "zarr_layout"]

_KEPT: Final = 1024


@dataclass(frozen=True)
class ZarrLayout:
    """How an array whose codecs are known lies in its store.

    Parameters
    ----------
    dtype : numpy.dtype
        Of its values.
    fill_value : object
        What chunks that are not there hold.
    outer : tuple of int
        The shape of what is one object in the store.
    inner : tuple of int
        The shape of what is decoded at once; the same without shards.
    decode : callable
        Decodes a chunk.
    index : ShardIndex, optional
        Of shards.
    """

    dtype: np.dtype[Any]
    fill_value: Any
    outer: tuple[int, ...]
    inner: tuple[int, ...]
    decode: Decode
    index: ShardIndex | None = None


_layouts: OrderedDict[int, tuple[Any, ZarrLayout | None]] = (
    OrderedDict()
)  # by the id of metadata, which they keep alive
_lock = Lock()


def zarr_layout(array: zarr.Array[Any]) -> ZarrLayout | None:
    """Return how an array lies in its store.

    Parameters
    ----------
    array : zarr.Array
        Of any format.

    Returns
    -------
    ZarrLayout or None
        None where zarr's own pipeline has to read it.
    """
    metadata = array.metadata
    with _lock:
        if id(metadata) in _layouts:
            return _layouts[id(metadata)][1]
    layout = _layout_v2(array) if metadata.zarr_format == 2 else _layout_v3(array)
    with _lock:
        _layouts[id(metadata)] = metadata, layout
        if len(_layouts) > _KEPT:
            _layouts.popitem(last=False)
    return layout


def _layout_v2(array: zarr.Array[Any]) -> ZarrLayout | None:
    metadata: Any = array.metadata
    decode = decoder(None if metadata.compressor is None else metadata.compressor.codec_id)
    if decode is None or metadata.filters or not _is_plain(array.dtype) or (metadata.order != "C" and array.ndim > 1):
        return None
    fill = 0 if metadata.fill_value is None else metadata.fill_value
    return ZarrLayout(array.dtype, fill, tuple(array.chunks), tuple(array.chunks), decode)


def _layout_v3(array: zarr.Array[Any]) -> ZarrLayout | None:
    metadata: Any = array.metadata
    codecs = list(metadata.codecs)
    outer = inner = tuple(array.shards or array.chunks)
    index = None
    if array.shards is not None:
        sharding = codecs[0]
        names = [type(codec).__name__ for codec in getattr(sharding, "index_codecs", ())]
        if names not in (["BytesCodec"], ["BytesCodec", "Crc32cCodec"]) or not _is_little(sharding.index_codecs[0]):
            return None
        inner, codecs = tuple(sharding.chunk_shape), list(sharding.codecs)
        grid = tuple(-(-whole // part) for whole, part in zip(outer, inner, strict=True))
        chunk_nbytes = int(np.prod(inner, dtype=np.int64)) * array.dtype.itemsize
        index = ShardIndex(grid, sharding.index_location.value == "start", len(names) == 2, chunk_nbytes)
    names = [type(codec).__name__ for codec in codecs]
    is_summed = names[-1] == "Crc32cCodec"
    names = names[: len(names) - is_summed]
    decode = decoder(names[1].removesuffix("Codec").lower() if len(names) > 1 else None, is_summed=is_summed)
    if names[0] != "BytesCodec" or len(names) > 2 or decode is None or not _is_plain(array.dtype):
        return None
    if not _is_little(codecs[0]):
        return None
    return ZarrLayout(array.dtype, metadata.fill_value, outer, inner, decode, index)


def _is_little(codec: Any) -> bool:
    return getattr(getattr(codec, "endian", None), "value", "little") == "little"


def _is_plain(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "fiub" and dtype.isnative
