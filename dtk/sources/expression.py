"""Dask expressions as sources: whatever is blockwise over one Parquet read is evaluated where its rows are needed.

The expression is rewritten once over a placeholder of one partition, which stands for a chunk's frame. Dask simplifies
and lowers that (so that only the needed columns remain), and its few tasks are kept as a program. Reading a chunk means
reading its row group, converting it as Dask would, and running the program in the calling thread.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import dask.dataframe.dask_expr._accessor as accessors
import dask.dataframe.dask_expr._expr as operations
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
from dask._task_spec import DataNode
from dask.dataframe.dask_expr._str_accessor import SplitMap
from dask.dataframe.dask_expr.io.parquet import ReadParquet
from dask.dataframe.utils import meta_nonempty

from dtk.errors import DataError, SourceError
from dtk.memory import format_nbytes
from dtk.sources.columns import checked_columns
from dtk.sources.dask_read import FrameReader, Read
from dtk.sources.parquet import ParquetSource
from dtk.sources.program import ChunkFrame, Program
from dtk.sources.schema import arrow_type

__all__ = ["ExpressionSource", "source_of_frame"]

# Operations that look at one row at a time. An allow-list: what is not known to be so is refused.
ROWWISE: Final[frozenset[type]] = frozenset(
    {
        operations.Abs,
        operations.AddPrefix,
        operations.AddSuffix,
        operations.Apply,
        operations.ArrowStringConversion,
        operations.AsType,
        operations.Assign,
        operations.Between,
        operations.CaseWhen,
        operations.Clip,
        operations.ColumnsSetter,
        operations.Drop,
        operations.DropnaFrame,
        operations.DropnaSeries,
        operations.Eval,
        operations.Fillna,
        operations.Filter,
        operations.IsNa,
        operations.Isin,
        operations.Literal,
        operations.Map,
        operations.Mask,
        operations.NotNull,
        operations.Projection,
        operations.Query,
        operations.RenameFrame,
        operations.RenameSeries,
        operations.Replace,
        operations.Round,
        operations.Sqrt,
        operations.ToDatetime,
        operations.ToFrame,
        operations.ToNumeric,
        operations.ToTimedelta,
        operations.UFuncElemwise,
        operations.Where,
        operations._DeepCopy,
        SplitMap,
    }
)
ROWWISE_BASES: Final = (operations.Binop, operations.Unaryop)
ACCESSORS: Final = frozenset({"str", "dt"})  # not "cat": the codes of a category differ from chunk to chunk
ROW_DROPPING: Final = (operations.Filter, operations.Query, operations.DropnaFrame, operations.DropnaSeries)


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
    """

    base: ParquetSource
    reader: FrameReader
    program: Program
    row_counter: Program | None
    schema: pa.Schema
    identity: str
    chunk_rows: npt.NDArray[np.int64] | None
    first_group: npt.NDArray[np.int64]

    @property
    def num_chunks(self) -> int:
        """Number of chunks."""
        return len(self.first_group) - 1

    @property
    def chunk_nbytes(self) -> npt.NDArray[np.int64]:
        """Bytes on disk of the columns that the expression needs, int64 [chunks]."""
        ends = np.concatenate([[0], np.cumsum(self.base.chunk_nbytes)])
        return np.diff(ends[self.first_group])

    def read(self, chunk: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Read the chunk's row groups and evaluate the expression over them.

        Parameters
        ----------
        chunk : int
            From 0 to ``num_chunks - 1``.
        columns : sequence of str, optional
            Which columns, in order; all if None. To read less from disk, give them to `as_source`.

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
        frame = self._evaluate(chunk, self.program)[names]
        schema = pa.schema([self.schema.field(name) for name in names])
        try:
            return pa.Table.from_pandas(
                frame, schema=schema, preserve_index=False, nthreads=1
            ).replace_schema_metadata()
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
        return len(self._evaluate(chunk, self.row_counter))

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

    def __repr__(self) -> str:
        return f"ExpressionSource({self.num_chunks} chunks over {self.base!r})"

    def _evaluate(self, chunk: int, program: Program) -> pd.DataFrame:
        groups = range(*map(int, self.first_group[chunk : chunk + 2]))
        extra = [*self.reader.index, *self.reader.filter_columns]
        columns = list(dict.fromkeys([*program.columns, *extra]))
        tables = [self.base.read(group, columns) for group in groups]
        return program.run(self.reader.frame(pa.concat_tables(tables) if len(tables) > 1 else tables[0]))


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
    expr = data.expr
    names = checked_columns(columns, list(data.columns))
    if next(expr.find_operations(operations.Partitions), None) is not None:
        expr = expr.simplify()  # moves the choice of partitions into the read
    leaf = _checked_leaf(expr)
    read = Read(leaf)
    reader = read.reader(read.source(list(leaf.columns))[0])
    try:
        template = _over_chunk(expr if names == list(expr.columns) else expr[names], leaf, reader)
        counting = _over_chunk(expr[[]], leaf, reader)
        program, row_counter = Program.of(template), Program.of(counting)
        schema = _schema_of(
            template._meta, read.schema, program, reader.widen(meta_nonempty(leaf._dataset_info["base_meta"]))
        )
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise SourceError(f"the expression cannot be evaluated chunk by chunk: {error}") from error
    plain = type(template) is operations.Projection and type(template.frame) is ChunkFrame
    if reader.filters is None and (plain or type(template) is ChunkFrame):
        return read.source(names)[0]
    needed = [*program.columns, *row_counter.columns, *reader.index, *reader.filter_columns]
    base, partitions = read.source(list(dict.fromkeys(needed)))
    first_group = np.arange(base.num_chunks + 1)
    if not all(_looks_at_rows(node) for node in expr.walk()):
        first_group = np.append(np.unique(partitions, return_index=True)[1], base.num_chunks)
    keeps_rows = reader.filters is None and all(_keeps_rows(node) for node in expr.walk())
    digest = hashlib.blake2b(f"{base.identity} {template._name}".encode(), digest_size=16)
    digest.update(first_group.tobytes())
    return ExpressionSource(
        base=base,
        reader=reader,
        program=program,
        row_counter=None if keeps_rows else row_counter,
        schema=schema,
        identity=digest.hexdigest(),
        chunk_rows=base.chunk_rows if keeps_rows else None,
        first_group=first_group.astype(np.int64),
    )


def _checked_leaf(expr: Any) -> Any:
    """Return the one Parquet read below an expression, or refuse the expression."""
    reads = list(expr.find_operations(ReadParquet))
    for node in expr.walk():
        reason = _refusal(node)
        if reason:
            raise SourceError(f"{reason}, so ranks cannot read it in place; {_spool_remedy(reads)}")
    if not reads:
        raise SourceError(f"the expression reads no Parquet file; {_spool_remedy(reads)}")
    if any(not Read.same(reads[0], other) for other in reads[1:]):
        raise SourceError(f"the expression combines several Parquet reads; {_spool_remedy(reads)}")
    return max(reads, key=lambda leaf: len(leaf.columns))


def _refusal(node: Any) -> str | None:
    """Say why a node of an expression cannot be evaluated chunk by chunk; None if it can."""
    kind = type(node)
    if isinstance(node, ReadParquet) or kind in ROWWISE or issubclass(kind, ROWWISE_BASES):
        return None
    if kind is operations.MapPartitions:
        if node._has_partition_info:
            return f"map_partitions of {_name_of(node.func)} asks for the partition's number"
        return None
    if kind in (accessors.PropertyMap, accessors.FunctionMap):
        known = node.operand("accessor") in ACCESSORS
        return None if known else f"the accessor .{node.operand('accessor')} depends on the whole column"
    if kind is operations._DelayedExpr:
        constant = all(type(task) is DataNode for task in node._layer().values())
        return None if constant else "an argument is a delayed value"
    if not node.dependencies():
        return f"{kind.__name__} is no Parquet read"
    return f"{kind.__name__} is not known to look at one row at a time"


def _spool_remedy(reads: Sequence[Any]) -> str:
    nbytes = 0
    for leaf in reads:
        nbytes = max(nbytes, Read(leaf).source(list(leaf.columns))[0].decoded_nbytes)
    size = f" (about {format_nbytes(nbytes)} before compression)" if nbytes else ""
    return f"write it once with dtk.write_parquet(data, path){size} and open that"


def _name_of(function: Any) -> str:
    return getattr(function, "__name__", type(function).__name__)


def _looks_at_rows(node: Any) -> bool:
    """Tell whether a node gives the same rows for any cut of the data, as only the author of a function can know."""
    if type(node) is not operations.MapPartitions:
        return True
    function = getattr(node.func, "func", node.func)  # a partial of a marked function is marked too
    return bool(getattr(function, "dtk_rowwise", False))


def _keeps_rows(node: Any) -> bool:
    return not isinstance(node, ROW_DROPPING) and _looks_at_rows(node)


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


def _schema_of(meta: pd.DataFrame, stored: pa.Schema, program: Program, example: pd.DataFrame) -> pa.Schema:
    """Fix the Arrow types that every chunk is cast to."""
    objects = [str(name) for name, dtype in meta.dtypes.items() if pd.api.types.is_object_dtype(dtype)]
    found = {name: stored.field(name).type for name in objects if name in stored.names}
    if len(found) < len(objects):
        # Only values tell what an object is; Dask finds its own types by the same made-up rows.
        try:
            values = program.run(example)
            found |= {name: pa.array(values[name], from_pandas=True).type for name in objects if name not in found}
        except Exception as error:
            reason = f"the types of the columns {objects} cannot be told from an example ({error})"
            raise SourceError(f"{reason}; give them a type with astype") from error
    below = {field.name: field.type for field in stored}
    types = {str(name): arrow_type(meta[name], below.get(str(name))) for name in meta.columns}
    return pa.schema(list((types | found).items()))
