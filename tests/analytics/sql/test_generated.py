"""Hundreds of random queries give DuckDB's own answers, and those that can run in parts do."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import dask
import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dtk.analytics.sql import running
from dtk.analytics.sql.answers import answer_schema, frame_of
from dtk.analytics.sql.binding import bind
from dtk.analytics.sql.catalog import Catalog
from dtk.analytics.sql.planning import QueryPlan, plan_query
from dtk.analytics.sql.sandbox import Limits
from dtk.analytics.sql.statement import read_statement
from tests.analytics.sql.queries import QueryMaker, random_tables

NUM_QUERIES, PER_TEST = 420, 60


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    found: dict[str, Any] = random_tables(0)
    path = tmp_path_factory.mktemp("facts")
    for number, start in enumerate(range(0, 700, 240)):
        pq.write_table(found["facts"].slice(start, 240), path / f"part{number}.parquet", row_group_size=50)
    return found | {"path": str(path)}


def planned(query: str, given: dict[str, Any]) -> QueryPlan:
    return plan_query(bind(read_statement(query), Catalog(given, {})))


def expected(query: str, tables: dict[str, Any], schema: pa.Schema) -> pd.DataFrame:
    with duckdb.connect(":memory:", config={"threads": 1}) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for name, table in tables.items():
            if name != "path":
                connection.register(name, table)
        return frame_of(connection.sql(query).to_arrow_table(), schema)


def rows_of(frame: pd.DataFrame) -> list[tuple[Any, ...]]:
    columns = [[_plain(value) for value in frame.iloc[:, at]] for at in range(frame.shape[1])]
    return list(zip(*columns, strict=True)) if columns else [()] * len(frame)


def _plain(value: Any) -> Any:
    if value is pd.NA or value is pd.NaT or value is None:
        return None
    if isinstance(value, float):
        return None if math.isnan(value) else value
    return value


def sort_key(row: tuple[Any, ...]) -> tuple[Any, ...]:
    rounded = [float(f"{one:.6g}") if isinstance(one, float) else one for one in row]
    return tuple(
        (one is None, type(one).__name__, str(one) if isinstance(one, (Decimal, list)) else one or 0)
        if not isinstance(one, str)
        else (False, "str", one)
        for one in rounded
    )


def assert_same(answer: pd.DataFrame, wanted: pd.DataFrame, *, is_ordered: bool) -> None:
    assert list(answer.columns) == list(wanted.columns)
    assert list(answer.dtypes) == list(wanted.dtypes)
    found, right = rows_of(answer), rows_of(wanted)
    assert len(found) == len(right)
    if not is_ordered:
        found, right = sorted(found, key=sort_key), sorted(right, key=sort_key)
    for one, other in zip(found, right, strict=True):
        for left, target in zip(one, other, strict=True):
            if isinstance(left, float) and isinstance(target, float):
                assert left == pytest.approx(target, rel=1e-9, abs=1e-9), (one, other)
            else:
                assert left == target, (one, other)


@pytest.mark.parametrize(
    "start", [0, *(pytest.param(start, marks=pytest.mark.slow) for start in range(PER_TEST, NUM_QUERIES, PER_TEST))]
)
def test_answers_are_duckdbs(start: int, tables: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "LEAST_GROUP_NBYTES", 1)
    monkeypatch.setattr(running, "groups_wanted", lambda: 4)
    sources = {name: table for name, table in tables.items() if name != "path"} | {"facts": tables["path"]}
    for seed in range(start, start + PER_TEST):
        maker = QueryMaker(seed)
        query = maker.query()
        plan = planned(query, sources)
        assert (plan.way == "distributed") == maker.in_parts, (seed, query, plan.why)
        frame = running.lazy_frame(plan, Limits())
        with dask.config.set(scheduler="sync"):
            answer = frame.compute()
        try:
            assert_same(answer, expected(query, tables, answer_schema(plan.bound.output)), is_ordered=maker.is_ordered)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {query}\n{plan.stages}\n{plan.finish}\n{error}") from None
