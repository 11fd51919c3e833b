"""Split data into lazy pieces: by hash of what a sample is, by group, or at cut points of a column."""

from __future__ import annotations

import datetime as dt
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar

import dask.dataframe as dd
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
from dask.dataframe.utils import has_known_categories

from dtk.errors import ArgumentError
from dtk.sources.columns import checked_columns

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["hash_rows", "split"]

Data = TypeVar("Data", bound="dd.DataFrame | pd.DataFrame | pa.Table | xr.Dataset | xr.DataArray")
_MISSING = np.uint64(0x9AE16A3B2F90404F)


def split(
    data: Data,
    *,
    fractions: Sequence[float] | None = None,
    by: str | None = None,
    at: Sequence[Any] | Any | None = None,
    group: str | None = None,
    key: str | Sequence[str] | None = None,
    seed: int = 0,
) -> tuple[Data, ...]:
    """Split data into pieces that have no sample in common and together have all.

    Parameters
    ----------
    data : dask.dataframe.DataFrame, pandas.DataFrame, pyarrow.Table, xarray.Dataset or xarray.DataArray
        What to split.
    fractions : sequence of float, optional
        Shares of the samples, which sum to 1. A sample's piece is decided by a hash of its values, so equal rows land
        in the same piece, and a row stays where it is when data is appended or partitioned anew.
    by : str, optional
        A column (or one-dimensional coordinate) to cut by its values.
    at : sequence, optional
        Rising cut points: piece i holds the samples with ``at[i - 1] <= value < at[i]``; samples without a value
        are in the first piece. Strings are read as times where the column holds times.
    group : str, optional
        With `fractions`: all samples with the same value of this column land in the same piece.
    key : str or sequence of str, optional
        With `fractions`: the columns that say which sample a row is; all columns if None. Few are faster, as the others
        need not be read. For xarray, the dimension to split along: "time" or the first one if None.
    seed : int
        Another seed gives another choice of samples for `fractions`.

    Returns
    -------
    tuple
        Pieces of the same type, one a fraction, or one more than cut points; lazy where the data is.

    Raises
    ------
    ArgumentError
        If the arguments do not say one way to split, or a column is not there.

    Examples
    --------
    >>> train, test = split(pd.DataFrame({"x": range(100)}), by="x", at=[80])
    >>> len(train), len(test)
    (80, 20)
    """
    if (fractions is None) == (by is None):
        raise ArgumentError(f"fractions={fractions!r} and by={by!r}: give exactly one of them")
    if (by is None) != (at is None):
        raise ArgumentError(f"by={by!r} and at={at!r} go together; give both or neither")
    if by is not None and (group is not None or key is not None):
        raise ArgumentError(f"group={group!r} and key={key!r} go with fractions, not with by={by!r}")
    if group is not None and key is not None:
        raise ArgumentError(f"group={group!r} and key={key!r} both say which samples stay together; give one")
    bounds = None if fractions is None else _bounds(fractions)
    if type(data).__module__.partition(".")[0] == "xarray":
        return _split_arrays(data, bounds, by=by, at=at, group=group, key=key, seed=seed)
    if not isinstance(data, (dd.DataFrame, pd.DataFrame, pa.Table)):
        raise ArgumentError(
            f"data={type(data).__name__} cannot be split; give a Dask or pandas DataFrame, an Arrow table, or xarray"
        )
    known = data.column_names if isinstance(data, pa.Table) else list(data.columns)
    names = [str(name) for name in known]
    choose: Callable[..., npt.NDArray[np.int64]]
    if bounds is not None:
        argument, asked = ("group", group) if group is not None else ("key", key)
        asked = [asked] if isinstance(asked, str) or not isinstance(asked, Sequence | None) else asked
        used = checked_columns(asked and [str(name) for name in asked], names, argument=argument)
        choose = partial(_piece_by_hash, bounds=bounds, seed=seed)
    else:
        used = checked_columns([str(by)], names, argument="by")
        choose = partial(_piece_by_value, cuts=())
    # In the opposite order: Dask 2026.8 cannot take the length of data[mask] where the mask's function gets `data`
    # itself; a column, or the columns in another order, is a projection, which it follows.
    chosen = _select(data, [known[at] for at in sorted(map(names.index, used), reverse=True)])
    if at is not None:
        choose = partial(_piece_by_value, cuts=_cuts(at, getattr(chosen, "_meta", chosen).iloc[:, 0]))
    num_pieces = len(bounds) if bounds is not None else len(choose.keywords["cuts"]) + 1
    if not isinstance(data, dd.DataFrame):
        pieces = choose(chosen)
        take = data.filter if isinstance(data, pa.Table) else data.__getitem__
        return tuple(take(pieces == number) for number in range(num_pieces))
    columns = chosen[chosen.columns[0]] if len(used) == 1 else chosen
    masks = (
        columns.map_partitions(_is_in_piece, choose=choose, piece=number, meta=(None, bool))
        for number in range(num_pieces)
    )
    return tuple(data[mask] for mask in masks)


