"""Quantiles, powers, logarithms and clipping, beside scikit-learn and NumPy."""

from __future__ import annotations

import json
from typing import Any

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import stats
from sklearn import preprocessing

from dtk.errors import ArgumentError, DataError
from dtk.preparation.transforms import (
    Clip,
    ColumnTransformer,
    LogTransformer,
    PowerTransformer,
    QuantileTransformer,
    SimpleImputer,
    StandardScaler,
    Transform,
    transform_from_dict,
)

EVERY = [
    QuantileTransformer(n_quantiles=50),
    QuantileTransformer(n_quantiles=7, output_distribution="normal"),
    PowerTransformer(),
    PowerTransformer("box-cox"),
    PowerTransformer(standardize=False),
    LogTransformer(),
    LogTransformer("log", offset=2.0),
    LogTransformer("signed"),
    Clip(),
    Clip(0.5, 2.0, by="value"),
]
INVERTIBLE = [each for each in EVERY if hasattr(each, "inverse_transform")]
# ties, ends and missing values; floats that float32 holds, so that rounding the input is not what is compared
NUMBERS = st.one_of(st.integers(-3, 3), st.floats(-1e3, 1e3, width=32), st.just(np.nan))
TABLES = st.tuples(st.integers(1, 30), st.integers(1, 3)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=NUMBERS)
)


def table(num_rows: int = 400) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "skewed": rng.lognormal(size=num_rows).astype(np.float32).astype(np.float64),
            "tied": rng.integers(1, 6, num_rows).astype(np.float64),
            "constant": np.full(num_rows, 2.0),
        }
    )
    frame.loc[rng.random(num_rows) < 0.1, "skewed"] = np.nan
    return frame


def same(found: Any, expected: Any, tolerance: float = 1e-9) -> None:
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=tolerance, atol=tolerance)


def no_computing(*_args: Any, **_kwargs: Any) -> None:
    raise AssertionError("computed")


@pytest.mark.parametrize("output", ["uniform", "normal"])
@settings(max_examples=60, deadline=None)
@given(x=TABLES, num_quantiles=st.integers(1, 40))
@pytest.mark.filterwarnings("ignore:n_quantiles:UserWarning", "ignore:All-NaN:RuntimeWarning")
def test_quantiles_equal_scikit_learns(output: str, x: NDArray[Any], num_quantiles: int) -> None:
    options: dict[str, Any] = {"n_quantiles": num_quantiles, "output_distribution": output}
    theirs = preprocessing.QuantileTransformer(subsample=None, **options).fit(x)
    ours = QuantileTransformer(**options).fit(x)
    same(ours.quantiles_, theirs.quantiles_)
    probe = np.concatenate([x, x + 0.25, theirs.quantiles_, [[np.nan] * x.shape[1]]])
    ours.quantiles_ = theirs.quantiles_  # ours may differ in the last digit, which moves a tie by a whole step
    same(ours.transform(probe), theirs.transform(probe))
    back = np.linspace(-0.1, 1.1, 13)[:, None].repeat(x.shape[1], 1)
    same(ours.inverse_transform(back), theirs.inverse_transform(back))


BRENT_TOLERANCE = 1.48e-8  # relative, of scipy's search for a power


@settings(max_examples=60, deadline=None)
@given(x=TABLES)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_powers_equal_scikit_learns(x: NDArray[Any]) -> None:
    assume((np.nanstd(x, axis=0) > 0).all())  # scikit-learn fails without values, and beside NaN sees no constants
    theirs = preprocessing.PowerTransformer(standardize=False).fit(x)
    ours = PowerTransformer(standardize=False).fit(x)
    for mine, other, column in zip(ours.lambdas_, theirs.lambdas_, x.T, strict=True):
        values = column[~np.isnan(column)]
        found, expected = (stats.yeojohnson_llf(power, values) for power in (mine, other))
        # far out the likelihood is made of rounding: the optimiser's own tolerance changes it by more
        near = [stats.yeojohnson_llf(other * (1 + steps * BRENT_TOLERANCE), values) for steps in range(-3, 4)]
        assert found >= expected - 1e-9 * abs(expected) - (max(near) - min(near))
    ours.lambdas_ = theirs.lambdas_  # where the likelihood is flat they differ
    same(ours.transform(x), theirs.transform(x))


@pytest.mark.parametrize("standardize", [True, False])
def test_yeo_johnson_equals_scikit_learns(standardize: bool) -> None:
    x = table()[["skewed", "tied"]].to_numpy() - 2
    theirs = preprocessing.PowerTransformer(standardize=standardize).fit(x)
    ours = PowerTransformer(standardize=standardize).fit(x)
    same(ours.lambdas_, theirs.lambdas_, 1e-6)
    same(ours.transform(x), theirs.transform(x), 1e-6)
    same(ours.inverse_transform(ours.transform(x)), x)


@pytest.mark.parametrize("standardize", [True, False])
def test_box_cox_equals_scikit_learns(standardize: bool) -> None:
    x = table()[["skewed", "tied"]].to_numpy(np.float64)
    theirs = preprocessing.PowerTransformer(method="box-cox", standardize=standardize).fit(x)
    ours = PowerTransformer("box-cox", standardize=standardize).fit(x)
    same(ours.lambdas_, theirs.lambdas_, 1e-6)
    same(ours.transform(x), theirs.transform(x), 1e-6)
    same(ours.inverse_transform(ours.transform(x)), x)


