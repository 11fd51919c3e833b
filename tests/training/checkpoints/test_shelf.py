"""Checkpoints in object stores: whole or not there, and claimed by one only."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import fsspec
import pytest
import torch

from dtk.errors import CheckpointError, NotFoundError
from dtk.training.checkpoints.directory import Checkpoint, CheckpointDirectory
from dtk.training.checkpoints.saving import Saver
from dtk.training.checkpoints.shelf import Shelf
from dtk.training.fitting import train
from tests.training.checkpoints.test_resuming import Net, StopError, assert_equal, data, loaders, weights  # noqa: F401


@pytest.fixture
def s3(monkeypatch):
    """A bucket of a real S3 server on loopback."""
    pytest.importorskip("s3fs")
    pytest.importorskip("moto.server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        options = {"endpoint_url": f"http://127.0.0.1:{port}", "key": "any", "secret": "any"}
        try:
            end = time.monotonic() + 60
            while socket.socket().connect_ex(("127.0.0.1", port)):
                assert time.monotonic() < end
                time.sleep(0.1)
            fsspec.filesystem("s3", **options).mkdir("bucket")
            yield options
        finally:
            server.kill()


@pytest.fixture(params=["local", "memory", pytest.param("s3", marks=pytest.mark.infra)])
def place(request, tmp_path):
    """Where checkpoints may be, and the options for it."""
    if request.param == "s3":
        return "s3://bucket/run", request.getfixturevalue("s3")
    return (str(tmp_path / "run") if request.param == "local" else f"memory://{uuid.uuid4().hex}/run"), None


pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")


def test_files_come_and_go_whole(place, tmp_path):
    shelf = Shelf(*place)
    assert shelf.names() == set()
    shelf.make("folder")
    shelf.write("folder/small", b"one")
    shelf.write("folder/small", b"two")
    assert shelf.read("folder/small") == b"two"
    with pytest.raises(FileExistsError):
        shelf.write("folder/small", b"three", exclusive=True)
    assert shelf.read("folder/small") == b"two"
    shelf.write("folder/other", b"x", exclusive=True)
    assert shelf.names("folder") == {"small", "other"}
    assert shelf.names() == {"folder"}
    assert shelf.has("folder")
    assert not shelf.has("folder/none")
    if not shelf.is_local:
        (tmp_path / "here").write_bytes(b"large")
        shelf.put(tmp_path / "here", "folder/large")
        shelf.get("folder/large", tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == b"large"
    shelf.remove("folder")
    shelf.remove("folder")
    assert not shelf.has("folder")


def test_of_many_that_claim_at_once_each_number_goes_to_one(tmp_path):
    def claim(_):
        try:
            return CheckpointDirectory(str(tmp_path)).claim()
        except CheckpointError:
            return None

    with ThreadPoolExecutor(8) as threads:
        claimed = [number for number in threads.map(claim, range(16)) if number is not None]
    assert sorted(claimed) == list(range(1, len(claimed) + 1))


def test_one_that_looked_too_early_claims_nothing(place):
    first, second = CheckpointDirectory(*place), CheckpointDirectory(*place)
    second._last_claim = lambda: 0
    second.shelf.has = lambda name: False  # the store itself refuses what is written
    assert first.claim() == 1
    with pytest.raises(CheckpointError, match="another training has just begun to write to checkpoint="):
        second.claim()
    assert CheckpointDirectory(*place).claim() == 2


def test_a_training_goes_on_from_an_object_store(place, data):  # noqa: F811
    url, storage_options = place
    checkpoint = Checkpoint(url, every_steps=4, every_s=None, storage_options=storage_options)
    options = {"epochs": 3, "learning_rate": 0.01, "progress": False}
    with pytest.raises(StopError):
        train(Net(20), loaders(data)[0], checkpoint=checkpoint, **options)
    resumed = train(Net(), loaders(data)[0], checkpoint=checkpoint, **options)
    assert_equal(weights(resumed), weights(train(Net(), loaders(data)[0], **options)))
    shelf = Shelf(*place)
    assert len([name for name in shelf.names() if name.startswith("step")]) == 2


def test_what_was_cut_off_in_a_store_is_passed_over(place, tmp_path):
    saver = Saver(Checkpoint(place[0], every_s=None, storage_options=place[1]), 0, 1)
    saver.claim()
    for step in (1, 2):
        saver.save(step, {"weight": torch.full((100,), float(step))}, {})
        saver.wait()
    shelf, name = Shelf(*place), "step-000000000002-00000001"
    (file,) = (one for one in shelf.names(name) if one.endswith(".safetensors"))
    shelf.write(f"{name}/{file}", b"cut off")
    again, found = Saver(Checkpoint(place[0], storage_options=place[1]), 0, 1), {"weight": torch.zeros(100)}
    _, manifests = again.claim()
    with pytest.warns(UserWarning, match=f"{name}/{file} is damaged; the checkpoint before it is taken instead"):
        last = again.load_last(manifests, lambda manifest, path: again.load(path, found))
    assert last.step == 1
    assert torch.equal(found["weight"], torch.ones(100))


@pytest.mark.infra
def test_a_store_that_is_not_there_is_said_plainly(s3):
    with pytest.raises(NotFoundError, match="s3://nobucket/.* cannot be written: .*; make its bucket first"):
        CheckpointDirectory("s3://nobucket/run", s3).claim()
