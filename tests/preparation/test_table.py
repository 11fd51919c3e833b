from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import StandardScaler

from dtk.errors import ArgumentError, DataError, SourceError
from dtk.preparation import ClassTarget, NumberTarget, TablePreparation, table_of_array
from dtk.preparation.transforms import (
    ColumnTransformer,
    LogTransformer,
    OneHotEncoder,
    RobustScaler,
    TfidfVectorizer,
)
from dtk.sources import footers

FLIGHTS = {
    "delay": [1.0, None, 4.0, 7.0],
    "carrier": ["UA", "AA", None, "UA"],
    "is_weekend": [True, None, True, False],
    "day": pd.to_datetime(["2013-01-05", None, "2013-04-05", "2013-01-06"]),
    "late": ["no", "yes", "no", "no"],
}


class ChunkedSource:
    """A table cut into chunks of any length, which a scan reads in groups and merges, with a note of what is read."""

    def __init__(self, table: pa.Table, cuts: Sequence[int]) -> None:
        self.table = table
        self.starts = [0, *sorted(min(cut, len(table)) for cut in cuts)]
        self.chunk_rows = np.diff([*self.starts, len(table)])
        self.chunk_nbytes = self.chunk_rows * 8
        self.num_chunks = len(self.starts)
        self.schema, self.identity = table.schema, "fixed"
        self.reads: list[tuple[int, tuple[str, ...]]] = []

    def read(self, chunk: int, columns: Sequence[str] | None = None) -> pa.Table:
        self.reads.append((chunk, tuple(columns or ())))
        part = self.table.slice(self.starts[chunk], self.chunk_rows[chunk])
        return part if columns is None else part.select(columns)

    def describe(self, chunk: int) -> str:
        return f"rows from {self.starts[chunk]}"


def flights() -> pa.Table:
    return pa.table({name: pa.array(values, from_pandas=True) for name, values in FLIGHTS.items()})


def standardised(preparation: TablePreparation, table: pa.Table) -> np.ndarray:
    encoded = {name: torch.from_numpy(array) for name, array in preparation.encode(table).items()}
    prepared, _ = preparation.as_module()(**encoded)
    return prepared.numpy()


cuts = st.lists(st.integers(0, 60), min_size=2, max_size=20)
numbers = st.one_of(st.none(), st.floats(-1e6, 1e6), st.just(float("nan")))


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(numbers, st.integers(-1000, 1000)), min_size=2, max_size=60).filter(
        lambda rows: sum(x is not None and x == x for x, _ in rows) > 0
    ),
    cuts,
)
def test_numbers_equal_sklearns_for_every_chunking(rows: list[tuple[float | None, int]], cuts: list[int]) -> None:
    table = pa.table({"x": pa.array([x for x, _ in rows], pa.float64()), "y": pa.array([y for _, y in rows])})
    found = standardised(TablePreparation().fit(ChunkedSource(table, cuts)), table)
    array = np.array([[np.nan if x is None else x, y] for x, y in rows], dtype=np.float64)
    imputed = SimpleImputer().fit_transform(array)
    scaler = StandardScaler().fit(array)  # it leaves NaN out, as we do
    expected = np.clip(scaler.transform(imputed), -8, 8)
    # a float32 of up to 1e6 is rounded by up to 0.06, and a narrow column is stretched by 1 / scale
    np.testing.assert_allclose(found, expected, atol=2e-3, rtol=1e-4)


