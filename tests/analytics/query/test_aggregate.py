"""Aggregates by group: equal to pandas whatever the chunks, workers and partitions, and lazy until asked."""

from __future__ import annotations

import datetime as dt
import decimal

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dtk
from dtk.analytics.query import aggregate as module
from dtk.analytics.query import quantiles
from dtk.sources import TableSource

NUMBERS = ["count", "sum", "mean", "min", "max", "var", "std", "skew", "median", "distinct"]
PANDAS = {"distinct": "nunique"}


@pytest.fixture
def table():
    """2,000 rows: keys with gaps and other scripts, numbers far from zero, gaps as null and NaN, times with a zone."""
    g = np.random.default_rng(0)
    n = 2000
    numbers = g.normal(1e9, 1, n)
    numbers[::9] = np.nan
    whole = pd.array(g.integers(-5, 5, n), dtype="Int64")
    whole[::11] = pd.NA
    return pd.DataFrame(
        {
            "key": g.choice(["a", "ü", "日本", 'quo"te', None], n),
            "number": g.integers(0, 4, n),
            "x": numbers,
            "i": whole,
            "w": g.uniform(1, 2, n).astype(np.float32),
            "time": pd.Timestamp("2020-03-01", tz="Europe/Berlin") + pd.to_timedelta(g.integers(0, 2400, n), "h"),
        }
    )


def chunked(frame, rows=170):
    """A source of many small chunks."""
    return TableSource(pa.Table.from_pandas(frame, preserve_index=False), rows_per_chunk=rows)


def expected(frame, by, column, measures, **options):
    groups = frame.groupby(by, **options)[column]
    return pd.DataFrame({f"{column}_{name}": groups.agg(PANDAS.get(name, name)) for name in measures}).reset_index()


def assert_equal(found, wanted, **options):
    keys = [name for name in wanted.columns if name in found.columns][:1]
    found, wanted = (
        frame.sort_values(list(frame.columns[: len(keys)])).reset_index(drop=True) for frame in (found, wanted)
    )
    pd.testing.assert_frame_equal(found[wanted.columns], wanted, check_dtype=False, **options)


@pytest.mark.parametrize("column", ["x", "i", "w"])
def test_equals_pandas(table, column):
    found = dtk.aggregate(chunked(table), "key", {column: NUMBERS}).compute()
    wanted = expected(table.astype({"i": "float64"}), "key", column, NUMBERS)
    assert list(found.columns) == list(wanted.columns)
    assert_equal(found, wanted, rtol=1e-6, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["", "a", "A", "ß", "\U0001f600", None]),
            st.one_of(st.none(), st.floats(-1e6, 1e6, width=32), st.just(np.nan)),
            st.one_of(st.none(), st.integers(-(2**31), 2**31)),
        ),
        max_size=40,
    ),
    st.integers(1, 15),
    st.integers(1, 3),
    st.booleans(),
)
def test_equals_pandas_on_any_rows(rows, chunk_rows, partitions, dropna):
    schema = pa.schema({"key": pa.string(), "x": pa.float64(), "i": pa.int64()})
    columns = [list(column) for column in zip(*rows, strict=True)] or [[], [], []]
    data = pa.table(columns, schema=schema)
    names = ["count", "sum", "mean", "min", "max", "var", "median"]
    source = TableSource(data, rows_per_chunk=chunk_rows)
    found = dtk.aggregate(source, "key", {"x": names, "i": names}, dropna=dropna, split_out=partitions).compute()
    frame = data.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get).astype({"i": "Float64"})
    wanted = pd.concat(
        [expected(frame, "key", name, names, dropna=dropna).drop(columns=["key"] * (name == "i")) for name in "xi"],
        axis=1,
    )
    found, wanted = (part.astype(dict.fromkeys(wanted.columns[1:], "Float64")) for part in (found, wanted))
    found["x_count"] = found["x_count"].astype("Float64")
    found, wanted = (part.fillna(dict.fromkeys(part.columns[1:], -1.5)) for part in (found, wanted))
    if len(wanted):
        pd.testing.assert_frame_equal(
            found.sort_values("key").reset_index(drop=True),
            wanted.sort_values("key").reset_index(drop=True),
            check_dtype=False,
            rtol=1e-9,
            atol=1e-3,
        )
    assert len(found) == len(wanted)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 400),
    st.integers(0, 2**31),
    st.sampled_from([1, 7, 60]),
    st.lists(st.sampled_from([0.0, 0.01, 0.25, 0.5, 0.9, 1.0]), min_size=1, max_size=3, unique=True),
    st.booleans(),
)
def test_exact_quantiles_equal_numpy_in_any_number_of_passes(rows, seed, held, shares, is_whole):
    g = np.random.default_rng(seed)
    values = g.integers(0, 4, rows).astype(float) if is_whole else np.exp(g.normal(0, 9, rows))
    values[g.random(rows) < 0.1] = np.nan
    frame = pd.DataFrame({"key": g.integers(0, 3, rows) ** 2, "x": values})
    groups = frame.dropna().groupby("key")["x"]
    asked = {"x": [f"quantile({share})" for share in shares]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantiles, "SAMPLED_ROWS", held)
        found = dtk.aggregate(chunked(frame, 50), "key", asked).compute().set_index("key")
    for share in shares:
        wanted = groups.agg(lambda values, share=share: np.quantile(values, share))
        np.testing.assert_allclose(found[f"x_quantile_{share}"].dropna(), wanted, rtol=1e-15)


