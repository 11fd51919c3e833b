"""A schema proposed from data is kept by it, and each violation is found and counted right for every chunking."""

from __future__ import annotations

import datetime
import itertools
import json
import math
import pickle
from pathlib import Path
from typing import Any

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import dtk
from dtk.analytics import Report, profile, read_schema
from dtk.analytics.checks import CheckState, plan_checks
from dtk.errors import ArgumentError
from dtk.sources import as_source

wide_dates = st.integers(-(2**40), 2**40).map(lambda second: np.datetime64(second, "s"))
longest = datetime.timedelta(days=10**8)  # about what Arrow's microseconds hold
columns = {
    "number": st.floats(width=64) | st.integers(-3, 3),
    "small": st.floats(width=32),
    "int": st.integers(-(2**63), 2**63 - 1),
    "uint": st.integers(0, 2**64 - 1),
    "bool": st.booleans(),
    "text": st.text(max_size=8) | st.sampled_from(["NO", "1", "null", "\x85\u2028\x1b", "a: b"]),
    "date": st.dates(),
    "moment": st.datetimes(),
    "time": st.times(),
    "span": st.timedeltas(-longest, longest),
    "decimal": st.decimals(-100, 100, places=2),
    "bytes": st.binary(max_size=3),
    "list": st.lists(st.integers(0, 3), max_size=2),
}
types = {
    "number": pa.float64(),
    "small": pa.float32(),
    "int": pa.int64(),
    "uint": pa.uint64(),
    "bool": pa.bool_(),
    "text": pa.string(),
    "date": pa.date32(),
    "moment": pa.timestamp("us"),
    "time": pa.time64("us"),
    "span": pa.duration("us"),
    "decimal": pa.decimal128(10, 2),
    "bytes": pa.binary(),
    "list": pa.list_(pa.int64()),
}


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    """Draw a table of one to three columns of any type, some of their values missing."""
    num_rows = draw(st.integers(0, 12))
    names = draw(st.lists(st.sampled_from(sorted(columns)), min_size=1, max_size=3, unique=True))
    found = {}
    for name in names:
        some = draw(st.lists(columns[name] | st.none(), min_size=1, max_size=3))
        values = draw(st.lists(st.sampled_from(some), min_size=num_rows, max_size=num_rows))
        array = pa.array(values, types[name])
        is_encoded = draw(st.booleans()) and name in ("text", "int", "date")
        found[draw(st.text(min_size=1, max_size=3)) + name] = array.dictionary_encode() if is_encoded else array
    return pa.table(found)


@given(tables(), st.integers(0, 12))
@settings(deadline=None, max_examples=120)
def test_data_keeps_the_schema_proposed_from_it(table: pa.Table, cut: int) -> None:
    report = profile(table)
    proposed = report.propose_schema()
    read = read_schema(yaml.safe_load(proposed.to_yaml()))
    assert read.to_dict() == proposed.to_dict()
    again = profile(table, schema=read, against=json.loads(json.dumps(report.to_dict(), allow_nan=False)))
    assert again.violations == ()
    assert again.num_rules is not None
    state = scanned(table, read, [0, min(cut, len(table)), len(table)])
    assert list(state.violations(len(table))) == []


def scanned(table: pa.Table, schema: Any, cuts: list[int], order: Any = None) -> CheckState:
    """Scan a table in pieces, merged in any order."""
    plan = plan_checks(read_schema(schema), table.schema)
    merged = CheckState(plan)
    pieces = list(itertools.pairwise(cuts))
    for number in range(len(pieces)) if order is None else order:
        start, stop = pieces[number]
        state = CheckState(plan)
        state.update(table.slice(start, stop - start), start)
        merged.merge(pickle.loads(pickle.dumps(state)))
    return merged


