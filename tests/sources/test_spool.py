"""Spooling: the same values in a better layout, resumable, bounded, and published whole."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import dask
import dask.array as da
import dask.dataframe as dd
import fsspec
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import xarray as xr

import dtk
from dtk.errors import ArgumentError, DataError, DiskLimitError
from dtk.sources import grid_identity, spool_grid, spool_size, spool_table, store_owner, write_parquet

ROWS = 4000


def make_frame(num_rows=ROWS):
    numbers = np.arange(num_rows)
    random = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "i": numbers,
            "x": random.standard_normal(num_rows).astype("f4"),
            "small": (numbers % 100).astype("i1"),
            "maybe": pd.array(np.where(numbers % 3, numbers, None), "Int64"),
            "flag": pd.array(np.where(numbers % 5, numbers % 2 == 0, None), "boolean"),
            "s": np.where(numbers % 7, "abc", None),
            "c": pd.Categorical(np.take(["u", "v"], numbers % 2)),
            "day": pd.date_range("2000", periods=num_rows, freq="min").as_unit("ms"),
            "zone": pd.date_range("2000", periods=num_rows, freq="min", tz="Europe/Paris").as_unit("ns"),
        }
    )


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_parquet(make_frame(), tmp_path_factory.mktemp("table") / "in", row_group_rows=500)


@pytest.fixture
def small_pieces(monkeypatch):
    """A file a partition, however small."""
    monkeypatch.setattr(spool_table, "FILE_NBYTES", 1)


def opened(path, num_parts=8):
    return dtk.open(path).repartition(npartitions=num_parts)


def inodes(directory, pattern="part-*"):
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in Path(directory).glob(pattern)}


DATA = {
    "plain": lambda df: df,
    "shuffle": lambda df: df.shuffle("i"),
    "join": lambda df: df.merge(df[["i"]].assign(twice=df.i * 2), on="i"),
    "set_index": lambda df: df.set_index("i"),
    "repartition": lambda df: df.repartition(npartitions=3),
    "reduction": lambda df: df.groupby("small").x.agg(["mean", "max"]),
    "filter": lambda df: df[df.x > 0],
    "nothing kept": lambda df: df[(df.x > 0) & (df.i < 10)].shuffle("i"),
}


@pytest.mark.parametrize("name", DATA)
def test_tables_come_back_as_they_were(table, tmp_path, name):
    data = DATA[name](opened(table))
    spooled = dtk.spool(data, tmp_path / "out")
    assert isinstance(spooled, dd.DataFrame)
    expected = data.compute()
    expected = expected.reset_index() if expected.index.name else expected
    by = "i" if "i" in expected else "small"
    found = spooled.compute()
    pd.testing.assert_frame_equal(
        found.sort_values(by).reset_index(drop=True), expected.sort_values(by).reset_index(drop=True)
    )
    assert not list(tmp_path.glob("out.*"))


def test_types_of_pandas_stay(tmp_path):
    spooled = dtk.spool(make_frame(), tmp_path / "out").compute()
    expected = make_frame()
    assert {name: str(kind) for name, kind in spooled.dtypes.items()} == {
        name: {"str": "string"}.get(str(kind), str(kind)) for name, kind in expected.dtypes.items()
    }
    pd.testing.assert_frame_equal(spooled, expected, check_dtype=False)


def test_a_path_is_spooled_and_other_programs_read_the_spool(table, tmp_path):
    dtk.spool(table, tmp_path / "out")
    assert pd.read_parquet(tmp_path / "out").i.tolist() == list(range(ROWS))


def test_row_groups_are_of_even_and_sensible_size(tmp_path, monkeypatch):
    monkeypatch.setattr(spool_table, "GROUP_NBYTES", 100_000)
    monkeypatch.setattr(spool_table, "GROUP_ROWS", (16, 1 << 20))
    dtk.spool(pd.DataFrame({"x": np.random.default_rng(0).random(100_001)}), tmp_path / "out")
    footer = pq.read_metadata(tmp_path / "out" / "part-00000.parquet")
    rows = [footer.row_group(number).num_rows for number in range(footer.num_row_groups)]
    assert set(rows) == {11112, 11105}
    assert footer.row_group(0).column(0).compression == "LZ4"
    assert set(footer.row_group(0).column(0).encodings) == {"PLAIN", "RLE"}


def test_shuffled_data_is_loaded_from_its_spool_and_each_sample_comes_once(table, tmp_path):
    data = opened(table)[["i", "x"]].shuffle("i")
    with pytest.raises(dtk.SourceError, match=r"dtk\.spool\(data, path\) \(about .* before compression\)"):
        dtk.Loader(data)
    loader = dtk.Loader(dtk.spool(data, tmp_path / "out"), global_batch_size=100)
    found = np.concatenate([batch["inputs"][:, 0].numpy().copy() for batch in loader])
    assert sorted(found.astype(int)) == list(range(ROWS))


def test_small_partitions_share_a_file(table, tmp_path):
    dtk.spool(opened(table, 40), tmp_path / "out")
    assert len(inodes(tmp_path / "out")) == 1


def test_on_a_cluster(table, tmp_path, client, small_pieces):
    spooled = dtk.spool(opened(table).shuffle("i"), tmp_path / "out")
    assert sorted(spooled.i.compute()) == list(range(ROWS))
    data = climate().chunk({"time": 7})
    found = dtk.spool(data - data.mean("time"), tmp_path / "grid")
    xr.testing.assert_allclose(found.load(), climate() - climate().mean("time"), atol=1e-5)


def climate():
    random = np.random.default_rng(0)
    dims = ("time", "lat", "lon")
    return xr.Dataset(
        {
            "t2m": (dims, random.standard_normal((50, 6, 8)).astype("f4"), {"units": "K"}),
            "wind": (("lat", "time"), random.standard_normal((6, 50))),
            "rainy": ("time", np.arange(50) % 3 == 0),
            "when": ("time", pd.date_range("2001", periods=50, freq="h") + pd.to_timedelta(np.arange(50), "ns")),
            "since": ("time", pd.to_timedelta(np.arange(50) * 3, "ns")),
            "area": (("lat", "lon"), np.ones((6, 8))),
        },
        coords={
            "time": pd.date_range("2000", periods=50),
            "lat": np.arange(6.0),
            "code": ("lat", np.arange(6)),
            "sun": (("time", "lon"), random.integers(0, 9, (50, 8))),
            "level": 2,
        },
        attrs={"title": "climate", "versions": [1, 2]},
    )


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(spool_grid, "CHUNK_NBYTES", 4 * 6 * 8 * 4)
    monkeypatch.setattr(spool_grid, "PIECE_NBYTES", 6000)
    monkeypatch.setattr(grid_identity, "_LITTLE_NBYTES", 0)


@pytest.mark.parametrize("chunks", [None, {}, {"time": 7}, {"time": 3, "lat": 2, "lon": 5}])
def test_grids_come_back_as_they_were(tmp_path, small_chunks, chunks):
    stored = climate()
    stored["t2m"].encoding = {"dtype": "i2", "scale_factor": 0.01, "_FillValue": -1}
    stored.to_zarr(tmp_path / "in", zarr_format=2, consolidated=True)
    data = xr.open_zarr(tmp_path / "in", chunks=None if chunks is None else {})
    data = data.chunk(chunks) if chunks else data
    names = [*data.data_vars, *data.coords]
    assert [name for name in names if data[name].variable._in_memory] == ["lat", "time"]
    spooled = dtk.spool(data, tmp_path / "out")
    assert isinstance(spooled, xr.Dataset)
    assert [name for name in names if data[name].variable._in_memory] == ["lat", "time"]
    assert "scale_factor" not in spooled.t2m.encoding
    assert spooled.t2m.encoding["chunks"] == (2 if data.t2m.dtype == "f8" else 4, 6, 8)
    assert spooled.wind.encoding["chunks"] == (6, spooled.t2m.encoding["chunks"][0])
    xr.testing.assert_identical(spooled.load(), data.load())
    assert json.loads((tmp_path / "out" / "_spool.json").read_text())["num_pieces"] > 5


def test_computed_grids_are_loaded_from_their_spool(tmp_path, small_chunks):
    data = climate()[["t2m", "rainy"]].chunk({"time": 9})
    data["t2m"] = data.t2m - data.t2m.mean("time")
    data["rainy"] = data.rainy.astype("f4")
    with pytest.raises(dtk.SourceError, match=r"dtk\.spool\(data, path\) \(about 9\.4 KiB before compression\)"):
        dtk.Loader(data, inputs=["t2m"], target="rainy")
    spooled = dtk.spool(data, tmp_path / "out")
    loader = dtk.Loader(spooled, inputs=["t2m"], target="rainy", global_batch_size=5)
    found = np.concatenate([batch["inputs"].numpy()[:, 0].copy() for batch in loader])
    expected = data.t2m.values
    np.testing.assert_array_equal(found[np.argsort(found[:, 0, 0])], expected[np.argsort(expected[:, 0, 0])])


def test_samples_along_another_dimension(tmp_path, small_chunks):
    spooled = dtk.spool(climate(), tmp_path / "out", dim="lat")
    assert spooled.t2m.encoding["chunks"] == (50, 1, 8)
    xr.testing.assert_identical(spooled.load(), climate())


def test_what_grids_cannot_be_spooled(tmp_path):
    with pytest.raises(ArgumentError, match=r"dim='tme' is no dimension of the data; did you mean 'time'"):
        dtk.spool(climate(), tmp_path / "out", dim="tme")
    with pytest.raises(ArgumentError, match="dim='far' is in none of the variables"):
        dtk.spool(climate().assign_coords(far=[1, 2]), tmp_path / "out", dim="far")
    with pytest.raises(ArgumentError, match="dim='i' is for Datasets"):
        dtk.spool(make_frame(), tmp_path / "out", dim="i")
    with pytest.raises(DataError, match=r"data is empty along \['time'\]"):
        dtk.spool(climate().isel(time=slice(0, 0)), tmp_path / "out")
    with pytest.raises(DataError, match="data has no variables"):
        dtk.spool(xr.Dataset(), tmp_path / "out")
    with pytest.raises(DataError, match="data cannot be stored as Zarr"):
        dtk.spool(climate().stack(both=("time", "lat")), tmp_path / "out", dim="both")
    assert not list(tmp_path.iterdir())


SLOW = """
import sys, time, dask, dtk
from dtk.sources import spool_grid, spool_table

