"""Zarr through xarray as a source: what is a plain read, how it is cut, and that it equals what xarray gives."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr

from dtk.errors import ArgumentError, DataError, SourceError
from dtk.sources import array_facts, datasets
from dtk.sources.datasets import source_of_dataset
from dtk.sources.zarr_read import Scratch

TIMES = 47


def climate():
    rng = np.random.default_rng(0)
    t2m = rng.normal(280, 10, (TIMES, 4, 6)).astype("f4")
    t2m[3, 1, 2] = np.nan
    return xr.Dataset(
        {
            "t2m": (("time", "lat", "lon"), t2m),
            "u": (("level", "time", "lat", "lon"), rng.normal(size=(3, TIMES, 4, 6))),
            "rain": (("time",), rng.random(TIMES)),
            "mask": (("lat", "lon"), rng.random((4, 6)) < 0.5),
            "orography": (("lat", "lon"), rng.random((4, 6))),
        },
        coords={"time": np.arange(TIMES), "level": [850, 500, 250], "lat": np.arange(4.0), "lon": np.arange(6.0)},
    )


@pytest.fixture(autouse=True)
def no_chunk_is_too_small(monkeypatch):
    """Read each chunk of the store by itself, however small."""
    monkeypatch.setattr(datasets, "_LEAST_NBYTES", 1)


@pytest.fixture(scope="module", params=[2, 3])
def store(request, tmp_path_factory):
    path = str(tmp_path_factory.mktemp("zarr") / "climate.zarr")
    packed = {"dtype": "i2", "scale_factor": 0.01, "add_offset": 280.0, "_FillValue": -32768, "chunks": (10, 2, 6)}
    encoding = {"t2m": packed, "u": {"chunks": (3, 20, 4, 6)}, "rain": {"chunks": (7,)}}
    if request.param == 3:
        encoding["u"] = {"chunks": (1, 5, 4, 6), "shards": (3, 20, 4, 6)}
    climate().to_zarr(path, zarr_format=request.param, encoding=encoding, consolidated=request.param == 2)
    return path


def opened(store, **options):
    return xr.open_zarr(store, consolidated=False, **{"chunks": {}, **options})


SELECTIONS = [
    lambda data: data,
    lambda data: data.isel(time=slice(5, 40), lat=slice(1, 3)),
    lambda data: data.isel(time=slice(5, 40)).isel(time=slice(2, None), lon=-1),
    lambda data: data.sel(level=500, time=slice(11, 31)),
    lambda data: data.isel(time=slice(0, 0)),
    lambda data: data.isel(time=slice(46, 47)),
]


@pytest.mark.filterwarnings("ignore:The specified chunks separate the stored chunks")
@pytest.mark.parametrize("chunks", [{}, None, {"time": 9}], ids=["stored", "lazy", "other"])
@pytest.mark.parametrize("select", SELECTIONS)
def test_every_chunk_equals_xarray(store, chunks, select):
    """Whatever was selected, with Dask or without, whatever its chunks: the store's chunks are what is read."""
    data = select(opened(store, chunks=chunks))[["t2m", "u", "rain", "mask", "orography"]]
    source = pickle.loads(pickle.dumps(source_of_dataset(data, dim="time")))
    expected = data.load().transpose("time", ...)
    assert source.chunk_rows.sum() == source.num_samples == expected.sizes["time"]
    assert len(source.chunk_nbytes) == source.num_chunks
    scratch = Scratch()
    start = 0
    for chunk in range(source.num_chunks):
        for block in (source.read(chunk), source.read(chunk, ["t2m", "u", "rain"], scratch)):
            for name in ("t2m", "u", "rain"):
                values = expected[name].values[start : start + block.num_rows]
                np.testing.assert_array_equal(block.arrays[name], values)
                assert block.arrays[name].dtype == source.variables[name].dtype == values.dtype
        start += block.num_rows
    for name in ("mask", "orography"):
        np.testing.assert_array_equal(source.read_static(name), expected[name].values)
        assert source.variables[name].is_static


def test_chunks_follow_the_biggest_variable(store):
    """Its shards of 20 where there are any: read whole."""
    source = source_of_dataset(opened(store).isel(time=slice(5, None)), dim="time")
    assert source.chunk_edges.tolist() == [0, 15, 35, 42]
    assert "time 15 to 34" in source.describe(1)
    small = source_of_dataset(opened(store)[["rain"]])
    assert small.dim == "time"
    assert small.chunk_rows.tolist() == [7] * 6 + [5]


