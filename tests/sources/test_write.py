"""Writing Parquet: one schema, resumable, published whole."""

from __future__ import annotations

import gc
import os
import sys
import time
from pathlib import Path
from types import ModuleType

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
    """Fails on the last partition while a file lies there."""

    def __init__(self, directory):
        self.directory = str(directory)

    def __call__(self, frame):
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
    done = {part.name: part.stat().st_mtime_ns for part in tmp_path.glob("out.partial-*/part-*")}
    assert 1 <= len(done) <= 3
    write_parquet(data, tmp_path / "out")
    kept = {part.name: part.stat().st_mtime_ns for part in (tmp_path / "out").iterdir()}
    assert {name: kept[name] for name in done} == done
    assert len(open_data(tmp_path / "out")) == 100
    assert not list(tmp_path.glob("out.*"))


def read_number(path, broken):
    """Read a file that Dask knows nothing of."""
    if broken is not None and os.path.exists(broken):
        raise RuntimeError("broken")
    return pd.DataFrame({"x": [int(Path(path).read_text())]})


def test_what_a_users_function_reads_is_never_mixed_with_what_it_read_before(tmp_path):
    """Files change between an interrupted write and the next: all parts are of the second time."""
    (tmp_path / "broken").touch()
    files = [str(tmp_path / name) for name in "ab"]
    for file in files:
        Path(file).write_text("1")

    def data():
        pieces = list(zip(files, [None, str(tmp_path / "broken")], strict=True))
        return dd.from_map(read_number, files, [broken for _, broken in pieces], meta=pd.DataFrame({"x": [0]}).iloc[:0])

    with dask.config.set(num_workers=1), pytest.raises(RuntimeError, match="broken"):
        write_parquet(data(), tmp_path / "out")
    assert not list(tmp_path.glob("out*"))
    (tmp_path / "broken").unlink()
    for file in files:
        Path(file).write_text("2")
    write_parquet(data(), tmp_path / "out")
    assert open_data(tmp_path / "out").compute()["x"].tolist() == [2, 2]


def test_an_interrupted_write_of_csv_goes_on(tmp_path):
    """Dask knows the state of the files that it reads itself."""
    for name, start in (("a", 0), ("b", 70)):
        make_frame(100).iloc[start : start + 10].to_csv(tmp_path / f"{name}.csv", index=False)
    (tmp_path / "broken").touch()
    data = open_data(tmp_path / "*.csv")
    data = data.map_partitions(Fails(tmp_path), meta=data._meta)
    with pytest.raises(RuntimeError, match="broken"):
        write_parquet(data, tmp_path / "out")
    assert len(list(tmp_path.glob("out.partial-*"))) == 1


def test_overwrite(tmp_path):
    path = write_parquet(collection(), tmp_path / "out")
    with pytest.raises(ArgumentError, match=r"exists; give another path, or overwrite=True"):
        write_parquet(collection(), path)
    data = collection()
    write_parquet(data[data.i < 7], path, overwrite=True)
    assert len(open_data(path)) == 7
    assert os.listdir(tmp_path) == ["out"]


