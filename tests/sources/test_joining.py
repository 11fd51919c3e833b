"""Small row groups that follow each other are read together: the same rows in the same order, and nothing else."""

from __future__ import annotations

import pickle
from dataclasses import replace
from itertools import pairwise

import dask.dataframe as dd
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtk.sources import ParquetSource, as_source, counted
from dtk.sources.footers import read_footers
from dtk.sources.joining import can_join, join
from dtk.sources.remote import FetchCost
from dtk.sources.remote_parquet import joined_cost


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("table")
    words = np.array(["a", "bb", "ccc", None], object)
    for part in range(2):
        number = np.arange(part * 300, part * 300 + 300)
        rng = np.random.default_rng(part)
        table = pa.table({"number": number, "x": rng.random(300), "s": words[rng.integers(0, 4, 300)]})
        (path / f"p={part}").mkdir()
        pq.write_table(table, path / f"p={part}" / "a.parquet", row_group_size=10)
    return path


def read_all(source):
    return pa.concat_tables([source.read(chunk) for chunk in range(source.num_chunks)]).combine_chunks()


@st.composite
def groups(draw):
    """Files of some row groups each, which of these are chosen, and whether each is read."""
    rows = draw(st.lists(st.one_of(st.integers(1, 9), st.integers(1, 200)), min_size=1, max_size=40))
    file = np.sort(draw(st.lists(st.integers(0, 3), min_size=len(rows), max_size=len(rows))))
    group = np.arange(len(rows)) - np.searchsorted(file, file) + np.cumsum(draw(
        st.lists(st.sampled_from([0, 0, 0, 1]), min_size=len(rows), max_size=len(rows))))  # fmt: skip
    is_read = draw(st.lists(st.sampled_from([True, True, True, False]), min_size=len(rows), max_size=len(rows)))
    return np.array(rows), file.astype(np.int32), group.astype(np.int32), np.array(is_read)


@given(groups(), st.integers(2, 100))
def test_chunks_are_runs_of_small_row_groups_of_a_file(drawn, most_rows):
    rows, file, group, is_read = drawn
    source = ParquetSource(
        root="", names=("a",) * 4, versions=("1",) * 4, filesystem=None, schema=pa.schema({}), identity="",
        file_of_chunk=file, row_group=group, num_groups=np.ones(len(rows), np.int32), chunk_rows=rows,
        chunk_nbytes=2 * rows, decoded_nbytes=0, nullable=frozenset(), hive={}, footer_nbytes=np.zeros(4, np.int64),
    )  # fmt: skip
    joined, edges = join(source, most_rows, is_read)
    assert (edges[0], edges[-1], len(edges)) == (0, len(rows), joined.num_chunks + 1)
    parts = [slice(*bounds) for bounds in pairwise(edges.tolist())]
    assert joined.chunk_rows.tolist() == [rows[part].sum() for part in parts]
    assert joined.chunk_nbytes.tolist() == [2 * rows[part].sum() for part in parts]
    for chunk, part in enumerate(parts):
        assert joined._groups(chunk) == group[part].tolist()  # they follow each other
        assert set(file[part]) == {joined.file_of_chunk[chunk]}
        assert len(set(is_read[part])) == 1
        if len(rows[part]) > 1:
            assert joined.chunk_rows[chunk] <= 1.5 * most_rows
            assert (2 * rows[part] <= most_rows).all()
    # Whatever could be joined further is nearly full already.
    for chunk in range(joined.num_chunks - 1):
        pair = slice(edges[chunk], edges[chunk + 2])
        follow = len(set(file[pair])) == 1 and (np.diff(group[pair]) == 1).all() and len(set(is_read[pair])) == 1
        if follow and (2 * rows[pair] <= most_rows).all():
            assert rows[pair].sum() > most_rows / 2


