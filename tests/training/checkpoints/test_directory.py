"""The directory of checkpoints: whose turn it is to write, which ones count, which are whole."""

from __future__ import annotations

import errno
import os

import pytest

from dtk.errors import ArgumentError, CheckpointError
from dtk.training.checkpoints.directory import Checkpoint, CheckpointDirectory, file_digest


def write(directory, step, content=b"weights", state=None):
    path = directory.shelf.local(directory.begin(step))
    (path / "shard.safetensors").write_bytes(content)
    files = {"shard.safetensors": [len(content), file_digest(path / "shard.safetensors")]}
    directory.publish(step, files, state or {"step": step})
    return path


def steps(directory):
    return [manifest.step for manifest in directory.published()[0]]


def test_a_later_launch_finds_what_an_earlier_one_published(tmp_path):
    first = CheckpointDirectory(str(tmp_path / "new" / "checkpoints"))
    assert first.claim() == 1
    assert steps(first) == []
    write(first, 10)
    write(first, 9)
    second = CheckpointDirectory(str(first.path))
    assert second.claim() == 2
    assert steps(second) == [10, 9]
    assert second.published()[0][0].state == {"step": 10}
    write(second, 12)
    assert steps(second) == [12, 10, 9]


def test_an_older_launch_publishes_nothing_more(tmp_path):
    first, second, third = (CheckpointDirectory(str(tmp_path)) for _ in range(3))
    first.claim()
    write(first, 1)
    path = first.shelf.local(first.begin(2))  # it sleeps here, and wakes up late
    second.claim()
    assert not path.exists()
    with pytest.raises(CheckpointError, match="was claimed by launch 2: this one, 1, publishes nothing more here"):
        write(first, 2)
    # even what it publishes between its look and its last write is never read
    (path / "checkpoint.json").write_text((tmp_path / "step-000000000001-00000001" / "checkpoint.json").read_text())
    write(second, 3)
    assert steps(second) == [3, 1]
    third.claim()
    assert steps(third) == [3, 1]
    assert not path.exists()


def test_what_was_begun_and_not_published_is_none(tmp_path):
    first, second = CheckpointDirectory(str(tmp_path)), CheckpointDirectory(str(tmp_path))
    first.claim()
    write(first, 1)
    (first.shelf.local(first.begin(2)) / "shard.safetensors").write_bytes(b"half")
    assert steps(first) == [1]
    second.claim()
    assert steps(second) == [1]
    assert len(list(tmp_path.glob("step-*"))) == 1


def test_the_last_ones_stay(tmp_path):
    directory = CheckpointDirectory(str(tmp_path))
    directory.claim()
    for step in range(5):
        write(directory, step)
        directory.prune(2)
    assert steps(directory) == [4, 3]
    assert len(list(tmp_path.glob("step-*"))) == 2


@pytest.mark.parametrize("harm", ["changed", "cut", "gone"])
def test_damage_is_found_and_named(tmp_path, harm):
    directory = CheckpointDirectory(str(tmp_path))
    directory.claim()
    file = write(directory, 1) / "shard.safetensors"
    (manifest,), _ = directory.published()
    assert directory.damage(manifest, ["shard.safetensors"], file.parent) == ""
    if harm == "gone":
        file.unlink()
    else:
        file.write_bytes(b"Weights" if harm == "changed" else b"weig")
    fault = directory.damage(manifest, ["shard.safetensors"], file.parent)
    assert fault == f"{file} is {'missing' if harm == 'gone' else 'damaged'}"