def test_several_passes_are_made_where_values_are_too_many(table, monkeypatch):
    monkeypatch.setattr(quantiles, "SAMPLED_ROWS", 100)
    graph = dict(dtk.aggregate(chunked(table), "key", {"x": "median"}).optimize().__dask_graph__())
    assert any("search_1" in str(key) for key in graph)
    monkeypatch.undo()
    graph = dict(dtk.aggregate(chunked(table), "key", {"x": "median"}).optimize().__dask_graph__())
    assert not any("search_1" in str(key) for key in graph)


def test_first_last_mode_top_and_histogram(table):
    asked = {"i": ["first", "last", "mode", "top(2)", "histogram(-5, 0, 4)"], "*": "count"}
    found = dtk.aggregate(chunked(table), "key", asked).compute().set_index("key")
    groups = table.groupby("key")["i"]
    assert found["i_first"].tolist() == groups.first().tolist()
    assert found["i_last"].tolist() == groups.last().tolist()
    assert found["i_mode"].tolist() == groups.agg(lambda values: values.mode()[0]).tolist()
    assert found["count"].tolist() == table.groupby("key").size().tolist()
    for key, values in groups:
        top = sorted(values.value_counts().items(), key=lambda pair: (-pair[1], pair[0]))[:2]
        assert [(one["value"], one["count"]) for one in found["i_top_2"][key]] == top
        counts, _ = np.histogram(values.dropna().astype(float), [-5, 0, 4])
        assert list(found["i_histogram"][key]) == counts.tolist()


def test_weighted_means_and_correlations(table):
    asked = {"x": ["weighted_mean(w)", "corr(w)", "corr(i)"]}
    found = dtk.aggregate(chunked(table), "key", asked).compute().set_index("key")
    for key, rows in table.astype({"i": "float64", "w": "float64"}).groupby("key"):
        known = rows.dropna(subset=["x"])
        assert found["x_weighted_mean_w"][key] == pytest.approx(np.average(known["x"], weights=known["w"]), rel=1e-12)
        for other in "wi":
            both = rows.dropna(subset=["x", other])
            assert found[f"x_corr_{other}"][key] == pytest.approx(
                np.corrcoef(both["x"] - 1e9, both[other])[0, 1], abs=1e-6
            )


@pytest.mark.parametrize("partitions", [1, 3])
def test_chunks_and_partitions_change_nothing(table, partitions):
    asked = {"x": [*NUMBERS, "first", "mode"], "i": ["top(2)", "quantile(0.3)"]}
    one = dtk.aggregate(chunked(table, 10_000), ["key", "number"], asked).compute()
    other = dtk.aggregate(chunked(table, 61), ["key", "number"], asked, split_out=partitions).compute()
    other = other.sort_values(["key", "number"]).reset_index(drop=True)
    pd.testing.assert_frame_equal(one, other, rtol=1e-6)


def test_parts_of_files_are_read_in_place(table, tmp_path, client):
    for number in range(2):
        part = pa.Table.from_pandas(table[number * 1000 : (number + 1) * 1000], preserve_index=False)
        pq.write_table(part, tmp_path / f"{number}.parquet", row_group_size=130)
    asked = {"x": NUMBERS, "i": ["first", "last"]}
    found = dtk.aggregate(str(tmp_path), "key", asked)
    assert_equal(found.compute(), dtk.aggregate(chunked(table), "key", asked).compute(), rtol=1e-6)
    frame = dtk.open(tmp_path)
    other = dtk.aggregate(frame[frame["number"] > 1], "key", asked)  # a filter below, which is an expression
    wanted = dtk.aggregate(chunked(table[table["number"] > 1]), "key", asked)
    assert_equal(other.compute(), wanted.compute(), rtol=1e-6)