def _select(data: dd.DataFrame | pd.DataFrame | pa.Table, names: list[Any]) -> Any:
    return data.select(names).to_pandas(date_as_object=False) if isinstance(data, pa.Table) else data[names]


def hash_rows(frame: pd.DataFrame, *, seed: int = 0) -> npt.NDArray[np.uint64]:
    """Hash the values of each row, whatever types hold them.

    Parameters
    ----------
    frame : pd.DataFrame
        Rows. A category counts as its value, a whole number is the same in any integer or float type, and a time is the
        same in any unit and zone.
    seed : int
        Mixed in.

    Returns
    -------
    np.ndarray
        uint64 [rows].
    """
    state = np.full(len(frame), _mix(np.array([seed % 2**64], np.uint64))[0], np.uint64)
    for name in sorted(frame.columns, key=str):
        salt = np.uint64(zlib.crc32(str(name).encode()))
        state = _mix(state ^ _mix(_hash_values(frame[name]) + salt))
    return state


def _hash_values(values: pd.Series[Any]) -> npt.NDArray[np.uint64]:
    missing = values.isna().to_numpy(bool)
    dtype = values.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        of_category = np.append(_hash_values(pd.Series(dtype.categories)), _MISSING)
        return of_category[values.cat.codes.to_numpy()]  # the code of a missing value is -1: the last
    if pd.api.types.is_datetime64_any_dtype(dtype):
        if getattr(dtype, "tz", None) is not None:
            values = values.dt.tz_convert(None)
        hashed = _mix(values.to_numpy("datetime64[us]").view(np.uint64))
    elif pd.api.types.is_timedelta64_dtype(dtype):
        hashed = _mix(values.to_numpy("timedelta64[us]").view(np.uint64))
    elif pd.api.types.is_bool_dtype(dtype) or pd.api.types.is_integer_dtype(dtype):
        hashed = _mix(values.to_numpy(np.int64, na_value=0).view(np.uint64))
    elif pd.api.types.is_float_dtype(dtype):
        floats = values.to_numpy(np.float64, na_value=np.nan)
        whole = (np.abs(floats) < 2.0**63) & (np.floor(floats) == floats)
        bits = np.where(whole, 0.0, floats).view(np.uint64)
        bits[whole] = floats[whole].astype(np.int64).view(np.uint64)
        hashed = _mix(bits)
    else:
        return _hash_distinct(values)
    return np.where(missing, _MISSING, hashed)