def test_large_offsets_keep_their_digits() -> None:
    seconds = 1_700_000_000 + np.arange(1000.0)  # neighbours are one float32
    table = pa.table({"time": seconds, "huge": seconds * 1e290, "constant": np.full(1000, 1e300)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = standardised(TablePreparation().fit(table), table)
    np.testing.assert_allclose(found[:, 0], StandardScaler().fit_transform(seconds[:, None])[:, 0], atol=1e-5)
    assert np.isfinite(found).all()
    assert (found[:, 2] == 0).all()


def test_infinite_values_do_not_spoil_the_fit_and_outliers_are_clipped() -> None:
    table = pa.table({"x": [*np.linspace(-1, 1, 500), np.inf, -np.inf]})
    preparation = TablePreparation().fit(table)
    found = standardised(preparation, table)[:, 0]
    assert found[-2:].tolist() == [8.0, -8.0]
    np.testing.assert_allclose(found[:500].std(), 1, rtol=1e-5)


def test_kinds_are_inferred_and_each_is_encoded() -> None:
    preparation = TablePreparation().fit(flights(), target="late")
    assert preparation.kinds == {"delay": "number", "carrier": "category", "is_weekend": "boolean", "day": "date"}
    assert preparation.feature_names == (
        "delay", "is_weekend", "day_month_sin", "day_month_cos", "day_weekday_sin", "day_weekday_cos",
    )  # fmt: skip
    found = standardised(preparation, flights())
    np.testing.assert_allclose(found[:, 0], (np.array([1, 4, 4, 7]) - 4) / np.sqrt(6), atol=1e-6)
    assert found[:, 1].tolist() == [1, 1, 1, 0]  # the missing one is the more frequent one
    np.testing.assert_allclose(found[0, 2:4], [0, 1], atol=1e-6)  # January
    np.testing.assert_allclose(found[2, 2:4], [1, 0], atol=1e-6)  # April, a quarter of the circle later
    np.testing.assert_allclose(found[0, 4:], [np.sin(10 * np.pi / 7), np.cos(10 * np.pi / 7)], atol=1e-6)  # Saturday
    assert found[1, 2:].tolist() == [0, 0, 0, 0]
    encoded = preparation.encode(flights())
    assert encoded["codes"].tolist() == [[1], [2], [0], [1]]
    assert preparation.cardinalities == (3,)
    for name, field in preparation.fields.items():
        assert encoded[name].dtype == field.dtype
        assert encoded[name].shape[1:] == field.shape
        assert encoded[name].flags.c_contiguous


@pytest.mark.parametrize("cast", [pa.date32(), pa.timestamp("s"), pa.timestamp("ns", "UTC")])
def test_only_parts_of_dates_that_vary_are_taken(cast: pa.DataType) -> None:
    day = pa.array(pd.date_range("2013-01-01", periods=6, freq="D")).cast(cast)
    assert TablePreparation().fit(pa.table({"day": day})).feature_names == ("day_weekday_sin", "day_weekday_cos")
    zone = cast.tz if pa.types.is_timestamp(cast) else None
    hours = pa.array(pd.date_range("2013-01-01", periods=6, freq="h")).cast(pa.timestamp("us", zone))
    preparation = TablePreparation().fit(pa.table({"day": hours}))
    assert preparation.feature_names == ("day_hour_sin", "day_hour_cos")
    found = standardised(preparation, pa.table({"day": day}))
    np.testing.assert_allclose(found, np.tile([0, 1], (6, 1)), atol=1e-6)  # a date is its midnight


def test_the_same_instants_in_another_zone_are_the_same_inputs() -> None:
    hours = pa.table({"t": pa.array(pd.date_range("2013-01-01", periods=48, freq="h", tz="UTC"))})
    elsewhere = pa.table(
        {"t": pa.array(pd.date_range("2013-01-01", periods=48, freq="h", tz="UTC").tz_convert("Asia/Tokyo"))}
    )
    for fit_on, encode in ((hours, elsewhere), (elsewhere, hours)):
        fitted = TablePreparation().fit(fit_on)
        again = TablePreparation.from_dict(json.loads(json.dumps(fitted.to_dict())))
        np.testing.assert_array_equal(again.encode(encode)["inputs"], fitted.encode(fit_on)["inputs"])
    # the zone of the fit is the one whose hours count: 00:00 in Tokyo is hour 0 there
    assert TablePreparation().fit(elsewhere).encode(elsewhere.slice(15, 1))["inputs"][0, -1] == 0


def test_dates_with_and_without_a_zone_are_not_mixed() -> None:
    naive = pa.table({"t": pa.array(pd.date_range("2013-01-01", periods=48, freq="h"))})
    aware = pa.table({"t": pa.array(pd.date_range("2013-01-01", periods=48, freq="h", tz="UTC"))})
    with pytest.raises(
        DataError, match=r"'t' holds timestamp\[.s, tz=UTC\], where dates without a time zone, as at fit"
    ):
        TablePreparation().fit(naive).check(aware.schema)
    message = r"where dates with a time zone \(UTC\), as at fit, are expected; take data\['t'\].dt.tz_localize\('UTC'\)"
    for table in (naive, naive.cast(pa.schema([("t", pa.date32())]), safe=False)):
        with pytest.raises(DataError, match=message):
            TablePreparation().fit(aware).encode(table)
    assert np.isnan(TablePreparation().fit(aware).encode(pa.table({"t": pa.nulls(2)}))["inputs"]).all()


@pytest.mark.parametrize("fitted", ["date32", "s", "ns"])
def test_dates_as_categories_and_classes_are_the_same_in_every_unit(fitted: str, tmp_path: Path) -> None:
    days = pd.date_range("2013-01-01", periods=3).repeat(4)
    tables = {
        unit: pa.table({"day": pa.array(days).cast(pa.timestamp(unit)), "x": np.arange(12)})
        for unit in ("s", "us", "ns")
    }
    tables["date32"] = pa.table({"day": pa.array(days).cast(pa.date32()), "x": np.arange(12)})
    pq.write_table(tables[fitted], tmp_path / "days.parquet")
    as_category = TablePreparation(kinds={"day": "category"}).fit(str(tmp_path))
    as_class = TablePreparation().fit(str(tmp_path), target="day").target
    assert as_class == ClassTarget("day", ("2013-01-01", "2013-01-02", "2013-01-03"), (4, 4, 4))
    for table in (*tables.values(), pa.Table.from_pandas(pd.DataFrame({"day": days, "x": 0}))):
        assert as_category.encode(table)["codes"][:, 0].tolist() == [*[1] * 4, *[2] * 4, *[3] * 4]
        assert as_class.encode(table["day"]).tolist() == [*[0] * 4, *[1] * 4, *[2] * 4]


def test_times_durations_and_decimals_are_numbers() -> None:
    table = pa.table({
        "time": pa.array([1, 2], pa.int64()).cast(pa.time64("us")),
        "duration": pa.array([1500, 2500]).cast(pa.duration("ms")),
        "decimal": pa.array(["1.25", "2.5"]).cast(pa.decimal128(5, 2)),
        "half": pa.array(np.array([1, 2], np.float16)),
        "small": pa.array([1, 2], pa.uint8()),
    })  # fmt: skip
    preparation = TablePreparation().fit(table)
    assert set(preparation.kinds.values()) == {"number"}
    np.testing.assert_allclose(preparation.encode(table)["inputs"][:, 1], [1.5, 2.5])
    np.testing.assert_allclose(standardised(preparation, table), [[-1] * 5, [1] * 5], atol=1e-4)


def test_categories_are_known_whatever_their_arrow_type() -> None:
    fitted = TablePreparation().fit(pa.table({"carrier": ["UA", "AA", "UA"]}))
    chunks = [pa.array(["AA", "ZZ", None]).dictionary_encode(), pa.array(["UA", "AA"]).dictionary_encode()]
    for values in (
        pa.chunked_array(chunks),
        pa.chunked_array(chunks).cast(pa.string()),
        pa.chunked_array(chunks).cast(pa.large_string()),
        pa.chunked_array(chunks).cast(pa.string()).cast(pa.string_view()),
    ):
        assert fitted.encode(pa.table({"carrier": values}))["codes"][:, 0].tolist() == [2, 0, 0, 1, 2]
    assert fitted.encode(pa.table({"carrier": pa.nulls(2)}))["codes"][:, 0].tolist() == [0, 0]


def test_integers_as_categories_stay_the_same_as_floats_with_gaps() -> None:
    fitted = TablePreparation(kinds={"flight": "category"}).fit(pa.table({"flight": [15, 7, 7]}))
    floats = pa.table({"flight": [7.0, np.nan, 15.0, 7.5]})
    assert fitted.encode(floats)["codes"][:, 0].tolist() == [1, 0, 2, 0]


def test_rare_categories_are_unknown() -> None:
    fitted = TablePreparation(max_categories=2).fit(pa.table({"c": list("aaabbccd")}))
    assert fitted.encode(pa.table({"c": list("abcd")}))["codes"][:, 0].tolist() == [1, 2, 0, 0]
    assert fitted.cardinalities == (3,)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.sampled_from(["a", "b", "é", None]), min_size=1, max_size=40), cuts)
