"""Expressions of a spec: what pandas computes, lazily, row by row, and nothing else."""

from __future__ import annotations

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dtk
from dtk.errors import ArgumentError
from dtk.preparation.expressions import evaluate, names_in
from dtk.sources import as_source


@pytest.fixture(scope="module")
def frame():
    frame = pd.DataFrame(
        {
            "x": np.arange(10.0) - 3,
            "i": range(10),
            "s": list("abcdefghij"),
            "t": pd.date_range("2013-01-01", periods=10, freq="36h"),
            "odd name": range(10),
        }
    )
    frame.loc[2, "x"] = np.nan
    return frame


@pytest.fixture(scope="module")
def data(frame, tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "table.parquet"
    frame.to_parquet(path, index=False)
    return dtk.open(path)


@pytest.mark.parametrize(
    "text",
    [
        "x > 1 & i < 8",
        "x > 1 | ~(i < 8)",
        "x > 1 and s in ['e', 'f', 'g'] or not i > 2",
        "s not in ['a'] and s != 'b'",
        "s == ['a', 'b']",
        "1 < i <= 5",
        "-x + i ** 2 / 3 - i % 4 * i // 3",
        "log1p(i) + sqrt(abs(x))",
        "`odd name` * 2",
        "t >= '2013-01-05'",
        "t.dt.month == 1 and x.notnull()",
        "x.fillna(0).clip(0, 4).round(1)",
        "x.between(0, 2)",
        "i.astype('float32')",
        "s.str.upper() == 'B' or s.str.startswith('c')",
        "x\n> 1",
        "s == 'a`b`' or s == 'b'",
        '`odd name` > 2 and s != "it\'s `odd name`"',
        "i * 2 ** 3 > 3 * 4",
    ],
)
def test_equals_pandas_and_is_read_in_place(text, frame, data):
    expected = frame.eval(" ".join(text.split()), engine="python")
    derived = data.assign(new=evaluate(text, data))
    pd.testing.assert_series_equal(
        derived["new"].compute(), expected, check_names=False, check_dtype=False, check_index=False
    )
    source = as_source(derived, columns=["new"])
    assert set(source.base.schema.names) == set(names_in(text))  # no other column is read
    np.testing.assert_array_equal(source.read(0)["new"].to_numpy(), expected.to_numpy())


def test_backticks_in_a_text_are_a_part_of_it():
    frame = dd.from_pandas(pd.DataFrame({"s": ["a_quoted_1", "a`b`", "_quoted_0"], "b": [1, 2, 3]}), npartitions=1)
    assert evaluate('s == "a`b`"', frame).compute().tolist() == [False, True, False]
    assert evaluate("s == '_quoted_0' and `b` > 0", frame).compute().tolist() == [False, False, True]


numbers = st.sampled_from(["x", "i", "`odd name`", "2", "0.5", "(-1)"])
arithmetic = st.recursive(
    numbers, lambda inner: st.builds("({} {} {})".format, inner, st.sampled_from("+-*"), inner), max_leaves=5
)
comparison = st.builds("{} {} {}".format, arithmetic, st.sampled_from(["<", "<=", "==", "!=", ">"]), arithmetic)
condition = st.recursive(
    comparison, lambda inner: st.builds("({}) {} ({})".format, inner, st.sampled_from(["and", "or", "&", "|"]), inner)
)


@settings(deadline=None, max_examples=30)
@given(text=condition)
def test_random_conditions_equal_pandas(text, frame, data):
    if not names_in(text):
        with pytest.raises(ArgumentError, match="names no column"):
            evaluate(text, data)
        return
    try:
        expected = frame.eval(text, engine="python")
        result = evaluate(text, data)
    except (TypeError, ArgumentError):  # a part that names no column, combined with one that does
        return
    np.testing.assert_array_equal(result.compute().to_numpy(bool), np.asarray(expected, bool))


def test_nothing_is_computed(data):
    def refuse(*args, **kwargs):
        raise AssertionError("computed")

    with dask.config.set(scheduler=refuse):
        evaluate("log1p(i) > 1 and s.str.len() == 1", data)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ii > 1", "'ii' is no column; did you mean 'i'"),
        ("zebra + xx", "'zebra' is no column.*'xx' is no column"),
        ("x - x.mean()", "'.mean' is nothing that looks at one row at a time"),
        ("x.cumsum()", "'.cumsum' is nothing"),
        ("x[0]", "is not allowed"),
        ("x if i else 3", "is not allowed"),
        ("[y for y in x]", "no column|is not allowed"),
        ("x.__class__", "'.__class__' is nothing"),
        ("x.dt", "'.dt' is no value by itself"),
        ("s.str.uper()", "'.str.uper' is unknown; did you mean 'upper'"),
        ("x.str.upper()", "only use .str accessor with string"),
        ("lgo(x)", "'lgo' is no function here; did you mean 'log'"),
        ("open('f')", "'open' is no function"),
        ("x >", "is no expression"),
        ("(x", "is no expression"),
        ("@foo > x", "is no expression"),
        ("`odd name", "a backtick is not closed"),
        ("1 + 1", "names no column"),
        ("i << 2", "LShift is no operator"),
        ("", "is no expression"),
        ("x.clip(**{'lower': 0})", r"'\*\*\{'lower': 0\}' is not allowed; name each argument"),
        ("i in [x]", "looks in a column; name values"),
        ("i.isin(x)", "looks in a column; name values"),
        ("i > 9**9**9", "Numerical result out of range"),
        ("s == 'a' * 1000000000", "names no column and no numbers; write its value"),
        ("s == '%1000000000d' % 1", "names no column and no numbers"),
        ("i > 1 / 0", "division by zero"),
    ],
)
def test_what_is_refused(text, message, data):
    with pytest.raises(ArgumentError, match=message):
        evaluate(text, data)
