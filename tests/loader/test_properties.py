"""What the loader promises, over shapes of real files: each sample once, the same at any number of ranks, resumable."""

from __future__ import annotations

import copy
import json
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs import Zlib

from dtk.errors import ArgumentError, DataError, MemoryLimitError
from dtk.loader import Loader, joining
from dtk.sources import datasets
from dtk.training.loop.losses import SampleLoss, resolve_loss, weighted_sum


@pytest.fixture(scope="module", autouse=True)
def no_chunk_is_too_small():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "_LEAST_NBYTES", 1)
        patch.setattr(joining, "_POOL_BLOCKS", 4)  # and row groups are joined
        yield


def write_parquet(folder, files):
    """Write files of row groups of given sizes, with rows numbered throughout."""
    start = 0
    for part, groups in enumerate(files):
        schema = pa.schema({"number": pa.float64(), "y": pa.int64(), "w": pa.float32()})
        with pq.ParquetWriter(folder / f"part-{part:03d}.parquet", schema) as writer:
            for rows in groups:
                number = np.arange(start, start + rows)
                columns = [number.astype("f8"), number % 3, (1 + number % 2).astype("f4")]
                writer.write_table(pa.table(columns, schema=schema), row_group_size=max(rows, 1))
                start += rows
    return str(folder)


def write_zarr(folder, samples, chunk, shard=None, version=3):
    """Write grids whose samples tell their number."""
    number = np.arange(samples)
    data = xr.Dataset(
        {
            "number": (("time", "y", "x"), np.broadcast_to(number[:, None, None], (samples, 2, 2)).astype("f4")),
            "y": (("time",), number % 3),
            "w": (("time",), (1 + number % 2).astype("f4")),
        }
    )
    shards = {} if shard is None else {"shards": (chunk * shard, 2, 2)}
    encoding = {"number": {"chunks": (chunk, 2, 2), **shards}}
    path = str(folder / "a.zarr")
    data.to_zarr(path, encoding=encoding, consolidated=False, zarr_format=version)
    return path


@st.composite
def files(draw):
    """A way to write a dataset, and its number of rows."""
    if draw(st.booleans()):
        rows = st.one_of(st.integers(0, 4), st.sampled_from([0, 1, 30, 30, 200]))
        groups = draw(
            st.lists(st.lists(rows, max_size=6), min_size=1, max_size=5).filter(lambda all: sum(map(sum, all)))
        )
        return lambda folder: write_parquet(folder, groups), sum(map(sum, groups))
    samples, chunk = draw(st.integers(1, 150)), draw(st.integers(1, 40))
    shard = draw(st.sampled_from([None, None, 1, 3]))
    version = draw(st.sampled_from([2, 3])) if shard is None else 3
    return lambda folder: write_zarr(folder, samples, chunk, shard, version), samples


@st.composite
def options(draw, rows):
    tail = draw(st.sampled_from(["trim", "pad"]))
    return {
        "inputs": ["number"],
        "target": "y",
        "weight": "w",
        "tail": tail,
        "global_batch_size": draw(st.integers(1, min(rows, 50) if tail == "trim" else 50)),
        "seed": draw(st.integers(0, 3)),
        "shuffle": draw(st.sampled_from([True, True, False])),
        "memory": draw(st.sampled_from(["24 KiB", "64 KiB", "1 MiB"])),
        "read_threads": draw(st.integers(1, 3)),
    }


def numbers(batch):
    """Numbers of the samples of a batch, which its other fields bear out; -1 where it is padding."""
    number = batch["inputs"].reshape(len(batch["inputs"]), -1)[:, 0].long()
    assert torch.equal(batch["target"], number % 3)
    is_real = batch["weight"] > 0
    assert torch.equal(batch["weight"][is_real], (1.0 + number % 2)[is_real])
    return torch.where(is_real, number, -1).numpy()


def global_batches(path, ranks, **chosen):
    """Put the batches of all ranks together, [steps, batch]."""
    parts = []
    for rank in range(ranks):
        loader = Loader(path, rank=rank, ranks=ranks, **chosen)
        order, batches = loader.plan.order, [numbers(batch) for batch in loader]
        assert {len(batch) for batch in batches} <= {order.batch_width(ranks)}
        assert len(batches) == len(loader)
        first, last = order.rank_slots(rank, ranks)
        parts.append(np.array(batches).reshape(len(loader), -1)[:, : last - first])
    return np.concatenate(parts, axis=1)


