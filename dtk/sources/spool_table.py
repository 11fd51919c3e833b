"""Tables as work for a spool: Parquet files, one a partition, or one for several small ones."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Final

import dask.dataframe as dd
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from dtk.errors import ArgumentError, DataError
from dtk.sources.identity import expression_identity
from dtk.sources.schema import arrow_schema, table_of_frame
from dtk.sources.spool_size import decoded_nbytes, encoded_nbytes
from dtk.sources.write import as_frame, carries_state, paths_read

__all__ = ["TableWork"]

FILE_NBYTES: Final = 64 * 2**20  # in memory: smaller partitions are put together
GROUP_NBYTES: Final = 8 * 2**20  # in memory
GROUP_ROWS: Final = (1024, 131_072)
CODEC: Final = "lz4"


@dataclass(frozen=True, eq=False)
class TableWork:
    """A table to spool.

    Parameters
    ----------
    frame : dask.dataframe.DataFrame
        What to write, its index a column or left out.
    identity : str or None
        Hash of the expression; None where functions of the user's own read.
    """

    frame: dd.DataFrame
    identity: str | None

    kind = "table"

    @classmethod
    def of(cls, data: Any) -> TableWork:
        """Look at a table, lazily.

        Parameters
        ----------
        data : dask.dataframe.DataFrame, pandas.DataFrame or a Series
            The table.

        Returns
        -------
        TableWork
            Nothing is computed.

        Raises
        ------
        ArgumentError
            If it is no table, or has a column twice.
        """
        frame = as_frame(data)
        repeated = frame.columns[frame.columns.duplicated()]
        if len(repeated):
            raise ArgumentError(f"data has the column {repeated[0]!r} twice; rename one")
        if not len(frame.columns):
            raise ArgumentError("data has no columns; give some")
        return cls(frame, expression_identity(frame.expr).digest if carries_state(frame.expr) else None)

    @cached_property
    def schema(self) -> pa.Schema:
        """Columns as they are written, with pandas' own description of their types."""
        schema = arrow_schema(self.frame)
        return schema.with_metadata(pa.Schema.from_pandas(self.frame._meta, preserve_index=False).metadata)

    @cached_property
    def layout(self) -> str:
        """Hash of what decides which rows are in which piece; the expression is optimised for it."""
        nodes = [type(node).__name__ for node in self._optimized.expr.walk()]
        told = repr([nodes, self._optimized.npartitions, self._together, str(self.schema), CODEC, pa.__version__])
        return hashlib.blake2b(told.encode(), digest_size=4).hexdigest()

    @property
    def fixed(self) -> dict[str, bytes]:
        """Nothing: all objects hold rows."""
        return {}

    def paths_read(self) -> list[str]:
        """List the paths and URLs that the data is read from.

        Returns
        -------
        list of str
            Files and directories.
        """
        return list(paths_read(self.frame.expr))

    @cached_property
    def estimated_nbytes(self) -> int | None:
        """Bytes on disk, estimated from a few chunks of what it is read from; None where nothing tells."""
        return encoded_nbytes(self.frame.expr, lambda table: len(_encode_table(table)))

    def parts(self) -> list[Any]:
        """List the partitions of each piece.

        Returns
        -------
        list of list of dask.delayed.Delayed
            In order.
        """
        partitions = self._optimized.to_delayed(optimize_graph=False)
        return [list(partitions[first : first + self._together]) for first in range(0, len(partitions), self._together)]

    @property
    def encode(self) -> Any:
        """Function ``(number, frames) -> (objects, rows)`` that is sent to the workers."""
        return partial(_encode_piece, self.schema)

    @cached_property
    def _optimized(self) -> dd.DataFrame:
        frozen: dd.DataFrame = self.frame.optimize()  # the number of partitions changes when it is done again
        return frozen

    @cached_property
    def _together(self) -> int:
        """How many partitions make a file."""
        nbytes = decoded_nbytes(self.frame.expr)
        return 1 if nbytes is None else max(1, FILE_NBYTES * self._optimized.npartitions // max(1, nbytes))


def _encode_piece(schema: pa.Schema, number: int, frames: Sequence[pd.DataFrame]) -> tuple[dict[str, bytes], int]:
    """Make a file of partitions that follow each other."""
    try:
        table = pa.concat_tables([table_of_frame(frame, schema) for frame in frames])
    except (pa.ArrowException, TypeError, KeyError) as error:
        reason = "; ".join(map(str, error.args))
        raise DataError(f"piece {number}: {reason}; give the column one type with astype") from error
    return {f"part-{number:05d}.parquet": _encode_table(table.cast(schema))}, table.num_rows


def _encode_table(table: pa.Table) -> bytes:
    least, most = GROUP_ROWS
    rows = min(most, max(least, GROUP_NBYTES * table.num_rows // max(1, table.nbytes)))
    num_groups = max(1, -(-table.num_rows // rows))
    # Dictionaries make numbers slower to decode, and larger where they do not repeat.
    repeating = [field.name for field in table.schema if not _is_number(field.type)]
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        row_group_size=max(1, -(-table.num_rows // num_groups)),
        compression=CODEC,
        use_dictionary=repeating,
        write_page_checksum=True,
    )
    encoded: bytes = sink.getvalue().to_pybytes()
    return encoded


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_primitive(kind) or pa.types.is_fixed_size_list(kind))
