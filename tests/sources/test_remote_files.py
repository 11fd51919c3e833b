"""Files of remote file systems: changes that are seen at whatever moment they come, and listings of any length."""

from __future__ import annotations

import asyncio
import io
import os
import time
from dataclasses import replace

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.memory import MemoryFileSystem

import dtk
from benchmarks.object_server import serve
from dtk.errors import DataError, FetchError, NotFoundError
from dtk.sources import ParquetSource, as_source, remote
from dtk.sources.footers import TAIL_NBYTES, read_footers
from dtk.sources.joining import join
from dtk.sources.remote import Retries
from dtk.sources.remote_files import RemoteFiles, remote_files

PLAIN = {"use_dictionary": False, "compression": "none", "write_statistics": False}  # a rewritten file has its size


@pytest.fixture
def server(tmp_path, monkeypatch):
    pytest.importorskip("aiohttp")
    monkeypatch.setattr(remote, "RETRIES", Retries(attempts=3, first_s=0.01))
    with serve(tmp_path) as server:
        yield server


def content_of(table, **options):
    file = io.BytesIO()
    pq.write_table(table, file, **options)
    return file.getvalue()


def rows(value):
    return content_of(pa.table({"x": np.full(50, value)}), **PLAIN)


@pytest.mark.parametrize("kind", ["memory", "http"])  # where one has to ask for the version, and where answers name it
def test_a_file_that_changes_while_it_is_fetched_is_refused(kind, tmp_path, request, monkeypatch):
    if kind == "http":
        url = f"{request.getfixturevalue('server').url}/a.parquet"

        def put(content):
            (tmp_path / "a.parquet").write_bytes(content)

    else:
        url = "memory://changing/a.parquet"

        def put(content):
            fsspec.filesystem("memory").pipe_file("/changing/a.parquet", content)

    put(rows(0.0))
    source = as_source(url)
    assert source.read(0)["x"].to_pylist() == [0.0] * 50  # its footer is kept
    fetched = RemoteFiles.range

    async def late(self, *place):
        await asyncio.sleep(0.1)  # whoever asked for the version at once has got the answer
        put(rows(1.0))
        return await fetched(self, *place)

    monkeypatch.setattr(RemoteFiles, "range", late)
    with pytest.raises(DataError, match=r"a\.parquet was changed since it was opened"):
        source.read(0)


@pytest.mark.parametrize("tells", ["ETag", "Last-Modified"])
def test_a_file_that_is_rewritten_in_its_size_is_another(tells, server, tmp_path):
    (tmp_path / "t").mkdir()
    file = tmp_path / "t" / "0.parquet"
    server.behave(tells=tells)
    file.write_bytes(rows(0.0))
    before = as_source(f"{server.url}/t/")
    server.behave(tells=tells)
    before.read(0)
    counts = server.counts()
    assert (counts.get("HEAD", 0), counts["GET"]) == (0, 2)  # the footer and the rows: the answers name the version
    file.write_bytes(rows(1.0))
    os.utime(file, (1e9, 1e9))
    with pytest.raises(DataError, match=r"0\.parquet was changed since it was opened"):
        before.read(0)
    assert as_source(f"{server.url}/t/").identity != before.identity


def test_a_server_that_tells_neither_tag_nor_time_is_warned_of(server, tmp_path):
    (tmp_path / "0.parquet").write_bytes(rows(0.0))
    server.behave(tells="")
    with pytest.warns(UserWarning, match=r"0\.parquet has neither tag nor time: a change of it is seen by its size"):
        source = ParquetSource.from_files([f"{server.url}/0.parquet"], filesystem=fsspec.filesystem("http"))
    assert source.remote_cost.requests[0] == 2  # its size is asked for
    assert source.read(0)["x"].to_pylist() == [0.0] * 50
    (tmp_path / "0.parquet").write_bytes(rows(1.0) + b"PAR1")
    with pytest.raises(DataError, match=r"0\.parquet was changed"):
        source.read(0)


class Toy(AsyncFileSystem):
    """Files in memory that keep what they listed."""

    protocol = "toy"

    def __init__(self, name="", **options):
        super().__init__(**options)
        self.contents, self.tag = CONTENTS[name], ""

    async def _info(self, path, **options):
        if path not in self.dircache:
            tag = TAGS.get(path, "")
            self.dircache[path] = [{"name": path, "size": len(self.contents[path]), "ETag": tag, "type": "file"}]
        return self.dircache[path][0]

    async def _cat_file(self, path, start=None, end=None, **options):
        return self.contents[path][start:end]

    def invalidate_cache(self, path=None):
        self.dircache.clear()


CONTENTS, TAGS = {}, {}


def test_an_asynchronous_file_system_does_not_answer_from_its_listing():
    CONTENTS["changing"] = {"a": b"1"}
    files = remote_files(Toy("changing", asynchronous=True))
    assert files.fetcher.start(files.version, "a").result() == "1:"
    CONTENTS["changing"]["a"] = b"22"
    assert files.fetcher.start(files.listed_version, "a").result() == "1:"
    assert files.fetcher.start(files.version, "a").result() == "2:"


