"""A state is refused by the name of what changed in the data: files, rows, columns, filters, arrays, objects."""

from __future__ import annotations

import json
import os
import re
import shutil

import dask.dataframe as dd
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from dtk.errors import ArgumentError, DataError
from dtk.loader import Loader
from dtk.sources.facts import changed_files, file_facts

OPTIONS = {"global_batch_size": 16, "memory": "1 MiB"}


def write(path, rows, start=0, columns=("x", "y")):
    table = pa.table({name: np.arange(start, start + rows, dtype="f8") for name in columns})
    path.parent.mkdir(exist_ok=True)
    pq.write_table(table, path, row_group_size=20)


@pytest.fixture
def folder(tmp_path):
    for part in range(4):
        write(tmp_path / "data" / f"part-{part}.parquet", 50, 50 * part)
    return tmp_path / "data"


def state_of(data, **options):
    return json.loads(json.dumps(Loader(data, **{**OPTIONS, **options}).state_dict()))


def refusal(state, data, **options):
    with pytest.raises(DataError, match="not what the state was saved from") as caught:
        Loader(data, **{**OPTIONS, **options}).load_state_dict(state)
    return str(caught.value)


def test_the_same_files_are_taken(folder):
    state = state_of(str(folder))
    Loader(str(folder), **OPTIONS).load_state_dict(state)
    Loader(dd.read_parquet(folder), **OPTIONS).load_state_dict(state)


def test_files_that_were_appended(folder):
    state = state_of(str(folder))
    write(folder / "part-4.parquet", 30)
    text = refusal(state, str(folder))
    assert "it had 200 rows in 12 chunks and has 230 rows in 14 chunks" in text
    assert text.endswith("file part-4.parquet is new. Restore it, or start anew without the state".replace(
        "part-4", f"{folder}/part-4"))  # fmt: skip
    for part in range(5, 9):
        write(folder / f"part-{part}.parquet", 30)
    assert re.search(r"5 files are new: .*part-4\.parquet, .*part-5\.parquet, .*part-6\.parquet, \.\.\.", refusal(
        state, str(folder)))  # fmt: skip


def test_files_that_are_gone_shortened_and_rewritten(folder):
    state = state_of(str(folder))
    write(folder / "part-1.parquet", 30)
    assert f"file {folder}/part-1.parquet was rewritten (50 rows then, 30 now)" in refusal(state, str(folder))
    write(folder / "part-1.parquet", 50, start=9)
    text = refusal(state, str(folder))
    assert f"from: file {folder}/part-1.parquet was rewritten. Restore" in text  # nothing else is said
    (folder / "part-2.parquet").unlink()
    text = refusal(state, str(folder))
    assert f"file {folder}/part-2.parquet is gone; file {folder}/part-1.parquet was rewritten" in text


def test_a_file_of_the_same_rows_and_size_is_known_by_its_time(folder):
    state = state_of(str(folder))
    os.utime(folder / "part-3.parquet", ns=(1, 1))
    assert "part-3.parquet was rewritten. Restore" in refusal(state, str(folder))


def test_files_in_a_new_directory_and_data_that_was_moved(folder, tmp_path):
    hive = tmp_path / "hive"
    for month in ("m=1", "m=2"):
        hive.mkdir(exist_ok=True)
        write(hive / month / "a.parquet", 50)
    state = state_of(str(hive))
    write(hive / "n=1" / "a.parquet", 50)  # the common part of the names gets shorter
    (hive / "n=1").rename(hive / "m=0")
    assert f"file {hive}/m=0/a.parquet is new" in refusal(state, str(hive))
    state = state_of(str(folder))
    shutil.copytree(folder, tmp_path / "elsewhere")
    assert f"it lies in {tmp_path}/elsewhere and lay in {folder}" in refusal(state, str(tmp_path / "elsewhere"))


def test_columns_that_changed(folder):
    state = state_of(str(folder))
    assert "column y is gone" in refusal(state, str(folder), inputs=["x"])
    for part in range(4):
        write(folder / f"part-{part}.parquet", 50, columns=("x", "y", "z"))
    assert "column z is new" in refusal(state, str(folder))
    text = refusal(state_of(str(folder)) | {"source": "another"}, str(folder))
    assert "from: its metadata changed. Restore" in text


