"""How losses become steps: tasks, accumulation, schedules, averages, callbacks; and the same on two ranks."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import dtk
from dtk.errors import ArgumentError
from dtk.training import MetricsLog, TensorBoard
from dtk.training.checkpoints.directory import Checkpoint
from dtk.training.gang.rank import RankContext, current_rank
from dtk.training.loop.losses import SampleLoss, resolve_loss
from dtk.training.loop.optimizers import resolve_optimizer
from dtk.training.loop.recipe import Method, Recipe
from dtk.training.loop.schedules import Schedule
from dtk.training.loop.task import TensorSpec
from dtk.training.loop.tasks import NetworkTask
from dtk.training.loop.training import train_rank

ROWS, BATCH = 256, 32


def data():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((ROWS, 3)).astype("f4")
    y = x @ np.array([1.0, -2.0, 0.5], "f4") + rng.standard_normal(ROWS).astype("f4")
    return {f"x{number}": x[:, number] for number in range(3)} | {"y": y, "w": rng.uniform(0.1, 3, ROWS).astype("f4")}


def loader_of(**options):
    return dtk.Loader(data(), target="y", inputs=["x0", "x1", "x2"], **{"global_batch_size": BATCH} | options)


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))


class Fit(dtk.Task):
    """A task that does what a network with a squared error does."""

    def __init__(self, mean=False):
        super().__init__()
        self.mean = mean

    def build(self, schema):
        assert schema["inputs"] == (torch.float32, (3,))
        self.layers = net()

    def optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def predict(self, batch):
        return self.layers(batch["inputs"])

    def step(self, batch):
        losses = (self.predict(batch)[:, 0] - batch["target"]) ** 2
        return (losses * batch["weight"]).sum() / batch["weight"].sum() if self.mean else losses


class Duel(dtk.Task):
    """Two networks, each with an optimizer of its own: the second one's loss needs the first one's step."""

    def build(self, schema):
        self.one, self.two = net(1), net(2)
        self.seen = []

    def optimizers(self):
        return {
            "one": torch.optim.Adam(self.one.parameters(), lr=0.01),
            "two": torch.optim.SGD(self.two.parameters(), lr=0.05, momentum=0.9),
        }

    def predict(self, batch):
        return self.two(batch["inputs"])

    def step(self, batch):
        yield "one", (self.one(batch["inputs"])[:, 0] - batch["target"]) ** 2
        yield "two", (self.two(batch["inputs"])[:, 0] - self.one(batch["inputs"])[:, 0]) ** 2


class Recorder(dtk.Callback):
    def __init__(self, stop_after=None):
        self.stop_after = stop_after
        self.calls, self.rates, self.weights = [], [], []

    def on_train_start(self, training):
        self.calls.append("start")

    def on_step_end(self, training):
        self.calls.append("step")
        self.rates.append(training.learning_rate)
        self.weights.append({name: value.detach().clone() for name, value in training.module.named_parameters()})

    def on_validation_step(self, training):
        self.calls.append("validation")

    def on_epoch_end(self, training, entry):
        self.calls.append(f"epoch {entry['epoch']}")
        if training.epoch + 1 == self.stop_after:
            training.stop()

    def on_train_end(self, training):
        self.calls.append("end")

    def on_exception(self, training, error):
        self.calls.append(type(error).__name__)


def trained(module=None, loader=None, **options):
    module = net() if module is None else module
    options = {"epochs": 2, "optimizer": "sgd", "learning_rate": 0.1} | options
    if isinstance(module, dtk.Task):
        options |= {"optimizer": None, "learning_rate": None}
    bundle = dtk.train(module, loader_of() if loader is None else loader, **options)
    return bundle, {name: value.clone() for name, value in module.state_dict().items()}


def assert_close(one, other, **limits):
    assert len(one) == len(other)
    for own, others in zip(one.values(), other.values(), strict=True):
        torch.testing.assert_close(own, others, **limits)


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("weight", [None, "w"])
def test_a_task_is_as_good_as_its_network_and_loss(weight, mean):
    _, plain = trained(loader=loader_of(weight=weight))
    bundle, task = trained(Fit(mean=mean), loader_of(weight=weight))
    assert_close(plain, task, atol=1e-6, rtol=1e-5)
    assert bundle.predict(data()).shape == (ROWS,)


def test_a_task_validates_by_its_step():
    validation = loader_of(tail="pad", shuffle=False, global_batch_size=100)
    bundle, _ = trained(Fit(), validation=validation)
    expected = np.mean((bundle.predict(data()) - data()["y"]) ** 2)
    assert bundle.metrics["loss"] == pytest.approx(expected, rel=1e-5)


def test_each_optimizer_takes_its_step_before_the_next_loss():
    loader = loader_of()
    _, found = trained(Duel(), loader)
    duel = Duel()
    duel.build({})
    optimizers = duel.optimizers()
    for epoch in range(2):
        loader.set_epoch(epoch)
        for batch in loader:
            for name, losses in duel.step(batch):
                optimizers[name].zero_grad()
                losses.mean().backward()
                optimizers[name].step()
                duel.zero_grad()
    assert_close(dict(duel.state_dict()), found, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("weight", [None, "w"])
@pytest.mark.parametrize("accumulate", [2, 3])
def test_accumulated_batches_are_as_good_as_a_bigger_one(weight, accumulate):
    _, small = trained(loader=loader_of(weight=weight, shuffle=False), accumulate=accumulate)
    options = {"global_batch_size": BATCH * accumulate, "tail": "pad"}  # 8 batches are no multiple of 3
    _, big = trained(loader=loader_of(weight=weight, shuffle=False, **options))
    assert_close(small, big, atol=1e-6, rtol=1e-5)


def test_gradients_are_clipped_after_they_are_averaged():
    before = [value.detach().clone() for value in net().parameters()]
    recorder = Recorder()
    trained(clip_norm=1e-3, learning_rate=1.0, callbacks=[recorder], epochs=1, accumulate=2)
    steps = zip(before, recorder.weights[0].values(), strict=True)
    change = torch.cat([(new - old).flatten() for old, new in steps])
    assert float(change.norm()) == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize(
    "schedule",
    [
        {"name": "linear", "warmup": 2},
        {"name": "cosine", "warmup": 0.125, "min_factor": 0.5},
        lambda optimizer, steps: torch.optim.lr_scheduler.StepLR(optimizer, steps // 2),
    ],
)
def test_schedules_follow_each_step(schedule):
    recorder = Recorder()
    trained(schedule=schedule, callbacks=[recorder])
    assert len(recorder.rates) == 16  # of each the rate that comes next
    if callable(schedule):
        assert recorder.rates == pytest.approx([0.1] * 7 + [0.01] * 8 + [0.001])
        return
    least = 0.1 * schedule.get("min_factor", 0.0)
    assert recorder.rates[:2] == pytest.approx([0.1, 0.1])  # the first step had half of it
    assert np.all(np.diff(recorder.rates[1:]) < 0)
    assert recorder.rates[-1] == pytest.approx(least, abs=1e-9)


def test_a_plateau_lowers_the_rate():
    recorder = Recorder()
    validation = loader_of(tail="pad")
    schedule = {"name": "plateau", "patience": 0, "factor": 0.5}
    trained(schedule=schedule, validation=validation, learning_rate=0.5, epochs=12, callbacks=[recorder])
    assert recorder.rates[0] == 0.5
    assert recorder.rates[-1] < 0.5


def test_weights_decay_but_no_bias():
    optimizer = resolve_optimizer("adamw", 0.1, 0.5)(net().parameters())
    found = {tuple(one.shape): group["weight_decay"] for group in optimizer.param_groups for one in group["params"]}
    assert found == {(8, 3): 0.5, (1, 8): 0.5, (8,): 0.0, (1,): 0.0}


def test_the_average_of_weights_is_what_comes_home():
    recorder = Recorder()
    _, found = trained(ema=0.8, callbacks=[recorder])
    average = [value.detach().clone() for value in net().parameters()]
    for weights in recorder.weights:
        for kept, value in zip(average, weights.values(), strict=True):
            kept.lerp_(value, 1 - 0.8)
    assert_close(dict(enumerate(average)), found, atol=1e-6, rtol=1e-5)


def test_half_precision_keeps_whole_weights():
    seen = []

    class Seen(nn.Linear):
        def forward(self, inputs):
            outputs = super().forward(inputs)
            if torch.is_grad_enabled():
                seen.append(outputs.dtype)
            return outputs

    module = Seen(3, 1)
    trained(module, precision="bf16", epochs=1)
    assert torch.bfloat16 in seen
    assert module.weight.dtype == torch.float32


def test_callbacks_are_called_in_order():
    recorder = Recorder(stop_after=2)
    trained(callbacks=[recorder], validation=loader_of(tail="pad", global_batch_size=128), epochs=5)
    steps = ["step"] * 8 + ["validation"] * 2
    assert recorder.calls == ["start", *steps, "epoch 1", *steps, "epoch 2", "end"]


def test_what_a_callback_stopped_is_at_its_end(tmp_path):
    checkpoint = Checkpoint(str(tmp_path / "checkpoints"))
    for _ in range(2):
        recorder = Recorder(stop_after=2)
        trained(callbacks=[recorder], epochs=5, checkpoint=checkpoint)
    assert recorder.calls == ["start", "end"]


def test_a_callback_that_raises_ends_the_training():
    class Broken(dtk.Callback):
        def on_epoch_end(self, training, entry):
            raise KeyError("broken")

    recorder = Recorder()
    with pytest.raises(KeyError, match="broken"):
        trained(callbacks=[recorder, Broken()])
    assert recorder.calls[-1] == "KeyError"


class StopError(Exception):
    pass


class Stop(dtk.Callback):
    def __init__(self, step):
        self.step = step

    def on_step_start(self, training):
        if training.step == self.step:
            raise StopError


@pytest.mark.parametrize("task", [None, Duel])
def test_all_of_it_is_resumed_bit_for_bit(tmp_path, task):
    def go(folder, *others, **more):
        options = {"schedule": "cosine", "ema": 0.9, "clip_norm": 1.0, "epochs": 3}
        options |= {"optimizer": "adamw", "weight_decay": 0.1} if task is None else {}
        log = MetricsLog(tmp_path / folder / "log.jsonl", every_steps=1)
        accumulate = 3 if task is None else 1
        return trained(
            net() if task is None else task(), callbacks=[log, *others], accumulate=accumulate, **options | more
        )

    _, whole = go("whole")
    checkpoint = Checkpoint(str(tmp_path / "checkpoints"), every_steps=2, every_s=None)
    with pytest.raises(StopError):
        go("parts", Stop(5), checkpoint=checkpoint)
    _, resumed = go("parts", Stop(-1), checkpoint=checkpoint)
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name
    lines = [
        [json.loads(line) for line in (tmp_path / folder / "log.jsonl").read_text().splitlines()]
        for folder in ("whole", "parts")
    ]
    assert [line["loss"] for line in lines[0]] == [line["loss"] for line in lines[1]]


def test_tensorboard_has_each_point_once(tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    trained(callbacks=[TensorBoard(tmp_path / "board", every_steps=4)])
    found = events.EventAccumulator(str(tmp_path / "board")).Reload()
    assert [point.step for point in found.Scalars("train/loss")] == [4, 8, 12, 16]
    assert [point.step for point in found.Scalars("epoch/loss")] == [8, 16]


class Unknown(Fit):
    def step(self, batch):
        yield "other", super().step(batch)


class Whole(Fit):
    def step(self, batch):
        return torch.zeros(len(batch["target"]) + 1)


class Shared(Fit):
    def optimizers(self):
        return {name: torch.optim.SGD(self.parameters(), lr=0.1) for name in ("one", "two")}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"module": Unknown()}, "yields 'other', and its optimizers are 'optimizer'"),
        ({"module": Whole()}, r"gives \[3\] for 2 samples; give one loss a sample"),
        ({"module": Shared()}, "give a parameter to two optimizers"),
        ({"module": Duel(), "accumulate": 2}, "accumulate=2 needs a step that returns"),
        ({"module": Duel(), "strategy": "fsdp"}, "strategy='fsdp' needs a step that returns"),
        ({"module": Duel(), "validation": loader_of(tail="pad")}, "a validation of it needs validate"),
        ({"accumulate": 0}, "accumulate=0 must be a whole number"),
        ({"clip_norm": -1}, "clip_norm=-1 must be"),
        ({"ema": 1.0}, "ema=1.0 must be between 0 and 1"),
        ({"precision": "half"}, "precision='half' must be one of 'fp32'"),
        ({"schedule": "cosin"}, "schedule='cosin' needs a name of .*did you mean 'cosine'"),
        ({"schedule": {"name": "cosine", "warm": 3}}, "no option 'warm'.*warmup"),
        ({"schedule": "plateau"}, "give validation="),
        ({"weight_decay": -1}, "weight_decay=-1 must be"),
        ({"callbacks": [print]}, "must be instances of"),
    ],
)
def test_what_cannot_work_is_refused(options, text):
    with pytest.raises(ArgumentError, match=text):
        trained(**options)


def test_grids_train_and_their_weights_are_saved(tmp_path):
    grid = np.random.default_rng(0).standard_normal((128, 2, 4, 4)).astype("f4")
    dataset = xr.Dataset({"x": (("t", "c", "h", "w"), grid), "y": ("t", grid.mean((1, 2, 3)))})
    dataset.chunk({"t": 32}).to_zarr(tmp_path / "grid.zarr", consolidated=False)
    make = {"inputs": ["x"], "target": "y", "dim": "t", "global_batch_size": 32}
    loader, held = (dtk.Loader(dtk.open(str(tmp_path / "grid.zarr")), tail=tail, **make) for tail in ("trim", "pad"))
    module = nn.Sequential(nn.Flatten(), nn.Linear(32, 1))
    bundle = dtk.train(module, loader, validation=held, epochs=20, learning_rate=0.01)
    assert bundle.metrics["loss"] < 1e-3
    bundle.save(tmp_path / "bundle")
    network = dtk.load(tmp_path / "bundle", module=nn.Sequential(nn.Flatten(), nn.Linear(32, 1))).network()
    inputs = torch.from_numpy(grid)
    torch.testing.assert_close(network(inputs), module(inputs), atol=0, rtol=0)
    with pytest.raises(ArgumentError, match="of grids or windows, whose predictions are to come"):
        bundle.predict({"x": np.zeros(3)})


def test_a_task_has_its_own_loss():
    with pytest.raises(ArgumentError, match="loss='mse': Fit is a task and has its own"):
        dtk.train(Fit(), loader_of(), loss="mse")


def test_schedules_are_checked():
    assert Schedule.of(None) is None
    with pytest.raises(ArgumentError, match="warmup must be"):
        Schedule.of({"name": "linear", "warmup": 1.5})


def network():
    return NetworkTask(net(), SampleLoss(resolve_loss("mse")), resolve_optimizer("sgd", 0.1))


def built(task):
    task.build({"inputs": TensorSpec(torch.float32, (3,))})
    return task


CASES = {
    "plain": (network, {}),
    "in parts": (network, {"strategy": "fsdp"}),
    "average": (network, {"accumulate": 3, "clip_norm": 0.1, "ema": 0.9}),
    "average in parts": (network, {"accumulate": 3, "clip_norm": 0.1, "ema": 0.9, "strategy": "fsdp"}),
    "task": (lambda: built(Fit()), {}),
    "duel": (lambda: built(Duel()), {}),
}


def weights_by_case(loader):
    context = current_rank() or RankContext(0, 1, "cpu", lambda message: None)
    found = {}
    for name, (make, options) in CASES.items():
        recipe = Recipe(make(), epochs=2, patience=None, seed=0, method=Method(**options))
        found[name] = train_rank(recipe, loader.on_rank(context.rank, context.ranks), None, context).state
    return found


@pytest.mark.usefixtures("client", "no_rank_left")
def test_two_ranks_are_as_good_as_one():
    loader = loader_of(weight="w", global_batch_size=33)
    alone = weights_by_case(loader)
    together = dtk.launch(weights_by_case, loader, ranks=2)[0]
    for name, weights in alone.items():
        assert_close(weights, together[name], atol=2e-6, rtol=1e-4)
    assert not torch.equal(alone["plain"]["network.0.weight"], net()[0].weight)
    assert_close(alone["average"], alone["average in parts"], atol=0, rtol=0)  # one rank has nothing to part


class Often(Duel):
    """The first optimizer takes two steps a batch, the second one none in the first batches."""

    def build(self, schema):
        super().build(schema)
        self.register_buffer("batches", torch.zeros(()))

    def step(self, batch):
        self.batches += 1
        for _ in range(2):
            yield "one", (self.one(batch["inputs"])[:, 0] - batch["target"]) ** 2
        if self.batches > 6:
            yield "two", (self.two(batch["inputs"])[:, 0] - self.one(batch["inputs"])[:, 0]) ** 2


def test_a_schedule_follows_the_steps_of_the_training_and_not_of_an_optimizer():
    recorder = Recorder()
    trained(Often(), schedule="linear", callbacks=[recorder])
    assert recorder.rates == pytest.approx([0.01 * (1 - step / 16) for step in range(1, 17)])


@pytest.mark.parametrize("task", [Often, None])
def test_a_checkpoint_changes_nothing_for_what_has_taken_no_step(tmp_path, task):
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = net(), nn.Linear(3, 1)

        def forward(self, inputs):
            return self.used(inputs)

    def make():
        return Idle() if task is None else task()

    checkpoint = Checkpoint(str(tmp_path / "checkpoints"), every_steps=2, every_s=None)
    _, whole = trained(make(), optimizer=None)
    with pytest.raises(StopError):
        trained(make(), optimizer=None, callbacks=[Stop(5)], checkpoint=checkpoint)
    _, resumed = trained(make(), optimizer=None, callbacks=[Stop(-1)], checkpoint=checkpoint)
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name


def test_milestones_survive_a_restart(tmp_path):
    def schedule(optimizer, steps):
        return torch.optim.lr_scheduler.MultiStepLR(optimizer, [7, 12])

    checkpoint = Checkpoint(str(tmp_path / "checkpoints"), every_steps=2, every_s=None)
    recorder = Recorder()
    with pytest.raises(StopError):
        trained(schedule=schedule, callbacks=[Stop(5)], checkpoint=checkpoint)
    trained(schedule=schedule, callbacks=[recorder], checkpoint=checkpoint)
    assert recorder.rates == pytest.approx([0.1] * 2 + [0.01] * 5 + [0.001] * 5)


@pytest.mark.parametrize(("one", "other"), [({}, {"accumulate": 2}), ({}, {"ema": 0.9}), ({"schedule": "cosine"}, {})])
def test_another_method_is_refused_by_name(tmp_path, one, other):
    checkpoint = str(tmp_path / "checkpoints")
    trained(epochs=1, checkpoint=checkpoint, **one)
    name = next(iter(one | other))
    with pytest.raises(dtk.CheckpointError, match=f"with {name}=.*, and this has {name}="):
        trained(epochs=2, checkpoint=checkpoint, **other)


def test_a_task_goes_on_with_its_weights():
    task = Fit()
    _, first = trained(task, epochs=1)
    before = []

    class Look(dtk.Callback):
        def on_train_start(self, training):
            before.append({name: value.clone() for name, value in task.state_dict().items()})

    trained(task, epochs=1, callbacks=[Look()])
    assert_close(first, before[0], atol=0, rtol=0)


def test_half_precision_scales_all_optimizers_alike(monkeypatch):
    class Both(Duel):
        def optimizers(self):
            return {name: torch.optim.SGD(getattr(self, name).parameters(), lr=0.01) for name in ("one", "two")}

        def step(self, batch):
            return sum((part(batch["inputs"])[:, 0] - batch["target"]) ** 2 for part in (self.one, self.two))

    scaler = torch.amp.GradScaler
    monkeypatch.setattr(torch.amp, "GradScaler", lambda device, enabled: scaler(device, 0.0625, 2.0, 0.5, 1, enabled))
    _, half = trained(Both(), precision="fp16")
    _, whole = trained(Both())
    assert_close(half, whole, atol=3e-3, rtol=3e-2)


def outcome(name, loader, validation, path=None, stop=None):
    context = current_rank()
    method = {"ddp": Method(), "fsdp": Method(strategy="fsdp", ema=0.9)}[name]
    torch.manual_seed(1)
    layers = (
        [nn.Linear(3, 8), nn.Linear(8, 1)] if name == "fsdp" else [nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 1)]
    )
    task = NetworkTask(nn.Sequential(*layers), SampleLoss(resolve_loss("mse")), resolve_optimizer("adam", 0.1))
    checkpoint = None if path is None else Checkpoint(path, every_steps=4, every_s=None)
    recipe = Recipe(task, 3, None, 0, method, checkpoint, () if stop is None else (Stop(stop),))
    here = (one.on_rank(context.rank, context.ranks) for one in (loader, validation))
    report = train_rank(recipe, *here, context)
    return report.state, [entry["validation_loss"] for entry in report.history]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddp", "fsdp"])
@pytest.mark.usefixtures("client", "no_rank_left")
def test_two_ranks_resume_buffers_parts_and_the_best_epoch(tmp_path, name):
    loaders = loader_of(global_batch_size=33), loader_of(global_batch_size=100, tail="pad")
    whole, losses = dtk.launch(outcome, name, *loaders, ranks=2)[0]
    with pytest.raises(dtk.RankError, match="StopError"):
        dtk.launch(outcome, name, *loaders, str(tmp_path / "checkpoints"), 9, ranks=2)
    resumed, resumed_losses = dtk.launch(outcome, name, *loaders, str(tmp_path / "checkpoints"), ranks=2)[0]
    if name == "fsdp":  # where what is gathered lies in memory may round otherwise
        assert_close(whole, resumed, atol=1e-6, rtol=1e-6)
        assert losses == pytest.approx(resumed_losses, rel=1e-6)
        return
    for key, value in whole.items():
        assert torch.equal(value, resumed[key]), key
    assert losses == resumed_losses