spool_table.FILE_NBYTES, spool_grid.CHUNK_NBYTES, spool_grid.PIECE_NBYTES = 1, 1000, 1000
source, target, delay_s = sys.argv[1], sys.argv[2], float(sys.argv[3])


def slowly(part):
    time.sleep(0)  # which is longer in the process that is killed; the function is the same
    return part


sleep = time.sleep
time.sleep = lambda _: sleep(delay_s)
data = dtk.open(source)
if hasattr(data, "data_vars"):
    data = (data - data.t2m.mean("time")).chunk({"time": 5})
    data = data.map_blocks(slowly, template=data)
else:
    data = data[data.s.isin({"abc", "b", "c"})].repartition(npartitions=8)
    data = data.map_partitions(slowly, meta=data._meta)
with dask.config.set(num_workers=1):
    dtk.spool(data, target)
"""


@pytest.mark.parametrize("kind", ["table", pytest.param("grid", marks=pytest.mark.slow)])
def test_a_killed_process_is_gone_on_with_where_it_stopped(table, tmp_path, kind):
    """Also in another process, whose sets are in another order."""
    source = table
    if kind == "grid":
        source = tmp_path / "in.zarr"
        climate()[["t2m"]].to_zarr(source, zarr_format=2, consolidated=True)
    (tmp_path / "slow.py").write_text(SLOW)
    command = [sys.executable, "-W", "ignore", str(tmp_path / "slow.py"), str(source), str(tmp_path / "out")]
    process = subprocess.Popen([*command, "0.3"])
    try:
        deadline = time.monotonic() + 60
        while len(list(tmp_path.glob("out.partial-*/_records/*.json"))) < 3:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
    (partial,) = tmp_path.glob("out.partial-*")
    recorded = [json.loads(path.read_text()) for path in partial.glob("_records/*.json")]
    names = [name for piece in recorded for name in piece["objects"]]
    before = {name: (partial / name).stat().st_mtime_ns for name in names}
    assert not (tmp_path / "out").exists()
    subprocess.run([*command, "0"], check=True, timeout=60)
    assert {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in names} == before
    spooled = dtk.open(tmp_path / "out")
    if kind == "table":
        assert spooled.i.compute().tolist() == [number for number in range(ROWS) if number % 7]
    else:
        expected = climate()[["t2m"]] - climate().t2m.mean("time")
        xr.testing.assert_allclose(spooled.load(), expected, atol=1e-5)
    assert not list(tmp_path.glob("out.*"))
    assert not [path for path in (tmp_path / "out").rglob("*") if path.name.startswith(".") or "_records" in str(path)]


class Fails:
    """Passes partitions on, but while a file lies there only as long as few pieces are written."""

    def __init__(self, flag, most=3):
        self.flag, self.most = Path(flag), most

    def __call__(self, frame):
        if self.flag.exists() and len(list(self.flag.parent.glob("out.partial-*/_records/*.json"))) >= self.most:
            raise RuntimeError("broken")
        return frame


@pytest.fixture
def interrupted(table, tmp_path, small_pieces):
    """A spool of eight pieces that was interrupted, the data, and the directory of what is there."""
    flag = tmp_path / "flag"
    flag.touch()
    data = opened(table)
    data = data.map_partitions(Fails(flag), meta=data._meta)
    with dask.config.set(num_workers=1), pytest.raises(RuntimeError, match="broken"):
        dtk.spool(data, tmp_path / "out")
    flag.unlink()
    (partial,) = tmp_path.glob("out.partial-*")
    assert len(inodes(partial)) == 3
    return data, partial


@pytest.mark.parametrize("damage", ["flipped", "short", "missing", "record"])
def test_a_damaged_piece_is_written_again(interrupted, tmp_path, damage):
    data, partial = interrupted
    before = inodes(partial)
    path = partial / sorted(before)[1]
    content = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "record":
        next(partial.glob(f"_records/00{path.stem[-5:]}.*.json")).write_text("{")
    else:
        content[200] ^= 1
        path.write_bytes(content if damage == "flipped" else content[:-5])
    (partial / ".part-00009.parquet.0123").write_text("what a killed process left")
    (partial / "_records" / "0000009.99999999999.begun").touch()
    partial.with_name(f"{partial.name[:-8]}01234567").mkdir()  # of a time when it was cut otherwise
    spooled = dtk.spool(data, tmp_path / "out", max_nbytes="1 MB")
    assert spooled.i.compute().tolist() == list(range(ROWS))
    after = inodes(tmp_path / "out")
    assert {name for name in before if after[name] != before[name]} == {path.name}
    assert not list((tmp_path / "out").glob(".*"))
    assert not list(tmp_path.glob("out.*"))


def test_a_complete_spool_is_taken_as_it_is(table, tmp_path, small_pieces):
    flag = tmp_path / "flag"
    data = opened(table)
    data = data.map_partitions(Fails(flag, 0), meta=data._meta)
    dtk.spool(data, tmp_path / "out")
    before = inodes(tmp_path / "out", "*")
    flag.touch()  # now each work would fail
    spooled = dtk.spool(data, tmp_path / "out", max_nbytes=1)
    assert spooled.i.compute().tolist() == list(range(ROWS))
    assert inodes(tmp_path / "out", "*") == before
    with pytest.raises(RuntimeError, match="broken"):
        dtk.spool(data, tmp_path / "out", overwrite=True)
    assert inodes(tmp_path / "out", "*") == before


def test_a_complete_spool_with_a_file_lost_is_told(table, tmp_path):
    dtk.spool(opened(table), tmp_path / "out")
    path = tmp_path / "out" / "part-00000.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"part-00000\.parquet has \d+ bytes, not \d+; .*overwrite=True"):
        dtk.spool(opened(table), tmp_path / "out")
    path.unlink()
    with pytest.raises(DataError, match=r"part-00000\.parquet is missing"):
        dtk.spool(opened(table), tmp_path / "out")
    assert len(dtk.spool(opened(table), tmp_path / "out", overwrite=True)) == ROWS


def test_other_data_is_refused_and_the_old_stays(table, tmp_path):
    dtk.spool(opened(table), tmp_path / "out")
    before = inodes(tmp_path / "out", "*")
    others = [opened(table)[["i"]], make_frame(), climate()]
    for other in others:
        with pytest.raises(ArgumentError, match=r"holds a spool of other data .*another path, or overwrite=True"):
            dtk.spool(other, tmp_path / "out")
    assert inodes(tmp_path / "out", "*") == before
    assert list(dtk.spool(others[0], tmp_path / "out", overwrite=True).columns) == ["i"]
    assert set(dtk.spool(climate(), tmp_path / "out", overwrite=True).data_vars) == set(climate().data_vars)
    assert os.listdir(tmp_path) == ["out"]


def test_a_source_that_was_written_again_is_other_data(tmp_path):
    write_parquet(make_frame(), tmp_path / "in")
    dtk.spool(tmp_path / "in", tmp_path / "out")
    write_parquet(make_frame().assign(i=1), tmp_path / "in", overwrite=True)
    with pytest.raises(ArgumentError, match="holds a spool of other data"):
        dtk.spool(tmp_path / "in", tmp_path / "out")


def read_number(path):
    return pd.DataFrame({"x": [int(Path(path).read_text())]})


def test_what_functions_of_the_users_own_read_is_spooled_anew(tmp_path):
    (tmp_path / "a").write_text("1")
    data = dd.from_map(read_number, [str(tmp_path / "a")], meta=pd.DataFrame({"x": [0]}).iloc[:0])
    assert dtk.spool(data, tmp_path / "out").x.compute().tolist() == [1]
    (tmp_path / "a").write_text("2")
    with pytest.raises(ArgumentError, match="only you can tell"):
        dtk.spool(data, tmp_path / "out")
    assert dtk.spool(data, tmp_path / "out", overwrite=True).x.compute().tolist() == [2]


def test_what_is_no_spool_is_never_replaced(table, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    for target in (tmp_path, tmp_path / "thesis.tex"):
        with pytest.raises(ArgumentError, match="exists and is no spool; give another path"):
            dtk.spool(opened(table), target, overwrite=True)
    dtk.spool(table, tmp_path / "out")
    with pytest.raises(ArgumentError, match="holds what the data is read from"):
        dtk.spool(dtk.open(tmp_path / "out")[["i"]], tmp_path / "out", overwrite=True)
    dtk.spool(climate(), tmp_path / "grid")
    with pytest.raises(ArgumentError, match="holds what the data is read from"):
        dtk.spool(dtk.open(tmp_path / "grid")[["t2m"]], tmp_path / "grid", overwrite=True)


def test_an_empty_directory_and_a_link_are_taken(table, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    dtk.spool(opened(table), tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert len(dtk.open(tmp_path / "empty")) == ROWS


def test_what_will_not_fit_is_refused_before_the_work(table, tmp_path):
    flag = tmp_path / "flag"
    flag.touch()
    data = opened(table).shuffle("i")
    data = data.map_partitions(Fails(flag, 0), meta=data._meta)
    with pytest.raises(DiskLimitError, match=r"max_nbytes=19\.5 KiB is less than the about \d+\.\d KiB that"):
        dtk.spool(data, tmp_path / "out", max_nbytes="20 kB")
    with pytest.raises(DiskLimitError, match=r"max_nbytes=4\.9 KiB is less than the about \d+\.\d KiB that"):
        dtk.spool(climate(), tmp_path / "out", max_nbytes="5 kB")
    assert os.listdir(tmp_path) == ["flag"]


@pytest.mark.parametrize("name", ["plain", "shuffle", "join", "filter"])
def test_estimates_are_about_right(table, tmp_path, name):
    data = DATA[name](opened(table) if name != "filter" else dtk.open(table))
    estimated = spool_table.TableWork.of(data).estimated_nbytes
    dtk.spool(data, tmp_path / "out")
    written = json.loads((tmp_path / "out" / "_spool.json").read_text())["nbytes"]
    assert 0.6 * written < estimated < 1.7 * written


def test_estimate_of_grids(tmp_path):
    random = np.random.default_rng(0)
    data = xr.Dataset({"x": (("time", "lat"), random.integers(0, 9, (2000, 500)).astype("f4"))})
    for chunks in ({"time": 1000}, {"time": 10}):
        estimated = spool_grid.GridWork.of(data.chunk(chunks) * 2, None).estimated_nbytes
        dtk.spool(data.chunk(chunks) * 2, tmp_path / "out", overwrite=True)
        written = json.loads((tmp_path / "out" / "_spool.json").read_text())["nbytes"]
        assert written < data.x.nbytes / 2
        assert 0.8 * written < estimated < 1.3 * written


def many(frame, times=50):
    """Give many times the rows, which no codec makes smaller."""
    found = pd.concat([frame] * times)
    return found.assign(x=np.random.default_rng(frame.i.iloc[0]).standard_normal(len(found)).astype("f4"))


def test_it_stops_at_the_bound_and_leaves_the_old_as_it_was(table, tmp_path, small_pieces):
    dtk.spool(opened(table), tmp_path / "out")
    before = inodes(tmp_path / "out", "*")
    data = opened(table).shuffle("i").map_partitions(many, meta=opened(table)._meta)
    with pytest.raises(DiskLimitError, match=r"takes more than max_nbytes=781\.2 KiB; allow more"):
        dtk.spool(data, tmp_path / "out", overwrite=True, max_nbytes="800 kB")
    assert inodes(tmp_path / "out", "*") == before
    (partial,) = tmp_path.glob("out.partial-*")
    assert sum(path.stat().st_size for path in partial.glob("part-*")) <= 800_000
    assert len(dtk.spool(data, tmp_path / "out", overwrite=True, max_nbytes="1 GB")) == 50 * ROWS


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MiB."""
    target = tmp_path / "disk"
    target.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", target], capture_output=True, check=False)
    if mount.returncode:
        pytest.skip(f"a file system that is really full needs a mount: {mount.stderr.decode().strip()}")
    yield target
    subprocess.run(["umount", target], check=True)


