"""One pass counts rows, weights and classes; what was counted is found again, and only for the same data."""

from __future__ import annotations

import os
import subprocess
import sys
from decimal import Decimal

import dask.config
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xarray as xr

from dtk.errors import ArgumentError, DataError
from dtk.sources import TableSource, as_source, count_cache, counted, split
from dtk.sources.count_cache import Counts, load_counts, save_counts
from dtk.sources.counting import count
from dtk.sources.datasets import array_source

ROWS = 1000


@pytest.fixture(autouse=True)
def cache(tmp_path):
    """An empty cache."""
    with dask.config.set({"dtk.cache-dir": str(tmp_path / "cache")}):
        yield tmp_path / "cache" / "counts"


def make_table():
    rng = np.random.default_rng(0)
    x = rng.standard_normal(ROWS)
    return pa.table({"x": x, "w": rng.integers(0, 5, ROWS), "kind": np.array(list("abc"))[rng.integers(0, 3, ROWS)]})


@pytest.fixture
def path(tmp_path):
    path = str(tmp_path / "data.parquet")
    pq.write_table(make_table(), path, row_group_size=90)
    return path


def spoil(path):
    """Overwrite all but the footer of a file, which looks as before."""
    before = os.stat(path)
    with open(path, "rb+") as file:
        file.seek(-8, os.SEEK_END)
        footer = int.from_bytes(file.read(4), "little") + 8
        file.seek(0)
        file.write(b"\xff" * (before.st_size - footer))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_weights_are_added_up_chunk_by_chunk(path):
    counts = count(as_source(path), weights="w")
    w = make_table()["w"].to_numpy()
    assert counts.chunk_rows.tolist() == [90] * 11 + [10]
    assert counts.chunk_weights.tolist() == [w[start : start + 90].sum() for start in range(0, ROWS, 90)]


@pytest.mark.parametrize("kind", ["text", "dictionary", "integer", "whole", "boolean", "date", "decimal"])
def test_classes_weigh_the_same(tmp_path, kind):
    codes = np.random.default_rng(1).choice(2 if kind == "boolean" else 3, ROWS, p=None)
    codes[:100] = 0  # a chunk without the others
    values = {
        "text": np.array(["a", "bc", ""])[codes],
        "dictionary": pa.array(np.array(["a", "bc", ""])[codes]).dictionary_encode(),
        "integer": codes.astype("i2") - 1,
        "whole": codes.astype("f4"),
        "boolean": codes > 0,
        "date": np.array(["2020-01-01", "2021-01-01", "1999-12-31"], "M8[s]")[codes],
        "decimal": pa.array([Decimal(int(code)) for code in codes]),
    }[kind]
    pq.write_table(pa.table({"y": values}), tmp_path / "data.parquet", row_group_size=100)
    counts = count(as_source(str(tmp_path / "data.parquet")), classes="y")
    found = counts.class_rows
    assert sorted(found) == sorted(np.bincount(codes))
    assert counts.chunk_weights.sum() == pytest.approx(len(found))
    assert counts.chunk_weights[0] == pytest.approx(100 / (codes == 0).sum())
    expected = [sum(1 / (codes == code).sum() for code in part) for part in codes.reshape(10, 100)]
    np.testing.assert_allclose(counts.chunk_weights, expected)


@pytest.mark.parametrize("column", ["w", "kind"])
def test_the_same_in_one_group_or_many_in_memory_or_on_disk(path, column, monkeypatch):
    def counts_of(data):
        found = count(data, **({"weights": "w"} if column == "w" else {"classes": "kind"}))
        return [None if value is None else value.tolist() for value in vars(found).values()]

    table = make_table()
    on_disk = counts_of(as_source(path))
    assert counts_of(TableSource(table, rows_per_chunk=90)) == on_disk
    assert counts_of(as_source(dd.read_parquet(path).assign(z=1))) == on_disk
    monkeypatch.setattr("dtk.sources.counting._GROUPS", 3)
    assert counts_of(as_source(dd.read_parquet(path).assign(z=2))) == on_disk
    assert on_disk[0] == [90] * 11 + [10]


