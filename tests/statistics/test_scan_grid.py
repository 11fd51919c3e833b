"""A scan of a grid reads every chunk once, wherever it lies, and keeps the dimensions that were asked for."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr
import zarr
from dask.callbacks import Callback

from benchmarks.object_server import serve
from dtk.errors import ArgumentError, DataError, SourceError
from dtk.sources.datasets import source_of_dataset
from dtk.statistics import GridMoments, scan_grid
from dtk.statistics.grid_tiles import TiledVariable, tile_groups, tiled_dataset

DIMS = ("time", "level", "lat", "lon")


@pytest.fixture
def dataset() -> xr.Dataset:
    rng = np.random.default_rng(0)
    grid = rng.normal(size=(23, 3, 10, 14)).astype(np.float32) + np.arange(3, dtype=np.float32)[:, None, None]
    grid[rng.random(grid.shape) < 0.1] = np.nan
    return xr.Dataset(
        {
            "t": (DIMS, grid),
            "q": (("time", "lat", "lon"), rng.integers(-5, 9, size=(23, 10, 14)).astype(float)),
            "flag": (("time", "lat"), rng.integers(0, 3, size=(23, 10), dtype=np.int16)),
            "height": (("lat", "lon"), rng.normal(size=(10, 14))),
            "number": ((), 4.0),
            "date": (("time",), np.arange(23).astype("M8[D]").astype("M8[ns]")),
        },
        coords={"level": [1000, 500, 250]},
    )


def written(dataset: xr.Dataset, path: Path, chunks: tuple[int, ...], shards: tuple[int, ...] | None = None) -> str:
    encoding: dict[str, Any] = {"t": {"chunks": chunks} | ({"shards": shards} if shards else {})}
    encoding["q"] = {"chunks": (4, 10, 5), "scale_factor": 0.5, "add_offset": 3.0, "dtype": "i2", "_FillValue": -999}
    dataset.to_zarr(path, encoding=encoding, consolidated=False, zarr_format=3)
    return str(path)


def check(found: dict[str, GridMoments], dataset: xr.Dataset, keep: tuple[str, ...]) -> None:
    assert set(found) == set(dataset.data_vars) - {"date"}
    for name, moments in found.items():
        values = dataset[name].astype(np.float64)
        dims = [dim for dim in values.dims if dim not in keep]
        assert moments.dims == tuple(dim for dim in values.dims if dim in keep)
        np.testing.assert_array_equal(moments.count, values.notnull().sum(dims))
        np.testing.assert_allclose(moments.mean, values.mean(dims), rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(moments.std, values.std(dims), rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(moments.min, values.min(dims))
        np.testing.assert_array_equal(moments.max, values.max(dims))


@pytest.mark.parametrize("keep", [(), ("level",), ("lat", "lon"), ("time",), ("level", "lon")])
def test_the_same_answer_from_everywhere(dataset: xr.Dataset, tmp_path: Path, keep: tuple[str, ...]) -> None:
    path = written(dataset, tmp_path / "a.zarr", (5, 2, 10, 6))
    lazy = xr.open_zarr(path, consolidated=False)
    computed = lazy.assign(t=lazy["t"] * 1)
    for data in (dataset, path, lazy, computed, dataset.chunk(time=7, lon=4)):
        check(scan_grid(data, keep), dataset, keep)


@pytest.mark.parametrize(
    ("chunks", "shards"),
    [((1, 1, 10, 14), None), ((23, 3, 3, 3), None), ((2, 1, 5, 7), (8, 2, 10, 14)), ((40,) * 4, None)],
)
def test_chunks_of_every_shape(
    dataset: xr.Dataset,
    tmp_path: Path,
    chunks: tuple[int, ...],
    shards: tuple[int, ...] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = written(dataset, tmp_path / "a.zarr", chunks, shards)
    for nbytes in (1, 3_000, 1 << 20):
        monkeypatch.setattr("dtk.statistics.grid_tiles._TILE_NBYTES", nbytes)
        check(scan_grid(path, ["level", "lat"]), dataset, ("level", "lat"))


def test_selections_are_read_in_place(dataset: xr.Dataset, tmp_path: Path) -> None:
    lazy = xr.open_zarr(written(dataset, tmp_path / "a.zarr", (5, 2, 10, 6)), consolidated=False)
    for select in ({"time": slice(3, 17), "lon": slice(1, 12)}, {"level": 1}, {"time": slice(4, 4)}):
        part, wanted = lazy.isel(select), dataset.isel(select)
        tiled_dataset(part, ["t"])  # which refuses what is not read in place
        if wanted.sizes["time"]:
            check(scan_grid(part, ["lat"]), wanted, ("lat",))
        else:
            assert scan_grid(part, ["lat"])["t"].count.tolist() == [0] * 10


def test_a_source_is_read_in_place(dataset: xr.Dataset, tmp_path: Path) -> None:
    lazy = xr.open_zarr(written(dataset, tmp_path / "a.zarr", (5, 2, 10, 6)), consolidated=False)
    names = ["t", "q", "height"]
    for dim in ("time", "lat"):
        check(scan_grid(source_of_dataset(lazy, names, dim), ["lon"]), dataset[names], ("lon",))
    with pytest.raises(SourceError):
        source_of_dataset(dataset)


def test_a_remote_store_is_fetched_ahead(dataset: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("aiohttp")  # what fsspec speaks HTTP with
    monkeypatch.setattr("dtk.statistics.grid_tiles._TILE_NBYTES", 3_000)
    dataset.to_zarr(tmp_path / "a.zarr", consolidated=True, zarr_format=2, encoding={"t": {"chunks": (5, 2, 10, 6)}})
    with serve(tmp_path) as server:
        remote = xr.open_zarr(f"{server.url}/a.zarr", consolidated=True, chunks=None)
        assert all(one.is_remote for one in tiled_dataset(remote, ["t", "q"]))
        check(scan_grid(remote, ["level"]), dataset, ("level",))


def test_netcdf_is_read_block_by_block(tmp_path: Path) -> None:
    dataset = xr.Dataset({"t": (("time", "x"), np.arange(12.0).reshape(4, 3))})
    dataset.to_netcdf(tmp_path / "a.nc")
    with xr.open_dataset(tmp_path / "a.nc") as lazy:
        check(scan_grid(lazy, ["x"]), dataset, ("x",))
    check(scan_grid(str(tmp_path / "a.nc")), dataset, ())


def test_only_the_asked_variables_are_read(dataset: xr.Dataset, tmp_path: Path) -> None:
    path = written(dataset, tmp_path / "a.zarr", (5, 2, 10, 6))
    assert list(scan_grid(path, variables=["q"])) == ["q"]
    assert scan_grid(dataset[["date"]]) == {}


def test_shared_work_is_done_once(dataset: xr.Dataset) -> None:
    calls = []

    def upstream(block: np.ndarray) -> np.ndarray:
        calls.append(1)
        return block

    chunked = dataset[["t"]].chunk(time=4)
    base = chunked["t"].copy(data=chunked["t"].data.map_blocks(upstream, meta=np.empty((0,) * 4, "f4")))
    both = xr.Dataset({"a": base, "b": base * 2})
    found = scan_grid(both, ["level"])
    np.testing.assert_allclose(found["b"].mean, 2 * found["a"].mean)
    assert len(calls) == 6


def test_groups_hold_all_tiles_once(dataset: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dtk.statistics.grid_tiles._TILE_NBYTES", 1)
    lazy = xr.open_zarr(written(dataset, tmp_path / "a.zarr", (1, 1, 10, 14)), consolidated=False)
    tiled = {one.name: one for one in tiled_dataset(lazy, ["t", "q", "height", "number"])}
    for wanted in (1, 2, 7, 1000):
        groups = tile_groups(tiled, wanted)
        assert len(groups) <= wanted + 1
        tiles = [(name, tile) for group in groups for name, first, last in group for tile in range(first, last)]
        assert tiles == [(name, tile) for name, one in tiled.items() for tile in range(one.num_tiles)]
    nbytes = [
        sum((last - first) * tiled[name].nbytes / tiled[name].num_tiles for name, first, last in group)
        for group in tile_groups(tiled, 5)
    ]
    assert max(nbytes[:-1]) < 1.2 * min(nbytes[:-1])


def test_memory_does_not_grow_with_the_data(tmp_path: Path) -> None:
    array = zarr.create_array(
        str(tmp_path / "a.zarr/x"),
        shape=(400, 64, 64),
        chunks=(4, 64, 64),
        dtype="f4",
        dimension_names=["t", "y", "x"],
        fill_value=1.5,
    )
    array[:4] = 1.5
    tiled = TiledVariable(
        "x",
        ("t", "y", "x"),
        tiled_dataset(xr.open_zarr(zarr.open_group(tmp_path / "a.zarr", mode="a").store, consolidated=False), ["x"])[
            0
        ].read,
    )
    moments = GridMoments(tiled.sizes, ["y"])
    tracemalloc.start()
    for values, at in tiled.blocks(0, tiled.num_tiles):
        moments.update(values, at=at)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert moments.count.sum() == 400 * 64 * 64
    assert peak < 5 * 2**20 < tiled.nbytes


def test_builds_few_tasks(dataset: xr.Dataset, tmp_path: Path) -> None:
    path = written(dataset, tmp_path / "a.zarr", (1, 1, 10, 14))
    tasks: list[str] = []
    with Callback(pretask=lambda key, *_: tasks.append(str(key))), dask.config.set(scheduler="threads"):
        scan_grid(path, label="grid")
    assert len(tasks) < 64


def test_on_a_cluster(dataset: xr.Dataset, tmp_path: Path, client: Any) -> None:
    path = written(dataset, tmp_path / "a.zarr", (5, 2, 10, 6))
    check(scan_grid(path, ["level"], label="grid-in-place"), dataset, ("level",))
    check(scan_grid(dataset.chunk(time=7), ["level"], label="grid-computed"), dataset, ("level",))
    names = client.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.task_prefixes))
    assert "grid-in-place" in names


def test_what_cannot_work_is_refused(dataset: xr.Dataset, tmp_path: Path) -> None:
    path = written(dataset, tmp_path / "a.zarr", (5, 2, 10, 6))
    with pytest.raises(ArgumentError, match=r"keep=\['levle'\] names 'levle', which is no dimension of the data"):
        scan_grid(path, ["levle"])
    with pytest.raises(ArgumentError, match="'tt' is none of the data"):
        scan_grid(path, variables=["tt"])
    with pytest.raises(DataError, match=r"variable 'date' holds datetime64\[ns\], no numbers; leave it out"):
        scan_grid(dataset, variables=["date"])
    with pytest.raises(SourceError, match=r"DataArray is no grid; give an xarray Dataset"):
        scan_grid(dataset["t"])
    chunk = next(file for file in (tmp_path / "a.zarr/t/c").rglob("*") if file.is_file())
    chunk.write_bytes(b"damaged")
    with pytest.raises(DataError, match="cannot be decoded"):
        scan_grid(path)
