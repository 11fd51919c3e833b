"""The estimators on data that stays where it lies: what fits, what is predicted, and what is refused."""

from __future__ import annotations

import warnings

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from sklearn.metrics import accuracy_score, recall_score

import dtk
from dtk.errors import ArgumentError, ClusterError, DataError, DtkError
from dtk.loader import Plan

ROWS = 3000
MODEL = {"name": "mlp", "hidden": [16]}


def flights(rows=ROWS, seed=0):
    """Numbers, a category and a date that decide together whether a flight is late; one in ten is."""
    rng = np.random.default_rng(seed)
    carrier = rng.choice(["AA", "DL", "UA"], rows)
    distance, wind = rng.normal(1000, 300, rows), rng.normal(size=rows)
    delay = 20 * wind + 15 * (carrier == "UA") - 0.01 * distance + rng.normal(size=rows)
    return pd.DataFrame(
        {
            "distance": np.where(rng.random(rows) < 0.05, np.nan, distance),
            "wind": wind,
            "carrier": carrier,
            "day": pd.Timestamp("2013-01-01") + pd.to_timedelta(rng.integers(0, 365, rows), unit="D"),
            "weight": rng.uniform(0.5, 2, rows),
            "delay": delay,
            "late": np.where(delay > np.quantile(delay, 0.9), "late", "in time"),
        }
    )


@pytest.fixture(scope="module")
def frame():
    return flights()


@pytest.fixture(scope="module")
def parquet(frame, tmp_path_factory):
    path = tmp_path_factory.mktemp("estimators") / "flights"
    path.mkdir()
    for number, part in enumerate(np.array_split(np.arange(ROWS), 4)):
        frame.iloc[part].to_parquet(path / f"part-{number}.parquet", row_group_size=250, index=False)
    return str(path)


def classifier(**options):
    defaults = {"epochs": 6, "learning_rate": 0.02, "batch_size": 128, "memory": "16 MiB", "random_state": 0}
    return dtk.TorchClassifier(MODEL, **{**defaults, **options})


def late(data):
    return data.drop(columns=["delay", "weight"])


def test_two_ranks_on_a_cluster(client, parquet, frame):
    """A filter and a derived column are worked out in the ranks; predictions are lazy, of the same partitions."""
    data = dtk.open(parquet)
    data = late(data[data["distance"].notnull()].assign(fast=data["wind"] > 1))
    model = classifier(ranks=2).fit(data, y="late", validation=0.2)
    assert model.report_.num_ranks == 2
    assert list(model.classes_) == ["in time", "late"]
    assert list(model.feature_names_in_) == ["distance", "wind", "carrier", "day", "fast"]
    predicted = model.predict(data)
    assert isinstance(predicted, dd.Series)
    assert predicted.npartitions == data.npartitions
    truth = frame[frame["distance"].notna()]
    values = predicted.compute()
    assert values.index.equals(data.compute().index)
    assert accuracy_score(truth["late"], values) > 0.95
    assert model.score(data) == pytest.approx(accuracy_score(truth["late"], values))
    proba = model.predict_proba(data).compute()
    assert list(proba.columns) == ["in time", "late"]
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-5)


def test_target_and_weight_may_come_apart(parquet):
    """As Dask Series of the same frame; the model is that of the columns' names."""
    data = dtk.open(parquet)
    inputs = data[["wind", "carrier"]]
    apart = classifier().fit(inputs, data["late"], sample_weight=data["weight"])
    named = classifier().fit(data[["wind", "carrier", "late", "weight"]], y="late", sample_weight="weight")
    assert list(apart.feature_names_in_) == list(named.feature_names_in_) == ["wind", "carrier"]
    pd.testing.assert_frame_equal(apart.predict_proba(inputs).compute(), named.predict_proba(inputs).compute())
    plain = classifier().fit(data[["wind", "carrier", "late"]], y="late")
    assert not np.allclose(plain.predict_proba(inputs).compute(), named.predict_proba(inputs).compute())


def test_one_model_whatever_the_data_is_called(parquet, frame):
    """A path, a Dask DataFrame and a mapping of arrays of the same rows."""
    inputs = ["wind", "carrier"]
    part = frame[[*inputs, "late"]]
    models = [classifier(target="late").fit(data) for data in (dtk.open(parquet)[[*inputs, "late"]], part)]
    for model in models:
        assert model.score(part[inputs], part["late"]) > 0.93
    mapped = classifier(target="late").fit({name: part[name].to_numpy() for name in part})
    np.testing.assert_array_equal(mapped.predict(part[inputs]), models[1].predict(part[inputs]))


def test_balanced_classes_raise_the_recall_of_the_rare_one(frame):
    """The more so the less the model has seen."""
    recalls = []
    for class_weight in (None, "balanced", {"in time": 1.0, "late": 9.0}):
        model = classifier(class_weight=class_weight, epochs=1, learning_rate=0.005).fit(late(frame), y="late")
        recalls.append(recall_score(frame["late"], model.predict(late(frame)), pos_label="late"))
    assert recalls[1] > recalls[0] + 0.2
    assert recalls[2] > recalls[0] + 0.2


def test_early_stopping_keeps_the_best_epoch(parquet):
    model = classifier(epochs=40, patience=1, learning_rate=0.1).fit(late(dtk.open(parquet)), "late", validation=0.2)
    losses = [entry["validation_loss"] for entry in model.history_]
    assert len(losses) < 40
    assert model.bundle_.metrics["loss"] == pytest.approx(min(losses))
    assert model.n_iter_ == len(losses)


