"""Writing Parquet: one schema, resumable, published whole."""

from __future__ import annotations

import os
import time
from pathlib import Path

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from dtk.errors import ArgumentError, DataError
from dtk.sources import as_source, write_parquet
from dtk.sources import open as open_data

pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword")  # Dask 2026.8 with pandas 3.1


def make_frame(num_rows=100):
    return pd.DataFrame(
        {
            "i": np.arange(num_rows),
            "s": [None] * (num_rows // 2) + ["x"] * (num_rows - num_rows // 2),
            "c": pd.Categorical(["u", "v"] * (num_rows // 2)),
            "o": pd.Series([None] * (num_rows // 2) + ["y"] * (num_rows - num_rows // 2), dtype=object),
        }
    )


def collection(num_parts=4):
    return dd.from_pandas(make_frame(), npartitions=num_parts)


def test_written_and_opened_again(tmp_path):
    path = write_parquet(collection(), tmp_path / "out", row_group_rows=10)
    assert sorted(os.listdir(path)) == [f"part-{number:05d}.parquet" for number in range(4)]
    assert os.listdir(tmp_path) == ["out"]
    found = open_data(path).compute().reset_index(drop=True).astype({"s": "str", "o": "str"})
    expected = make_frame().astype({"o": "str"})
    pd.testing.assert_frame_equal(found, expected, check_dtype=False, check_categorical=False)
    assert max(as_source(path).chunk_rows) == 10
    assert len({str(pq.read_schema(f"{path}/{name}")) for name in os.listdir(path)}) == 1


def test_empty_partitions_and_pandas(tmp_path):
    data = collection()
    path = write_parquet(data[data.i < 30], tmp_path / "out")
    assert len(os.listdir(path)) == 4
    assert len(open_data(path)) == 30
    assert len(open_data(write_parquet(make_frame(), tmp_path / "pandas"))) == 100


def test_series_and_named_index_are_columns(tmp_path):
    path = write_parquet(collection().groupby("i").i.count().rename("n"), tmp_path / "out")
    assert list(open_data(path).columns) == ["i", "n"]


def test_on_a_cluster_with_a_shuffle(tmp_path, client):
    data = collection().merge(collection(3)[["i"]], on="i")
    path = write_parquet(data, tmp_path / "out")
    assert sorted(open_data(path).i.compute()) == list(range(100))


class Fails:
    """Fails on the last partition while a file lies there, and counts its calls."""

    def __init__(self, directory):
        self.directory = str(directory)

    def __call__(self, frame):
        if len(frame):
            with open(f"{self.directory}/calls", "a") as calls:
                calls.write(f"{frame.i.iloc[0]}\n")
            if os.path.exists(f"{self.directory}/broken") and 75 in set(frame.i):
                deadline = time.monotonic() + 5
                while not list(Path(self.directory).glob("out.partial-*/part-*")) and time.monotonic() < deadline:
                    time.sleep(0.05)
                raise RuntimeError("broken")
        return frame


def test_interrupted_write_goes_on_where_it_stopped(tmp_path):
    (tmp_path / "broken").touch()
    data = collection().map_partitions(Fails(tmp_path), meta=make_frame(2).iloc[:0])
    with dask.config.set(num_workers=2), pytest.raises(RuntimeError, match="broken"):
        write_parquet(data, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "broken").unlink()
    done = len(list(tmp_path.glob("out.partial-*/part-*")))
    assert done >= 1
    before = (tmp_path / "calls").read_text().count("\n")
    write_parquet(data, tmp_path / "out")
    again = (tmp_path / "calls").read_text().count("\n") - before
    assert 1 <= again <= 4 - done  # fewer where a worker finished a part after the error
    assert len(open_data(tmp_path / "out")) == 100
    assert not list(tmp_path.glob("out.*"))


def test_overwrite(tmp_path):
    path = write_parquet(collection(), tmp_path / "out")
    with pytest.raises(ArgumentError, match=r"exists; give another path, or overwrite=True"):
        write_parquet(collection(), path)
    data = open_data(path)
    write_parquet(data[data.i < 7], path, overwrite=True)  # of itself: it stays whole until the new one is there
    assert len(open_data(path)) == 7
    assert os.listdir(tmp_path) == ["out"]


def test_a_directory_of_other_files_is_never_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ArgumentError, match="remove it yourself"):
        write_parquet(collection(), tmp_path, overwrite=True)
    with pytest.raises(ArgumentError, match="remove it yourself"):
        write_parquet(collection(), tmp_path / "thesis.tex", overwrite=True)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_refused(tmp_path):
    with pytest.raises(ArgumentError, match="path='s3://bucket/x' is remote"):
        write_parquet(collection(), "s3://bucket/x")
    with pytest.raises(ArgumentError, match="row_group_rows=0"):
        write_parquet(collection(), tmp_path / "out", row_group_rows=0)
    bad = collection().assign(i=collection().i.map(lambda value: "text", meta=("i", "int64")))
    with pytest.raises(DataError, match=r"partition \d: .*give the column one type"):
        write_parquet(bad, tmp_path / "out")
