"""What only a pass over the data tells: the rows of each chunk below a filter, and what rows weigh that are drawn."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dtk.errors import ArgumentError, DataError
from dtk.sources.count_cache import Counts, key_of, load_counts, save_counts
from dtk.sources.source import Source, TableSource, chunk_groups

if TYPE_CHECKING:
    from dtk.sources.arrays import ArraySource

__all__ = ["Counts", "count", "counted", "to_classes", "to_weights", "with_rows"]

MOST_CLASSES: Final = 10_000
_GROUPS: Final = 256

SourceKind = TypeVar("SourceKind", bound=Source)
Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def count(
    source: Source | ArraySource, *, weights: str | None = None, classes: str | None = None, progress: bool = False
) -> Counts:
    """Count the rows of each chunk, and what they weigh, in one pass over the columns that tell.

    Runs on the cluster where there is one. What was counted is kept in the cache directory, so that the same source is
    counted once. Nothing is kept of what lies in memory, of arrays, whose metadata does not tell that values changed,
    and of expressions with functions of the user, which may read what nobody else sees.

    Parameters
    ----------
    source : Source or ArraySource
        With no other columns than needed, if it evaluates an expression.
    weights : str, optional
        A column of numbers that weigh the rows.
    classes : str, optional
        A column of classes that shall weigh the same: a row weighs one by the rows of its class. Not with `weights`.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    Counts
        With the weights of the chunks, if either column is given.

    Raises
    ------
    ArgumentError
        If there are more than 10,000 classes.
    DataError
        If a weight is missing, infinite or negative, if all are 0, or if a class is missing.
    """
    assert weights is None or classes is None
    key = key_of(source, weights, classes)
    if key is not None:
        found = load_counts(key)
        if found is not None and len(found.chunk_rows) == source.num_chunks:
            return found
    counts = _finish(_pass(source, weights, classes, progress=progress), weights, classes)
    if key is not None:
        save_counts(key, counts)
    return counts


def counted(source: SourceKind, progress: bool = False) -> SourceKind:
    """Fill in the rows of each chunk, by one pass over the columns that decide which rows stay.

    Parameters
    ----------
    source : Source
        Any source.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    Source
        The same source where the rows are known; else a copy that knows them and has an identity of its own.
    """
    return source if source.chunk_rows is not None else with_rows(source, count(source, progress=progress).chunk_rows)


def with_rows(source: SourceKind, chunk_rows: npt.NDArray[np.int64]) -> SourceKind:
    """Fill in the rows of each chunk, as they were counted.

    Parameters
    ----------
    source : Source
        Of unknown rows.
    chunk_rows : numpy.ndarray
        An int64 ``[chunks]``.

    Returns
    -------
    Source
        A copy with an identity of its own.
    """
    from dtk.sources.expression import ExpressionSource

    assert isinstance(source, ExpressionSource)  # no other kind leaves its rows unknown
    identity = hashlib.blake2b(source.identity.encode() + chunk_rows.tobytes(), digest_size=16).hexdigest()
    return replace(source, chunk_rows=chunk_rows, identity=identity)


def to_weights(values: pa.ChunkedArray | npt.NDArray[Any]) -> Floats:
    """Turn numbers or booleans into weights.

    Parameters
    ----------
    values : pyarrow.ChunkedArray or numpy.ndarray
        ``[rows]``.

    Returns
    -------
    numpy.ndarray
        A float64 ``[rows]``; NaN where a value is null.
    """
    if isinstance(values, pa.ChunkedArray):
        values = values.cast(pa.float64(), safe=False).to_numpy()
    return np.asarray(values, np.float64)


def to_classes(values: pa.ChunkedArray | npt.NDArray[Any]) -> pa.ChunkedArray:
    """Turn values of any kind into what classes are compared with.

    Parameters
    ----------
    values : pyarrow.ChunkedArray or numpy.ndarray
        ``[rows]``.

    Returns
    -------
    pyarrow.ChunkedArray
        ``[rows]``, without a dictionary; null where a value is null or NaN.
    """
    if not isinstance(values, pa.ChunkedArray):
        kind = np.dtype(np.float64) if values.dtype.kind == "f" else values.dtype.newbyteorder("=")
        values = pa.chunked_array([values.astype(kind)])
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if pa.types.is_floating(values.type):
        values = pc.if_else(pc.is_nan(values), None, values)
    return values


@dataclass
class _Part:
    """What was counted of contiguous chunks."""

    chunk_rows: Integers
    chunk_weights: Floats | None = None
    num_unfit: int = 0  # rows whose class is missing, or whose weight is missing or infinite
    num_negative: int = 0
    entries: _Entries | None = None


@dataclass
class _Entries:
    """The rows of each class in each chunk where it occurs, chunk after chunk."""

    classes: pa.Array | None  # in the order in which they come; None where there are no chunks
    code: Integers
    num_rows: Integers
    chunk_entries: Integers  # [chunks]: how many entries are of each


def _pass(source: Source | ArraySource, weights: str | None, classes: str | None, *, progress: bool) -> _Part:
    from dtk.runtime import map_reduce

    shared, groups = (source, weights, classes), chunk_groups(source, _GROUPS)
    if isinstance(source, TableSource) or not groups:  # what is here need not travel
        return _count_group(shared, (0, source.num_chunks))
    merge = partial(_merge, classes)
    part: _Part = map_reduce(_count_group, merge, groups, shared=shared, label="count", progress=progress)
    return part


def _count_group(shared: tuple[Any, str | None, str | None], group: tuple[int, int]) -> _Part:
    source, weights, classes = shared
    if weights is not None:
        return _weigh(_values(source, group, weights))
    if classes is not None:
        return _count_classes(classes, _values(source, group, classes))
    return _Part(np.array([source.count(chunk) for chunk in range(*group)], np.int64))


def _values(source: Any, group: tuple[int, int], column: str) -> Iterator[Any]:
    """Read a column chunk by chunk; of arrays at once, as their chunks may be larger than those of the source."""
    from dtk.sources.arrays import ArraySource

    if not isinstance(source, ArraySource):
        for chunk in range(*group):
            yield source.read(chunk, [column]).column(column)
    elif group[0] < group[1]:
        edges = source.chunk_edges[group[0] : group[1] + 1]
        values = source.read_samples(int(edges[0]), int(edges[-1]), [column]).arrays[column]
        yield from np.split(values, edges[1:-1] - edges[0])


def _weigh(values: Iterator[Any]) -> _Part:
    rows, sums, num_unfit, num_negative = [], [], 0, 0
    for one in values:
        numbers = to_weights(one)
        rows.append(len(numbers))
        with np.errstate(over="ignore", invalid="ignore"):  # refused later, with the number of rows
            sums.append(float(numbers.sum()))
        num_unfit += int(np.count_nonzero(~np.isfinite(numbers)))
        num_negative += int(np.count_nonzero(numbers < 0))
    return _Part(np.array(rows, np.int64), np.array(sums, np.float64), num_unfit, num_negative)


def _count_classes(column: str, values: Iterator[Any]) -> _Part:
    known: pa.Array | None = None
    rows, codes, nums, num_unfit = [], [], [], 0
    for one in values:
        found = to_classes(one)
        rows.append(len(found))
        num_unfit += found.null_count
        of_chunk = pc.value_counts(found.drop_null())
        classes = of_chunk.field("values")
        known = _united(column, classes if known is None else known, classes)
        codes.append(_codes(classes, known))
        nums.append(of_chunk.field("counts").to_numpy())
    entries = _Entries(known, _joined(codes), _joined(nums), np.array([len(one) for one in codes], np.int64))
    return _Part(np.array(rows, np.int64), num_unfit=num_unfit, entries=entries)


def _merge(column: str | None, parts: list[_Part]) -> _Part:
    merged = _Part(
        chunk_rows=np.concatenate([part.chunk_rows for part in parts]),
        num_unfit=sum(part.num_unfit for part in parts),
        num_negative=sum(part.num_negative for part in parts),
    )
    weights = [part.chunk_weights for part in parts if part.chunk_weights is not None]
    if weights:
        merged.chunk_weights = np.concatenate(weights)
    entries = [part.entries for part in parts if part.entries is not None]
    if entries:
        assert column is not None
        known = entries[0].classes
        for one in entries[1:]:
            known = _united(column, known, one.classes)
        merged.entries = _Entries(
            classes=known,
            code=_joined([_codes(one.classes, known)[one.code] for one in entries]),
            num_rows=_joined([one.num_rows for one in entries]),
            chunk_entries=_joined([one.chunk_entries for one in entries]),
        )
    return merged


def _united(column: str, known: pa.Array, more: pa.Array) -> pa.Array:
    """Add the classes that are not known yet, in the order in which they come."""
    new = more.filter(pc.is_null(pc.index_in(more, value_set=known)))
    if len(known) + len(new) > MOST_CLASSES:
        raise ArgumentError(
            f"sampling='balanced' finds more than {MOST_CLASSES:,} different values in target={column!r}, which are "
            "numbers and no classes; give sampling= a column of weights"
        )
    return pa.concat_arrays([known, new]) if len(new) else known


def _codes(classes: pa.Array, known: pa.Array) -> Integers:
    return np.asarray(pc.index_in(classes, value_set=known).to_numpy(zero_copy_only=False), np.int64)


def _joined(arrays: list[Integers]) -> Integers:
    return np.concatenate([np.zeros(0, np.int64), *arrays])


def _finish(part: _Part, weights: str | None, classes: str | None) -> Counts:
    """Refuse what cannot be drawn, and turn the rows of classes into weights of chunks."""
    if classes is not None:
        _refuse(part.num_unfit, f"target={classes!r}, which sampling='balanced' needs, is missing", classes)
        assert part.entries is not None
        entries = part.entries
        class_rows = np.zeros(len(entries.classes or ()), np.int64)
        np.add.at(class_rows, entries.code, entries.num_rows)
        chunk = np.repeat(np.arange(len(part.chunk_rows)), entries.chunk_entries)
        chunk_weights = np.zeros(len(part.chunk_rows))
        np.add.at(chunk_weights, chunk, entries.num_rows / class_rows[entries.code])
        return Counts(part.chunk_rows, chunk_weights, entries.classes, class_rows)
    known = f"sampling={weights!r}"
    _refuse(part.num_unfit, f"{known} is null, NaN or infinite", str(weights))
    if part.num_negative:
        raise DataError(
            f"{known} is negative in {part.num_negative:,} rows; leave these rows out first, for example with "
            f"data[data[{weights!r}] >= 0], or give them the weight 0"
        )
    num_rows = int(part.chunk_rows.sum())
    with np.errstate(over="ignore"):
        total = 1.0 if part.chunk_weights is None else float(part.chunk_weights.sum())
    if num_rows and not 0 < total < np.inf:
        what = "0 in all" if total == 0 else "too large to be added up over"
        raise DataError(f"{known} is {what} {num_rows:,} rows; give another column of weights")
    return Counts(part.chunk_rows, part.chunk_weights)


def _refuse(num_rows: int, problem: str, column: str) -> None:
    if num_rows:
        raise DataError(
            f"{problem} in {num_rows:,} rows; leave these rows out first, for example with "
            f"data.dropna(subset=[{column!r}])"
        )