def _hash_distinct(values: pd.Series[Any]) -> npt.NDArray[np.uint64]:
    """Hash strings and objects, each value once."""
    try:
        codes, distinct = pd.factorize(values)
    except (TypeError, NotImplementedError):  # lists and the like
        codes, distinct = pd.factorize(values.map(str, na_action="ignore"))
    objects = np.asarray(distinct, object)
    if pd.api.types.infer_dtype(objects, skipna=False) == "string":
        hashed = pd.util.hash_array(objects, categorize=False)
    else:
        hashed = pd.util.hash_array(np.array(list(map(str, objects)), object), categorize=False)
        # Numbers with nulls may come as objects: they hash as the numbers that they are without nulls.
        whole = [at for at, value in enumerate(objects) if isinstance(value, (int, np.integer, np.bool_))]
        hashed[whole] = _mix(np.array([int(value) % 2**64 for value in objects[whole]], np.uint64))
        floats = [at for at, value in enumerate(objects) if isinstance(value, (float, np.floating))]
        hashed[floats] = _hash_values(pd.Series(objects[floats].astype(float)))
    return np.append(hashed, _MISSING)[codes]  # the code of a missing value is -1: the last


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Spread every bit over all (splitmix64: Steele, Lea and Flood, OOPSLA 2014)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _piece_by_hash(frame: pd.DataFrame, *, bounds: tuple[float, ...], seed: int) -> npt.NDArray[np.int64]:
    shares = hash_rows(frame, seed=seed) / 2.0**64
    return np.searchsorted(np.array(bounds[1:]), shares, side="right")


def _piece_by_value(frame: pd.DataFrame, *, cuts: tuple[Any, ...]) -> npt.NDArray[np.int64]:
    values = frame.iloc[:, 0]
    if isinstance(values.dtype, pd.CategoricalDtype):
        of_category = _piece_by_value(values.dtype.categories.to_frame(), cuts=cuts)
        return np.append(of_category, 0)[values.cat.codes.to_numpy()]  # the code of a missing value is -1: the last
    piece = np.zeros(len(values), np.int64)
    for cut in cuts:
        # Only now is it known what objects are.
        piece += (values >= _cut(cut, values)).to_numpy(bool, na_value=False)
    return piece


def _is_in_piece(
    columns: pd.DataFrame | pd.Series[Any], *, choose: Callable[[pd.DataFrame], npt.NDArray[np.int64]], piece: int
) -> pd.Series[bool]:
    frame = columns.to_frame() if isinstance(columns, pd.Series) else columns
    return pd.Series(choose(frame) == piece, index=frame.index)


_is_in_piece.dtk_rowwise = True  # type: ignore[attr-defined]  # a row's piece depends on that row: see as_source


def _bounds(fractions: Sequence[float]) -> tuple[float, ...]:
    """Return where each piece starts in [0, 1)."""
    shares = np.asarray(fractions, float)
    if shares.ndim != 1 or len(shares) < 1 or not np.all(shares >= 0) or abs(shares.sum() - 1) > 1e-9:
        raise ArgumentError(f"fractions={list(fractions)!r} must be shares from 0 to 1 that sum to 1")
    return (0.0, *map(float, np.cumsum(shares)[:-1]))


def _cuts(at: Any, column: pd.Series[Any]) -> tuple[Any, ...]:
    """Turn cut points into the type of the column, and check that they rise."""
    asked = list(at) if isinstance(at, (list, tuple, np.ndarray, pd.Index, pd.Series)) else [at]
    if isinstance(column.dtype, pd.CategoricalDtype):
        known = has_known_categories(column)
        column = column.dtype.categories.to_series() if known else pd.Series([], dtype=object)
    cuts = [_cut(value, column) for value in asked]
    if not cuts:
        raise ArgumentError(f"at={asked!r} has no cut point; give at least one")
    if any(not low < high for low, high in pairwise(cuts)):
        raise ArgumentError(f"at={asked!r} must rise; sort the cut points and give each once")
    return tuple(cuts)