def make_table(num_rows: int = 90) -> pa.Table:
    hours = np.arange(num_rows)
    return pa.table(
        {
            "delay": np.where(hours % 10 == 3, np.nan, hours / 2),
            "flight": hours + 100,
            "carrier": pa.array(np.array(["UA", "AA", "DL"])[hours % 3]).dictionary_encode(),
            "when": np.datetime64("2013-01-01", "ns") + hours.astype("timedelta64[h]"),
            "late": hours % 2 == 0,
        }
    )


GOOD = {
    "columns": {
        "delay": {"kind": "number", "min": 0, "max": 1000, "missing": 0.1, "dtype": "float64"},
        "flight": {"min": 0, "unique": True, "order": "strictly increasing"},
        "carrier": {"values": ["AA", "DL", "UA"], "pattern": "[A-Z]{2}", "min_length": 2, "max_length": 2},
        "when": {"kind": "date", "min": "2013-01-01", "max": "2013-12-31", "order": "increasing"},
        "late": {"kind": "boolean"},
        "gate": {"required": False},
    },
    "extra": False,
    "unique": [["carrier", "when"]],
}


def with_values(table: pa.Table, name: str, at: list[int], value: Any) -> pa.Table:
    values = table[name].to_pylist()
    for row in at:
        values[row] = value
    dtype = table.schema.field(name).type
    array = pa.array(values, dtype.value_type if pa.types.is_dictionary(dtype) else dtype)
    at_column = table.schema.get_field_index(name)
    return table.set_column(at_column, name, array.dictionary_encode() if pa.types.is_dictionary(dtype) else array)


BREAKS = {
    "min": ("delay", -1.5, -1.5),
    "max": ("delay", 2000.0, 2000.0),
    "values": ("carrier", "ZZ", "ZZ"),
    "pattern": ("carrier", "A1", "A1"),
    "min_length": ("carrier", "A", "A"),
    "max_length": ("carrier", "AAA\n", "AAA\n"),
}


@given(
    st.sampled_from(sorted(BREAKS)),
    st.lists(st.integers(0, 89), min_size=1, max_size=9, unique=True),
    st.lists(st.integers(0, 90), max_size=5),
    st.randoms(use_true_random=False),
)
@settings(deadline=None, max_examples=40)
def test_each_violation_is_counted_for_every_chunking(rule: str, at: list[int], cuts: list[int], random: Any) -> None:
    name, value, shown = BREAKS[rule]
    table = with_values(make_table(), name, at, value)
    cuts = sorted([0, *cuts, 90])
    order = list(range(len(cuts) - 1))
    random.shuffle(order)
    found = {one.rule: one for one in scanned(table, GOOD, cuts, order).violations(90) if one.column == name}
    assert (found[rule].num_rows, found[rule].row, found[rule].value) == (len(at), min(at), shown)
    assert found[rule].share == pytest.approx(len(at) / 90)
    assert profile(table, schema=GOOD).violations == tuple(scanned(table, GOOD, [0, 90]).violations(90))


@given(
    st.lists(st.none() | st.integers(0, 5) | st.just(math.nan), max_size=30),
    st.lists(st.integers(0, 30), max_size=5),
    st.sampled_from(["increasing", "strictly increasing", "decreasing", "strictly decreasing"]),
    st.randoms(use_true_random=False),
)
@settings(deadline=None, max_examples=80)
def test_order_for_every_chunking(values: list[Any], cuts: list[int], wanted: str, random: Any) -> None:
    table = pa.table({"x": pa.array(values, pa.float64())})
    rows = [(row, value) for row, value in enumerate(values) if value is not None and not math.isnan(value)]
    steps = [(row, before, after) for (_, before), (row, after) in itertools.pairwise(rows)]
    sign = -1 if "decreasing" in wanted else 1
    broken = [
        (row, after)
        for row, before, after in steps
        if sign * (after - before) < 0 or (after == before and "strictly" in wanted)
    ]
    cuts = sorted([0, *(min(cut, len(values)) for cut in cuts), len(values)])
    order = list(range(len(cuts) - 1))
    random.shuffle(order)
    found = list(scanned(table, {"columns": {"x": {"order": wanted}}}, cuts, order).violations(len(values)))
    assert [(one.rule, one.num_rows, one.row, one.value) for one in found] == (
        [("order", len(broken), *broken[0])] if broken else []
    )


