"""Objects of remote Zarr stores: long ones in parts, of shards only what is wanted, and damage that is named."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
import xarray as xr
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec
from zarr.core.buffer import cpu
from zarr.storage import MemoryStore, WrapperStore

import dtk
from benchmarks.object_server import serve
from dtk.errors import DataError
from dtk.sources.byte_ranges import REQUEST_NBYTES
from dtk.sources.zarr_read import Scratch, fetch_region, read_region, region_cost


class Far(WrapperStore):
    """A store in memory that counts as remote."""

    now = most = 0

    async def getsize(self, key):
        Far.now += 1
        Far.most = max(Far.most, Far.now)
        try:
            await asyncio.sleep(0.01)
            return await super().getsize(key)
        finally:
            Far.now -= 1


def read(array, *region):
    out = np.zeros([part.stop - part.start for part in region], array.dtype)
    read_region(array, region, out, Scratch())
    return out


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_long_object_is_fetched_in_parts(is_whole, tmp_path):
    pytest.importorskip("aiohttp")
    rows = 3 * REQUEST_NBYTES // 1024
    chunks = {"chunks": (rows, 256)} if is_whole else {"chunks": (rows // 2, 64), "shards": (rows, 256)}
    array = zarr.create_array(str(tmp_path / "a"), shape=(rows, 256), dtype="f4", compressors=None, **chunks)
    array[...] = values = np.random.default_rng(0).random((rows, 256), np.float32)
    with serve(tmp_path) as server:
        there = zarr.open_array(f"{server.url}/a", mode="r")
        server.behave(delay_s=0.05)
        np.testing.assert_array_equal(read(there, slice(0, rows), slice(0, 256)), values)
        counts = server.counts()
        region = slice(0, rows), slice(0, 256)
        cost = region_cost(there, region, 0, np.array([0]), np.array([rows]), values.nbytes)
        assert counts["HEAD"] + counts["GET"] == pytest.approx(cost.requests[0], abs=1) == (4 if is_whole else 5)
        assert counts["peak"] >= 3


def test_objects_that_are_short_are_fetched_at_once(tmp_path):
    pytest.importorskip("aiohttp")
    array = zarr.create_array(str(tmp_path / "a"), shape=(4 << 20,), chunks=(2 << 20,), dtype="f4", fill_value=3)
    array[: 2 << 20] = 1
    with serve(tmp_path) as server:
        there = zarr.open_array(f"{server.url}/a", mode="r")
        for object_nbytes, counts in ((1000.0, {"GET": 2}), (None, {"HEAD": 2, "GET": 3})):  # one of them is not there
            server.behave()
            out, region = np.zeros(4 << 20, "f4"), (slice(0, 4 << 20),)
            read_region(there, region, out, Scratch(), fetch_region(there, region, object_nbytes))
            np.testing.assert_array_equal(out, array[:])
            found = server.counts()
            assert found["GET"] <= counts["GET"]
            assert found.get("HEAD", 0) == counts.get("HEAD", 0)


def test_of_a_shard_no_more_is_held_than_is_wanted(tmp_path):
    pytest.importorskip("aiohttp")
    shape = (64, 8, 512)
    array = zarr.create_array(str(tmp_path / "a"), shape=shape, chunks=(1, 1, 512), shards=shape, dtype="f4",
                              compressors=None)  # fmt: skip
    array[...] = values = np.arange(np.prod(shape), dtype="f4").reshape(shape)
    with serve(tmp_path) as server:
        there = zarr.open_array(f"{server.url}/a", mode="r")
        region = (slice(0, 64), slice(2, 3), slice(0, 512))
        objects = fetch_region(there, region).result()
        (chunks,) = objects.values()
        assert sum(len(memoryview(chunk.obj)) for chunk in chunks.values()) == 64 * 2048
        np.testing.assert_array_equal(read(there, *region), values[:, 2:3])


def shard(has_checksum, location):
    index = [BytesCodec(), Crc32cCodec()] if has_checksum else [BytesCodec()]
    codec = ShardingCodec(chunk_shape=(4,), codecs=[BytesCodec()], index_codecs=index, index_location=location)
    store = MemoryStore()
    array = zarr.create(shape=(64,), chunks=(64,), dtype="f4", codecs=[codec], store=store)
    array[...] = np.arange(64)
    return store


def damage(store, at, value):
    """Change an entry of the index of the only shard: what is said of where the chunk is, or of its bytes."""
    (key,) = (key for key in store._store_dict if key.startswith("c"))
    raw = bytearray(store._store_dict[key].to_bytes())
    raw[at : at + 8 if at + 8 else None] = value.to_bytes(8, "little")
    store._store_dict[key] = cpu.Buffer.from_bytes(bytes(raw))


@pytest.mark.parametrize("is_far", [True, False])
@pytest.mark.parametrize("location", ["start", "end"])
def test_a_damaged_index_is_named(is_far, location):
    for at, wanted in ((0, slice(0, 4)), (8, slice(0, 4)), (8 * 30, slice(0, 4)), (8, slice(0, 64))):
        store = shard(has_checksum=True, location=location)
        damage(store, at if location == "start" else at - 16 * 16 - 4, 2**46)
        array = zarr.open_array(Far(store) if is_far else store, mode="r")
        with pytest.raises(DataError, match=r"c/0 cannot be decoded: its index does not have the checksum"):
            read(array, wanted)


@pytest.mark.parametrize("is_far", [True, False])
def test_without_a_checksum_damage_is_seen_where_it_is_met(is_far):
    for at, value, error in ((0, 2**46, "ends at byte|was changed while"), (8, 2**46, "says that chunk .* takes 7036")):
        store = shard(has_checksum=False, location="end")
        damage(store, at - 16 * 16, value)
        array = zarr.open_array(Far(store) if is_far else store, mode="r")
        with pytest.raises(DataError, match=error):
            read(array, slice(0, 4))
        np.testing.assert_array_equal(read(array, slice(4, 8)), np.arange(4, 8))  # the others can be read


def test_a_listing_that_tells_no_change_is_refused():
    store = MemoryStore()
    array = zarr.create_array(store, shape=(40, 2), chunks=(4, 2), dtype="f4", name="x", dimension_names=("t", "a"))
    array[...] = 1
    data = xr.open_zarr(Far(store), consolidated=False)
    given = {"inputs": ["x"], "global_batch_size": 4}
    assert len(dtk.Loader(data, **given)) == 10
    with pytest.raises(dtk.ArgumentError, match=r"verify='list' would not see that .*x/.* is written again"):
        dtk.Loader(data, verify="list", **given).state_dict()
    assert Far.most > 1  # sizes are asked for beside each other


def test_a_listing_of_obstore_tells_changes():
    obstore = pytest.importorskip("obstore.store")
    store = zarr.storage.ObjectStore(obstore.MemoryStore())
    values = xr.Dataset({"x": (("t", "a"), np.zeros((40, 2)))})
    values.to_zarr(store, consolidated=False, encoding={"x": {"chunks": (4, 2)}})

    def loader():
        data = xr.open_zarr(store, consolidated=False)
        return dtk.Loader(data, inputs=["x"], global_batch_size=4, verify="list")

    state = loader().state_dict()
    loader().load_state_dict(state)
    (values + 1).to_zarr(store, mode="r+", consolidated=False)  # of the same sizes
    with pytest.raises(DataError, match="was re"):
        loader().load_state_dict(state)