def test_powers_at_their_limits() -> None:
    x = np.array([[-2.0, 3.0], [0.5, -1.0], [np.nan, 0.0]])
    ours, theirs = PowerTransformer(standardize=False).fit(x), preprocessing.PowerTransformer(standardize=False).fit(x)
    for powers in ([0.0, 2.0], [1e-17, 2 - 1e-17], [1.0, -1.5]):
        ours.lambdas_ = theirs.lambdas_ = np.array(powers)
        same(ours.transform(x), theirs.transform(x))
        same(ours.inverse_transform(ours.transform(x)), x)


def test_infinite_values_do_not_count_and_lie_at_the_ends() -> None:
    x = np.array([[1.0], [2.0], [3.0]])
    wild = np.concatenate([x, [[np.inf], [-np.inf]]])
    same(QuantileTransformer().fit_transform(wild)[:, 0], [0, 0.5, 1, 1, 0])
    same(PowerTransformer().fit(wild).lambdas_, PowerTransformer().fit(x).lambdas_)
    same(Clip().fit_transform(wild)[3:, 0], [2.98, 1.02])


@pytest.mark.parametrize("function", ["log", "log1p", "signed"])
def test_logarithms(function: str) -> None:
    x = np.array([[-0.5, 0.0, 7.0, np.nan]]).T
    expected = {"log": np.log(x + 2), "log1p": np.log1p(x + 2), "signed": np.sign(x + 2) * np.log1p(np.abs(x + 2))}
    log = LogTransformer(function, offset=2).fit(x)
    same(log.transform(x), expected[function])
    same(log.inverse_transform(log.transform(x)), x)


def test_clipping_by_quantiles_and_by_values() -> None:
    x = table()[["skewed", "tied"]].to_numpy(np.float64)
    low, high = np.nanquantile(x, [0.05, 0.9], axis=0)
    same(Clip(0.05, 0.9).fit_transform(x), np.clip(x, low, high))
    same(Clip(None, 0.9).fit_transform(x), np.clip(x, None, high))
    same(Clip(1.5, None, by="value").fit_transform(x), np.clip(x, 1.5, None))


@pytest.mark.parametrize("transform", EVERY, ids=repr)
def test_data_of_any_size_gives_what_data_in_memory_gives(transform: Transform) -> None:
    frame = table()
    expected = transform.fit_transform(frame)
    parts = dd.from_pandas(frame, npartitions=5)
    parts = dd.concat([parts, parts[parts.tied > 100]])  # partitions without rows
    with dask.config.set(scheduler=no_computing):
        lazy = transform.transform(parts)
    transform.fit(parts)
    same(transform.transform(parts).compute(), expected)
    same(lazy.compute(), expected)
    transform.fit(frame.iloc[:0:-1]).partial_fit(frame[:100]).partial_fit(frame[100:])
    same(transform.transform(frame), expected)


@pytest.mark.parametrize("transform", EVERY, ids=repr)
def test_json_and_both_stages_give_the_same(transform: Transform) -> None:
    frame = table()
    expected = transform.fit_transform(frame)
    again = transform_from_dict(json.loads(json.dumps(transform.to_dict())))
    np.testing.assert_array_equal(again.transform(frame), expected)
    x = torch.tensor(frame.to_numpy(np.float32))
    same(transform.as_module()(x), expected, 1e-6)
    columns = ColumnTransformer([("x", transform, list(frame))]).fit(frame)
    encoded = columns.encode(pa.Table.from_pandas(frame))
    same(columns.as_module()(**{name: torch.tensor(array) for name, array in encoded.items()})[0], expected, 1e-6)


@pytest.mark.parametrize(
    "transform", [QuantileTransformer(n_quantiles=20), PowerTransformer(), Clip(), LogTransformer()]
)
def test_a_step_before_or_after_needs_no_other_pass(transform: Transform) -> None:
    frame = table()[["skewed", "tied"]]
    columns = ColumnTransformer([("x", [SimpleImputer(strategy="median"), transform, Clip(0.1, 0.9)], list(frame))])
    assert columns.plan(frame) == "fit needs 1 pass"
    filled = SimpleImputer(strategy="median").fit_transform(frame)
    same(columns.fit_transform(frame), Clip(0.1, 0.9).fit_transform(transform.fit_transform(filled)))


def test_moments_after_a_power_need_another_pass() -> None:
    columns = ColumnTransformer([("x", [PowerTransformer(), StandardScaler()], ["tied"])])
    assert (
        columns.plan(table())
        == "fit needs 2 passes because StandardScaler learns from what PowerTransformer makes of 'tied'"
    )


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (QuantileTransformer(n_quantiles=0), "n_quantiles=0 must be at least 1"),
        (QuantileTransformer(output_distribution="x"), "output_distribution='x' must be 'uniform' or 'normal'"),
        (PowerTransformer("x"), "method='x' must be"),
        (LogTransformer("x"), "function='x' must be"),
        (Clip(0.9, 0.1), "low=0.9 must be at most high=0.1"),
        (Clip(0, 100), "high=100 must be a share of the rows"),
        (Clip(by="x"), "by='x' must be"),
    ],
)
def test_wrong_parameters_are_refused(transform: Transform, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        transform.fit(table())


def test_box_cox_refuses_what_is_not_positive() -> None:
    with pytest.raises(
        DataError, match="column 'skewed' has values down to -1.0, and Box-Cox needs positive ones; take"
    ):
        PowerTransformer("box-cox").fit(pd.DataFrame({"skewed": [1.0, -1.0]}))
