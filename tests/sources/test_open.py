"""Opening data lazily, and refusing what cannot be opened."""

from __future__ import annotations

import os

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xarray as xr

from dtk.errors import ArgumentError, DataError, NotFoundError, SourceError
from dtk.sources import as_source
from dtk.sources import open as open_data
from dtk.sources.open import CSV_SAMPLE_ROWS

pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword")  # Dask 2026.8 with pandas 3.1

FRAME = pd.DataFrame({"a": range(10), "b": list("abcdefghij")})


def write_hive(root, months, **columns):
    for month in months:
        os.makedirs(root / f"m={month}" / "k=5")
        FRAME.assign(**columns).to_parquet(root / f"m={month}" / "k=5" / "p.parquet", row_group_size=4)


def test_parquet_file_directory_glob(tmp_path):
    for name in ("p10.parquet", "p2.parquet"):
        FRAME.to_parquet(tmp_path / name)
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / ".hidden.parquet").write_bytes(b"no")
    (tmp_path / "README.md").write_text("no data")
    assert len(open_data(tmp_path / "p2.parquet")) == 10
    assert len(open_data(tmp_path)) == len(open_data(str(tmp_path / "*.parquet"))) == 20
    assert list(open_data(tmp_path, columns=["b"]).columns) == ["b"]
    assert [os.path.basename(path) for path in as_source(tmp_path).paths] == ["p2.parquet", "p10.parquet"]


@pytest.mark.parametrize("index", [range(10), np.arange(10) * 3])
def test_an_index_without_a_name_is_no_column(tmp_path, index):
    frame = FRAME.set_axis(index)
    dd.from_pandas(frame, npartitions=2).to_parquet(tmp_path / "dask")
    frame.to_parquet(tmp_path / "pandas.parquet")
    for path in (tmp_path / "dask", tmp_path / "pandas.parquet"):
        assert as_source(path).schema.names == ["a", "b"]
        assert open_data(path).compute().to_dict("list") == FRAME.to_dict("list")


def test_hive_types_are_the_same_everywhere(tmp_path):
    write_hive(tmp_path, ["01", "02"])
    data = open_data(tmp_path)
    assert str(data.dtypes["m"]) == "string"
    assert str(data.dtypes["k"]) == "int64"
    computed = data.compute()
    assert sorted(set(computed.m)) == ["01", "02"]
    source = as_source(data)
    assert source.schema.field("m").type == pa.string()
    assert source.identity == as_source(tmp_path).identity
    filtered = as_source(data[data.m == "02"])
    rows = pa.concat_tables([filtered.read(chunk) for chunk in range(filtered.num_chunks)])
    assert rows["m"].unique().to_pylist() == ["02"]
    assert rows.num_rows == 10


def test_hive_null_and_escapes(tmp_path):
    write_hive(tmp_path, ["__HIVE_DEFAULT_PARTITION__", "a%20b"])
    assert set(open_data(tmp_path).compute().m.dropna()) == {"a b"}
    assert as_source(tmp_path).read(0)["m"].null_count == 4


def test_an_unnamed_index_is_left_out(tmp_path):
    FRAME.set_axis(list("klmnopqrst")).to_parquet(tmp_path / "p.parquet")
    assert list(open_data(tmp_path).columns) == ["a", "b"] == as_source(tmp_path).schema.names


def test_partitions_are_neither_tiny_nor_huge(tmp_path):
    for number in range(30):
        FRAME.to_parquet(tmp_path / f"p{number}.parquet")
    data = open_data(tmp_path)
    assert data.npartitions == 1
    assert len(data) == 300
    check = data[data.a > 4]
    source = as_source(check)
    assert sum(source.read(chunk).num_rows for chunk in range(source.num_chunks)) == 150


def test_categories_are_read_in_place(tmp_path):
    FRAME.astype({"b": "category"}).to_parquet(tmp_path / "p.parquet", row_group_size=5)
    data = open_data(tmp_path)
    source = as_source(data[data.b != "a"])
    found = pa.concat_tables([source.read(chunk) for chunk in range(source.num_chunks)])
    assert found["b"].to_pylist() == list("bcdefghij")


