"""Groups of columns are fitted together in as few passes as can be, and are what scikit-learn makes of them."""

from __future__ import annotations

import dask
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sklearn.compose
import sklearn.impute as their_impute
import sklearn.preprocessing as theirs
from sklearn.cluster import KMeans
from sklearn.pipeline import make_pipeline

from dtk.errors import ArgumentError, DataError
from dtk.preparation.transforms import (
    ColumnTransformer,
    EmbeddingCodes,
    MinMaxScaler,
    RobustScaler,
    SimpleImputer,
    StandardScaler,
    WordTokenizer,
)
from tests.preparation.transforms.common import (
    as_array,
    assert_same,
    assert_transforms_alike,
    assert_two_stages_alike,
    in_partitions,
    refuse,
)


@pytest.fixture(scope="module")
def flights() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({name: rng.normal(3, 2, 500) for name in "abcd"}).mask(rng.random((500, 4)) < 0.1)
    frame["wide"] = 1e9 + rng.normal(0, 1, 500)
    frame["word"] = rng.choice(["x", "y", None], 500)
    return frame


NUMBERS = [
    ("filled", [SimpleImputer(strategy="median"), StandardScaler()], ["a", "b"]),
    ("robust", make_pipeline(SimpleImputer(), RobustScaler()), ["c"]),
    ("wide", StandardScaler(), ["wide"]),
]
THEIR_NUMBERS = [
    ("filled", make_pipeline(their_impute.SimpleImputer(strategy="median"), theirs.StandardScaler()), ["a", "b"]),
    ("robust", make_pipeline(their_impute.SimpleImputer(), theirs.RobustScaler()), ["c"]),
    ("wide", theirs.StandardScaler(), ["wide"]),
]


def test_one_pass_gives_what_scikit_learn_gives(flights):
    expected = sklearn.compose.ColumnTransformer(THEIR_NUMBERS)
    ours = ColumnTransformer(NUMBERS)
    result = ours.fit_transform(flights)
    assert_same(result, expected.fit_transform(flights), rtol=1e-6, atol=1e-6)
    assert ours.num_passes_ == 1
    assert ours.plan(flights) == "fit needs 1 pass"
    assert ours.get_feature_names_out().tolist() == expected.get_feature_names_out().tolist()
    lazy = in_partitions(flights)
    with dask.config.set(scheduler=refuse):
        applied = ours.transform(lazy)
    assert_same(applied, result, rtol=0, atol=0)
    with dask.config.set(scheduler="sync"):
        assert_same(ColumnTransformer(NUMBERS).fit(lazy).transform(lazy), result, rtol=1e-6, atol=1e-6)


def test_two_stages_are_one_transform(flights):
    fitted = assert_two_stages_alike(ColumnTransformer(NUMBERS), flights, tolerance=2e-6)
    assert [bool(each) for each in fitted.wide_] == [False, False, True]
    assert set(fitted.fields) == {"inputs"}
    assert fitted.columns == ("a", "b", "c", "wide")


def test_parts_of_data_and_files_give_the_same(flights, tmp_path):
    whole = ColumnTransformer(NUMBERS).fit(flights)
    part = ColumnTransformer(NUMBERS)
    for start in range(0, 500, 70):
        part.partial_fit(flights[start : start + 70])
    assert_same(part.transform(flights), whole.transform(flights), rtol=1e-6, atol=1e-6)
    pq.write_table(pa.Table.from_pandas(flights), tmp_path / "a.parquet", row_group_size=90)
    read = ColumnTransformer(NUMBERS).fit(str(tmp_path))
    assert_same(read.transform(flights), whole.transform(flights), rtol=1e-6, atol=1e-6)


def test_what_cannot_be_derived_is_a_second_pass_with_a_reason(flights):
    groups = [
        ("derived", [RobustScaler(), SimpleImputer(), StandardScaler()], ["a", "b"]),
        ("clipped", [MinMaxScaler(clip=True), StandardScaler()], ["c"]),
    ]
    ours = ColumnTransformer(groups)
    plan = ours.plan(flights)
    assert plan.startswith("fit needs 2 passes because ")
    assert "StandardScaler learns from what MinMaxScaler makes of 'c'" in plan
    result = ours.fit_transform(flights)
    assert ours.num_passes_ == 2
    pipelines = [
        make_pipeline(theirs.RobustScaler(), their_impute.SimpleImputer(), theirs.StandardScaler()),
        make_pipeline(theirs.MinMaxScaler(clip=True), theirs.StandardScaler()),
    ]
    expected = [
        pipeline.fit_transform(flights[chosen]) for pipeline, chosen in zip(pipelines, (["a", "b"], ["c"]), strict=True)
    ]
    assert_same(result, np.concatenate(expected, axis=1))
    with pytest.raises(ArgumentError, match="partial_fit cannot: fit needs 2 passes because .*; call fit on all data"):
        ColumnTransformer(groups).partial_fit(flights)


