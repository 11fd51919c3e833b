"""Map and reduce: word count over every kind of data, on threads and on a cluster."""

from __future__ import annotations

from collections import Counter
from itertools import chain

import dask.dataframe as dd
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import dtk
from dtk.sources import TableSource

LINES = [f"to be {number % 7}" for number in range(500)]
WORDS = Counter(word for line in LINES for word in line.split())


def count(tables):
    return Counter(word for table in tables for line in table["line"].to_pylist() for word in line.split())


def merge(parts):
    assert len(parts) <= 8
    return sum(parts, Counter())


def kinds(tmp_path):
    table = pa.table({"line": LINES, "other": range(500)})
    pq.write_table(table, tmp_path / "lines.parquet", row_group_size=30)
    frame = dd.from_pandas(table.to_pandas(), npartitions=6)
    computed = frame[frame["other"] < frame["other"].sum()]  # not blockwise
    return [table, table.to_pandas(), TableSource(table), str(tmp_path / "lines.parquet"), dtk.open(tmp_path), computed]


@pytest.mark.parametrize("number", range(6))
def test_words_are_counted(tmp_path, number):
    found = dtk.map_reduce(kinds(tmp_path)[number], map=count, merge=merge, columns=["line"])
    assert found == WORDS


def test_words_are_counted_on_a_cluster(tmp_path, client):
    found = dtk.map_reduce(kinds(tmp_path)[3], map=count, merge=merge, finish=lambda words: words.most_common(1))
    assert found == [("to", 500)]


def test_rows_are_numbered(tmp_path):
    def ranges(chunks):
        return [range(first, first + table.num_rows) for table, first in chunks]

    found = dtk.map_reduce(kinds(tmp_path)[3], map=ranges, merge=lambda parts: [*chain(*parts)], numbered=True)
    assert [row for part in found for row in part] == list(range(500))


def test_no_rows_are_an_empty_table():
    frame = pd.DataFrame({"line": []})
    assert dtk.map_reduce(frame, map=lambda tables: [table.num_rows for table in tables], merge=sum) == [0]


def test_a_column_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(dtk.ArgumentError, match="did you mean 'line'"):
        dtk.map_reduce({"line": LINES}, map=count, merge=merge, columns=["lines"])
