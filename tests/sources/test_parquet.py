"""Parquet files as a source."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dtk.errors import ArgumentError, DataError, NotFoundError
from dtk.sources import ParquetSource, Source, TableSource, as_source, chunk_groups, counted
from dtk.sources.footers import leaves_of_fields
from dtk.sources.kept_files import FOOTERS, KEPT_FILES, _Bounded


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    return pa.table({"x": rng.normal(size=1000), "s": rng.choice(list("abc"), 1000), "i": np.arange(1000)})


@pytest.fixture
def files(tmp_path, table):
    pq.write_table(table.slice(0, 600), tmp_path / "a.parquet", row_group_size=100)
    pq.write_table(table.slice(600, 0), tmp_path / "b.parquet")
    pq.write_table(table.slice(600), tmp_path / "c.parquet", row_group_size=150)
    return [str(tmp_path / name) for name in ("a.parquet", "b.parquet", "c.parquet")]


def read_all(source, columns=None):
    return pa.concat_tables([source.read(chunk, columns) for chunk in range(source.num_chunks)])


def test_row_groups_are_chunks(files, table):
    source = ParquetSource.from_files(files)
    assert isinstance(source, Source)
    assert list(source.chunk_rows) == [100] * 6 + [150, 150, 100]
    assert read_all(source).equals(table)
    assert read_all(source, ["i", "x"]).equals(table.select(["i", "x"]))
    assert source.read(6, []).num_rows == 150
    assert source.describe(7) == f"{files[2]}, row group 1"


def test_fewer_columns_are_fewer_bytes(files):
    everything = ParquetSource.from_files(files)
    narrow = ParquetSource.from_files(files, columns=["s"])
    assert narrow.schema.names == ["s"]
    assert 0 < narrow.chunk_nbytes.sum() < everything.chunk_nbytes.sum() < sum(map(os.path.getsize, files))
    with pytest.raises(ArgumentError, match=r"columns='ss' is no column of the data; did you mean 's'\?"):
        ParquetSource.from_files(files, columns=["ss"])


def test_pickle_is_compact_and_reads_the_same(files, table):
    source = ParquetSource.from_files(files)
    source.read(0)
    copy = pickle.loads(pickle.dumps(source))
    assert len(pickle.dumps(source)) < 4000
    assert copy.identity == source.identity
    assert read_all(copy).equals(table)


def test_threads_read_the_same(files, table):
    source = ParquetSource.from_files(files)
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            assert pa.concat_tables(pool.map(source.read, range(source.num_chunks))).equals(table)


def test_more_files_than_footers_are_kept(tmp_path, table):
    paths = [str(tmp_path / f"{number:03d}.parquet") for number in range(100)]
    for number, path in enumerate(paths):
        pq.write_table(table.slice(10 * number, 10), path)
    source = ParquetSource.from_files(paths)
    assert read_all(source).equals(table)
    assert read_all(source).equals(table)


def test_identity_follows_the_files(files, table):
    before = ParquetSource.from_files(files)
    assert ParquetSource.from_files(files).identity == before.identity
    pq.write_table(table.slice(600).take(pa.array([0, 1])), files[2])
    assert ParquetSource.from_files(files).identity != before.identity
    with pytest.raises(DataError, match=r"c\.parquet was changed since it was opened"):
        before.read(6)


@pytest.fixture
def zeros(tmp_path):
    """A file of zeros, and what writes ones of the same layout into it."""
    path, options = str(tmp_path / "a.parquet"), {"use_dictionary": False, "compression": "none"}
    pq.write_table(pa.table({"x": np.zeros(20_000)}), path, write_statistics=False, **options)
    status = os.stat(path)

    def rewrite():
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"x": np.ones(20_000)}), sink, write_statistics=False, **options)
        with open(path, "r+b") as file:
            file.write(sink.getvalue())
        assert os.stat(path).st_size == status.st_size
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))  # both may be within a tick of the file system

    return path, rewrite


CHANGED = r"a\.parquet was changed since it was opened; open the data again"


@pytest.mark.parametrize("in_slices", [False, True])
def test_a_file_that_changes_while_it_is_decoded_is_named(zeros, monkeypatch, in_slices):
    """Its bytes are taken from the file as they are wanted, and would be of both."""
    path, rewrite = zeros
    source = ParquetSource.from_files([path])

    def after_a_change(decode):
        def changed(*arguments, **options):
            rewrite()
            return decode(*arguments, **options)

        return changed

    for name in ("read_row_group", "read_row_groups", "iter_batches"):
        monkeypatch.setattr(pq.ParquetFile, name, after_a_change(getattr(pq.ParquetFile, name)))
    with pytest.raises(DataError, match=CHANGED):
        next(source.read_slices(0, 100)) if in_slices else source.read(0)


@pytest.mark.parametrize("change", ["rewritten", "cut off"])
def test_a_file_that_changes_between_slices_is_named(zeros, change):
    path, rewrite = zeros
    slices = ParquetSource.from_files([path]).read_slices(0, 100)
    assert next(slices)["x"].to_numpy().sum() == 0
    if change == "rewritten":
        rewrite()
    else:
        os.truncate(path, 100)  # to touch what is gone would end the process
    with pytest.raises(DataError, match=CHANGED):
        next(slices)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux tells")
def test_no_page_of_a_file_stays_after_a_read(files):
    """Few files stay open in a thread, and what was read of them does not count as memory of the process."""
    source = ParquetSource.from_files(files * 5)
    read_all(source)
    resident = mapped = 0
    is_file = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if not line[0].isupper():
            is_file = any(line.endswith(str(file)) for file in files)
            mapped += is_file
        elif is_file and line.startswith("Rss:"):
            resident += int(line.split()[1])
    assert 1 <= mapped <= KEPT_FILES
    assert resident == 0


@pytest.mark.parametrize("keep", [0, 3, 11, -1, -30])
def test_truncated_file_is_named(files, keep):
    with open(files[2], "rb") as file:
        content = file.read()
    with open(files[2], "wb") as file:
        file.write(content[:keep])
    with pytest.raises(DataError, match=r"c\.parquet is no Parquet file, or was cut off"):
        ParquetSource.from_files(files)


def test_damaged_footer_is_named(files):
    with open(files[0], "r+b") as file:
        file.seek(-200, os.SEEK_END)
        file.write(b"\xff" * 150)
    with pytest.raises(DataError, match=r"a\.parquet has a damaged footer"):
        ParquetSource.from_files(files)


def test_missing_file_is_named(files):
    with pytest.raises(NotFoundError, match=r"nope\.parquet is not there"):
        ParquetSource.from_files([*files, "/nope.parquet"])


def test_mixed_schema_names_file_column_and_types(files, table):
    pq.write_table(table.set_column(2, "i", table["i"].cast(pa.int32())), files[2])
    with pytest.raises(DataError, match=r"column 'i' is int32 in .*c\.parquet but is int64 in .*a\.parquet"):
        ParquetSource.from_files(files)
    pq.write_table(table.select(["x", "i"]), files[2])
    with pytest.raises(DataError, match=r"column 's' is missing in .*c\.parquet"):
        ParquetSource.from_files(files)


def test_nested_columns_count_their_bytes(tmp_path):
    table = pa.table({"a": [1, 2], "n": [{"p": [1, 2], "q": "u"}, {"p": [], "q": "v"}], "z": ["k", None]})
    pq.write_table(table, tmp_path / "n.parquet")
    source = ParquetSource.from_files([str(tmp_path / "n.parquet")])
    parts = [ParquetSource.from_files(source.paths, columns=[name]).chunk_nbytes[0] for name in table.column_names]
    assert sum(parts) == source.chunk_nbytes[0]
    assert source.read(0).equals(table)


def test_columns_that_may_hold_nulls(tmp_path):
    table = pa.table({"i": [1, None], "j": [1, 2], "b": [True, None], "f": [1.0, None]})
    pq.write_table(table, tmp_path / "n.parquet")
    assert ParquetSource.from_files([str(tmp_path / "n.parquet")]).nullable == {"i", "b"}


def test_table_source_slices(table):
    source = TableSource(table, rows_per_chunk=300)
    assert isinstance(source, Source)
    assert list(source.chunk_rows) == [300, 300, 300, 100]
    assert read_all(source).equals(table)
    assert source.describe(3) == "table in memory, rows 900 to 999"
    assert pickle.loads(pickle.dumps(source)).identity == source.identity == TableSource(table).identity
    assert TableSource(table.slice(1)).identity != source.identity
    assert TableSource(table.slice(0, 0)).num_chunks == 0
    assert counted(source) is source


def test_as_source_of_data_in_memory(table):
    assert as_source(table.to_pandas(), columns=["i"]).read(0).to_pydict() == {"i": list(range(1000))}
    assert as_source({"x": np.arange(3), "y": [None, 1.0, 2.0]}).read(0)["y"].null_count == 1
    with pytest.raises(DataError, match="different lengths"):
        as_source({"x": np.arange(3), "y": np.arange(2)})
    with pytest.raises(DataError, match="column 'x' has 2 dimensions"):
        as_source({"x": np.zeros((2, 2))})


@pytest.mark.parametrize("hint", [1, 2, 3, 9, 50])
def test_groups_are_contiguous_and_cover(files, hint):
    source = ParquetSource.from_files(files)
    groups = chunk_groups(source, hint)
    assert [chunk for start, stop in groups for chunk in range(start, stop)] == list(range(source.num_chunks))
    assert all(start < stop for start, stop in groups)
    assert len(groups) <= hint


def test_text_is_read_as_codes_of_a_dictionary(tmp_path):
    words = [None if number % 5 == 0 else f"w{number % 3}" for number in range(40)]
    table = pa.table(
        {
            "plain": words,
            "large": pa.array(words, pa.large_string()),
            "coded": pa.array(words).dictionary_encode().cast(pa.dictionary(pa.int8(), pa.string())),
            "bytes": pa.array([b"x"] * 40),
            "x": range(40),
        }
    )
    pq.write_table(table, tmp_path / "part.parquet", row_group_size=15)
    plain = as_source(tmp_path)
    coded = plain.with_dictionaries()
    assert coded.identity == plain.identity
    assert [str(kind) for kind in coded.schema.types[:2]] == ["dictionary<values=string, indices=int32, ordered=0>"] * 2
    assert coded.schema.types[2:] == plain.schema.types[2:]
    for source in (coded, pickle.loads(pickle.dumps(coded))):
        for chunk in range(3):
            read = source.read(chunk)
            assert read.schema.equals(source.schema)
            assert read.to_pydict() == plain.read(chunk).to_pydict()
            slices = list(source.read_slices(chunk, 4, ["large", "x"]))
            assert (
                pa.concat_tables(slices, promote_options="permissive").to_pydict()
                == plain.read(chunk, ["large", "x"]).to_pydict()
            )
    assert plain.read(0).schema.equals(plain.schema)  # by files that the thread has open, too


def test_columns_after_an_extension_type_are_not_another_ones(tmp_path):
    """pandas stores an interval as a struct, of which Parquet has two columns."""
    table = pa.Table.from_pandas(pd.DataFrame({"between": pd.interval_range(0, 4), "text": list("abcd")}))
    table = table.append_column("n", pa.array([1, None, 3, 4]))
    pq.write_table(table, tmp_path / "a.parquet")
    source = as_source(tmp_path / "a.parquet")
    group = pq.read_metadata(tmp_path / "a.parquet").row_group(0)
    sizes = [group.column(number).total_compressed_size for number in range(4)]
    assert source.nullable == {"n"}
    assert leaves_of_fields(source.schema) == [[0, 1], [2], [3]]
    assert as_source(tmp_path / "a.parquet", ["n"]).chunk_nbytes.tolist() == [sizes[3]]
    assert as_source(tmp_path / "a.parquet", ["between"]).chunk_nbytes.tolist() == [sizes[0] + sizes[1]]


def test_what_is_kept_is_bounded_in_bytes_and_holds_one_at_least():
    kept = _Bounded[str](len, most=3)
    for word in ("four", "three", "x"):
        kept.put(word, word, 10)
    assert [kept.get(word) for word in ("four", "three", "x")] == ["four", "three", "x"]
    kept.get("four")
    kept.put("y", "y", 10)  # three at most: the one that was used least recently goes
    assert [kept.get(word) for word in ("four", "three", "x", "y")] == ["four", None, "x", "y"]
    kept.put("twelve bytes", "twelve bytes", 10)
    assert [kept.get(word) for word in ("four", "x", "y")] == [None] * 3
    assert kept.get("twelve bytes") == "twelve bytes"


def test_footers_that_are_kept_count_as_memory(tmp_path):
    wide = pa.table({f"x{number}": np.zeros(200) for number in range(100)})
    for number in range(4):
        pq.write_table(wide, tmp_path / f"{number}.parquet", row_group_size=10)
    paths = sorted(str(path) for path in tmp_path.iterdir())
    of_file = 20 * 100 * 800
    source = as_source(tmp_path)
    assert source.footer_nbytes.tolist() == [of_file] * 4
    assert source.kept_nbytes == 4 * of_file
    many = ParquetSource.from_files(paths * 12)
    assert many.kept_nbytes == (8 << 20) + 4 * (2 << 20)
    assert replace(many, footers_limit_nbytes=64 << 20).kept_nbytes == (64 << 20) + 4 * (2 << 20)
    pq.write_table(wide, tmp_path / "narrow.parquet")
    assert as_source(tmp_path / "narrow.parquet").kept_nbytes == 0  # what is less than a MiB is not counted
    for chunk in range(source.num_chunks):
        source.read(chunk, ["x3"])
    assert FOOTERS.get((paths[0], source.versions[0])).num_row_groups == 20


def test_footers_go_at_once_when_they_were_read(tmp_path):
    """Without the garbage collector: it sees two small objects, and not the megabytes behind them."""
    table = pa.table({f"x{number}": np.arange(400.0) for number in range(40)})
    for number in range(20):
        pq.write_table(table, tmp_path / f"{number}.parquet", row_group_size=10)
    script = f"""
        import gc, os
        from pathlib import Path
        from dtk.memory import tree_held_nbytes
        from dtk.sources.footers import read_footers
        paths = sorted(map(str, Path({str(tmp_path)!r}).iterdir()))
        read_footers(paths[:1])
        gc.disable()
        before = tree_held_nbytes(os.getpid())
        footers = read_footers(paths)
        print(tree_held_nbytes(os.getpid()) - before)
    """
    call = [sys.executable, "-c", textwrap.dedent(script)]
    told = subprocess.run(call, capture_output=True, text=True, check=True).stdout
    assert int(told) < 8 << 20  # of 25 MiB
