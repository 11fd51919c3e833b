"""Pieces of data: nothing lost, nothing twice, stable."""

from __future__ import annotations

import datetime as dt

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from dtk.errors import ArgumentError
from dtk.sources import ExpressionSource, as_source, counted, split
from dtk.sources.split import hash_rows

pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword")  # Dask 2026.8 with pandas 3.1


def make_frame(num_rows=2000):
    rng = np.random.default_rng(1)
    return pd.DataFrame(
        {
            "id": np.arange(num_rows),
            "x": np.where(rng.random(num_rows) < 0.1, np.nan, rng.normal(size=num_rows)),
            "s": rng.choice(["a", "b", "c", None], num_rows),
            "t": pd.date_range("2020-01-01", periods=num_rows, freq="h"),
        }
    )


def test_fractions_cover_and_are_disjoint():
    frame = make_frame()
    pieces = split(frame, fractions=[0.7, 0.2, 0.1])
    assert sorted(pd.concat(pieces).id) == list(frame.id)
    assert [len(piece) / len(frame) for piece in pieces] == pytest.approx([0.7, 0.2, 0.1], abs=0.04)
    other = split(frame, fractions=[0.7, 0.2, 0.1], seed=1)
    assert set(other[0].id) != set(pieces[0].id)


def test_dask_pieces_equal_pandas_whatever_partitions_and_types():
    frame = make_frame()
    expected = [list(piece.id) for piece in split(frame, fractions=[0.5, 0.5])]
    for num_parts, types in [(1, {}), (7, {"id": "int32"}), (3, {"s": "category", "id": "float64"})]:
        data = dd.from_pandas(frame.astype(types), npartitions=num_parts)
        pieces = split(data, fractions=[0.5, 0.5])
        assert all(isinstance(piece, dd.DataFrame) for piece in pieces)
        assert [list(piece.id.compute()) for piece in pieces] == expected


@pytest.mark.parametrize(
    "arguments",
    [
        {"fractions": [0.6, 0.4]},
        {"fractions": [0.6, 0.4], "group": "s"},
        {"by": "t", "at": ["2020-01-11", "2020-02-01"]},
    ],
)
def test_pieces_of_an_arrow_table_equal_those_of_pandas(arguments):
    frame = make_frame()
    pieces = split(pa.Table.from_pandas(frame, preserve_index=False), **arguments)
    assert all(isinstance(piece, pa.Table) for piece in pieces)
    expected = [list(piece.id) for piece in split(frame, **arguments)]
    assert [piece["id"].to_pylist() for piece in pieces] == expected


def test_dates_of_an_arrow_table_are_cut_as_times():
    days = pa.table({"day": pa.array(make_frame(50).t.dt.date.drop_duplicates(), pa.date32())})
    assert [len(piece) for piece in split(days, by="day", at="2020-01-02")] == [1, len(days) - 1]
    assert sum(map(len, split(days, fractions=[0.5, 0.5]))) == len(days)


def test_appended_rows_move_nobody():
    frame = make_frame()
    before = split(frame.iloc[:1000], fractions=[0.5, 0.5])[0]
    after = split(frame, fractions=[0.5, 0.5])[0]
    assert list(after.id[after.id < 1000]) == list(before.id)


