"""A regression's target goes through transforms, and predictions come back in its own unit."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sklearn.preprocessing as theirs
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error
from torch import nn

import dtk
from dtk.errors import ArgumentError, DataError
from dtk.loader import Loader
from dtk.preparation import SampleEncoder, TablePreparation, target_from_dict
from dtk.preparation.target_transform import target_steps
from dtk.preparation.transforms import Clip, LogTransformer, PowerTransformer, QuantileTransformer, StandardScaler

ROWS = 2000
MODEL = {"name": "mlp", "hidden": [16]}
ALL = [
    "log1p",
    "log",
    "signed_log",
    "yeo-johnson",
    "box-cox",
    "quantile",
    {"clip": [0.5, None]},
    [{"clip": [0, None]}, "log1p"],
    ["log1p", "yeo-johnson"],
    [Clip(0.0, 0.98), LogTransformer("log", offset=1.0)],
    theirs.PowerTransformer("box-cox"),
    [theirs.FunctionTransformer(np.log1p)],
]


def skewed(rows=ROWS, seed=0):
    """A price that is the exponential of what the inputs say."""
    rng = np.random.default_rng(seed)
    area, kind = rng.normal(size=rows), rng.choice(["flat", "house"], rows)
    log = 3 + area + 0.5 * (kind == "house") + 0.1 * rng.normal(size=rows)
    return pd.DataFrame({"area": area, "kind": kind, "price": np.exp(log)})


@pytest.fixture(scope="module")
def frame():
    return skewed()


@pytest.fixture(scope="module")
def parquet(frame, tmp_path_factory):
    path = tmp_path_factory.mktemp("prices") / "prices"
    path.mkdir()
    for number, start in enumerate(range(0, ROWS, 500)):
        part = pa.Table.from_pandas(frame[start : start + 500], preserve_index=False)
        pq.write_table(part, path / f"{number}.parquet", row_group_size=125)
    return str(path)


def fitted(data, target_transform):
    return TablePreparation().fit(data, target="price", target_transform=target_transform).target


def regressor(**options):
    return dtk.TorchRegressor(MODEL, epochs=5, learning_rate=0.03, batch_size=128, random_state=0, **options)


@pytest.mark.parametrize("spec", ALL, ids=str)
def test_any_transform_is_fitted_in_the_scan_standardised_and_undone(frame, parquet, spec):
    given_before = [clone(each, safe=False) for each in (spec if isinstance(spec, list) else [spec])]
    values = frame["price"].to_numpy()
    target = fitted(parquet, spec)
    encoded = target.encode(pa.array(values))
    assert encoded.dtype == np.float32
    assert encoded.mean() == pytest.approx(0, abs=1e-3)
    assert encoded.std() == pytest.approx(1, abs=1e-3)
    x = values[:, None]
    steps = target_steps(spec)
    for step in steps:  # one after the other, as scikit-learn's Pipeline does
        x = step.fit_transform(x)
    expected = (x[:, 0] - x.mean()) / x.std()
    np.testing.assert_allclose(encoded, expected, rtol=1e-4, atol=1e-4)
    clips = [step._parameters() for step in steps if isinstance(step, Clip)]
    bounds = [(float(each["low"][0]), float(each["high"][0])) for each in clips]
    cut = np.clip(values, *bounds[0]) if bounds else values
    np.testing.assert_allclose(target.decode(encoded), cut, rtol=2e-3)
    again = target_from_dict(json.loads(json.dumps(target.to_dict())))
    assert again == target
    assert pickle.loads(pickle.dumps(target)) == target
    np.testing.assert_array_equal(again.encode(pa.array(values)), encoded)
    outputs = np.linspace(-20, 20, 999)
    np.testing.assert_array_equal(again.decode(outputs), target.decode(outputs))
    assert np.isfinite(target.decode(outputs * 100)).all()
    assert str(given_before) == str(spec if isinstance(spec, list) else [spec])


@pytest.mark.parametrize("spec", ["log1p", "yeo-johnson", "quantile"])
def test_the_fit_does_not_depend_on_chunks(frame, parquet, tmp_path, spec):
    path = str(tmp_path / "one.parquet")
    pq.write_table(pa.Table.from_pandas(frame), path)
    targets = [fitted(data, spec) for data in (frame, parquet, path, dtk.open(parquet).assign(x=1.0))]
    for target in targets[1:]:
        assert (target.mean, target.scale) == pytest.approx((targets[0].mean, targets[0].scale), rel=1e-12)
        np.testing.assert_allclose(target.decode(np.arange(-2.0, 3)), targets[0].decode(np.arange(-2.0, 3)), rtol=1e-9)


@settings(max_examples=80, deadline=None)
@given(
    values=st.lists(st.floats(0.01, 1e6), min_size=1, max_size=30),
    spec=st.sampled_from(["log1p", "log", "signed_log", "yeo-johnson", "box-cox", "quantile", {"clip": [None, 5]}]),
    outputs=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=10),
)
def test_predictions_are_numbers_whatever_the_network_says(values, spec, outputs):
    target = fitted({"x": np.arange(len(values)), "price": np.array(values)}, spec)
    assert np.isfinite(target.encode(pa.array(values))).all()
    assert np.isfinite(target.decode(np.array(outputs))).all()


def test_a_bundle_predicts_and_evaluates_in_the_targets_unit(frame, parquet, tmp_path):
    model = regressor(target="price", target_transform="log1p").fit(dtk.open(parquet), validation=0.2)
    predicted = model.predict(frame.drop(columns="price"))
    assert r2_score(np.log(frame["price"]), np.log(predicted)) > 0.97
    model.bundle_.save(tmp_path / "price.bundle")
    bundle = dtk.load(tmp_path / "price.bundle")
    np.testing.assert_array_equal(bundle.predict(frame), predicted)
    lazy = bundle.predict(dtk.open(parquet))
    np.testing.assert_array_equal(lazy.compute().to_numpy(), predicted)
    metrics = bundle.evaluate(dtk.open(parquet))
    assert metrics["mae"] == pytest.approx(mean_absolute_error(frame["price"], predicted))
    assert metrics["rmse"] == pytest.approx(root_mean_squared_error(frame["price"], predicted))
    assert metrics["r2"] == pytest.approx(r2_score(frame["price"], predicted))
    held = dtk.split(dtk.open(parquet), fractions=[0.8, 0.2])[1]
    for name, value in bundle.evaluate(held).items():
        assert model.bundle_.metrics[name] == pytest.approx(value, rel=1e-4)  # of the validation, from float32
    assert model.history_[-1]["validation_loss"] < 0.1  # of the standardised logarithm
    assert model.score(dtk.open(parquet)) == pytest.approx(metrics["r2"])


def test_clipped_predictions_keep_within_the_bounds(frame):
    model = regressor(target_transform=[{"clip": [5, 40]}, "log"]).fit(frame[["area"]], frame["price"])
    predicted = model.predict(frame[["area"]])
    assert 5 <= predicted.min() < 7
    assert 35 < predicted.max() <= 40
    assert model.bundle_.evaluate(frame.rename(columns={"price": model.bundle_.target.name}))["r2"] == pytest.approx(
        r2_score(frame["price"], predicted)
    )  # against the prices themselves, beyond the bounds too


@pytest.mark.slow
def test_two_ranks_validate_in_the_targets_unit(client, frame, parquet):
    model = regressor(target="price", target_transform="yeo-johnson", ranks=2).fit(dtk.open(parquet), validation=0.2)
    held = dtk.split(dtk.open(parquet), fractions=[0.8, 0.2])[1]
    assert model.report_.num_ranks == 2
    for name, value in model.bundle_.evaluate(held).items():
        assert model.bundle_.metrics[name] == pytest.approx(value, rel=1e-4)


def test_train_takes_it_from_the_preparation(frame, parquet):
    preparation = TablePreparation().fit(parquet, inputs=["area"], target="price", target_transform="log")
    encoder = SampleEncoder(preparation, target=preparation.target)
    loader = Loader(parquet, preparation=encoder, global_batch_size=100)
    module = nn.Sequential(nn.Linear(1, 16), nn.ReLU(), nn.Linear(16, 1))
    bundle = dtk.train(module, loader, epochs=10, learning_rate=0.02, ranks=1)
    assert r2_score(np.log(frame["price"]), np.log(bundle.predict(frame))) > 0.9


def test_numbers_outside_of_the_domain_are_refused_before_training(frame, parquet):
    late = frame.assign(price=frame["price"] - 60)
    least = late["price"].min()
    for spec, needed in (("log1p", "above -1"), ("log", "above 0"), ("box-cox", "above 0")):
        with pytest.raises(DataError, match=f"target='price' holds {least:g}.*{needed}.*'yeo-johnson'"):
            fitted(late, spec)
    with pytest.raises(DataError, match=r"target='price' holds .* above 0 of what Clip makes of it; filter"):
        fitted(late, [{"clip": [0, None]}, "log"])
    assert fitted(late, [{"clip": [0, None]}, "log1p"]).decode(np.array([-50.0])) == [0]
    assert fitted(late, LogTransformer("log", offset=60)).transform is not None
    with pytest.raises(DataError, match="price.*infinite"):
        fitted(frame.assign(price=np.inf), "log")
    with pytest.raises(DataError, match="price.*missing in 2000 rows"):
        fitted(frame.assign(price=np.nan), "log")
    model = regressor(target="price", target_transform="log")
    with pytest.raises(DataError, match=r"validation: target='price' holds -.* above 0; filter such rows out"):
        model.fit(dtk.open(parquet), validation=late)
    assert not hasattr(model, "bundle_")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("log2", "target_transform='log2' is unknown; did you mean 'log'"),
        (StandardScaler(), "StandardScaler.* as the target is standardised anyway; give 'log1p'"),
        (np.log, "is no transform of a target; give 'log1p'"),
        (theirs.FunctionTransformer(np.sqrt), "target_transform: .*FunctionTransformer"),
        ([], r"target_transform=\[\] is empty; leave it out"),
        (LogTransformer, "is no transform of a target"),
        (LogTransformer("cube"), "function='cube' must be 'log'"),
        (PowerTransformer("up"), "method='up' must be"),
        (QuantileTransformer(n_quantiles=0), "n_quantiles=0 must be at least 1"),
        ({"clip": [3, 1]}, "low=3 must be at most high=1"),
        ({"clip": 3}, r"must be \{'clip': \[low, high\]\}"),
        ({"clip": ["a", None]}, "'a' is no bound; give a number or None"),
    ],
)
def test_what_cannot_be_undone_is_refused_at_once(spec, message):
    with pytest.raises(ArgumentError, match=message):
        regressor(target_transform=spec).fit(np.zeros((3, 1)), np.zeros(3))


def test_classes_have_none(frame):
    with pytest.raises(ArgumentError, match="target_transform='log' is for a regression"):
        TablePreparation().fit(frame, target="kind", target_transform="log")


def test_an_estimator_is_cloned_with_its_transform():
    model = regressor(target_transform=[Clip(0, None, by="value"), "log1p"])
    assert str(clone(model).target_transform) == str(model.target_transform)
    assert model.get_params()["target_transform"] is model.target_transform
