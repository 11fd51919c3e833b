"""Remote stores: the same values as local files, in few requests at once, and failures that pass or are named."""

from __future__ import annotations

import asyncio
import io
import pickle
import socket
import subprocess
import sys
import threading
import time

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import xarray as xr
import zarr
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

import dtk
from benchmarks.object_server import serve
from dtk.errors import DataError, FetchError, NotFoundError
from dtk.sources import ParquetSource, as_source, remote
from dtk.sources.byte_ranges import PartialFile, merged, split
from dtk.sources.footers import read_footers
from dtk.sources.kept_files import FOOTERS
from dtk.sources.remote import Fetcher, Retries, is_transient
from dtk.sources.remote_files import RemoteFiles, remote_files
from dtk.sources.remote_zarr import is_remote
from dtk.sources.zarr_read import Scratch, fetch_region, read_region, region_cost, stored_chunk_nbytes


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """Parquet files with nested, dictionary and plain columns, beside Zarr stores."""
    path = tmp_path_factory.mktemp("remote")
    (path / "table").mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        table = pa.table(
            {
                "x": rng.standard_normal(1000),
                "wide": [rng.bytes(300) for _ in range(1000)],
                "word": rng.choice(["a", "b", "c"], 1000),
                "pair": [{"one": int(one), "two": [one]} for one in rng.random(1000) * 9],
                "y": rng.integers(0, 2, 1000),
            }
        )
        pq.write_table(table, path / "table" / f"{number}.parquet", row_group_size=300)
    values = rng.standard_normal((40, 12, 10)).astype("f4")
    kinds = {
        "v2": {"zarr_format": 2, "chunks": (8, 5, 10)},
        "v3": {"chunks": (8, 5, 10)},
        "gzip": {"chunks": (8, 5, 10), "compressors": zarr.codecs.GzipCodec()},
        "shards": {"chunks": (2, 3, 5), "shards": (8, 6, 10)},
    }
    for name, options in kinds.items():
        array = zarr.create_array(str(path / name), shape=values.shape, dtype="f4", fill_value=7, **options)
        array[:30] = values[:30]  # the last chunks are not there
    codec = zarr.codecs.ShardingCodec(chunk_shape=(2, 3, 5), index_location="start")
    array = zarr.create(shape=values.shape, chunks=(8, 6, 10), dtype="f4", codecs=[codec], store=str(path / "first"))
    array[...] = values
    xr.Dataset({"x": ("t", np.arange(6.0))}).to_zarr(path / "grid-to-open", consolidated=False)
    return path


@pytest.fixture(scope="module")
def module_server(directory):
    pytest.importorskip("aiohttp")  # what fsspec speaks HTTP with
    with serve(directory) as server:
        yield server


@pytest.fixture
def server(module_server, monkeypatch):
    """The server, which does all at once and does not fail, and short waits."""
    monkeypatch.setattr(remote, "RETRIES", Retries(attempts=4, first_s=0.01))
    module_server.behave()
    return module_server


def read_all(source, columns=None):
    return pa.concat_tables([source.read(chunk, columns) for chunk in range(source.num_chunks)])


def test_parquet_equals_local_files(directory, server):
    local, there = as_source(directory / "table"), as_source(f"{server.url}/table/")
    assert (local.remote_cost, there.num_chunks) == (None, local.num_chunks)
    assert read_all(there).equals(read_all(local))
    for columns in (["y"], ["pair", "x"], ["word", "y"], []):
        assert read_all(there, columns).equals(read_all(local, columns))
    copy = pickle.loads(pickle.dumps(there))
    assert copy.identity == there.identity
    assert copy.read(4).equals(local.read(4))


def test_slices_and_codes_of_text_equal_those_of_local_files(directory, server):
    local, there = (as_source(place) for place in (directory / "table", f"{server.url}/table/"))
    slices = list(there.read_slices(4, 70, ["x", "word"], fetched=there.fetch(4, ["x", "word"])))
    assert [one.num_rows for one in slices] == [70, 70, 70, 70, 20]
    assert pa.concat_tables(slices).equals(local.read(4, ["x", "word"]))
    server.behave()
    assert next(there.read_slices(5, 10, ["word"])).equals(local.read(5, ["word"]).slice(0, 10))
    assert server.counts()["GET"] == 1
    coded = there.with_dictionaries()
    assert coded.read(4).equals(local.with_dictionaries().read(4))
    assert pa.types.is_dictionary(coded.read(4, ["word"]).schema.field("word").type)


