"""What dtk must know of a Dask Parquet read: its row groups in order, and how Dask turns them into pandas frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.dataset
from dask.base import tokenize
from dask.dataframe.dask_expr.io.parquet import ReadParquet, ReadParquetFSSpec, ReadParquetPyarrowFS
from dask.dataframe.io.parquet.arrow import _filters_to_expression
from fsspec.implementations.local import LocalFileSystem

from dtk.errors import SourceError
from dtk.sources.footers import Footer, read_footers
from dtk.sources.hive import hive_values
from dtk.sources.parquet import ParquetSource

__all__ = ["FrameReader", "Read"]

_VARYING_OPERANDS = frozenset({"columns", "_series", "_dataset_info_cache", "_pq_length_stats"})


@dataclass(frozen=True)
class FrameReader:
    """Turns a table of stored rows into the frame that Dask would make of it.

    Parameters
    ----------
    to_pandas : callable
        Dask's own conversion of a table.
    metadata : mapping of bytes to bytes, optional
        The schema's metadata, where pandas keeps its types and index.
    index : tuple of str
        Columns that become the index.
    categories : mapping of str to pd.Index
        Columns of the directories' names that Dask makes categories, with all values.
    widened : frozenset of str
        Integer and boolean columns with nulls somewhere: float64 and object everywhere, as in the computed frame.
    filters : pyarrow.dataset.Expression, optional
        The rows that the read itself keeps.
    filter_columns : tuple of str
        The columns that these look at.
    """

    to_pandas: Callable[[pa.Table], pd.DataFrame]
    metadata: Mapping[bytes, bytes] | None
    index: tuple[str, ...]
    categories: Mapping[str, pd.Index]
    widened: frozenset[str]
    filters: pa.dataset.Expression | None
    filter_columns: tuple[str, ...]

    def frame(self, table: pa.Table) -> pd.DataFrame:
        """Convert stored rows.

        Parameters
        ----------
        table : pa.Table
            Whole row groups.

        Returns
        -------
        pd.DataFrame
            With Dask's types, and without the rows that the read's own filters drop.
        """
        if self.filters is not None:
            table = table.filter(self.filters)
        frame = self.to_pandas(table.replace_schema_metadata(self.metadata))
        for name, keys in self.categories.items():
            if name in frame.columns and frame[name].dtype.name != "category":
                frame[name] = pd.Series(pd.Categorical(frame[name].to_numpy(), categories=keys), index=frame.index)
        if list(frame.index.names) != list(self.index or [None]):
            kept = [name for name in frame.index.names if name is not None]
            frame = frame.reset_index(drop=not kept)
            if self.index:
                frame = frame.set_index(list(self.index))
        return self.widen(frame)

    def widen(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Give columns that may hold nulls the type that holds them.

        Parameters
        ----------
        frame : pd.DataFrame
            Rows, or none for a type.

        Returns
        -------
        pd.DataFrame
            The same rows.
        """
        kinds = {"i": "float64", "u": "float64", "b": "object"}
        wider = {
            name: kinds[dtype.kind]
            for name, dtype in frame.dtypes.items()
            if name in self.widened and isinstance(dtype, np.dtype) and dtype.kind in kinds
        }
        return frame.astype(wider) if wider else frame