def test_a_disk_that_fills_leaves_the_old_as_it_was(table, small_disk, small_pieces):
    dtk.spool(opened(table), small_disk / "out")
    before = inodes(small_disk / "out", "*")
    data = opened(table).shuffle("i").map_partitions(many, 200, meta=opened(table)._meta)
    with pytest.raises(DiskLimitError, match=r"the disk below path='.*/out' is full; free some of it"):
        dtk.spool(data, small_disk / "out", overwrite=True)
    assert inodes(small_disk / "out", "*") == before
    assert sorted(dtk.open(small_disk / "out").i.compute()) == list(range(ROWS))
    (partial,) = small_disk.glob("out.partial-*")
    assert not list(partial.glob(".*"))
    with pytest.raises(DiskLimitError, match=r"has .* free, which is less than the about .* that the spool will take"):
        dtk.spool(xr.Dataset({"x": ("time", np.random.default_rng(0).random(400_000))}), small_disk / "grid")
    with pytest.raises(DiskLimitError, match=r"free some \(.*/out\.partial-.* is unfinished\), give another path"):
        dtk.spool(pd.DataFrame({"x": np.random.default_rng(0).random(400_000)}), small_disk / "out", overwrite=True)


@pytest.fixture
def bucket(monkeypatch):
    monkeypatch.setattr(store_owner, "SETTLE_S", 0)
    memory = fsspec.filesystem("memory")
    yield "memory://bucket"
    memory.rm("/bucket", recursive=True)