def test_codes_follow_the_counts_for_every_chunking(values: list[str | None], cuts: list[int]) -> None:
    table = pa.table({"x": np.arange(len(values)), "c": pa.array([*values], pa.string())})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # all of them may be missing
        fitted = TablePreparation().fit(ChunkedSource(table, cuts))
    counts = pd.Series(values, dtype=object).value_counts()
    known = sorted(counts.index, key=lambda value: (-counts[value], value))
    expected = [0 if value is None else known.index(value) + 1 for value in values]
    assert fitted.encode(table).get("codes", np.zeros((len(values), 1)))[:, 0].tolist() == expected


def test_order_and_further_columns_do_not_matter() -> None:
    preparation = TablePreparation().fit(flights(), target="late")
    table = flights()
    other = table.select(list(reversed(table.column_names))).append_column("new", pa.array([1, 2, 3, 4]))
    for name, array in preparation.encode(table).items():
        np.testing.assert_array_equal(preparation.encode(other)[name], array)


def test_inputs_and_kinds_are_chosen() -> None:
    preparation = TablePreparation(kinds={"day": "ignore", "delay": "category"})
    preparation.fit(flights(), inputs=["delay", "day", "is_weekend"], target="late")
    assert preparation.columns == ("delay", "is_weekend")
    assert preparation.kinds["day"] == "ignore"
    assert preparation.category_names == ("delay",)