@settings(max_examples=40, deadline=None)
@given(files(), st.integers(2, 12), st.data())
def test_files_of_any_shape_give_each_sample_once_and_the_same_batches_to_any_ranks(written, ranks, data):
    write, rows = written
    chosen = data.draw(options(rows))
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder))
        whole = global_batches(path, 1, **chosen)
        np.testing.assert_array_equal(global_batches(path, ranks, **chosen), whole)
    real = np.sort(whole[whole >= 0])
    if chosen["tail"] == "pad":
        np.testing.assert_array_equal(real, np.arange(rows))
    else:
        assert len(np.unique(real)) == whole.size > rows - chosen["global_batch_size"]
        assert real[-1] < rows


@settings(max_examples=6, deadline=None)
@given(files(), st.data())
def test_a_run_that_is_resumed_at_every_step_and_once_more_equals_an_uninterrupted_one(written, data):
    write, rows = written
    chosen = {**data.draw(options(rows)), "global_batch_size": max(1, rows // 8)}
    first, second = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 5))
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder))
        loader = Loader(path, **chosen)
        whole, states = [], [loader.state_dict()]
        for batch in loader:
            whole.append(numbers(batch))
            states.append(loader.state_dict())
        for step, state in enumerate(states):
            taken, between = resumed(path, json.dumps(state), first, 1, chosen)
            np.testing.assert_array_equal(taken, whole[step : step + 1])
            taken, _ = resumed(path, json.dumps(between), second, len(whole), chosen)
            np.testing.assert_array_equal(taken, whole[step + 1 :])


def resumed(path, state, ranks, num_steps, chosen):
    """Take up to so many steps from a state on; return the global batches and the state after them."""
    parts, states = [], []
    for rank in range(ranks):
        loader = Loader(path, rank=rank, ranks=ranks, **chosen)
        loader.load_state_dict(json.loads(state))
        start, epoch = loader.state_dict()["step"], loader.epoch
        count = min(num_steps, len(loader) - start)
        first, last = loader.plan.order.rank_slots(rank, ranks)
        batches = iter(loader)
        parts.append([numbers(next(batches))[: last - first] for _ in range(count)])
        states.append(loader.state_dict())
        assert (loader.epoch, states[-1]["step"]) == (epoch, start + count)
        batches.close()
    assert all(state == states[0] for state in states)
    return [np.concatenate(rows) for rows in zip(*parts, strict=True)], states[0]


@pytest.mark.parametrize("kind", ["parquet", "zarr"])
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_gradients_of_a_weighted_loss_are_the_same_at_any_number_of_ranks(tmp_path, kind, loss):
    path = write_parquet(tmp_path, [[30, 0, 7], [], [40, 1]]) if kind == "parquet" else write_zarr(tmp_path, 78, 9)
    chosen = {
        "inputs": ["number"],
        "target": "y",
        "weight": "w",
        "global_batch_size": 20,
        "memory": "1 MiB",
        "tail": "pad",
    }
    torch.manual_seed(0)
    width = 1 if kind == "parquet" else 4
    module = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(width, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3 if loss != "mse" else 1)
    ).double()
    expected = gradients(path, 1, module, loss, chosen)
    assert len(expected) == 4  # the last one of 18 samples
    for ranks in (8, 7, 5):
        for step, (found, wanted) in enumerate(
            zip(gradients(path, ranks, module, loss, chosen), expected, strict=True)
        ):
            torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-15, msg=f"{ranks} ranks, step {step}")


def gradients(path, ranks, module, name, chosen):
    """Return the gradient of each step as DDP has it: averaged over ranks, each loss scaled as the loop does."""
    loss, found = SampleLoss(resolve_loss(name)), []
    loaders = [Loader(path, rank=rank, ranks=ranks, **chosen) for rank in range(ranks)]
    for batches in zip(*loaders, strict=True):
        total = sum(float(loss.divisor(batch["target"], batch["weight"])) for batch in batches)
        replica = copy.deepcopy(module)
        for batch in batches:
            losses = loss(replica(batch["inputs"].double() / 78), batch["target"])
            (weighted_sum(losses, batch["weight"]) * (ranks / total) / ranks).backward()
        found.append(torch.cat([parameter.grad.flatten() for parameter in replica.parameters()]))
    return found


@pytest.mark.parametrize("ranks", [1, 3, 11])
@pytest.mark.parametrize(
    "groups", [[[1]], [[0], [], [0, 5, 0]], [[1, 1, 6000, 1, 2, 0, 3]], [[30], [40]]],
    ids=["a single sample", "empty files and groups", "a giant chunk beside tiny ones", "few chunks"],
)  # fmt: skip
def test_odd_files(tmp_path, groups, ranks):
    path = write_parquet(tmp_path, groups)
    chosen = {"inputs": ["number"], "target": "y", "weight": "w", "tail": "pad", "global_batch_size": 64}
    seen = global_batches(path, ranks, memory="1 MiB", **chosen)
    np.testing.assert_array_equal(np.sort(seen[seen >= 0]), np.arange(sum(map(sum, groups))))


