"""`dtk.train`, alone and on two real ranks: the same model either way."""

from __future__ import annotations

import contextlib
import copy
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import xarray as xr
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score
from torch import distributed, nn

from dtk.bundle import load
from dtk.errors import ArgumentError, ClusterError, DataError, MemoryLimitError, RankError
from dtk.loader import Loader
from dtk.preparation import ClassTarget, SampleEncoder, TablePreparation
from dtk.preparation.transforms import ColumnTransformer, PowerTransformer
from dtk.training import train
from dtk.training.run import plan_rank_memory

pytestmark = pytest.mark.usefixtures("no_rank_left")
ROWS = 2500
STEPS = {"epochs": 2, "learning_rate": 0.03}


@pytest.fixture(scope="module")
def parquet(tmp_path_factory):
    """Rows sorted by the target, in 25 row groups, weighted unevenly."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, 3)).astype(np.float32)
    logit = x @ np.array([2.0, -1.0, 0.5]) + rng.normal(size=ROWS)
    table = pa.table(
        {
            **{f"x{number}": x[:, number] for number in range(3)},
            "late": (logit > 0).astype(np.int64),
            "delay": logit.astype(np.float32),
            "weight": rng.uniform(0.2, 3, ROWS).astype(np.float32),
        }
    ).sort_by("late")
    path = tmp_path_factory.mktemp("train") / "data.parquet"
    pq.write_table(table, path, row_group_size=100)
    return str(path)


def loader_of(parquet, target="late", **options):
    options = {"inputs": ["x0", "x1", "x2"], "global_batch_size": 101, "seed": 3, "memory": "8 MiB"} | options
    return Loader(parquet, target=target, **options)


def held_of(parquet, target="late", **options):
    return loader_of(parquet, target, shuffle=False, tail="pad", **options)


def fitted(parquet, rows):
    data = pd.read_parquet(parquet)[:rows]
    return TablePreparation().fit(data[["x0", "x1", "x2"]])


def net(outputs=2, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, outputs))


def weights(bundle):
    return {name: value.numpy() for name, value in bundle.network().state_dict().items()}


def assert_same(first, second, tolerance=0.0):
    first, second = weights(first), weights(second)
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_allclose(first[name], second[name], rtol=tolerance, atol=tolerance)


class Share(nn.Module):
    """Refuses batches of more than its share, on one of two ranks."""

    def __init__(self):
        super().__init__()
        self.inner = net()

    def forward(self, inputs):
        assert not distributed.is_initialized() or len(inputs) <= 51, "more than a rank's share"
        return self.inner(inputs)


@pytest.fixture(scope="module")
def models_of_one(parquet):
    """Trained in this process, before there is a client: by the column that weighs the samples."""
    return {
        weight: train(Share(), loader_of(parquet, weight=weight), validation=held_of(parquet), **STEPS)
        for weight in (None, "weight")
    }


@pytest.mark.parametrize("weight", [None, "weight"])
def test_two_ranks_give_the_model_of_one(models_of_one, client, parquet, weight):
    """An odd batch, so that the ranks' shares differ, and weights, so that their sums do. Twice the same bits.

    What they measured together is what scikit-learn measures.
    """
    # A loader that names a rank reads its share in a gang, too.
    named = [{}, {"rank": 0, "ranks": 1}] if weight is None else [{}]
    models = [
        train(
            Share(),
            loader_of(parquet, weight=weight, **rank),
            validation=held_of(parquet, **rank),
            **STEPS,
            ranks=2,
        )
        for rank in named
    ]
    assert_same(models_of_one[weight], models[0], tolerance=1e-5)
    assert_same(models[0], models[-1])
    frame = pd.read_parquet(parquet)
    scores = models[0].predict(frame, proba=True)[:, 1]
    for model in models:
        assert [epoch["samples"] for epoch in model.history] == [ROWS - ROWS % 101] * 2
        assert model.metrics == pytest.approx(models_of_one[weight].metrics, rel=1e-4)
        assert model.metrics["accuracy"] == pytest.approx(accuracy_score(frame["late"], scores > 0.5))
        assert model.metrics["f1"] == pytest.approx(f1_score(frame["late"], scores > 0.5))
        assert model.metrics["auroc"] == pytest.approx(roc_auc_score(frame["late"], scores), abs=1e-4)
        assert model.metrics["accuracy"] > 0.8
    evaluated = models[0].evaluate(parquet)
    assert evaluated == pytest.approx({name: models[0].metrics[name] for name in evaluated}, abs=1e-6)


def test_one_rank_follows_plain_torch(parquet):
    """The loop is no more than the loss over the loader's batches."""
    loader = loader_of(parquet, weight="weight")
    plain = net()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    for batch in loader_of(parquet, weight="weight"):
        losses = nn.functional.cross_entropy(plain(batch["inputs"]), batch["target"], reduction="none")
        loss = (losses * batch["weight"]).sum() / batch["weight"].sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    bundle = train(net(), loader, optimizer="sgd", learning_rate=0.1)
    for name, value in plain.state_dict().items():
        np.testing.assert_allclose(weights(bundle)[name], value.numpy(), rtol=1e-5, atol=1e-6)