def test_weight_and_target_are_no_inputs() -> None:
    preparation = TablePreparation().fit(flights(), target="late", weight="delay")
    assert not {"late", "delay"} & set(preparation.columns)


def test_target_follows_type_and_task() -> None:
    assert TablePreparation().fit(flights(), target="late").target == ClassTarget("late", ("no", "yes"), (3, 1))
    table = pa.table({"x": [1, 2, 3, 4], "y": [2, 2, 4, 4]})
    assert TablePreparation().fit(table, target="y").target == NumberTarget("y", 3.0, 1.0)
    as_classes = TablePreparation().fit(table, target="y", task="classification").target
    assert as_classes == ClassTarget("y", (2, 4), (2, 2))
    for kind in ("category", "boolean"):
        assert TablePreparation(kinds={"y": kind}).fit(table, target="y").target == as_classes
    assert TablePreparation(kinds={"y": "number"}).fit(table, target="y").target == NumberTarget("y", 3.0, 1.0)


def test_column_without_values_is_ignored_with_a_warning() -> None:
    table = pa.table({"x": [1.0, 2.0], "gone": pa.array([None, None], pa.string()), "never": pa.nulls(2)})
    with pytest.warns(UserWarning, match="has no values") as caught:
        preparation = TablePreparation().fit(table)
    assert sorted(str(warning.message) for warning in caught) == [
        "column 'gone' has no values in the data; it is ignored",
        "column 'never' has no values in the data; it is ignored",
    ]
    assert preparation.columns == ("x",)
    assert preparation.kinds["gone"] == "ignore"


def test_column_of_lists_is_ignored_with_a_warning_and_refused_when_asked_for() -> None:
    table = pa.table({"x": [1.0, 2.0], "list": [[1], [2]]})
    with pytest.warns(UserWarning, match="column 'list' holds list.*ignored"):
        assert TablePreparation().fit(table).columns == ("x",)
    with pytest.raises(DataError, match="inputs='list' holds list"):
        TablePreparation().fit(table, inputs=["x", "list"])


