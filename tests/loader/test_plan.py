from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import dtk
from dtk.errors import MemoryLimitError
from dtk.loader import Loader, Order, Plan
from dtk.loader.encoder import make_encoder
from dtk.loader.planning import make_plan
from dtk.loader.schedule import make_schedule
from dtk.sources.kept_files import FOOTERS

MIB = 1 << 20


class Shape:
    """The metadata of a source of floats that has no data."""

    def __init__(self, chunk_rows, columns=41):
        self.chunk_rows = np.asarray(chunk_rows, np.int64)
        self.chunk_nbytes = self.chunk_rows * 4 * columns
        self.num_chunks = len(self.chunk_rows)
        self.schema = pa.schema({f"x{number}": pa.float32() for number in range(columns)})
        self.identity = "shape"


def plan_of(chunk_rows, memory, batch=4096, **options):
    source = Shape(chunk_rows)
    arguments = {"global_batch_size": batch, "shuffle": True, "seed": 0, "tail": "trim", **options}
    return make_plan(source, make_encoder(source.schema), memory_limit_nbytes=memory, **arguments)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from([0, 100, 5000, 65_536]), min_size=1, max_size=300).filter(sum),
    st.sampled_from([64, 1000, 4096]),
    st.integers(1, 4000),
    st.booleans(),
    st.integers(1, 40),
)
@example([100] * 12 + [65_536] * 4, 64, 197, True, 1)  # two shards, of which each would hold most of the data
def test_a_plan_that_fits_one_rank_fits_any_number_and_uses_the_memory(chunk_rows, batch, mib, shuffle, ranks):
    plan = plan_of(chunk_rows, mib * MIB, batch, shuffle=shuffle, tail="pad")
    order = plan.order
    if plan.memory_nbytes(1) <= plan.memory_limit_nbytes:
        plan.check(ranks)
        assert plan.memory_nbytes(ranks) <= plan.memory_limit_nbytes
        holds_all = plan.ring_steps(1) >= plan.num_steps  # fills of several shards together: more memory is no use
        if shuffle and order.fill_rows < order.num_rows and not holds_all:
            assert plan.memory_nbytes(1) > 0.5 * plan.memory_limit_nbytes - 3 * batch * plan.row_nbytes
    else:
        with pytest.raises(MemoryLimitError) as caught:
            plan.check(1)
        enough = float(re.search(r"pass memory='([\d.]+) MiB'", str(caught.value))[1])
        plan_of(chunk_rows, int(enough * MIB), batch, shuffle=shuffle, tail="pad").check(1)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([0, 1, 30, 100, 800]), min_size=1, max_size=60).filter(sum),
    st.sampled_from([16, 50]),
    st.sampled_from([64, 200, 1000]),
    st.integers(1, 20),
    st.booleans(),
)
def test_every_schedule_fits_the_planned_ring(chunk_rows, batch, kib, ranks, shuffle):
    plan = plan_of(chunk_rows, kib * 1024, batch, shuffle=shuffle, tail="pad")
    rows = 0
    for rank in range(ranks):
        schedule = make_schedule(
            plan.order, 0, rank, ranks, ring_steps=plan.ring_steps(ranks), lead_steps=plan.lead_steps(ranks)
        )
        assert len(schedule) == 0 or (schedule.last_step - schedule.first_step).max() < plan.ring_steps(ranks)
        assert (np.diff(schedule.first_step) >= 0).all()
        rows += int(schedule.pieces[:, 3].sum())
    assert rows >= plan.order.num_rows


@pytest.mark.parametrize("ranks", [1, 2, 5, 8, 24, 48])
def test_decodes_are_as_predicted(ranks):
    plan = plan_of([65_536] * 512, 1024 * MIB)
    order = plan.order
    assert order.num_shards == 24
    rows = 0
    for rank in range(ranks):
        schedule = make_schedule(
            order, 0, rank, ranks, ring_steps=plan.ring_steps(ranks), lead_steps=plan.lead_steps(ranks)
        )
        rows += int(order.chunk_rows[schedule.chunk].sum())
    assert rows / order.num_rows == pytest.approx(plan.decodes_per_sample(ranks), rel=0.1)


def test_shards_grow_with_the_data_and_the_memory():
    assert plan_of([65_536] * 4, 1024 * MIB).order.num_shards == 1
    assert plan_of([65_536] * 64, 1024 * MIB).order.num_shards == 8
    assert plan_of([65_536] * 64, 64 * MIB).order.num_shards == 1
    assert plan_of([65_536] * 64, 1024 * MIB, shuffle=False).order.num_shards == 1
    assert plan_of([65_536] * 64, 1024 * MIB, batch=32).order.num_shards == 2