def test_columns_are_fetched_in_the_requests_and_bytes_that_are_planned(server):
    source = as_source(f"{server.url}/table/", columns=["x", "y"])
    source.read(0)  # its footer is kept from now on
    server.behave()
    source.read(1)
    counts = server.counts()
    assert counts == {"GET": 2, "peak": counts["peak"]}  # the wide column between is left out
    assert source.remote_cost.requests[1] == 2
    assert source.remote_cost.nbytes[1] == source.chunk_nbytes[1]
    narrow = as_source(f"{server.url}/table/", columns=["word", "y"])  # with the small column between them
    server.behave(delay_s=0.2)
    narrow.read(1)
    assert server.counts() == {"GET": 1, "peak": 1}
    assert narrow.remote_cost.requests[1] == 1
    assert narrow.remote_cost.nbytes[1] > narrow.chunk_nbytes[1]


def test_row_groups_of_a_file_wait_for_one_footer(server):
    source = as_source(f"{server.url}/table/", columns=["x"])
    source = pickle.loads(pickle.dumps(source))
    FOOTERS.clear()
    server.behave(delay_s=0.05)
    fetches = [source.fetch(chunk) for chunk in range(4)]
    for chunk, fetch in enumerate(fetches):
        assert source.read(chunk, fetched=fetch).num_rows == source.chunk_rows[chunk]
    assert server.counts()["GET"] == 1 + 4


def test_footers_of_many_files_are_fetched_together(directory, server):
    paths = [f"{server.url}/table/{number % 3}.parquet" for number in range(60)]
    server.behave(delay_s=0.1)
    footers = read_footers(paths, filesystem=fsspec.filesystem("http"))
    assert server.counts()["peak"] > 30
    local = read_footers([str(directory / "table" / f"{number % 3}.parquet") for number in range(60)])
    assert [footer.digest for footer in footers] == [footer.digest for footer in local]


@pytest.mark.parametrize("kind", ["v2", "v3", "gzip", "shards", "first"])
def test_zarr_equals_a_local_store(directory, server, kind):
    local = zarr.open_array(str(directory / kind), mode="r")
    there = zarr.open_array(f"{server.url}/{kind}", mode="r")
    assert is_remote(there.store_path.store)
    assert not is_remote(local.store_path.store)
    assert stored_chunk_nbytes(there) == stored_chunk_nbytes(local)
    for region in [(slice(0, 40), slice(0, 12), slice(0, 10)), (slice(3, 33), slice(1, 2), slice(4, 7))]:
        for fetched in (None, fetch_region(there, region)):
            out = np.zeros([part.stop - part.start for part in region], "f4")
            read_region(there, region, out, Scratch(), fetched)
            np.testing.assert_array_equal(out, local[region])


@pytest.mark.parametrize(("kind", "requests"), [("v3", 5), ("shards", 10), ("first", 10)])
def test_of_a_shard_little_needed_only_that_is_fetched(server, kind, requests):
    array = zarr.open_array(f"{server.url}/{kind}", mode="r")
    region = (slice(0, 40), slice(0, 3), slice(0, 5))
    nbytes = stored_chunk_nbytes(array)
    cost = region_cost(array, region, 0, np.arange(0, 40, 8), np.arange(8, 48, 8), nbytes)
    server.behave()
    out = np.zeros((40, 3, 5), "f4")
    read_region(array, region, out, Scratch())
    there = requests if kind == "first" else requests - requests // 5  # a shard that is not there costs one
    assert there <= server.counts()["GET"] <= requests == cost.requests.sum()
    share = 1 if kind == "v3" else 0.25
    assert cost.nbytes.sum() == pytest.approx(5 * nbytes * share, abs=5)