@pytest.mark.parametrize("as_codes", [False, True])
def test_what_is_read_is_the_same(folder, as_codes):
    source = as_source(folder)
    assert {"p", "s"} <= set(source.schema.names)
    source = source.with_dictionaries() if as_codes else source
    joined, edges = join(source, 50)
    assert (source.num_chunks, joined.num_chunks) == (60, 12)
    assert edges.tolist() == list(range(0, 61, 5))
    assert joined.identity == source.identity
    joined = pickle.loads(pickle.dumps(joined))
    plain = as_source(folder).schema
    assert read_all(joined).cast(plain).equals(read_all(source).cast(plain))
    assert joined.read(7, ["p", "x"]).num_rows == 50
    assert joined.describe(1) == f"{folder}/p=0/a.parquet, row groups 5 to 9"
    slices = list(joined.read_slices(1, 20))
    assert pa.concat_tables(slices).cast(plain).equals(joined.read(1).cast(plain))


def test_row_groups_that_are_left_out_are_not_read_for_their_neighbours(folder):
    path = str(folder / "p=1" / "a.parquet")
    source = ParquetSource.from_footers(read_footers([path]), row_groups=[[0, 1, 3, 4, 5, 9]])
    joined, edges = join(source, 100)
    assert edges.tolist() == [0, 2, 5, 6]
    assert read_all(joined).equals(read_all(source))
    pruned = counted(as_source(dd.read_parquet(folder, filters=[[("number", "<", 345)], [("number", ">", 370)]])))
    joined, _ = join(pruned, 100)
    below = [group for chunk in range(joined.num_chunks) for group in joined.base._groups(chunk)]
    assert below == pruned.base.row_group.tolist() == [*range(30), *range(5), *range(7, 30)]
    assert joined.num_chunks < len(below) / 4
    empty, edges = join(ParquetSource.from_footers(read_footers([path]), row_groups=[[]]), 100)
    assert (empty.num_chunks, edges.tolist()) == (0, [0])


def test_expressions_of_rows_are_joined_and_those_of_partitions_are_not(folder):
    data = dd.read_parquet(folder, split_row_groups=True)
    kept = data[data.number % 7 == 1]
    source = counted(as_source(kept.assign(z=kept.x + 1)))
    joined, edges = join(source, 50, source.chunk_rows > 0)
    assert joined.num_chunks < source.num_chunks == len(source.chunk_rows) == 60
    assert joined.chunk_rows.tolist() == np.add.reduceat(source.chunk_rows, edges[:-1]).tolist()
    assert read_all(joined).equals(read_all(source))
    assert joined.num_groups.sum() == 60
    numbered = counted(as_source(data.map_partitions(lambda part: part.assign(first=part.number.min()))))
    assert not can_join(numbered)
    assert join(numbered, 50)[0] is numbered
    assert len(np.unique(read_all(numbered)["first"])) == 60


def test_nothing_is_joined_that_need_not_be(folder):
    source = as_source(folder)
    for rows in (None, 19):  # none, and row groups of more than half of it
        joined, edges = join(source, rows)
        assert (joined.num_chunks, len(edges)) == (60, 61)
    table = as_source({"x": np.arange(9.0)})
    assert join(table, 5)[0] is table
    assert join(replace(source, identity="other"), 50)[0].identity == "other"


def test_what_is_fetched_together_takes_fewer_requests_where_little_lies_between():
    gaps = np.array([10, 1 << 20, 10, 10, 10, 0])
    cost = FetchCost(np.full(6, 100), np.full(6, 2), once=2, each=1, footer_nbytes=np.full(6, 70), gap_nbytes=gaps)
    joined = joined_cost(cost, np.array([0, 3, 5, 6]))
    assert joined.requests.tolist() == [1 + 2, 1 + 1, 2]  # of the first three row groups the last lies apart
    assert joined.nbytes.tolist() == [310, 210, 100]
    assert joined.once == 2
    assert joined.with_footers().requests.tolist() == [4, 3, 3]
    assert joined.with_footers().nbytes.tolist() == [70 + 310, 70 + 210, 70 + 100]
    assert joined.with_footers().once == 0
    large = replace(cost, nbytes=np.full(6, 3 << 20))
    assert joined_cost(large, np.array([0, 5, 6])).requests.tolist() == [1 + 4, 2]  # 15 MiB in requests of 4 MiB
