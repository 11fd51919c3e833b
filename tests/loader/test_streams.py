"""Row groups that are too big to be decoded whole."""

from __future__ import annotations

import itertools
import os
import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dtk.errors import DataError
from dtk.loader import Loader, planning
from dtk.loader.streams import Streams
from dtk.sources import as_source
from dtk.sources.parquet import ParquetSource


@pytest.fixture
def big_groups(tmp_path, monkeypatch):
    """Three row groups of 20,000, 5,000 and 100 rows; those of more than 2,048 are read in slices of 1,024."""
    monkeypatch.setattr(planning, "_SLICE_NBYTES", 1)
    monkeypatch.setattr(planning, "_PAGE_NBYTES", 1024)
    start = 0
    for number, rows in enumerate((20_000, 5_000, 100)):
        values = np.arange(start, start + rows)
        table = pa.table({"row": values, "word": np.char.add("w", (values % 7).astype(str)), "y": values % 2})
        pq.write_table(table, tmp_path / f"{number}.parquet", row_group_size=rows, data_page_size=4096)
        start += rows
    return tmp_path


@pytest.fixture
def sliced_rows(monkeypatch):
    """Rows that were decoded in slices."""
    counts = []
    read_slices = ParquetSource.read_slices

    def counting(source, *args):
        for table in read_slices(source, *args):
            counts.append(table.num_rows)
            yield table

    monkeypatch.setattr(ParquetSource, "read_slices", counting)
    return counts


def rows_of(loader):
    return np.concatenate([batch["inputs"][:, 0].numpy().astype(int) for batch in loader])


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("threads", [1, 3])
def test_slices_give_the_planned_rows(big_groups, sliced_rows, shuffle, threads):
    loader = Loader(
        big_groups, inputs=["row"], global_batch_size=100, shuffle=shuffle, memory="4 MiB", read_threads=threads
    )
    assert loader.plan.is_streamed.tolist() == [True, True, False]
    for epoch in range(2):
        np.testing.assert_array_equal(rows_of(loader), loader.plan.order.batch_rows(epoch).ravel())
    assert max(sliced_rows) == 1024


def test_a_chunk_bigger_than_a_fill_is_decoded_once(big_groups, sliced_rows):
    loader = Loader(big_groups, inputs=["row"], global_batch_size=100, memory="256 KiB", read_threads=2)
    assert loader.plan.order.fill_rows < 5000
    assert loader.plan.decodes_per_sample(1) == 1
    assert sorted(rows_of(loader)) == list(range(25_100))
    # The last slices of a chunk may be read again, where a later fill's thread came first.
    assert 25_000 <= sum(sliced_rows) <= 25_000 + 2 * 1024


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_see_the_same_batches(big_groups, ranks):
    loader = Loader(big_groups, inputs=["row"], global_batch_size=90, memory="256 KiB", tail="pad")
    expected = [sorted(batch["inputs"][batch["weight"] > 0, 0].tolist()) for batch in loader]
    loader.set_epoch(0)
    parts = [
        [batch["inputs"][batch["weight"] > 0, 0].tolist() for batch in loader.on_rank(rank, ranks)]
        for rank in range(ranks)
    ]
    assert [sorted(itertools.chain(*rows)) for rows in zip(*parts, strict=True)] == expected


def test_a_resumed_epoch_reads_on(big_groups):
    loader = Loader(big_groups, inputs=["row"], global_batch_size=100, memory="256 KiB")
    whole = rows_of(loader).reshape(-1, 100)
    loader.load_state_dict({**loader.state_dict(), "epoch": 0, "step": 120})
    np.testing.assert_array_equal(rows_of(loader).reshape(-1, 100), whole[120:])


def test_big_row_groups_take_no_more_memory_than_their_slices(big_groups):
    source = as_source(big_groups, ["row", "y"])
    plan = Loader(source, target="y", global_batch_size=100).plan
    row_nbytes = 2 * (8 + 1 / 8) + 4 + 8 + 4
    assert plan.chunk_nbytes.tolist() == [int(np.ceil(2 * 1024 * row_nbytes + 2048))] * 2 + [
        int(np.ceil(100 * row_nbytes))
    ]


def test_a_thread_takes_over_where_another_one_stopped(big_groups, sliced_rows):
    streams = Streams(as_source(big_groups), ["row"], 1024)
    found = {}

    def read(first, stop):
        found[first] = np.concatenate([table["row"].to_numpy() for _, table in streams.slices(0, first, stop)])

    threads = [threading.Thread(target=read, args=(first, first + 5000)) for first in (0, 5000)]
    read(0, 100)
    for thread in threads:
        thread.start()
        thread.join()
    assert found[0][:5000].tolist() == list(range(5000))
    assert found[5000].tolist() == list(range(4096, 10_240))  # from the slice that holds row 5,000
    assert sum(sliced_rows) == 10_240


def test_a_damaged_row_group_is_named(big_groups):
    path = big_groups / "0.parquet"
    loader = Loader(big_groups, inputs=["row"], global_batch_size=100)
    loader.plan.check()
    stat = path.stat()
    content = bytearray(path.read_bytes())
    content[60_000:90_000] = bytes(30_000)
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(DataError, match=r"0\.parquet, row group 0"):
        list(loader)