def _cut(value: Any, column: pd.Series[Any]) -> Any:
    if pd.api.types.is_scalar(value) and pd.isna(value):
        raise ArgumentError(f"at={value!r} is a missing value; leave it out: samples without a value go first")
    dtype = column.dtype
    if pd.api.types.is_object_dtype(dtype):
        return _cut_of_objects(value, column.dropna().iloc[:1])
    is_date = str(getattr(dtype, "pyarrow_dtype", "")).startswith("date")
    if is_date or pd.api.types.is_datetime64_any_dtype(dtype):
        return _time(value, is_date=is_date, zone=getattr(dtype, "tz", None))
    is_number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if pd.api.types.is_numeric_dtype(dtype) and not is_number:
        raise ArgumentError(f"at={value!r} is no number but the column is {dtype}; give numbers")
    if pd.api.types.is_string_dtype(dtype) and not isinstance(value, str):
        raise ArgumentError(f"at={value!r} is no string but the column is {dtype}; give strings")
    return value


def _cut_of_objects(value: Any, first: pd.Series[Any]) -> Any:
    """Turn a cut point into the type of the first object; leave it where there is none, as in a lazy column."""
    for found in first:
        if isinstance(found, dt.date):
            return _time(value, is_date=not isinstance(found, dt.datetime), zone=getattr(found, "tzinfo", None))
        if isinstance(found, str) and not isinstance(value, str):
            raise ArgumentError(f"at={value!r} is no string but the column holds strings; give strings")
        try:
            if isinstance(value, str) and hasattr(found, "calendar"):
                import xarray as xr

                value = xr.date_range(value, periods=1, calendar=found.calendar, use_cftime=True)[0]
            bool(found >= value)
        except (TypeError, ValueError) as error:
            raise ArgumentError(f"at={value!r} cannot be compared with {found!r} of the column: {error}") from error
    return value


def _time(value: Any, *, is_date: bool, zone: Any) -> pd.Timestamp | dt.date:
    try:
        time = pd.Timestamp(value)
    except (ValueError, TypeError) as error:
        raise ArgumentError(f"at={value!r} is no time; write it as '2013-10-01'") from error
    if is_date:
        return time.date()
    if zone is None and time.tz is not None:
        raise ArgumentError(f"at={value!r} has a time zone but the column has none; leave it out")
    return time.tz_localize(zone) if zone is not None and time.tz is None else time


def _split_arrays(
    data: Any,
    bounds: tuple[float, ...] | None,
    *,
    by: str | None,
    at: Any,
    group: str | None,
    key: str | Sequence[str] | None,
    seed: int,
) -> tuple[Any, ...]:
    coordinate = by if by is not None else group
    if coordinate is not None:
        argument = "by" if by is not None else "group"
        checked_columns([coordinate], [str(name) for name in data.coords], argument=argument)
        if data[coordinate].ndim != 1:
            raise ArgumentError(f"{argument}={coordinate!r} has {data[coordinate].ndim} dimensions; it must have one")
        dim, values = data[coordinate].dims[0], data[coordinate].to_series().reset_index(drop=True)
    else:
        dims = [str(dim) for dim in data.dims]
        asked = checked_columns(key or ("time" if "time" in dims else dims[0]), dims, argument="key")
        if len(asked) > 1:
            raise ArgumentError(f"key={asked!r} names several dimensions; give the one to split along")
        dim = asked[0]
        values = data[dim].to_series().reset_index(drop=True)  # positions where the dimension has no labels
    frame = values.to_frame("value")
    if bounds is not None:
        pieces, num_pieces = _piece_by_hash(frame, bounds=bounds, seed=seed), len(bounds)
    else:
        cuts = _cuts(at, values)
        pieces, num_pieces = _piece_by_value(frame, cuts=cuts), len(cuts) + 1
    return tuple(data.isel({dim: _compact(np.flatnonzero(pieces == number))}) for number in range(num_pieces))


def _compact(positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64] | slice:
    """Write a run of positions as a slice, which keeps chunks as they are."""
    if len(positions) and positions[-1] - positions[0] == len(positions) - 1:
        return slice(int(positions[0]), int(positions[-1]) + 1)
    return positions
