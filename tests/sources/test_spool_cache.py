"""Reading a spool through a cache on the host's own disk."""

from __future__ import annotations

import os
import pickle

import dask.dataframe as dd
import fsspec
import numpy as np
import pandas as pd
import pytest
import xarray as xr

import dtk
from dtk.errors import ArgumentError, DataError
from dtk.sources import spool_table, store_owner
from dtk.sources.spool_cache import _CachedFiles

ROWS = 4000


def make_frame():
    random = np.random.default_rng(0)
    return pd.DataFrame({"i": np.arange(ROWS), "x": random.standard_normal(ROWS), "s": ["abc", "de"] * (ROWS // 2)})


def make_grid():
    random = np.random.default_rng(0)
    dims = ("time", "lat", "lon")
    return xr.Dataset({"x": (dims, random.random((60, 4, 5))), "y": ("time", np.arange(60.0))})


@pytest.fixture(params=["disk", "memory"])
def place(request, tmp_path):
    yield str(tmp_path / "out") if request.param == "disk" else "memory://cached"
    memory = fsspec.filesystem("memory")
    if request.param == "memory" and memory.exists("/cached"):
        memory.rm("/cached", recursive=True)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(spool_table, "FILE_NBYTES", 1)
    monkeypatch.setattr(store_owner, "SETTLE_S", 0)


def spooled(place, **options):
    return dtk.spool(dd.from_pandas(make_frame(), npartitions=8), place, **options)


def overwrite(place, suffix, content):
    """Put something else where the files of a spool lie."""
    fs, root = fsspec.core.url_to_fs(place)
    for path in fs.find(root):
        if path.endswith(suffix):
            old = fs.cat_file(path)
            fs.pipe_file(path, content(old))


def garbled(old):
    """Leave the length, and the footer of a file of Parquet."""
    return b"\0" * (len(old) - 2000) + old[-2000:]


def test_tables_are_read_from_the_cache_once_copied(place, tmp_path):
    cache = tmp_path / "cache"
    data = spooled(place, cache=cache)
    loader = pickle.loads(pickle.dumps(dtk.Loader(data, inputs=["i"], target="x", global_batch_size=100)))
    assert loader.plan.explain()
    assert not cache.exists()  # to plan, footers are read where they lie
    found = np.concatenate([batch["inputs"].numpy().copy() for batch in loader])
    assert sorted(found[:, 0].astype(int)) == list(range(ROWS))
    assert len(os.listdir(cache)) == 8
    expected = make_frame()
    overwrite(place, "00003.parquet", garbled)
    pd.testing.assert_frame_equal(spooled(place, cache=cache).compute(), expected, check_dtype=False)
    overwrite(str(cache), "", garbled)  # now both are damaged: the copies are noticed, and then the spool's file
    with pytest.raises(DataError, match=r"part-00003\.parquet is not what was spooled"):
        new_process(place, cache).compute()
    with pytest.raises(DataError, match=r"part-00003\.parquet is not what was spooled"):
        for _ in dtk.Loader(new_process(place, cache), inputs=["i"], global_batch_size=100):
            pass


def new_process(place, cache):
    """Open anew, with nothing known of what is in the cache."""
    _CachedFiles.clear_instance_cache()
    return spooled(place, cache=cache)


def test_grids_are_read_from_the_cache_once_copied(place, tmp_path):
    cache = tmp_path / "cache"
    data = dtk.spool(make_grid(), place, cache=cache)
    xr.testing.assert_identical(data.load(), make_grid())
    overwrite(place, "x/c/0/0/0", garbled)
    data = dtk.spool(make_grid(), place, cache=cache)
    loader = dtk.Loader(data, inputs=["x"], target="y", global_batch_size=10, shuffle=False)
    found = np.concatenate([batch["inputs"].numpy().copy() for batch in loader])
    np.testing.assert_array_equal(found[:, 0], make_grid().x.values.astype("f4"))


def test_a_damaged_copy_is_made_again(place, tmp_path):
    cache = tmp_path / "cache"
    spooled(place, cache=cache).compute()
    names = sorted(os.listdir(cache))
    for name, content in zip(names, [b"short", None, b""], strict=False):
        old = (cache / name).read_bytes()
        (cache / name).write_bytes(garbled(old) if content is None else content)
    pd.testing.assert_frame_equal(new_process(place, cache).compute(), make_frame(), check_dtype=False)
    (cache / names[0]).unlink()  # as another process does that makes room
    pd.testing.assert_frame_equal(spooled(place, cache=cache).compute(), make_frame(), check_dtype=False)
    assert sorted(os.listdir(cache)) == names


@pytest.mark.parametrize(("nbytes", "least"), [(1000, 0), (30_000, 2), (1_000_000, 8)])
def test_the_cache_is_bounded(place, tmp_path, nbytes, least):
    cache = tmp_path / "cache"
    cache.mkdir()
    (tmp_path / "cache" / "thesis.tex").write_text("years of work")
    data = spooled(place, cache=cache, cache_nbytes=nbytes)
    for _ in range(2):
        pd.testing.assert_frame_equal(data.compute(), make_frame(), check_dtype=False)
        copies = [path.stat().st_size for path in cache.iterdir() if path.suffix != ".tex"]
        assert len(copies) >= least
        assert sum(copies) <= nbytes
    assert (cache / "thesis.tex").exists()


def test_a_bound_without_a_cache_is_refused(tmp_path):
    with pytest.raises(ArgumentError, match="cache_nbytes='1 GB' is for a cache"):
        spooled(tmp_path / "out", cache_nbytes="1 GB")


def test_workers_share_a_cache(tmp_path, client):
    data = spooled(tmp_path / "out", cache=tmp_path / "cache")
    for _ in range(2):
        pd.testing.assert_frame_equal(data.compute(), make_frame(), check_dtype=False)
    assert len(os.listdir(tmp_path / "cache")) == 8


@pytest.mark.parametrize(
    "make", [lambda shift: pd.DataFrame({"x": np.arange(100) + shift}), lambda shift: make_grid() + shift]
)
def test_a_spool_that_was_written_again_is_not_read_as_it_was(tmp_path, make):
    for shift in (0, 1000):
        data = dtk.spool(make(shift), tmp_path / "out", cache=tmp_path / "cache", overwrite=True)
        expected = make(shift)
        if isinstance(expected, pd.DataFrame):
            assert data.compute()["x"].tolist() == expected["x"].tolist()
        else:
            xr.testing.assert_equal(data.compute(), expected.compute())