def test_small_chunks_are_read_together(store, monkeypatch):
    monkeypatch.setattr(datasets, "_LEAST_NBYTES", 7 * 8 * 2)
    assert source_of_dataset(opened(store)[["rain"]]).chunk_rows.tolist() == [14, 14, 14, 5]


def test_samples_across_chunks(store):
    source = source_of_dataset(opened(store), dim="time")
    block = source.read_samples(18, 43, ["t2m", "rain"])
    np.testing.assert_array_equal(block.arrays["t2m"], opened(store)["t2m"].values[18:43])
    part = block.slice(3, 5)
    assert part.num_rows == 5
    np.testing.assert_array_equal(part.arrays["rain"], opened(store)["rain"].values[21:26])


def test_identity_follows_what_is_read(store, tmp_path):
    data = opened(store)
    same = source_of_dataset(data, dim="time").identity
    assert source_of_dataset(opened(store, chunks=None), dim="time").identity == same
    others = [
        source_of_dataset(data.isel(time=slice(1, None)), dim="time"),
        source_of_dataset(data, ["t2m"], dim="time"),
        source_of_dataset(data, dim="lat"),
    ]
    climate().to_zarr(tmp_path / "other.zarr", consolidated=False)
    others.append(source_of_dataset(opened(str(tmp_path / "other.zarr")), dim="time"))
    assert len({same, *(other.identity for other in others)}) == 5


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: data * 2, "Dask computes it"),
        (lambda data: data.isel(time=slice(None, None, 2)), "with a step"),
        (lambda data: data.isel(time=[3, 1]), "Dask computes it|lists of positions"),
        (lambda data: data.load(), "it is in memory"),
        (lambda data: xr.concat([data.isel(time=slice(0, 5)), data.isel(time=slice(20, 25))], "time"), "."),
        (lambda data: data.assign(t2m=data.t2m.fillna(0)), "Dask computes it"),
    ],
)
def test_what_is_computed_is_refused(store, change, reason):
    """Even though ``encoding`` still names the store."""
    with pytest.raises(SourceError, match=rf"variable 't2m' is not read from Zarr as it lies: .*({reason}).*spool"):
        source_of_dataset(change(opened(store)[["t2m"]]))


def test_wrong_names_and_types_are_refused(store, tmp_path):
    data = opened(store)
    with pytest.raises(ArgumentError, match="did you mean 't2m'"):
        source_of_dataset(data, ["t2n"])
    with pytest.raises(ArgumentError, match=r"dim='tme' is no dimension .*did you mean 'time'"):
        source_of_dataset(data, dim="tme")
    with pytest.raises(ArgumentError, match="in none of the variables"):
        source_of_dataset(data, ["mask"], dim="time")
    words = xr.Dataset({"s": ("time", np.array(["a", "bc"], object)), "zero": ((), 1.0)})
    words.to_zarr(tmp_path / "words.zarr", zarr_format=2, consolidated=False)
    with pytest.raises(DataError, match="variable 's' holds .*, no numbers"):
        source_of_dataset(opened(str(tmp_path / "words.zarr")), ["s"])
    with pytest.raises(DataError, match=r"variables \['zero'\] have no dimensions: each is one number"):
        source_of_dataset(opened(str(tmp_path / "words.zarr")), ["zero"])


def test_no_name_of_a_variable_is_taken_for_memory_of_the_decoder(tmp_path):
    names = ["chunk", "encoded", "plain"]
    values = {name: np.random.default_rng(number).random((40, 5, 8)) for number, name in enumerate(names)}
    data = xr.Dataset({name: (("time", "y", "x"), value) for name, value in values.items()})
    data.chunk(time=7, y=3).to_zarr(tmp_path / "a.zarr", consolidated=False)
    block = source_of_dataset(xr.open_zarr(tmp_path / "a.zarr", consolidated=False)).read_samples(3, 30)
    for name in names:
        np.testing.assert_array_equal(block.arrays[name], values[name][3:30])


def test_big_endian_numbers_have_one_identity_in_every_process(tmp_path):
    xr.Dataset({"x": ("time", np.arange(9.0).astype(">f8"))}).to_zarr(
        tmp_path / "a.zarr", consolidated=False, zarr_format=2
    )
    source = source_of_dataset(xr.open_zarr(tmp_path / "a.zarr", consolidated=False))
    assert "0x" not in repr(array_facts._variable_facts(source.variables["x"]))
    script = "import sys; from dtk.sources.datasets import array_source; print(array_source(sys.argv[1]).identity)"
    found = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "a.zarr")], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == source.identity