@pytest.mark.parametrize("how", [503, 429, 500, "reset", "short"])
def test_what_passes_is_tried_again(directory, server, how):
    source, local = as_source(f"{server.url}/table/"), as_source(directory / "table")
    source.read(0)
    server.behave(fail=3, how=how)
    assert source.read(1).equals(local.read(1))
    array = zarr.open_array(f"{server.url}/v3", mode="r")
    server.behave(fail=3, how=how)
    out = np.zeros((8, 12, 10), "f4")
    read_region(array, (slice(0, 8), slice(0, 12), slice(0, 10)), out, Scratch())
    np.testing.assert_array_equal(out, zarr.open_array(str(directory / "v3"), mode="r")[:8])


@pytest.mark.parametrize("how", [503, "reset", "short"])
def test_what_does_not_pass_is_named_with_its_attempts(server, how):
    source = as_source(f"{server.url}/table/")
    array = zarr.open_array(f"{server.url}/v3", mode="r")
    server.behave(fail=1000, how=how)
    with pytest.raises(FetchError, match=r"http://127.*/table/0\.parquet was not fetched in 4 attempts: .*Error"):
        source.read(0)
    with pytest.raises(FetchError, match=r"http://127.*/v3/c/0/0/0 was not fetched in 4 attempts"):
        read_region(array, (slice(0, 1),) * 3, np.zeros((1, 1, 1), "f4"), Scratch())


@pytest.mark.parametrize(("how", "error"), [(403, FetchError), (404, NotFoundError)])
def test_what_cannot_pass_is_not_tried_again(server, how, error):
    source = as_source(f"{server.url}/table/")
    files = remote_files(source.filesystem)
    server.behave(fail=1, how=how)
    with pytest.raises(error, match=r"/table/0\.parquet (is not there|cannot be fetched: .*403)"):
        files.fetcher.start(files.range, source.paths[0], 0, 8).result()
    assert server.counts()["GET"] == 1


def test_a_changed_file_is_refused(tmp_path):
    pytest.importorskip("aiohttp")
    pq.write_table(pa.table({"x": range(10)}), tmp_path / "a.parquet")
    with serve(tmp_path) as server:
        source = ParquetSource.from_files([f"{server.url}/a.parquet"], filesystem=fsspec.filesystem("http"))
        pq.write_table(pa.table({"x": range(5)}), tmp_path / "a.parquet")
        with pytest.raises(DataError, match=r"a\.parquet was changed since it was opened"):
            source.read(0)
        (tmp_path / "a.parquet").unlink()
        with pytest.raises(NotFoundError, match=r"a\.parquet is not there"):
            source.read(0)


def test_a_file_system_that_is_not_asynchronous(directory):
    memory = fsspec.filesystem("memory")
    for file in (directory / "table").iterdir():
        memory.pipe_file(f"/remote-table/{file.name}", file.read_bytes())
    there = as_source("memory://remote-table/")
    assert there.remote_cost is not None
    assert read_all(there).equals(read_all(as_source(directory / "table")))
    memory.pipe_file("/remote-table/0.parquet", b"PAR1")
    with pytest.raises(DataError, match=r"0\.parquet was changed"):
        there.read(0)
    memory.rm("/remote-table", recursive=True)


def test_an_expression_over_remote_files(directory, server):
    local, there = (dtk.open(path) for path in (directory / "table", f"{server.url}/table/"))
    local, there = (as_source(data[data.y == 1].assign(z=data.x * 2), ["z"]) for data in (local, there))
    assert there.fetch_cost().requests.sum() >= there.num_chunks
    assert there.read(2).equals(local.read(2))
    assert there.read(2, fetched=there.fetch(2)).equals(local.read(2))


def test_requests_at_a_time_are_bounded():
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        fetcher, running, most = Fetcher(loop, num_requests=3), 0, 0

        async def get():
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.001)
            running -= 1

        async def many():
            await asyncio.gather(*(fetcher.request("a", get) for _ in range(20)))

        fetcher.start(many).result()
        assert most == 3
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_waits_grow_up_to_a_limit():
    retries = Retries(attempts=9, first_s=1.0, most_s=10.0)
    for attempt, longest in enumerate([1, 2, 4, 8, 10, 10], start=1):
        assert all(longest / 2 <= retries.wait_s(attempt) <= longest for _ in range(20))


class AnswerError(Exception):
    def __init__(self, status):
        self.response = {"ResponseMetadata": {"HTTPStatusCode": status}}  # as botocore has it