def test_files_without_a_row_are_refused(tmp_path):
    path = write_parquet(tmp_path, [[0], []])
    with pytest.raises(DataError, match="has no rows"):
        next(iter(Loader(path)))


def test_ten_thousand_columns(tmp_path):
    table = pa.table({f"c{number}": np.arange(8, dtype="f4") + number for number in range(10_000)})
    pq.write_table(table, tmp_path / "wide.parquet", row_group_size=4)
    with pytest.raises(MemoryLimitError, match=r"footers of files \(15\.3 MiB\)"):
        next(iter(Loader(str(tmp_path), global_batch_size=4, memory="16 MiB")))
    loader = Loader(str(tmp_path), global_batch_size=4, shuffle=False, memory="32 MiB")
    found = torch.cat([batch["inputs"].clone() for batch in loader])
    assert torch.equal(found, torch.arange(8.0)[:, None] + torch.arange(10_000.0))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A store with a string along the samples and a single number."""
    path = str(tmp_path_factory.mktemp("mixed") / "a.zarr")
    words = np.array(["a", "bc", "d", "e"], object)
    grids = np.arange(16, dtype="f4").reshape(4, 2, 2)
    xr.Dataset({"t": (("time", "y", "x"), grids), "name": ("time", words), "scale": ((), 2.0)}).to_zarr(
        path, zarr_format=2, consolidated=False
    )
    return path


@pytest.mark.parametrize(
    ("chosen", "error", "text"),
    [
        ({}, DataError, "variable 'name' holds .*, no numbers; leave it out"),
        ({"inputs": ["t"], "target": "name"}, DataError, "variable 'name' holds .*, no numbers; leave it out"),
        ({"inputs": ["t", "scale"]}, ArgumentError, "inputs='scale' is one number for all samples; leave it out"),
        ({"inputs": ["scale"]}, DataError, r"variables \['scale'\] have no dimensions: each is one number"),
        ({"inputs": ["t"], "target": "scale"}, ArgumentError, "target='scale' is no variable with samples"),
    ],
)
def test_strings_and_single_numbers_of_a_store_are_refused(mixed, chosen, error, text):
    with pytest.raises(error, match=text):
        Loader(mixed, global_batch_size=2, **chosen)


def test_what_is_not_asked_for_may_be_of_any_kind(mixed):
    assert len(list(Loader(mixed, inputs=["t"], global_batch_size=2))) == 2


GZIP = zarr.codecs.GzipCodec()


@pytest.mark.parametrize("damage", [lambda content: content[: len(content) // 2], lambda content: b"\7" * len(content)])
@pytest.mark.parametrize(
    ("version", "encoding", "key"),
    [
        (3, {}, "c/1/0/0"),
        (3, {"compressors": [GZIP]}, "c/1/0/0"),
        (3, {"shards": (20, 4, 4)}, "c/1/0/0"),
        (3, {"shards": (20, 4, 4), "compressors": [GZIP]}, "c/1/0/0"),
        (2, {"compressors": [Zlib()]}, "1.0.0"),
    ],
)
def test_a_damaged_chunk_of_any_codec_is_named(tmp_path, version, encoding, key, damage):
    values = np.random.default_rng(0).random((40, 4, 4)).astype("f4")
    path = tmp_path / "a.zarr"
    xr.Dataset({"t": (("time", "y", "x"), values)}).to_zarr(
        path, consolidated=False, zarr_format=version, encoding={"t": {"chunks": (10, 4, 4), **encoding}}
    )
    file = path / "t" / key
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(DataError, match=rf"{path}/t/{key} cannot be decoded.*write it again"):
        list(Loader(str(path), global_batch_size=8))


def test_a_damaged_page_of_parquet_is_named(tmp_path):
    path = write_parquet(tmp_path, [[400], [400, 400]])
    file = tmp_path / "part-001.parquet"
    second = pq.read_metadata(file).row_group(1).column(0)
    content = bytearray(file.read_bytes())
    start = second.dictionary_page_offset or second.data_page_offset
    content[start : start + 200] = b"\7" * 200
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"(?s)part-001\.parquet, row group 1 cannot be read.*write the file again"):
        list(Loader(path, inputs=["number"], global_batch_size=8))
