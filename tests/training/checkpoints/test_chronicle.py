"""The history and the summary that stay with the checkpoints."""

from __future__ import annotations

import json

import fsspec
import pyarrow.parquet as pq
import pytest

from dtk.training.checkpoints.chronicle import HISTORY, SUMMARY, Chronicle
from dtk.training.checkpoints.directory import Checkpoint, CheckpointDirectory
from dtk.training.fitting import train
from tests.training.checkpoints.test_resuming import Net, StopError, data, loaders  # noqa: F401


def epochs(count):
    return [{"epoch": number + 1, "loss": 1 / (number + 1), "samples": 960} for number in range(count)]


def test_samples_are_counted_once_though_a_training_was_interrupted(data, tmp_path):  # noqa: F811
    path = tmp_path / "checkpoints"
    checkpoint = Checkpoint(str(path), every_steps=4, every_s=None)
    options = {"epochs": 3, "learning_rate": 0.01, "progress": False, "checkpoint": checkpoint}
    loader, validation = loaders(data)
    steps, samples = len(loader), sum(loader.plan.samples_in_step(step) for step in range(len(loader)))
    with pytest.raises(StopError):
        train(Net(22), loader, validation=validation, **options)
    broken = json.loads((path / SUMMARY).read_text())
    assert not broken["is_finished"]
    assert broken["epochs"] == [{"epoch": 1, "samples": samples}]
    bundle = train(Net(), loaders(data)[0], validation=validation, **options)
    summary = json.loads((path / SUMMARY).read_text())
    assert summary["is_finished"]
    assert summary["restarts"] == 1
    assert summary["epochs"] == [{"epoch": number, "samples": samples} for number in (1, 2, 3)]
    assert summary["samples"] == 3 * samples
    assert summary["steps"] == 3 * steps
    assert [launch["steps"] for launch in summary["launches"]] == [20, 3 * steps - 20]  # 21 was the last one whole
    assert [launch["ranks"] for launch in summary["launches"]] == [1, 1]
    history = pq.read_table(path / HISTORY).to_pylist()
    assert history == list(bundle.history)
    assert {"epoch", "loss", "samples", "validation_loss"} <= history[0].keys()
    assert not list(path.glob(".*"))


def test_steps_that_a_later_launch_went_back_behind_are_not_counted(tmp_path):
    steps = []
    for first, following in [(0, 30), (20, 50), (10, 60)]:
        directory = CheckpointDirectory(str(tmp_path))
        chronicle = Chronicle(str(tmp_path), directory.claim(), 2, first)
        chronicle.write(epochs(following // 10), step=following, left="")
        summary = json.loads((tmp_path / SUMMARY).read_text())
        assert summary["steps"] == following
        steps.append([launch["steps"] for launch in summary["launches"]])
    assert steps == [[30], [20, 30], [10, 0, 50]]


def test_a_launch_that_was_replaced_writes_nothing(tmp_path):
    first = CheckpointDirectory(str(tmp_path))
    old = Chronicle(str(tmp_path), first.claim(), 2, 0)
    second = CheckpointDirectory(str(tmp_path))
    new = Chronicle(str(tmp_path), second.claim(), 2, 0)
    new.write(epochs(1), step=10)
    before = (tmp_path / SUMMARY).read_text()
    old.write(epochs(2), step=20)
    assert (tmp_path / SUMMARY).read_text() == before


def test_another_programs_file_is_no_hindrance(tmp_path):
    directory = CheckpointDirectory(str(tmp_path))
    number = directory.claim()
    (tmp_path / SUMMARY).write_text('{"launches": 3}')
    Chronicle(str(tmp_path), number, 1, 0).write([], step=1, left="signal SIGTERM")
    summary = json.loads((tmp_path / SUMMARY).read_text())
    assert not summary["is_finished"]
    assert summary["launches"][0]["left"] == "signal SIGTERM"
    assert not (tmp_path / HISTORY).exists()


def test_a_directory_that_takes_nothing_brings_a_warning(tmp_path):
    directory = CheckpointDirectory(str(tmp_path))
    chronicle = Chronicle(str(tmp_path), directory.claim(), 1, 0)
    (tmp_path / SUMMARY).mkdir()
    with pytest.warns(UserWarning, match=f"the history was not written to {tmp_path}: .*summary.json"):
        chronicle.write(epochs(1), step=10)


def test_an_object_store_holds_them_too():
    Chronicle("memory://chronicle", 1, 2, 0).write(epochs(2), step=20, left="")
    with fsspec.open(f"memory://chronicle/{HISTORY}") as file:
        assert pq.read_table(file).column("epoch").to_pylist() == [1, 2]