def rules(report: Report) -> list[tuple[str, str, int, Any, int | None]]:
    return [(one.column, one.rule, one.num_rows, one.value, one.row) for one in report.violations]


def test_good_data_is_valid() -> None:
    report = profile(make_table(), schema=GOOD)
    assert report.is_valid
    assert report.verdict == "20 rules checked: nothing is violated"


def test_columns_that_are_absent_extra_or_of_another_kind() -> None:
    table = make_table().drop_columns(["flight"]).append_column("more", pa.nulls(90))
    table = table.set_column(0, "delay", pa.array(["long"] * 90)).set_column(3, "late", pa.array([1] * 90))
    report = profile(table, schema=GOOD)
    assert rules(report) == [
        ("flight", "required", 90, None, None),
        ("more", "extra", 90, None, None),
        ("delay", "kind", 90, "long", 0),
        ("delay", "dtype", 90, "long", 0),
        ("late", "kind", 90, 1, 0),
    ]
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["is_valid"] is False
    # rules that are for a kind say so, too, and nothing breaks
    schema = {"columns": {"late": {"pattern": "x"}, "carrier": {"min": 0}, "flight": {"min": "2013-01-01"}}}
    assert [one[:2] for one in rules(profile(make_table(), schema=schema))] == [
        ("late", "kind"),
        ("carrier", "kind"),
        ("flight", "kind"),
    ]


def test_missing_values_up_to_a_share() -> None:
    table = pa.table({"x": [1.0, None, math.nan, 4.0]})
    assert profile(table, schema={"columns": {"x": {"missing": 0.5}}}).is_valid
    report = profile(table, schema={"columns": {"x": {"missing": 0.4}}})
    assert rules(report) == [("x", "missing", 2, None, 1)]
    assert report.violations[0].wanted == "be there in all but 40% of the rows"
    some = pa.table({"x": pa.array([None] * 29 + [1.0] * 71)})  # 0.29 * 100 < 29
    assert profile(some, schema=profile(some).propose_schema()).is_valid
    assert profile(pa.table({"x": pa.array([], pa.float64())}), schema={"columns": {"x": {"missing": 0}}}).is_valid


def test_bounds_are_exact() -> None:
    big = 2**53
    for dtype in (pa.int64(), pa.uint64()):
        table = pa.table({"x": pa.array([big, big + 1], dtype)})
        assert rules(profile(table, schema={"columns": {"x": {"max": big}}})) == [("x", "max", 1, big + 1, 1)]
    small = pa.table({"x": pa.array([0, 127], pa.int8()), "d": pa.array([0, 1], pa.date32())})
    schema = {"columns": {"x": {"min": -1000, "max": 126.5}, "d": {"max": "1970-01-01T12:00:00"}}}
    assert rules(profile(small, schema=schema)) == [("x", "max", 1, 127, 1), ("d", "max", 1, "1970-01-02", 1)]
    moments = pa.array([10**9 + 1, 10**9], pa.timestamp("ns", "UTC"))
    report = profile(pa.table({"t": moments}), schema={"columns": {"t": {"max": "1970-01-01T01:00:01+01:00"}}})
    assert rules(report) == [("t", "max", 1, "1970-01-01T00:00:01.000000001Z", 0)]


