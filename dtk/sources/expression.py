"""Dask expressions as sources: whatever is blockwise over one Parquet read is evaluated where its rows are needed.

The expression is rewritten once over a placeholder of one partition, which stands for a chunk's frame. Dask simplifies
and lowers that (so that only the needed columns remain), and its few tasks are kept as a program. Reading a chunk means
reading its row group, converting it as Dask would, and running the program in the calling thread.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import dask.dataframe.dask_expr._expr as operations
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
from dask.dataframe.dask_expr.io.parquet import ReadParquet

from dtk.errors import DataError, DtkError, SourceError
from dtk.sources.columns import checked_columns
from dtk.sources.dask_read import FrameReader, Read
from dtk.sources.facts import changed_columns, column_facts, short_digest
from dtk.sources.identity import expression_identity
from dtk.sources.parquet import ParquetSource
from dtk.sources.program import ChunkFrame, Program
from dtk.sources.remote import Fetch, FetchCost
from dtk.sources.rowwise import keeps_rows, looks_at_rows, refusal, with_chosen_partitions
from dtk.sources.schema import arrow_type, stored_type, table_of_frame

__all__ = ["ExpressionSource", "source_of_frame"]

ROWS_OF_EXAMPLE: Final = 1000


@dataclass(frozen=True, eq=False, repr=False)
class ExpressionSource:
    """Rows of a Dask expression, evaluated chunk by chunk in the reading process.

    Made by `as_source`. A chunk is a row group where all operations look at one row at a time, else a partition.

    Parameters
    ----------
    base : ParquetSource
        The row groups below the expression, with the columns that it needs.
    reader : FrameReader
        How Dask makes frames of them.
    program : Program
        The expression.
    row_counter : Program or None
        The same without columns, to count rows; None where they are known.
    schema : pa.Schema
        Columns it yields.
    identity : str
        Hash of the files and the expression.
    chunk_rows : np.ndarray or None
        int64 [chunks]; None while unknown.
    first_group : np.ndarray
        int64 [chunks + 1]: the first row group of `base` in each chunk.
    operations : str
        Hash of the expression alone.
    selection : str
        Hash of what decides which rows stay; empty where all do.
    has_own_functions : bool
        Whether it calls functions of the user, of which the identity may not tell everything.
    is_rowwise : bool
        Whether all operations look at one row at a time, so that its chunks are row groups.
    """

    base: ParquetSource
    reader: FrameReader
    program: Program
    row_counter: Program | None
    schema: pa.Schema
    identity: str
    chunk_rows: npt.NDArray[np.int64] | None
    first_group: npt.NDArray[np.int64]
    operations: str
    selection: str = ""
    has_own_functions: bool = False
    is_rowwise: bool = False

    @property
    def num_chunks(self) -> int:
        """Number of chunks."""
        return len(self.first_group) - 1

    @property
    def chunk_nbytes(self) -> npt.NDArray[np.int64]:
        """Bytes on disk of the columns that the expression needs, int64 [chunks]."""
        ends = np.concatenate([[0], np.cumsum(self.base.chunk_nbytes)])
        return np.diff(ends[self.first_group])

    @property
    def num_groups(self) -> npt.NDArray[np.int64]:
        """Row groups that are read for each chunk, int64 [chunks]."""
        ends = np.concatenate([[0], np.cumsum(self.base.num_groups, dtype=np.int64)])
        return np.diff(ends[self.first_group])

    @property
    def stored_rows(self) -> npt.NDArray[np.int64]:
        """Rows that are read for each chunk, those among them that are then left out, int64 [chunks]."""
        ends = np.concatenate([[0], np.cumsum(self.base.chunk_rows)])
        return np.diff(ends[self.first_group])

    @property
    def stored_columns(self) -> list[str]:
        """Columns of `base` that are read for each chunk."""
        return self._columns_of(self.program)

    def fetch_cost(self, columns: Sequence[str] | None = None) -> FetchCost | None:
        """Return what fetching the chunks takes.

        Parameters
        ----------
        columns : sequence of str, optional
            What is counted is all that the expression needs.

        Returns
        -------
        FetchCost or None
            None for local files.
        """
        cost = self.base.fetch_cost()
        if cost is None:
            return None
        nbytes, requests = (np.concatenate([[0], np.cumsum(part)]) for part in (cost.nbytes, cost.requests))
        return FetchCost(np.diff(nbytes[self.first_group]), np.diff(requests[self.first_group]), cost.once)

    def fetch(self, chunk: int, columns: Sequence[str] | None = None) -> Fetch:
        """Start to fetch what `read` will need of remote files.

        Parameters
        ----------
        chunk : int
            From 0 to ``num_chunks - 1``.
        columns : sequence of str, optional
            What is fetched is all that the expression needs.

        Returns
        -------
        list of concurrent.futures.Future
            One a row group, to be given to `read`, or cancelled; nothing for local files.
        """
        return self._fetch(chunk, self.program)

    def read(self, chunk: int, columns: Sequence[str] | None = None, *, fetched: Fetch | None = None) -> pa.Table:
        """Read the chunk's row groups and evaluate the expression over them.

        Parameters
        ----------
        chunk : int
            From 0 to ``num_chunks - 1``.
        columns : sequence of str, optional
            Which columns, in order; all if None. To read less from disk, give them to `as_source`.
        fetched : list of concurrent.futures.Future, optional
            What `fetch` returned for the same chunk.

        Returns
        -------
        pa.Table
            The rows that Dask would compute.

        Raises
        ------
        ArgumentError
            If a column is not there.
        DataError
            If a file is damaged or changed, or a value does not fit its column's type.
        """
        names = checked_columns(columns, self.schema.names)
        frame = self.evaluate(chunk, self.program, fetched=fetched)[names]
        try:
            return table_of_frame(frame, pa.schema([self.schema.field(name) for name in names]))
        except (pa.ArrowException, TypeError) as error:
            reason = "; ".join(map(str, error.args))
            raise DataError(f"{self.describe(chunk)}: {reason}; give the column one type with astype") from error

    def count(self, chunk: int) -> int:
        """Count the rows of a chunk from the columns that decide it.

        Parameters
        ----------
        chunk : int
            From 0 to ``num_chunks - 1``.

        Returns
        -------
        int
            Rows that `read` would give.
        """
        if self.chunk_rows is not None:
            return int(self.chunk_rows[chunk])
        assert self.row_counter is not None
        return len(self.evaluate(chunk, self.row_counter))

    def describe(self, chunk: int) -> str:
        """Say where a chunk lies.

        Parameters
        ----------
        chunk : int
            From 0 to ``num_chunks - 1``.

        Returns
        -------
        str
            Path and row group, and how many follow.
        """
        first, stop = self.first_group[chunk : chunk + 2]
        more = f" and {stop - first - 1} more" if stop - first > 1 else ""
        return f"{self.base.describe(int(first))}{more}"

    @property
    def facts(self) -> dict[str, Any]:
        """What a saved state tells of it, see `dtk.sources.facts`."""
        rows = b"" if self.chunk_rows is None else self.chunk_rows.tobytes()
        return {
            "kind": "expression",
            "columns": column_facts(self.schema),
            "base": self.base.facts,
            "operations": self.operations,
            "rows": short_digest(rows),
        }

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
        now = self.facts
        found = changed_columns(facts["columns"], now["columns"])
        below = self.base.changes(facts["base"])
        found += [change for change in below if change not in found]
        if facts["operations"] != now["operations"]:
            found.append("its filters or derived columns changed")
        elif not found and facts["rows"] != now["rows"]:
            found.append("its filters leave other rows")
        return found

    def __repr__(self) -> str:
        return f"ExpressionSource({self.num_chunks} chunks over {self.base!r})"

    def evaluate(
        self, chunk: int, program: Program, *, num_rows: int | None = None, fetched: Fetch | None = None
    ) -> pd.DataFrame:
        """Run a program over the rows below a chunk.

        Parameters
        ----------
        chunk : int
            From 0 to ``num_chunks - 1``.
        program : Program
            The source's own, or its `row_counter`.
        num_rows : int, optional
            How many of these rows; all if None.
        fetched : list of concurrent.futures.Future, optional
            What `fetch` returned, for the source's own program.

        Returns
        -------
        pd.DataFrame
            What Dask would compute of them.
        """
        columns, fetched = self._columns_of(program), fetched or self._fetch(chunk, program)
        tables = [
            self.base.read(group, columns, fetched=fetched[number : number + 1])
            for number, group in enumerate(self._groups(chunk))
        ]
        table = pa.concat_tables(tables) if len(tables) > 1 else tables[0]
        return program.run(self.reader.frame(table.slice(0, num_rows)))

    def _groups(self, chunk: int) -> range:
        return range(*map(int, self.first_group[chunk : chunk + 2]))

    def _columns_of(self, program: Program) -> list[str]:
        return list(dict.fromkeys([*program.columns, *self.reader.index, *self.reader.filter_columns]))

    def _fetch(self, chunk: int, program: Program) -> Fetch:
        columns = self._columns_of(program)
        return [future for group in self._groups(chunk) for future in self.base.fetch(group, columns)]


def source_of_frame(data: Any, columns: Sequence[str] | None = None) -> ParquetSource | ExpressionSource:
    """Recognise a Dask DataFrame that is blockwise over one Parquet read.

    Parameters
    ----------
    data : dask.dataframe.DataFrame
        Any collection; nothing of it is computed.
    columns : sequence of str, optional
        Which of its columns, in order; all if None.

    Returns
    -------
    ParquetSource or ExpressionSource
        The first for plain columns of the files.

    Raises
    ------
    SourceError
        If an operation is not blockwise, or the rows are no Parquet files'.
    ArgumentError
        If a column is not there.
    """
    names = checked_columns(columns, list(data.columns))
    expr = with_chosen_partitions(data.expr)
    reason = refusal(expr)
    if reason:
        from dtk.sources.spool_size import spool_remedy

        raise SourceError(f"{reason}; {spool_remedy(expr)}")
    leaf = max(expr.find_operations(ReadParquet), key=lambda leaf: len(leaf.columns))
    read = Read(leaf)
    reader = read.reader(read.source(list(leaf.columns))[0])
    try:
        template = _over_chunk(expr if names == list(expr.columns) else expr[names], leaf, reader)
        counting = _over_chunk(expr[[]], leaf, reader)
        program, row_counter = Program.of(template), Program.of(counting)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise SourceError(f"the expression cannot be evaluated chunk by chunk: {error}") from error
    plain = type(template) is operations.Projection and type(template.frame) is ChunkFrame
    if reader.filters is None and (plain or type(template) is ChunkFrame):
        return read.source(names)[0]
    needed = [*program.columns, *row_counter.columns, *reader.index, *reader.filter_columns]
    base, partitions = read.source(list(dict.fromkeys(needed)))
    first_group = np.arange(base.num_chunks + 1)
    is_rowwise = all(looks_at_rows(node) for node in expr.walk())
    if not is_rowwise:
        first_group = np.append(np.flatnonzero(np.diff(partitions, prepend=-1)), base.num_chunks)
    keeps = reader.filters is None and all(keeps_rows(node) for node in expr.walk())
    computed = expression_identity(template)
    operations_here = short_digest(computed.digest, str(reader.filters))
    digest = hashlib.blake2b(f"{base.identity} {operations_here}".encode(), digest_size=16)
    digest.update(first_group.tobytes())
    source = ExpressionSource(
        base=base,
        reader=reader,
        program=program,
        row_counter=None if keeps else row_counter,
        schema=pa.schema([]),
        identity=digest.hexdigest(),
        chunk_rows=base.chunk_rows if keeps else None,
        first_group=first_group.astype(np.int64),
        operations=operations_here,
        selection="" if keeps else short_digest(expression_identity(counting).digest, str(reader.filters)),
        has_own_functions=computed.has_own_functions,
        is_rowwise=is_rowwise,
    )
    return replace(source, schema=_schema_of(source, template._meta, expr))


def _over_chunk(expr: Any, leaf: Any, reader: FrameReader) -> Any:
    """Rewrite an expression over the placeholder, simplified and lowered."""
    placeholder: Any = ChunkFrame(  # type: ignore[no-untyped-call]
        reader.widen(leaf._meta.to_frame() if leaf._meta.ndim == 1 else leaf._meta)
    )
    for node in list(expr.find_operations(ReadParquet)):
        names = list(node.columns)
        taken = placeholder if names == placeholder.columns else placeholder[names]
        expr = expr.substitute(node, placeholder[names[0]] if node.operand("_series") else taken)
    return expr.simplify().lower_completely()


def _schema_of(source: ExpressionSource, meta: pd.DataFrame, expr: Any) -> pa.Schema:
    """Fix the Arrow types that every chunk is cast to."""
    stored = {name: stored_type(expr, name) for name in meta.columns}
    unknown = [name for name in meta.columns if meta[name].dtype == object and stored[name] is None]
    if unknown and source.num_chunks:
        # Only values tell what an object is, and a function may understand no others than the data's own.
        try:
            for num_rows in (ROWS_OF_EXAMPLE, None):
                values = source.evaluate(0, source.program, num_rows=num_rows)
                stored |= {name: pa.array(values[name], from_pandas=True).type for name in unknown}
                if not any(pa.types.is_null(stored[name]) for name in unknown):
                    break
        except DtkError:
            raise
        except Exception as error:
            reason = f"the types of the columns {unknown} cannot be told from the first rows ({error})"
            raise SourceError(f"{reason}; give them a type with astype") from error
    return pa.schema([(str(name), arrow_type(meta[name], stored[name])) for name in meta.columns])
