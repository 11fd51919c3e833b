"""Write tables as Parquet: part by part, resumable, published whole by one rename."""

from __future__ import annotations

import math
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Final

import dask
import dask.dataframe as dd
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from dask._expr import Expr
from dask._task_spec import DataNode, Task
from dask.base import is_dask_collection, tokenize
from dask.dataframe.dask_expr._expr import _DelayedExpr
from dask.dataframe.dask_expr.io.io import FromMap, FromPandas
from dask.dataframe.dask_expr.io.parquet import ReadParquet
from dask.delayed import DelayedLeaf, delayed
from dask.utils import parse_bytes

from dtk.errors import ArgumentError, DataError
from dtk.sources.identity import expression_identity
from dtk.sources.open import INDEX_COLUMNS
from dtk.sources.publishing import finish_replacing, publish, sole_writer, written_whole
from dtk.sources.schema import arrow_schema, table_of_frame

__all__ = ["as_frame", "carries_state", "overlaps", "paths_read", "write_parquet"]

PART_NBYTES: Final = parse_bytes("128 MiB")
LABEL: Final = "write-parquet"
OF_PARQUET: Final = re.compile(r"[^.].*\.(parquet|parq|pq)|_metadata|_common_metadata|_SUCCESS|\..*\.crc")


def write_parquet(
    frame: dd.DataFrame | dd.Series | pd.DataFrame | pd.Series[Any],
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    progress: bool = False,
    row_group_rows: int = 131_072,
) -> str:
    """Write a table to a directory of Parquet files, one a partition, with one schema.

    Parts are written beside `path`, and the directory gets its name when all are there: nobody sees half a result.
    Called again with the same data after an interruption, it writes only the parts that are missing.

    Parameters
    ----------
    frame : dask.dataframe.DataFrame, pandas.DataFrame or a Series
        What to write. An index with a name becomes a column; one without is left out.
    path : str or path
        A local directory that is not there yet.
    overwrite : bool
        Whether to replace an existing directory of Parquet files; it stays whole until the new one is complete. One
        that `frame` is read from is never replaced.
    progress : bool
        Whether to show a progress bar.
    row_group_rows : int
        Rows of a row group, which is what a rank reads at once.

    Returns
    -------
    str
        The absolute path.

    Raises
    ------
    ArgumentError
        If the path is remote, exists, or holds what `frame` is read from, or an argument cannot work.
    DataError
        If a column's values do not fit one type.

    Warns
    -----
    UserWarning
        If another process writes the same: it is waited for, and its result taken.
    """
    target = _checked_target(path, overwrite)
    before = _inode(target)
    if row_group_rows < 1:
        raise ArgumentError(f"row_group_rows={row_group_rows} must be at least 1")
    table = as_frame(frame)
    repeated = table.columns[table.columns.duplicated()]
    if len(repeated):
        raise ArgumentError(f"frame has the column {repeated[0]!r} twice; rename one")
    if os.path.lexists(target) and any(overlaps(read, target) for read in paths_read(table.expr)):
        raise ArgumentError(f"path={os.fspath(path)!r} holds files that frame is read from; write elsewhere")
    identity, is_resumable = expression_identity(table.expr).digest, carries_state(table.expr)
    schema = arrow_schema(table)
    table = table.optimize()
    token = tokenize(identity, str(schema), row_group_rows, None if is_resumable else uuid.uuid4().hex)[:16]
    partial_path = f"{target}.partial-{token}"
    with sole_writer(partial_path, os.fspath(path)) as has_waited:
        if has_waited and _inode(target) != before:  # the other process wrote the same
            return target
        _checked_target(path, overwrite)  # it may have come into being since
        try:
            _write_parts(table, partial_path, schema, row_group_rows, progress)
        except BaseException:
            if not is_resumable:  # what it read may change until the next attempt, so that its parts are of no use
                shutil.rmtree(partial_path, ignore_errors=True)
            raise
        publish(partial_path, target, replaces=overwrite)
    return target


def _write_parts(table: dd.DataFrame, directory: str, schema: pa.Schema, row_group_rows: int, progress: bool) -> None:
    """Write the parts that are not there yet."""
    from dtk.runtime import delayed_reduce

    write: Any = partial(_write_part, directory=directory, schema=schema, row_group_rows=row_group_rows)
    parts = [
        delayed((number, part))
        for number, part in enumerate(table.to_delayed(optimize_graph=False))
        if not _is_parquet(_part_path(directory, number))
    ]
    if parts:
        delayed_reduce(write, sum, parts, label=LABEL, progress=progress)


def _is_parquet(path: str) -> bool:
    """Look whether a part is there and whole, as far as its footer tells."""
    try:
        pq.read_metadata(path)
    except (OSError, pa.ArrowException):
        return False
    return True


def _inode(path: str) -> int | None:
    return os.stat(path).st_ino if os.path.exists(path) else None


def _checked_target(path: str | os.PathLike[str], overwrite: bool) -> str:
    text = os.fspath(path)
    if "://" in text:
        raise ArgumentError(f"path={text!r} is remote; write to a local directory and copy that")
    target = os.path.abspath(os.path.expanduser(text))
    if os.path.islink(target):
        target = os.path.realpath(target)  # what it leads to is replaced, and the link stays
    finish_replacing(target)
    if not os.path.lexists(target):
        return target
    if not overwrite:
        raise ArgumentError(f"path={text!r} exists; give another path, or overwrite=True")
    # A slip must not cost a home directory: replace nothing but what looks like a Parquet dataset.
    files = [target] if not os.path.isdir(target) else [name for _, _, names in os.walk(target) for name in names]
    other = [name for name in files if not OF_PARQUET.fullmatch(name)]
    if other or not os.path.isdir(target):
        raise ArgumentError(f"path={text!r} is no directory of Parquet files alone; remove it yourself")
    return target