def test_a_filter_and_weights_are_counted_in_one_pass(path, client):
    df = dd.read_parquet(path)
    source = as_source(df[df.x > 0][["w"]])
    assert source.chunk_rows is None
    counts = count(source, weights="w")
    frame = make_table().to_pandas()
    frame = frame[frame.x > 0]
    groups = frame.groupby(frame.index // 90)
    assert counts.chunk_rows.tolist() == groups.size().tolist()
    assert counts.chunk_weights.tolist() == groups.w.sum().tolist()


def test_arrays_are_counted_along_their_own_chunks(tmp_path, cache):
    data = xr.Dataset({"t": (("time", "x"), np.zeros((100, 9))), "w": ("time", np.arange(100.0))})
    data["y"] = ("time", (np.arange(100) // 60).astype(">i4"))
    encoding = {"t": {"chunks": (30, 9)}, "w": {"chunks": (100,)}, "y": {"chunks": (7,)}}
    path = str(tmp_path / "data.zarr")
    data.to_zarr(path, encoding=encoding, zarr_format=2, consolidated=False)
    import dtk.sources.datasets as datasets

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "_LEAST_NBYTES", 1)
        source = array_source(path)
    counts = count(source, weights="w")
    assert counts.chunk_weights.tolist() == [w.sum() for w in np.split(np.arange(100.0), [30, 60, 90])]
    np.testing.assert_allclose(count(source, classes="y").chunk_weights, [0.5, 0.5, 0.75, 0.25])
    assert not cache.exists()  # the metadata would not tell that values changed


@pytest.mark.parametrize("wanted", [{}, {"weights": "w"}, {"classes": "kind"}])
def test_the_same_data_is_counted_once(path, wanted):
    df = dd.read_parquet(path)
    first = count(as_source(df[df.x > 0]), **wanted)
    spoil(path)
    df = dd.read_parquet(path)
    again = count(as_source(df[df.x > 0]), **wanted)
    for one, other in zip(vars(first).values(), vars(again).values(), strict=True):
        assert (one is None and other is None) or one.tolist() == other.tolist()
    with pytest.raises(DataError, match="cannot be read"):
        count(as_source(df[df.x > 1]), **wanted)


def test_another_process_finds_it(path, cache):
    count(as_source(path), weights="w")
    spoil(path)
    script = (
        "import sys; from dtk.sources import as_source; from dtk.sources.counting import count\n"
        "print(count(as_source(sys.argv[1]), weights='w').chunk_weights.sum())"
    )
    environ = os.environ | {"DASK_DTK__CACHE_DIR": str(cache.parent)}
    found = subprocess.run(
        [sys.executable, "-c", script, path], capture_output=True, text=True, env=environ, check=True
    )
    assert float(found.stdout) == make_table()["w"].to_numpy().sum()


def test_a_changed_file_is_counted_anew(path):
    before = count(as_source(path), weights="w").chunk_weights
    table = make_table()
    pq.write_table(table.set_column(1, "w", pa.array(table["w"].to_numpy() + 1)), path, row_group_size=90)
    counts = count(as_source(path), weights="w")
    np.testing.assert_array_equal(counts.chunk_weights, before + counts.chunk_rows)


THRESHOLD = 0.0


def above(frame):
    return frame[frame.x > threshold()]


def threshold():
    return THRESHOLD


def test_expressions_with_functions_of_the_user_are_counted_each_time(path, cache, monkeypatch):
    df = dd.read_parquet(path)
    num_above = int((make_table()["x"].to_numpy() > 0).sum())
    for data in (df.map_partitions(above), df.map_partitions(lambda frame: above(frame)[:])):
        assert counted(as_source(data)).chunk_rows.sum() == num_above
    with monkeypatch.context() as patch:
        patch.setattr(sys.modules[__name__], "THRESHOLD", 9.0)  # nothing in the expression tells
        assert counted(as_source(df.map_partitions(above))).chunk_rows.sum() == 0
    assert not cache.exists()
    known = [df[df.x > 0], df.query("x > 0"), df[df.kind.str.contains("a")], split(df, fractions=[0.5, 0.5])[0]]
    known += [df[np.sqrt(df.w) > 1], df.assign(z=df.x.astype("f4"))[df.w > 1].dropna()]
    for number, data in enumerate(known):
        counted(as_source(data))
        assert len(list(cache.iterdir())) == number + 1


@pytest.mark.parametrize("broken", ["empty", "cut", "flipped", "other"])
def test_a_damaged_or_foreign_file_is_ignored_and_written_anew(path, cache, broken):
    expected = count(as_source(path), weights="w").chunk_weights
    count(as_source(path), classes="kind")
    one, other = sorted(cache.iterdir())
    whole = {file: file.read_bytes() for file in (one, other)}
    for file, bytes_of_other in ((one, whole[other]), (other, whole[one])):
        flipped = bytearray(whole[file])
        flipped[len(flipped) // 2] ^= 1
        spoiled = {"empty": b"", "cut": whole[file][:-9], "flipped": bytes(flipped), "other": bytes_of_other}
        file.write_bytes(spoiled[broken])
    np.testing.assert_array_equal(count(as_source(path), weights="w").chunk_weights, expected)
    count(as_source(path), classes="kind")
    assert {file: file.read_bytes() for file in cache.iterdir()} == whole


def test_a_cache_that_cannot_be_written_is_a_warning(path, tmp_path):
    (tmp_path / "file").write_text("")
    with dask.config.set({"dtk.cache-dir": str(tmp_path / "file")}), pytest.warns(UserWarning, match="dtk.cache-dir"):
        assert count(as_source(path), weights="w").chunk_rows.sum() == ROWS


def test_the_cache_stays_small_and_without_remains(cache, monkeypatch):
    monkeypatch.setattr(count_cache, "_KEPT_FILES", 3)
    for number in range(6):
        save_counts(str(number), Counts(np.array([number])))
        os.utime(max(cache.iterdir(), key=lambda file: file.stat().st_mtime_ns), (number, number))
    assert [load_counts(str(number)) is not None for number in range(6)] == [False] * 3 + [True] * 3
    assert len(list(cache.iterdir())) == 3


def test_counts_in_use_stay_and_what_killed_processes_left_goes(cache, monkeypatch):
    monkeypatch.setattr(count_cache, "_KEPT_FILES", 2)
    for number in range(2):
        save_counts(str(number), Counts(np.array([number])))
        os.utime(max(cache.iterdir(), key=lambda file: file.stat().st_mtime_ns), (number, number))
    assert load_counts("0") is not None  # the older one, and used last
    for name, time_s in ((".00.counts.01234567", 0), (".11.counts.01234567", None)):
        (cache / name).touch()
        os.utime(cache / name, None if time_s is None else (time_s, time_s))
    save_counts("2", Counts(np.array([2])))
    assert [load_counts(str(number)) is not None for number in range(3)] == [True, False, True]
    assert [path.name for path in cache.glob(".*")] == [".11.counts.01234567"]  # somebody may be writing it


def test_the_cache_is_where_dask_or_the_desktop_says(monkeypatch, tmp_path):
    from dtk.config import cache_directory

    with dask.config.set({"dtk.cache-dir": "~/here"}):
        assert cache_directory() == tmp_path.__class__("~/here").expanduser()
    with dask.config.set({"dtk.cache-dir": None}):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert cache_directory() == tmp_path / "dtk"
        monkeypatch.delenv("XDG_CACHE_HOME")
        assert cache_directory() == tmp_path.__class__("~/.cache/dtk").expanduser()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0, None, float("nan"), float("inf")], r"sampling='w' is null, NaN or infinite in 3 rows; .*dropna"),
        ([1.0, -1.0, -0.5, 0.0], r"sampling='w' is negative in 2 rows; .*data\[data\['w'\] >= 0\]"),
        ([0, 0, 0, 0], "sampling='w' is 0 in all 4 rows; give another column"),
        ([1e308, 1e308, 1e308, 1e308], "sampling='w' is too large to be added up over 4 rows"),
    ],
)
def test_weights_that_cannot_be_drawn_by_are_refused(tmp_path, values, message, cache):
    path = str(tmp_path / "data.parquet")
    pq.write_table(pa.table({"w": values}), path, row_group_size=2)
    for data in (path, pa.table({"w": values})):
        with pytest.raises(DataError, match=message):
            count(as_source(data), weights="w")
    assert not cache.exists()


