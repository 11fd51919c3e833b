"""Drift is measured as NumPy and SciPy do it, found where there is some, and not where chance explains it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dtk.analytics import Report, profile
from dtk.analytics.drift import _chi_square_99, psi
from dtk.errors import ArgumentError, NotFoundError
from dtk.preparation import TablePreparation


def make_frame(num_rows: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "delay": np.where(rng.random(num_rows) < 0.1, np.nan, rng.normal(5, 20, num_rows)),
            "hour": rng.integers(0, 24, num_rows),
            "carrier": rng.choice(["UA", "AA", "DL"], num_rows, p=[0.5, 0.3, 0.2]),
            "when": pd.Timestamp("2013-01-01") + pd.to_timedelta(rng.integers(0, 10**6, num_rows), unit="s"),
            "late": rng.random(num_rows) < 0.3,
        }
    )


def measures(report: Report, column: str) -> dict[str, Any]:
    return {one.measure: one for one in report.drift if one.column == column}


def beyond(report: Report) -> set[tuple[str, str]]:
    found = {(one.column, one.rule) for one in report.violations}
    assert found >= {(one.column, one.measure) for one in report.drift if one.is_beyond}
    return found


def ks_distance(old: Any, new: Any) -> float:
    """Measure at every value; SciPy's own function warns where it finds no p-value."""
    points = np.concatenate([old, new])
    upto = [np.searchsorted(np.sort(values), points, side="right") / len(values) for values in (old, new)]
    return float(np.abs(upto[0] - upto[1]).max())


@pytest.fixture(scope="module")
def known() -> Report:
    return profile(make_frame(20_000))


def test_nothing_drifts_from_itself_and_other_rows_only_by_chance(known: Report) -> None:
    same = profile(make_frame(20_000), against=known)
    assert same.is_valid
    assert {one.value for one in same.drift} - {1.0} <= {measures(same, "hour")["psi"].value, 0.0} | {
        one.value for one in same.drift if one.measure == "psi"
    }
    assert measures(same, "delay")["ks"].value == 0
    for seed, num_rows in enumerate((20, 100, 1000, 20_000), start=1):
        assert profile(make_frame(num_rows, seed), against=known).is_valid
        assert profile(make_frame(20_000), against=profile(make_frame(num_rows, seed))).is_valid


def test_each_drift_is_found(known: Report) -> None:
    frame = make_frame(5000, 1)
    assert beyond(profile(frame.assign(delay=frame["delay"] + 10), against=known)) == {
        ("delay", "mean"),
        ("delay", "ks"),
        ("delay", "psi"),
    }
    assert ("delay", "std") in beyond(profile(frame.assign(delay=frame["delay"] * 2), against=known))
    assert beyond(profile(frame.assign(hour=frame["hour"] + (frame["hour"] > 21) * 5), against=known)) == {
        ("hour", "out_of_range"),
        ("hour", "psi"),
    }
    assert beyond(profile(frame.assign(late=~frame["late"]), against=known)) == {("late", "psi")}
    gone = frame.assign(when=frame["when"].where(frame.index % 2 == 0))
    assert beyond(profile(gone, against=known)) == {("when", "missing")}
    carrier = frame["carrier"].where(frame.index % 50 != 7, "ZZ")
    report = profile(frame.assign(carrier=carrier), against=known)
    assert beyond(report) == {("carrier", "unseen")}
    (one,) = report.violations
    assert (one.num_rows, one.value, one.row, one.origin) == (100, "ZZ", 7, "drift")
    assert one.wanted == "be a known category: unseen is 2%, and may be 1%"
    assert beyond(profile(frame.drop(columns="hour"), against=known)) == {("hour", "required")}
    assert beyond(profile(frame.assign(hour="late"), against=known)) == {("hour", "kind")}


def test_measures_equal_numpys_and_scipys(known: Report) -> None:
    before, after = make_frame(20_000), make_frame(3000, 1).assign(delay=lambda frame: frame["delay"] * 1.3 + 8)
    report = profile(after, against=known)
    found = measures(report, "delay")
    old, new = before["delay"].dropna(), after["delay"].dropna()
    assert found["mean"].value == pytest.approx(abs(new.mean() - old.mean()) / old.std(ddof=0))
    assert found["std"].value == pytest.approx(new.std(ddof=0) / old.std(ddof=0))
    exact = ks_distance(old, new)
    assert found["ks"].value <= exact <= found["ks"].value + found["ks"].error
    edges = np.quantile(old, np.linspace(0, 1, 11), method="inverted_cdf")
    bins = [-np.inf, *edges, np.inf]
    counts = [np.histogram(values, bins)[0].astype(float) for values in (old, new)]
    assert found["psi"].value == pytest.approx(psi(*counts), rel=0.05)
    shares = [frame["late"].mean() for frame in (before, after)]
    exact_psi = sum((b - a) * math.log(b / a) for a, b in (shares, [1 - share for share in shares]))
    assert measures(report, "late")["psi"].value == pytest.approx(exact_psi, abs=1e-3)


@given(
    st.lists(st.integers(-3, 3) | st.floats(-5, 5), min_size=1, max_size=60),
    st.lists(st.integers(-4, 4) | st.floats(-5, 5), min_size=1, max_size=60),
)
@settings(deadline=None, max_examples=60)
def test_ks_is_within_its_error_whatever_the_ties(old: list[float], new: list[float]) -> None:
    report = profile({"x": np.array(new, float)}, against=profile({"x": np.array(old, float)}))
    found = measures(report, "x")["ks"]
    exact = ks_distance(old, new)
    assert found.value - 1e-9 <= exact <= found.value + found.error + 1e-9


