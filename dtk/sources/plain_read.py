"""Recognising what of an xarray Dataset is a plain read of Zarr: which array, which part of it, how it is decoded.

Only an allow-list of what xarray and Dask make of `xarray.open_zarr` and of selections by position is taken. A
variable's ``encoding`` proves nothing: it stays when values are computed.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dtk.errors import SourceError
from dtk.memory import format_nbytes

if TYPE_CHECKING:
    import xarray as xr
    import zarr

__all__ = ["PlainRead", "plain_read"]

_WRAPPERS: Final = frozenset({"MemoryCachedArray", "CopyOnWriteArray", "ImplicitToExplicitIndexingAdapter"})
_ELEMENTWISE: Final = frozenset({"_apply_mask", "_scale_offset_decoding"})  # of xarray.coding.variables

Selection = tuple[slice | int, ...]


@dataclass(frozen=True)
class PlainRead:
    """A variable that is a part of a Zarr array.

    Parameters
    ----------
    array : zarr.Array
        The array in the store.
    selection : tuple of slice or int
        For each of the array's dimensions: what is read, of step 1; an int where the variable lacks the dimension.
    decode : tuple of callable
        Applied one after the other to the values as stored, element by element.
    """

    array: zarr.Array[Any]
    selection: Selection
    decode: tuple[Callable[[Any], Any], ...]


def plain_read(name: Hashable, variable: xr.Variable) -> PlainRead:
    """Find the read behind a variable.

    Parameters
    ----------
    name : hashable
        Its name, for the error.
    variable : xarray.Variable
        Lazy, with or without Dask.

    Returns
    -------
    PlainRead
        Nothing is read.

    Raises
    ------
    SourceError
        If its values are not simply read from Zarr.
    """
    data = variable._data
    try:
        if hasattr(data, "dask"):
            root, selection = _dask_root(data)
        else:
            root, selection = data, None
        return _unwrapped(root, selection)
    except _NotPlain as reason:
        size = f"about {format_nbytes(variable.nbytes)} before compression"
        remedy = f"write it once with dtk.spool(data, path) ({size}) and use what that returns, or leave it out"
        raise SourceError(f"variable {name!r} is not read from Zarr as it lies: {reason}; {remedy}") from None


class _NotPlain(Exception):  # noqa: N818 - it never leaves this module
    """Why a variable is no plain read."""


def _unwrapped(root: Any, selection: Selection | None) -> PlainRead:
    """Take xarray's lazy arrays apart, from the outside to the array in the store."""
    decode: list[Callable[[Any], Any]] = []
    inner: Selection | None = None
    while type(root).__name__ != "ZarrArrayWrapper":
        kind = type(root).__name__
        if kind == "_ElementwiseFunctionArray":
            function = getattr(root.func, "func", None)
            if getattr(function, "__name__", "") not in _ELEMENTWISE:
                raise _NotPlain(f"it is decoded by {getattr(function, '__name__', root.func)!r}")
            decode.insert(0, root.func)
        elif kind == "NativeEndiannessArray":
            decode.insert(0, _to_native)
        elif kind == "BoolTypeArray":
            decode.insert(0, _to_bool)
        elif kind == "LazilyIndexedArray":
            if inner is not None or type(root.key).__name__ != "BasicIndexer":
                raise _NotPlain("it is selected by lists of positions")
            inner = _plain_selection(root.key.tuple, root.array.shape)
        elif kind not in _WRAPPERS:
            raise _NotPlain("it is in memory" if kind == "ndarray" else f"it is a {kind}")
        root = root.array
    array: zarr.Array[Any] = root._array
    inner = inner or tuple(slice(0, size) for size in array.shape)
    return PlainRead(array, inner if selection is None else _composed(inner, selection), tuple(decode))


def _to_native(values: Any) -> Any:
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _to_bool(values: Any) -> Any:
    return values.astype(bool)


def _dask_root(array: Any) -> tuple[Any, Selection]:
    """Find the one object that a Dask array reads from, and the part of it; only getters and slices between them."""
    graph = array.__dask_graph__()
    parts: dict[Any, tuple[Any, Selection]] = {}

    def part(key: Any) -> tuple[Any, Selection]:
        if key not in parts:
            task = graph[key]
            function, arguments = getattr(task, "func", None), list(getattr(task, "args", ()))
            if getattr(function, "__name__", "").startswith("getter") and len(arguments) >= 2:
                root = graph[arguments[0].key] if hasattr(arguments[0], "key") else arguments[0]
                root = getattr(root, "value", root)
                key_part = getattr(arguments[1], "value", arguments[1])
                parts[key] = root, _plain_selection(key_part, root.shape)
            elif function is operator.getitem or getattr(function, "__name__", "") == "getitem":
                root, outer = part(arguments[0].key)
                shape = [item.stop - item.start for item in outer if isinstance(item, slice)]
                key_part = getattr(arguments[1], "value", arguments[1])
                parts[key] = root, _composed(outer, _plain_selection(key_part, shape))
            elif hasattr(task, "target"):  # an alias
                parts[key] = part(task.target)
            else:
                name = getattr(function, "__name__", type(task).__name__)
                raise _NotPlain(f"Dask computes it ({str(array.name).rpartition('-')[0] or name})")
        return parts[key]

    # Selections by slices are one a dimension, so that the blocks along each axis tell all.
    root, first = part((array.name, *[0] * array.ndim))
    selection = list(first)
    axes = [number for number, item in enumerate(first) if isinstance(item, slice)]
    for axis, where in enumerate(axes):
        blocks: list[slice] = []
        for number in range(array.numblocks[axis]):
            index = [0] * array.ndim
            index[axis] = number
            other, found = part((array.name, *index))
            if other is not root:
                raise _NotPlain("it is put together from several reads")
            block = found[where]
            assert isinstance(block, slice)
            blocks.append(block)
        for before, after in pairwise(blocks):
            if before.stop != after.start:
                raise _NotPlain("it is selected with gaps or in another order")
        selection[where] = slice(blocks[0].start, blocks[-1].stop)
    return root, tuple(selection)


def _plain_selection(key: Any, shape: Any) -> Selection:
    """Normalise a key of slices of step 1 and ints."""
    key = key if isinstance(key, tuple) else (key,)
    if any(item is None or item is Ellipsis for item in key):
        raise _NotPlain("dimensions were added to it")
    found: list[slice | int] = []
    for item, size in zip((*key, *[slice(None)] * (len(shape) - len(key))), shape, strict=True):
        if isinstance(item, slice):
            start, stop, step = item.indices(size)
            if step != 1:
                raise _NotPlain("it is selected with a step")
            found.append(slice(start, max(start, stop)))
        elif isinstance(item, int | np.integer):
            found.append(int(item) % size)
        else:
            raise _NotPlain("it is selected by lists of positions")
    return tuple(found)


def _composed(outer: Selection, inner: Selection) -> Selection:
    """Select of a selection."""
    rest = iter(inner)
    found: list[slice | int] = []
    for item in outer:
        if not isinstance(item, slice):
            found.append(item)
            continue
        part = next(rest)
        if isinstance(part, slice):
            found.append(slice(item.start + part.start, item.start + part.stop))
        else:
            found.append(item.start + part)
    return tuple(found)
