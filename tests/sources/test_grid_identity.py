"""Identities of Datasets: what lies in their stores counts, and the code that computes them."""

from __future__ import annotations

import sys
from types import ModuleType

import dask
import dask.array as da
import fsspec
import numpy as np
import pytest
import xarray as xr
import zarr

import dtk
from dtk.errors import ArgumentError
from dtk.sources import grid_identity
from dtk.sources.grid_identity import grid_paths

pytestmark = pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part")


@pytest.fixture(autouse=True)
def nothing_is_little(monkeypatch):
    monkeypatch.setattr(grid_identity, "_LITTLE_NBYTES", 0)


def make(value=1.0):
    return xr.Dataset({"v": (("s", "y"), np.full((8, 3), value)), "w": ("s", np.full(8, value))}).chunk({"s": 4})


def of(data, dim="s"):
    return grid_identity.grid_identity(data, dim)


@pytest.fixture(params=["local", "url"])
def store(request, tmp_path):
    path = str(tmp_path / "a.zarr") if request.param == "local" else f"memory://{tmp_path.name}/a.zarr"
    make().to_zarr(path, consolidated=False)
    yield path
    if request.param == "url":
        fsspec.filesystem("memory").rm(tmp_path.name, recursive=True)


OPENED = {
    "chunks": lambda path: xr.open_zarr(path, consolidated=False),
    "no chunks": lambda path: xr.open_zarr(path, chunks=None, consolidated=False),
    "chunked later": lambda path: xr.open_zarr(path, chunks=None, consolidated=False).chunk({"s": 3}),
    "selected": lambda path: xr.open_zarr(path, chunks=None, consolidated=False).isel(s=[0, 7]),
    "derived": lambda path: xr.open_zarr(path, consolidated=False).v.mean("s").expand_dims(s=2).to_dataset(name="q"),
    "optimized": lambda path: dask.optimize(xr.open_zarr(path, consolidated=False) * 2)[0],
    "persisted": lambda path: (xr.open_zarr(path, consolidated=False) * 2).persist(),
    "inline": lambda path: xr.open_dataset(path, engine="zarr", chunks={}, inline_array=True, consolidated=False),
}


@pytest.mark.parametrize("name", OPENED)
def test_a_store_that_was_written_again_is_other_data(store, name):
    before = of(OPENED[name](store))
    assert before is not None
    assert of(OPENED[name](store)) == before
    xr.Dataset({"v": (("s", "y"), np.full((4, 3), 50.0))}).to_zarr(store, region={"s": slice(0, 4)}, consolidated=False)
    assert of(OPENED[name](store)) != before
    assert name == "persisted" or any(path.rstrip("/").endswith("a.zarr/v") for path in grid_paths(OPENED[name](store)))


@pytest.mark.parametrize("chunks", [None, {}])
@pytest.mark.parametrize("engine", ["netcdf4", "scipy"])
def test_netcdf_counts_by_size_and_time(tmp_path, chunks, engine):
    path = tmp_path / "a.nc"
    make().to_netcdf(path, engine=engine)
    first, again = (of(xr.open_dataset(path, chunks=chunks, engine=engine)) for _ in range(2))
    assert first == again is not None
    selected = xr.open_dataset(path, chunks=chunks, engine=engine).isel(s=slice(1, None))
    assert of(selected) != first
    assert grid_paths(selected) == [str(path)]
    make(2.0).to_netcdf(tmp_path / "b.nc", engine=engine)
    (tmp_path / "b.nc").replace(path)
    assert of(xr.open_dataset(path, chunks=chunks, engine=engine)) != first


def test_lazy_variables_differ_by_selection_and_decoding(store):
    lazy = xr.open_zarr(store, chunks=None, consolidated=False)
    parts = [lazy, lazy.isel(s=slice(2)), lazy.isel(s=slice(2, 4)), lazy.isel(s=[2, 3]), lazy[["v"]], lazy[["w"]]]
    parts += [lazy.rename(v="w", w="v"), lazy.assign_attrs(a=1), make()]
    assert len({of(part) for part in parts}) == len(parts)
    assert of(lazy, "y") != of(lazy)


