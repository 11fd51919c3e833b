"""The view of a loader that PyTorch's DataLoader and what is built on it take."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import warnings
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import distributed
from torch.utils.data import DataLoader, IterableDataset

from dtk.errors import ArgumentError
from dtk.loader import Loader

ROWS = 1200
SMALL = {"global_batch_size": 50, "memory": "64 KiB", "read_threads": 2}


@pytest.fixture
def path(tmp_path):
    table = pa.table({"number": np.arange(ROWS, dtype="f4"), "y": np.arange(ROWS) % 2})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=100)
    return str(tmp_path)


def dataset(path, **options):
    return Loader(path, target="y", **SMALL, **options).to_iterable_dataset()


def numbers(batches):
    return np.stack([batch["inputs"][:, 0].numpy() for batch in batches])


def epoch_rows(epoch, path, rank=0, ranks=1):
    return Loader(path, target="y", **SMALL).plan.order.batch_rows(epoch, rank, ranks)


def test_items_are_whole_batches_that_stay_valid_and_each_iteration_is_an_epoch(path):
    view = dataset(path)
    assert isinstance(view, IterableDataset)
    assert len(view) == 24
    for epoch in range(2):
        np.testing.assert_array_equal(numbers(list(view)), epoch_rows(epoch, path))
    view.set_epoch(7)
    np.testing.assert_array_equal(numbers(list(view)), epoch_rows(7, path))
    for _ in view:
        break
    both = [(a["inputs"][:, 0], b["inputs"][:, 0]) for a, b in zip(view, view, strict=True)]
    for number, epoch in enumerate((9, 10)):
        np.testing.assert_array_equal(torch.stack([pair[number] for pair in both]), epoch_rows(epoch, path))
    with pytest.raises(ArgumentError, match="epoch=-1"):
        view.set_epoch(-1)


def test_it_begins_where_the_loader_stands_and_leaves_it_there(path):
    loader = Loader(path, target="y", **SMALL)
    loader.load_state_dict({**loader.state_dict(), "epoch": 2, "step": 20})
    view = loader.to_iterable_dataset()
    np.testing.assert_array_equal(numbers(view), epoch_rows(2, path)[20:])
    np.testing.assert_array_equal(numbers(view), epoch_rows(3, path))
    assert (loader.state_dict()["epoch"], loader.state_dict()["step"]) == (2, 20)
    for _ in loader:
        break
    np.testing.assert_array_equal(numbers(loader.to_iterable_dataset()), epoch_rows(3, path))


def test_the_state_goes_on_in_another_one(path):
    first, second = dataset(path), dataset(path)
    batches = iter(first)
    for _ in range(5):
        next(batches)
    second.load_state_dict(first.state_dict())
    np.testing.assert_array_equal(numbers(second), numbers(batches))
    np.testing.assert_array_equal(numbers(second), epoch_rows(1, path))


def in_rank(view, rank, results):
    results.put((rank, [numbers(view), numbers(view)]))


def test_ranks_that_get_the_same_view_count_their_epochs_apart(path):
    context = multiprocessing.get_context("fork")
    results, view = context.Queue(), dataset(path)
    pickled = ForkingPickler.dumps(view)  # as for a rank that is spawned
    np.testing.assert_array_equal(numbers(pickle.loads(pickled)), epoch_rows(0, path))
    np.testing.assert_array_equal(numbers(pickle.loads(pickled)), epoch_rows(0, path))
    processes = [context.Process(target=in_rank, args=(view, rank, results)) for rank in range(2)]
    for process in processes:
        process.start()
    for _ in processes:
        _, epochs = results.get(timeout=60)
        for epoch, seen in enumerate(epochs):
            np.testing.assert_array_equal(seen, epoch_rows(epoch, path))
    for process in processes:
        process.join(60)
    np.testing.assert_array_equal(numbers(view), epoch_rows(0, path))


@pytest.mark.parametrize("context", [None, "fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_data_loader_with_at_most_one_worker(path, context):
    view = dataset(path)
    workers = {} if context is None else {"num_workers": 1, "multiprocessing_context": context}
    loader = DataLoader(view, batch_size=None, **workers)
    assert len(loader) == 24
    for epoch in range(1 if context == "spawn" else 3):
        batches = list(loader)
        assert set(batches[0]) == {"inputs", "target", "weight"}
        np.testing.assert_array_equal(numbers(batches), epoch_rows(epoch, path))
    if context == "fork":  # a worker that lives on hears of an epoch
        loader = DataLoader(view, batch_size=None, persistent_workers=True, **workers)
        np.testing.assert_array_equal(numbers(loader), epoch_rows(3, path))
        view.set_epoch(8)
        np.testing.assert_array_equal(numbers(loader), epoch_rows(8, path))
        np.testing.assert_array_equal(numbers(loader), epoch_rows(9, path))


@pytest.mark.parametrize("num_workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_data_loader_that_would_batch_batches_is_refused(path, num_workers):
    for options in ({}, {"batch_size": 4}, {"batch_size": 4, "collate_fn": list}):
        with pytest.raises(ArgumentError, match=r"batch_size must be None.*DataLoader\(\.\.\., batch_size=None\)"):
            next(iter(DataLoader(dataset(path), num_workers=num_workers, **options)))


def test_several_workers_are_refused(path):
    with pytest.raises(ArgumentError, match="num_workers=2 would yield every batch 2 times; pass num_workers=0 or 1"):
        next(iter(DataLoader(dataset(path), batch_size=None, num_workers=2)))


def in_group(rank, path, file, results):
    os.environ.pop("RANK", None)
    distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    try:
        view = dataset(path)
        here = numbers(view)
        bound = pickle.loads(pickle.dumps(view))
        assert numbers(bound).shape == here.shape  # epoch 1
        view.set_epoch(0)
        bound = pickle.loads(pickle.dumps(view))
        distributed.barrier()
        distributed.destroy_process_group()
        results.put((rank, here, numbers(bound)))
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()


def test_rank_comes_from_the_process_group_and_travels_to_a_spawned_worker(path, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")  # as Lightning leaves it
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ArgumentError, match="WORLD_SIZE=2 is set but RANK is not; pass rank= and ranks="):
        list(dataset(path))
    monkeypatch.delenv("WORLD_SIZE")
    assert pickle.loads(pickle.dumps(dataset(path)))._loader._rank is None  # whoever gets it may join a group yet
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    arguments = (path, str(tmp_path / "store"), results)
    processes = [context.Process(target=in_group, args=(rank, *arguments)) for rank in range(2)]
    for process in processes:
        process.start()
    found = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(60)
    for rank, here, bound in found:
        np.testing.assert_array_equal(bound, here)
        np.testing.assert_array_equal(here, epoch_rows(0, path, rank, 2))


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
def test_torchdata_resumes_in_the_middle_of_an_epoch(path):
    stateful = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader
    for num_workers in (0, 1):
        first = stateful(dataset(path), batch_size=None, num_workers=num_workers)
        batches = iter(first)
        for _ in range(7):
            next(batches)
        second = stateful(dataset(path), batch_size=None, num_workers=num_workers)
        second.load_state_dict(first.state_dict())
        np.testing.assert_array_equal(numbers(list(second)), epoch_rows(0, path)[7:])
        np.testing.assert_array_equal(numbers(list(second)), epoch_rows(1, path))
        del batches


def test_accelerate_must_not_share_out_what_is_one_ranks(path):
    accelerate = pytest.importorskip("accelerate")
    from accelerate.data_loader import IterableDatasetShard, prepare_data_loader

    view = dataset(path, rank=0, ranks=2)
    with pytest.raises(ArgumentError, match="of one rank of ranks=2 once more.*leave it out of accelerator.prepare"):
        next(iter(IterableDatasetShard(view, batch_size=1, num_processes=2)))
    for options in ({"num_processes": 2, "process_index": 0}, {"put_on_device": True, "dispatch_batches": True}):
        for batch_size in (None, 1):
            prepared = prepare_data_loader(DataLoader(view, batch_size=batch_size), **options)
            with pytest.raises(ArgumentError, match="leave it out of accelerator.prepare"):
                next(iter(prepared))
    whole = dataset(path, rank=0, ranks=1)  # Accelerate may share out global batches
    prepared = accelerate.Accelerator(cpu=True).prepare(DataLoader(whole, batch_size=None))
    np.testing.assert_array_equal(numbers(list(prepared)), epoch_rows(0, path))
    np.testing.assert_array_equal(numbers(list(prepared)), epoch_rows(1, path))
    loader = Loader(path, **SMALL)
    assert accelerate.Accelerator(cpu=True).prepare(loader) is loader


def test_lightning_trains_from_a_loader_and_from_the_view(path, tmp_path):
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)
            self.seen = []

        def training_step(self, batch, number):
            self.seen.append(batch["inputs"][:, 0].clone())
            return self.layer(batch["inputs"]).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 1e-9)

    options = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    for data in (Loader(path, target="y", **SMALL), DataLoader(dataset(path), batch_size=None)):
        module = Module()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its hints are no errors
            trainer = lightning.Trainer(max_epochs=2, default_root_dir=tmp_path, enable_model_summary=False, **options)
            trainer.fit(module, data)
        expected = np.concatenate([epoch_rows(0, path), epoch_rows(1, path)])
        np.testing.assert_array_equal(torch.stack(module.seen), expected)
