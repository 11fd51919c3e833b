"""What a source is, and how data of any kind becomes one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dtk.errors import ArgumentError, DataError, SourceError
from dtk.sources.columns import checked_columns
from dtk.sources.facts import changed_columns, column_facts

if TYPE_CHECKING:
    import pandas as pd

    from dtk.sources.arrays import ArraySource

__all__ = ["Source", "TableSource", "as_source", "chunk_groups", "readable"]

ROWS_PER_SLICE: Final = 65_536


@runtime_checkable
class Source(Protocol):
    """Where samples live: chunks known from metadata, read one at a time, in any process.

    A source pickles compactly, opens its files lazily, and may be read by several threads at once.
    """

    @property
    def schema(self) -> pa.Schema:
        """Columns of the rows it yields, derived ones among them."""

    @property
    def identity(self) -> str:
        """Hex digest that changes when the data or the expression over it does."""

    @property
    def chunk_rows(self) -> npt.NDArray[np.int64] | None:
        """Rows of each chunk, int64 [chunks]; None while unknown, see `counted`."""

    @property
    def chunk_nbytes(self) -> npt.NDArray[np.int64]:
        """Bytes on disk of the needed columns of each chunk, int64 [chunks]."""

    @property
    def num_chunks(self) -> int:
        """Number of chunks."""

    def read(self, chunk: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Read one whole chunk.

        Parameters
        ----------
        chunk : int
            From 0 to ``num_chunks - 1``.
        columns : sequence of str, optional
            Which columns, in order; all of the source's if None.

        Returns
        -------
        pa.Table
            The chunk's rows.
        """

    def describe(self, chunk: int) -> str:
        """Say where a chunk lies, for an error.

        Parameters
        ----------
        chunk : int
            From 0 to ``num_chunks - 1``.

        Returns
        -------
        str
            For a file, its path and row group.
        """