def test_constant_columns_are_harmless() -> None:
    table = pa.table({"x": [5.0, 5.0], "c": ["a", "a"], "d": pa.array([0, 0]).cast(pa.timestamp("s"))})
    preparation = TablePreparation().fit(table)
    assert standardised(preparation, table).tolist() == [[0.0], [0.0]]


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        (
            "delay",
            ["1.0"],
            r"column 'delay' holds string, where numbers are expected; .*astype\({'delay': 'float64'}\)",
        ),
        (
            "carrier",
            [3],
            r"column 'carrier' holds int64, where categories of type text, as at fit, are expected; .*'str'",
        ),
        ("is_weekend", ["yes"], r"column 'is_weekend' holds string, where booleans are expected"),
        ("day", [3], r"column 'day' holds int64, where dates are expected; parse it with dask.dataframe.to_datetime"),
    ],
)
def test_other_types_than_at_fit_are_refused(column: str, values: list[object], message: str) -> None:
    preparation = TablePreparation().fit(flights(), target="late")
    table = flights().slice(0, 1)
    table = table.set_column(table.column_names.index(column), column, pa.array(values))
    with pytest.raises(DataError, match=message):
        preparation.encode(table)


def test_other_types_of_numbers_are_taken() -> None:
    preparation = TablePreparation().fit(pa.table({"x": [1, 2, 3]}))
    for kind in (pa.int8(), pa.float32(), pa.decimal128(20, 1)):
        values = pa.array([1, None, 3]).cast(kind)
        found = preparation.encode(pa.table({"x": values}))["inputs"][:, 0]
        np.testing.assert_array_equal(found, np.array([1, np.nan, 3], np.float32))


def test_missing_column_is_named() -> None:
    preparation = TablePreparation().fit(flights(), target="late")
    with pytest.raises(DataError, match="column 'carrier' is missing in the data; did you mean 'carier'"):
        preparation.encode(flights().rename_columns(["delay", "carier", "is_weekend", "day", "late"]))


def test_wrong_arguments_are_refused_before_anything_is_read() -> None:
    table = flights()
    with pytest.raises(ArgumentError, match=r"kinds\['delay'\]='numbre' is no kind of column; did you mean 'number'"):
        TablePreparation(kinds={"delay": "numbre"})
    with pytest.raises(ArgumentError, match="kinds='delai' is no column of the data; did you mean 'delay'"):
        TablePreparation(kinds={"delai": "number"}).fit(table)
    with pytest.raises(ArgumentError, match="target='lat' is no column of the data; did you mean 'late'"):
        TablePreparation().fit(table, target="lat")
    with pytest.raises(ArgumentError, match="inputs='dely' is no column"):
        TablePreparation().fit(table, inputs=["dely"])
    with pytest.raises(ArgumentError, match="inputs name the target 'late'"):
        TablePreparation().fit(table, inputs=["delay", "late"], target="late")
    with pytest.raises(ArgumentError, match="leaves no column"):
        TablePreparation().fit(table, inputs=[])
    with pytest.raises(ArgumentError, match="max_categories=0"):
        TablePreparation(max_categories=0)
    with pytest.raises(ArgumentError, match="task='ranking'"):
        TablePreparation().fit(table, target="late", task="ranking")
    with pytest.raises(ArgumentError, match=r"kinds\['late'\]='ignore' is no kind of target; give 'category' or"):
        TablePreparation(kinds={"late": "ignore"}).fit(table, target="late")
    with pytest.raises(ArgumentError, match=r"task='regression' contradicts kinds\['delay'\]='category' of the target"):
        TablePreparation(kinds={"delay": "category"}).fit(table, target="delay", task="regression")
    with pytest.raises(SourceError, match=r"data of type dask.*Series is no table"):
        TablePreparation().fit(dd.from_pandas(pd.Series([1.0, 2.0], name="x"), npartitions=1))
    with pytest.raises(DataError, match="column 'late' holds string, where numbers"):
        TablePreparation().fit(table, target="late", task="regression")
    with pytest.raises(DataError, match="column 'carrier' holds string, where numbers"):
        TablePreparation(kinds={"carrier": "number"}).fit(table)
    with pytest.raises(ArgumentError, match="not fitted"):
        TablePreparation().encode(table)