def test_filters_and_derived_columns(folder):
    data = dd.read_parquet(folder)
    state = state_of(data[data.x > 100])
    Loader(data[data.x > 100], **OPTIONS).load_state_dict(state)
    text = refusal(state, data[data.x > 99])
    assert "its filters or derived columns changed" in text
    assert "it had 99 rows" in text
    same_rows = state_of(data.assign(z=data.x + 1))
    assert "from: its filters or derived columns changed. Restore" in refusal(same_rows, data.assign(z=data.x + 2))
    assert "it was expression and is parquet" in refusal(same_rows, data)
    write(folder / "part-4.parquet", 30)
    later = dd.read_parquet(folder)
    assert re.search(
        "200 rows.*230 rows.*part-4.parquet is new. Restore", refusal(same_rows, later.assign(z=later.x + 1))
    )


def test_filters_of_the_read_itself_belong_to_the_identity(folder):
    state = state_of(dd.read_parquet(folder, filters=[("x", "<", 10)]))
    text = refusal(state, dd.read_parquet(folder, filters=[("y", "<", 10)]))  # the same rows of the same row groups
    assert "its filters or derived columns changed" in text


def test_a_table_in_memory():
    table = {"x": np.arange(30.0)}
    state = state_of(table)
    assert "it had 30 rows in 1 chunks and has 40 rows in 1 chunks" in refusal(state, {"x": np.arange(40.0)})
    assert "its values changed" in refusal(state, {"x": np.arange(30.0) + 1})
    assert "column z is new" in refusal(state, {"x": np.arange(30.0), "z": np.arange(30.0)})


def test_facts_stay_small_and_find_what_they_can_among_many(tmp_path):
    names = [f"a/long/name/of/a/partition/part-{number:06d}.parquet" for number in range(100_000)]
    versions = ["1:1"] * len(names)
    sizes = np.ones(len(names), np.int64)
    facts = file_facts(names, versions, sizes)
    assert len(json.dumps(facts)) < 8192
    assert changed_files(facts, names, versions, sizes) == []
    (appended,) = changed_files(facts, [*names, "z"], [*versions, "1:1"], np.append(sizes, 1))
    assert appended == "file z is new"
    versions[40_000] = "1:2"
    (rewritten,) = changed_files(facts, names, versions, sizes)
    assert rewritten == f"of the 1,563 files from {names[39_075]} on, some changed"
    wide = pa.table({f"column-{number}": [0.0] for number in range(10_000)})
    pq.write_table(wide, tmp_path / "wide.parquet")
    assert len(json.dumps(state_of(str(tmp_path), global_batch_size=1))) < 2048


@given(st.lists(st.integers(0, 300), unique=True, min_size=1), st.lists(st.integers(0, 300), unique=True, min_size=1),
       st.sets(st.integers(0, 300)))  # fmt: skip
def test_any_change_of_files_is_noticed_and_exactly_named_where_they_are_few(then, now, rewritten):
    def told(numbers, version):
        names = [f"{number:03d}" for number in sorted(numbers)]
        return names, [version(int(name)) for name in names], np.arange(len(names))

    facts = file_facts(*told(then, lambda number: "old"))
    said = "; ".join(changed_files(facts, *told(now, lambda number: "new" if number in rewritten else "old")))
    new, gone, both = set(now) - set(then), set(then) - set(now), set(now) & set(then) & rewritten
    assert bool(said) == bool(new or gone or both)
    if len(then) <= 64:
        for names, one, several in ((new, "is new", "are new"), (gone, "is gone", "are gone")):
            assert (f"{len(names)} files {several}" in said) == (len(names) > 1)
            assert (f"file {min(names, default=0):03d} {one}" in said) == (len(names) == 1)
        assert all(f"file {number:03d} was rewritten" in said for number in sorted(both)[:3])


def grid(samples=60, seed=0):
    values = np.random.default_rng(seed).random((samples, 4, 4)).astype("f4")
    return xr.Dataset({"t": (("time", "y", "x"), values), "u": (("time", "y", "x"), values + 1)})


ENCODING = {"t": {"chunks": (10, 4, 4)}, "u": {"chunks": (10, 4, 4)}}


@pytest.fixture(params=["local", "fsspec"])
def store(request, tmp_path):
    path = str(tmp_path / "a.zarr") if request.param == "local" else f"memory://{tmp_path.name}/a.zarr"
    grid().to_zarr(path, encoding=ENCODING, consolidated=False)
    yield path
    if request.param == "fsspec":
        fsspec.filesystem("memory").rm(tmp_path.name, recursive=True)


