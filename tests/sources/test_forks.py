"""A forked process over remote data, as the workers of a `DataLoader` are on Linux."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import xarray as xr
import zarr
from torch.utils.data import DataLoader

import dtk
from benchmarks.object_server import serve
from dtk.sources.forks import of_this_process

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


@pytest.mark.parametrize("kind", ["table", "grid"])
@pytest.mark.parametrize("place", ["memory", "http"])
def test_a_forked_worker_yields_the_same_batches(kind, place, tmp_path):
    if kind == "table":
        (tmp_path / "table").mkdir()
        pq.write_table(pa.table({"x": np.arange(400.0), "y": np.arange(400) % 2}), tmp_path / "table" / "0.parquet",
                       row_group_size=50)  # fmt: skip
    else:
        grid = xr.Dataset({"x": (("t", "a"), np.arange(400.0).reshape(100, 4)), "y": ("t", np.arange(100) % 2)})
        grid.to_zarr(tmp_path / "grid", encoding={"x": {"chunks": (10, 4)}, "y": {"chunks": (10,)}}, consolidated=False)
    if place == "http":
        pytest.importorskip("aiohttp")
        with serve(tmp_path) as server:
            check_worker(f"{server.url}/{kind}/")
    else:
        import fsspec

        fsspec.filesystem("memory").put(str(tmp_path / kind), f"/forked-{kind}", recursive=True)
        check_worker(f"memory://forked-{kind}/")


def check_worker(url):
    loader = dtk.Loader(url, target="y", global_batch_size=20, seed=1)
    own = list(loader)  # its connections are open from here on
    loader.set_epoch(0)
    work = DataLoader(loader.to_iterable_dataset(), batch_size=None, num_workers=1, multiprocessing_context="fork",
                      timeout=60)  # fmt: skip
    for ours, theirs in zip(own, work, strict=True):
        assert torch.equal(ours["inputs"], theirs["inputs"])
    loader.set_epoch(0)
    assert all(torch.equal(one["inputs"], other["inputs"]) for one, other in zip(loader, own, strict=True))


def test_what_a_fork_breaks_for_good_is_refused(tmp_path):
    obstore = pytest.importorskip("obstore.store")
    grid = xr.Dataset({"x": (("t", "a"), np.arange(400.0).reshape(100, 4))})
    grid.to_zarr(tmp_path / "grid", consolidated=False)
    store = zarr.storage.ObjectStore(obstore.LocalStore(tmp_path / "grid"), read_only=True)
    loader = dtk.Loader(xr.open_zarr(store, consolidated=False), inputs=["x"], global_batch_size=20)
    assert len(list(loader)) == 5
    work = DataLoader(loader.to_iterable_dataset(), batch_size=None, num_workers=1, multiprocessing_context="fork",
                      timeout=60)  # fmt: skip
    with pytest.raises(dtk.ArgumentError, match=r"store of obstore .* multiprocessing_context='spawn'"):
        next(iter(work))


def test_only_a_forked_process_makes_things_anew():
    made = {"a": 1}
    assert of_this_process(made) is made
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        copy = of_this_process(made)
        os.write(writing, pickle.dumps((copy == made, copy is made, of_this_process(made) is copy)))
        os._exit(0)
    os.waitpid(child, 0)
    assert pickle.loads(os.read(reading, 100)) == (True, False, True)
    os.close(reading)
    os.close(writing)