def test_data_that_cannot_be_learnt_from_is_refused() -> None:
    with pytest.raises(DataError, match="no rows"):
        TablePreparation().fit(flights().slice(0, 0))
    with pytest.raises(DataError, match="or the dates are all the same: nothing to learn from"):
        TablePreparation().fit(pa.table({"day": pa.array([0, 0]).cast(pa.timestamp("s"))}))
    with pytest.raises(DataError, match="target='late' has one class"):
        TablePreparation().fit(flights().slice(2), target="late")
    with pytest.raises(DataError, match=r"target='delay' is missing in 1 rows; drop them with data.dropna\(subset="):
        TablePreparation().fit(flights(), target="delay")
    with pytest.raises(DataError, match="target='is_weekend' is missing in 1 rows"):
        TablePreparation().fit(flights(), target="is_weekend")
    with pytest.raises(DataError, match="holds fractions"):
        TablePreparation().fit({"x": [1, 2], "y": np.array([0.5, 1.5])}, target="y", task="classification")


def test_round_trip_through_json_is_exact() -> None:
    table = flights().append_column("third", pa.array(np.arange(4) / 3 + 1e9))
    preparation = TablePreparation(kinds={"third": "number"}).fit(table, inputs=[*table.column_names[:4], "third"])
    again = TablePreparation.from_dict(json.loads(json.dumps(preparation.to_dict(), allow_nan=False)))
    assert again.to_dict() == preparation.to_dict()
    assert again.kinds == preparation.kinds
    for name, array in preparation.encode(table).items():
        np.testing.assert_array_equal(again.encode(table)[name], array)
    np.testing.assert_array_equal(standardised(again, table), standardised(preparation, table))


def test_raw_preparation_passes_numbers_as_they_are() -> None:
    preparation = TablePreparation.raw(["y", "x"])
    table = pa.table({"x": [1.0, None], "y": [100, 200]})
    np.testing.assert_array_equal(standardised(preparation, table), [[100, 1], [200, np.nan]])


def test_module_has_no_state_of_its_own() -> None:
    assert TablePreparation().fit(flights(), target="late").as_module().state_dict() == {}


def test_categories_only_have_no_inputs() -> None:
    preparation = TablePreparation().fit(pa.table({"c": ["a", "b"]}))
    assert set(preparation.encode(pa.table({"c": ["a"]}))) == {"codes"} == set(preparation.fields)
    codes = torch.ones(1, 1, dtype=torch.int64)
    assert preparation.as_module()(None, codes) == (None, codes)


def test_no_rows_are_encoded_as_empty_arrays() -> None:
    encoded = TablePreparation().fit(flights(), target="late").encode(flights().slice(0, 0))
    assert encoded["inputs"].shape == (0, 4)
    assert encoded["codes"].shape == (0, 1)


def test_fit_is_the_same_over_parquet_dask_and_memory(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.normal(size=300), "c": rng.choice(["a", "b", "c"], 300), "y": rng.random(300) > 0.5})
    pq.write_table(pa.Table.from_pandas(frame), tmp_path / "data.parquet", row_group_size=70)
    expected = TablePreparation().fit(frame, target="y")
    table = pa.Table.from_pandas(frame)
    for data in (dd.read_parquet(tmp_path), dd.from_pandas(frame, npartitions=3), str(tmp_path)):
        found = TablePreparation().fit(data, target="y")
        assert found.category_names == ("c",)
        np.testing.assert_array_equal(found.encode(table)["codes"], expected.encode(table)["codes"])
        np.testing.assert_allclose(standardised(found, table), standardised(expected, table), atol=1e-6)
        assert found.target == expected.target


