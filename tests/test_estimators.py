"""The estimators on data that stays where it lies: what fits, what is predicted, and what is refused."""

from __future__ import annotations

import json
import shutil
import warnings

import dask
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import xarray as xr
from sklearn.metrics import accuracy_score, recall_score

import dtk
from dtk.errors import ArgumentError, ClusterError, DataError, DtkError
from dtk.loader import Plan
from dtk.preparation.transforms import DateFeatures, PowerTransformer

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
        frame.iloc[part].to_parquet(path / f"part-{number}.parquet", row_group_size=125, index=False)
    return str(path)


def classifier(**options):
    defaults = {"epochs": 6, "learning_rate": 0.02, "batch_size": 128, "memory": "16 MiB", "random_state": 0}
    return dtk.TorchClassifier(MODEL, **{**defaults, **options})


def test_columns_of_the_user_travel_in_the_bundle(frame, parquet, tmp_path):
    own = {"wind": [PowerTransformer(), {"Clip": {"low": -3, "high": 3, "by": "value"}}], "carrier": "OneHotEncoder"}
    own["distance"] = [{"SimpleImputer": {"strategy": "median", "add_indicator": True}}, "RobustScaler"]
    own["day"] = DateFeatures(parts=["month", "elapsed"])
    data = dtk.open(parquet).drop(columns=["delay", "weight"])
    model = classifier(columns=own, epochs=1).fit(data, y="late")
    names = model.bundle_.preparation.feature_names
    assert set(names) > {"wind", "carrier_AA", "distance", "missingindicator_distance", "day_elapsed"}
    model.bundle_.save(tmp_path / "late.bundle")
    again = dtk.load(tmp_path / "late.bundle")
    np.testing.assert_array_equal(again.predict(frame, proba=True), model.predict_proba(data).compute())
    assert json.dumps(again.preparation.to_dict()) == json.dumps(model.bundle_.preparation.to_dict())


def late(data):
    return data.drop(columns=["delay", "weight"])


def test_two_ranks_on_a_cluster(client, parquet, frame):
    """A filter and a derived column are worked out in the ranks; predictions are lazy, of the same partitions."""
    data = dtk.open(parquet)
    data = late(data[data["distance"].notnull()].assign(fast=data["wind"] > 1))
    model = classifier(ranks=2).fit(data, y="late", validation=0.2)
    assert model.report_.num_ranks == 2
    held = dtk.split(data, fractions=[0.8, 0.2])[1]
    assert model.bundle_.metrics["accuracy"] == pytest.approx(model.score(held))  # each row counted once, by one rank
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
    lazy = mapped.predict(parquet)
    assert isinstance(lazy, dd.Series)
    np.testing.assert_array_equal(lazy.compute(), mapped.predict(part[inputs]))


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


def arrow(data):
    return pa.Table.from_pandas(data, preserve_index=False)


def mapping(data):
    return {name: data[name].to_numpy() for name in data}


@pytest.mark.parametrize("kind", [pd.DataFrame, arrow, mapping])
def test_a_share_of_data_in_memory_is_the_piece_of_a_split(frame, kind):
    data = late(frame)
    model = classifier(epochs=2, target="late").fit(kind(data), validation=0.25)
    train, held = dtk.split(data, fractions=[0.75, 0.25])
    expected = classifier(epochs=2, target="late").fit(kind(train), validation=kind(held))
    assert model.bundle_.metrics == pytest.approx(expected.bundle_.metrics)
    assert model.bundle_.metrics["accuracy"] == pytest.approx(model.score(held))


def test_a_share_of_arrays(frame):
    inputs, y = frame[["wind", "distance"]].to_numpy(), frame["delay"].to_numpy()
    model = dtk.TorchRegressor(MODEL, epochs=3, random_state=0).fit(inputs, y, validation=0.2)
    assert len(model.history_) == 3
    assert all(np.isfinite(entry["validation_loss"]) for entry in model.history_)
    assert model.history_[0]["samples"] < 0.85 * ROWS


def test_classes_of_either_share_are_known(frame):
    """A class of one row is in one of the two pieces only."""
    data = late(frame).assign(late=frame["late"].where(frame.index != 7, "never"))
    for share in (0.01, 0.99):
        model = classifier(epochs=1, target="late", class_weight="balanced").fit(data, validation=share)
        assert list(model.classes_) == ["in time", "late", "never"]


