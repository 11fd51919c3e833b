"""The tables that a query may name: what they are, what their columns are, and about how big they are."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import dask.dataframe as dd
import pyarrow as pa
from dask.dataframe.dask_expr.io import FromPandas

from dtk.errors import DataError, DtkError, SourceError
from dtk.sources import ExpressionSource, ParquetSource, Source, TableSource, as_source, readable, schema_of
from dtk.sources.listing import compression_of, list_files
from dtk.sources.open import open_listing, open_source
from dtk.sources.rowwise import ROWWISE, ROWWISE_BASES
from dtk.sources.schema import row_nbytes

__all__ = ["Table", "bind_table", "plain_schema"]

CSV_GROWTH: Final = 4  # what a byte of CSV may take in memory
COMPRESSED_GROWTH: Final = 20


@dataclass(frozen=True)
class Table:
    """A table under the name that a query gives it.

    Parameters
    ----------
    name : str
        The name.
    data : Source or dask.dataframe.DataFrame
        What is read: a frame where it must be computed.
    schema : pyarrow.Schema
        Its columns, of types that DuckDB has.
    frame : dask.dataframe.DataFrame, optional
        What the data was made of, where it was a Dask DataFrame.
    frame_nbytes : int or None
        For a frame that must be computed, about what it takes in memory; None where that cannot be told.
    """

    name: str
    data: Any
    schema: pa.Schema
    frame: Any = None
    frame_nbytes: int | None = None

    @property
    def is_source(self) -> bool:
        """Whether its chunks are read in place."""
        return isinstance(self.data, Source)

    def narrowed(self, columns: Sequence[str]) -> Any:
        """Return the data with less columns, so that others are not read.

        Parameters
        ----------
        columns : sequence of str
            Which ones.

        Returns
        -------
        Source or dask.dataframe.DataFrame
            With these columns at least.
        """
        if list(columns) == self.schema.names:
            return self.data
        if isinstance(self.data, TableSource):
            return TableSource(self.data.table.select(list(columns)))
        if self.frame is None:
            return self.data
        return as_source(self.frame, columns=list(columns)) if self.is_source else self.frame[list(columns)]

    def nbytes(self, columns: Sequence[str]) -> int | None:
        """Estimate what some columns take in memory.

        Parameters
        ----------
        columns : sequence of str
            Which ones.

        Returns
        -------
        int or None
            Bytes; None where that cannot be told without computing.
        """
        data = self.data
        if isinstance(data, TableSource):
            return int(data.table.select(list(columns)).nbytes)
        if not isinstance(data, Source):
            return self.frame_nbytes
        base = data.base if isinstance(data, ExpressionSource) else data
        rows = data.stored_rows if isinstance(data, ExpressionSource) else data.chunk_rows
        if rows is None or not isinstance(base, ParquetSource):
            return None
        num_rows = int(rows.sum())
        wanted = row_nbytes(pa.schema([self.schema.field(name) for name in columns])) * num_rows
        told = row_nbytes(base.schema) * max(1, int(base.chunk_rows.sum()))
        return int(wanted * max(1.0, base.decoded_nbytes / told))

    def empty(self) -> pa.Table:
        """Return a table without rows.

        Returns
        -------
        pyarrow.Table
            Of its columns.
        """
        return self.schema.empty_table()

    def describe(self) -> str:
        """Say what it is, for people.

        Returns
        -------
        str
            A few words.
        """
        if isinstance(self.data, TableSource):
            return f"in memory, {self.data.table.num_rows:,} rows"
        if isinstance(self.data, ParquetSource):
            rows, files = int(self.data.chunk_rows.sum()), len(self.data.names)
            chunks = self.data.num_chunks
            return f"Parquet, {rows:,} rows in {chunks} chunk{_s(chunks)} of {files} file{_s(files)}"
        if isinstance(self.data, Source):
            return f"a Dask expression over Parquet, {self.data.num_chunks} chunk{_s(self.data.num_chunks)}"
        count = self.data.npartitions
        return f"a Dask DataFrame that is computed, {count} partition{_s(count)}"


def bind_table(
    name: str, value: Any, *, format: str | None = None, storage_options: Mapping[str, Any] | None = None
) -> Table:
    """Make a table of what was given under a name.

    Parameters
    ----------
    name : str
        The name.
    value : dask.dataframe.DataFrame, pandas.DataFrame, pyarrow.Table, mapping of arrays, Source, str or path
        The data.
    format : str, optional
        Of a path.
    storage_options : mapping, optional
        Of a URL.

    Returns
    -------
    Table
        Nothing is read but metadata, and some lines of CSV.

    Raises
    ------
    SourceError
        If this is no table.
    DataError
        If files are missing or damaged, or two columns differ only in case.
    """
    try:
        data, frame, nbytes = _opened(value, format, storage_options)
        schema = plain_schema(data.schema if isinstance(data, Source) else schema_of(data))
    except DtkError as error:
        raise type(error)(f"table {name!r}: {error}") from error
    twice = [low for low, count in Counter(column.lower() for column in schema.names).items() if count > 1]
    if twice:
        both = [column for column in schema.names if column.lower() == twice[0]]
        raise DataError(f"table {name!r} has columns {both} that SQL takes for one; rename or leave out all but one")
    return Table(name, data, schema, frame, nbytes)


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """Choose types that DuckDB reads the same for every chunk.

    Parameters
    ----------
    schema : pyarrow.Schema
        Of a source.

    Returns
    -------
    pyarrow.Schema
        Codes of dictionaries as their values, columns of nothing but nulls as text; without metadata.
    """
    return pa.schema([pa.field(field.name, _plain_type(field.type)) for field in schema])


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return _plain_type(kind.value_type)
    if pa.types.is_null(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return pa.binary()
    if pa.types.is_float16(kind):
        return pa.float32()
    return kind


def _opened(value: Any, format: str | None, storage_options: Mapping[str, Any] | None) -> tuple[Any, Any, int | None]:
    """Return a source or a frame to be computed, the Dask DataFrame it was made of, and about what that takes."""
    if isinstance(value, (str, os.PathLike)):
        listing = list_files(value, format=format, storage_options=storage_options)
        if listing.format not in ("parquet", "csv"):
            raise SourceError(f"{os.fspath(value)} is {listing.format}, no table; open it, and make a DataFrame of it")
        if listing.format == "parquet" and not storage_options:
            return open_source(os.fspath(value)), None, None
        frame: Any = open_listing(listing)
        if listing.format == "csv":
            return frame, frame, _csv_nbytes(listing.files) if listing.filesystem is None else None
        return readable(frame), frame, None
    if isinstance(value, dd.DataFrame):
        named = {name: str(name) for name in value.columns if not isinstance(name, str)}
        frame = value.rename(columns=named) if named else value
        return readable(frame), frame, _frame_nbytes(frame)
    return as_source(value), None, None


def _csv_nbytes(files: Sequence[str]) -> int:
    return sum(os.path.getsize(file) * (COMPRESSED_GROWTH if compression_of(file) else CSV_GROWTH) for file in files)


def _frame_nbytes(frame: dd.DataFrame) -> int | None:
    """Estimate what a frame takes that is blockwise over frames in memory."""
    nodes = list(frame.expr.walk())
    leaves = [node for node in nodes if isinstance(node, FromPandas)]
    others = [node for node in nodes if not isinstance(node, FromPandas)]
    if not all(type(node) in ROWWISE or isinstance(node, ROWWISE_BASES) for node in others):
        return None
    return sum(int(leaf.frame.memory_usage(index=False).sum()) for leaf in leaves)


def _s(count: int) -> str:
    return "" if count == 1 else "s"