@pytest.mark.parametrize(
    "harm",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: "{}",
        lambda text: text.replace('"step": 2, "inc', '"step": 3, "inc'),
        lambda text: text.replace("0.25", "0.75"),
    ],
)
def test_a_damaged_manifest_is_no_checkpoint_and_is_named(tmp_path, harm):
    directory = CheckpointDirectory(str(tmp_path))
    directory.claim()
    write(directory, 1)
    manifest = write(directory, 2, state={"loss": 0.25, 1: float("nan")}) / "checkpoint.json"
    assert steps(directory) == [2, 1]
    damaged = harm(manifest.read_text())
    assert damaged != manifest.read_text()
    manifest.write_text(damaged)
    found, faults = directory.published()
    assert [one.step for one in found] == [1]
    assert faults == {manifest.parent.name: f"{manifest} is damaged"}


def test_a_checkpoint_of_a_newer_version_is_refused(tmp_path):
    directory = CheckpointDirectory(str(tmp_path))
    directory.claim()
    manifest = write(directory, 1) / "checkpoint.json"
    manifest.write_text(manifest.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(CheckpointError, match="is of version 2, and this dtk knows 1; install a newer one"):
        directory.published()


def test_two_that_claim_at_once_do_not_both_win(tmp_path):
    first, second = CheckpointDirectory(str(tmp_path)), CheckpointDirectory(str(tmp_path))
    second._last_claim = lambda: 0  # it has looked before the first one wrote
    first.claim()
    with pytest.raises(CheckpointError, match="another training has just begun to write to checkpoint="):
        second.claim()


def test_a_directory_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(CheckpointError, match="holds something else; give a directory of its own"):
        CheckpointDirectory(str(tmp_path)).claim()
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_the_launches_of_a_training_know_a_take_over(tmp_path):
    def claim(training):
        return CheckpointDirectory(str(tmp_path)).claim(training)

    assert [claim("mine"), claim("mine"), claim("other")] == [1, 2, 3]
    with pytest.raises(CheckpointError, match="was taken over by another training, with launch 3, since the last"):
        claim("mine")
    assert claim("other") == 4
    assert claim("third") == 5  # somebody calls it anew


def test_a_claim_that_was_cut_off_claims_nothing(tmp_path):
    first, second, third = (CheckpointDirectory(str(tmp_path)) for _ in range(3))
    first.claim()
    write(first, 1)
    (tmp_path / "claims" / "00000002.json").write_text("")  # on a disk without hard links
    assert second.claim() == 3
    assert steps(second) == [1]
    write(second, 2)
    assert third.claim() == 4
    assert steps(third) == [2, 1]


def test_an_older_launch_prunes_nothing_more(tmp_path):
    first, second = CheckpointDirectory(str(tmp_path)), CheckpointDirectory(str(tmp_path))
    first.claim()
    write(first, 1)
    write(first, 2)
    second.claim()
    with pytest.raises(CheckpointError, match="was claimed by launch 2"):
        first.prune(1)
    assert steps(second) == [2, 1]


def test_a_directory_without_hard_links_is_claimed_too(tmp_path, monkeypatch):
    def link(source, target):
        raise OSError(errno.EOPNOTSUPP, "not here")

    monkeypatch.setattr(os, "link", link)
    assert [CheckpointDirectory(str(tmp_path)).claim() for _ in range(2)] == [1, 2]
    shelf = CheckpointDirectory(str(tmp_path)).shelf
    with pytest.raises(FileExistsError):
        shelf.write("claims/00000002.json", b"", exclusive=True)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"path": ""}, "checkpoint='' names no directory"),
        ({"path": "a", "every_s": 0}, "every_s=0 must be more than 0 seconds, or None"),
        ({"path": "a", "every_s": float("nan")}, "every_s=nan must be"),
        ({"path": "a", "every_steps": 0}, "every_steps=0 must be at least 1, or None"),
        ({"path": "a", "keep": 0}, "keep=0 must be at least 1"),
    ],
)
def test_what_cannot_work_is_refused(options, text):
    with pytest.raises(ArgumentError, match=text):
        Checkpoint(**options)


def test_a_path_is_absolute_before_it_travels(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert Checkpoint("mine").path == str(tmp_path / "mine")
    assert Checkpoint("s3://bucket/mine").path == "s3://bucket/mine"