@pytest.mark.parametrize("strategy", ["mean", "median", "most_frequent", "constant"])
@pytest.mark.parametrize("scaler", ["StandardScaler", "MinMaxScaler", "MaxAbsScaler", "RobustScaler"])
def test_every_scaler_after_every_strategy(flights, strategy, scaler):
    from dtk.preparation import transforms

    rounded = flights[["a", "b"]].round()
    steps = [SimpleImputer(strategy=strategy), getattr(transforms, scaler)()]
    expected = make_pipeline(their_impute.SimpleImputer(strategy=strategy), getattr(theirs, scaler)())
    ours = ColumnTransformer([("both", steps, ["a", "b"])])
    assert_same(ours.fit_transform(rounded), expected.fit_transform(rounded))
    assert_two_stages_alike(ours, rounded, tolerance=3e-6)


@pytest.mark.parametrize("remainder", ["drop", "passthrough"])
@pytest.mark.parametrize("verbose", [True, False])
def test_the_rest_and_what_is_dropped(flights, remainder, verbose):
    numbers = flights.drop(columns=["word", "wide"])
    options = {"remainder": remainder, "verbose_feature_names_out": verbose}
    groups = [("gone", "drop", ["a"]), ("as it is", "passthrough", ["d"]), ("none", StandardScaler(), [])]
    ours = ColumnTransformer([*groups, ("scaled", StandardScaler(), ["c"])], **options)
    their_groups = [*groups[:2], ("none", theirs.StandardScaler(), []), ("scaled", theirs.StandardScaler(), ["c"])]
    expected = sklearn.compose.ColumnTransformer(their_groups, **options).fit(numbers)
    fitted = assert_transforms_alike(ours, numbers, expected=expected.transform(numbers))
    assert fitted.get_feature_names_out().tolist() == expected.get_feature_names_out().tolist()
    assert_two_stages_alike(ours, numbers, tolerance=2e-6)


def test_words_pass_through(flights):
    ours = ColumnTransformer([("n", StandardScaler(), ["a"])], remainder="passthrough").fit(flights)
    out = ours.transform(pa.Table.from_pandas(flights))
    assert out.column_names == ["n__a", *(f"remainder__{name}" for name in ("b", "c", "d", "wide", "word"))]
    assert as_array(out["remainder__word"]).tolist() == pa.array(flights["word"], from_pandas=True).to_pylist()
    words = ColumnTransformer([("w", SimpleImputer(strategy="most_frequent"), ["word"])]).fit(flights)
    assert_same(words.transform(in_partitions(flights)), words.transform(flights))


def test_columns_may_be_positions_and_come_in_another_order(flights):
    ours = ColumnTransformer([("n", StandardScaler(), [0, -3])]).fit(flights)
    assert ours.columns == ("a", "d")
    shuffled = flights[["word", "d", "a", "b", "c", "wide"]]
    with pytest.raises(ArgumentError, match="X has no column 'a', which was there at fit"):
        ours.transform(shuffled.drop(columns="a"))
    assert_same(ours.transform(shuffled), ours.transform(flights))
    assert_same(ours.transform(shuffled.assign(more=1)), ours.transform(flights))
    assert_same(ours.transform(pa.Table.from_pandas(shuffled)), ours.transform(flights))


def test_the_target_is_left_out_also_where_none_learns_from_it(flights):
    ours = ColumnTransformer([("n", StandardScaler(), ["a"])], remainder="passthrough")
    ours.fit(flights, "word")
    assert "word" not in ours.columns
    assert_same(ours.transform(flights.drop(columns="word")), ours.transform(in_partitions(flights)))


@pytest.mark.parametrize(
    ("groups", "options", "message"),
    [
        ([("n", StandardScaler(), ["z"])], {}, "transformers\\['n'\\]: 'z' is no column of X"),
        ([("n", StandardScaler(), [9])], {}, "there is no column 9 of 6"),
        ([("n", KMeans(), ["a"])], {}, "KMeans"),
        ([("n", "keep", ["a"])], {}, "'keep' is no transform"),
        ([("n", StandardScaler(), ["a"])] * 2, {}, "are not unique"),
        ([("n", StandardScaler(), ["a"])], {"remainder": "keep"}, "remainder='keep' must be"),
    ],
)
def test_what_cannot_be_is_refused(flights, groups, options, message):
    with pytest.raises(ArgumentError, match=message):
        ColumnTransformer(groups, **options).fit(flights)


def test_words_are_refused_where_numbers_are_needed(flights):
    with pytest.raises(DataError, match="column 'word' holds"):
        ColumnTransformer([("n", StandardScaler(), ["word"])]).fit(flights)
    with pytest.raises(DataError, match="no rows"):
        ColumnTransformer([("n", StandardScaler(), ["a"])]).fit(pa.table({"a": pa.array([], pa.float64())}))


def test_codes_that_a_later_step_computes_with_are_numbers():
    frame = pd.DataFrame({"c": list("aababcab"), "t": ["x y", "y", "x", "z", "x", "y y", "z", "x"]})
    columns = ColumnTransformer(
        [
            ("codes", [EmbeddingCodes(), StandardScaler()], ["c"]),
            ("tokens", [WordTokenizer(length=2), StandardScaler()], ["t"]),
        ]
    )
    fitted = assert_two_stages_alike(columns, frame, tolerance=1e-6)
    assert fitted.category_names == ()
    assert len(fitted.feature_names) == 3