def test_validation_data_of_ones_own(frame):
    held = flights(500, seed=1)
    by_pair = classifier(epochs=2).fit(late(frame).drop(columns="late"), frame["late"], validation=(
        late(held).drop(columns="late"), held["late"]
    ))  # fmt: skip
    by_table = classifier(epochs=2, target="late").fit(late(frame), validation=late(held))
    assert by_pair.history_[-1]["validation_loss"] == pytest.approx(by_table.history_[-1]["validation_loss"])


def test_a_number_on_two_ranks(client, parquet, frame):
    data = dtk.open(parquet).drop(columns=["late", "weight"])
    model = dtk.TorchRegressor(MODEL, target="delay", epochs=12, learning_rate=0.02, ranks=2, random_state=0)
    model.fit(data)
    assert model.score(data) > 0.9
    error = model.predict(data).compute().to_numpy() - frame["delay"].to_numpy()
    assert model.score(data) == pytest.approx(1 - np.mean(error**2) / frame["delay"].var(ddof=0), abs=1e-5)


def test_the_plan_is_that_of_the_fit(parquet):
    data = late(dtk.open(parquet))
    model = classifier(target="late", epochs=1)
    plan = model.plan(data)
    assert isinstance(plan, Plan)
    assert (plan.order.num_rows, plan.num_chunks, plan.num_steps) == (ROWS, 12, ROWS // 128)
    assert not hasattr(model, "bundle_")
    assert model.fit(data).history_[0]["samples"] == plan.num_samples


def test_what_changes_after_the_fit(frame):
    """Another order of columns, further ones, categories never seen, and missing values all get an answer."""
    model = classifier(target="late").fit(late(frame))
    expected = model.predict(late(frame))
    changed = late(frame)[["late", "day", "carrier", "wind", "distance"]]
    np.testing.assert_array_equal(model.predict(dd.from_pandas(changed, npartitions=3)).compute(), expected)
    unseen = late(frame).assign(carrier="ZZ", distance=np.nan)
    assert set(model.predict(dd.from_pandas(unseen, npartitions=1)).compute()) <= {"late", "in time"}
    with pytest.raises(DataError, match=r"wind.*string.*number"):
        model.predict(dd.from_pandas(late(frame).assign(wind="calm"), npartitions=1))
    with pytest.raises(DataError, match="wind"):
        model.predict(dd.from_pandas(late(frame).drop(columns="wind"), npartitions=1))


def test_a_column_without_values_is_left_out_with_a_warning(frame):
    with pytest.warns(UserWarning, match="'gate' has no values"):
        model = classifier(target="late", epochs=1).fit(late(frame).assign(gate=np.nan))
    assert "gate" not in model.bundle_.preparation.columns


def test_a_target_of_one_class_is_refused(parquet):
    data = dtk.open(parquet)
    with pytest.raises(DataError, match=r"'late'.*(one class|single class|only)"):
        classifier(target="late").fit(late(data[data["late"] == "late"]))


def test_an_empty_dataset_is_refused(frame, tmp_path):
    frame.iloc[:0].to_parquet(tmp_path / "empty.parquet")
    with pytest.raises(DataError, match=r"no rows"):
        classifier(target="late").fit(str(tmp_path / "empty.parquet"))


@pytest.mark.parametrize(
    ("fit", "text"),
    [
        (lambda data: classifier(target="lat").fit(data), r"target='lat' is no column .*did you mean 'late'"),
        (lambda data: classifier().fit(data, y="lat"), r"y='lat' is no column .*did you mean 'late'"),
        (lambda data: classifier().fit(data, "late", sample_weight="wight"), r"did you mean 'weight'"),
        (lambda data: classifier().fit(data), "target is missing"),
        (lambda data: classifier(target="late").fit(data, validation=1.5), "validation=1.5 must be a share"),
        (lambda data: classifier(target="late", epochs=0).fit(data), "epochs=0 must be at least 1"),
        (lambda data: classifier(target="late", class_weight={"lat": 2.0}).fit(data), "lat"),
        (lambda data: classifier().fit(data[["wind"]], np.zeros(ROWS)), "name of a column, or a Dask Series"),
        (lambda data: classifier().fit(dtk.Loader(data[["wind"]])), r"dtk.train\(module, loader\)"),
        (lambda data: classifier().fit(da.zeros((10, 2)), np.zeros(10)), "this estimator takes tables"),
        (lambda data: classifier().fit(xr.Dataset({"x": ("time", np.zeros(3))})), "this estimator takes tables"),
        (lambda data: classifier(target="late").fit("no/such/path"), "no/such/path"),
        (lambda data: classifier(target="late").fit(data.sort_values("wind")), "write"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_runs(parquet, fit, text):
    with pytest.raises(DtkError, match=text):
        fit(dtk.open(parquet))


def test_more_ranks_than_the_cluster_holds_are_refused(small_worker, parquet):
    with pytest.raises((ArgumentError, ClusterError), match=r"ranks=2.*one worker|ranks=2.*1 worker"):
        classifier(target="late", ranks=2).fit(late(dtk.open(parquet)))


@pytest.fixture
def small_worker():
    """A cluster of one worker of one thread."""
    with dtk.connect(workers=1, threads=1, memory="2 GiB", dashboard="127.0.0.1:0") as client:
        yield client


def test_a_fit_in_memory_warns_of_nothing(frame):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        classifier(target="late", epochs=1).fit(late(frame))
