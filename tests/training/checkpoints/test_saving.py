"""Two real ranks that write checkpoints, one of which cannot: both learn of it, and neither waits for the other."""

from __future__ import annotations

import os
import resource
import subprocess
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed, nn

import dtk
from dtk.errors import CheckpointError, RankError
from dtk.memory import tree_held_nbytes
from dtk.training.checkpoints.directory import Checkpoint
from dtk.training.checkpoints.keeper import Keeper, Left
from dtk.training.checkpoints.saving import FAILURES, Saver
from dtk.training.gang.launching import launch
from dtk.training.gang.rank import RankContext
from dtk.training.run import plan_rank_memory

pytestmark = pytest.mark.usefixtures("no_rank_left")


def tensors(value):
    return {f"weight {number}": torch.full((50_000,), float(value)) for number in range(4)}


def fail_to_write(path):
    """A checkpoint fails on rank 1, then the manifest does on rank 0, then the digest on rank 1; and some succeed."""
    rank = distributed.get_rank()
    saver = Saver(Checkpoint(path, every_s=None), rank, 2, hang_timeout_s=30)
    saver.claim()
    told = []

    def save(step):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            saver.save(step, tensors(step), {"step": step})
            saver.settle()
            distributed.barrier()
            left = sorted(name for name in os.listdir(path) if name.startswith("step"))
            distributed.barrier()
            saver.wait()
        told.append((left, saver._failures, [str(one.message) for one in caught]))

    save(1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if rank == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    save(2)
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    write = saver._directory.shelf.write
    if rank == 0:
        saver._directory.shelf.write = lambda name, content: write(f"nowhere/{name}", content)
    save(3)
    saver._directory.shelf.write = write
    save(4)
    bring = saver._bring
    if rank == 1:
        saver._bring = lambda path, name: bring(None, name)
    save(5)
    saver._bring = bring
    save(6)
    return told


def test_a_rank_that_cannot_write_does_not_part_it_from_the_others(client, tmp_path):
    told, other = launch(fail_to_write, str(tmp_path / "checkpoints"), ranks=2, hang_timeout_s=60)
    step = "step-{:012d}-00000001".format
    for rank in (told, other):
        assert [left for left, _, _ in rank] == [
            [step(1)],
            [step(1)],  # what was half written is gone
            [step(1)],
            [step(1), step(4)],
            [step(1), step(4)],
            [step(4), step(6)],
        ]
        assert [failures for _, failures, _ in rank] == [0, 1, 2, 0, 1, 0]
    assert [len(texts) for _, _, texts in told] == [0, 1, 1, 0, 1, 0]
    assert "File too large" in told[1][2][0]
    assert "the training goes on, and tries again at the next one" in told[1][2][0]
    assert not any(texts for _, _, texts in other)


def lose_the_other(path):
    """Rank 1 dies while rank 0 waits for it in the background."""
    rank = distributed.get_rank()
    saver = Saver(Checkpoint(path, every_s=None), rank, 2, hang_timeout_s=30)
    saver.claim()
    if rank == 1:
        saver._write_files = lambda name: os._exit(0)
    saver.save(1, tensors(1), {})
    try:
        saver.wait()
    except Exception as error:
        return type(error).__name__, str(error)
    return None


def test_a_rank_that_dies_in_a_checkpoint_is_the_one_that_is_blamed(client, tmp_path):
    with pytest.raises(RankError, match="rank 1 .* died: exit status 0") as caught:
        launch(lose_the_other, str(tmp_path / "checkpoints"), ranks=2, hang_timeout_s=60)
    assert caught.value.is_recoverable


def hang_in_the_background(path):
    rank = distributed.get_rank()
    saver = Saver(Checkpoint(path, every_s=None), rank, 2, hang_timeout_s=2)
    saver.claim()
    if rank == 1:
        saver._write_files = lambda name: saver._on_all(lambda: time.sleep(6))
    saver.save(1, tensors(1), {})
    try:
        saver.wait()
    except CheckpointError:
        return "taken for a disk that is full"
    except RuntimeError as error:
        return "Timed out" in str(error) or "closed" in str(error)
    return None


@pytest.mark.slow
def test_a_rank_that_hangs_in_a_checkpoint_keeps_the_others_for_no_longer_than_the_limit(client, tmp_path):
    assert launch(hang_in_the_background, str(tmp_path / "checkpoints"), ranks=2, hang_timeout_s=60) == [True, True]


@pytest.fixture
def alone(tmp_path):
    saver = Saver(Checkpoint(str(tmp_path / "checkpoints"), every_s=None), 0, 1)
    saver.claim()
    return saver


@pytest.fixture
def small_disk(tmp_path):
    """A real disk of 3 MiB, where this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], check=False).returncode:
        pytest.skip("this user may not mount a disk")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_leaves_the_checkpoint_before(small_disk):
    saver = Saver(Checkpoint(str(small_disk / "checkpoints"), every_s=None, keep=1), 0, 1)
    saver.claim()
    saver.save(1, tensors(1), {})  # 0.8 MB
    saver.wait()
    (small_disk / "other").write_bytes(bytes(1_900_000))
    saver.save(2, tensors(2), {})
    with pytest.warns(UserWarning, match="could not be written .*: the training goes on|No space left"):
        saver.wait()
    (before,), _ = saver._directory.published()
    path = Path(saver._directory.path) / before.name
    assert before.step == 1
    assert saver._directory.damage(before, list(before.files), path) == ""
    saver.save(3, tensors(3), {})
    with pytest.raises(CheckpointError, match="No space left on device.*; those before it are whole"):
        saver.wait(is_last=True)
    os.unlink(small_disk / "other")
    saver.save(4, tensors(4), {})
    saver.wait(is_last=True)
    assert [manifest.step for manifest in saver._directory.published()[0]] == [4]


def test_several_failures_in_a_row_are_an_error(alone, tmp_path):
    alone._write_tensors = lambda path: (tmp_path / "nowhere" / "file").touch()
    for number in range(FAILURES):
        alone.save(number, tensors(1), {})
        with pytest.raises(CheckpointError) if number == FAILURES - 1 else pytest.warns(UserWarning, match="goes on"):
            alone.wait()


def test_what_the_loop_changes_meanwhile_is_not_in_the_checkpoint(alone):
    state, values, goes_on = {"history": [{"epoch": 1}]}, tensors(1), threading.Event()
    write = alone._write_tensors
    alone._write_tensors = lambda path: goes_on.wait(20) and write(path)
    alone.save(1, values, state)
    state["history"].append({"epoch": 2})
    values["weight 0"].zero_()
    goes_on.set()
    alone.wait()
    (manifest,), _ = alone._directory.published()
    assert manifest.state == {"history": [{"epoch": 1}]}
    found = tensors(0)
    alone.load(Path(alone._directory.path) / manifest.name, found)
    assert torch.equal(found["weight 0"], torch.ones(50_000))


class AtItsStart:
    step = epochs_done = 0

    def tensors(self):
        raise AssertionError("torch would make up the state of an optimizer that took no step")

    standing = restore = longest = tensors


def test_one_that_leaves_before_its_first_step_leaves_nothing(tmp_path):
    context = RankContext(0, 1, "cpu", print)
    with Keeper(Checkpoint(str(tmp_path / "checkpoints")), AtItsStart(), context) as keeper:
        keeper.restore()
        context.on_leave("signal SIGTERM")
        with pytest.raises(Left, match="signal SIGTERM"):
            keeper.before_step()
        keeper.finish()
    assert not list(tmp_path.glob("checkpoints/step*"))


def test_old_ones_that_cannot_be_removed_do_not_cost_the_new_one(alone):
    def refuse(keep):
        raise PermissionError

    alone._directory.prune = refuse
    for step in range(4):
        alone.save(step, tensors(step), {})
        alone.wait(is_last=True)
    assert [manifest.step for manifest in alone._directory.published()[0]] == [3, 2, 1, 0]


def test_what_cannot_be_written_or_read_is_said_plainly(alone, tmp_path):
    with pytest.raises(CheckpointError, match="checkpoint='/proc/nowhere' cannot be written: .*; give another"):
        Saver(Checkpoint("/proc/nowhere"), 0, 1).claim()
    alone.save(1, tensors(1), {})
    alone.wait()
    (folder,) = tmp_path.glob("checkpoints/step*")
    with pytest.raises(CheckpointError, match="cannot be read: .*Missing key in checkpoint state_dict: strange"):
        alone.load(folder, tensors(0) | {"strange": torch.zeros(1)})


def test_one_that_is_taken_over_is_no_disk_that_is_full(alone, tmp_path):
    Saver(Checkpoint(str(tmp_path / "checkpoints"), every_s=None), 0, 1).claim()
    alone.save(1, tensors(1), {})
    with pytest.raises(CheckpointError, match="was claimed by launch 2"):
        alone.wait()
    assert not list((tmp_path / "checkpoints").glob("step*"))


@pytest.mark.parametrize("harm", ["cut", "flipped", "gone", "no manifest", "half a manifest"])
def test_the_checkpoint_before_a_damaged_one_is_taken(alone, tmp_path, harm):
    for step in (1, 2):
        alone.save(step, tensors(step), {"step": step})
        alone.wait()
    folder = tmp_path / "checkpoints" / "step-000000000002-00000001"
    shard, manifest = folder / "shard-00001-model-00001-of-00001.safetensors", folder / "checkpoint.json"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    {
        "cut": lambda: os.truncate(shard, 1000),
        "flipped": lambda: shard.write_bytes(content),
        "gone": shard.unlink,
        "no manifest": manifest.unlink,
        "half a manifest": lambda: os.truncate(manifest, 100),
    }[harm]()
    again = Saver(Checkpoint(str(tmp_path / "checkpoints"), every_s=None), 0, 1)
    found = {}

    def restore(manifest, path):
        read = tensors(0)
        again.load(path, read)
        found[manifest.state["step"]] = read

    _, manifests = again.claim()
    if harm == "no manifest":  # then it never was one
        again.load_last(manifests, restore)
    else:
        with pytest.warns(UserWarning, match=f"{folder}/.* is (damaged|missing); the checkpoint before it is taken"):
            again.load_last(manifests, restore)
    assert list(found) == [1]
    assert all(torch.equal(value, torch.ones(50_000)) for value in found[1].values())
    assert not folder.exists()


def test_no_checkpoint_that_is_whole_is_an_error_and_no_new_start(alone, tmp_path):
    alone.save(1, tensors(1), {})
    alone.wait()
    (shard,) = tmp_path.glob("checkpoints/step*/shard*")
    os.truncate(shard, 10)
    for _ in range(2):  # the second time as well: what is damaged stays until there is something better
        again = Saver(Checkpoint(str(tmp_path / "checkpoints"), every_s=None), 0, 1)
        _, manifests = again.claim()
        with pytest.raises(CheckpointError, match=f"is whole: {shard} is damaged; give another directory"):
            again.load_last(manifests, lambda manifest, path: None)


def hold(path, module_nbytes):
    """Write a checkpoint of a module with Adam and its best state; say how much more was held meanwhile."""
    saver = Saver(Checkpoint(path, every_s=None), distributed.get_rank(), distributed.get_world_size())
    saver.claim()
    saver.save(0, {"weight": torch.zeros(1)}, {})
    saver.wait()
    large = {f"{kind} {number}": torch.ones(2**18) for kind in range(4) for number in range(module_nbytes // 2**20)}
    before = peak = tree_held_nbytes(os.getpid())
    for step in (1, 2):
        saver.save(step, large, {})
        while saver.is_writing:
            peak = max(peak, tree_held_nbytes(os.getpid()))
        saver.wait()
    return peak - before


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_checkpoint_holds_what_was_planned(client, tmp_path, ranks):
    module = nn.Linear(2**18 - 1, 40)
    module_nbytes = 40 * 2**20
    loader = dtk.Loader({"x": np.zeros(64), "y": np.zeros(64)}, target="y", global_batch_size=16)
    plans = {"loader": loader.plan}
    without = plan_rank_memory(module, plans, ranks)
    planned = plan_rank_memory(module, plans, ranks, checkpoints=True)["checkpoint"]
    assert "checkpoint" not in without
    held = max(launch(hold, str(tmp_path / "checkpoints"), module_nbytes, ranks=ranks))
    assert 0.8 * planned < held < 1.1 * planned