def test_columns_that_directories_name(table, tmp_path):
    for number, part in table.groupby("number"):
        path = tmp_path / f"number={number}"
        path.mkdir()
        pq.write_table(pa.Table.from_pandas(part.drop(columns="number"), preserve_index=False), path / "0.parquet")
    found = dtk.aggregate(str(tmp_path), "number", {"x": ["count", "first"]}, where="number > 1").compute()
    wanted = table[table["number"] > 1].groupby("number")["x"]
    assert found["number"].astype(str).tolist() == ["2", "3"]
    assert found["x_count"].tolist() == wanted.count().tolist()


def test_a_frame_that_must_be_computed(table):
    frame = dd.from_pandas(table, npartitions=5)
    frame = frame.assign(x=frame["x"] - frame["x"].mean())  # not blockwise
    found = dtk.aggregate(frame, "key", {"x": ["mean", "median"]}).compute()
    assert_equal(
        found, expected(table.assign(x=table["x"] - table["x"].mean()), "key", "x", ["mean", "median"]), atol=1e-6
    )


def test_nothing_is_computed_before_it_is_asked(table, tmp_path):
    table.to_parquet(tmp_path / "t.parquet")

    def raises(*_, **__):
        raise AssertionError("computed")

    with dask.config.set(scheduler=raises):
        found = dtk.aggregate(str(tmp_path), "key", {"x": NUMBERS}, split_out=2)
        assert found.npartitions == 2
        with pytest.raises(AssertionError, match="computed"):
            found.compute()


def test_types_are_known_before(table):
    asked = {"x": NUMBERS, "i": ["min", "sum", "first", "top(1)"], "time": ["min", "mode"], "number": ["max"]}
    found = dtk.aggregate(chunked(table), ["key", "time.month"], asked)
    pd.testing.assert_series_equal(found.dtypes, found.compute().dtypes)
    assert found.dtypes["time_min"] == table.dtypes["time"]
    assert str(found.dtypes["i_min"]) == "Int64"
    assert found.dtypes["number_max"] == np.int64


def test_no_rows_and_no_keys(table):
    nothing = dtk.aggregate(chunked(table[:0]), [], {"x": ["count", "mean", "sum", "median"], "*": "count"}).compute()
    assert nothing[["x_count", "x_sum", "count"]].iloc[0].tolist() == [0, 0, 0]
    assert nothing[["x_mean", "x_median"]].isna().all(axis=None)
    assert len(dtk.aggregate(chunked(table[:0]), "key", {"x": NUMBERS}).compute()) == 0
    one = dtk.aggregate(chunked(table[1:2]), [], {"x": NUMBERS}).compute()
    assert one["x_mean"][0] == table["x"][1]
    assert np.isnan(one["x_var"][0])


def test_decimals_booleans_and_texts():
    data = pa.table(
        {
            "key": ["a", "a", "b", "b"],
            "price": pa.array([decimal.Decimal(text) for text in ("0.10", "0.20", "99.99", "0.01")]),
            "is_late": [True, False, None, True],
            "name": ["x", "y", None, "é"],
        }
    )
    asked = {"price": ["sum", "mean", "max"], "is_late": ["sum", "mean", "max"], "name": ["min", "max", "distinct"]}
    found = dtk.aggregate(data, "key", asked).compute()
    assert found["price_sum"].tolist() == [decimal.Decimal("0.30"), decimal.Decimal("100.00")]
    assert found["price_mean"].tolist() == pytest.approx([0.15, 50])
    assert found["is_late_sum"].tolist() == [1, 1]
    assert found["is_late_mean"].tolist() == [0.5, 1]
    assert found["name_max"].tolist() == ["y", "é"]
    assert found["name_distinct"].tolist() == [2, 1]


def test_parts_of_dates_are_local(table):
    found = dtk.aggregate(chunked(table), ["time.date", "time.day_of_week", "time.hour"], {"*": "count"}).compute()
    local = table["time"].dt
    wanted = table.groupby([local.date, local.day_of_week, local.hour]).size()
    assert found["count"].tolist() == wanted.tolist()
    assert found["time_date"].tolist() == wanted.index.get_level_values(0).tolist()