def test_overwrite_through_a_link_keeps_the_link(tmp_path):
    path = write_parquet(collection(), tmp_path / "out")
    (tmp_path / "link").symlink_to(path)
    write_parquet(make_frame(10), tmp_path / "link", overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert len(open_data(path)) == 10


def from_files(path):
    return dd.from_map(pd.read_parquet, sorted(map(str, Path(path).rglob("*.parquet"))))


def from_tasks(path):
    return dd.from_delayed([dask.delayed(pd.read_parquet)(file) for file in sorted(Path(path).rglob("*.parquet"))])


def with_pyarrow(path):
    return dd.read_parquet(path, filesystem="arrow")


@pytest.mark.parametrize("read", [open_data, dd.read_parquet, with_pyarrow, from_files, from_tasks])
@pytest.mark.parametrize("target", ["year", "year/2013", "link", "year/../year"])
def test_what_the_table_is_read_from_is_never_replaced(tmp_path, read, target):
    path = write_parquet(collection(), tmp_path / "year" / "2013")
    (tmp_path / "link").symlink_to("year")
    data = read(path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ArgumentError, match=r"path='.*' holds files that frame is read from; write elsewhere"):
        write_parquet(data[data.i < 7][["i"]], tmp_path / target, overwrite=True)
    assert sorted(tmp_path.rglob("*")) == before
    assert len(open_data(path)) == 100


def test_data_read_through_a_link_is_not_replaced_either(tmp_path):
    write_parquet(collection(), tmp_path / "year")
    (tmp_path / "link").symlink_to("year")
    with pytest.raises(ArgumentError, match="is read from"):
        write_parquet(open_data(tmp_path / "link"), tmp_path / "year", overwrite=True)


def test_a_value_that_is_the_name_of_the_target_is_no_file(tmp_path, monkeypatch):
    write_parquet(collection(), tmp_path / "in")
    write_parquet(collection(), tmp_path / "x")
    monkeypatch.chdir(tmp_path)
    data = open_data(tmp_path / "in")
    write_parquet(data[data.s == "x"], "x", overwrite=True)
    assert len(open_data(tmp_path / "x")) == 50


@pytest.mark.parametrize("name", [".bashrc", ".env.parquet", "_draft.tex"])
def test_hidden_files_of_others_are_not_replaced(tmp_path, name):
    path = Path(write_parquet(collection(), tmp_path / "out"))
    (path / name).write_text("mine")
    with pytest.raises(ArgumentError, match="remove it yourself"):
        write_parquet(make_frame(), path, overwrite=True)
    assert (path / name).read_text() == "mine"


def test_what_other_writers_leave_is_replaced(tmp_path):
    path = Path(write_parquet(collection(), tmp_path / "out"))
    for name in ("_SUCCESS", "_metadata", ".part-00000.parquet.crc", "._SUCCESS.crc"):
        (path / name).touch()
    write_parquet(make_frame(10), path, overwrite=True)
    assert len(open_data(path)) == 10


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
    with pytest.raises(ArgumentError, match="frame has the column '__index_level_0__', a name by which readers know"):
        write_parquet(pd.DataFrame({"x": [1], "__index_level_0__": [2]}), tmp_path / "out")
    with pytest.raises(ArgumentError, match="row_group_rows=0"):
        write_parquet(collection(), tmp_path / "out", row_group_rows=0)
    bad = collection().assign(i=collection().i.map(lambda value: "text", meta=("i", "int64")))
    with pytest.raises(DataError, match=r"partition \d: .*give the column one type"):
        write_parquet(bad, tmp_path / "out")


@pytest.mark.parametrize("edited", ["itself", "a helper"])
def test_a_function_that_was_edited_after_an_interruption_writes_all_parts_anew(tmp_path, monkeypatch, edited):
    def work(text):
        gc.collect()  # Dask gives back the old expression of this name as long as one is there
        module = ModuleType("own_work")
        monkeypatch.setitem(sys.modules, "own_work", module)
        exec(text, vars(module))
        return collection()[["i"]].map_partitions(module.work, meta=collection()._meta[["i"]])

    pattern = f"{tmp_path}/out.partial-*/part-*"
    text = f"import glob\n\ndef work(x):\n    if glob.glob({pattern!r}):\n        0 / 0\n    return x + 1\n"
    if edited == "a helper":
        text = text.replace("work", "low") + "\ndef work(x):\n    return low(x)\n"
    with dask.config.set(num_workers=1), pytest.raises(ZeroDivisionError):
        write_parquet(work(text), tmp_path / "out")
    (partial,) = tmp_path.glob("out.partial-*")
    assert os.listdir(partial)
    path = write_parquet(work(text.replace("x + 1", "x + 1000").replace("0 / 0", "pass")), tmp_path / "out")
    assert open_data(path).i.compute().tolist() == list(range(1000, 1100))