def test_allowed_values_of_every_kind() -> None:
    table = pa.table(
        {
            "i": [1, 2],
            "f": [1.0, 2.5],
            "b": [True, False],
            "d": pa.array([0, 1], pa.date32()),
            "t": pa.array([0, 1], pa.timestamp("s", "UTC")),
            "n": pa.array([1.5, 2], pa.float64()).cast(pa.decimal128(5, 2)),
        }
    )
    good = {"i": [1, 2.0], "f": [1, 2.5], "b": [True, False], "n": [1.5, 2]}
    good |= {"d": yaml.safe_load("[1970-01-01, 1970-01-02]"), "t": ["1970-01-01T00:00:00Z", "1970-01-01T00:00:01Z"]}
    assert profile(table, schema={"columns": {name: {"values": values} for name, values in good.items()}}).is_valid
    first = {name: {"values": values[:1]} for name, values in good.items()}
    found = rules(profile(table, schema={"columns": first}))
    assert [one[0] for one in found] == ["i", "f", "b", "n", "d", "t"]
    assert {one[2:3] + one[4:] for one in found} == {(1, 1)}


def test_keys_say_their_first_repeat_wherever_it_is(tmp_path: Path) -> None:
    frame = pd.DataFrame({"key": [f"k{number}" for number in range(100)], "x": range(100)})
    frame.loc[[70, 95], "key"] = ["k3", "k69"]
    for start in range(0, 100, 25):
        part = pa.Table.from_pandas(frame[start : start + 25], preserve_index=False)
        pq.write_table(part, tmp_path / f"{start:03}.parquet", row_group_size=10)
    schema = {"columns": {"key": {"unique": True}}, "unique": [["key", "x"]]}
    whole = rules(profile(frame, schema=schema))
    assert whole == [("key", "unique", 2, "k3", 70)]
    data = dtk.open(str(tmp_path))
    assert rules(profile(data, schema=schema)) == whole
    filtered = profile(data[data["x"] > 49], schema={"columns": {"x": {"max": 69}}})
    assert [(one.row, one.part, one.value) for one in filtered.violations] == [(0, 8, 70)]
    computed = profile(data.sort_values("x", ascending=False), schema={"columns": {"x": {"min": 1, "unique": True}}})
    assert [(one.rule, one.num_rows, one.value) for one in computed.violations] == [("min", 1, 0)]


def test_many_keys_are_judged_by_a_sample_that_says_so() -> None:
    schema = {"columns": {"key": {"unique": True}}, "max_keys": 1000}
    distinct = profile({"key": np.arange(20_000)}, schema=schema)
    assert distinct.is_valid
    assert "no key is there twice among the" in distinct.notes[0]
    assert distinct.notes[0] in distinct.to_text()
    repeated = profile({"key": np.arange(20_000) // 2}, schema=schema).violations[0]
    assert abs(repeated.num_rows - 10_000) <= repeated.error
    assert repeated.error > 0
    assert "+-" in repeated.extent
    assert repeated.value == repeated.row // 2  # type: ignore[operator]


def test_data_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(make_table(), tmp_path / "data.parquet", row_group_size=9)
    source = as_source(str(tmp_path))
    reads: list[int] = []
    read = type(source).read
    monkeypatch.setattr(
        type(source), "read", lambda self, chunk, *rest: reads.append(chunk) or read(self, chunk, *rest)
    )
    with dask.config.set(scheduler="threads"):
        report = profile(source, schema=GOOD, against=profile(make_table()))
    assert report.is_valid
    assert sorted(reads) == list(range(10))


def test_what_cannot_be_checked_is_refused_before_any_read() -> None:
    with pytest.raises(ArgumentError, match="unique: column 'x' holds list<"):
        profile(pa.table({"x": [[1], [2]]}), schema={"columns": {"x": {"unique": True}}})
    import xarray as xr

    with pytest.raises(ArgumentError, match="schema and against are for tables"):
        profile(xr.Dataset({"x": ("t", np.arange(3))}), schema={})
    with pytest.raises(ArgumentError, match="schema=3 is no schema; give the path of a YAML file"):
        profile({"x": [1]}, schema=3)
    mixed = dd.from_map(lambda values: pd.DataFrame({"x": pd.Series(values, dtype=object)}), [[1, 2], ["a"]])
    found = profile(mixed, schema={"columns": {"x": {"kind": "number", "min": 2}}}).violations
    assert [(one.rule, one.num_rows, one.value) for one in found] == [("kind", 3, "1")]