@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
def test_windows_follow_overlap_and_accumulate(table, zone):
    frame = table.assign(
        time=table["time"].dt.tz_localize(None).dt.tz_localize(zone) if zone is None else table["time"]
    )
    asked = {"i": ["sum", "count"]}
    days = frame["time"].dt.tz_localize(None).dt.normalize()
    daily = frame.groupby(days)["i"].sum().astype(int)
    found = dtk.aggregate(chunked(frame), [], asked, window=dtk.TimeWindow("time", every="1d")).compute()
    assert found["i_sum"].tolist() == daily.tolist()
    assert found["time"].dt.tz_localize(None).tolist() == daily.index.tolist()
    assert str(found["time"].dt.tz) == str(zone)
    window = dtk.TimeWindow("time", every="1d", over="7d")
    found = dtk.aggregate(chunked(frame), [], asked, window=window).compute()
    rolling = daily.asfreq("D", fill_value=0).rolling("7D").sum().astype(int)
    assert found["i_sum"].tolist()[: len(rolling)] == rolling.tolist()
    assert len(found) == len(rolling) + 6  # the windows that end after the data
    window = dtk.TimeWindow("time", every="1mo", over="all")
    found = dtk.aggregate(chunked(frame), "number", asked | {"x": ["var"]}, window=window).compute()
    months = frame["time"].dt.tz_localize(None).dt.month
    for number, month in [(0, 3), (2, 5)]:
        rows = frame[(frame["number"] == number) & (months <= month)]
        mine = found[(found["number"] == number) & (found["time"].dt.month == month)].iloc[0]
        assert (mine["i_sum"], mine["x_var"]) == (rows["i"].sum(), pytest.approx(rows["x"].var(), rel=1e-6))


def test_missing_is_filled_and_cast():
    data = pa.table({"key": ["a", "a", "b"], "x": [1.0, None, 4.0], "n": pa.array([None, 2, 3])})
    found = dtk.aggregate(data, "key", {"x": ["mean", "max", "count"]}, fill="mean", cast="float32").compute()
    assert found["x_mean"].tolist() == [1.75, 4]
    assert found.dtypes["x_max"] == np.float32
    assert found["x_count"].tolist() == [2, 1]
    found = dtk.aggregate(data, "key", {"n": "sum"}, fill={"n": 7}, where="x IS NOT NULL").compute()
    assert found["n_sum"].tolist() == [7, 3]


def test_approximate_answers_keep_their_error():
    g = np.random.default_rng(1)
    frame = pd.DataFrame(
        {"key": g.integers(0, 3, 60_000), "x": g.normal(size=60_000), "n": g.integers(0, 20_000, 60_000)}
    )
    asked = {"x": ["median", "quantile(0.9)"], "n": "distinct"}
    found = dtk.aggregate(chunked(frame, 9_000), "key", asked, approx=0.02).compute().set_index("key")
    for key, rows in frame.groupby("key"):
        for name, share in (("x_median", 0.5), ("x_quantile_0.9", 0.9)):
            assert abs((rows["x"] <= found[name][key]).mean() - share) <= 0.02
        assert found["n_distinct"][key] == pytest.approx(rows["n"].nunique(), rel=0.06)
    again = dtk.aggregate(chunked(frame, 9_000), "key", asked, approx=0.02).compute().set_index("key")
    pd.testing.assert_frame_equal(found, again)


