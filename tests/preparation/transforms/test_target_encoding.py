"""Categories become means of the target, as in scikit-learn; and no row is shown its own."""

from __future__ import annotations

from typing import Any

import dask
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sklearn.preprocessing as theirs
from hypothesis import given, settings
from hypothesis import strategies as st

import dtk
from dtk.errors import ArgumentError, DataError
from dtk.preparation.transforms import ColumnTransformer, SimpleImputer, StandardScaler, TargetEncoder
from dtk.statistics.target_by_category import fold_of
from tests.preparation.transforms.common import (
    assert_same,
    assert_transforms_alike,
    assert_two_stages_alike,
    in_partitions,
    refuse,
)

TARGETS: dict[str, Any] = {
    "continuous": lambda rng, n: rng.normal(10, 3, n),
    "binary": lambda rng, n: rng.integers(0, 2, n),
    "multiclass": lambda rng, n: rng.choice(["low", "mid", "high"], n),
    "booleans": lambda rng, n: rng.random(n) < 0.3,
}


def frame_with(target: str, rows: int = 300) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "word": rng.choice(["x", "y", "ü", "rare", None], rows, p=[0.5, 0.2, 0.15, 0.05, 0.1]),
            "n": rng.integers(0, 4, rows),
        }
    ).astype({"word": "str"})
    return frame.assign(y=TARGETS[target](rng, rows))


@pytest.mark.parametrize("target", list(TARGETS))
@pytest.mark.parametrize("smooth", ["auto", 0.0, 5.0])
def test_every_way_gives_what_scikit_learn_gives(target, smooth):
    frame = frame_with(target)
    inputs = frame.drop(columns="y")
    encoder = theirs.TargetEncoder(smooth=smooth).fit(inputs, frame["y"])
    fitted = assert_transforms_alike(
        TargetEncoder(smooth=smooth), frame, y="y", expected=encoder.transform(inputs), module_tolerance=2e-6
    )
    assert list(fitted.get_feature_names_out()) == list(encoder.get_feature_names_out())
    assert fitted.target_type_ == encoder.target_type_
    assert_same(np.atleast_2d(fitted.target_mean_), np.atleast_2d(encoder.target_mean_))
    for found, expected in zip(fitted.encodings_, encoder.encodings_, strict=True):
        assert_same(found[:, None], expected[:, None])
    unseen = pd.DataFrame({"word": ["new", None], "n": [9, 1]})
    assert_same(fitted.transform(unseen), encoder.transform(unseen))


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.sampled_from(["a", "b", "日本", np.nan]), st.integers(0, 2), st.floats(-1e3, 1e3)),
        min_size=2,
        max_size=20,
    ),
    smooth=st.sampled_from(["auto", 0.0, 2.5]),
    continuous=st.booleans(),
)
def test_any_shape_of_data(rows, smooth, continuous):
    words, classes, numbers = zip(*rows, strict=True)
    x = pd.DataFrame({"a": words}).astype("str")
    y = np.array(numbers) if continuous else np.array(classes)
    if not continuous and len(set(classes)) < 2:
        return
    kind = "continuous" if continuous else "auto"
    expected = theirs.TargetEncoder(smooth=smooth, target_type=kind).fit(x, y)
    with np.errstate(all="ignore"):
        found = TargetEncoder(smooth=smooth, target_type=kind).fit(x, y)
    assert_same(found.transform(x), expected.transform(x), rtol=1e-6, atol=1e-6)


def test_folds_see_nothing_of_themselves():
    frame = frame_with("continuous")
    cross = TargetEncoder().fit_transform(frame, "y")
    fold = fold_of(np.arange(len(frame)), 5)
    assert len(set(fold)) == 5
    for each in range(5):
        others, own = frame[fold != each], frame[fold == each]
        expected = theirs.TargetEncoder().fit(others[["word", "n"]], others["y"])
        assert_same(cross[fold == each], expected.transform(own[["word", "n"]]))


@pytest.mark.parametrize("target", ["binary", "multiclass"])
def test_folds_of_classes_see_nothing_of_themselves(target):
    frame = frame_with(target)
    cross = TargetEncoder(cv=3, random_state=7).fit_transform(frame, "y")
    fold = fold_of(np.arange(len(frame)), 3, 7)
    for each in range(3):
        others, own = frame[fold != each], frame[fold == each]
        expected = theirs.TargetEncoder().fit(others[["word", "n"]], others["y"])
        assert_same(cross[fold == each], expected.transform(own[["word", "n"]]))


@pytest.mark.parametrize("smooth", ["auto", 1.0])
def test_a_random_category_does_not_predict_the_target(smooth):
    rng = np.random.default_rng(1)
    frame = pd.DataFrame({"id": rng.integers(0, 2000, 4000).astype("str"), "y": rng.normal(size=4000)})
    cross = TargetEncoder(smooth=smooth).fit_transform(frame, "y")[:, 0]
    leaky = TargetEncoder(smooth=smooth).fit(frame, "y").transform(frame[["id"]])[:, 0]
    assert np.corrcoef(leaky, frame["y"])[0, 1] > 0.5
    assert abs(np.corrcoef(cross, frame["y"])[0, 1]) < 0.06  # four standard errors


def test_a_category_that_tells_the_target_still_does():
    rng = np.random.default_rng(1)
    level = rng.normal(size=50)
    group = rng.integers(0, 50, 4000)
    frame = pd.DataFrame({"group": group, "y": level[group] + 0.1 * rng.normal(size=4000)})
    assert np.corrcoef(TargetEncoder().fit_transform(frame, "y")[:, 0], frame["y"])[0, 1] > 0.98