class Partly(nn.Module):
    """One layer is not used, one is used in an evaluation only."""

    def __init__(self):
        super().__init__()
        self.inner, self.unused, self.late = net(), nn.Linear(3, 1), nn.Linear(2, 2)

    def forward(self, inputs):
        outputs = self.inner(inputs)
        return outputs if self.training else outputs + 0 * self.late(outputs)


def test_a_column_transformer_travels_in_the_bundle(parquet, tmp_path):
    columns = ColumnTransformer([("x", [PowerTransformer()], ["x0", "x1"]), ("other", "passthrough", ["x2"])])
    columns.fit(pd.read_parquet(parquet)[["x0", "x1", "x2"]])
    bundle = train(net(), loader_of(parquet, preparation=columns))
    bundle.save(tmp_path / "own.bundle")
    again = load(tmp_path / "own.bundle", module=net())
    frame = pd.read_parquet(parquet)
    np.testing.assert_array_equal(again.predict(frame), bundle.predict(frame))
    outputs = bundle.network()(torch.from_numpy(columns.transform(frame[["x0", "x1", "x2"]]).astype("f4")))
    assert (outputs.argmax(1).numpy() == bundle.predict(frame)).mean() > 0.999


def test_a_weight_of_the_encoder_and_parameters_without_use_on_two_ranks(client, parquet):
    """The plan does not know the sum of weights that a preparation makes."""
    frame, target = pd.read_parquet(parquet), ClassTarget("late", (0, 1), (1, 1))
    preparation = SampleEncoder(TablePreparation.raw(["x0", "x1", "x2"]), target=target, class_weight={0: 1.0, 1: 9.0})
    loader = Loader(frame, preparation=preparation, global_batch_size=101, seed=3)
    torch.manual_seed(0)
    module = Partly()
    models = [train(copy.deepcopy(module), loader, ranks=ranks) for ranks in (1, 2)]
    assert_same(*models, tolerance=1e-5)


