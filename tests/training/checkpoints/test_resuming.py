"""A training that is interrupted goes on from its last checkpoint, to the same weights, bit for bit."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

import dtk
from dtk.errors import CheckpointError, DataError
from dtk.training.checkpoints.directory import Checkpoint
from dtk.training.fitting import train
from dtk.training.gang.rank import RankContext
from dtk.training.loop.recipe import Method, Recipe
from dtk.training.loop.schedules import Schedule
from dtk.training.loop.training import train_rank

pytestmark = pytest.mark.usefixtures("no_rank_left")


class StopError(Exception):
    pass


class Net(nn.Module):
    """Has random streams, buffers and two kinds of layers; raises at a step."""

    def __init__(self, stop=None):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 1))
        self.stop = stop
        self.calls = 0

    def forward(self, inputs):
        if self.training and torch.is_grad_enabled() and inputs.requires_grad is False and len(inputs) > 2:
            self.calls += 1
            if self.calls == self.stop:
                raise StopError
        return self.layers(inputs)


def write_data(folder):
    rng = np.random.default_rng(0)
    table = {f"x{number}": rng.standard_normal(1000).astype("f4") for number in range(4)}
    table["y"] = table["x0"] - 2 * table["x1"] + rng.standard_normal(1000).astype("f4") / 10
    pq.write_table(pa.table(table), folder / "data.parquet", row_group_size=100)
    return folder / "data.parquet"


@pytest.fixture
def data(tmp_path):
    return write_data(tmp_path)


def loaders(data):
    make = {"target": "y", "global_batch_size": 64, "memory": "64 MiB"}
    return dtk.Loader(data, **make), dtk.Loader(data, tail="pad", shuffle=False, **make)


def weights(bundle):
    return {name: value.clone() for name, value in bundle.module.state_dict().items()}


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


@pytest.mark.parametrize("stop", [2, 15, 16, 20, 44])
def test_resumed_is_uninterrupted(data, tmp_path, stop):
    loader, validation = loaders(data)
    options = {"validation": validation, "epochs": 3, "learning_rate": 0.01, "progress": False}
    whole = train(Net(), loader, **options)
    checkpoint = Checkpoint(str(tmp_path / "checkpoints"), every_steps=4, every_s=None)
    with pytest.raises(StopError):
        train(Net(stop), loaders(data)[0], checkpoint=checkpoint, **options)
    resumed = train(Net(), loaders(data)[0], checkpoint=checkpoint, **options)
    assert_equal(weights(whole), weights(resumed))
    for one, other in zip(whole.history, resumed.history, strict=True):
        for name in ("epoch", "loss", "samples", "validation_loss"):
            assert one[name] == other[name], name


class Odds(dtk.Task):
    """Draws random numbers in a validation, too."""

    def __init__(self):
        super().__init__()
        self.net = Net()

    def step(self, batch):
        return (self.net(batch["inputs"])[:, 0] - batch["target"]) ** 2

    def validate(self, batch):
        return super().validate(batch) | {"noise": torch.rand(len(batch["target"]))}


class Asking(dtk.Callback):
    """Asks its rank to leave at a step of a validation."""

    def __init__(self, context, epoch, step):
        self.context, self.at, self.steps = context, (epoch, step), 0

    def on_epoch_start(self, training):
        self.steps = 0

    def on_validation_step(self, training):
        self.steps += 1
        if (training.epoch, self.steps) == self.at:
            self.context.on_leave("asked")


@pytest.mark.parametrize("at", [(0, 1), (2, 7)])  # the next meeting comes within as many batches, and one
def test_one_that_leaves_in_a_validation_validates_anew(data, tmp_path, at):
    loader, _ = loaders(data)
    validation = dtk.Loader(data, target="y", global_batch_size=64, memory="64 MiB", tail="pad")  # shuffled

    def run(checkpoint=None, leave_at=None):
        context = RankContext(0, 1, "cpu", lambda message: None)
        callbacks = () if leave_at is None else (Asking(context, *leave_at),)
        method = Method(ema=0.9, schedule=Schedule.of("plateau"))
        recipe = Recipe(Odds(), 3, None, 0, method, checkpoint, callbacks)
        return train_rank(recipe, loader.on_rank(0, 1), validation.on_rank(0, 1), context)

    whole = run()
    checkpoint = Checkpoint(str(tmp_path / "checkpoints"), every_s=None)
    left = run(checkpoint, at)
    assert (left.left, len(left.history)) == ("asked", at[0])
    assert run(checkpoint, at).left == "asked"  # and again
    resumed = run(checkpoint)
    assert (resumed.left, resumed.best_epoch) == ("", whole.best_epoch)
    assert_equal(whole.state, resumed.state)
    for one, other in zip(whole.history, resumed.history, strict=True):
        for name in ("epoch", "loss", "samples", "validation_loss", "validation_noise"):
            assert one[name] == other[name], name
    assert_equal(whole.state, run(checkpoint).state)  # what is at its end holds the last validation


@pytest.fixture
def interrupted(data, tmp_path):
    """A training that stopped in its second epoch, and the options to go on with it."""
    checkpoint = Checkpoint(str(tmp_path / "checkpoints"), every_steps=4, every_s=None)
    options = {"epochs": 3, "learning_rate": 0.01, "progress": False, "checkpoint": checkpoint}
    with pytest.raises(StopError):
        train(Net(22), loaders(data)[0], **options)
    return options


def test_a_finished_training_is_only_loaded(data, interrupted):
    done = train(Net(), loaders(data)[0], **interrupted)
    again = train(Net(1), loaders(data)[0], **interrupted)  # it would stop at its first step
    assert_equal(weights(done), weights(again))
    assert again.history == done.history


def test_more_epochs_go_on(data, interrupted):
    train(Net(), loaders(data)[0], **interrupted | {"epochs": 2})
    longer = train(Net(), loaders(data)[0], **interrupted)
    whole = train(Net(), loaders(data)[0], **interrupted | {"checkpoint": None})
    assert_equal(weights(longer), weights(whole))


def test_a_damaged_checkpoint_falls_back_to_the_one_before(data, tmp_path, interrupted):
    last = max((tmp_path / "checkpoints").glob("step-*/*.safetensors"))
    last.write_bytes(last.read_bytes()[:-1] + b"!")
    with pytest.warns(UserWarning, match=f"{last} is damaged; the checkpoint before it is taken instead"):
        resumed = train(Net(), loaders(data)[0], **interrupted)
    assert_equal(weights(resumed), weights(train(Net(), loaders(data)[0], **interrupted | {"checkpoint": None})))


def test_another_training_is_refused_by_name(data, interrupted):
    other = nn.Linear(4, 1)
    with pytest.raises(CheckpointError, match=r"another training: .* is none there and float32\[1\] here"):
        train(other, loaders(data)[0], **interrupted)
    with pytest.raises(CheckpointError, match="optimizer.state.* there and none here"):
        train(Net(), loaders(data)[0], optimizer="sgd", **interrupted)
    reseeded = dtk.Loader(data, target="y", global_batch_size=64, memory="64 MiB", seed=1)
    with pytest.raises(CheckpointError, match="of a training with seed 0, and this has 1"):
        train(Net(), reseeded, **interrupted)


def test_other_data_is_refused_by_name(data, interrupted):
    table = pq.read_table(data)
    pq.write_table(table.slice(0, 900), data, row_group_size=100)
    with pytest.raises(DataError):
        train(Net(), loaders(data)[0], **interrupted)
