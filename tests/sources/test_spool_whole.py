"""A spool is read as it was written, or not at all: what is lost, strange, damaged or half done is told."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from typing import ClassVar

import dask
import dask.dataframe as dd
import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import xarray as xr
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st

import dtk
from dtk.errors import ArgumentError, DataError, DiskLimitError, FetchError, NotFoundError
from dtk.sources import remote, spool_cache, spool_grid, spool_table, store_owner
from dtk.sources.listing import list_files
from dtk.sources.remote import Retries
from dtk.sources.spool_cache import zarr_store
from dtk.sources.spool_manifest import Objects, Piece

ROWS = 400


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(spool_table, "FILE_NBYTES", 1)
    monkeypatch.setattr(store_owner, "SETTLE_S", 0)
    monkeypatch.setattr(spool_grid, "CHUNK_NBYTES", 10 * 20 * 8)
    monkeypatch.setattr(spool_grid, "PIECE_NBYTES", 20 * 20 * 8)


@pytest.fixture(params=["disk", "memory"])
def place(request, tmp_path):
    yield str(tmp_path / "out") if request.param == "disk" else "memory://whole/out"
    memory = fsspec.filesystem("memory")
    if request.param == "memory" and memory.exists("/whole"):
        memory.rm("/whole", recursive=True)


def make_frame(shift=0):
    return pd.DataFrame({"i": np.arange(ROWS) + shift, "x": np.random.default_rng(0).standard_normal(ROWS)})


def make_table(shift=0, num_parts=4):
    return dd.from_pandas(make_frame(shift), npartitions=num_parts)


def make_grid():
    values = np.random.default_rng(0).standard_normal((60, 20))
    return xr.Dataset({"v": (("time", "lat"), values), "y": ("time", np.arange(60.0))})


def change(place, suffix, content):
    """Put something else where a file of a spool lies; nothing if `content` gives None."""
    fs, root = fsspec.core.url_to_fs(place)
    (path,) = [path for path in fs.find(root) if path.endswith(suffix)]
    new = content(fs.cat_file(path))
    fs.rm_file(path)
    if new is not None:
        fs.pipe_file(path, new)
    return path


def flipped(old):
    return old[:300] + bytes([old[300] ^ 1]) + old[301:]


def readers(place, **options):
    """All ways to read a spool anew."""
    yield lambda: dtk.open(place)
    yield lambda: sum(1 for _ in dtk.Loader(place, global_batch_size=10, **options))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda _: None, r"part-00002\.parquet is missing; spool again with overwrite=True"),
        (lambda old: old[:-1], r"part-00002\.parquet has \d+ bytes, not \d+; spool again"),
    ],
)
def test_lost_files_of_a_table_are_told_by_all_who_read_it(place, damage, message):
    dtk.spool(make_table(), place)
    change(place, "part-00002.parquet", damage)
    for read in [*readers(place), lambda: dtk.spool(make_table(), place)]:
        with pytest.raises(DataError, match=message):
            read()


def test_strange_files_beside_those_of_a_table_are_told(place):
    dtk.spool(make_table(), place)
    fs, root = fsspec.core.url_to_fs(place)
    beside = os.path.dirname(next(path for path in fs.find(root) if path.endswith("00000.parquet")))
    for name in (".hidden", "_SUCCESS"):
        fs.pipe_file(f"{beside}/{name}", b"of others")
    assert len(dtk.open(place)) == ROWS
    fs.pipe_file(f"{beside}/extra.parquet", b"PAR1")
    for read in [*readers(place), lambda: dtk.spool(make_table(), place)]:
        with pytest.raises(DataError, match=r"extra\.parquet is none of the spool's files; put it elsewhere"):
            read()


def test_pages_are_compared_with_their_sums(place):
    dtk.spool(make_table(), place)
    change(place, "part-00002.parquet", flipped)
    loader = dtk.Loader(place, global_batch_size=10)
    with pytest.raises(DataError, match=r"part-00002\.parquet, row group 0 cannot be read: .*checksum"):
        sum(1 for _ in loader)


@pytest.mark.parametrize("is_cached", [False, True])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda _: None, r"v/c/3/0 is missing; spool again with overwrite=True"),
        (flipped, r"v/c/3/0 (cannot be decoded: its checksum does not fit|is not what was spooled)"),
    ],
)
def test_lost_and_damaged_chunks_of_a_grid_are_told_by_all_who_read_it(place, tmp_path, damage, message, is_cached):
    data = dtk.spool(make_grid(), place, cache=tmp_path / "cache" if is_cached else None)
    if not is_cached:
        data = dtk.open(place)
    loader = dtk.Loader(data, inputs=["v"], global_batch_size=10)
    change(place, "v/c/3/0", damage)
    with pytest.raises(DataError, match=message):
        sum(1 for _ in loader)
    with pytest.raises((DataError, ValueError), match=f"{message}|[cC]hecksum"):
        data.load()


def test_absent_chunks_are_told_by_the_store_itself(tmp_path):
    dtk.spool(make_grid(), tmp_path / "out")
    store = zarr_store(list_files(tmp_path / "out"))
    assert store.get_sync("v/zarr.json") is not None
    assert store.get_sync("v/.zarray") is None
    with pytest.raises(DataError, match=r"v/c/77/0 is missing"):
        store.get_sync("v/c/77/0")


def test_arrays_of_a_spool_have_the_same_names_until_it_is_written_again(place):
    first = dtk.spool(make_grid(), place)
    assert dtk.open(place).v.data.name == first.v.data.name
    second = dtk.spool(make_grid() + 1, place, overwrite=True)
    assert second.v.data.name != first.v.data.name
    assert os.path.basename(second.encoding["source"].rstrip("/")).startswith(("out", "_data-"))


@settings(deadline=None, max_examples=50)
@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8"), min_size=1),
        st.tuples(st.integers(0, 2**40), st.binary(min_size=16, max_size=16)),
    )
)
def test_the_list_of_files_finds_each(told):
    told = {name: (nbytes, digest.hex()) for name, (nbytes, digest) in told.items()}
    written = Objects.of([Piece(0, 1, told)])
    found = Objects(pa.ipc.open_file(written.to_bytes()).read_all())
    assert {name: found.find(name) for name in told} == told
    assert dict(found.sizes()) == {name: nbytes for name, (nbytes, _) in told.items()}
    assert found.find("\0none") is None
    assert found.nbytes == sum(nbytes for nbytes, _ in told.values())


def test_a_damaged_list_or_manifest_is_told(place):
    dtk.spool(make_table(), place)
    change(place, "_objects.arrow", flipped)
    for read in readers(place):
        with pytest.raises(DataError, match=r"_objects\.arrow is not what was written"):
            read()
    change(place, "_objects.arrow", lambda _: None)
    for read in readers(place):
        with pytest.raises(DataError, match=r"_objects\.arrow is missing"):
            read()
    change(place, "_spool.json", lambda old: old.replace(b'"spool": 2', b'"spool": 3'))
    for read in readers(place):
        with pytest.raises(DataError, match=r"_spool\.json is of version 3, and this dtk knows 2; remove the spool"):
            read()


@pytest.mark.parametrize(
    ("attrs", "values"),
    [
        ({"_FillValue": 2}, np.array([1, 2], "i2")),
        ({"missing_value": 2}, np.array([1, 2], "i2")),
        ({"scale_factor": 0.5}, np.array([1, 2], "i2")),
        ({"add_offset": 1.0}, np.array([1.0, 2.0])),
        ({"units": "days since 2000-01-01"}, np.array([1.0, 2.0])),
    ],
)
def test_attributes_that_would_change_values_are_refused_before_the_work(tmp_path, attrs, values):
    (name,) = attrs
    data = xr.Dataset({"v": ("s", values, {**attrs, "note": "kept"})})
    with pytest.raises(DataError, match=rf"variable 'v' has the attribute '{name}' \(.*\), by which readers decode"):
        dtk.spool(data, tmp_path / "out")
    assert not os.listdir(tmp_path)
    decoded = xr.decode_cf(data)
    xr.testing.assert_identical(dtk.spool(decoded, tmp_path / "out").load(), decoded)


def test_a_table_without_rows_leaves_nothing(place):
    data = make_table()
    with pytest.raises(DataError, match="data has no rows, so that nothing is spooled"):
        dtk.spool(data[data.x > 99], place)
    assert len(dtk.spool(data, place)) == ROWS
    before = fsspec.core.url_to_fs(place)[0].find(fsspec.core.url_to_fs(place)[1])
    with pytest.raises(DataError, match="data has no rows"):
        dtk.spool(data[data.x > 99], place, overwrite=True)
    assert fsspec.core.url_to_fs(place)[0].find(fsspec.core.url_to_fs(place)[1]) == before


TWICE = """
import sys, time
import dask, dask.dataframe as dd, pandas as pd, dtk
from dtk.sources import spool_table

