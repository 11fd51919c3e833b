from __future__ import annotations

import importlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from distributed import Client, LocalCluster
from torch import nn

from dtk.bundle import Bundle, load
from dtk.bundle.files import check_destination
from dtk.errors import ArgumentError, BundleError, DataError, NotFoundError
from dtk.evaluation import make_metrics
from dtk.models import ModelSchema, ModelSpec, PreparedModel, build
from dtk.preparation import ClassTarget, TablePreparation


def make_frame(num_rows: int = 300) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({
        "x": rng.normal(3, 5, num_rows),
        "carrier": rng.choice(["UA", "AA", "é"], num_rows),
        "day": pd.date_range("2013-01-01", periods=num_rows, freq="D"),
        "delay": rng.normal(40, 7, num_rows),
        "late": rng.random(num_rows) > 0.5,
        "size": rng.choice(["big", "small", "tiny"], num_rows),
        "count": rng.integers(0, 3, num_rows),
    })  # fmt: skip
    frame.loc[::7, "x"] = np.nan
    return frame.set_index(pd.RangeIndex(100, 100 + num_rows, name="row"))


INPUTS = ["x", "carrier", "day"]


def make_bundle(target: str = "late", model: ModelSpec = "mlp", task: str | None = None) -> Bundle:
    preparation = TablePreparation().fit(make_frame(), inputs=INPUTS, target=target, task=task)
    fitted = preparation.target
    assert fitted is not None
    schema = ModelSchema(len(preparation.feature_names), preparation.cardinalities, fitted.num_outputs)
    network = build(model, schema, seed=7)
    return Bundle.from_network(
        PreparedModel(preparation.as_module(), network),
        preparation=preparation,
        target=fitted,
        model=model,
        metrics={"auroc": np.float32(0.5), "r2": float("nan")},
        history=[{"epoch": 0, "loss": 0.7}],
        plan_digest="abc",
    )