def test_missing_classes_and_too_many_are_refused(path):
    missing = pa.table({"y": [1.0, None, float("nan"), 2.0]})
    with pytest.raises(DataError, match=r"target='y'.* is missing in 2 rows; .*dropna\(subset=\['y'\]\)"):
        count(as_source(missing), classes="y")
    with pytest.raises(ArgumentError, match=r"more than 10,000 different values in target='x'.* give sampling="):
        count(as_source({"x": np.random.default_rng(0).random(10_001)}), classes="x")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dtk.sources.counting.MOST_CLASSES", 500)
        for data in (TableSource(make_table(), rows_per_chunk=90), as_source(path)):  # as they are counted, or merged
            with pytest.raises(ArgumentError, match="more than 500"):
                count(data, classes="x")


def test_no_rows_are_no_mistake(tmp_path):
    empty = pa.table({"w": pa.array([], pa.float64())})
    assert count(as_source(empty), weights="w").chunk_weights.tolist() == []
    df = pd.DataFrame({"w": [1.0, 2.0], "x": [0, 0]})
    df.to_parquet(tmp_path / "data.parquet")
    lazy = dd.read_parquet(tmp_path / "data.parquet")
    assert counted(as_source(lazy[lazy.x > 0])).chunk_rows.sum() == 0
    assert count(as_source(lazy[lazy.x > 0]), weights="w").chunk_weights.tolist() == [0]
    assert count(as_source(lazy[lazy.x > 0]), classes="w").class_rows.tolist() == []