def test_chance() -> None:
    for freedom in (1, 2, 9, 50):
        assert _chi_square_99(freedom) == pytest.approx(stats.chi2.ppf(0.99, freedom), rel=0.02)
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(100):
        old, new = rng.normal(size=300), rng.normal(size=30)
        report = profile({"x": new}, against=profile({"x": old}), drift={"psi": 1e-9, "ks": 1e-9, "mean": 1e-9})
        alarms += len(report.violations)
    assert alarms < 15  # of 300 and more; 3 are to be expected of each hundred


def test_infinite_constant_and_missing_values() -> None:
    old = profile({"x": [1.0, 1.0], "y": [np.inf, 1.0], "z": [np.nan, np.nan], "w": [1.0, 2.0]})
    same = profile({"x": [1.0, 1.0], "y": [np.inf, 1.0], "z": [np.nan, np.nan], "w": [np.nan, np.nan]}, against=old)
    assert beyond(same) == set()
    moved = profile({"x": np.arange(9.0), "y": np.ones(9), "z": np.ones(9), "w": np.ones(9)}, against=old)
    assert {("x", "mean"), ("x", "std")} <= beyond(moved)
    state = json.loads(json.dumps(moved.to_dict(), allow_nan=False))
    assert {one["value"] for one in state["drift"] if one["column"] == "x" and one["measure"] == "mean"} == {"inf"}
    assert profile({"x": np.ones(3)}, against=profile(pa.table({"x": pa.nulls(3)}))).is_valid
    assert profile({"x": np.empty(0)}, against=profile({"x": [1.0]})).drift == ()


def test_a_saved_profile_knows_as_much(known: Report, tmp_path: Path) -> None:
    path = known.save(tmp_path / "known.json")
    frame = make_frame(3000, 1).assign(carrier="ZZ")
    wanted = profile(frame, against=known)
    assert profile(frame, against=path).drift == wanted.drift
    assert profile(frame, against=str(path)).violations == wanted.violations
    old = json.loads(path.read_text())
    for column in old["columns"]:  # as written before these were kept
        for name in ("grid", "counts", "num_sampled"):
            del column[name]
    assert {one.measure for one in profile(frame, against=old).drift} == {"missing", "mean", "std", "out_of_range"}


def test_a_preparation_knows_what_it_saw() -> None:
    before = make_frame(5000)
    preparation = TablePreparation(kinds={"hour": "category"}).fit(pa.Table.from_pandas(before), target="late")
    again = TablePreparation.from_dict(json.loads(json.dumps(preparation.to_dict(), allow_nan=False)))
    after = make_frame(1000, 1)
    report = profile(after, against=again)
    assert report.is_valid
    assert set(measures(report, "delay")) == {"missing", "mean", "std", "out_of_range"}
    assert set(measures(report, "carrier")) == {"missing", "unseen", "psi"}
    assert set(measures(report, "late")) == {"missing", "unseen", "psi"}
    assert set(measures(report, "hour")) == {"missing", "unseen"}
    whole = profile(before)["delay"]
    seen = next(one for one in preparation.to_dict()["seen"] if one["name"] == "delay")
    assert (seen["mean"], seen["std"], seen["min"]) == pytest.approx((whole.mean, whole.std, whole.min))
    changed = after.drop(columns="late").assign(hour=after["hour"] + 20, delay=after["delay"] + 30)
    assert {("hour", "unseen"), ("delay", "mean")} == beyond(profile(changed, against=preparation)) & {
        ("hour", "unseen"),
        ("delay", "mean"),
        ("late", "required"),
    }


def test_limits_come_from_the_schema_and_from_the_call(known: Report) -> None:
    frame = make_frame(5000, 1).assign(delay=lambda frame: frame["delay"] + 10)
    schema = {"drift": {"mean": 3, "ks": 0.9, "psi": 9}}
    assert profile(frame, schema=schema, against=known).is_valid
    assert beyond(profile(frame, schema=schema, against=known, drift={"ks": 0.15})) == {("delay", "ks")}
    with pytest.raises(ArgumentError, match=r"drift: 1 mistake\n  pis: is no known setting; did you mean 'psi'\?"):
        profile(frame, against=known, drift={"pis": 1})
    with pytest.raises(ArgumentError, match="needs earlier data to compare with; give against="):
        profile(frame, drift={"psi": 1})


def test_what_knows_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "other.json").write_text("[1]")
    (tmp_path / "damaged.json").write_text('{"columns": [{"kind": "number"}]}')
    for against, message in (
        (tmp_path, "is a folder; give dtk.load"),
        (tmp_path / "broken.json", "is no JSON"),
        (tmp_path / "other.json", "holds no profile of a table"),
        (tmp_path / "damaged.json", "is damaged"),
        (3, "against=<int> holds no profile of a table"),
    ):
        with pytest.raises(ArgumentError, match=message):
            profile({"x": [1]}, against=against)
    with pytest.raises(NotFoundError, match="is no file; give a profile"):
        profile({"x": [1]}, against=tmp_path / "none.json")
