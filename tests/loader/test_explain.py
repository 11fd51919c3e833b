from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xarray as xr

from dtk.errors import ArgumentError
from dtk.loader import Loader, Order
from dtk.loader.encoder import make_encoder
from dtk.loader.explain import Explanation
from dtk.loader.mixing import Mixing
from dtk.loader.planning import make_plan
from dtk.memory import parse_nbytes

MIB = 1 << 20


class Shape:
    """The metadata of a source of floats that has no data."""

    identity = "shape"

    def __init__(self, chunk_rows, columns=41):
        self.chunk_rows = np.asarray(chunk_rows, np.int64)
        self.chunk_nbytes = self.chunk_rows * 4 * columns
        self.schema = pa.schema({f"x{number}": pa.float32() for number in range(columns)})


def plan_of(chunk_rows, memory, batch=4096, **options):
    source = Shape(chunk_rows)
    arguments = {"global_batch_size": batch, "shuffle": True, "seed": 0, "tail": "trim", **options}
    return make_plan(source, make_encoder(source.schema), memory_limit_nbytes=memory, **arguments)


def only(found, start):
    """The one warning that starts so."""
    texts = [text for text in found if text.startswith(start)]
    assert len(texts) == 1, found
    return texts[0]


def memory_of(text):
    return parse_nbytes(re.search(r"about '([^']+)'", text)[1])


def test_the_table_has_the_loaders_own_number_of_ranks(tmp_path):
    pq.write_table(pa.table({"x": np.arange(3000.0), "y": np.arange(3000)}), tmp_path / "a.parquet", row_group_size=100)
    loader = Loader(tmp_path, target="y", global_batch_size=60, rank=1, ranks=3)
    explanation = loader.plan.explain()
    assert [row[0] for row in explanation.rows] == ["1", "2", "3", "4", "8"]
    assert [row[0] for row in loader.on_rank(0, 5).plan.explain().rows] == ["1", "2", "4", "5", "8"]
    assert loader.on_rank(0, 5).plan.digest == loader.plan.digest
    requests = dict(zip(explanation.heads, explanation.rows[0], strict=True))["requests an epoch"]
    assert requests == "60"  # two columns of 30 row groups
    assert Loader({"x": np.arange(9.0)}, global_batch_size=3).plan.num_requests(4) == 0


def test_text_for_a_terminal_and_tables_for_a_notebook():
    plan = plan_of([65_536] * 62, 1024 * MIB)
    explanation = plan.explain([1, 5])
    assert isinstance(explanation, Explanation)
    assert repr(explanation) == str(explanation)
    heads = "  ".join(str(explanation).splitlines()[7].split())
    assert heads.replace("  ", " ").startswith("ranks batch memory a rank decodes a sample requests an epoch entropy")
    html = explanation._repr_html_()
    for cell in (cell for row in explanation.rows for cell in row):
        assert f"<td>{cell}</td>" in html
    assert html.count("<li>") == len(explanation.warnings) > 0
    assert "<table" in plan._repr_html_()
    assert "entropy" not in str(plan_of([65_536] * 8, 1024 * MIB, shuffle=False).explain())
    assert "entropy" not in str(plan_of([10], 1024 * MIB, batch=100).explain())  # no step


def test_the_page_is_whole_loads_nothing_and_escapes(tmp_path):
    hostile = "<script>alert(1)</script>"
    page = Explanation(hostile, ((hostile, hostile),), (hostile,), ((hostile,),), (hostile,)).save(tmp_path / "p.html")
    text = page.read_text()
    assert "<script" not in text
    assert text.count("&lt;script&gt;") == 7
    assert "default-src 'none'" in text
    assert not re.search(r"(src|href)=", text)
    HTMLParser().feed(text)
    assert [path.name for path in tmp_path.iterdir()] == ["p.html"]
    plan_of([1000] * 8, 100 * MIB, batch=10).explain().save(page)
    assert "8,000 samples in 8 chunks" in page.read_text()
    with pytest.raises(ArgumentError, match=r"is a folder; name a file in it"):
        plan_of([1000], 100 * MIB, batch=10).explain().save(tmp_path)
    with pytest.raises(ArgumentError, match=r"lies in no folder; make"):
        plan_of([1000], 100 * MIB, batch=10).explain().save(tmp_path / "no" / "p.html")


def test_the_labels_can_be_said():
    plan = plan_of([65_536] * 40, 512 * MIB)
    assert "a label of 3 classes" in str(plan.explain(labels=3))
    assert plan.entropy(labels=2) > plan.entropy(labels=30)
    assert plan.entropy(labels=[1, 1]) == plan.entropy(labels=2)
    assert plan.entropy(4) < plan.entropy()
    with pytest.raises(ArgumentError, match=r"does not shuffle"):
        plan_of([100], MIB, batch=10, shuffle=False).entropy()
    for labels in (0, True, 2.5, "3"):
        with pytest.raises(ArgumentError, match=rf"labels={labels!r} must be a number of classes"):
            plan.explain(labels=labels)
    with pytest.raises(ArgumentError, match="ranks='2' must be a whole number, at least 1"):
        plan.explain(ranks=[1, "2"])