spool_table.FILE_NBYTES = 1


def slowly(frame):
    with open(sys.argv[2], "a") as file:
        file.write("x")
    time.sleep(0.1)
    return frame


data = dd.from_pandas(pd.DataFrame({"x": range(12)}), npartitions=6).map_partitions(slowly, meta={"x": int})
with dask.config.set(scheduler="sync"):
    write = getattr(dtk, sys.argv[3])
    data = write(data, sys.argv[1])
    print(len(data if hasattr(data, "columns") else dtk.open(data)))
"""


@pytest.mark.parametrize("function", ["spool", "write_parquet"])
def test_processes_that_write_the_same_do_it_once(tmp_path, function):
    script = tmp_path / "twice.py"
    script.write_text(TWICE)
    command = [sys.executable, str(script), str(tmp_path / "out"), str(tmp_path / "log"), function]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    told = [process.communicate(timeout=60) for process in processes]
    if function == "write_parquet":  # who comes when all is done is told that something is there
        done = [out for out, error in told if "exists; give another path" not in error]
    else:
        done = [out for out, _ in told]
    assert done
    assert set(done) == {"12\n"}, told
    assert (tmp_path / "log").read_text().count("x") == 6, told
    assert sorted(os.listdir(tmp_path)) == ["log", "out", "twice.py"]


def test_a_kill_while_a_spool_is_published_costs_nothing(tmp_path):
    dtk.spool(make_table(), tmp_path / "out")
    shutil.copytree(tmp_path / "out", tmp_path / "out.replaced-0123abcd")  # killed while it removed the old one
    (tmp_path / "out" / "_records").mkdir()
    assert len(dtk.spool(make_table(), tmp_path / "out")) == ROWS
    assert os.listdir(tmp_path) == ["out"]
    assert not (tmp_path / "out" / "_records").exists()
    (tmp_path / "out").rename(tmp_path / "out.replaced-0123abcd")  # killed between two renames
    before = (tmp_path / "out.replaced-0123abcd" / "part-00000.parquet").stat().st_ino
    assert len(dtk.spool(make_table(), tmp_path / "out")) == ROWS
    assert (tmp_path / "out" / "part-00000.parquet").stat().st_ino == before
    (tmp_path / "out").rename(tmp_path / "out.replaced-0123abcd")
    assert len(dtk.spool(make_table(1), tmp_path / "out", overwrite=True)) == ROWS
    assert os.listdir(tmp_path) == ["out"]


def test_a_part_that_a_power_failure_left_empty_is_written_again(tmp_path):
    flag = tmp_path / "flag"
    flag.touch()

    def fail(frame):
        if flag.exists() and list(tmp_path.glob("out.partial-*/part-*")):
            raise RuntimeError("broken")
        return frame

    data = make_table().map_partitions(fail, meta=make_frame().iloc[:0])
    with dask.config.set(num_workers=1), pytest.raises(RuntimeError, match="broken"):
        dtk.write_parquet(data, tmp_path / "out")
    flag.unlink()
    (part,) = tmp_path.glob("out.partial-*/part-*")
    part.write_bytes(b"")
    dtk.write_parquet(data, tmp_path / "out")
    assert len(dtk.open(tmp_path / "out")) == ROWS


UNKNOWN = """
import os, sys
import dask, dask.dataframe as dd, pandas as pd, dtk


