"""A fitted transform applied to what it is given, with the result in the same form: lazy where that is lazy."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from sklearn.utils._set_output import _wrap_data_with_container

from dtk.errors import SourceError
from dtk.preparation.transforms.given import Given, column_of, given_frame

if TYPE_CHECKING:
    from dtk.preparation.transforms.base import Transform

__all__ = ["frame_out", "map_given"]

Applied = NDArray[Any] | list[pa.ChunkedArray]
"""What a transform returns: [rows, features], or a column each."""


def map_given(given: Given, transform: Transform) -> Any:
    """Apply a fitted transform, lazily to what is lazy.

    Parameters
    ----------
    given : Given
        The columns.
    transform : Transform
        Fitted.

    Returns
    -------
    object
        Of the type of what the user gave, where `Transform.transform` says so.

    Raises
    ------
    SourceError
        If it is a path or a source.
    """
    package, names = type(given.original).__module__.partition(".")[0], _names_out(transform, given)
    if package == "xarray":
        return _map_xarray(given, transform, names)
    if given.lazy is None:
        return _wrap(transform._apply(given), given, transform, names)
    if package == "dask" and hasattr(given.original, "map_blocks"):
        return _map_blocks(given.original, given, transform, len(names))
    if hasattr(given.original, "map_partitions"):
        frame = given.original[list(given.names)]
        apply = _ApplyToFrame(transform, list(given.names), names)
        return frame.map_partitions(apply, meta=apply(frame._meta))
    raise SourceError(
        f"X={given.original!r} is read to fit; open it with dtk.open(...) to transform it, and write the result"
    )


def _names_out(transform: Transform, given: Given) -> list[str]:
    known = hasattr(transform, "feature_names_in_")
    return [str(name) for name in transform.get_feature_names_out(None if known else list(given.names))]


def _wrap(result: Applied, given: Given, transform: Transform, names: Sequence[str]) -> Any:
    if isinstance(given.original, pa.Table | pa.RecordBatch):
        return pa.table(result if isinstance(result, list) else list(result.T), names=list(names))
    values = _as_array(result, given)
    if given.array is not None and given.array.dtype == np.float32 and values.dtype == np.float64:
        values = values.astype(np.float32)
    return _wrap_data_with_container("transform", values, given.original, transform)


def _as_array(result: Applied, given: Given) -> NDArray[Any]:
    """Return [rows, features]: objects where there are Arrow columns."""
    if not isinstance(result, list):
        return result
    columns = [column.to_pandas().to_numpy(dtype=object) for column in result]
    return np.stack(columns, axis=1) if columns else np.empty((len(given.columns[0]), 0), object)


class _ApplyToFrame:
    """A partition transformed, with its index."""

    def __init__(self, transform: Transform, names: list[str], names_out: list[str]) -> None:
        self.transform, self.names, self.names_out = transform, names, names_out

    def __call__(self, frame: pd.DataFrame) -> pd.DataFrame:
        return frame_out(self.transform._apply(given_frame(frame, self.names)), self.names_out, frame.index)


def frame_out(result: NDArray[Any] | list[pa.ChunkedArray], names: Sequence[str], index: pd.Index) -> pd.DataFrame:
    """Make a frame of what a transform returned.

    Parameters
    ----------
    result : numpy.ndarray or list of pyarrow.ChunkedArray
        [rows, features], or a column each.
    names : sequence of str
        Of the features.
    index : pandas.Index
        Of the rows.

    Returns
    -------
    pandas.DataFrame
        With these names and index.
    """
    columns = [column.to_pandas().array for column in result] if isinstance(result, list) else list(result.T)
    return pd.DataFrame(dict(zip(names, columns, strict=True)), index=index, columns=list(names))


def _map_xarray(given: Given, transform: Transform, names: Sequence[str]) -> Any:
    """Return a DataArray [rows, features] for one, and a Dataset with a variable a feature for a Dataset."""
    import xarray as xr

    data = given.original
    if isinstance(data, xr.DataArray):
        rows, columns = data.dims
        if given.lazy is not None:
            result = _map_blocks(data.data, given, transform, len(names))
        else:
            result = _as_array(transform._apply(given), given)
        kept = {name: coord for name, coord in data.coords.items() if columns not in coord.dims}
        return xr.DataArray(result, {**kept, columns: list(names)}, (rows, columns), name=data.name, attrs=data.attrs)
    (dim,) = data[given.names[0]].dims
    if given.lazy is not None:
        result = _map_variables([data[name].data for name in given.names], given, transform, len(names))
    else:
        result = _as_array(transform._apply(given), given)
    coords = data.drop_vars(list(data.data_vars)).coords
    return xr.Dataset({name: (dim, result[:, number]) for number, name in enumerate(names)}, coords, data.attrs)


def _map_blocks(array: Any, given: Given, transform: Transform, num_features: int) -> Any:
    """Apply to a Dask array [rows, columns]."""
    chosen = array if given.positions == list(range(array.shape[1])) else array[:, given.positions]
    whole = chosen.rechunk({1: -1})
    apply = partial(_apply_to_block, names=list(given.names), transform=transform)
    meta = apply(np.empty((0, whole.shape[1]), whole.dtype))
    return whole.map_blocks(apply, dtype=meta.dtype, chunks=(whole.chunks[0], (num_features,)), meta=meta)


def _apply_to_block(block: NDArray[Any], *, names: Sequence[str], transform: Transform) -> NDArray[Any]:
    if transform._kind == "number":
        return transform._compute(block)
    return _apply_to_columns(*block.T, names=names, transform=transform)


def _map_variables(arrays: Sequence[Any], given: Given, transform: Transform, num_features: int) -> Any:
    """Apply to arrays [rows] of which some are Dask's: each keeps its type, where one array of all could not."""
    import dask.array as da

    apply = partial(_apply_to_columns, names=list(given.names), transform=transform)
    meta = apply(*(np.empty(0, each.dtype) for each in arrays))
    arguments = [argument for each in arrays for argument in (da.asarray(each), "r")]
    return da.blockwise(apply, "rf", *arguments, new_axes={"f": num_features}, dtype=meta.dtype, meta=meta)


def _apply_to_columns(*columns: NDArray[Any], names: Sequence[str], transform: Transform) -> NDArray[Any]:
    arrow = [column_of(column) for column in columns]
    given = Given(names, [column.type for column in arrow], columns, columns=arrow)
    return _as_array(transform._apply(given), given)