def test_fit_reads_each_chunk_once_and_only_what_is_needed() -> None:
    source = ChunkedSource(flights().take(np.tile(np.arange(4), 50)), [50, 60, 130])
    TablePreparation(kinds={"day": "ignore"}).fit(source, target="late", weight="is_weekend")
    assert sorted(source.reads) == [(chunk, ("delay", "carrier", "late")) for chunk in range(4)]


def test_importing_preparation_loads_no_torch() -> None:
    code = "import sys, dtk.preparation; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_fit_reads_each_footer_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        pq.write_table(flights(), tmp_path / f"{number}.parquet")
    data = dd.read_parquet(tmp_path)
    reads, read_footer = [], footers._read_footer
    monkeypatch.setattr(footers, "_read_footer", lambda *arguments: reads.append(1) or read_footer(*arguments))
    for frame in (data, data.assign(late=data["delay"] > 3)):
        TablePreparation().fit(frame, target="late")
        assert len(reads) == 3
        reads.clear()
    TablePreparation().fit(data.shuffle("delay"), target="late")
    assert not reads


def test_few_columns_of_an_expression_are_evaluated_alone(tmp_path: Path) -> None:
    pq.write_table(flights(), tmp_path / "0.parquet")
    evaluated = tmp_path / "evaluated"

    def costly(delay: float) -> float:
        evaluated.touch()
        return delay * 2

    data = dd.read_parquet(tmp_path / "0.parquet")
    data = data.assign(far=data["delay"] > 3, costly=data["delay"].map(costly, meta=("costly", "float64")))
    evaluated.unlink(missing_ok=True)  # Dask tries it on a row of its own
    TablePreparation().fit(data, inputs=["carrier", "far"])
    assert not evaluated.exists()


def test_arrays_of_mixed_objects_are_refused() -> None:
    with pytest.raises(DataError, match="column 'x1' of the array cannot become one of a table"):
        table_of_array(np.array([[1, "a"], [2, 3]], dtype=object))


def trip(count: int = 200) -> pa.Table:
    rng = np.random.default_rng(0)
    return pa.table({
        "fare": rng.lognormal(2, 1, count),
        "lat": rng.normal(40, 0.1, count),
        "lon": rng.normal(-74, 0.1, count),
        "note": rng.choice(["late again", "a quiet trip", "no tip"], count),
        "vendor": rng.choice(["x", "y"], count),
        "late": rng.choice(["no", "yes"], count),
    })  # fmt: skip


OWN = {
    "fare": ["LogTransformer", "RobustScaler"],
    ("lat", "lon"): PCA(1),
    "note": {"TfidfVectorizer": {"max_features": 4}},
    "vendor": OneHotEncoder(),
}


def test_columns_go_through_the_transforms_that_the_user_chose() -> None:
    table = trip()
    preparation = TablePreparation(columns=OWN).fit(table, target="late")
    assert preparation.columns == ("fare", "lat", "lon", "note", "vendor")
    assert preparation.category_names == ()
    wanted = ColumnTransformer(
        [
            ("fare", [LogTransformer(), RobustScaler()], ["fare"]),
            ("place", PCA(1), ["lat", "lon"]),
            ("note", TfidfVectorizer(max_features=4), ["note"]),
            ("vendor", OneHotEncoder(), ["vendor"]),
        ]
    ).fit_transform(table.to_pandas())
    np.testing.assert_allclose(standardised(preparation, table), wanted, atol=1e-5)
    again = TablePreparation.from_dict(json.loads(json.dumps(preparation.to_dict(), allow_nan=False)))
    np.testing.assert_array_equal(standardised(again, table), standardised(preparation, table))
    assert again.feature_names == preparation.feature_names
    assert len(again.feature_names) == wanted.shape[1]