def test_folds_do_not_depend_on_contents_or_containers():
    frame = frame_with("continuous")
    cross = TargetEncoder().fit_transform(frame, "y")
    assert_same(TargetEncoder().fit_transform(frame.drop(columns="y"), frame["y"]), cross)
    assert_same(TargetEncoder().fit_transform(pa.Table.from_pandas(frame), "y"), cross)
    shuffled = frame.iloc[::-1]
    assert not np.allclose(TargetEncoder().fit_transform(shuffled, "y")[::-1], cross)
    doubled = pd.concat([frame, frame])
    both = TargetEncoder().fit_transform(doubled, "y")
    assert not np.allclose(both[:300], both[300:])  # equal rows are in different folds


def test_lazy_partitions_are_encoded_out_of_fold_and_lazily(tmp_path):
    rng = np.random.default_rng(1)
    frame = pd.DataFrame({"id": rng.integers(0, 2000, 4000).astype("str"), "x": 1.0, "y": rng.normal(size=4000)})
    for start in range(0, 4000, 500):
        pq.write_table(
            pa.Table.from_pandas(frame[start : start + 500]), tmp_path / f"{start}.parquet", row_group_size=250
        )
    for lazy in (in_partitions(frame), dtk.open(str(tmp_path)), dtk.open(str(tmp_path)).assign(x=2.0)):
        encoder = TargetEncoder()
        with dask.config.set(scheduler="sync"):
            out = encoder.fit_transform(lazy[["id", "y"]], "y")
        with dask.config.set(scheduler=refuse):
            assert list(out.columns) == ["id"]
            assert out.divisions == lazy.optimize().divisions
        with dask.config.set(scheduler="sync"):
            cross = out.compute()["id"].to_numpy()
            target = lazy["y"].compute().to_numpy()
        assert abs(np.corrcoef(cross, target)[0, 1]) < 0.06
        assert_same(
            encoder.transform(frame[["id"]]), TargetEncoder().fit(frame[["id", "y"]], "y").transform(frame[["id"]])
        )


def test_compositions_are_cross_fitted_too():
    frame = frame_with("continuous").assign(x=np.arange(300.0), z=lambda f: f["word"])
    groups = [("mean", TargetEncoder(), ["word"]), ("x", StandardScaler(), ["x"])]
    cross = ColumnTransformer(groups).fit_transform(frame, "y")
    assert_same(cross[:, :1], TargetEncoder().fit_transform(frame[["word", "y"]], "y"))
    fitted = assert_two_stages_alike(ColumnTransformer(groups), frame, y="y", tolerance=3e-6)
    assert fitted.num_passes_ == 1
    assert not np.allclose(fitted.transform(frame), cross)
    with dask.config.set(scheduler="sync"):
        lazy = ColumnTransformer(groups).fit_transform(in_partitions(frame), "y").compute()
    assert_same(lazy.to_numpy()[:, 1:], cross[:, 1:])
    later = ColumnTransformer([("mean", [SimpleImputer(strategy="most_frequent"), TargetEncoder()], ["word"])])
    assert "TargetEncoder learns from what SimpleImputer makes of 'word'" in later.plan(frame, "y")


@pytest.mark.parametrize(
    ("encoder", "y", "error", "message"),
    [
        (TargetEncoder(target_type="ordinal"), [1.5, 2.0, 3.0], ArgumentError, "target_type='ordinal' must be"),
        (TargetEncoder(smooth=-1), [1.5, 2.0, 3.0], ArgumentError, "smooth=-1 must be"),
        (TargetEncoder(cv=1), [1.5, 2.0, 3.0], ArgumentError, "cv=1 must be"),
        (TargetEncoder(), None, ArgumentError, "y=None: TargetEncoder requires y"),
        (TargetEncoder(), [1.5, np.nan, 3.0], DataError, "missing in 1 rows"),
        (TargetEncoder(), [1.5, np.inf, 3.0], DataError, "infinite"),
        (TargetEncoder(), [1.5, 2.0], ArgumentError, "y has 2 values for the 3 rows of X"),
        (TargetEncoder(target_type="binary"), [1, 2, 3], ArgumentError, "y has 3 classes"),
        (TargetEncoder(target_type="binary"), [1.5, 2, 3], ArgumentError, "y holds numbers that are not whole"),
        (TargetEncoder(target_type="continuous"), ["a", "b", "c"], DataError, "y holds text"),
    ],
)
def test_what_cannot_be_is_refused(encoder, y, error, message):
    with pytest.raises(error, match=message):
        encoder.fit(pd.DataFrame({"a": ["x", "y", "x"]}), y)


def test_whole_numbers_of_many_values_are_not_taken_for_classes():
    x, y = pd.DataFrame({"a": ["x", "y"] * 100}), np.arange(200)
    with pytest.raises(
        ArgumentError, match="y holds more than 100 values, too many for classes; give target_type='cont"
    ):
        TargetEncoder().fit(x, y)
    assert_same(TargetEncoder(target_type="continuous", smooth=0.0).fit(x, y).transform(x[:2]), [[99.0], [100.0]])


def test_what_is_not_counted_is_said():
    x = pd.DataFrame({"a": ["often"] * 500 + [f"word {number}" for number in range(200)]})
    encoder, y = TargetEncoder(max_size=10), np.arange(700.0) + 0.5
    with pytest.warns(UserWarning, match="column 'a': .* of at least .* categories are kept"):
        fitted = encoder.fit(x, y)
    assert "those left out occur at most 1 times" in fitted.cut_[0]
    assert fitted.transform(x[:1])[0, 0] < fitted.transform(pd.DataFrame({"a": ["new"]}))[0, 0]