class Read:
    """One Dask Parquet read, whatever columns of it an expression uses.

    Parameters
    ----------
    leaf : ReadParquet
        The read's node of an expression.

    Raises
    ------
    SourceError
        If it is a kind of read that is not known.
    """

    def __init__(self, leaf: Any) -> None:
        self.leaf = leaf
        self._footers: dict[str, Footer] | None = None
        if type(leaf) is ReadParquetFSSpec:
            info = leaf._dataset_info
            self._common = leaf._plan["common_kwargs"]
            self.schema: pa.Schema = info["schema"]
            index = info["index"]
            self.index = tuple(name for name in index if name is not None) if isinstance(index, list) else ()
            self.partitions = list(info["partitions"])
            self.filesystem = None if isinstance(info["fs"], LocalFileSystem) else info["fs"]
        elif type(leaf) is ReadParquetPyarrowFS:
            self.schema = leaf._dataset_info["schema"]
            self.index, self.partitions, self.filesystem = (), [], None
            if leaf.fs.type_name != "local" or leaf.operand("index") not in (None, False):
                raise SourceError("read_parquet(filesystem='arrow') is known for local files without an index only")
        else:
            raise SourceError(f"{type(leaf).__name__} is no Parquet read that dtk knows; open the files with dtk.open")

    @staticmethod
    def same(one: Any, other: Any) -> bool:
        """Tell whether two nodes read the same rows of the same files.

        Parameters
        ----------
        one, other : ReadParquet
            Nodes of an expression.

        Returns
        -------
        bool
            True if they differ in their columns at most.
        """
        return type(one) is type(other) and _token(one) == _token(other)

    @property
    def filter_columns(self) -> list[str]:
        """Columns that the read's own filters look at."""
        filters = self.leaf.operand("filters") or []
        clauses = [filters] if filters and isinstance(filters[0], tuple) else filters
        return list(dict.fromkeys(column for clause in clauses for column, *_ in clause))

    def source(self, columns: Sequence[str]) -> tuple[ParquetSource, npt.NDArray[np.int64]]:
        """Find the row groups in the order in which Dask would read them.

        Parameters
        ----------
        columns : sequence of str
            What to read of them.

        Returns
        -------
        tuple of ParquetSource and np.ndarray
            The row groups, and the Dask partition of each, int64 [chunks].
        """
        pieces = self._pieces()
        if self._footers is None:
            paths = list(dict.fromkeys(path for _, path, _ in pieces))
            self._footers = dict(zip(paths, read_footers(paths, filesystem=self.filesystem), strict=True))
        # A file is listed again wherever the chosen partitions come back to it.
        footers: list[Footer] = []
        row_groups: list[list[int]] = []
        partitions: list[int] = []
        for path, of_file in groupby(pieces, key=itemgetter(1)):
            footer = self._footers[path]
            footers.append(footer)
            row_groups.append([])
            for partition, _, groups in of_file:
                wanted = range(len(footer.group_rows)) if groups is None else groups
                filled = [group for group in wanted if footer.group_rows[group]]
                row_groups[-1] += filled
                partitions += [partition] * len(filled)
        source = ParquetSource.from_footers(
            footers,
            columns=columns,
            hive=hive_values([footer.path for footer in footers], self._hive_schema()),
            filesystem=self.filesystem,
            row_groups=row_groups,
        )
        return source, np.asarray(partitions, np.int64)

    def reader(self, source: ParquetSource) -> FrameReader:
        """Make the conversion of the source's tables.

        Parameters
        ----------
        source : ParquetSource
            As `source` made it.

        Returns
        -------
        FrameReader
            Picklable.
        """
        filters = self.leaf.operand("filters")
        to_pandas: Callable[[pa.Table], pd.DataFrame]
        if type(self.leaf) is ReadParquetFSSpec:
            options = {key: value for key, value in self._common.items() if key in _CONVERSION_OPTIONS}
            to_pandas = partial(_convert_by_engine, self.leaf.engine, options)
        else:
            to_pandas = partial(
                ReadParquetPyarrowFS._table_to_pandas,
                index_name=None,
                arrow_to_pandas=self.leaf.arrow_to_pandas,
                dtype_backend=(self.leaf.operand("kwargs") or {}).get("dtype_backend"),
                pyarrow_strings_enabled=self.leaf.pyarrow_strings_enabled,
            )
        return FrameReader(
            to_pandas=to_pandas,
            metadata=source.schema.metadata,
            index=self.index,
            categories={part.name: pd.Index(part.keys) for part in self.partitions if len(part.keys)},
            widened=source.nullable,
            filters=_filters_to_expression(filters) if filters else None,
            filter_columns=tuple(self.filter_columns),
        )

    def _hive_schema(self) -> dict[str, pa.DataType]:
        if type(self.leaf) is ReadParquetFSSpec:
            return {part.name: self.schema.field(part.name).type for part in self.partitions}
        stored = self.leaf.fragments[0].physical_schema.names
        if any(name not in stored for name in self.schema.names):
            raise SourceError("read_parquet(filesystem='arrow') over Hive directories is not known; use dtk.open")
        return {}

    def _pieces(self) -> list[tuple[int, str, Sequence[int] | None]]:
        """List (partition, path, row groups or None for all) in the order of the rows."""
        leaf = self.leaf
        chosen = range(leaf.npartitions) if not leaf._filtered else leaf._partitions
        if type(leaf) is ReadParquetPyarrowFS:
            return [(number, leaf.fragments[at].path, None) for number, at in enumerate(chosen)]
        if leaf._plan["empty"]:
            return [(0, path, []) for path in leaf._dataset_info["ds"].files]
        pieces: list[tuple[int, str, Sequence[int] | None]] = []
        for number, at in enumerate(chosen):
            part = leaf._plan["parts"][at]
            for item in part if isinstance(part, list) else [part]:
                path, groups, _ = item["piece"]
                pieces.append((number, path, None if groups in (None, [None]) else groups))
        return pieces


_CONVERSION_OPTIONS = frozenset({"categories", "dtype_backend", "convert_string", "arrow_to_pandas"})


def _convert_by_engine(engine: Any, options: Mapping[str, Any], table: pa.Table) -> pd.DataFrame:
    arrow_to_pandas = dict(options.get("arrow_to_pandas") or {})  # the engine writes into it
    converted: pd.DataFrame = engine._arrow_table_to_pandas(table, **{**options, "arrow_to_pandas": arrow_to_pandas})
    return converted


def _token(leaf: ReadParquet) -> str:
    operands = zip(leaf._parameters, leaf.operands, strict=False)
    token: str = tokenize(leaf.checksum, [value for name, value in operands if name not in _VARYING_OPERANDS])
    return token