def test_files_of_one_name_and_size_in_two_places_have_footers_of_their_own():
    for name in ("one", "two"):
        CONTENTS[name] = {"a": content_of(pa.table({name: np.arange(5)}), **PLAIN)}
    with pytest.warns(UserWarning, match="neither tag nor time"):
        sources = [ParquetSource.from_files(["a"], filesystem=Toy(name)) for name in ("one", "two")]
    assert sources[0].versions == sources[1].versions
    assert [source.read(0).column_names for source in sources] == [["one"], ["two"]]


def test_long_footers_are_fetched_beside_each_other(monkeypatch):
    memory = fsspec.filesystem("memory")
    content = content_of(pa.table({f"column_number_{number}": np.arange(3) for number in range(600)}))
    paths = [f"/wide/{number}.parquet" for number in range(20)]
    for path in paths:
        memory.pipe_file(path, content)
    fetched, running, most = RemoteFiles.range, 0, 0

    async def counted(self, path, start, stop, *others):
        nonlocal running, most
        is_long = stop - start > TAIL_NBYTES
        running += is_long
        most = max(most, running)
        await asyncio.sleep(0.05)
        running -= is_long
        return await fetched(self, path, start, stop, *others)

    monkeypatch.setattr(RemoteFiles, "range", counted)
    footers = read_footers(paths, filesystem=memory)
    assert [footer.path for footer in footers] == paths
    assert most > 5
    memory.rm("/wide", recursive=True)


def test_a_footer_that_is_not_kept_counts_with_what_is_fetched():
    content = content_of(pa.table({f"x{number}": np.arange(20) for number in range(30)}), row_group_size=5)
    fsspec.filesystem("memory").pipe_file("/footers/0.parquet", content)
    source = as_source("memory://footers/", columns=["x3"])
    for joined, num_chunks in ((source, 4), (join(source, 10)[0], 2)):
        kept, cost = joined.fetch_cost(), replace(joined, footers_limit_nbytes=1000).fetch_cost()
        assert (cost.nbytes - kept.nbytes).tolist() == [800 * 30 * 4] * num_chunks
        assert (cost.requests - kept.requests).tolist() == [1] * num_chunks
        assert (kept.once, cost.once) == (1, 0)


def test_long_columns_come_whole_also_where_bodies_break_off(server, tmp_path):
    table = pa.table({"x": np.random.default_rng(0).random(700_000), "y": np.random.default_rng(1).random(700_000)})
    (tmp_path / "0.parquet").write_bytes(content_of(table, row_group_size=700_000, **PLAIN))
    source = as_source(f"{server.url}/0.parquet", columns=["x"])
    server.behave(fail=2, how="short")
    assert source.read(0).equals(table.select(["x"]))
    assert source.remote_cost.requests[0] == 2  # of 2.8 MB


def test_a_listing_may_take_longer_than_a_request(monkeypatch):
    fsspec.filesystem("memory").pipe_file("/listed/0.parquet", rows(0.0))
    found = MemoryFileSystem.find

    def slow(self, *place, **options):
        time.sleep(0.4)
        return found(self, *place, **options)

    monkeypatch.setattr(MemoryFileSystem, "find", slow)
    monkeypatch.setattr(remote, "RETRIES", Retries(attempts=2, timeout_s=0.1))
    assert dtk.open("memory://listed/").npartitions == 1


def test_what_is_not_there_is_said_where_one_may_not_list(monkeypatch):
    def refused(*place, **options):
        raise PermissionError("Forbidden")

    monkeypatch.setattr(MemoryFileSystem, "ls", refused)
    with pytest.raises(
        NotFoundError, match="not-there/0.parquet is not there; nothing is seen in /not-there; check the"
    ):
        dtk.open("memory://not-there/0.parquet")


def test_a_failed_fetch_does_not_try_as_often_to_see_whether_the_file_changed(server, tmp_path):
    (tmp_path / "0.parquet").write_bytes(rows(0.0))
    source = as_source(f"{server.url}/0.parquet")
    source.read(0)
    server.behave(fail=100)
    with pytest.raises(FetchError, match="was not fetched in 3 attempts"):
        source.read(0)
    assert server.counts()["HEAD"] == 1


class Picky(Toy):
    protocol = "picky"

    def __init__(self, *, host):
        super().__init__()


def test_options_that_do_not_fit_are_named_without_their_values():
    fsspec.register_implementation("picky", Picky, clobber=True)
    with pytest.raises(
        dtk.ArgumentError, match=r"storage_options \(password\) do not fit picky://x: .*'password'; check"
    ) as caught:
        dtk.open("picky://x", storage_options={"password": "TOPSECRET"})
    assert "TOPSECRET" not in str(caught.value)
    pytest.importorskip("aiohttp")
    with pytest.raises(FetchError, match=r"cannot be fetched: TypeError: .*'bogus'; check storage_options$"):
        dtk.open("http://127.0.0.1:9/x", storage_options={"bogus": "TOPSECRET"})
