"""A schema of pandera finds the same rows as pandera does, and names what it cannot say."""

from __future__ import annotations

import pickle
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dtk.analytics import profile, read_schema

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pandera: Any = pytest.importorskip("pandera.pandas")


def make_frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "x": [1.0, 2.0, np.nan, -3.0, 10.0],
            "i": np.array([1, 2, 2, 4, 11]),
            "s": ["ab", "a\nb", "b", "abcd", "zab"],
            "d": pd.to_datetime(["2013-01-01", "2013-01-02", "2013-01-02", "2014-01-01", "2012-12-31"]),
            "b": [True, False, True, True, True],
        }
    )


CHECKS = {
    "ge": ("i", pandera.Check.ge(2)),
    "gt": ("i", pandera.Check.gt(2)),
    "le": ("x", pandera.Check.le(2)),
    "lt": ("x", pandera.Check.lt(2.0)),
    "in_range": ("i", pandera.Check.in_range(1, 11, include_min=False, include_max=False)),
    "eq": ("i", pandera.Check.eq(2)),
    "isin": ("s", pandera.Check.isin(["ab", "b"])),
    "matches": ("s", pandera.Check.str_matches("a.?b")),
    "contains": ("s", pandera.Check.str_contains("ab")),
    "startswith": ("s", pandera.Check.str_startswith("a")),
    "endswith": ("s", pandera.Check.str_endswith("ab")),
    "length": ("s", pandera.Check.str_length(2, 3)),
    "exact_length": ("s", pandera.Check.str_length(exact_value=2)),
    "date": ("d", pandera.Check.gt(pd.Timestamp("2013-01-01"))),
    "dates": ("d", pandera.Check.isin([pd.Timestamp("2013-01-02"), pd.Timestamp("2014-01-01")])),
}


@pytest.mark.parametrize("name", CHECKS)
def test_each_check_finds_the_same_rows(name: str) -> None:
    column, check = CHECKS[name]
    frame = make_frame()
    schema = pandera.DataFrameSchema({column: pandera.Column(checks=check, nullable=True)})
    with pytest.raises(pandera.errors.SchemaErrors) as raised:
        schema.validate(frame, lazy=True)
    wanted = set(raised.value.failure_cases["index"])
    found = profile(frame, schema=schema).violations
    assert sum(one.num_rows for one in found) == len(wanted)
    assert min(one.row for one in found if one.row is not None) == min(wanted)


def test_what_columns_are_like() -> None:
    schema = pandera.DataFrameSchema(
        {
            "x": pandera.Column("float64", nullable=False),
            "i": pandera.Column("int32", unique=True),
            "s": pandera.Column(str),
            "d": pandera.Column("datetime64[ns]", coerce=True),
            "b": pandera.Column(bool),
            "gone": pandera.Column(int),
            "perhaps": pandera.Column(int, required=False),
        },
        strict=True,
        unique=["s", "d"],
    )
    report = profile(make_frame().assign(more=1), schema=schema)
    assert [(one.column, one.rule, one.num_rows) for one in report.violations] == [
        ("gone", "required", 5),
        ("more", "extra", 5),
        ("x", "missing", 1),
        ("i", "dtype", 5),
        ("i", "unique", 1),
    ]
    assert report.notes == ()


def test_a_model() -> None:
    class Model(pandera.DataFrameModel):
        x: float = pandera.Field(ge=0, nullable=True)

    report = profile(make_frame(), schema=Model)
    assert [(one.column, one.rule, one.value) for one in report.violations] == [("x", "min", -3.0)]


def test_what_cannot_be_said_is_named() -> None:
    schema = pandera.DataFrameSchema(
        {
            "x": pandera.Column(
                checks=[pandera.Check(lambda values: values > 0, name="mine"), pandera.Check.ne(3), pandera.Check.ge(0)]
            ),
            "s": pandera.Column(
                str,
                checks=[
                    pandera.Check.str_matches("(?=a)"),
                    pandera.Check.str_matches("a"),
                    pandera.Check.str_endswith("b"),
                    pandera.Check.str_length(1, 2, raise_warning=True),
                ],
            ),
            "^d.*": pandera.Column(regex=True),
            "b": pandera.Column("complex64"),
            "v": pandera.Column("interval[int64, right]", required=False),
        },
        index=pandera.Index(int),
        ordered=True,
        checks=pandera.Check(lambda frame: len(frame) > 1),
    )
    with pytest.warns(UserWarning, match="this pandera schema says what dtk does not check: index; "):
        converted = read_schema(schema)
    assert converted.not_converted == tuple(
        f"not checked: {one}"
        for one in (
            "index",
            "check '<lambda>' of the whole table",
            "ordered=True",
            "column 'x': check 'mine'",
            "column 'x': check 'not_equal_to'",
            "column 's': check 'str_matches'",
            "column 's': check 'str_endswith'",
            "column 's': check 'str_length'",
            "column '^d.*': regex=True; name the columns",
            "column 'b': dtype complex64",
            "column 'v': dtype interval[int64]",
        )
    )
    assert converted.columns["x"].min == 0
    assert converted.columns["s"].pattern == "(?:a)(?s:.*)"
    report = profile(make_frame(), schema=converted)
    assert report.notes == converted.not_converted
    assert "not checked: column 'x': check 'mine'" in report.to_text()
    assert pickle.loads(pickle.dumps(converted)) == converted
