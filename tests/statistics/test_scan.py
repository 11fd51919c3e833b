"""A scan reads every row once, wherever it lies, and numbers the rows."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dtk.errors import ArgumentError, DataError, SourceError
from dtk.statistics import Moments, RowSample, scan


class Sums:
    """Moments and a sample of one column, and the names that came."""

    def __init__(self, column: str) -> None:
        self.column = column
        self.names: tuple[str, ...] = ()
        self.moments = Moments()
        self.sample = RowSample(20)

    def update(self, table: pa.Table, first_row: int) -> None:
        self.names = tuple(table.column_names)
        self.moments.update(table[self.column])
        self.sample.update(table[self.column], first_row + np.arange(table.num_rows))

    def merge(self, other: Sums) -> None:
        self.names = self.names or other.names
        self.moments.merge(other.moments)
        self.sample.merge(other.sample)


make = partial(Sums, "x")


@pytest.fixture
def frame() -> pd.DataFrame:
    return pd.DataFrame({"x": np.arange(1000), "y": [f"é{number % 7}" for number in range(1000)]})


@pytest.fixture
def path(frame: pd.DataFrame, tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(4):
        part = pa.Table.from_pandas(frame.iloc[number * 250 : (number + 1) * 250], preserve_index=False)
        pq.write_table(part, folder / f"{number}.parquet", row_group_size=90)
    return folder


def check(state: Sums, frame: pd.DataFrame) -> None:
    assert state.moments.count == len(frame)
    assert state.moments.mean == pytest.approx(frame["x"].mean())
    assert state.moments.std == pytest.approx(frame["x"].std(ddof=0))


def test_the_same_answer_from_everywhere(frame: pd.DataFrame, path: Path) -> None:
    table = pa.Table.from_pandas(frame, preserve_index=False)
    everywhere: list[Any] = [
        frame,
        table,
        {"x": frame["x"].to_numpy()},
        dd.read_parquet(path),
        str(path),
    ]
    states = [scan(data, make) for data in everywhere]
    for state in states:
        check(state, frame)
        assert state.sample.values.to_pylist() == states[0].sample.values.to_pylist()


def test_only_the_asked_columns_are_read(frame: pd.DataFrame, path: Path) -> None:
    for data in (frame, dd.read_parquet(path), str(path)):
        assert scan(data, make, columns=["x"]).names == ("x",)


def test_frames_that_no_source_reads_are_computed(frame: pd.DataFrame, path: Path) -> None:
    shuffled = dd.read_parquet(path).shuffle("y")
    check(scan(shuffled, make), frame)
    assert scan(shuffled, make, columns=["x"]).names == ("x",)
    check(scan(dd.from_pandas(frame, npartitions=3), make), frame)


def test_shared_work_is_done_once(frame: pd.DataFrame) -> None:
    calls = []

    def upstream(part: pd.DataFrame) -> pd.DataFrame:
        calls.append(1)
        return part

    data = dd.from_pandas(frame, npartitions=12).map_partitions(upstream, meta=frame.iloc[:0])
    check(scan(data.shuffle("y"), make), frame)
    assert len(calls) == 12


def test_filters_count_their_rows_only(frame: pd.DataFrame, path: Path) -> None:
    data = dd.read_parquet(path)
    check(scan(data[data["x"] % 3 == 0], make), frame[frame["x"] % 3 == 0])


def test_no_rows(frame: pd.DataFrame, path: Path) -> None:
    data = dd.read_parquet(path)
    for empty in (frame.iloc[:0], data[data["x"] < 0], dd.from_pandas(frame.iloc[:0], npartitions=1)):
        state = scan(empty, make)
        assert state.moments.count == 0
        assert state.names == ("x", "y")


def test_on_a_cluster(frame: pd.DataFrame, path: Path, client: Any) -> None:
    check(scan(dd.read_parquet(path), make, label="read-in-place"), frame)
    check(scan(dd.read_parquet(path).shuffle("y"), make, label="shuffled"), frame)
    names = client.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.task_prefixes))
    assert {"read-in-place", "read-in-place-merge", "shuffled", "shuffled-merge"} <= set(names)


def test_what_cannot_work_is_refused(frame: pd.DataFrame, path: Path) -> None:
    for data in (frame, dd.read_parquet(path)):
        with pytest.raises(ArgumentError, match="columns='xx' is no column of the data; did you mean 'x'"):
            scan(data, make, columns=["xx"])
    with pytest.raises(SourceError, match=r"Series is no table that dtk reads"):
        scan(dd.read_parquet(path)["x"], make)
    with pytest.raises(DataError, match=r"the DataFrame cannot become a table.*column mixed"):
        scan(pd.DataFrame({"mixed": [1, "a"]}, dtype=object), make)