def test_an_object_store(table, bucket, small_pieces):
    memory = fsspec.filesystem("memory")
    dtk.spool(opened(table).shuffle("i"), f"{bucket}/out")
    first = memory.find("/bucket/out")
    spooled = dtk.spool(opened(table).shuffle("i"), f"{bucket}/out")
    assert memory.find("/bucket/out") == first
    assert len(first) == 10
    assert sorted(spooled.i.compute()) == list(range(ROWS))
    for _ in range(2):  # the old one stays whole until the new one is there, though they are of the same data
        before = memory.find("/bucket/out")
        spooled = dtk.spool(opened(table).shuffle("i"), f"{bucket}/out", overwrite=True)
        assert not set(before[:-1]) & set(memory.find("/bucket/out"))
        assert sorted(spooled.i.compute()) == list(range(ROWS))
    loader = dtk.Loader(f"{bucket}/out", inputs=["x"], global_batch_size=100)
    assert sum(len(batch["inputs"]) for batch in loader) == ROWS
    with pytest.raises(ArgumentError, match="holds a spool of other data"):
        dtk.spool(climate(), f"{bucket}/out")
    spooled = dtk.spool(climate(), f"{bucket}/out", overwrite=True)
    assert not set(first[:-1]) & set(memory.find("/bucket/out"))
    xr.testing.assert_identical(spooled.load(), climate())
    xr.testing.assert_identical(dtk.open(f"{bucket}/out").load(), climate())


