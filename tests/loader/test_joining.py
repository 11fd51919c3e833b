"""Small row groups are read together where the pool holds very many: a parameter of the order, kept in the state."""

from __future__ import annotations

import json
import os
from pathlib import Path

import dask.config
import dask.dataframe as dd
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from dtk.errors import DataError
from dtk.loader import Loader, joining
from dtk.preparation import SampleEncoder, TablePreparation
from dtk.sources import ParquetSource, as_source

GROUPS, GROUP_ROWS = 256, 8
ROWS = GROUPS * GROUP_ROWS
POOL_BLOCKS = 64  # four row groups are the 64th part of the data
OPTIONS = {"inputs": ["number"], "target": "y", "global_batch_size": 32, "memory": "1 MiB"}
WORDS = np.array(["a", "bb", "ccc", None], object)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny") / "data.parquet"
    number = np.arange(ROWS)
    rng = np.random.default_rng(0)
    columns = {
        "number": number.astype("f4"),
        "y": number % 3,
        "label": number * 10 // ROWS,
        "w": ((number // GROUP_ROWS) % 64 != 3) * (1.0 + number % 2),
        "s": WORDS[rng.integers(0, 4, ROWS)],
    }
    pq.write_table(pa.table(columns), path, row_group_size=GROUP_ROWS)
    return str(path)


@pytest.fixture(autouse=True)
def few_blocks_are_enough(monkeypatch):
    monkeypatch.setattr(joining, "_POOL_BLOCKS", POOL_BLOCKS)


def rows_of(loader):
    """Numbers of the rows of an epoch, [steps, batch]."""
    batches = [(batch["inputs"][:, 0].numpy().astype(int), batch["target"].numpy()) for batch in copies(loader)]
    assert all((numbers % 3 == target).all() for numbers, target in batches)
    return np.array([numbers for numbers, _ in batches])


def copies(loader):
    for batch in loader:
        yield {name: tensor.clone() for name, tensor in batch.items()}


def test_every_sample_once_and_the_same_batches_to_any_ranks(path):
    loader = Loader(path, **OPTIONS)
    assert loader.plan.order.join_rows == 32
    assert (loader.plan.num_chunks, loader.plan.layout.num_row_groups) == (64, GROUPS)
    whole = rows_of(loader)
    np.testing.assert_array_equal(np.sort(whole.ravel()), np.arange(ROWS))
    for ranks in (3, 4):
        parts = [rows_of(Loader(path, rank=rank, ranks=ranks, **OPTIONS)) for rank in range(ranks)]
        widths = [np.diff(loader.plan.order.rank_slots(rank, ranks))[0] for rank in range(ranks)]
        joined = np.concatenate([part[:, :width] for part, width in zip(parts, widths, strict=True)], axis=1)
        np.testing.assert_array_equal(joined, whole)


def test_the_order_on_disk_stays_without_shuffle(path):
    loader = Loader(path, shuffle=False, **OPTIONS)
    assert loader.plan.num_chunks == 64
    np.testing.assert_array_equal(rows_of(loader).ravel(), np.arange(ROWS))


def test_it_is_taken_from_the_state_whatever_the_memory(path):
    loader = Loader(path, **OPTIONS)
    whole = rows_of(loader)
    loader.set_epoch(0)
    iteration = iter(loader)
    for _ in range(5):
        next(iteration)
    state = json.loads(json.dumps(loader.state_dict()))
    iteration.close()
    assert state["num_chunks"] == GROUPS
    for memory, ranks in (("2 GiB", 1), ("100 KiB", 2)):
        parts = []
        for rank in range(ranks):
            other = Loader(path, rank=rank, ranks=ranks, **{**OPTIONS, "memory": memory})
            assert (other.plan.order.join_rows == 32) == (memory == "2 GiB")
            other.load_state_dict(state)
            assert other.plan.order.join_rows == 32
            parts.append(rows_of(other))
        np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole[5:])


def test_a_state_from_before_goes_on_with_row_groups_as_they_are(path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("dtk.loader.planning.choose_join_rows", lambda *_: None)
        loader = Loader(path, **OPTIONS)
        whole, state = rows_of(loader), Loader(path, **OPTIONS).state_dict()
    assert state["order"].pop("join_rows") is None
    loader = Loader(path, **OPTIONS)
    assert loader.plan.num_chunks == 64
    loader.load_state_dict(state)
    assert loader.plan.num_chunks == GROUPS
    np.testing.assert_array_equal(rows_of(loader), whole)


def test_a_source_that_grew_is_told_by_its_row_groups(path, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    os.link(path, data / "a.parquet")
    state = Loader(data, **OPTIONS).state_dict()
    Loader(data, **OPTIONS).load_state_dict(state)
    pq.write_table(pq.read_table(path).slice(0, 8), data / "b.parquet")
    with pytest.raises(DataError, match=r"in 256 chunks and has 2,056 rows in 257 chunks.*b.parquet is new"):
        Loader(data, **OPTIONS).load_state_dict(state)


def test_the_plan_knows_what_is_joined(path):
    small, large = (Loader(path, **{**OPTIONS, "memory": memory}).plan for memory in ("25 KiB", "1 MiB"))
    assert small.order.join_rows is None  # its part of the pool is no two row groups
    assert small.digest != large.digest
    (tiny,) = [text for text in small.warnings() if "makes reading slow" in text]
    assert tiny.startswith("chunks hold 8 rows on average, which makes reading slow; write row groups of at least 10,0")
    enough = tiny.partition("give more memory=, about '")[2].partition("'")[0]
    assert Loader(path, **{**OPTIONS, "memory": enough}).plan.order.join_rows >= 16
    (tiny,) = [text for text in large.warnings() if "makes reading slow" in text]
    assert tiny.startswith("row groups hold 8 rows on average, and are read 4.0 at a time")
    assert "2,048 in 64 chunks, which 256 small row groups are joined to" in str(large.explain())
    assert large.num_requests(1) == GROUPS * 2  # Arrow still reads each column of each row group
    assert joining.choose_join_rows(10**9, 0) == 8192
    assert joining.choose_join_rows(10**9, 1024) == 1024  # what is joined is never streamed
    assert joining.choose_join_rows(POOL_BLOCKS, 0) is None


def test_label_sorted_data_mixes_nearly_as_before(path, monkeypatch):
    options = {**OPTIONS, "target": "label", "memory": "100 KiB"}
    joined = Loader(path, **options)
    assert joined.plan.pool_rows < 0.7 * ROWS
    monkeypatch.setattr("dtk.loader.planning.choose_join_rows", lambda *_: None)
    single = Loader(path, **options)
    assert joined.plan.num_chunks < single.plan.num_chunks / 2
    found = [entropy(loader) for loader in (joined, single)]
    assert found[0] > 0.98 * found[1]  # with the eighth part of the blocks that it really takes


def entropy(loader):
    """The mean entropy of ten labels in a batch."""
    labels = np.stack([batch["target"].numpy() for _ in range(4) for batch in copies(loader)])
    shares = np.stack([(labels == label).mean(axis=1) for label in range(10)])
    return -(shares * np.log(np.maximum(shares, 1e-9))).sum(axis=0).mean()


@pytest.mark.parametrize("kind", ["filter", "weights", "balanced"])
def test_rows_of_expressions_and_draws(path, kind, tmp_path):
    with dask.config.set({"dtk.cache-dir": str(tmp_path)}):
        if kind == "filter":
            data = dd.read_parquet(path)
            loader = Loader(data[(data.number // GROUP_ROWS) % 64 != 3], **OPTIONS)
        else:
            loader = Loader(path, sampling="w" if kind == "weights" else "balanced", **OPTIONS)
        assert loader.plan.num_chunks < GROUPS / 2
        rows = rows_of(loader)
    number = rows.ravel()
    if kind == "filter":
        assert len(np.unique(number)) == len(number) > ROWS - ROWS // 64 - 32
    elif kind == "weights":
        assert 0.62 < (number % 2 == 1).mean() < 0.71  # two thirds
    else:
        assert np.abs(np.bincount(number % 3) / len(number) - 1 / 3).max() < 0.05
    if kind != "balanced":
        assert not ((number // GROUP_ROWS) % 64 == 3).any()


@pytest.mark.parametrize("kind", ["filter", "weights"])
def test_row_groups_without_rows_to_give_are_never_read(path, kind, tmp_path, monkeypatch):
    read = set()
    read_chunk = ParquetSource.read

    def noted(source, chunk, *args, **options):
        read.update(source._groups(chunk))
        return read_chunk(source, chunk, *args, **options)

    with dask.config.set({"dtk.cache-dir": str(tmp_path)}):
        data = dd.read_parquet(path)
        given = data[(data.number // GROUP_ROWS) % 64 != 3] if kind == "filter" else path
        loader = Loader(given, sampling="w" if kind == "weights" else None, **OPTIONS)
        assert loader.plan.num_chunks < GROUPS / 2
        monkeypatch.setattr(ParquetSource, "read", noted)
        rows_of(loader)
    assert 0 < len(read) <= GROUPS - GROUPS // 64
    assert not any(group % 64 == 3 for group in read)


def test_partitions_stay_what_a_function_sees(path):
    data = dd.read_parquet(path, split_row_groups=4)
    counts = data.map_partitions(lambda part: part.assign(y=len(part)))
    loader = Loader(counts, **OPTIONS)
    assert loader.plan.order.join_rows is None
    assert all((batch["target"] == 4 * GROUP_ROWS).all() for batch in loader)


def test_codes_of_text_are_those_of_row_groups_read_alone(path, monkeypatch):
    preparation = TablePreparation().fit(as_source(path, ["number", "s", "y"]), target="y", task="classification")
    options = {"preparation": SampleEncoder(preparation, target=preparation.target), "shuffle": False}
    options |= {"global_batch_size": 32, "memory": "1 MiB"}
    joined = Loader(path, **options)
    batches = list(copies(joined))
    monkeypatch.setattr("dtk.loader.planning.choose_join_rows", lambda *_: None)
    single = Loader(path, **options)
    assert joined.plan.num_chunks < single.plan.num_chunks
    for one, other in zip(batches, copies(single), strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name].nan_to_num(), other[name].nan_to_num()) for name in one)


def test_a_damaged_row_group_is_named_with_those_read_with_it(path, tmp_path):
    copy = tmp_path / "data.parquet"
    content = bytearray(Path(path).read_bytes())
    column = pq.read_metadata(path).row_group(101).column(0)
    start = column.dictionary_page_offset or column.data_page_offset
    content[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    copy.write_bytes(content)
    with pytest.raises(DataError, match=r"data.parquet, row groups 100 to 103 cannot be"):
        rows_of(Loader(copy, **OPTIONS))