def test_zarr_by_its_metadata(store):
    state = state_of(store)
    Loader(store, **OPTIONS).load_state_dict(state)
    grid(30).to_zarr(store, append_dim="time", consolidated=False)
    text = refusal(state, store)
    assert re.search("it had 60 rows in 1 chunks and has 90 rows", text)
    assert "t has the shape [90, 4, 4] and had [60, 4, 4]; u has the shape" in text
    state = state_of(store)
    grid().to_zarr(
        store, mode="w", encoding={"t": {"chunks": (5, 4, 4)}, "u": {"chunks": (10, 4, 4)}}, consolidated=False
    )
    text = refusal(state, store)
    assert "t has the shape [60, 4, 4] and had [90, 4, 4]; t has the chunks [5, 4, 4] and had [10, 4, 4]" in text
    state = state_of(store)
    data = xr.open_zarr(store, consolidated=False, chunks=None)
    assert "variable u is gone" in refusal(state, data[["t"]])
    assert "another part of t is selected; another part of u" in refusal(state, data.isel(y=slice(1, 3)))
    grid().assign_attrs().to_zarr(store, mode="w", encoding={"t": {"chunks": (5, 4, 4), "fill_value": 7.0}, **{
        "u": {"chunks": (10, 4, 4)}}}, consolidated=False)  # fmt: skip
    assert "the codecs, the fill value or the attributes of t changed" in refusal(state, store)


def test_zarr_by_its_objects(store):
    listed, plain = state_of(store, verify="list"), state_of(store)
    Loader(store, verify="list", **OPTIONS).load_state_dict(listed)
    assert "saved with verify='list', which is verify='metadata' now" in refusal(listed, store)
    filesystem, root = fsspec.core.url_to_fs(store)
    chunk = next(path for path in sorted(filesystem.find(root)) if path.endswith("t/c/3/0/0"))
    content = filesystem.cat_file(chunk)
    filesystem.pipe_file(chunk, content + b"0")
    text = refusal(listed, store, verify="list")
    numbers = rf"\({len(content)} bytes then, {len(content) + 1} now\)"
    assert re.search(rf"from: object .*t/c/3/0/0 was rewritten {numbers}\. Restore", text)
    Loader(store, **OPTIONS).load_state_dict(plain)  # the metadata does not tell, as promised
    filesystem.rm(chunk)
    assert re.search(r"object .*t/c/3/0/0 is gone", refusal(listed, store, verify="list"))


def test_zarr_objects_of_the_same_size_by_time(tmp_path):
    path = str(tmp_path / "a.zarr")
    grid().to_zarr(path, encoding=ENCODING, consolidated=False)
    state = state_of(path, verify="list")
    os.utime(tmp_path / "a.zarr" / "u" / "c" / "2" / "0" / "0", ns=(1, 1))
    assert re.search(r"object .*u/c/2/0/0 was rewritten\. Restore", refusal(state, path, verify="list"))


def test_icechunk_by_its_snapshot(tmp_path):
    icechunk = pytest.importorskip("icechunk")
    repository = icechunk.Repository.create(icechunk.local_filesystem_storage(str(tmp_path)))

    def commit(seed, **options):
        session = repository.writable_session("main")
        grid(seed=seed).to_zarr(session.store, consolidated=False, zarr_format=3, **options)
        return session.commit("again")

    def data():
        return xr.open_zarr(repository.readonly_session("main").store, consolidated=False)

    first = commit(0, encoding=ENCODING)
    for verify in ("metadata", "list"):
        state = state_of(data(), verify=verify)
        Loader(data(), verify=verify, **OPTIONS).load_state_dict(state)  # another session of the same snapshot
    second = commit(1, mode="r+")
    text = refusal(state, data(), verify="list")
    assert f"from: it is at the snapshot {second} and was at {first}. Restore" in text
    np.testing.assert_array_equal(
        next(iter(Loader(data(), shuffle=False, **OPTIONS)))["inputs"][:, 0], grid(seed=1).t[:16]
    )


def test_verify_is_one_of_two(folder):
    with pytest.raises(ArgumentError, match="verify='hash' must be 'metadata' or 'list'"):
        Loader(str(folder), verify="hash")
    state = state_of(str(folder), verify="list")  # Parquet is listed anyway
    Loader(str(folder), **OPTIONS).load_state_dict(state)
