"""Write tables as Parquet: part by part, resumable, published whole by one rename."""

from __future__ import annotations

import math
import os
import shutil
import uuid
from functools import partial
from typing import Any, Final

import dask
import dask.dataframe as dd
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from dask._expr import Expr
from dask.base import tokenize
from dask.callbacks import Callback
from dask.dataframe.dask_expr.io.parquet import ReadParquet
from dask.delayed import delayed
from dask.utils import parse_bytes

from dtk.errors import ArgumentError, DataError
from dtk.progress import Progress
from dtk.sources.schema import arrow_schema

__all__ = ["write_parquet"]

PART_NBYTES: Final = parse_bytes("128 MiB")
LABEL: Final = "write-parquet"


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
        Whether to replace an existing directory of Parquet files; it stays whole until the new one is complete.
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
        If the path is remote, exists, or an argument cannot work.
    DataError
        If a column's values do not fit one type.
    """
    target = _checked_target(path, overwrite)
    if row_group_rows < 1:
        raise ArgumentError(f"row_group_rows={row_group_rows} must be at least 1")
    table = _as_frame(frame)
    repeated = table.columns[table.columns.duplicated()]
    if len(repeated):
        raise ArgumentError(f"frame has the column {repeated[0]!r} twice; rename one")
    identity = _identity(table.expr, {})
    table = table.optimize()
    schema = arrow_schema(table._meta)
    token = tokenize(identity, str(schema), row_group_rows)[:16]
    partial_path = f"{target}.partial-{token}"
    os.makedirs(partial_path, exist_ok=True)
    write = partial(_write_part, directory=partial_path, schema=schema, row_group_rows=row_group_rows)
    parts = [
        delayed((number, part))
        for number, part in enumerate(table.to_delayed(optimize_graph=False))
        if not os.path.exists(_part_path(partial_path, number))
    ]
    if parts:
        _run(write, parts, progress)
    _publish(partial_path, target, token)
    return target


def _checked_target(path: str | os.PathLike[str], overwrite: bool) -> str:
    text = os.fspath(path)
    if "://" in text:
        raise ArgumentError(f"path={text!r} is remote; write to a local directory and copy that")
    target = os.path.abspath(os.path.expanduser(text))
    if not os.path.lexists(target):
        return target
    if not overwrite:
        raise ArgumentError(f"path={text!r} exists; give another path, or overwrite=True")
    # A slip must not cost a home directory: replace nothing but what looks like a Parquet dataset.
    files = [target] if not os.path.isdir(target) else [name for _, _, names in os.walk(target) for name in names]
    other = [name for name in files if not name.endswith((".parquet", ".parq", ".pq")) and name[:1] not in "._"]
    if other or not os.path.isdir(target):
        raise ArgumentError(f"path={text!r} is no directory of Parquet files alone; remove it yourself")
    return target


def _as_frame(frame: Any) -> dd.DataFrame:
    if isinstance(frame, (pd.Series, dd.Series)):
        frame = frame.to_frame(frame.name if frame.name is not None else "value")
    if isinstance(frame, pd.DataFrame):
        num_parts = max(1, math.ceil(frame.memory_usage(index=False).sum() / PART_NBYTES))
        frame = dd.from_pandas(frame, npartitions=num_parts, sort=False)
    if not isinstance(frame, dd.DataFrame):
        raise ArgumentError(f"frame={type(frame).__name__} is no table; give a Dask or pandas DataFrame")
    if frame.index.name is not None and frame.index.name not in frame.columns:
        frame = frame.reset_index()
    renamed: dd.DataFrame = frame.rename(
        columns={name: str(name) for name in frame.columns if not isinstance(name, str)}
    )
    return renamed


def _identity(expr: Any, known: dict[str, str]) -> str:
    """Hash an expression so that another process comes to the same: Dask's name of a Parquet read holds state."""

    def stable(operand: Any) -> Any:
        if isinstance(operand, Expr):
            return _identity(operand, known)
        if isinstance(operand, (list, tuple)):
            return [stable(item) for item in operand]
        return {key: stable(item) for key, item in operand.items()} if isinstance(operand, dict) else operand

    if expr._name not in known:
        parts: list[Any] = [type(expr).__qualname__]
        operands = list(expr.operands)
        if isinstance(expr, ReadParquet):
            parts.append(expr.checksum)  # of the files' sizes and times
            caches = ("_dataset_info_cache", "_pq_length_stats")
            operands = [expr.operand(name) for name in expr._parameters if name not in caches]
        known[expr._name] = tokenize(*parts, *map(stable, operands))
    return known[expr._name]


def _run(write: Any, parts: list[Any], progress: bool) -> None:
    from dtk.runtime import current_client, delayed_reduce

    if current_client() is not None:
        delayed_reduce(write, sum, parts, label=LABEL, progress=progress)
        return
    # All in one graph: partitions may share work, such as a shuffle.
    tasks = [delayed(write)(part, dask_key_name=f"{LABEL}-{number}") for number, part in enumerate(parts)]
    with Progress(LABEL, len(tasks), enabled=progress) as bar, _Counter(bar):
        dask.compute(tasks, scheduler="threads", optimize_graph=True)


class _Counter(Callback):
    """Tells a progress bar how many parts are written."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._done = 0

    def _posttask(self, key: Any, result: Any, dsk: Any, state: Any, worker_id: Any) -> None:
        if str(key).startswith(LABEL):
            self._done += 1
            self._bar.update(self._done)


def _part_path(directory: str, number: int) -> str:
    return f"{directory}/part-{number:05d}.parquet"


def _write_part(part: tuple[int, pd.DataFrame], *, directory: str, schema: pa.Schema, row_group_rows: int) -> int:
    """Write a partition under a temporary name, then give it its own."""
    number, frame = part
    try:
        table = pa.Table.from_pandas(frame, schema=schema, preserve_index=False).replace_schema_metadata()
    except (pa.ArrowException, TypeError, KeyError) as error:
        reason = "; ".join(map(str, error.args))
        raise DataError(f"partition {number}: {reason}; give the column one type with astype") from error
    final = _part_path(directory, number)
    temporary = f"{directory}/.{os.path.basename(final)}.{uuid.uuid4().hex[:8]}"
    try:
        pq.write_table(table, temporary, row_group_size=row_group_rows, compression="zstd")
        os.replace(temporary, final)
    except BaseException:
        if os.path.exists(temporary):
            os.remove(temporary)
        raise
    return len(frame)


def _publish(partial_path: str, target: str, token: str) -> None:
    for name in os.listdir(partial_path):  # what a killed process left
        if name.startswith("."):
            os.remove(f"{partial_path}/{name}")
    if not os.path.lexists(target):
        os.rename(partial_path, target)
        return
    aside = f"{target}.replaced-{token}"
    os.rename(target, aside)
    try:
        os.rename(partial_path, target)
    except OSError:
        os.rename(aside, target)
        raise
    shutil.rmtree(aside)