def read(number):
    if number == 1:
        os._exit(9)
    return pd.DataFrame({"x": [number]})


with dask.config.set(scheduler="sync"):
    dtk.spool(dd.from_map(read, [0, 1], meta={"x": int}), sys.argv[1])
"""


def test_what_a_killed_process_left_of_data_that_nobody_knows_again_is_removed(tmp_path):
    process = subprocess.run([sys.executable, "-c", UNKNOWN, str(tmp_path / "out")], check=False, timeout=60)
    assert process.returncode == 9
    assert len(list(tmp_path.glob("out.partial-unknown-*"))) == 1
    dtk.spool(make_table(), tmp_path / "out")
    assert os.listdir(tmp_path) == ["out"]


def test_what_interrupted_spools_left_in_an_object_store_is_told_and_removed():
    memory = fsspec.filesystem("memory")
    try:
        old = f"_data-{'0' * 32}-01234567"
        memory.pipe_file(f"/whole/out/{old}/part-00000.parquet", b"x" * 2048)
        with pytest.warns(UserWarning, match=rf"path='memory://whole/out' also holds 2.0 KiB of spools .*{old}"):
            dtk.spool(make_table(), "memory://whole/out")
        memory.pipe_file("/whole/out/_data-raw/precious", b"mine")
        dtk.spool(make_table(1), "memory://whole/out", overwrite=True)
        names = {name.split("/")[3] for name in memory.find("/whole")}
        assert len(names) == 3
        assert {"_data-raw", old} & names == {"_data-raw"}
    finally:
        memory.rm("/whole", recursive=True)


def test_what_came_into_being_in_an_object_store_stays():
    memory = fsspec.filesystem("memory")

    def spool_another(frame):
        if not memory.exists("/whole/out/_spool.json"):
            dtk.spool(make_table(1), "memory://whole/out")
        return frame

    try:
        data = make_table(num_parts=1).map_partitions(spool_another, meta=make_frame().iloc[:0])
        with pytest.raises(ArgumentError, match="came into being while its content was written"):
            dtk.spool(data, "memory://whole/out")
        assert dtk.open("memory://whole/out").i.min().compute() == 1
    finally:
        memory.rm("/whole", recursive=True)


class Flaky(MemoryFileSystem):
    """A store that wants an option, and fails when a file is written or read first."""

    protocol = "flaky"
    store: ClassVar[dict] = {}
    pseudo_dirs: ClassVar[list] = [""]
    seen: ClassVar[set] = set()

    def __init__(self, *args, token, **options):
        super().__init__(*args, **options)

    @classmethod
    def _strip_protocol(cls, path):
        return MemoryFileSystem._strip_protocol(str(path).replace("flaky://", "memory://"))

    def _fail(self, *asked):
        if asked not in self.seen:
            self.seen.add(asked)
            raise ConnectionResetError("gone")

    def pipe_file(self, path, *args, **options):
        self._fail("pipe", path)
        return super().pipe_file(path, *args, **options)

    def cat_file(self, path, *args, **options):
        self._fail("cat", path)
        return super().cat_file(path, *args, **options)


@pytest.fixture
def flaky(monkeypatch):
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    monkeypatch.setattr(remote, "RETRIES", Retries(attempts=4, first_s=0.001))
    yield {"token": "secret"}
    Flaky.store.clear()
    Flaky.seen.clear()


@pytest.mark.parametrize("is_cached", [False, True])
def test_storage_options_reach_all_and_failures_pass(flaky, tmp_path, is_cached):
    options = {"storage_options": flaky, "cache": tmp_path / "cache" if is_cached else None}
    spooled = dtk.spool(make_table(), "flaky://out", **options)
    assert len(Flaky.seen) > 10
    assert spooled.i.compute().tolist() == list(range(ROWS))
    loader = dtk.Loader(spooled, global_batch_size=10)
    assert sum(len(batch["inputs"]) for batch in loader) == ROWS
    loader = dtk.Loader(dtk.spool(make_grid(), "flaky://grid", **options), inputs=["v"], global_batch_size=10)
    assert sum(len(batch["inputs"]) for batch in loader) == 60


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConnectionResetError("gone"), r"flaky://.* in 4 attempts: ConnectionResetError: gone"),
        (PermissionError("denied"), r"flaky://.* cannot be reached \(cat_file\): PermissionError: denied; check the"),
    ],
)
def test_a_store_that_does_not_take_what_is_written_is_named(flaky, monkeypatch, error, message):
    def fail(*_):
        raise error

    monkeypatch.setattr(Flaky, "_fail", fail)
    with pytest.raises(FetchError, match=message):
        dtk.spool(make_table(), "flaky://out", storage_options=flaky)


def test_a_bucket_that_is_not_there_is_named(flaky, monkeypatch):
    def fail(self, path, *_, **__):
        raise FileNotFoundError("no such bucket")

    monkeypatch.setattr(Flaky, "pipe_file", fail)
    with pytest.raises(NotFoundError, match=r"flaky://.* cannot be written: no such bucket; make its bucket first"):
        dtk.spool(make_table(), "flaky://out", storage_options=flaky)


def test_what_cannot_be_opened_is_refused_by_name(tmp_path):
    with pytest.raises(ArgumentError, match=r"path='foo://x' cannot be opened: Protocol not known: foo"):
        dtk.spool(make_table(), "foo://x")


def test_a_column_without_a_type_is_refused_by_name(tmp_path):
    for write in (dtk.spool, dtk.write_parquet):
        with pytest.raises(DataError, match="column 'z' holds complex128, for which Arrow has no type"):
            write(pd.DataFrame({"x": [1.0], "z": [1j]}), tmp_path / "out")
    assert not os.listdir(tmp_path)


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    spooled = dtk.spool(make_table(), tmp_path / "out", cache=tmp_path / "file" / "cache")
    with pytest.raises(ArgumentError, match=r"cache='.*file/cache' cannot be written on .*; give a directory"):
        spooled.compute()


def test_a_cache_on_a_full_disk_is_told_once(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    spooled = dtk.spool(make_table(), tmp_path / "out", cache=tmp_path / "cache")
    monkeypatch.setattr(spool_cache, "written_whole", full)
    with dask.config.set(scheduler="sync"), pytest.warns(UserWarning, match="is on a full disk") as told:
        assert spooled.i.compute().tolist() == list(range(ROWS))
    assert sum("full disk" in str(one.message) for one in told) == 1


def test_a_limit_on_files_is_told_as_a_disk_that_is_full(tmp_path):
    """A disk that fills, without a mount: what was there before stays."""
    dtk.spool(make_table(), tmp_path / "out")
    before = sorted((path.name, path.stat().st_ino) for path in (tmp_path / "out").iterdir())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with (
            dask.config.set(num_workers=1),  # or others would still be writing
            pytest.raises(DiskLimitError, match=r"the disk below path='.*out' is full"),
        ):
            dtk.spool(make_table(1), tmp_path / "out", overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted((path.name, path.stat().st_ino) for path in (tmp_path / "out").iterdir()) == before
    (partial,) = tmp_path.glob("out.partial-*")
    assert not list(partial.rglob(".*"))


def test_the_manifest_does_not_grow_with_the_chunks(tmp_path):
    dtk.spool(make_grid(), tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "_spool.json").read_text())
    assert {name: manifest[name] for name in ("kind", "num_rows", "num_pieces")} == {
        "kind": "grid",
        "num_rows": 60,
        "num_pieces": 7,
    }
    assert len((tmp_path / "out" / "_spool.json").read_bytes()) < 400