@pytest.mark.parametrize("suffix", ["", ".gz", ".bz2", ".xz", ".zip"])
def test_csv(tmp_path, suffix):
    FRAME.to_csv(tmp_path / f"x.csv{suffix}", index=False)
    data = open_data(tmp_path / f"x.csv{suffix}")
    assert isinstance(data, dd.DataFrame)
    assert data.compute().a.tolist() == list(range(10))
    with pytest.raises(SourceError, match=r"is csv, .*dtk\.spool"):
        as_source(tmp_path / f"x.csv{suffix}")


def test_csv_of_column_names_alone_does_not_change_types(tmp_path):
    FRAME.to_csv(tmp_path / "a.csv", index=False)
    FRAME[:0].to_csv(tmp_path / "b.csv", index=False)
    data = open_data(tmp_path)
    assert str(data.dtypes["a"]) == "int64"
    assert len(data) == 10


def test_csv_numbers_may_have_their_first_gap_late(tmp_path):
    text = "i,b,s\n" + "7,True,x\n" * CSV_SAMPLE_ROWS
    (tmp_path / "a.csv").write_text(text + ",,\n9007199254740993,False,y\n")
    found = open_data(tmp_path / "a.csv").compute()
    assert found.isna().sum().to_dict() == {"i": 1, "b": 1, "s": 1}
    assert found.i.iloc[-1] == 9007199254740993
    (tmp_path / "a.csv").write_text(text[: text.index("\n") + 1] + "7,True,x\n")
    assert {str(kind) for kind in open_data(tmp_path / "a.csv").dtypes[:2]} == {"int64", "bool"}


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_brackets_in_a_name_are_no_pattern(tmp_path, suffix):
    directory = tmp_path / "run [1]*"
    directory.mkdir()
    getattr(FRAME, f"to_{suffix}")(directory / f"a[1].{suffix}")
    assert len(open_data(directory / f"a[1].{suffix}")) == 10
    assert len(open_data(directory)) == 10
    if suffix == "parquet":
        assert as_source(open_data(directory)).identity == as_source(directory).identity


def dataset():
    return xr.Dataset(
        {"v": (("time", "x"), np.arange(120.0).reshape(20, 6))},
        coords={"time": pd.date_range("2020-01-01", periods=20)},
    )


@pytest.mark.parametrize("version", [2, 3])
def test_zarr(tmp_path, version):
    dataset().chunk(time=5).to_zarr(tmp_path / "z", zarr_format=version, consolidated=version == 2)
    data = open_data(tmp_path / "z")
    assert data.v.chunks == ((5, 5, 5, 5), (6,))
    xr.testing.assert_equal(data.compute(), dataset())
    assert list(open_data(tmp_path / "z", columns=["v"]).data_vars) == ["v"]


def test_zarr_shards_are_read_whole(tmp_path):
    encoding = {"v": {"chunks": (2, 6), "shards": (10, 6)}}
    dataset().to_zarr(tmp_path / "z.zarr", zarr_format=3, consolidated=False, encoding=encoding)
    assert open_data(tmp_path / "z.zarr").v.chunks == ((10, 10), (6,))


def test_netcdf_of_several_files(tmp_path):
    dataset().isel(time=slice(10, None)).to_netcdf(tmp_path / "b.nc")
    dataset().isel(time=slice(10)).to_netcdf(tmp_path / "c.nc")
    data = open_data(tmp_path / "*.nc")
    assert data.v.chunks is not None
    xr.testing.assert_equal(data.compute(), dataset())


def test_netcdf_variables_without_time_stay_so(tmp_path):
    whole = dataset().assign_coords(x=np.arange(6.0)).assign(mask=("x", np.ones(6)))
    whole.isel(time=slice(10)).to_netcdf(tmp_path / "a.nc")
    whole.isel(time=slice(10, None)).to_netcdf(tmp_path / "b.nc")
    data = open_data(tmp_path)
    assert data.mask.dims == ("x",)
    xr.testing.assert_equal(data.compute(), whole)