def test_the_body_of_a_function_counts(store, monkeypatch):
    def result(text, chunk=xr.apply_ufunc):
        module = ModuleType("own_grid")
        monkeypatch.setitem(sys.modules, "own_grid", module)
        exec(text, vars(module))
        data = xr.open_zarr(store, consolidated=False)[["v"]]
        if chunk is xr.map_blocks:
            return of(xr.map_blocks(module.work, data, template=data))
        if chunk is da.map_overlap:
            return of(data.assign(v=(data.v.dims, data.v.data.map_overlap(module.work, depth=1, dtype=float))))
        options = {"dask": "parallelized", "output_dtypes": [float], "vectorize": chunk is np.vectorize}
        return of(xr.apply_ufunc(module.work, data, **options))

    text = "def low(x):\n    return x + 1\n\ndef work(x):\n    return low(x) * 2\n"
    for chunk in (xr.apply_ufunc, xr.map_blocks, da.map_overlap, np.vectorize):
        assert result(text, chunk) == result(text, chunk) is not None
        assert result(text, chunk) != result(text.replace("* 2", "* 7"), chunk)
        assert result(text, chunk) != result(text.replace("+ 1", "+ 9"), chunk)


class Foreign:
    """An array of a library that nobody here knows."""

    shape, dtype, ndim = (4,), np.dtype("f8"), 1

    def __getitem__(self, key):
        return np.zeros(4)[key]


def test_what_may_change_without_notice_has_no_identity(tmp_path):
    values = [
        da.from_delayed(dask.delayed(np.load)("a.npy"), (4,), "f8"),
        da.from_array(Foreign(), chunks=2),
        da.map_blocks(lambda: np.zeros(4), chunks=((4,),), dtype="f8"),
    ]
    assert [of(xr.Dataset({"v": ("s", value)})) for value in values] == [None] * 3
    in_process = zarr.storage.MemoryStore()
    make().to_zarr(in_process, consolidated=False)
    assert of(xr.open_zarr(in_process, consolidated=False)) is None
    data = xr.Dataset({"v": ("s", values[0])})
    data["v"] = ("s", da.from_array(Foreign(), chunks=2))
    assert dtk.spool(data, tmp_path / "out").v.values.tolist() == [0] * 4
    with pytest.raises(ArgumentError, match="only you can tell"):
        dtk.spool(data, tmp_path / "out")


def test_arrays_that_dask_makes_have_an_identity():
    made = da.ones((8, 3), chunks=4) + da.arange(3) + da.eye(8)[:, :3] + da.random.default_rng(0).random((8, 3))
    rest = xr.Dataset({"v": (("s", "y"), made + da.linspace(0, 1, 3))})
    assert of(rest) == of(rest.copy()) is not None
    assert of(make().interp(s=[1.5, 2.5])) is not None


def test_icechunk_counts_by_its_snapshot(tmp_path):
    icechunk = pytest.importorskip("icechunk")
    repository = icechunk.Repository.create(icechunk.local_filesystem_storage(str(tmp_path)))
    session = repository.writable_session("main")
    make().to_zarr(session.store, consolidated=False)
    assert of(xr.open_zarr(session.store, chunks=None, consolidated=False)) is None  # it may still change
    session.commit("first")

    def read():
        return xr.open_zarr(repository.readonly_session("main").store, chunks=None, consolidated=False)

    assert (before := of(read())) is not None
    session = repository.writable_session("main")
    make(2.0).to_zarr(session.store, mode="r+", consolidated=False)
    session.commit("second")
    assert of(read()) != before


def test_a_rewritten_store_and_another_dimension_are_refused_by_spool(store, tmp_path):
    assert dtk.spool(store, tmp_path / "out").v.values.sum() == 24
    make(2.0).to_zarr(store, mode="r+", consolidated=False)
    with pytest.raises(ArgumentError, match="holds a spool of other data"):
        dtk.spool(store, tmp_path / "out")
    assert dtk.spool(store, tmp_path / "out", overwrite=True).v.values.sum() == 48
    assert dtk.spool(store, tmp_path / "out", dim="s").v.values.sum() == 48
    with pytest.raises(ArgumentError, match="or along another dimension .*another path, or overwrite=True"):
        dtk.spool(store, tmp_path / "out", dim="y")


@pytest.mark.parametrize("is_cached", [False, True])
def test_a_spool_is_never_replaced_by_what_is_derived_from_it(store, tmp_path, is_cached):
    path = store.replace("a.zarr", "out")
    data = dtk.spool(make(), path, cache=tmp_path / "cache" if is_cached else None)
    with pytest.raises(ArgumentError, match="holds what the data is read from"):
        dtk.spool(xr.Dataset({"q": data.v * 2}), path, overwrite=True)
    assert set(dtk.open(path).data_vars) == {"v", "w"}


def test_a_table_in_a_store_is_never_replaced_by_what_is_derived_from_it(tmp_path):
    path = f"memory://{tmp_path.name}/out"
    data = dtk.spool(make().v.mean("y").to_series().reset_index(drop=True).to_frame("x"), path)
    with pytest.raises(ArgumentError, match="holds what the data is read from"):
        dtk.spool(data.assign(y=data.x), path, overwrite=True)
    fsspec.filesystem("memory").rm(tmp_path.name, recursive=True)