def test_the_number_of_partitions_follows_the_number_of_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "GROUPS_PER_PARTITION", 20_000)
    g = np.random.default_rng(2)
    rows = 200_000
    data = pa.table(
        {"many": g.integers(0, 100_000, rows), "few": g.integers(0, 15_000, rows), "sorted": np.arange(rows) // 2}
    )
    pq.write_table(data, tmp_path / "t.parquet", row_group_size=50_000)
    path, asked = str(tmp_path), {"*": "count"}
    assert 4 <= dtk.aggregate(path, "many", asked).npartitions <= 6
    assert dtk.aggregate(path, "few", asked).npartitions == 1
    assert 4 <= dtk.aggregate(path, "sorted", asked).npartitions <= 6
    found = dtk.aggregate(path, "many", asked | {"few": ["median"]}).compute().set_index("many").sort_index()
    wanted = data.to_pandas().groupby("many")["few"].agg(["size", "median"])
    assert found["count"].tolist() == wanted["size"].tolist()
    assert found["few_median"].tolist() == wanted["median"].tolist()


def test_results_are_written(table, tmp_path):
    source = chunked(table)
    wanted = dtk.aggregate(source, "number", {"x": ["count", "max"]}).compute()
    for name in ("out.csv", "out"):
        found = dtk.aggregate(source, "number", {"x": ["count", "max"]}, to=tmp_path / name)
        pd.testing.assert_frame_equal(found.compute(), wanted, check_dtype=False)
        with pytest.raises(dtk.ArgumentError, match="exists; give another path"):
            dtk.aggregate(source, "number", {"x": "max"}, to=tmp_path / name)
        dtk.aggregate(source, "number", {"x": "max"}, to=tmp_path / name, overwrite=True)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"by": "kye"}, "by='kye' is no column of the data; did you mean 'key'"),
        ({"by": "time.moth"}, "'moth' is no part of a date; did you mean 'month'"),
        ({"by": "key.month"}, "no dates"),
        ({"agg": {"y": "mean"}}, "agg='y' is no column"),
        ({"agg": {"x": "maen"}}, "'maen' of 'x' is no aggregate function; did you mean 'mean'"),
        ({"agg": {"x": "quantile"}}, r"write quantile\(0.95\)"),
        ({"agg": {"x": "quantile(2)"}}, "must be between 0 and 1"),
        ({"agg": {"x": "histogram(3, 2)"}}, "needs edges that rise"),
        ({"agg": {"x": "corr(y)"}}, "is no column"),
        ({"agg": {"key": "mean"}}, "needs numbers, and 'key' holds"),
        ({"agg": {}}, "asks for nothing"),
        ({"agg": {"*": "mean"}}, "there is only count"),
        ({"where": "x >"}, "is no condition"),
        ({"where": "nope > 1"}, "'nope' is no column"),
        ({"where": "x > (SELECT 1)"}, "does not look at one row"),
        ({"where": "sum(x) > 1"}, "does not look at one row"),
        ({"where": "x > 1; DROP TABLE t"}, "must be one condition"),
        ({"approx": 2}, "must be an error between"),
        ({"cast": "float12"}, "is no type"),
        ({"fill": {"y": 1}}, "fill='y' is no column"),
        ({"split_out": 0}, "must be a whole number"),
        ({"window": "time"}, "must be a dtk.TimeWindow"),
        ({"window": dtk.TimeWindow("x", every="1d")}, "no times"),
        (
            {"window": dtk.TimeWindow("time", every="1d", over="all"), "agg": {"x": "median"}},
            "is not known for over='all'",
        ),
    ],
)
def test_what_cannot_work_is_refused_before(table, arguments, message):
    given_arguments = {"by": "key", "agg": {"x": "mean"}} | arguments
    with pytest.raises(dtk.ArgumentError, match=message):
        dtk.aggregate(chunked(table), **given_arguments)


@pytest.mark.parametrize(
    ("every", "over", "message"), [("1", None, "length of time"), ("2d", "3d", "multiple"), ("1d", "1mo", "multiple")]
)
def test_windows_that_make_no_sense_are_refused(every, over, message):
    with pytest.raises(dtk.ArgumentError, match=message):
        dtk.TimeWindow("time", every=every, over=over)


def test_names_are_quoted():
    hostile = 'x"; DROP TABLE data; --'
    data = pa.table({"k'ey": ["a'b", "c"], hostile: [1.0, 2.0], "select": [3, 4]})
    found = dtk.aggregate(data, "k'ey", {hostile: "sum", "select": "max"}, where="\"k'ey\" = 'a''b'").compute()
    assert found.to_numpy().tolist() == [["a'b", 1.0, 3]]
    assert list(found.columns) == ["k'ey", f"{hostile}_sum", "select_max"]


def test_a_sum_that_is_too_large_is_told():
    data = pa.table({"x": [2**62, 2**62, 2**62]})
    with pytest.raises(dtk.DataError, match="to type INT64"):
        dtk.aggregate(data, [], {"x": "sum"}).compute()


def test_dates_as_values():
    data = pa.table({"key": [1, 1], "day": [dt.date(2020, 1, 2), dt.date(2020, 1, 1)]})
    found = dtk.aggregate(data, "key", {"day": ["min", "max", "distinct", "last"]}).compute()
    assert found["day_min"].tolist() == [dt.date(2020, 1, 1)]
    assert found["day_last"].tolist() == [dt.date(2020, 1, 1)]