@pytest.mark.parametrize(
    ("error", "passes"),
    [(TimeoutError(), True), (ConnectionResetError(), True), (OSError("busy"), True), (EOFError(), True),
     (PermissionError(), False), (FileNotFoundError(), False), (ValueError(), False), (KeyError(), False),
     (AnswerError(503), True), (AnswerError(400), False), (AnswerError(429), True)],
)  # fmt: skip
def test_which_errors_pass(error, passes):
    assert is_transient(error) is passes


@pytest.mark.parametrize(("kind", "status", "passes"), [(OSError, 400, False), (FileNotFoundError, 503, True)])
def test_the_cause_decides_where_a_library_wraps_it(kind, status, passes):
    error = kind("wrapped")
    error.__cause__ = AnswerError(status)
    assert is_transient(error) is passes


spans = st.lists(st.tuples(st.integers(0, 500), st.integers(1, 60)), max_size=12).map(
    lambda found: [(start, start + length) for start, length in found]
)


@given(spans, st.integers(0, 50), st.integers(1, 200))
def test_merged_spans_cover_all_and_stay_within_their_limits(found, gap, request):
    requests = merged(found, gap_nbytes=gap, request_nbytes=request)
    assert sorted(span for group in requests for span in group) == sorted(found)
    for group in requests:
        assert len(group) == 1 or max(stop for _, stop in group) - group[0][0] <= request
    parts = split(0, 500, request_nbytes=request)
    assert all(stop - start <= request for start, stop in parts)
    assert [start for start, _ in parts[1:]] == [stop for _, stop in parts[:-1]]


apart = st.lists(st.integers(0, 600), unique=True, max_size=16).map(
    lambda edges: list(zip(sorted(edges)[::2], sorted(edges)[1::2], strict=False))
)


@given(apart, st.lists(st.tuples(st.integers(0, 700), st.integers(0, 90)), max_size=9))
def test_a_partial_file_reads_as_the_whole(found, reads):
    content = np.random.default_rng(0).bytes(600)
    asked = []

    def read_missing(start, stop):
        asked.append((start, stop))
        return content[start:stop]

    file = PartialFile(600, [(start, content[start:stop]) for start, stop in found], read_missing)
    for start, length in reads:
        file.seek(start)
        assert file.read(length) == content[start : start + length]
        assert file.tell() == max(start, min(start + length, 600))
    covered = {at for start, stop in found for at in range(start, stop)}
    assert all(start < stop and not covered & set(range(start, stop)) for start, stop in asked)
    assert file.seek(-5, io.SEEK_END) == 595
    assert bytes(file.read_buffer()) == content[595:]


def test_bytes_that_were_not_fetched_are_an_error():
    with pytest.raises(OSError, match="bytes 3 to 5 were not fetched"):
        PartialFile(10, [(0, b"abc")]).read(5)


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    """The endpoint of a real S3 server, in another process."""
    pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            end = time.monotonic() + 60
            while not listens(port):
                assert time.monotonic() < end
                time.sleep(0.1)
            yield {"endpoint_url": f"http://127.0.0.1:{port}", "key": "a", "secret": "b"}
        finally:
            process.kill()


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True


def test_s3(directory, s3, monkeypatch):
    """Parquet and Zarr in a bucket, with an endpoint and credentials of one's own, in another process too."""
    store = fsspec.filesystem("s3", **s3)
    store.mkdir("bucket")
    for file in (directory / "table").iterdir():
        store.pipe_file(f"bucket/table/{file.name}", file.read_bytes())
    data = dtk.open("s3://bucket/table/", storage_options=s3)
    there, local = as_source(data), as_source(directory / "table")
    assert there.filesystem.config_kwargs["max_pool_connections"] == remote.REQUESTS
    with monkeypatch.context() as patched:
        patched.setattr(RemoteFiles, "check_version", None)  # nobody asks: the answers name the version
        assert read_all(pickle.loads(pickle.dumps(there)), ["x"]).equals(read_all(local, ["x"]))
    store.pipe_file("bucket/table/0.parquet", b"PAR1")
    with pytest.raises(DataError, match="0.parquet was changed since it was opened"):
        there.read(0)
    boto = pytest.importorskip("boto3").client("s3", endpoint_url=s3["endpoint_url"], aws_access_key_id="a",
                                               aws_secret_access_key="b", region_name="us-east-1")  # fmt: skip
    boto.put_object(Bucket="bucket", Key="table/0.parquet", Body=(directory / "table" / "1.parquet").read_bytes())
    again = as_source(dtk.open("s3://bucket/table/", storage_options=s3))  # not what s3fs listed before
    assert again.read(0).equals(local.read(4))
    grid = xr.Dataset({"x": (("t", "a"), np.random.default_rng(0).random((20, 4)))})
    grid.to_zarr("s3://bucket/grid", storage_options=s3, consolidated=False)
    ours = dtk.Loader(dtk.open("s3://bucket/grid", storage_options=s3), global_batch_size=4)
    for batch, other in zip(ours, dtk.Loader(grid_on_disk(grid, directory), global_batch_size=4), strict=True):
        assert torch.equal(batch["inputs"], other["inputs"])