class FailsInStore(Fails):
    def __call__(self, frame):
        if self.flag.exists() and len(fsspec.filesystem("memory").glob("/bucket/**/*.json")) >= self.most:
            raise RuntimeError("broken")
        return frame


def test_half_a_spool_in_an_object_store_is_passed_over(table, bucket, tmp_path, small_pieces):
    memory = fsspec.filesystem("memory")
    flag = tmp_path / "flag"
    flag.touch()
    data = opened(table)
    data = data.map_partitions(FailsInStore(flag), meta=data._meta)
    with dask.config.set(num_workers=1), pytest.raises(RuntimeError, match="broken"):
        dtk.spool(data, f"{bucket}/out")
    assert [name for name in memory.find("/bucket/out") if name.endswith(".parquet")]
    with pytest.raises(DataError, match="is an empty directory"):
        dtk.open(f"{bucket}/out")
    flag.unlink()
    assert dtk.spool(data, f"{bucket}/out").i.compute().tolist() == list(range(ROWS))


def test_nothing_is_computed_to_refuse(table, tmp_path):
    dtk.spool(climate(), tmp_path / "out")
    data = climate().chunk({"time": 5})
    computed = []
    values = dask.delayed(lambda: computed.append(1))()
    data["t2m"] = (("time", "lat", "lon"), da.from_delayed(values, (50, 6, 8), "f4"))
    with pytest.raises(ArgumentError):
        dtk.spool(data, tmp_path / "out")
    assert not computed