def test_columns_of_the_user_and_the_others_are_fitted_in_one_pass() -> None:
    source = ChunkedSource(trip(), [50, 60, 130])
    preparation = TablePreparation(columns={"fare": "RobustScaler", "vendor": "OneHotEncoder", "note": "drop"})
    preparation.fit(source, target="late")
    assert sorted(chunk for chunk, _ in source.reads) == [0, 1, 2, 3]
    assert preparation.kinds["note"] == "ignore"
    assert preparation.feature_names == ("fare", "lat", "lon", "vendor_x", "vendor_y")
    assert preparation.transformer.num_passes_ == 1
    seen = {one["name"]: one for one in preparation.to_dict()["seen"]}
    assert seen["fare"]["num_rows"] == 200
    assert dict(seen["vendor"]["counts"]).keys() == {"x", "y"}


def test_tokens_stay_whole_numbers_beside_others() -> None:
    table = trip()
    preparation = TablePreparation(columns={"note": {"WordTokenizer": {"vocab_size": 9, "length": 3}}})
    preparation.fit(table, target="late")
    assert preparation.cardinalities == (9, 9, 9, 3)
    encoded = {name: torch.from_numpy(array) for name, array in preparation.encode(table).items()}
    numbers, codes = preparation.as_module()(**encoded)
    assert (numbers.dtype, codes.dtype, codes.shape) == (torch.float32, torch.int64, (200, 4))


def test_what_a_fit_would_make_is_planned() -> None:
    table = trip()
    for own in ({}, OWN, {"note": {"WordTokenizer": {"length": 3}}, "lat": "passthrough"}):
        preparation = TablePreparation(columns=own)
        columns, fields = preparation.planned(table.schema, target="late")
        preparation.fit(table, target="late")
        assert columns == preparation.columns
        assert fields.keys() == preparation.fields.keys()
        assert all(fields[name].shape >= preparation.fields[name].shape for name in fields)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"fare": "RobustScalar"}, r"columns\['fare'\]: 'RobustScalar' is no transform; did you mean 'RobustScaler'"),
        ({"fare": {"Clip": {"lo": 0}}}, r"columns\['fare'\]: Clip has no parameter 'lo'; did you mean 'low'"),
        ({"fare": {"Clip": 8}}, r"columns\['fare'\]: Clip: 8 must be parameters by name"),
        ({"fare": {"Clip": {}, "PCA": {}}}, r"must be one name with its parameters"),
        ({"fare": 8}, r"columns\['fare'\]: 8 is no transform"),
        ({"fare": "PCA", ("lat", "fare"): "PCA"}, "'fare' stands in two groups"),
        ({"fair": "PCA"}, "columns='fair' is no column of the data; did you mean 'fare'"),
        ({"late": "OneHotEncoder"}, "columns='late' is none of the inputs"),
        ({"note": "RobustScaler"}, "column 'note' holds string, where numbers are expected"),
        ({"fare": {"Clip": {"low": 2, "high": 1, "by": "value"}}}, "low=2 must be at most high=1"),
    ],
)
def test_columns_that_cannot_be_prepared_so_are_refused(columns: dict[object, object], message: str) -> None:
    table = trip()
    with pytest.raises((ArgumentError, DataError), match=message):
        TablePreparation(columns=columns).fit(table, target="late")
    with pytest.raises((ArgumentError, DataError), match=message):
        TablePreparation(columns=columns).planned(table.schema, target="late")


@pytest.mark.parametrize("kind", ["number", "boolean", "date", "category"])
def test_an_empty_column_in_a_group_is_left_out(kind: str) -> None:
    values = {
        "number": [1.0, 2.0, None],
        "boolean": [True, False, True],
        "date": pd.date_range("2020-01-01", periods=3),
        "category": ["a", "b", "a"],
    }[kind]
    full = pa.array(values, from_pandas=True)
    table = pa.table({"a": full, "gone": pa.nulls(3, full.type), "b": full})
    with pytest.warns(UserWarning, match="column 'gone' has no values"):
        preparation = TablePreparation().fit(table)
    wanted = TablePreparation().fit(table.drop(["gone"]))
    assert preparation.columns == ("a", "b")
    for name, array in preparation.encode(table).items():
        np.testing.assert_array_equal(array, wanted.encode(table)[name])