class Net(nn.Module):
    """A user's network."""

    def __init__(self, schema: ModelSchema) -> None:
        super().__init__()
        self.layer = nn.Linear(schema.num_inputs, schema.num_outputs)
        self.tied = self.layer

    def forward(self, inputs: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        return self.layer(inputs) + codes.sum(dim=1, keepdim=True)


def make_net(schema: ModelSchema) -> nn.Module:
    return Net(schema)


@pytest.mark.parametrize(("target", "task"), [("late", None), ("size", None), ("count", "classification")])
def test_classes_are_predicted_in_the_targets_type(target: str, task: str | None) -> None:
    frame, bundle = make_frame(), make_bundle(target, task=task)
    chances = bundle.predict(frame, proba=True)
    classes = np.sort(frame[target].unique())
    assert chances.shape == (300, len(classes))
    np.testing.assert_allclose(chances.sum(axis=1), 1, rtol=1e-12)
    predicted = bundle.predict(frame)
    assert predicted.tolist() == classes[chances.argmax(axis=1)].tolist()
    assert len(set(predicted.tolist())) > 1


def test_numbers_are_predicted_in_the_targets_unit() -> None:
    frame, bundle = make_frame(), make_bundle("delay")
    predicted = bundle.predict(frame)
    assert predicted.dtype == np.float64
    assert predicted.shape == (300,)
    assert abs(predicted.mean() - 40) < 7
    expected = np.abs(predicted - frame["delay"]).mean()
    assert bundle.evaluate(frame)["mae"] == pytest.approx(expected, rel=1e-5)


def test_tables_and_dicts_predict_as_pandas_does_in_any_order() -> None:
    frame, bundle = make_frame(), make_bundle()
    expected = bundle.predict(frame, proba=True)
    table = pa.Table.from_pandas(frame, preserve_index=False)
    for data in (table, table.select(["day", "x", "carrier"]), frame[["carrier", "day", "x"]]):
        np.testing.assert_array_equal(bundle.predict(data, proba=True), expected)


def test_columns_of_an_array_are_named_by_position() -> None:
    array = np.random.default_rng(0).normal(size=(50, 3))
    frame = {f"x{position}": array[:, position] for position in range(3)}
    preparation = TablePreparation().fit({**frame, "y": array.sum(axis=1)}, target="y")
    network = build("mlp", ModelSchema(3, (), 1))
    bundle = Bundle.from_network(network, preparation=preparation, target=preparation.target, model="mlp")
    np.testing.assert_array_equal(bundle.predict(array), bundle.predict(pd.DataFrame(frame)))
    with pytest.raises(DataError, match="column 'x2' is missing"):
        bundle.predict(array[:, :2])
    with pytest.raises(ArgumentError, match="data has 1 dimensions"):
        bundle.predict(array[0])


def refuse_to_compute(dsk: object, keys: object, **options: object) -> None:
    raise AssertionError("something was computed")


@pytest.mark.parametrize("target", ["late", "size", "delay"])
def test_dask_predictions_are_lazy_with_the_same_index_and_partitions(target: str) -> None:
    frame, bundle = make_frame(), make_bundle(target)
    data = dd.from_pandas(frame, npartitions=4)
    with dask.config.set(scheduler=refuse_to_compute):
        predicted = bundle.predict(data)
    assert predicted.divisions == data.divisions
    assert predicted.name == target
    result = predicted.compute(scheduler="sync")
    assert result.dtype == predicted.dtype == pd.Series(frame[target]).dtype
    assert result.index.equals(frame.index)
    expected = bundle.predict(frame).tolist()
    # the last bits of a sum may depend on the number of rows that are multiplied together
    assert result.tolist() == (pytest.approx(expected, rel=1e-6) if target == "delay" else expected)


def test_dask_probabilities_are_a_column_a_class() -> None:
    frame, bundle = make_frame(), make_bundle("size")
    chances = bundle.predict(dd.from_pandas(frame, npartitions=3), proba=True)
    assert list(chances.columns) == ["big", "small", "tiny"]
    result = chances.compute(scheduler="threads")
    assert result.dtypes.equals(chances.dtypes)
    np.testing.assert_allclose(result, bundle.predict(frame, proba=True), rtol=1e-5)


def test_the_graph_holds_the_bundle_once() -> None:
    bundle = make_bundle()
    graph = bundle.predict(dd.from_pandas(make_frame(), npartitions=20)).optimize().__dask_graph__()
    nbytes = len(pickle.dumps(dict(graph))) - len(pickle.dumps(make_frame()))
    assert len(bundle.weights) < nbytes < 2 * len(bundle.weights)


def test_empty_partitions_are_fine() -> None:
    frame, bundle = make_frame(), make_bundle("size")
    data = dd.from_pandas(frame, npartitions=5)
    some = data[data["x"] > 9]
    result = bundle.predict(some).compute(scheduler="sync")
    assert 0 < len(result) < 60
    pd.testing.assert_series_equal(result, bundle.predict(data).compute(scheduler="sync").loc[result.index])
    assert len(bundle.predict(data[data["x"] > 1e9]).compute(scheduler="sync")) == 0
    assert bundle.predict(frame.iloc[:0]).shape == (0,)
    assert bundle.predict(frame.iloc[:0], proba=True).shape == (0, 3)


def test_wrong_data_is_refused_before_anything_runs() -> None:
    frame, bundle = make_frame(), make_bundle()
    for data in (frame, dd.from_pandas(frame, npartitions=2)):
        with pytest.raises(DataError, match="column 'x' holds .*string, where numbers are expected"):
            bundle.predict(data.assign(x="7"))
        with pytest.raises(DataError, match="column 'carrier' is missing in the data; did you mean 'carier'"):
            bundle.predict(data.rename(columns={"carrier": "carier"}))
    with pytest.raises(ArgumentError, match="proba=True needs classes"):
        make_bundle("delay").predict(frame, proba=True)


def test_one_output_for_two_classes_is_the_log_odds_of_the_second() -> None:
    frame, network, target = make_frame(), nn.Linear(1, 1), ClassTarget("late", (0, 1), (0, 0))
    with torch.no_grad():
        network.weight.fill_(1)
        network.bias.fill_(-3)
    bundle = Bundle.from_network(
        network, preparation=TablePreparation.raw(["x"]), target=target, model=network, schema=ModelSchema(1, (), 1)
    )
    frame = frame.assign(late=frame["late"].astype(int)).dropna()
    chances = 1 / (1 + np.exp(3 - frame["x"]))
    np.testing.assert_allclose(bundle.predict(frame, proba=True), np.stack([1 - chances, chances], axis=1), rtol=1e-5)
    np.testing.assert_array_equal(bundle.predict(frame), (frame["x"] > 3).astype(int))
    assert list(bundle.predict(dd.from_pandas(frame, npartitions=2), proba=True).columns) == ["0", "1"]
    assert bundle.evaluate(frame)["accuracy"] == pytest.approx(((frame["x"] > 3) == frame["late"]).mean())


def test_memory_stays_bounded_with_a_thousand_classes() -> None:
    code = """
import numpy as np
from torch import nn
from dtk.bundle import Bundle
from dtk.memory import peak_rss_nbytes
from dtk.models import ModelSchema
from dtk.preparation import ClassTarget, TablePreparation

num_rows, num_classes = 40_000, 1000
network = nn.Linear(1, num_classes)
bundle = Bundle.from_network(
    network, preparation=TablePreparation.raw(["x"]), target=ClassTarget("y", tuple(range(num_classes)), ()),
    model=network, schema=ModelSchema(1, (), num_classes),
)
data = {"x": np.zeros(num_rows), "y": np.arange(num_rows) % num_classes}
bundle.evaluate({name: values[:10] for name, values in data.items()})
before = peak_rss_nbytes()
bundle.evaluate(data)
print(peak_rss_nbytes() - before)
"""
    grown = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert grown < 250 * 2**20


def test_unseen_categories_and_missing_values_are_predicted() -> None:
    frame = make_frame(4).assign(carrier=["ZZ", None, "UA", "UA"], x=np.nan)
    assert make_bundle().predict(frame).shape == (4,)


def test_evaluation_is_the_same_for_every_chunking() -> None:
    frame, bundle = make_frame(), make_bundle("size")
    metrics = make_metrics(bundle.target)
    codes = torch.from_numpy(bundle.target.encode(pa.array(frame["size"])))
    metrics.update(torch.log(torch.from_numpy(bundle.predict(frame, proba=True))), codes)
    expected = metrics.compute()
    assert bundle.evaluate(frame) == pytest.approx(expected, rel=1e-6)
    assert bundle.evaluate(dd.from_pandas(frame, npartitions=7)) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(DataError, match="column 'size' is missing"):
        bundle.evaluate(frame.drop(columns="size"))
    with pytest.raises(DataError, match="target='size' holds 'huge'"):
        bundle.evaluate(frame.assign(size="huge"))


@pytest.mark.parametrize("target", ["late", "size", "delay"])
def test_round_trip_predicts_the_same_bit_for_bit(target: str, tmp_path: Path) -> None:
    options = {"hidden": (np.int64(8), 4), "norm": "layer", "dropout": np.float32(0.3)}
    bundle = make_bundle(target, {"name": "mlp", **options})
    bundle.save(tmp_path / "late.bundle")
    again = load(tmp_path / "late.bundle")
    proba = target != "delay"
    np.testing.assert_array_equal(again.predict(make_frame(), proba=proba), bundle.predict(make_frame(), proba=proba))
    assert again.digest == bundle.digest
    assert again.target == bundle.target
    assert again.history == bundle.history
    assert again.plan_digest == "abc"
    assert again.metrics["auroc"] == 0.5
    assert np.isnan(again.metrics["r2"])
    assert again.versions["torch"] == torch.__version__
    assert sorted(os.listdir(tmp_path / "late.bundle")) == ["bundle.json", "weights.safetensors"]
    assert os.listdir(tmp_path) == ["late.bundle"]


def test_pickled_bundles_predict_the_same() -> None:
    bundle = make_bundle()
    bundle.predict(make_frame())
    again = pickle.loads(pickle.dumps(bundle))
    np.testing.assert_array_equal(again.predict(make_frame(), proba=True), bundle.predict(make_frame(), proba=True))
    assert again.prepared_model() is bundle.prepared_model()  # built once a process
    assert len(pickle.dumps(bundle)) < len(bundle.weights) + 10_000


@pytest.mark.parametrize("module", [Net, make_net, "instance"])
def test_networks_of_the_user_are_given_again(module: object, tmp_path: Path) -> None:
    schema = ModelSchema(5, (4,), 2)
    spec = Net(schema) if module == "instance" else module
    bundle = make_bundle(model=spec)
    bundle.save(tmp_path / "mine")
    with pytest.raises(BundleError, match=r"network of your own, .* module="):
        load(tmp_path / "mine")
    again = load(tmp_path / "mine", module=spec)
    np.testing.assert_array_equal(again.predict(make_frame(), proba=True), bundle.predict(make_frame(), proba=True))
    with pytest.raises(BundleError, match="the weights do not fit .* give the module= that was trained"):
        load(tmp_path / "mine", module=nn.Linear(5, 3))


def test_modules_that_are_not_needed_are_refused(tmp_path: Path) -> None:
    make_bundle().save(tmp_path / "mlp")
    with pytest.raises(ArgumentError, match="is not needed: the bundle builds its mlp itself"):
        load(tmp_path / "mlp", module=Net)


def test_bundles_are_replaced_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "some" / "late.bundle"
    make_bundle("late").save(path)
    with pytest.raises(ArgumentError, match="is there already; choose another, or give overwrite=True"):
        make_bundle("size").save(path)
    assert load(path).target.name == "late"
    make_bundle("size").save(path, overwrite=True)
    assert load(path).target.name == "size"
    assert os.listdir(path.parent) == ["late.bundle"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(ArgumentError, match="is no bundle, and overwrite=True replaces nothing else"):
        make_bundle().save(tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_a_link_to_a_bundle_stays_one(tmp_path: Path) -> None:
    make_bundle("late").save(tmp_path / "v1")
    (tmp_path / "latest").symlink_to("v1")
    make_bundle("size").save(tmp_path / "latest", overwrite=True)
    assert (tmp_path / "latest").is_symlink()
    assert load(tmp_path / "v1").target.name == "size"
    (tmp_path / "next").symlink_to("v2")  # where nothing is yet
    make_bundle("late").save(tmp_path / "next")
    assert sorted(os.listdir(tmp_path)) == ["latest", "next", "v1", "v2"]


def test_what_cannot_be_written_is_known_before_the_work(tmp_path: Path) -> None:
    assert check_destination(tmp_path / "a" / "b") == (tmp_path / "a" / "b").resolve()
    assert os.listdir(tmp_path) == []
    (tmp_path / "file").write_text("something")
    (tmp_path / "loop").symlink_to("loop")
    for path, overwrite, text in [
        ("file", False, "file' is there already"),
        ("file", True, "file' is no bundle"),
        ("file/late.bundle", True, "late.bundle' cannot be made: '.*file' is a file; choose another"),
        ("loop", True, "loop' (cannot be reached|is there already)"),
        (".", False, "is there already"),
    ]:
        with pytest.raises(ArgumentError, match=text):
            check_destination(tmp_path / path, overwrite=overwrite)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_may_not_be_written_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ArgumentError, match=r"you may not write to"):
        check_destination(tmp_path / "a" / "b")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["bundle.json", "weights.safetensors"])
@pytest.mark.parametrize("damage", [truncate, flip, Path.unlink])
def test_damage_is_named(name: str, damage: Callable[[Path], None], tmp_path: Path) -> None:
    make_bundle().save(tmp_path / "late.bundle")
    damage(tmp_path / "late.bundle" / name)
    with pytest.raises(BundleError, match=f"late.bundle/{name} is (damaged|missing)"):
        load(tmp_path / "late.bundle")


def test_missing_newer_and_foreign_bundles_are_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="there is no bundle; check the path"):
        load(tmp_path / "none")
    make_bundle().save(tmp_path / "new")
    description = tmp_path / "new" / "bundle.json"
    state = json.loads(description.read_text())
    description.write_text(json.dumps({**state, "version": 3}))
    with pytest.raises(BundleError, match="bundle.json is of version 3, and this dtk reads up to 2; update dtk"):
        load(tmp_path / "new")
    description.write_text(json.dumps({**state, "version": 1}))
    with pytest.raises(BundleError, match="is of version 1, which this dtk reads no more; train the model again"):
        load(tmp_path / "new")
    description.write_text(json.dumps({"name": "something else"}))
    with pytest.raises(BundleError, match="is no description of a bundle"):
        load(tmp_path / "new")
    shutil.rmtree(tmp_path / "new")
    (tmp_path / "new").write_text("a file")
    with pytest.raises(BundleError, match="is missing; give the directory"):
        load(tmp_path / "new")