def grid_on_disk(grid, directory):
    grid.to_zarr(directory / "grid", consolidated=False)
    return str(directory / "grid")


def test_a_store_of_obstore(directory, server):
    obstore = pytest.importorskip("obstore.store")
    there = obstore.HTTPStore(f"{server.url}/shards", client_options={"allow_http": True})
    array = zarr.open_array(zarr.storage.ObjectStore(there, read_only=True), mode="r")
    assert is_remote(array.store_path.store)
    out = np.zeros((40, 3, 5), "f4")
    read_region(array, (slice(0, 40), slice(0, 3), slice(0, 5)), out, Scratch())
    np.testing.assert_array_equal(out, zarr.open_array(str(directory / "shards"), mode="r")[:, :3, :5])


def test_an_unknown_protocol_is_refused():
    with pytest.raises(dtk.ArgumentError, match="path='blub://a/b' cannot be opened: Protocol not known: blub"):
        dtk.open("blub://a/b")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(dtk.DependencyError, match=r"pip install 'dask-dtk\[gcs\]'"):
        dtk.open("gs://bucket/table/")


def test_a_listing_does_not_take_a_failure_for_an_empty_place(server):
    server.behave(fail=2)
    assert dtk.open(f"{server.url}/table/0.parquet").npartitions == 1
    server.behave(fail=1000)
    with pytest.raises(FetchError, match="was not fetched in 4 attempts"):
        dtk.open(f"{server.url}/table/0.parquet")
    server.behave()
    with pytest.raises(NotFoundError, match="table/9.parquet is not there; did you mean"):
        dtk.open(f"{server.url}/table/9.parquet")
    with pytest.raises(FetchError, match=r"127\.0\.0\.1:9/a\.parquet was not fetched in 4 attempts"):
        dtk.open("http://127.0.0.1:9/a.parquet")  # nobody listens there


def test_a_file_opens_where_one_may_not_ask_for_others(directory, monkeypatch):
    store, info = fsspec.filesystem("memory"), MemoryFileSystem.info

    def guarded(self, path, **options):  # as S3 answers who may not list
        try:
            return info(self, path, **options)
        except FileNotFoundError as error:
            raise PermissionError("Forbidden") from error

    content = (directory / "table" / "0.parquet").read_bytes()
    store.pipe_file("/locked/0.parquet", content)
    monkeypatch.setattr(MemoryFileSystem, "info", guarded)
    monkeypatch.setattr("dtk.sources.remote_files._known", {})
    found = as_source(dtk.open("memory://locked/0.parquet"))
    assert read_all(found, ["x"]).equals(pq.read_table(io.BytesIO(content), columns=["x"]))
    with pytest.raises(FetchError, match="cannot be fetched: PermissionError: Forbidden; check the credentials"):
        dtk.open("memory://locked/1.parquet")


def test_a_zarr_store_opens_although_requests_fail(server):
    server.behave(fail=3)
    assert dict(dtk.open(f"{server.url}/grid-to-open").sizes) == {"t": 6}


def test_a_fetch_that_is_given_up_at_once_leaves_nothing(server):
    source = as_source(f"{server.url}/table/")
    server.behave(delay_s=0.2)
    for _ in range(50):
        (fetch,) = source.fetch(0)
        assert fetch.cancel()
    files = remote_files(source.filesystem)
    assert len(files.fetcher.start(files.range, source.paths[0], 0, 8).result()[0]) == 8
    assert not files.footers