@pytest.fixture
def s3(monkeypatch):
    """An S3 server on loopback with a bucket."""
    pytest.importorskip("s3fs")
    pytest.importorskip("moto.server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    options = {"endpoint_url": f"http://127.0.0.1:{port}", "key": "any", "secret": "any"}
    monkeypatch.setitem(fsspec.config.conf, "s3", options)
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        fsspec.filesystem("s3").mkdir("bucket")
        yield "s3://bucket"
    finally:
        server.terminate()
        server.wait()


@pytest.mark.infra
@pytest.mark.filterwarnings("ignore")
def test_s3(table, s3, tmp_path, small_pieces):
    spooled = dtk.spool(opened(table).shuffle("i"), f"{s3}/out", cache=tmp_path / "cache")
    assert sorted(spooled.i.compute()) == list(range(ROWS))
    assert len(os.listdir(tmp_path / "cache")) == 8
    dtk.spool(climate(), f"{s3}/out", overwrite=True)
    assert not fsspec.filesystem("s3").glob("bucket/out/**/*.parquet")
    xr.testing.assert_identical(dtk.open(f"{s3}/out").load(), climate())
    loader = dtk.Loader(dtk.open(f"{s3}/out")[["t2m"]], global_batch_size=5)
    assert sum(len(batch["inputs"]) for batch in loader) == 50


def test_sizes_of_many_derived_columns_are_estimated_once(tmp_path, monkeypatch):
    seen = []
    sample = spool_size._sample_of_source
    monkeypatch.setattr(spool_size, "_sample_of_source", lambda source: seen.append(1) or sample(source))
    dtk.write_parquet(pd.DataFrame({"a": range(100), "b": range(100)}), tmp_path / "in")
    data = dd.read_parquet(tmp_path / "in").shuffle("a")
    for number in range(8):
        data = data.assign(**{f"c{number}": data.a + data.b})
    dtk.spool(data, tmp_path / "out")
    assert len(seen) == 1


def test_what_came_into_being_during_the_work_stays(tmp_path):
    target = tmp_path / "out"

    def make_notes(frame):
        target.mkdir(exist_ok=True)
        (target / "notes.txt").write_text("precious")
        return frame

    data = dd.from_pandas(pd.DataFrame({"x": [1, 2]}), npartitions=1)
    for write in (dtk.spool, dtk.write_parquet):
        with pytest.raises(ArgumentError, match="came into being while its content was written"):
            write(data.map_partitions(make_notes, meta=data._meta), target)
        assert (target / "notes.txt").read_text() == "precious"
        shutil.rmtree(target)
    target.mkdir()  # an empty directory may be there
    assert dtk.spool(data, target).compute()["x"].tolist() == [1, 2]


def test_a_folder_of_the_users_own_is_no_rest_of_a_spool(tmp_path):
    (tmp_path / "out" / "_data-raw").mkdir(parents=True)
    with pytest.raises(ArgumentError, match="exists and is no spool"):
        dtk.spool(pd.DataFrame({"x": [1]}), tmp_path / "out")
    assert (tmp_path / "out" / "_data-raw").is_dir()