def test_a_bundle_without_a_target_returns_what_the_network_does() -> None:
    network = nn.Linear(2, 3)
    preparation = TablePreparation.raw(["b", "a"])
    bundle = Bundle.from_network(
        network, preparation=preparation, target=None, model=network, schema=ModelSchema(2, (), 3)
    )
    frame = pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0]})
    with torch.inference_mode():
        expected = network(torch.tensor([[3.0, 1.0], [4.0, 2.0]])).double().numpy()
    np.testing.assert_array_equal(bundle.predict(frame), expected)
    lazy = bundle.predict(dd.from_pandas(frame, npartitions=1))
    assert list(lazy.columns) == ["output0", "output1", "output2"]
    np.testing.assert_array_equal(lazy.compute(scheduler="sync"), expected)
    with pytest.raises(ArgumentError, match="evaluate needs a target"):
        bundle.evaluate(frame)
    with pytest.raises(ArgumentError, match="schema=None needs a target"):
        Bundle.from_network(network, preparation=preparation, target=None, model=network)


def test_repr_is_short() -> None:
    assert repr(make_bundle()) == "Bundle(mlp for 'late', 3 columns, auroc 0.5, r2 nan)"


def test_workers_build_the_network_once(tmp_path: Path) -> None:
    frame, bundle = make_frame(), make_bundle("size")
    frame.to_parquet(tmp_path / "data.parquet", row_group_size=50)
    cluster = LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=None)
    with cluster, Client(cluster) as client:
        data = dd.from_pandas(frame, npartitions=6)
        predicted = bundle.predict(data).compute()
        evaluated = bundle.evaluate(dd.read_parquet(tmp_path))
        built = client.run(count_models)
    assert predicted.tolist() == bundle.predict(frame).tolist()
    assert predicted.index.equals(frame.index)
    assert evaluated == pytest.approx(bundle.evaluate(frame), rel=1e-6)
    assert list(built.values()) == [1]


def count_models() -> int:
    return len(importlib.import_module("dtk.bundle.bundle")._models)