VALIDATIONS = {
    "named y, array": lambda inputs, y: ((inputs, y), (inputs, y.to_numpy())),
    "array, named y": lambda inputs, y: ((inputs, y.to_numpy()), (inputs, y)),
    "y apart, table": lambda inputs, y: ((inputs, y), inputs.assign(late=y)),
    "y in the table, y apart": lambda inputs, y: ((inputs.assign(late=y), "late"), (inputs, y)),
    "y in the table, table": lambda inputs, y: ((inputs.assign(late=y), "late"), inputs.assign(late=y)),
    "y in the table, another name": lambda inputs, y: (
        (inputs.assign(late=y), "late"),
        (inputs.assign(tardy=y), "tardy"),
    ),
    "y in the table, Arrow": lambda inputs, y: (
        (inputs.assign(late=y), "late"),
        arrow(inputs.assign(late=y, weight=1.0)),
    ),
    "y in the table, a path": lambda inputs, y: ((inputs.assign(late=y), "late"), "a path"),
}


@pytest.fixture(scope="module")
def metrics_of_two_epochs(frame):
    inputs, y = frame[["wind", "carrier"]], frame["late"]
    return classifier(epochs=2).fit(inputs, y, validation=(inputs, y)).bundle_.metrics


@pytest.mark.parametrize("case", VALIDATIONS)
def test_validation_data_is_matched_by_role_and_not_by_name(frame, case, metrics_of_two_epochs, tmp_path):
    inputs, y = frame[["wind", "carrier"]], frame["late"]
    training, validation = VALIDATIONS[case](inputs, y)
    if isinstance(validation, str):
        validation = tmp_path / "held.parquet"
        frame.to_parquet(validation)
    model = classifier(epochs=2).fit(*training, validation=validation)
    assert model.bundle_.metrics == pytest.approx(metrics_of_two_epochs)


def test_lazy_validation_data_is_matched_alike(parquet):
    data = late(dtk.open(parquet))
    inputs, y = data.drop(columns="late"), data["late"]
    expected = classifier(epochs=1).fit(data, "late", validation=data).bundle_.metrics
    assert classifier(epochs=1).fit(inputs, y, validation=(inputs, y)).bundle_.metrics == pytest.approx(expected)
    assert classifier(epochs=1).fit(inputs, y, validation=parquet).bundle_.metrics == pytest.approx(expected)


@pytest.mark.parametrize("kind", [pd.DataFrame, arrow])
def test_validation_data_may_hold_the_weight(frame, kind):
    data = kind(frame.drop(columns="delay"))
    model = classifier(epochs=1, target="late").fit(data, sample_weight="weight", validation=data)
    assert list(model.feature_names_in_) == ["distance", "wind", "carrier", "day"]
    assert model.bundle_.metrics["accuracy"] == pytest.approx(model.score(data))


def never_built(schema):
    raise AssertionError("training began")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda data: data.assign(wind="calm"), r"validation: .*'wind' holds .*string, where numbers are expected"),
        (lambda data: data.assign(late=data["late"].where(data.index != 9, "never")), r"validation: .*'never'"),
        (lambda data: data.assign(late=data["late"].where(data.index != 9)), r"validation: .*missing in 1 rows"),
        (lambda data: data.drop(columns="carrier"), r"validation: .*'carrier'"),
        (lambda data: data.drop(columns="late"), r"validation: .*no column of the target 'late'.*\(X, y\)"),
        (lambda data: data.iloc[:0], "validation: the data has no rows"),
        (lambda data: (data, "tardy"), r"validation: y='tardy' is no column of the data"),
        (lambda data: (data, data["late"][:9]), r"validation: y has 9 values for 3000 rows"),
        (lambda data: (data, data["late"], None), "validation of 3 parts must be"),
        (lambda data: 1e-5, "validation=1e-05 leaves none of 3000 rows to validate on"),
        (lambda data: 1 - 1e-5, "validation=0.99999 leaves none of 3000 rows to train on"),
        (lambda data: 1, "validation=1 must be a share between 0 and 1, or data"),
        (lambda data: True, "validation=True must be a share"),
        (lambda data: dtk.Loader({"x": [1.0]}), "validation: the data is a Loader"),
    ],
)
def test_validation_that_cannot_work_is_refused_before_training(frame, change, text):
    data = late(frame)
    validation = change(data)
    if isinstance(validation, pd.DataFrame):
        validation = arrow(validation)
    elif isinstance(validation, tuple):
        validation = (arrow(validation[0]), *validation[1:])
    with pytest.raises(DtkError, match=text):
        dtk.TorchClassifier(never_built, target="late").fit(arrow(data), validation=validation)


def test_infinite_numbers_to_validate_on_are_refused_before_training():
    inputs = np.arange(20.0)[:, None]
    data, held = {"x": inputs[:, 0], "late": inputs[:, 0]}, {"x": inputs[:, 0], "late": np.full(20, np.inf)}
    with pytest.raises(DataError, match=r"validation: target='late' holds 20 infinite values"):
        dtk.TorchRegressor(never_built, target="late").fit(data, validation=held)
    with pytest.raises(DtkError, match=r"validation: X has 2 features"):
        dtk.TorchRegressor(never_built).fit(inputs, inputs[:, 0], validation=(np.ones((20, 2)), inputs[:, 0]))