def test_badly_mixed_batches_name_the_memory_that_is_enough():
    plan = plan_of([65_536] * 400, 256 * MIB)
    text = only(plan.warnings(), "if the data lies sorted")
    assert plan.entropy() < 0.9
    assert plan_of([65_536] * 400, memory_of(text)).entropy() >= 0.98
    smaller = int(re.search(r"write row groups of at most ([\d,]+) rows", text)[1].replace(",", ""))
    rows = 400 * 65_536
    assert plan_of([smaller] * (rows // smaller), 256 * MIB).entropy() >= 0.98


def test_batch_norm_is_warned_of_where_ranks_mix_badly():
    plan = plan_of([65_536] * 400, 1024 * MIB)
    start = "if the data lies sorted by a label of 10 classes, the batch of one rank of 24"
    text = only(plan.warnings(24), start)
    assert "a module with batch normalisation sees no more" in text
    assert "take nn.LayerNorm or nn.GroupNorm, nn.SyncBatchNorm on GPUs, fewer ranks, or more memory=" in text
    assert "the module has batch normalisation" in only(plan.warnings(24, batch_norm=True), start)
    assert not [text for text in plan.warnings(24, batch_norm=False) if "normalisation" in text]
    assert not [text for text in plan.warnings(1, batch_norm=True) if "normalisation" in text]


def test_a_chunk_bigger_than_a_fill_names_the_memory_that_is_enough():
    text = only(plan_of([400_000] * 8, 200 * MIB).warnings(), "chunks of up to 400,000 rows are more than")
    assert "or write row groups of at most" in text
    plan = plan_of([400_000] * 8, memory_of(text))
    assert plan.order.fill_rows >= 400_000


def test_a_few_chunks_in_the_pool_are_read_in_halves():
    plan = plan_of([1_000_000] * 20, 1024 * MIB)
    assert plan.order.block_rows == 500_000
    assert plan.decodes_per_sample(1) == 2
    text = only(plan.warnings(), "chunks of up to 1,000,000 rows are read in two blocks")
    whole = plan_of([1_000_000] * 20, memory_of(text))
    assert whole.order.block_rows is None
    assert whole.decodes_per_sample(1) == 1
    in_whole = Order(plan.order.chunk_rows, 4096, 1, plan.order.fill_rows)
    assert plan.entropy(labels=2) > Mixing(in_whole, 2).entropy() + 0.2
    assert "read in blocks of at most 500,000 rows" in str(plan.explain())
    assert plan_of([1000] * 20, MIB, shuffle=False).order.block_rows is None
    assert plan_of([1_000_000] * 20, 100 * MIB).order.block_rows is None  # less than a chunk in the pool
    assert plan_of([1_000_000] * 2, 2048 * MIB).order.block_rows is None  # all of the data in the pool
    assert plan_of([1_000_000] + [100] * 9, 700 * MIB).order.block_rows is None  # thousands of typical chunks


def test_tiny_chunks_and_ranks_without_data():
    found = plan_of([10] * 100, 200 * MIB, batch=8).warnings(9)
    assert "write row groups of at least 10,000 rows" in only(found, "chunks hold 10 rows on average")
    assert "take at most 8 ranks" in only(found, "ranks=9 is more than global_batch_size=8")


def test_decodes_by_ranks_name_the_ranks_to_take():
    plan = plan_of([65_536] * 512, 1024 * MIB)
    assert plan.order.num_shards == 24
    assert not [text for text in plan.warnings(12) if "is decoded" in text]
    assert "take a number of ranks that divides 24" in only(plan.warnings(23), "each sample is decoded 2.0 times by 23")
    assert "take at most 24 ranks" in only(plan.warnings(48), "each sample is decoded 2.0 times by 48")
    one = plan_of([1000] * 4, 200 * MIB, batch=64)
    assert "take one rank" in only(one.warnings(4), "each sample is decoded 4.0 times")


def test_misaligned_and_tiny_chunks_of_arrays(tmp_path):
    def plan(**chunks):
        shapes = {"big": (600, 64, 64), "other": (600, 64, 32)}
        dims = {"big": ("time", "y", "x"), "other": ("time", "y", "z")}
        data = xr.Dataset({name: (dims[name], np.zeros(shapes[name], np.float32)) for name in shapes})
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.zarr"
        encoding = {name: {"chunks": chunks[name]} for name in shapes}
        data.to_zarr(path, encoding=encoding, consolidated=False)
        return Loader(path, target="other", global_batch_size=20).plan

    aligned = plan(big=(100, 64, 64), other=(50, 64, 32))
    assert aligned.num_requests(1) == 6 + 12
    assert not aligned.layout.misaligned
    assert not [text for text in aligned.warnings() if "are cut" in text]
    cut = plan(big=(100, 64, 64), other=(150, 64, 32))
    assert cut.layout.misaligned == {"other": 2.0}  # each chunk but none lies in two of the plan's
    text = only(cut.warnings(), "chunks along the samples are cut by those of the biggest variable")
    assert "'other' (2.0 times); write all variables with the same chunks along the samples" in text
    tiny = plan(big=(1, 64, 64), other=(1, 64, 8))
    assert tiny.num_requests(1) == 600 + 4 * 600
    assert "write chunks of 1 MiB or more, or shards" in only(tiny.warnings(), "chunks in the store hold")