def test_group_stays_together():
    frame = make_frame().assign(g=lambda frame: frame.id // 10)
    one, other = split(frame, fractions=[0.5, 0.5], group="g")
    assert not set(one.g) & set(other.g)
    assert len(one) + len(other) == len(frame)


def test_key_ignores_other_columns():
    frame = make_frame()
    one = split(frame, fractions=[0.5, 0.5], key="id")[0]
    assert list(one.id) == list(split(frame.assign(x=0.0), fractions=[0.5, 0.5], key=["id"])[0].id)


def test_cut_points_are_left_inclusive_and_missing_is_first():
    frame = make_frame()
    frame.loc[5, "t"] = pd.NaT
    pieces = split(frame, by="t", at=["2020-01-11", "2020-02-01"])
    assert pieces[1].t.min() == pd.Timestamp("2020-01-11")
    assert pieces[2].t.min() == pd.Timestamp("2020-02-01")
    assert 5 in set(pieces[0].id)
    assert sum(map(len, pieces)) == len(frame)
    zoned = frame.assign(t=frame.t.dt.tz_localize("Europe/Paris"))
    assert [len(piece) for piece in split(zoned, by="t", at=["2020-01-11", "2020-02-01"])] == list(map(len, pieces))


@pytest.mark.parametrize("arguments", [{"fractions": [0.8, 0.2]}, {"by": "t", "at": "2020-02-01"}])
def test_pieces_of_parquet_are_read_in_place(tmp_path, arguments):
    make_frame().to_parquet(tmp_path / "a.parquet", row_group_size=300)
    pieces = split(dd.read_parquet(tmp_path, index=False), **arguments)
    rows = []
    for piece, expected in zip(pieces, split(make_frame(), **arguments), strict=True):
        source = counted(as_source(piece))
        assert isinstance(source, ExpressionSource)
        assert source.num_chunks == 7
        found = [value for chunk in range(7) for value in source.read(chunk)["id"].to_pylist()]
        assert found == list(expected.id)
        assert len(piece) == len(found) == source.chunk_rows.sum()
        rows += found
    assert sorted(rows) == list(range(2000))


@settings(deadline=None, max_examples=40)
@given(values=st.lists(st.one_of(st.none(), st.integers(-(2**40), 2**40)), min_size=1, max_size=20))
def test_hash_does_not_see_types(values):
    exact = hash_rows(pd.DataFrame({"v": pd.array(values, dtype="Int64")}))
    as_float = hash_rows(pd.DataFrame({"v": np.array([np.nan if v is None else v for v in values], float)}))
    as_category = hash_rows(pd.DataFrame({"v": pd.Categorical(values)}))
    assert np.array_equal(exact, as_float)
    assert np.array_equal(exact, as_category)


def test_hash_of_strings_and_booleans_does_not_see_types():
    strings = pd.Series(["a", "b", None, "a"], dtype=object)
    of_pandas_3 = pd.StringDtype("pyarrow", na_value=np.nan)
    kinds = ("object", "category", "string[python]", "string[pyarrow]", of_pandas_3, pd.ArrowDtype(pa.large_string()))
    hashes = [hash_rows(strings.astype(kind).to_frame("v")) for kind in kinds]
    assert all(np.array_equal(hashes[0], other) for other in hashes[1:])
    assert hashes[0][0] == hashes[0][3] != hashes[0][1]
    whole, holed = pd.Series([True, False, True]), pd.Series([True, False, None], dtype=object)
    assert np.array_equal(hash_rows(whole.to_frame("v"))[:2], hash_rows(holed.to_frame("v"))[:2])


def test_hash_of_objects_does_not_see_types():
    for values, kind in (([1, None, 2**60], "Int64"), ([1.0, None, 2.5], "float64"), ([True, None, False], "boolean")):
        as_objects = hash_rows(pd.DataFrame({"v": pd.Series(values, dtype=object)}))
        assert np.array_equal(as_objects, hash_rows(pd.DataFrame({"v": pd.Series(values, dtype=kind)})))
    mixed = pd.DataFrame({"v": pd.Series(["a", 1, [1, 2], None, [1, 2]], dtype=object)})
    hashes = hash_rows(mixed)
    assert len(set(hashes)) == 4
    assert np.array_equal(hash_rows(mixed[::-1]), hashes[::-1])


DAYS = [dt.date(2013, 1, 30) + dt.timedelta(days) for days in range(4)]


@pytest.mark.parametrize("cut", ["2013-02-01", dt.date(2013, 2, 1), pd.Timestamp("2013-02-01")])
def test_dates_as_objects(cut):
    frame = pd.DataFrame({"day": pd.Series([None, *DAYS], dtype=object)})
    assert [len(piece) for piece in split(frame, by="day", at=[cut])] == [3, 2]
    with dask.config.set({"dataframe.convert-string": False}):
        lazy = dd.from_pandas(frame, npartitions=2)
    assert [len(piece) for piece in split(lazy, by="day", at=[cut])] == [3, 2]


@pytest.mark.parametrize("categories", [[1, 2, None, 3], ["a", "b", None, "c"], [*DAYS[:2], None, DAYS[3]]])
def test_categories_with_a_gap(categories):
    frame = pd.DataFrame({"y": pd.Categorical(categories)})
    assert [len(piece) for piece in split(frame, by="y", at=[categories[1]])] == [2, 2]
    lazy = dd.from_pandas(frame, npartitions=2)
    lazy["y"] = lazy.y.cat.as_unknown()
    assert [len(piece) for piece in split(lazy, by="y", at=[categories[1]])] == [2, 2]


def test_columns_named_by_numbers():
    frame = pd.DataFrame(np.arange(30.0).reshape(10, 3))
    assert [len(piece) for piece in split(frame, by=0, at=[15])] == [5, 5]
    expected = [list(piece.index) for piece in split(frame, fractions=[0.5, 0.5], key=[0, 2])]
    lazy = dd.from_pandas(frame, npartitions=2)
    assert [list(piece.compute().index) for piece in split(lazy, fractions=[0.5, 0.5], key=[0, 2])] == expected
    named = frame.set_axis(["0", "1", "2"], axis="columns")
    assert [list(piece.index) for piece in split(named, fractions=[0.5, 0.5], key=["0", "2"])] == expected
    assert sum(map(len, split(frame, fractions=[0.5, 0.5]))) == sum(map(len, split(lazy, fractions=[0.5, 0.5]))) == 10


@pytest.mark.parametrize(("calendar", "cut"), [("noleap", "2000-01-05"), ("360_day", "2000-02-30")])
def test_arrays_of_another_calendar(calendar, cut):
    times = xr.date_range("2000-01-01", periods=80, calendar=calendar, use_cftime=True)
    data = xr.Dataset({"v": ("time", np.arange(80))}, coords={"time": times})
    expected = int((times < xr.date_range(cut, periods=1, calendar=calendar, use_cftime=True)[0]).sum())
    assert [piece.sizes["time"] for piece in split(data, by="time", at=cut)] == [expected, 80 - expected]
    assert [piece.sizes["time"] for piece in split(data, by="time", at=[times[10]])] == [10, 70]
    with pytest.raises(ArgumentError, match="at='soon' cannot be compared"):
        split(data, by="time", at="soon")
    with pytest.raises(ArgumentError, match="at=3 cannot be compared"):
        split(data, by="time", at=3)


def test_arrays_are_split_along_one_dimension():
    data = xr.Dataset({"v": (("time", "lat"), np.ones((4, 3)))})
    with pytest.raises(ArgumentError, match=r"key=\['lat', 'time'\] names several dimensions"):
        split(data, fractions=[0.5, 0.5], key=["lat", "time"])


def test_arrays():
    data = xr.Dataset({"v": (("time", "x"), np.arange(120.0).reshape(20, 6))})
    data = data.assign_coords(time=pd.date_range("2020-01-01", periods=20)).chunk(time=5)
    first, second = split(data, by="time", at="2020-01-05")
    assert (first.sizes["time"], second.sizes["time"]) == (4, 16)
    assert first.v.chunks is not None
    parts = split(data, fractions=[0.5, 0.5])
    assert sorted(np.concatenate([part.time.values for part in parts])) == list(data.time.values)
    assert all(isinstance(part, xr.DataArray) for part in split(data.v, fractions=[0.5, 0.5], key="x"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give exactly one of them"),
        ({"fractions": [0.5, 0.4]}, r"fractions=\[0\.5, 0\.4\] must be shares"),
        ({"by": "t"}, "go together"),
        ({"by": "tt", "at": ["2020"]}, "by='tt' is no column of the data; did you mean 't'"),
        ({"by": "t", "at": ["2021", "2020"]}, "must rise"),
        ({"by": "t", "at": ["soon"]}, "at='soon' is no time"),
        ({"by": "id", "at": ["3"]}, "at='3' is no number"),
        ({"by": "s", "at": [3]}, "at=3 is no string"),
        ({"by": "x", "at": [float("nan")]}, "at=nan is a missing value"),
        ({"by": "t", "at": [pd.NaT]}, "at=NaT is a missing value"),
        ({"by": "s", "at": [None]}, "at=None is a missing value"),
        ({"fractions": [0.5, 0.5], "group": "g"}, "group='g' is no column"),
        ({"fractions": [0.5, 0.5], "group": "s", "key": "id"}, "give one"),
    ],
)
def test_refused(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        split(make_frame(10), **arguments)
