"""Where samples live: Parquet files, Dask expressions that are blockwise over them, and tables in memory."""

from __future__ import annotations

from dtk.sources.counting import counted
from dtk.sources.expression import ExpressionSource
from dtk.sources.open import open
from dtk.sources.parquet import ParquetSource
from dtk.sources.schema import schema_of
from dtk.sources.source import Source, TableSource, as_source, chunk_groups, readable
from dtk.sources.split import split
from dtk.sources.spool import spool
from dtk.sources.window import Window
from dtk.sources.write import write_parquet

__all__ = [
    "ExpressionSource",
    "ParquetSource",
    "Source",
    "TableSource",
    "Window",
    "as_source",
    "chunk_groups",
    "counted",
    "open",
    "readable",
    "schema_of",
    "split",
    "spool",
    "write_parquet",
]
