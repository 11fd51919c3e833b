"""Parts of Zarr arrays: the same as zarr's own reading, whatever the format, the codecs and the chunks."""

from __future__ import annotations

import tempfile

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs import LZ4, Blosc, Zlib, Zstd

from dtk.errors import DataError
from dtk.sources import chunk_codecs
from dtk.sources.zarr_layout import zarr_layout
from dtk.sources.zarr_read import Scratch, read_region, stored_chunk_nbytes

V2 = [None, Blosc("lz4"), Blosc("zstd", shuffle=Blosc.BITSHUFFLE), Zstd(), LZ4(), Zlib()]
V3 = [
    None, zarr.codecs.BloscCodec(cname="lz4"), zarr.codecs.BloscCodec(cname="zstd"), zarr.codecs.ZstdCodec(),
    zarr.codecs.GzipCodec(),
]  # fmt: skip
FAST = ("NoneType", "Blosc", "BloscCodec", "Zstd", "ZstdCodec", "LZ4")


@st.composite
def arrays(draw):
    """An array in a new directory, some of its chunks never written, and whether dtk knows its codecs."""
    ndim = draw(st.integers(1, 3))
    chunks = tuple(draw(st.lists(st.integers(1, 5), min_size=ndim, max_size=ndim)))
    shape = tuple(draw(st.lists(st.integers(1, 17), min_size=ndim, max_size=ndim)))
    dtype = draw(st.sampled_from(["f4", "f8", "i2", "u1", "i8", "?"]))
    version = draw(st.sampled_from([2, 3]))
    compressor = draw(st.sampled_from(V2 if version == 2 else V3))
    shards = None
    if version == 3 and draw(st.booleans()):
        shards = tuple(chunk * factor for chunk, factor in zip(chunks, (2, 3, 1), strict=False))
    compressors = compressor
    if version == 3 and draw(st.booleans()):  # a sum behind what the compressor gives
        compressors = [*([compressor] if compressor else []), zarr.codecs.Crc32cCodec()]
    array = zarr.create_array(
        tempfile.mkdtemp(), shape=shape, chunks=chunks, shards=shards, dtype=dtype, zarr_format=version,
        compressors=compressors, fill_value=1, config={"write_empty_chunks": False},
    )  # fmt: skip
    values = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
    values[: draw(st.integers(0, shape[0]))] = 1  # chunks of nothing but this are not written
    array[...] = values
    return array, values, type(compressor).__name__ in FAST


@settings(deadline=None, max_examples=60)
@given(arrays(), st.data())
def test_every_region_equals_zarr(made, data):
    array, values, is_fast = made
    assert (zarr_layout(array) is not None) == is_fast
    scratch = Scratch()
    for _ in range(3):
        region = []
        for size in array.shape:
            start = data.draw(st.integers(0, size))
            region.append(slice(start, data.draw(st.integers(start, size))))
        out = np.full([part.stop - part.start for part in region], 77, array.dtype)
        read_region(array, tuple(region), out, scratch)
        np.testing.assert_array_equal(out, values[tuple(region)])


def test_an_index_at_the_start_of_a_shard(tmp_path):
    codec = zarr.codecs.ShardingCodec(
        chunk_shape=(2, 3),
        codecs=[zarr.codecs.BytesCodec(), zarr.codecs.ZstdCodec()],
        index_location="start",
    )
    array = zarr.create(shape=(8, 6), chunks=(4, 6), dtype="f4", codecs=[codec], store=str(tmp_path / "a"))
    array[...] = np.arange(48).reshape(8, 6)
    out = np.zeros((8, 6), "f4")
    read_region(array, (slice(0, 8), slice(0, 6)), out, Scratch())
    np.testing.assert_array_equal(out, np.arange(48).reshape(8, 6))
    assert zarr_layout(array) is not None


def test_a_store_in_memory_is_read_too():
    array = zarr.create_array(zarr.storage.MemoryStore(), shape=(10,), chunks=(4,), dtype="f4")
    array[...] = np.arange(10)
    out = np.zeros(5, "f4")
    read_region(array, (slice(3, 8),), out, Scratch())
    assert out.tolist() == [3, 4, 5, 6, 7]
    assert stored_chunk_nbytes(array) > 0


@pytest.mark.parametrize("damage", ["cut", "garbage", "empty"])
@pytest.mark.parametrize("shards", [None, (8, 4)])
def test_a_damaged_chunk_is_named(tmp_path, damage, shards):
    array = zarr.create_array(str(tmp_path / "a"), shape=(16, 4), chunks=(4, 4), shards=shards, dtype="f4")
    array[...] = np.random.default_rng(0).random((16, 4))
    file = tmp_path / "a" / "c" / "1" / "0"
    content = file.read_bytes()
    file.write_bytes({"cut": content[: len(content) // 2], "garbage": b"\7" * len(content), "empty": b""}[damage])
    with pytest.raises(DataError, match=r"c/1/0 cannot be decoded"):
        read_region(array, (slice(0, 16), slice(0, 4)), np.zeros((16, 4), "f4"), Scratch())


def test_scratch_is_used_again():
    scratch = Scratch()
    first = scratch.array("a", (10, 3), np.dtype("f4"))
    assert np.shares_memory(first, scratch.array("a", (3,), np.dtype("i8")))
    assert not np.shares_memory(first, scratch.array("b", (3,), np.dtype("i8")))


@pytest.mark.parametrize(
    ("version", "codec"), [(2, codec) for codec in V2] + [(3, codec) for codec in V3], ids=lambda value: str(value)[:12]
)
@pytest.mark.parametrize("rows", [2, 8])
def test_a_whole_chunk_of_another_size_is_named(tmp_path, version, codec, rows):
    """What is left where a store is written anew in place, with smaller or bigger chunks."""
    options = {"dtype": "f4", "zarr_format": version, "compressors": codec}
    array = zarr.create_array(str(tmp_path / "a"), shape=(16, 5), chunks=(4, 5), **options)
    other = zarr.create_array(str(tmp_path / "b"), shape=(rows, 5), chunks=(rows, 5), **options)
    array[...] = other[...] = 3.0
    key = array.metadata.encode_chunk_key((1, 0))
    (tmp_path / "a" / key).write_bytes((tmp_path / "b" / other.metadata.encode_chunk_key((0, 0))).read_bytes())
    with pytest.raises(DataError, match=rf"{key} cannot be decoded"):
        read_region(array, (slice(0, 16), slice(0, 5)), np.zeros((16, 5), "f4"), Scratch())


def test_frames_of_zstd_say_how_long_they_are():
    for nbytes in (0, 1, 255, 256, 300, 65_791, 65_792, 200_000):
        frame = memoryview(Zstd().encode(bytes(nbytes)))
        assert chunk_codecs._zstd_nbytes(frame) == nbytes


def test_a_store_that_is_written_anew_is_not_taken_for_what_it_was(tmp_path):
    for number in range(60):
        chunks = (2, 3, 5)[number % 3]
        array = zarr.create_array(str(tmp_path / "a"), shape=(30,), chunks=(chunks,), dtype="f4", overwrite=True)
        array[...] = np.arange(30) + number
        array = zarr.open_array(str(tmp_path / "a"), mode="r")
        out = np.zeros(30, "f4")
        read_region(array, (slice(0, 30),), out, Scratch())
        np.testing.assert_array_equal(out, np.arange(30) + number)
        del array