def test_scores_heed_names_and_weights(parquet, frame):
    inputs = frame[["wind", "carrier"]]
    model = classifier(epochs=1).fit(inputs, frame["late"])
    predicted = model.predict(inputs)
    plain = accuracy_score(frame["late"], predicted)
    weights = np.where(predicted == frame["late"], 1.0, 9.0)
    weighted = accuracy_score(frame["late"], predicted, sample_weight=weights)
    assert weighted < plain
    for data in (frame, arrow(frame), mapping(frame)):
        assert model.score(data) == model.score(data, "late") == pytest.approx(plain)
        assert model.score(data, sample_weight=weights) == pytest.approx(weighted)
    assert model.score(frame.assign(weight=weights), "late", sample_weight="weight") == pytest.approx(weighted)
    assert model.score(inputs, frame["late"], sample_weight=weights) == pytest.approx(weighted)
    lazy = dtk.open(parquet)
    assert model.score(parquet) == model.score(lazy, "late") == pytest.approx(plain)
    assert model.score(lazy[["wind", "carrier"]], lazy["late"]) == pytest.approx(plain)
    for call, text in (
        (lambda: model.score(lazy, sample_weight="weight"), "sample_weight is for data in memory"),
        (lambda: model.score(inputs), "y is missing"),
        (lambda: model.score(inputs.to_numpy(), "late"), "y='late' names a column, and X is a ndarray"),
        (lambda: model.score(frame, "lat"), "y='lat' is no column of the data; did you mean 'late'"),
        (lambda: model.score(lazy, frame["late"]), "y is a Series beside a lazy table"),
    ):
        with pytest.raises(ArgumentError, match=text):
            call()


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
    assert (plan.order.num_rows, plan.num_chunks, plan.num_steps) == (ROWS, 24, ROWS // 128)
    assert not hasattr(model, "bundle_")
    assert model.fit(data).history_[0]["samples"] == plan.num_samples


@pytest.mark.parametrize("options", [{}, {"sample_weight": "weight"}, {"validation": 0.25}])
def test_the_digest_of_the_plan_is_that_of_the_fit(parquet, options):
    data = dtk.open(parquet)[["distance", "carrier", "weight", "late"]]
    model = classifier(epochs=1, random_state=np.random.RandomState(3))
    plan = model.plan(data, "late", **options)
    assert plan.digest == model.fit(data, "late", **options).bundle_.plan_digest


def test_a_plan_leaves_a_fitted_estimator_as_it_is(frame):
    model = classifier(target="late", epochs=1).fit(late(frame))
    before = dict(vars(model))
    assert model.plan(frame[["wind", "late"]], sample_weight=frame["weight"]).order.num_rows == ROWS
    assert vars(model) == before
    model.predict(late(frame))


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


@pytest.fixture(scope="module")
def unreadable(parquet, tmp_path_factory):
    """The same data with whole footers and broken pages: whoever reads a row of it gets another error."""
    folder = tmp_path_factory.mktemp("estimators") / "unreadable"
    shutil.copytree(parquet, folder)
    for file in folder.iterdir():
        content = bytearray(file.read_bytes())
        footer = 8 + int.from_bytes(content[-8:-4], "little")
        content[4:-footer] = b"\xff" * (len(content) - footer - 4)
        file.write_bytes(content)
    return str(folder)


@pytest.fixture
def nothing_computed():
    """A Dask scheduler that fails whatever it is given."""

    def refuse(*args, **kwargs):
        raise AssertionError("something was computed")

    with dask.config.set(scheduler=refuse):
        yield


def test_what_reads_or_computes_is_noticed(unreadable, nothing_computed):
    with pytest.raises(DataError, match="cannot be read"):
        classifier(target="late").fit(late(dtk.open(unreadable)))
    with pytest.raises(AssertionError, match="something was computed"):
        dtk.open(unreadable)["wind"].compute()


@pytest.mark.parametrize(
    ("fit", "text"),
    [
        (lambda data: classifier(target="lat").fit(data), r"target='lat' is no column .*did you mean 'late'"),
        (lambda data: classifier().fit(data, y="lat"), r"y='lat' is no column .*did you mean 'late'"),
        (lambda data: classifier().fit(data, "late", sample_weight="wight"), r"did you mean 'weight'"),
        (lambda data: classifier().fit(data), "target is missing"),
        (lambda data: classifier(target="late").fit(data, validation=1.5), "validation=1.5 must be a share"),
        (lambda data: classifier().fit(data[["wind"]], np.zeros(ROWS)), "name of a column, or a Dask Series"),
        (lambda data: classifier().fit(dtk.Loader(data[["wind"]])), r"dtk.train\(module, loader\)"),
        (lambda data: classifier().fit(da.zeros((10, 2)), np.zeros(10)), "this estimator takes tables"),
        (lambda data: classifier().fit(xr.Dataset({"x": ("time", np.zeros(3))}), "x"), "this estimator takes tables"),
        (lambda data: classifier(target="late").fit("no/such/path"), "no/such/path"),
        (lambda data: classifier(target="late").fit(data.sort_values("wind")), r"dtk\.spool"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_runs(unreadable, nothing_computed, fit, text):
    with pytest.raises(DtkError, match=text):
        fit(dtk.open(unreadable))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"epochs": 0}, "epochs=0 must be a whole number, at least 1"),
        ({"epochs": "3"}, "epochs='3' must be a whole number"),
        ({"epochs": None}, "epochs=None must be a whole number, at least 1$"),
        ({"ranks": "2"}, "ranks='2' must be a whole number, at least 1, or None"),
        ({"batch_size": 0}, "batch_size=0 must be"),
        ({"batch_size": -5}, "batch_size=-5 must be"),
        ({"batch_size": 10.5}, "batch_size=10.5 must be"),
        ({"patience": True}, "patience=True must be"),
        ({"patience": 2}, "patience=2 needs validation data"),
        ({"learning_rate": 0}, "learning_rate=0 must be a number, more than 0"),
        ({"learning_rate": "fast"}, "learning_rate='fast' must be a number"),
        ({"learning_rate": float("nan")}, "learning_rate=nan must be a number"),
        ({"memory": "much"}, "memory='much' is no size"),
        ({"memory": None}, "memory=None is no size"),
        ({"target": 3}, "target=3 must be the name of a column"),
        ({"kinds": "category"}, "kinds='category' must map columns to kinds"),
        ({"kinds": {"carrier": "categry"}}, r"kinds\['carrier'\]='categry' is no kind of column"),
        ({"kinds": {"carier": "category"}}, "kinds='carier' is no column"),
        ({"columns": "RobustScaler"}, "columns='RobustScaler' must map columns to transforms"),
        ({"columns": {"wind": "RobustScalr"}}, r"columns\['wind'\]: 'RobustScalr' is no transform"),
        ({"columns": {"wnd": "RobustScaler"}}, "columns='wnd' is no column"),
        ({"class_weight": "balance"}, "class_weight='balance' must be 'balanced'"),
        ({"class_weight": {"late": -1}}, r"class_weight\['late'\]=-1 must be a number, 0 or more"),
        ({"random_state": "seed"}, "random_state='seed' makes no seed"),
        ({"model": "mpl"}, "model='mpl' is no model of dtk; did you mean 'mlp'"),
        ({"model": {"name": "mlp", "hiden": [3]}}, "no option 'hiden'"),
        ({"model": 3}, "model=3 must be a name"),
    ],
)
def test_arguments_that_cannot_work_are_refused_before_anything_runs(unreadable, nothing_computed, options, text):
    model = dtk.TorchClassifier(**{"model": MODEL, "target": "late", **options})
    with pytest.raises(ArgumentError, match=text):
        model.fit(late(dtk.open(unreadable)))