@dataclass(frozen=True, eq=False, repr=False)
class TableSource:
    """A table in memory, in slices of 65,536 rows.

    Parameters
    ----------
    table : pa.Table
        The rows.
    rows_per_chunk : int
        Rows of a slice.
    """

    table: pa.Table
    rows_per_chunk: int = ROWS_PER_SLICE

    @property
    def schema(self) -> pa.Schema:
        """The table's columns."""
        return self.table.schema

    @cached_property
    def identity(self) -> str:
        """Hash of the table's content."""
        sink = _HashingFile()
        with pa.ipc.new_stream(pa.PythonFile(sink, "w"), self.table.schema) as stream:
            stream.write_table(self.table.combine_chunks(), max_chunksize=ROWS_PER_SLICE)
        return sink.digest.hexdigest()

    @cached_property
    def chunk_rows(self) -> npt.NDArray[np.int64]:
        """Rows of each slice, int64 [chunks]."""
        starts = np.arange(0, self.table.num_rows, self.rows_per_chunk, dtype=np.int64)
        rows: npt.NDArray[np.int64] = np.minimum(self.rows_per_chunk, self.table.num_rows - starts)
        return rows

    @cached_property
    def chunk_nbytes(self) -> npt.NDArray[np.int64]:
        """Bytes in memory of each slice, int64 [chunks]."""
        nbytes_per_row = self.table.nbytes / max(1, self.table.num_rows)
        nbytes: npt.NDArray[np.int64] = np.ceil(self.chunk_rows * nbytes_per_row).astype(np.int64)
        return nbytes

    @property
    def num_chunks(self) -> int:
        """Number of slices."""
        return len(self.chunk_rows)

    def read(self, chunk: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Take a slice, without a copy.

        Parameters
        ----------
        chunk : int
            From 0 to ``num_chunks - 1``.
        columns : sequence of str, optional
            Which columns, in order; all of them if None.

        Returns
        -------
        pa.Table
            ``chunk_rows[chunk]`` rows.

        Raises
        ------
        ArgumentError
            If a column is not there.
        """
        part = self.table.slice(chunk * self.rows_per_chunk, self.rows_per_chunk)
        return part if columns is None else part.select(checked_columns(columns, self.schema.names))

    def describe(self, chunk: int) -> str:
        """Say which rows a slice holds.

        Parameters
        ----------
        chunk : int
            From 0 to ``num_chunks - 1``.

        Returns
        -------
        str
            First and last row.
        """
        first = chunk * self.rows_per_chunk
        return f"table in memory, rows {first} to {first + int(self.chunk_rows[chunk]) - 1}"

    @property
    def facts(self) -> dict[str, Any]:
        """What a saved state tells of it, see `dtk.sources.facts`."""
        return {"kind": "table", "columns": column_facts(self.schema), "num_rows": self.table.num_rows}

    def changes(self, facts: Mapping[str, Any]) -> list[str]:
        """Say how it differs from what it was.

        Parameters
        ----------
        facts : mapping
            Its facts then.

        Returns
        -------
        list of str
            One for each difference.
        """
        found = changed_columns(facts["columns"], self.facts["columns"])
        return found or ([] if facts["num_rows"] != self.table.num_rows else ["its values changed"])

    def __repr__(self) -> str:
        return f"TableSource({self.table.num_rows} rows, {self.table.num_columns} columns)"


def as_source(data: Any, columns: Sequence[str] | None = None) -> Source:
    """Turn data of any kind into a source that ranks can read, without a copy of it.

    Parameters
    ----------
    data : dask.dataframe.DataFrame, str, path, pandas.DataFrame, pa.Table, mapping of arrays or Source
        A Dask DataFrame must be blockwise over one Parquet read; a path must lead to Parquet.
    columns : sequence of str, optional
        Which columns to yield, in order; all of them if None. Others are not read.

    Returns
    -------
    Source
        Nothing is read but metadata, and a thousand rows where a function makes objects, whose type only values tell.

    Raises
    ------
    SourceError
        If the data cannot be read chunk by chunk where it lies; the error names the reason and the remedy.
    ArgumentError
        If a column is not there.
    DataError
        If the files are missing, damaged or of mixed columns.

    Examples
    --------
    >>> as_source({"x": np.arange(3), "y": np.arange(3.0)}, columns=["y"]).read(0).to_pydict()
    {'y': [0.0, 1.0, 2.0]}
    """
    kind = type(data)
    package = kind.__module__.partition(".")[0]
    if isinstance(data, (str, os.PathLike)):
        from dtk.sources.open import open_source

        return open_source(os.fspath(data), columns=columns)
    if isinstance(data, pa.Table):
        return TableSource(data if columns is None else data.select(checked_columns(columns, data.schema.names)))
    if isinstance(data, Mapping) and package != "xarray":
        return TableSource(_table_of_arrays(data, columns))
    if isinstance(data, Source):
        if columns is None or list(columns) == data.schema.names:
            return data
        raise ArgumentError(f"columns={list(columns)!r} cannot narrow a source; give them where the source is made")
    if package == "pandas" and kind.__name__ == "DataFrame":
        return TableSource(_table_of_frame(data, columns))
    if package == "dask" and kind.__name__ == "DataFrame":
        from dtk.sources.expression import source_of_frame

        return source_of_frame(data, columns)
    remedy = "give a Dask or pandas DataFrame, an Arrow table, a mapping of arrays, or the path of a Parquet dataset"
    if package == "xarray" and kind.__name__ == "DataArray":
        remedy = "give a Dataset, with data.to_dataset(name='x'), or the path of a Zarr store, where grids are taken"
    elif hasattr(data, "__array__") or isinstance(data, list | tuple):
        remedy = "give its columns names: a mapping such as {'x': array, 'y': labels}, or a DataFrame"
    raise SourceError(f"data of type {kind.__module__}.{kind.__qualname__} is no table that dtk reads; {remedy}")


def readable(data: Any) -> Any:
    """Turn data into a source where that can be done, so that its files are looked at once for all that follows.

    Parameters
    ----------
    data : object
        What `as_source` takes, or anything else.

    Returns
    -------
    Source or object
        The data unchanged where it is no source: a Dask DataFrame that must be computed, or what dtk does not read.

    Raises
    ------
    DataError
        If files are missing or damaged.

    Examples
    --------
    >>> readable({"x": [1, 2]})
    TableSource(2 rows, 1 columns)
    """
    if hasattr(data, "dask") and hasattr(data, "expr"):
        from dtk.sources.rowwise import refusal

        if refusal(data.expr):  # known from the expression alone
            return data
    try:
        return as_source(data)
    except SourceError:
        return data


def chunk_groups(source: Source | ArraySource, num_groups_hint: int) -> list[tuple[int, int]]:
    """Cut the chunks into contiguous groups of about equal bytes.

    Parameters
    ----------
    source : Source or ArraySource
        Any source.
    num_groups_hint : int
        How many groups are wanted; there are never more, and fewer where chunks are few.

    Returns
    -------
    list of (int, int)
        First chunk, and the one after the last; together all chunks in order, none empty.

    Raises
    ------
    ArgumentError
        If no group is wanted.
    """
    if num_groups_hint < 1:
        raise ArgumentError(f"num_groups_hint={num_groups_hint} must be at least 1")
    num_chunks = source.num_chunks
    if num_chunks == 0:
        return []
    ends = np.cumsum(source.chunk_nbytes + 1)  # a byte each, so that chunks without bytes are shared out too
    num_groups = min(num_groups_hint, num_chunks)
    wanted = ends[-1] * np.arange(1, num_groups) / num_groups
    cuts = np.unique(np.concatenate([[0], np.searchsorted(ends, wanted, side="right"), [num_chunks]]))
    return [(int(start), int(stop)) for start, stop in pairwise(cuts)]


def _table_of_arrays(arrays: Mapping[str, Any], columns: Sequence[str] | None) -> pa.Table:
    names = checked_columns(columns, list(arrays))
    found = {}
    for name in names:
        array = arrays[name]
        if type(array).__module__.partition(".")[0] == "torch":
            array = np.asarray(array)
        if np.ndim(array) != 1:
            raise DataError(f"column {name!r} has {np.ndim(array)} dimensions; a table's columns have one")
        found[name] = pa.array(array, from_pandas=True)
    lengths = {name: len(array) for name, array in found.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"columns are of different lengths: {lengths}; give each the same number of rows")
    return pa.table(found)


def _table_of_frame(frame: pd.DataFrame, columns: Sequence[str] | None) -> pa.Table:
    names = checked_columns(columns, [str(name) for name in frame.columns])
    frame = frame.set_axis([str(name) for name in frame.columns], axis="columns")[names]
    try:
        return pa.Table.from_pandas(frame, preserve_index=False)
    except (pa.ArrowException, TypeError) as error:  # TypeError is pandas' own, for sparse columns
        raise DataError(f"the DataFrame cannot become a table: {'; '.join(map(str, error.args))}") from error


class _HashingFile:
    """A file for writing that keeps the hash of what was written, and nothing else."""

    closed = False

    def __init__(self) -> None:
        self.digest = hashlib.blake2b(digest_size=16)

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return len(data)

    def flush(self) -> None:
        """Do nothing: there is nothing behind it."""

    def close(self) -> None:
        self.closed = True
