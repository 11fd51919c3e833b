"""Windows over the rows of a table, or over the samples of a Dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from dtk.errors import ArgumentError
from dtk.sources.arrays import ArraySource
from dtk.sources.columns import checked_columns, close_to
from dtk.sources.expression import ExpressionSource
from dtk.sources.runs import runs_of_axis
from dtk.sources.source import Source, as_source
from dtk.sources.times import step_of, times_of_arrays, unit_of_type
from dtk.sources.window import Window
from dtk.sources.windows import WindowSource

__all__ = ["windows_of_dataset", "windows_of_table"]

if TYPE_CHECKING:
    import xarray as xr

Integers = npt.NDArray[np.int64]

_JOINED_NBYTES: Final = 16 << 20  # of chunks that are read at once, decoded


def windows_of_table(data: Any, source: Source, window: Window, columns: Sequence[str]) -> WindowSource:
    """Put windows over the rows of a table.

    Parameters
    ----------
    data : object
        What `as_source` takes.
    source : Source
        What it makes of it.
    window : Window
        The window.
    columns : sequence of str
        The columns to read; times and groups are added.

    Returns
    -------
    WindowSource
        Not counted yet.

    Raises
    ------
    ArgumentError
        If a column is missing, or the times are none.
    """
    _check_index(data, window, source.schema.names)
    checked_columns([window.dim], source.schema.names, argument="window dim")
    keys = [window.dim, *checked_columns(window.groups, source.schema.names, argument="window group")]
    unit = unit_of_type(source.schema.field(window.dim).type, window.dim)
    step = step_of(window.step, unit)
    if isinstance(data, Source):
        return WindowSource(source, window, step=step, unit=unit)
    base = as_source(data, list(dict.fromkeys([*columns, *keys])))
    narrow = as_source(data, list(dict.fromkeys(keys))) if isinstance(base, ExpressionSource) else None
    is_alike = narrow is not None and np.array_equal(_stored_rows(narrow), _stored_rows(base))
    return WindowSource(base, window, keys=narrow if is_alike else None, step=step, unit=unit)


def windows_of_dataset(data: xr.Dataset, source: ArraySource, window: Window, columns: Sequence[str]) -> WindowSource:
    """Put windows over samples of an xarray Dataset.

    Parameters
    ----------
    data : xarray.Dataset
        What holds the coordinates: the times are that of the window's dimension, or 0, 1, 2, ... if there is none.
    source : ArraySource
        What reads its variables.
    window : Window
        The window.
    columns : sequence of str
        The variables to read.

    Returns
    -------
    WindowSource
        Counted: coordinates lie in memory.

    Raises
    ------
    ArgumentError
        If a group's coordinate is missing, or the step is not of the kind of the times.
    DataError
        If the coordinate holds no times, or no window fits into the samples.
    """
    along = [str(name) for name, one in data.variables.items() if one.dims == (window.dim,)]
    for name in window.groups:
        if name not in along:
            raise ArgumentError(f"window group={name!r} is nothing along {window.dim!r}; {close_to(name, along)}")
    values = data[window.dim].values if window.dim in data.coords else np.arange(source.num_samples)
    times, unit = times_of_arrays(values, [data[name].values for name in window.groups])
    step = step_of(window.step, unit)
    if window.num_rows > 1:
        source = replace(source, chunk_edges=_joined(source, columns))
    runs, breaks = runs_of_axis(times, source.chunk_edges, step, window)
    made = WindowSource(source, window, step=step, unit=unit, runs=runs, breaks=breaks)
    made.check()
    return made


def _check_index(data: Any, window: Window, columns: Sequence[str]) -> None:
    """Refuse times or groups that are in the index of a frame."""
    index = getattr(data, "index", None)
    names = getattr(index, "names", None) or [getattr(index, "name", None)]
    remedy = "read the files with index=False" if hasattr(data, "dask") else "give data.reset_index()"
    for name in (window.dim, *window.groups):
        if name not in columns and name in names:
            raise ArgumentError(f"window names {name!r}, which is in the index and no column; {remedy}")


def _joined(source: ArraySource, columns: Sequence[str]) -> Integers:
    """Read several chunks at once: each read decodes the whole of the chunk that follows, for its first samples."""
    edges = source.chunk_edges
    largest = int(np.diff(edges).max(initial=1)) * source.decoded_row_nbytes(columns)
    together = max(1, int(_JOINED_NBYTES / max(largest, 1)))
    return np.append(edges[:-1:together], edges[-1:])


def _stored_rows(source: Source) -> Integers:
    """Return the rows below each chunk, before any are left out."""
    rows = source.stored_rows if isinstance(source, ExpressionSource) else source.chunk_rows
    return np.asarray(rows)