def test_netcdf_of_other_coordinates_names_the_file(tmp_path):
    for number, start in enumerate((0.0, 0.0, 1e-6)):
        part = dataset().isel(time=slice(6 * number, 6 * number + 6)).assign_coords(x=np.arange(6) + start)
        part.to_netcdf(tmp_path / f"{number}.nc")
    with pytest.raises(DataError, match=r"2\.nc has other values of 'x' than .*0\.nc"):
        open_data(tmp_path)


def test_bad_paths(tmp_path):
    FRAME.to_parquet(tmp_path / "flights.parquet")
    with pytest.raises(NotFoundError, match=r"flighs\.parquet is not there; did you mean 'flights\.parquet'\?"):
        open_data(tmp_path / "flighs.parquet")
    with pytest.raises(NotFoundError, match="matches no file"):
        open_data(tmp_path / "*.csv")
    with pytest.raises(ArgumentError, match=r"format='parket' is unknown; did you mean 'parquet'\?"):
        open_data(tmp_path, format="parket")
    with pytest.raises(ArgumentError, match="columns='c' is no column"):
        open_data(tmp_path, columns=["c"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty is an empty directory"):
        open_data(tmp_path / "empty")
    (tmp_path / "notes.txt").write_text("hello there")
    with pytest.raises(DataError, match=r"notes\.txt is of no format"):
        open_data(tmp_path / "notes.txt")


def test_bad_parquet(tmp_path):
    FRAME.iloc[:0].to_parquet(tmp_path / "none.parquet")
    with pytest.raises(DataError, match=r"none\.parquet has no rows"):
        open_data(tmp_path / "none.parquet")
    pq.write_table(pa.table({}), tmp_path / "no_columns.parquet")
    with pytest.raises(DataError, match=r"no_columns\.parquet has no columns"):
        open_data(tmp_path / "no_columns.parquet")
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    FRAME.to_parquet(mixed / "a.parquet")
    FRAME.astype({"a": "float64"}).to_parquet(mixed / "b.parquet")
    with pytest.raises(DataError, match=r"column 'a' is double in .*b\.parquet but is int64 in .*a\.parquet"):
        open_data(mixed)
    content = (mixed / "a.parquet").read_bytes()
    (mixed / "b.parquet").write_bytes(content[:-20])
    with pytest.raises(DataError, match=r"b\.parquet is no Parquet file, or was cut off"):
        open_data(mixed)


def test_bad_csv(tmp_path):
    (tmp_path / "empty.csv").touch()
    with pytest.raises(DataError, match=r"empty\.csv is empty"):
        open_data(tmp_path / "empty.csv")
    (tmp_path / "head.csv").write_text("a,b\n")
    with pytest.raises(DataError, match=r"head\.csv has column names but no rows"):
        open_data(tmp_path / "head.csv")
    (tmp_path / "cut.csv.gz").write_bytes(b"\x1f\x8bnothing")
    with pytest.raises(DataError, match=r"cut\.csv\.gz cannot be read as CSV"):
        open_data(tmp_path / "cut.csv.gz")
    FRAME.to_csv(tmp_path / "p1.csv", index=False)
    FRAME.rename(columns={"a": "c"}).to_csv(tmp_path / "p2.csv", index=False)
    with pytest.raises(DataError, match=r"p2\.csv has the columns \['c', 'b'\]"):
        open_data(tmp_path / "p*.csv")


def test_bad_arrays(tmp_path):
    import zarr

    zarr.create_array(tmp_path / "bare.zarr", shape=(4,), dtype="f4")
    with pytest.raises(DataError, match=r"bare\.zarr is a bare Zarr array .*to_zarr"):
        open_data(tmp_path / "bare.zarr")
    (tmp_path / "hollow.zarr").mkdir()
    with pytest.raises(DataError, match="is no Zarr store"):
        open_data(tmp_path / "hollow.zarr")
    dataset().isel(time=slice(0)).to_zarr(tmp_path / "none.zarr", consolidated=False)
    with pytest.raises(DataError, match=r"none\.zarr is empty along \['time'\]"):
        open_data(tmp_path / "none.zarr")
    (tmp_path / "cut.nc").write_bytes(b"\x89HDF\r\n\x1a\nbut no more")
    with pytest.raises(DataError, match=r"cut\.nc cannot be read as NetCDF"):
        open_data(tmp_path / "cut.nc")