def test_validation_measures_the_state_that_is_kept(client, parquet, capsys):
    """Batch normalisation keeps other means on each rank; those of rank 0 are saved, so all validate with them."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1))
    validation = loader_of(parquet, "delay", shuffle=False, tail="pad", global_batch_size=500)
    bundle = train(
        module, loader_of(parquet, "delay"), validation=validation, learning_rate=0.05, ranks=2, progress=True
    )
    assert bundle.metrics["rmse"] == pytest.approx(bundle.evaluate(parquet)["rmse"], rel=1e-6)
    assert "warning: batch normalisation takes the mean of each rank's share" in capsys.readouterr().err


@pytest.mark.slow
def test_a_rank_holds_no_more_than_planned(client, until_ranks_run):
    """A module that counts, seen from outside to the last: what is sent home counts, too."""
    data = {"x": np.linspace(-1, 1, 80), "y": np.linspace(0, 2, 80)}
    loaders = [Loader(data, target="y", global_batch_size=20, tail="pad", memory="8 MiB") for _ in range(2)]
    layers = [nn.Linear(1, 3000), *(nn.Linear(3000, 3000) for _ in range(3)), nn.Linear(3000, 1)]
    module = nn.Sequential(*layers)
    assert sum(parameter.nbytes for parameter in module.parameters()) > 100 * 2**20
    plans = {"loader": loaders[0].plan, "validation": loaders[1].plan}
    planned = sum(plan_rank_memory(module, plans, 2).values())
    peaks = {}

    def look():
        running = until_ranks_run(2)
        while running := [process for process in running if process.is_running()]:
            for process in running:
                with contextlib.suppress(OSError, IndexError):  # it has just ended
                    status = Path(f"/proc/{process.pid}/status").read_text()
                    peaks[process.pid] = int(status.split("VmHWM:")[1].split()[0]) * 1024
            time.sleep(0.01)

    thread = threading.Thread(target=look)
    thread.start()
    train(module, loaders[0], validation=loaders[1], epochs=3, learning_rate=1e-5, ranks=2)
    thread.join()
    assert len(peaks) == 2
    assert max(peaks.values()) <= planned <= 1.3 * max(peaks.values())


def test_more_ranks_than_some_get_rows(client, parquet, capsys):
    """One sample a step on two ranks: one of them always has padding alone."""
    rows = 250
    loader = loader_of(pd.read_parquet(parquet)[:: ROWS // rows], global_batch_size=1, memory="4 MiB")
    bundle = train(net(), loader, ranks=2, progress=True)
    assert bundle.history[0]["samples"] == rows
    told = capsys.readouterr().err.splitlines()
    warned = [line for line in told if "warning" in line]
    assert warned == [f"warning: {text}" for text in loader.plan.warnings(2, batch_norm=False)]
    assert any("ranks=2 is more than global_batch_size=1: some get no samples" in line for line in warned)
    assert sum(f"{rows}/{rows}" in line for line in told) <= 1


def test_a_number_is_learnt_in_its_unit(parquet):
    bundle = train(net(1), loader_of(parquet, "delay"), optimizer="adam", learning_rate=0.02, epochs=8)
    frame = pd.read_parquet(parquet)
    assert np.corrcoef(bundle.predict(frame), frame["delay"])[0, 1] > 0.85


def test_patience_keeps_the_best_epoch(parquet):
    validation = loader_of(parquet, shuffle=False, tail="pad")
    bundle = train(
        net(), loader_of(parquet), validation=validation, optimizer="sgd", learning_rate=1e-9, epochs=50, patience=2
    )
    losses = [entry["validation_loss"] for entry in bundle.history]
    assert len(losses) < 50
    assert bundle.metrics["loss"] == min(losses)
    assert bundle.metrics["loss"] == pytest.approx(bundle.evaluate(parquet)["log_loss"], rel=1e-5)


def test_the_metrics_are_those_of_the_weights_that_were_kept(parquet):
    """Steps that are too large: the last epoch is not the best."""
    validation = loader_of(parquet, shuffle=False, tail="pad")
    for seed in range(10):  # by chance the last one is the best in one of six
        loader = loader_of(parquet, seed=seed)
        bundle = train(net(), loader, validation=validation, optimizer="sgd", learning_rate=30.0, epochs=6)
        losses = [entry["validation_loss"] for entry in bundle.history]
        if losses[-1] > min(losses):
            break
    assert losses[-1] > min(losses)
    evaluated = bundle.evaluate(parquet)
    assert evaluated == pytest.approx({name: bundle.metrics[name] for name in evaluated}, rel=1e-5)


def test_torch_losses_and_own_ones(parquet):
    def own(outputs, target):
        return (outputs[:, 0] - target) ** 2

    by_name, by_torch, by_hand = (
        train(net(1), loader_of(parquet, "delay"), loss=loss) for loss in ("mse", nn.MSELoss(), own)
    )
    assert_same(by_name, by_hand)
    assert_same(by_name, by_torch)


def test_whole_numbers_are_numbers_for_a_loss_of_numbers(parquet):
    def own(outputs, target):
        return (outputs[:, 0] - target) ** 2

    bundles = [
        train(net(1), loader_of(parquet), loss=loss, learning_rate=0.03, epochs=2)
        for loss in ("mse", nn.MSELoss(), own)
    ]
    for bundle in bundles:
        assert_same(bundle, bundles[0], tolerance=1e-6)
        assert bundle.task == "regression"
    frame = pd.read_parquet(parquet)
    assert np.corrcoef(bundles[0].predict(frame), frame["late"])[0, 1] > 0.6
    assert bundles[0].evaluate(frame)["r2"] > 0.3


@pytest.mark.parametrize("loss", ["binary_cross_entropy", nn.BCEWithLogitsLoss()])
def test_one_output_learns_two_classes(parquet, loss, tmp_path):
    validation = loader_of(parquet, shuffle=False, tail="pad")
    bundle = train(net(1), loader_of(parquet), validation=validation, loss=loss, learning_rate=0.03, epochs=3)
    frame = pd.read_parquet(parquet)
    chances = bundle.predict(frame, proba=True)
    np.testing.assert_allclose(chances.sum(axis=1), 1)
    np.testing.assert_array_equal(bundle.predict(frame), (chances[:, 1] > 0.5).astype(int))
    assert bundle.metrics["accuracy"] == pytest.approx(accuracy_score(frame["late"], chances[:, 1] > 0.5))
    assert bundle.metrics["auroc"] == pytest.approx(roc_auc_score(frame["late"], chances[:, 1]), abs=1e-4)
    assert bundle.metrics["loss"] == pytest.approx(bundle.metrics["log_loss"], rel=1e-5)
    assert bundle.metrics["accuracy"] > 0.8
    bundle.save(tmp_path / "late")
    again = load(tmp_path / "late", module=net(1))
    np.testing.assert_array_equal(again.predict(frame, proba=True), chances)


class Chances(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, inputs):
        return self.inner(inputs).log_softmax(1)


TORCH_LOSSES = [
    nn.CrossEntropyLoss(weight=torch.tensor([1.0, 9.0, 2.0])),
    nn.CrossEntropyLoss(weight=torch.tensor([1.0, 9.0, 2.0]), ignore_index=1),
    nn.CrossEntropyLoss(weight=torch.tensor([1.0, 9.0, 2.0]), label_smoothing=0.2, ignore_index=-1),
    nn.CrossEntropyLoss(label_smoothing=0.2),
    nn.CrossEntropyLoss(ignore_index=-1),
    nn.NLLLoss(weight=torch.tensor([1.0, 9.0, 2.0]), ignore_index=2),
]


def labelled(loss, rows=60):
    rng = np.random.default_rng(1)
    labels = rng.choice([0, 1, 1, 2, loss.ignore_index] if loss.ignore_index == -1 else [0, 1, 1, 2], rows)
    return {"x": rng.normal(size=rows), "y": labels}


@pytest.mark.parametrize("loss", TORCH_LOSSES)
def test_class_weights_and_ignored_labels_are_torchs(loss):
    data = labelled(loss)
    torch.manual_seed(0)
    module = Chances(nn.Linear(1, 3)) if isinstance(loss, nn.NLLLoss) else nn.Linear(1, 3)
    loader = Loader(data, target="y", global_batch_size=60, shuffle=False)
    validation = Loader(data, target="y", global_batch_size=25, shuffle=False, tail="pad")
    with torch.no_grad():
        wanted = float(loss(module(torch.tensor(data["x"], dtype=torch.float32)[:, None]), torch.tensor(data["y"])))
    bundle = train(module, loader, validation=validation, loss=loss, optimizer="sgd", learning_rate=1e-12)
    assert bundle.history[0]["loss"] == pytest.approx(wanted, rel=1e-5)
    assert bundle.metrics["loss"] == pytest.approx(wanted, rel=1e-5)


def test_class_weights_are_torchs_on_two_ranks(client):
    """One step of plain gradient descent, on a batch whose halves hold other classes."""
    loss = TORCH_LOSSES[2]
    data = labelled(loss, 61)
    data = {name: values[np.argsort(data["y"])] for name, values in data.items()}
    torch.manual_seed(0)
    plain = nn.Linear(1, 3)
    module = copy.deepcopy(plain)
    loss(plain(torch.tensor(data["x"], dtype=torch.float32)[:, None]), torch.tensor(data["y"])).backward()
    torch.optim.SGD(plain.parameters(), lr=0.5).step()
    loader = Loader(data, target="y", global_batch_size=61, shuffle=False)
    bundle = train(module, loader, loss=loss, optimizer="sgd", learning_rate=0.5, ranks=2)
    for name, value in plain.state_dict().items():
        np.testing.assert_allclose(weights(bundle)[name], value.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("labels", [[1, 2, 3], [0, 1, -100], [0, 1, 3]])
def test_labels_that_no_output_stands_for_are_named(labels):
    data = {"x": np.arange(60.0) / 60, "y": np.resize(labels, 60)}
    wrong = max(labels, key=lambda label: (label < 0, label))
    with pytest.raises(DataError, match=rf"target='y' holds label {wrong}, .* stand for labels 0 to 2; number the cla"):
        train(nn.Linear(1, 3), Loader(data, target="y", global_batch_size=60))


def with_nan(column):
    data = {"x": np.linspace(-1, 1, 60), "y": np.linspace(0, 1, 60)}
    data[column][7] = np.nan
    return data


@pytest.mark.parametrize(
    ("data", "options", "text"),
    [
        (with_nan("x"), {}, r"the loss is nan in step \d of epoch 1; if inputs are missing, .*TablePreparation"),
        (with_nan("y"), {}, r"the target is NaN or infinite in step \d of epoch 1; .*dropna|target='y' is .*dropna"),
        ({"x": np.ones(60), "y": np.ones(60)}, {"learning_rate": 1e30}, r"the loss is (inf|nan) in .*learning_rate"),
        (
            {"x": np.ones(20), "y": np.full(20, 1e18)},  # one step, whose loss is just what floats hold
            {"learning_rate": 1e30},
            "weights are no longer finite after epoch 1; .*learning_rate",
        ),
    ],
)
def test_training_stops_where_it_gets_infinite(data, options, text):
    with pytest.raises(DataError, match=text):
        train(nn.Linear(1, 1), Loader(data, target="y", global_batch_size=20), epochs=3, optimizer="sgd", **options)


def test_a_validation_that_is_not_finite_stops_it(client):
    """On two ranks, of which one alone has seen it."""
    data = {"x": np.ones(40), "y": np.ones(40)}
    loader = Loader(data, target="y", global_batch_size=20)
    validation = Loader(with_nan("x"), target="y", global_batch_size=20, shuffle=False, tail="pad")
    with pytest.raises(
        RankError, match=r"DataError: the loss is nan in step 1 of the validation after epoch 1"
    ) as caught:
        train(nn.Linear(1, 1), loader, validation=validation, ranks=2)
    assert isinstance(caught.value.__cause__, DataError)


class Stuck(nn.Module):
    """Sleeps for ever on rank 1, after some steps."""

    def __init__(self):
        super().__init__()
        self.inner = net()
        self.steps = 0

    def forward(self, inputs):
        self.steps += self.training
        if self.steps == 3 and distributed.is_initialized() and distributed.get_rank() == 1:
            time.sleep(600)
        return self.inner(inputs)


@pytest.mark.slow
def test_a_rank_that_hangs_in_a_step_is_ended(client, parquet):
    start = time.monotonic()
    with pytest.raises(RankError, match="rank 1 .* did not reach the collective within 4 s"):
        train(Stuck(), loader_of(parquet), ranks=2, hang_timeout_s=4)
    assert time.monotonic() - start < 30


class Broken(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = net()

    def forward(self, inputs):
        if self.training and distributed.is_initialized():
            raise ZeroDivisionError("in my forward")
        return self.inner(inputs)


def test_an_error_in_the_users_module_comes_with_its_traceback(client, parquet):
    with pytest.raises(RankError, match="in my forward") as caught:
        train(Broken(), loader_of(parquet), ranks=2)
    assert "test_fitting.py" in str(caught.value)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


class Slow(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = net()

    def forward(self, inputs):
        if self.training:
            time.sleep(0.1)
        return self.inner(inputs)


@pytest.mark.slow
def test_the_cluster_stays_responsive_while_it_trains(client, parquet):
    """The dashboard answers within a second, workers answer, heartbeats are fresh, and another computation runs."""
    done = threading.Event()
    slowest, oldest, answers = 0.0, 0.0, []

    def look():
        nonlocal slowest, oldest
        while not done.wait(0.2):
            start = time.monotonic()
            with urllib.request.urlopen(client.dashboard_link.replace("/status", "/health"), timeout=10) as page:
                page.read()
            slowest = max(slowest, time.monotonic() - start)
            info = client.scheduler_info(n_workers=-1)["workers"].values()
            oldest = max(oldest, *(time.time() - worker["last_seen"] for worker in info))
            answers.append(client.submit(sum, [1, 2], pure=False).result(timeout=10))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        train(Slow(), loader_of(parquet), epochs=2, ranks=2)
    finally:
        done.set()
        thread.join()
    assert len(answers) > 5
    assert set(answers) == {3}
    assert slowest < 1
    assert oldest < 10  # workers send one every half second to five seconds


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda p: train(net(), loader_of(p), epochs=0), "epochs=0 must be a whole number, at least 1"),
        (lambda p: train(net(), loader_of(p), epochs=2.5), "epochs=2.5 must be a whole number, at least 1"),
        (lambda p: train(net(), loader_of(p), patience=2), "patience=2 needs validation data"),
        (lambda p: train(net(), loader_of(p), learning_rate="0.1"), "learning_rate='0.1' must be a finite number"),
        (
            lambda p: train(nn.Identity(), loader_of(p, "delay", inputs=["x0"])),
            "model=Identity has no parameter that is trainable; give it one with requires_grad=True",
        ),
        (lambda p: train(net().requires_grad_(False), loader_of(p)), "model=Sequential has no parameter that is train"),
        (
            lambda p: train(net(), loader_of(p), validation=held_of(p, inputs=["x1", "x0", "x2"])),
            r"validation has inputs \['x1', 'x0', 'x2'\], and the training data \['x0', 'x1', 'x2'\]; make both",
        ),
        (
            lambda p: train(net(), loader_of(p, weight="weight"), validation=held_of(p, inputs=["x0", "x1"])),
            r"validation has inputs \['x0', 'x1'\], and the training data",
        ),
        (
            lambda p: train(net(), loader_of(p), validation=held_of(p, None)),
            "validation has no target; .*target='late'",
        ),
        (
            lambda p: train(net(), loader_of(p), validation=held_of(p, "delay")),
            "validation has target delay, and the training data late; make both",
        ),
        (
            lambda p: train(
                net(), loader_of(p, preparation=fitted(p, 100)), validation=held_of(p, preparation=fitted(p, 200))
            ),
            r"validation is encoded by .*TablePreparation.*another fit; fit one preparation on the training data",
        ),
        (lambda p: train(net(), loader_of(p), loss="cross_entrpy"), "did you mean 'cross_entropy'"),
        (lambda p: train(net(), loader_of(p), optimizer="adm"), "did you mean 'adam'"),
        (lambda p: train(net(), loader_of(p), learning_rate=0.0), "learning_rate=0.0 must be a finite number, more th"),
        (lambda p: train(net(), loader_of(p), validation=loader_of(p)), "make it with tail='pad'"),
        (lambda p: train(net(), Loader(p, global_batch_size=10)), "loader has no target"),
        (lambda p: train(nn.Linear(7, 2), loader_of(p)), "shapes cannot be multiplied"),
        (lambda p: train(net(3), loader_of(p, "delay")), r"must return \[2, 1\]"),
        (lambda p: train(net(), loader_of(p), loss=nn.functional.cross_entropy), "one value for the batch"),
        (lambda p: train(net(1), loader_of(p, "delay"), loss=lambda o, t: (o - t) ** 2), "compares samples with each"),
        (lambda p: train(net(), loader_of(p), ranks=0), "ranks=0 must be at least 1"),
        (
            lambda p: train(net(1), loader_of(p)),
            "needs an output a class, and .* loss='binary_cross_entropy' if target='la",
        ),
        (
            lambda p: train(net(1), loader_of(p), loss=nn.CrossEntropyLoss()),
            "loss=CrossEntropyLoss needs an output a cl",
        ),
        (lambda p: train(net(2), loader_of(p), loss="mse"), r"must return \[2, 1\]"),
        (lambda p: train(net(2), loader_of(p), loss="binary_cross_entropy"), r"must return \[2, 1\]"),
        (lambda p: train(net(2), loader_of(p, "delay"), loss="cross_entropy"), "'delay' is of floating point; cast it"),
        (lambda p: train(net(1), loader_of(p, "delay"), loss="binary_cross_entropy"), "'delay' is of floating point"),
    ],
)
def test_what_cannot_work_is_refused(parquet, call, text):
    with pytest.raises(ArgumentError, match=text):
        call(parquet)


def test_a_module_that_does_not_take_the_grids_is_refused(tmp_path):
    data = xr.Dataset({"x": (("time", "lat"), np.zeros((8, 3))), "y": ("time", np.zeros(8))})
    data.to_zarr(tmp_path / "grid.zarr", consolidated=False)
    with pytest.raises(ArgumentError, match=r"Sequential fails on a batch of inputs \[2, 1, 3\], target \[2\]"):
        train(net(), Loader(tmp_path / "grid.zarr", target="y", global_batch_size=2))


def test_a_module_that_raises_in_training_is_refused_before_the_start(parquet):
    class Fails(Broken):
        def forward(self, inputs):
            if self.training:
                raise ZeroDivisionError("in my forward")
            return self.inner(inputs)

    with pytest.raises(ArgumentError, match="Fails fails on a batch of inputs .*: ZeroDivisionError: in my forward"):
        train(Fails(), loader_of(parquet))


def test_ranks_without_a_cluster_are_refused(parquet):
    with pytest.raises(ClusterError, match=r"ranks=2 need a Dask cluster; call dtk.connect\(\)"):
        train(net(), loader_of(parquet), ranks=2)


def test_a_plan_beyond_the_share_is_refused_before_the_start(client, parquet):
    big = nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 5_000_000, bias=False), nn.Linear(5_000_000, 2, bias=False))
    with pytest.raises(MemoryLimitError, match=r"but rank 0 may hold 1.5 GiB on worker .*; give ranks more: rank_mem"):
        train(big, loader_of(parquet), ranks=2)


def test_data_in_memory_counts_as_it_is_sent(client):
    data = {"x": np.zeros(50_000_000, np.float64), "y": np.zeros(50_000_000, np.float32)}
    loader = Loader(data, target="y", memory="64 MiB")
    with pytest.raises(MemoryLimitError, match=r"payload 1.1 GiB.* but rank 0 may hold 1.5 GiB"):
        train(nn.Linear(1, 1), loader, ranks=2)