def paths_read(expr: Expr) -> Iterator[str]:
    """List the paths and URLs that a lazy table is read from.

    Parameters
    ----------
    expr : Expr
        Of a Dask DataFrame.

    Yields
    ------
    str
        Paths of its reads, and those handed to its functions.
    """
    for node in expr.walk():
        if isinstance(node, ReadParquet):
            info = node._dataset_info  # of a read through fsspec, or of one through pyarrow alone
            if "ds" in info:
                yield from (str(info["fs"].unstrip_protocol(file)).removeprefix("file://") for file in info["ds"].files)
            else:
                yield from (part.fragment.path for part in info["fragments"])
        else:
            yield from _paths_in([operand for operand in node.operands if not isinstance(operand, Expr)])


def _paths_in(value: Any) -> Iterator[str]:
    if isinstance(value, (str, os.PathLike)):
        text = os.fspath(value)
        # A bare word may be a value that something is compared with, and the name of a directory by chance.
        if isinstance(text, str) and (os.path.isfile(text) or (os.sep in text and os.path.isdir(text))):
            yield text
        return
    if isinstance(value, partial):
        parts = [value.args, value.keywords]
    elif isinstance(value, Task):
        parts = [value.args, value.kwargs]
    elif isinstance(value, DataNode):
        parts = [value.value]
    elif is_dask_collection(value):
        parts = [dict(value.__dask_graph__())]
    else:
        parts = list(value.values()) if isinstance(value, Mapping) else value
    if isinstance(parts, (list, tuple, set, frozenset)):
        for part in parts:
            yield from _paths_in(part)


def overlaps(read: str, target: str) -> bool:
    """Tell whether replacing a directory would take away what is read.

    Parameters
    ----------
    read : str
        A file or a directory, or a URL, which lies elsewhere.
    target : str
        The directory to be replaced.

    Returns
    -------
    bool
        True if one lies in the other, also through links.
    """
    if "://" in read:
        return False
    targets = (target, os.path.realpath(target))
    for path in (os.path.abspath(read), os.path.realpath(read)):
        for directory in targets:
            if _is_within(path, directory) or (os.path.isdir(path) and _is_within(directory, path)):
                return True
    return False


def _is_within(path: str, directory: str) -> bool:
    return os.path.commonpath([path, directory]) == directory


def as_frame(frame: Any) -> dd.DataFrame:
    """Turn a table into a Dask DataFrame whose columns are all there is to write.

    Parameters
    ----------
    frame : dask.dataframe.DataFrame, pandas.DataFrame or a Series
        The table.

    Returns
    -------
    dask.dataframe.DataFrame
        With a named index as a column, where none has its name, and columns that are named by strings.

    Raises
    ------
    ArgumentError
        If it is no table, or a column has a name that pandas gives to an index.
    """
    if isinstance(frame, (pd.Series, dd.Series)):
        frame = frame.to_frame(frame.name if frame.name is not None else "value")
    if isinstance(frame, pd.DataFrame):
        num_parts = max(1, math.ceil(frame.memory_usage(index=False).sum() / PART_NBYTES))
        with dask.config.set({"dataframe.convert-string": False}):  # it would make strings of all objects
            frame = dd.from_pandas(frame, npartitions=num_parts, sort=False)
    if not isinstance(frame, dd.DataFrame):
        raise ArgumentError(f"frame={type(frame).__name__} is no table; give a Dask or pandas DataFrame")
    if frame.index.name is not None and frame.index.name not in frame.columns:
        frame = frame.reset_index()
    renamed: dd.DataFrame = frame.rename(
        columns={name: str(name) for name in frame.columns if not isinstance(name, str)}
    )
    of_index = [name for name in renamed.columns if name.startswith(INDEX_COLUMNS)]
    if of_index:
        raise ArgumentError(f"frame has the column {of_index[0]!r}, a name by which readers know an index; rename it")
    return renamed


def carries_state(expr: Expr) -> bool:
    """Tell whether the identity of a table changes when what it reads does.

    Parameters
    ----------
    expr : Expr
        Of a Dask DataFrame.

    Returns
    -------
    bool
        False if functions of the user's own read.
    """
    leaves = [node for node in expr.walk() if not node.dependencies()]
    return all(isinstance(leaf, (ReadParquet, FromPandas)) or _is_constant(leaf) or _is_csv(leaf) for leaf in leaves)


def _is_constant(leaf: Expr) -> bool:
    return isinstance(leaf, _DelayedExpr) and isinstance(leaf.operands[0], DelayedLeaf)


def _is_csv(leaf: Expr) -> bool:
    function = leaf.operands[0] if isinstance(leaf, FromMap) else None
    function = function.func if isinstance(function, partial) else function
    return getattr(function, "__module__", "") == "dask.dataframe.io.csv"  # Dask puts each file's state beside it


def _part_path(directory: str, number: int) -> str:
    return f"{directory}/part-{number:05d}.parquet"


def _write_part(part: tuple[int, pd.DataFrame], *, directory: str, schema: pa.Schema, row_group_rows: int) -> int:
    """Write a partition under a temporary name, then give it its own."""
    number, frame = part
    try:
        table = table_of_frame(frame, schema)
    except (pa.ArrowException, TypeError, KeyError) as error:
        reason = "; ".join(map(str, error.args))
        raise DataError(f"partition {number}: {reason}; give the column one type with astype") from error
    with written_whole(_part_path(directory, number)) as temporary:
        pq.write_table(table, temporary, row_group_size=row_group_rows, compression="zstd")
    return len(frame)
