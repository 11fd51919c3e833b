"""Dates become numbers, in the right time zone, and texts become dates."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dtk.errors import ArgumentError, DataError
from dtk.preparation.transforms import ColumnTransformer, DateFeatures, OneHotEncoder, ParseDates, SimpleImputer
from dtk.preparation.transforms.dates import DateSpread
from tests.preparation.transforms.common import as_array, assert_same, assert_transforms_alike, assert_two_stages_alike

LINEAR = ["year", "month", "day", "weekday", "hour", "minute", "dayofyear"]
moments = st.datetimes(datetime(1950, 1, 1), datetime(2037, 1, 1))  # as far as Arrow knows of daylight saving


@pytest.fixture
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    when = pd.Series(pd.Timestamp("2019-12-30") + pd.to_timedelta(rng.integers(0, 3 * 365 * 24 * 60, 120), unit="min"))
    day = when.dt.normalize().where(rng.random(120) > 0.1)
    return pd.DataFrame({"when": when, "day": day, "zoned": when.dt.tz_localize("UTC").dt.tz_convert("Asia/Tokyo")})


def by_pandas(column: pd.Series, parts: list[str]) -> np.ndarray:
    names = {"weekday": "day_of_week", "dayofyear": "day_of_year"}
    return np.stack([getattr(column.dt, names.get(part, part)).to_numpy(np.float64) for part in parts], axis=1)


@pytest.mark.parametrize("parts", [None, LINEAR, ["elapsed", "hour"]])
@pytest.mark.parametrize("cyclic", [True, False])
def test_every_way_gives_the_same(frame, parts, cyclic):
    assert_transforms_alike(DateFeatures(parts=parts, cyclic=cyclic), frame)


def test_linear_parts_are_those_of_pandas(frame):
    found = DateFeatures(parts=LINEAR, cyclic=False).fit(frame)
    expected = np.concatenate([by_pandas(frame[name], LINEAR) for name in frame], axis=1)
    assert_same(found.transform(frame), expected)
    assert found.get_feature_names_out()[:2].tolist() == ["when_year", "when_month"]


def test_the_default_is_the_cyclic_parts_that_vary(frame):
    found = DateFeatures().fit(frame)
    assert found.parts_ == [["month", "weekday", "hour"], ["month", "weekday"], ["month", "weekday", "hour"]]
    out = found.transform(frame)
    start = 0
    for name, parts in zip(frame, found.parts_, strict=True):
        first, period = np.array([{"month": (1, 12), "weekday": (0, 7), "hour": (0, 24)}[part] for part in parts]).T
        angles = 2 * np.pi * (by_pandas(frame[name], parts) - first) / period
        expected = np.stack([np.sin(angles), np.cos(angles)], axis=2).reshape(len(frame), -1)
        assert_same(out[:, start : start + 2 * len(parts)], expected, atol=1e-6)
        names = found.get_feature_names_out()[start : start + 2 * len(parts)]
        assert names.tolist() == [f"{name}_{part}_{wave}" for part in parts for wave in ("sin", "cos")]
        start += 2 * len(parts)


@settings(max_examples=40, deadline=None)
@given(
    dates=st.lists(st.none() | moments, min_size=1, max_size=12),
    zone=st.sampled_from([None, "Europe/Berlin", "America/St_Johns"]),
    unit=st.sampled_from(["s", "ms", "us", "ns"]),
)
def test_any_dates_in_any_zone(dates, zone, unit):
    values = pa.array(dates, pa.timestamp("us", "UTC" if zone else None)).cast(
        pa.timestamp(unit, "UTC" if zone else None), safe=False
    )
    table = pa.table({"a": values})
    series = pd.Series(values.to_pandas())
    series = series if zone is None else series.dt.tz_convert(zone)
    found = DateFeatures(parts=LINEAR, cyclic=False, zone=zone).fit(table)
    assert_same(found.transform(table), by_pandas(series, LINEAR))


def test_hours_follow_daylight_saving():
    utc = pd.to_datetime(["2021-03-28 00:30", "2021-03-28 01:30", "2021-10-31 00:30", "2021-10-31 01:30"]).tz_localize(
        "UTC"
    )
    berlin = pd.DataFrame({"when": utc.tz_convert("Europe/Berlin")})
    plain = DateFeatures(parts=["hour"], cyclic=False)
    assert plain.fit_transform(berlin).ravel().tolist() == [1, 3, 2, 2]
    read = DateFeatures(parts=["hour"], cyclic=False, zone="Europe/Berlin").fit(pd.DataFrame({"when": utc}))
    assert read.transform(pd.DataFrame({"when": utc})).ravel().tolist() == [1, 3, 2, 2]
    assert read.zones_ == ["Europe/Berlin"]
    assert read.transform(berlin).ravel().tolist() == [1, 3, 2, 2]  # another zone of the same moments
    naive = pd.DataFrame({"when": utc.tz_convert("Europe/Berlin").tz_localize(None)})
    assert plain.fit_transform(naive).ravel().tolist() == [1, 3, 2, 2]


def test_elapsed_days_count_the_hour_that_is_not_there():
    walls = pd.DataFrame({"when": pd.to_datetime(["2021-03-28 00:00", "2021-03-29 00:00", None])})
    options: dict[str, Any] = {"parts": ["elapsed"], "cyclic": False}
    assert_same(DateFeatures(**options).fit_transform(walls), [[0.0], [1.0], [np.nan]])
    assert_same(DateFeatures(**options, zone="Europe/Berlin").fit_transform(walls), [[0.0], [23 / 24], [np.nan]])


def test_december_is_next_to_january():
    frame = pd.DataFrame({"when": pd.to_datetime(["2020-12-01", "2021-01-01", "2021-07-01"])})
    out = DateFeatures(parts=["month"]).fit_transform(frame)
    assert_same((out**2).sum(axis=1)[:, None], np.ones((3, 1)))
    assert np.linalg.norm(out[0] - out[1]) < np.linalg.norm(out[0] - out[2])


def test_dates_without_a_zone_are_not_taken_for_zoned_ones(frame):
    fitted = DateFeatures().fit(frame[["when"]])
    with pytest.raises(DataError, match="dates without a time zone, as at fit, are expected"):
        fitted.transform(frame[["zoned"]].rename(columns={"zoned": "when"}))
    with pytest.raises(DataError, match="column 'n' holds int64, where dates are expected"):
        DateFeatures().fit(pd.DataFrame({"n": [1]}))
    for options in ({"zone": "Mars/Base"}, {"parts": ["century"]}, {"parts": "hour"}):
        with pytest.raises(ArgumentError, match=f"{next(iter(options))}="):
            DateFeatures(**options).fit(frame)


def test_columns_without_any_date():
    table = pa.table(
        {"a": pa.array([None, None], pa.timestamp("ms")), "b": pa.array([0, 40], pa.int32()).cast(pa.date32())}
    )
    assert DateFeatures().fit(table).get_feature_names_out().tolist() == [
        f"b_{p}_{w}" for p in ("month", "weekday") for w in ("sin", "cos")
    ]
    linear = DateFeatures(parts=["day", "elapsed"], cyclic=False).fit(table)
    assert_same(linear.transform(table), [[np.nan, np.nan, 1, 0], [np.nan, np.nan, 10, 40]])


@settings(max_examples=30, deadline=None)
@given(dates=st.lists(st.none() | moments, max_size=12), cut=st.integers(0, 12))
def test_what_is_seen_does_not_depend_on_chunks(dates, cut):
    values = pa.array(dates, pa.timestamp("us"))
    whole, part, other = DateSpread(), DateSpread(), DateSpread()
    whole.update(values)
    part.update(values[:cut])
    other.update(values[cut:])
    part.merge(other)
    assert part.to_dict() == whole.to_dict()
    restored = DateSpread.from_dict(json.loads(json.dumps(whole.to_dict())))
    assert restored.to_dict() == whole.to_dict()
    present = [each for each in dates if each is not None]
    varying = [name for name in ("month", "weekday", "hour") if by_name(present, name) > 1]
    assert whole.result()["varying"] == varying


def by_name(dates: list[datetime], name: str) -> int:
    return len({date.weekday() if name == "weekday" else getattr(date, name) for date in dates})


@settings(max_examples=40, deadline=None)
@given(dates=st.lists(st.none() | moments, min_size=1, max_size=8), separator=st.sampled_from(["T", " "]))
def test_iso_texts_come_back_as_the_dates_they_were(dates, separator):
    texts = pa.table(
        {"a": pa.array([None if each is None else each.isoformat(separator) for each in dates], pa.string())}
    )
    out = ParseDates().fit(texts).transform(texts)
    assert out["a"].type == pa.timestamp("us")
    assert out["a"].to_pylist() == dates
    coded = pa.table({"a": texts["a"].dictionary_encode()})
    assert ParseDates().fit(coded).transform(coded)["a"].to_pylist() == dates


def test_formats_are_tried_in_order_and_errors_told_or_left_out():
    texts = pa.table({"a": ["31.12.2024", "2024/02/01", "soon", None, "1.1.2025"]})
    formats = ["%d.%m.%Y", "%Y/%m/%d"]
    with pytest.raises(
        DataError, match="column 'a' holds 'soon', which is no date in '%d.%m.%Y', '%Y/%m/%d'; give form"
    ):
        ParseDates(formats=formats).fit(texts).transform(texts)
    out = ParseDates(formats=formats, errors="missing").fit(texts).transform(texts)["a"].to_pylist()
    assert out == [datetime(2024, 12, 31), datetime(2024, 2, 1), None, None, datetime(2025, 1, 1)]
    for options in ({"errors": "coerce"}, {"formats": "%d"}, {"formats": []}, {"zone": "nowhere"}):
        with pytest.raises(ArgumentError, match=f"{next(iter(options))}="):
            ParseDates(**options).fit(texts)
    with pytest.raises(DataError, match="column 'a' holds int64, where dates are expected"):
        ParseDates().fit(pa.table({"a": [1]}))


def test_offsets_need_a_zone():
    texts = pa.table({"a": ["2021-10-31T00:30Z", "2021-10-31T03:30:00+02:00", "2021-10-31 02:30:00"]})
    with pytest.raises(DataError, match="holds '2021-10-31T00:30Z', .* it has an offset from UTC: give zone='UTC'"):
        ParseDates().fit(texts).transform(texts)
    out = ParseDates(zone="Europe/Berlin").fit(texts).transform(texts)["a"]
    assert out.type == pa.timestamp("us", "Europe/Berlin")
    utc = out.cast(pa.timestamp("us", "UTC")).to_pylist()
    assert [each.hour for each in utc] == [0, 1, 0]  # the earlier half past two
    again = pa.table({"a": out})
    assert ParseDates(zone="UTC").fit(again).transform(again)["a"].to_pylist() == utc


def test_texts_become_numbers_in_one_composition(frame):
    texts = pd.DataFrame({"when": frame["when"].astype("str"), "other": ["x", "y"] * 60})
    groups = [("date", [ParseDates(), DateFeatures()], ["when"]), ("word", OneHotEncoder(), ["other"])]
    fitted = assert_two_stages_alike(ColumnTransformer(groups), texts)
    assert fitted.num_passes_ == 1
    assert_same(fitted.transform(texts)[:, :6], DateFeatures().fit_transform(frame[["when"]]))
    assert_transforms_alike(ColumnTransformer(groups), texts)
    filled = ColumnTransformer([("day", [DateFeatures(parts=["hour"]), SimpleImputer()], ["day"])])
    assert np.isfinite(as_array(filled.fit_transform(frame))).all()
