"""`dtk.sql`: which way queries go, what they read, what their errors say, and that nothing runs before it is asked."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import dtk
from dtk.analytics.sql import running
from dtk.analytics.sql.places import pointed
from dtk.errors import ArgumentError, DataError, MemoryLimitError, NotFoundError, SourceError


@pytest.fixture
def flights() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    carriers = np.array(["UA", "DL", "AA", "B6"])[rng.integers(0, 4, 1000)]
    return pd.DataFrame(
        {"carrier": carriers, "delay": rng.normal(10, 30, 1000).round(1), "day": rng.integers(1, 31, 1000)}
    )


@pytest.fixture
def flights_path(flights: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(running, "LEAST_GROUP_NBYTES", 1)
    for month in (1, 2):
        place = tmp_path / "flights" / f"month={month}"
        place.mkdir(parents=True)
        part = pa.Table.from_pandas(flights.iloc[(month - 1) * 500 : month * 500], preserve_index=False)
        pq.write_table(part, place / "part.parquet", row_group_size=100)
    return str(tmp_path / "flights")


def explained(query: str, **tables: Any) -> dict[str, str]:
    steps = dtk.sql(f"EXPLAIN {query}", **tables).compute()
    return dict(zip(steps["step"], steps["what"], strict=True))


def never(*_: Any, **__: Any) -> None:
    raise AssertionError("something was computed")


def test_nothing_runs_before_it_is_asked(flights: pd.DataFrame, flights_path: str) -> None:
    frame = dd.from_pandas(flights, npartitions=3).map_partitions(lambda part: part.assign(twice=part["delay"] * 2))
    with dask.config.set(scheduler=never):
        grouped = dtk.sql("SELECT carrier, avg(delay) AS mean FROM f GROUP BY carrier", f=flights_path)
        rows = dtk.sql("SELECT carrier, twice FROM f WHERE twice > 10", f=frame)
        whole = dtk.sql("SELECT median(twice) FROM f", f=frame)
    assert [str(kind) for kind in grouped.dtypes] == ["str", "float64"]
    assert rows.npartitions == 3
    assert list(whole.compute().iloc[:, 0]) == [(flights["delay"] * 2).median()]


def test_directories_name_columns(flights: pd.DataFrame, flights_path: str) -> None:
    query = "SELECT month, carrier, count(*) AS n FROM f WHERE month = 2 GROUP BY ALL ORDER BY carrier"
    answer = dtk.sql(query, f=flights_path).compute()
    wanted = flights.iloc[500:].groupby("carrier").size()
    assert list(answer["n"]) == list(wanted)
    assert set(answer["month"]) == {2}
    assert list(
        dtk.sql("SELECT DISTINCT month FROM f ORDER BY median(1) OVER (), month", f=flights_path).compute().month
    ) == [1, 2]


@pytest.mark.parametrize(
    ("query", "way", "why"),
    [
        ("SELECT sum(delay) FROM f", "distributed", "f read chunk by chunk"),
        ("SELECT f.carrier FROM f JOIN names USING (carrier)", "distributed", "names, small enough"),
        ("SELECT median(delay) FROM f", "whole", "median() is not put together from parts"),
        ("SELECT delay FROM f ORDER BY delay", "whole", "ORDER BY without LIMIT"),
        ("SELECT row_number() OVER () FROM f", "whole", "a window function over the rows"),
        ("SELECT random() FROM f", "whole", "another value in every task"),
        ("SELECT count(*) FROM f FULL JOIN f AS g USING (carrier)", "whole", "FULL JOIN with f"),
        ("SELECT 1 AS x", "whole", "it reads no table"),
    ],
)
def test_the_way_is_explained(query: str, way: str, why: str, flights_path: str) -> None:
    names = pd.DataFrame({"carrier": ["UA", "DL"], "name": ["United", "Delta"]})
    steps = explained(query, f=flights_path, names=names)
    assert steps["way"] == way
    assert why in steps["why"]
    assert len(dtk.sql(query, f=flights_path, names=names).compute())


def test_tables_too_big_to_be_sent_make_a_query_whole(flights_path: str, flights: pd.DataFrame) -> None:
    query = "SELECT count(*) AS n FROM f JOIN g ON f.day = g.day"
    assert explained(query, f=flights_path, g=flights)["way"] == "distributed"
    steps = dtk.sql(f"EXPLAIN {query}", f=flights_path, g=flights, broadcast="1 KiB").compute()
    assert steps["what"][0] == "whole"
    assert "more than the 1.0 KiB that are sent to every task" in steps["what"][1]
    both = [dtk.sql(query, f=flights_path, g=flights, broadcast=size).compute()["n"][0] for size in ("1 KiB", "1 GiB")]
    assert both[0] == both[1] == len(flights.merge(flights, on="day"))


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("SELECT carier FROM flights", "query, line 1, column 8: 'carier' is no column; did you mean 'carrier'?"),
        ("SELECT f.carier FROM flights f", "column 8: 'carier' is no column; did you mean 'carrier'?"),
        ("SELECT 1\nFROM\n  flight", "query, line 3, column 3: 'flight' is no table; did you mean 'flights'?"),
        ("SELECT 'ä', carier FROM flights", "column 13: 'carier'"),
        ("EXPLAIN SELECT carier FROM flights", "column 16: 'carier'"),
        ("SELECT sum(delay FROM flights", 'column 18: syntax error at or near "FROM"'),
        ("SELECT medan(delay) FROM flights", "column 8: medan() is no function; did you mean"),
        ("SELECT carrier, sum(delay) FROM flights", 'column 8: column "carrier" must appear in the GROUP BY clause'),
        ("DROP TABLE flights", "column 1: only SELECT can be run"),
        ("COPY flights TO 'x'", "column 1: only SELECT can be run"),
        ("SELECT 1; DROP TABLE flights", "column 1: only SELECT can be run"),
        ("SELECT 1; SELECT 2", "column 11: there are 2 statements"),
        ("SELECT * FROM read_csv('/etc/passwd')", "column 15: read_csv() is not run here"),
        ("SELECT * FROM '/etc/passwd'", "column 15: '/etc/passwd' is no table"),
        ("SELECT * FROM glob('*')", "glob() is not run here"),
        ("SELECT * FROM other.flights", "column 15: a table's name has no dots"),
        ("SELECT $1 FROM flights", "column 8: parameters are not taken"),
        ("", "the query is empty"),
    ],
)
def test_errors_point_at_the_place(query: str, told: str, flights: pd.DataFrame) -> None:
    with pytest.raises(ArgumentError) as caught:
        dtk.sql(query, flights=flights)
    assert told in str(caught.value)
    assert pickle.loads(pickle.dumps(caught.value)).args == caught.value.args


def test_the_caret_stands_below_the_name() -> None:
    lines = str(pointed("SELECT a,\n\tlat, b", "no", 11, 3)).splitlines()
    assert lines == ["query, line 2, column 2: no", "   lat, b", "   ^^^"]
    long = "SELECT " + "x, " * 100 + "lat"
    shown = str(pointed(long, "no", len(long) - 3, 3)).splitlines()
    assert shown[2].index("^^^") == shown[1].index("lat")
    assert len(shown[1]) < 110


def test_names_are_quoted_and_never_pasted(flights: pd.DataFrame) -> None:
    hostile = 'a"; DROP TABLE b; --'
    odd = flights.rename(columns={"delay": 'x"); SELECT (1'})
    query = 'SELECT carrier, sum("x""); SELECT (1") AS s FROM "a""; DROP TABLE b; --" GROUP BY 1 ORDER BY 1'
    for catalog in ({hostile: odd}, {hostile: dd.from_pandas(odd, npartitions=2), "b": odd}):
        answer = dtk.sql(query, catalog=catalog).compute()
        assert list(answer["s"]) == pytest.approx(list(flights.groupby("carrier")["delay"].sum()))
    whole = dtk.sql(
        'SELECT median("x""); SELECT (1") AS s FROM "a""; DROP TABLE b; --"', catalog={hostile: odd}
    ).compute()
    assert whole["s"][0] == flights["delay"].median()
    text = "'; DROP TABLE f; --"
    assert list(
        dtk.sql(f"SELECT '{text.replace(chr(39), chr(39) * 2)}' AS t FROM f LIMIT 1", f=flights).compute()["t"]
    ) == [text]


def test_a_catalog_names_external_tables(flights: pd.DataFrame, flights_path: str, tmp_path: Path) -> None:
    (tmp_path / "names.csv").write_text("carrier,name\nUA,United\nDL,Delta\n")
    file = tmp_path / "tables.yaml"
    file.write_text("tables:\n  flights: flights\n  Names: {path: names.csv, format: csv}\n  missing: nowhere/\n")
    query = "SELECT name, count(*) AS n FROM Flights JOIN names USING (carrier) GROUP BY name ORDER BY name"
    answer = dtk.sql(query, catalog=str(file)).compute()
    assert list(answer["n"]) == [sum(flights["carrier"] == one) for one in ("DL", "UA")]
    other = dtk.sql("SELECT count(*) AS n FROM names", catalog=file, names=flights).compute()
    assert other["n"][0] == 1000
    with pytest.raises(NotFoundError, match="table 'missing': .*nowhere"):
        dtk.sql("SELECT * FROM missing", catalog=file)
    file.write_text("tables:\n  flights: {path: flights, fromat: csv}\n")
    with pytest.raises(ArgumentError, match="tables.flights.fromat"):
        dtk.sql("SELECT 1 FROM flights", catalog=file)


def test_what_is_no_table_is_refused(flights: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="table 'f': "):
        dtk.sql("SELECT * FROM f", f=3)
    with pytest.raises(DataError, match="\\['a', 'A'\\] that SQL takes for one"):
        dtk.sql("SELECT * FROM f", f=pd.DataFrame({"a": [1], "A": [2]}))
    with pytest.raises(ArgumentError, match="'t' and 'T' have one name in SQL"):
        dtk.sql("SELECT * FROM t", t=flights, T=flights)
    with pytest.raises(ArgumentError, match="is no text"):
        dtk.sql(3)  # type: ignore[arg-type]


def test_floats_are_compared_as_sql_does_though_files_leave_nan_out(tmp_path: Path) -> None:
    table = pa.table({"x": [1.0, float("nan"), 2.0, 3.0, -0.0, None], "k": [1, 2, 3, 4, 5, 6]})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=2)
    for query in (
        "SELECT count(*) AS n FROM t WHERE x > 2.5",
        "SELECT count(*) AS n FROM t WHERE x = 'nan'::DOUBLE",
        "SELECT count(*) AS n FROM (SELECT x AS y FROM t) WHERE y <> 1",
        "SELECT k AS n FROM t ORDER BY x DESC NULLS LAST LIMIT 1",
        "SELECT arg_max(k, x) AS n FROM t",
        "SELECT count(*) AS n FROM t a JOIN t b ON a.x = b.x",
    ):
        of_file, in_memory = (dtk.sql(query, t=data).compute()["n"][0] for data in (str(tmp_path / "x.parquet"), table))
        assert of_file == in_memory, query
    assert dtk.sql("SELECT count(*) AS n FROM t WHERE x > 2.5", t=table).compute()["n"][0] == 2


def test_sums_beyond_64_bits_are_refused() -> None:
    data = pd.DataFrame({"n": [2**62, 2**62, 2**62]})
    with pytest.raises(DataError, match="does not fit int64.*cast it in the query"):
        dtk.sql("SELECT sum(n) AS s FROM t", t=data).compute()
    assert dtk.sql("SELECT sum(n)::DOUBLE AS s FROM t", t=data).compute()["s"][0] == 3 * 2.0**62


def test_values_that_cannot_be_converted_are_a_data_error(flights: pd.DataFrame) -> None:
    for query in ("SELECT carrier::INTEGER FROM f", "SELECT median(carrier::INTEGER) FROM f"):
        with pytest.raises(DataError, match="(?i)could not convert string 'DL|UA|AA|B6"):
            dtk.sql(query, f=flights).compute()


def test_a_changed_file_is_refused(flights_path: str, flights: pd.DataFrame) -> None:
    answer = dtk.sql("SELECT sum(day) FROM f", f=flights_path)
    pq.write_table(pa.Table.from_pandas(flights), f"{flights_path}/month=1/part.parquet")
    with pytest.raises(DataError, match="was changed since"):
        answer.compute()


def test_a_query_whole_spills_to_the_directory_given(tmp_path: Path) -> None:
    rows = pa.table({"x": np.random.default_rng(0).permutation(2_000_000), "y": np.arange(2_000_000)})
    query = "SELECT x, y FROM t ORDER BY x"
    answer = dtk.sql(query, t=rows, memory="40 MiB", spill=tmp_path).compute()
    assert answer["x"].is_monotonic_increasing
    assert not list(tmp_path.iterdir())
    with pytest.raises(MemoryLimitError, match="give workers more memory, or memory="):
        dtk.sql("SELECT list(x ORDER BY y) AS l FROM t", t=rows, memory="4 MiB", spill=tmp_path).compute()


def test_on_a_cluster_frames_stay_on_it(client: Any, flights: pd.DataFrame, flights_path: str) -> None:
    frame = dd.from_pandas(flights, npartitions=5).shuffle("carrier")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = dtk.sql("SELECT median(delay) AS m, count(*) AS n FROM f", f=frame).compute()
        parts = dtk.sql("SELECT carrier, max(day) AS d FROM f GROUP BY 1 ORDER BY 1", f=frame).compute()
        joined = dtk.sql("SELECT count(*) AS n FROM f JOIN g USING (day)", f=flights_path, g=flights).compute()
    assert (whole["m"][0], whole["n"][0]) == (flights["delay"].median(), 1000)
    assert list(parts["d"]) == list(flights.groupby("carrier")["day"].max())
    assert joined["n"][0] == len(flights.merge(flights, on="day"))


def test_no_rows_and_one_row(flights: pd.DataFrame) -> None:
    for data in (flights.iloc[:0], flights.iloc[:1], dd.from_pandas(flights.iloc[:0], npartitions=1)):
        assert dtk.sql("SELECT count(*) AS n FROM f", f=data).compute()["n"][0] == len(data)
        assert len(dtk.sql("SELECT carrier, sum(delay) FROM f GROUP BY 1", f=data).compute()) == len(data)
        assert len(dtk.sql("SELECT * FROM f WHERE delay > -1e9", f=data).compute()) == len(data)