def test_weights_of_unknown_classes_are_refused_before_training(frame):
    with pytest.raises(ArgumentError, match=r"class_weight names 'lat', which is no class"):
        dtk.TorchClassifier(never_built, target="late", class_weight={"lat": 2.0}).fit(late(frame))


def test_columns_that_cannot_be_inputs_are_refused(frame, tmp_path):
    mixed = late(frame).assign(gate=[1, "A"] * (ROWS // 2))
    for data in (mixed, {name: mixed[name] for name in mixed}):
        with pytest.raises(DataError, match=r"column 'gate' makes no column of one type: .*astype\(str\)"):
            classifier(target="late").fit(data)
    day = pd.DataFrame({"day": pd.Timestamp("2013-01-01"), "late": frame["late"]})
    with pytest.raises(DataError, match="dates are all the same: nothing to learn from"):
        classifier(target="late").fit(day)
    xr.Dataset({"x": ("time", np.zeros(3))}).to_zarr(tmp_path / "x.zarr", consolidated=False)
    with pytest.raises(DataError, match=r"x\.zarr.* is a Dataset, and this estimator takes tables"):
        classifier(target="late").fit(tmp_path / "x.zarr")
    with pytest.raises(ArgumentError, match="sample_weight is negative in 3000 rows"):
        classifier().fit(frame[["wind"]], frame["late"], sample_weight=-frame["weight"])
    with pytest.raises(ArgumentError, match="sample_weight has 2 values for 3000 rows"):
        classifier().fit(arrow(frame), "late", sample_weight=[1.0, 2.0])


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