def test_small_data_is_shuffled_as_a_whole():
    plan = plan_of([500], 1024 * MIB, batch=10)
    assert (plan.order.num_shards, plan.pool_rows) == (1, 500)
    assert plan.ring_steps(1) == plan.num_steps == 50


def test_explain_says_what_it_costs():
    plan = plan_of([65_536] * 62, 1024 * MIB)
    lines = str(plan.explain()).splitlines()
    assert lines[0] == "samples  4,063,232 in 62 chunks"
    assert lines[1] == "steps    992 of 4,096 samples; every row once"
    assert re.fullmatch(r"order    shuffled with seed 0; pool of [\d,]+ rows \([\d.]+ chunks\) in \d+ shards", lines[2])
    assert lines[3] == "reads    635.5 MiB an epoch"
    assert lines[5].startswith("mixing   if the data lies sorted by a label of 10 classes, a global batch has 9")
    assert [line.split()[:2] for line in lines[8:12]] == [["1", "4,096"], ["2", "2,048"], ["4", "1,024"], ["8", "512"]]
    assert len({len(line) for line in lines[7:12]}) == 1
    assert "rows left out, others each epoch" in str(plan_of([65_537], 1024 * MIB).explain())
    assert "the last 1 rows left out" in str(plan_of([65_537], 1024 * MIB, shuffle=False).explain())


def test_warnings_name_the_remedy():
    assert plan_of([65_536] * 200, 1024 * MIB).warnings() == []
    assert "give more memory=" in plan_of([400_000] * 8, 200 * MIB).warnings()[0]
    assert "write row groups of at least" in plan_of([10] * 100, 200 * MIB).warnings()[0]
    assert "some get no samples" in plan_of([1000], 200 * MIB, batch=2).warnings(3)[0]
    assert "each sample is decoded" in plan_of([1000] * 10, 200 * MIB, batch=64).warnings(4)[-1]


def test_the_digest_changes_with_what_is_read():
    def digest(**options):
        return Loader({"x": np.arange(9.0), "y": np.arange(9)}, **{"global_batch_size": 3, **options}).plan.digest

    assert digest() == digest(rank=1, ranks=2)
    assert len({digest(), digest(seed=1), digest(global_batch_size=2), digest(target="y"), digest(shuffle=False)}) == 5


def test_variable_columns_are_planned_from_a_decoded_chunk():
    class Lengths:
        columns = ("text",)
        fields = make_encoder(pa.schema({"x": pa.float32()})).fields

    text = pa.table({"text": ["x" * 1000] * 50})
    plan = Loader(text, preparation=Lengths(), global_batch_size=10).plan
    assert 50 * 1000 <= plan.chunk_nbytes[0] <= 50 * 1020


def test_a_million_chunks_are_planned_at_once():
    plan = plan_of(np.full(1_000_000, 8192), 8 * 1024 * MIB, batch=65_536)
    assert isinstance(plan, Plan)
    assert isinstance(plan.order, Order)
    assert plan.num_steps == 125_000
    assert plan.decodes_per_sample(1024) < 6
    plan.check(1024)


@pytest.mark.parametrize("window", [None, dtk.Window("x0", history=2, lead=None)])
def test_footers_are_kept_in_an_eighth_of_the_memory(tmp_path, window):
    table = pa.table({f"x{number}": np.arange(16.0) for number in range(500)})
    for number in range(8):
        pq.write_table(table, tmp_path / f"{number}.parquet", row_group_size=2)
    of_file = 800 * 500 * 8
    for memory, nbytes, num_kept in (("64 MiB", 8 * MIB + 4 * of_file, 2), ("256 MiB", 8 * of_file, 8)):
        FOOTERS.clear()
        loader = Loader(
            tmp_path, inputs=["x0"], window=window, global_batch_size=16, memory=memory, shuffle=False, read_threads=1
        )
        assert loader.plan.kept_nbytes == nbytes
        assert sum(1 for _ in loader) == loader.plan.num_steps
        files = loader._planned.rows
        assert sum(FOOTERS.get(file) is not None for file in zip(files.paths, files.versions, strict=True)) == num_kept


def test_footers_below_an_expression_are_kept_likewise(tmp_path):
    pq.write_table(pa.table({"x": np.arange(9.0)}), tmp_path / "a.parquet")
    data = dtk.open(tmp_path)
    loader = Loader(data[data.x > 1], memory="256 MiB")
    assert loader._planned.source.base.footers_limit_nbytes == 32 * MIB
