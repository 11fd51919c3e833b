"""Transformers of scikit-learn, carried or converted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from sklearn import compose, decomposition, feature_selection, impute, kernel_approximation, preprocessing
from sklearn import random_projection as projection
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.feature_extraction import text
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from dtk.errors import ArgumentError, DataError
from dtk.preparation.transforms import ColumnTransformer, SklearnTransform, Transform, from_sklearn, transform_from_dict
from dtk.preparation.transforms.scikit import CARRIED
from dtk.statistics import RowSample
from tests.preparation.transforms.common import assert_transforms_alike

pytestmark = pytest.mark.filterwarnings("ignore:FastICA did not converge")

CARRIED_ONES = [
    decomposition.PCA(2),
    decomposition.PCA(2, whiten=True),
    decomposition.IncrementalPCA(2),
    decomposition.TruncatedSVD(2),
    decomposition.FastICA(2, whiten="unit-variance"),
    decomposition.FastICA(whiten=False),
    projection.GaussianRandomProjection(2),
    preprocessing.PolynomialFeatures(3),
    preprocessing.PolynomialFeatures(2, interaction_only=True, include_bias=False),
    preprocessing.SplineTransformer(n_knots=4),
    preprocessing.Normalizer(),
    preprocessing.Normalizer("l1"),
    preprocessing.Normalizer("max"),
    preprocessing.Binarizer(threshold=0.5),
    feature_selection.VarianceThreshold(0.5),
    kernel_approximation.RBFSampler(n_components=5),
    kernel_approximation.Nystroem(n_components=5),
    kernel_approximation.PolynomialCountSketch(n_components=5),
    kernel_approximation.SkewedChi2Sampler(n_components=5),
    kernel_approximation.AdditiveChi2Sampler(),
]
TWINS = [
    preprocessing.StandardScaler(),
    preprocessing.StandardScaler(with_mean=False),
    preprocessing.StandardScaler(with_mean=False, with_std=False),
    preprocessing.MinMaxScaler((-1, 1), clip=True),
    preprocessing.MaxAbsScaler(),
    preprocessing.RobustScaler(),
    preprocessing.RobustScaler(with_centering=False, quantile_range=(10, 90)),
    preprocessing.QuantileTransformer(n_quantiles=20),
    preprocessing.PowerTransformer(),
    preprocessing.PowerTransformer("box-cox", standardize=False),
    impute.SimpleImputer(strategy="median", add_indicator=True),
    impute.SimpleImputer(strategy="constant", fill_value=3.0),
]


def table(num_rows: int = 200) -> pd.DataFrame:
    """Positive numbers that float32 holds, and none missing."""
    rng = np.random.default_rng(0)
    values = rng.lognormal(size=(num_rows, 4)) @ rng.random((4, 4))
    frame = pd.DataFrame(values, columns=["a", "b", "c", "d"]).astype(np.float32).astype(np.float64)
    frame["d"] = rng.integers(1, 3, num_rows) * 1.0
    return frame


def same(found: Any, expected: Any, tolerance: float = 1e-9) -> None:
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=tolerance, atol=tolerance)


def through_json(transform: Transform) -> Transform:
    return transform_from_dict(json.loads(json.dumps(transform.to_dict())))


def seeded(estimator: Any) -> Any:
    has_seed = "random_state" in estimator.get_params()
    return clone(estimator).set_params(random_state=0) if has_seed else clone(estimator)


def test_the_whole_list_is_tried() -> None:
    assert {type(each).__name__ for each in CARRIED_ONES} == set(CARRIED)


def sampled_rows(num_rows: int) -> NDArray[Any]:
    """Return the order in which the sample has the rows: to some estimators it matters."""
    sample = RowSample(num_rows)
    sample.update(pa.array(range(num_rows)), np.arange(num_rows))
    return sample.values.to_numpy()


@pytest.mark.parametrize("estimator", CARRIED_ONES, ids=repr)
def test_carried_ones_are_fitted_out_of_core(estimator: Any, tmp_path: Path) -> None:
    frame = table()
    pq.write_table(pa.Table.from_pandas(frame), tmp_path / "x.parquet", row_group_size=70)
    ours = SklearnTransform(estimator).fit(dd.read_parquet(tmp_path))
    expected = seeded(estimator).fit(frame.to_numpy()[sampled_rows(len(frame))]).transform(frame.to_numpy())
    same(ours.transform(frame), expected)
    np.testing.assert_array_equal(SklearnTransform(estimator).fit(frame).transform(frame), ours.transform(frame))
    again = through_json(ours)
    np.testing.assert_array_equal(again.transform(frame), ours.transform(frame))
    assert list(again.get_feature_names_out()) == list(ours.get_feature_names_out())


@pytest.mark.parametrize("estimator", [decomposition.PCA(2), preprocessing.PolynomialFeatures()], ids=repr)
def test_data_of_any_form_and_size_gives_the_same(estimator: Any) -> None:
    assert_transforms_alike(SklearnTransform(estimator), table(), rtol=1e-6, atol=1e-6, module_tolerance=1e-5)


@pytest.mark.parametrize("estimator", [*CARRIED_ONES, *TWINS], ids=repr)
def test_fitted_ones_stay_what_they_are(estimator: Any) -> None:
    frame = table()
    theirs = seeded(estimator).fit(frame)
    same(from_sklearn(theirs).transform(frame), theirs.transform(frame))
    ours = through_json(from_sklearn(theirs))
    same(ours.transform(frame), theirs.transform(frame))
    assert list(ours.get_feature_names_out()) == list(theirs.get_feature_names_out())
    without_names = seeded(estimator).fit(frame.to_numpy())
    same(from_sklearn(without_names).transform(frame.to_numpy()), without_names.transform(frame.to_numpy()))


@pytest.mark.parametrize("estimator", [*CARRIED_ONES, *TWINS], ids=repr)
def test_both_stages_give_the_same_in_a_composition(estimator: Any) -> None:
    frame = table()
    columns = ColumnTransformer(
        [("x", estimator, list(frame)), ("y", [estimator, preprocessing.Binarizer()], ["a", "b"])]
    )
    if type(estimator).__name__ in ("TruncatedSVD", "VarianceThreshold"):  # too little is left of two columns
        columns.transformers = columns.transformers[:1]
    expected = columns.fit_transform(frame)
    again = transform_from_dict(json.loads(json.dumps(columns.to_dict())))
    encoded = again.encode(pa.Table.from_pandas(frame))
    module = again.as_module()
    same(module(**{name: torch.tensor(array) for name, array in encoded.items()})[0], expected, 1e-5)
    assert isinstance(clone(again), ColumnTransformer)


def test_a_row_with_a_missing_value_comes_out_as_nan() -> None:
    frame = table()
    holey = frame.copy()
    holey.loc[3, "b"] = np.nan
    for estimator in (decomposition.PCA(2), preprocessing.SplineTransformer()):
        ours = SklearnTransform(estimator).fit(frame)
        assert np.isnan(ours.transform(holey)[3]).all()
        same(np.delete(ours.transform(holey), 3, 0), np.delete(ours.transform(frame), 3, 0))
        with pytest.raises(DataError, match="column 'b' has missing .* put a SimpleImputer"):
            SklearnTransform(estimator).fit(holey)


def test_a_step_after_an_imputer_learns_in_the_same_pass() -> None:
    frame = table()
    frame.loc[::7, "a"] = np.nan
    columns = ColumnTransformer([("x", [impute.SimpleImputer(), decomposition.PCA(2)], list(frame))]).fit(frame)
    assert columns.num_passes_ == 1
    filled = impute.SimpleImputer().fit_transform(frame)
    same(np.abs(columns.transform(frame)), np.abs(decomposition.PCA(2).fit_transform(filled)), 1e-6)


def mixed() -> pd.DataFrame:
    frame = table()
    frame.loc[::5, "a"] = np.nan
    return frame


@pytest.mark.parametrize("columns", [["a", "b"], [0, 1], slice(0, 2), [True, True, False, False]], ids=repr)
@pytest.mark.parametrize("remainder", ["drop", "passthrough"])
def test_a_column_transformer_as_a_whole(columns: Any, remainder: str) -> None:
    frame = mixed()
    scale = ("scale", preprocessing.MinMaxScaler())
    steps = Pipeline([("fill", impute.SimpleImputer()), ("nothing", "passthrough"), scale])
    log = preprocessing.FunctionTransformer(np.log1p, feature_names_out="one-to-one")
    theirs = compose.ColumnTransformer([("n", steps, columns), ("log", log, ["c"])], remainder=remainder)
    theirs.fit(frame)
    ours = from_sklearn(theirs)
    same(ours.transform(frame), theirs.transform(frame))
    assert list(ours.get_feature_names_out()) == list(theirs.get_feature_names_out())
    again = transform_from_dict(json.loads(json.dumps(ours.to_dict())))
    encoded = again.encode(pa.Table.from_pandas(frame))
    same(again.as_module()(**{name: torch.tensor(a) for name, a in encoded.items()})[0], theirs.transform(frame), 1e-6)
    same(ColumnTransformer([("n", steps, ["a", "b"])]).fit_transform(frame), theirs.transform(frame)[:, :2])
    if isinstance(columns, list) and columns[0] is not True:
        unfitted = from_sklearn(clone(theirs))
        same(unfitted.fit_transform(frame), theirs.transform(frame))


def test_a_pipeline_as_a_whole() -> None:
    frame = mixed()
    theirs = Pipeline([("fill", impute.SimpleImputer()), ("none", None), ("pca", decomposition.PCA(2))]).fit(frame)
    ours = from_sklearn(theirs)
    assert [type(step).__name__ for _, step in ours.steps] == ["SimpleImputer", "SklearnTransform"]
    same(ours.transform(frame), theirs.transform(frame))
    same(np.abs(from_sklearn(clone(theirs)).fit_transform(frame)), np.abs(theirs.transform(frame)))


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (KMeans(), "KMeans has no twin in dtk.preparation, and is none of .* leave it out, or write it as a subclass"),
        (LinearRegression(), "LinearRegression has no twin"),
        (FeatureUnion([]), "FeatureUnion has no twin"),
        (preprocessing.FunctionTransformer(np.sqrt), "is code, which no bundle carries"),
        (
            impute.SimpleImputer(missing_values=-1),
            "missing_values=-1 of SimpleImputer is not known to dtk",
        ),
        (
            compose.ColumnTransformer([], remainder=preprocessing.MaxAbsScaler()),
            "remainder=MaxAbsScaler.* must be one of",
        ),
        (compose.ColumnTransformer([("x", "drop", ["a"])], transformer_weights={"x": 2}), "transformer_weights"),
        (compose.ColumnTransformer([("x", "drop", lambda _: ["a"])]), r"transformers\['x'\]: columns=.* give names"),
        (text.CountVectorizer().fit(["red car"]), "a fitted CountVectorizer cannot be taken over; give it unfitted"),
        (3, "3 is no transform"),
    ],
)
def test_what_cannot_be_converted_is_refused(estimator: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        from_sklearn(estimator)


def test_what_cannot_be_carried_is_refused_before_anything_is_read() -> None:
    with pytest.raises(ArgumentError, match="KMeans has no twin"):
        SklearnTransform(KMeans()).fit(table())
    with pytest.raises(ArgumentError, match=r"transformers\['x'\]: KMeans has no twin"):
        ColumnTransformer([("x", KMeans(), ["a"])]).fit(table())


def test_what_only_runs_while_encoding_has_no_module() -> None:
    with pytest.raises(ArgumentError, match=r"has no module; in a ColumnTransformer it is computed while encoding"):
        SklearnTransform(preprocessing.SplineTransformer()).fit(table()).as_module()


def expected_failures(estimator: SklearnTransform) -> dict[str, str]:
    learns = type(estimator.estimator).__name__ == "SplineTransformer"
    return {"check_estimators_pickle": "it learns from data with missing values"} if learns else {}


@parametrize_with_checks(
    [SklearnTransform(preprocessing.Normalizer()), SklearnTransform(preprocessing.SplineTransformer())],
    expected_failed_checks=expected_failures,
)
def test_scikit_learns_checks(estimator: Any, check: Any) -> None:
    check(estimator)


ENCODERS = [
    preprocessing.OneHotEncoder(handle_unknown="ignore"),
    preprocessing.OneHotEncoder(drop="if_binary", handle_unknown="ignore"),
    preprocessing.OneHotEncoder(drop="first", handle_unknown="infrequent_if_exist", min_frequency=3),
    preprocessing.OneHotEncoder(sparse_output=False, handle_unknown="infrequent_if_exist", max_categories=2),
    preprocessing.OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1),
    preprocessing.OrdinalEncoder(
        handle_unknown="use_encoded_value", unknown_value=np.nan, encoded_missing_value=-2, min_frequency=3
    ),
]


def dense(result: Any) -> Any:
    return result.toarray() if hasattr(result, "toarray") else result


@pytest.mark.parametrize("estimator", ENCODERS, ids=str)
@pytest.mark.filterwarnings("ignore:Found unknown categories")
def test_fitted_encoders_are_taken_over(estimator):
    rng = np.random.default_rng(1)
    seen = pd.DataFrame(
        {
            "word": rng.choice(["u", "v", "w", "ü", None], 30, p=[0.4, 0.3, 0.1, 0.1, 0.1]),
            "whole": rng.choice([1, 2, 30], 30),
            "float": rng.choice([0.5, np.nan], 30),
            "boolean": rng.random(30) < 0.5,
        }
    ).astype({"word": "str"})
    other = seen.assign(word=seen["word"].replace("u", "new"), whole=seen["whole"] + 1)
    fitted = clone(estimator).fit(seen)
    made = through_json(from_sklearn(fitted))
    assert list(made.get_feature_names_out()) == list(fitted.get_feature_names_out())
    for frame in (seen, other):
        same(made.transform(frame), dense(fitted.transform(frame)))
    same(from_sklearn(clone(estimator)).fit(seen).transform(other), dense(fitted.transform(other)))


def test_fitted_encoders_in_a_composition_are_taken_over():
    frame = pd.DataFrame({"word": ["u", "v", "u", None], "x": [1.0, 2.0, 3.0, 9.0]})
    steps = [impute.SimpleImputer(strategy="most_frequent"), preprocessing.OneHotEncoder()]
    bins = preprocessing.KBinsDiscretizer(2, strategy="kmeans")
    groups = [("word", Pipeline([("fill", steps[0]), ("code", steps[1])]), ["word"]), ("x", bins, ["x"])]
    fitted = compose.ColumnTransformer(groups).fit(frame)
    made = through_json(from_sklearn(fitted))
    same(made.transform(frame), dense(fitted.transform(frame)))
    assert list(made.get_feature_names_out()) == list(fitted.get_feature_names_out())


@pytest.mark.parametrize("categories", [["b", None, "a"], ["a", None, np.nan]])
def test_fitted_encoders_of_other_categories_are_not(categories):
    values = np.array([[each] for each in categories], object)
    fitted = preprocessing.OrdinalEncoder(categories=[categories]).fit(values)
    with pytest.raises(ArgumentError, match="categories of column 0 of a fitted OrdinalEncoder cannot be taken over"):
        from_sklearn(fitted)
