"""A schema says clearly what is wrong with it, and a proposed one is what a user would write."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dtk.analytics import DriftLimits, TableSchema, profile, read_schema
from dtk.analytics.schema import as_number
from dtk.errors import ArgumentError, NotFoundError


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("kind: numbr", "columns.x.kind='numbr': should be 'number', 'category'"),
        ("mni: 1", "columns.x.mni: is no known setting; did you mean 'min'?"),
        ("missing: 1.5", "columns.x.missing=1.5: should be less than or equal to 1"),
        ("{min: 3, max: 2}", "columns.x.max=2: is less than min=3"),
        ("{min: 3, max: 2013-01-01}", "must both be numbers, or both dates"),
        ("{kind: date, min: 3}", "columns.x.min=3: does not go with kind: date"),
        ("{kind: number, min: '3'}", "is no number and no date"),
        ("{min: today}", "is no number and no date; write dates as '2013-01-31'"),
        ("{min: NaT}", "is no number and no date"),
        ("{min: yes}", "columns.x.min=True: should be a number or a date"),
        ("{max: .inf}", "should be finite; leave it out for no limit"),
        ("{max: 1" + "0" * 400 + "}", "should be finite"),
        ("{kind: number, pattern: a}", "is for strings, and kind: number has none"),
        ("{pattern: '(?=a)'}", "is no regular expression of RE2, which has no look-around"),
        ("{min_length: 3, max_length: 2}", "columns.x.max_length=2: is less than min_length=3"),
        ("{values: [SE, NO]}", "hold False among text; quote it, as in 'NO'"),
        ("{values: []}", "at least 1 item"),
        ("{dtype: int46}", "columns.x.dtype='int46': is no type of Arrow"),
        ("{dtype: 'timestamp[xx]'}", "columns.x.dtype='timestamp[xx]': is no type of Arrow"),
        ("{kind: text, order: increasing}", "is for numbers and dates, not for kind: text"),
    ],
)
def test_mistakes_are_named_with_their_place(column: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "schema.yaml"
    path.write_text(f"columns:\n  x: {column if column[0] == '{' else '{' + column + '}'}\n")
    with pytest.raises(ArgumentError) as raised:
        read_schema(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert message in str(raised.value)


def test_all_mistakes_at_once() -> None:
    with pytest.raises(ArgumentError, match="schema: 3 mistakes"):
        read_schema({"columns": {"x": {"mni": 1}, "y": {"kind": "no"}}, "extr": True})
    with pytest.raises(NotFoundError, match="is no file; give the path of a YAML file"):
        read_schema("none.yaml")


@given(st.datetimes(dt.datetime(1678, 1, 1), dt.datetime(2262, 1, 1)), st.integers(-14, 14))
@settings(deadline=None)
def test_dates_are_read_to_the_nanosecond(moment: dt.datetime, hours: int) -> None:
    wanted = int(np.datetime64(moment, "ns").astype(np.int64))
    assert as_number(moment) == wanted
    assert as_number(moment.isoformat()) == wanted
    assert as_number(f"{np.datetime64(moment, 'us')}001") == wanted + 1
    zoned = moment.replace(tzinfo=dt.timezone(dt.timedelta(hours=hours)))
    assert as_number(zoned) == as_number(zoned.isoformat()) == wanted - hours * 3600 * 10**9
    assert as_number(moment.date()) == as_number(str(moment.date())) == wanted // (86_400 * 10**9) * 86_400 * 10**9


def test_dates_of_any_year() -> None:
    assert as_number("20000-01-01") == int(np.datetime64("20000-01-01", "s").astype(np.int64)) * 10**9
    assert as_number("-0044-03-15") < as_number("1000-01-01")  # type: ignore[operator]


def test_a_proposal_is_what_a_user_would_write() -> None:
    rng = np.random.default_rng(0)
    when = np.datetime64("2013-01-01T05:00", "ns") + np.arange(200).astype("timedelta64[h]")
    data: dict[str, Any] = {
        "delay": np.where(np.arange(200) % 9 == 0, np.nan, rng.integers(-5, 99, 200)),
        "flight": np.arange(200),
        "carrier": rng.choice(["UA", "NO"], 200),
        "tail": [f"N{number}" for number in range(200)],
        "when": when,
        "late": rng.random(200) < 0.3,
        "none": np.full(200, np.nan),
    }
    text = profile(data).propose_schema().to_yaml()
    assert text == (
        "columns:\n"
        "  delay:\n    kind: number\n    missing: 0.12\n    min: -5.0\n    max: 98.0\n"
        "  flight:\n    kind: number\n    missing: 0.0\n    min: 0\n    max: 199\n"
        "  carrier:\n    kind: category\n    missing: 0.0\n    values:\n    - 'NO'\n    - UA\n"
        "  tail:\n    kind: category\n    missing: 0.0\n"
        "  when:\n    kind: date\n    missing: 0.0\n    min: '2013-01-01'\n    max: '2013-01-10'\n"
        "  late:\n    kind: boolean\n    missing: 0.0\n"
        "  none:\n    missing: 1.0\n"
        "extra: false\n"
    )
    assert profile(data, schema=yaml.safe_load(text)).is_valid


def test_round_trip() -> None:
    schema = read_schema({"columns": {"x": {"min": dt.date(2013, 1, 1)}}, "unique": [["x", "y"]], "drift": {"psi": 1}})
    again = read_schema(yaml.safe_load(schema.to_yaml()))
    assert again.to_dict() == schema.to_dict()
    assert again.columns["x"].min == "2013-01-01"
    assert read_schema(again) is again
    assert (again.drift.psi, again.drift.ks) == (1, DriftLimits().ks)
    assert TableSchema().to_yaml() == "{}\n"
