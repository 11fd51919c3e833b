"""Columns that are packed on their way: the same bytes with the compiled kernel, with NumPy, and from an encoder."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dtk.loader import scatter as scatter_module
from dtk.loader.encoder import Field, make_encoder
from dtk.loader.packed import Packed
from dtk.loader.ring import Ring
from dtk.loader.scatter import scatter

FLOAT, WHOLE = np.dtype(np.float32), np.dtype(np.int64)
TYPES = ["float32", "float64", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "bool"]
needs_kernel = pytest.mark.skipif(scatter_module._kernel is None, reason="the compiled kernel was not built")


def by_numpy(monkeypatch):
    monkeypatch.setattr(scatter_module, "_kernel", None)


def moved(rows, places, array):
    array = array.copy()
    scatter(rows, places, array)
    return array


def column_of(kind, num_rows, rng):
    most = 2 if kind == "bool" else 2**62 if kind in ("int64", "uint64") else 100
    values = rng.integers(0, most, num_rows).astype(kind)
    return values * 0.7 if kind.startswith("float") else values


@st.composite
def columns(draw):
    """Some columns of any kind, with and without nulls, in Arrow and NumPy, sliced."""
    num_rows, skip = draw(st.integers(0, 300)), draw(st.integers(0, 20))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    found = []
    for kind in draw(st.lists(st.sampled_from(TYPES), min_size=1, max_size=6)):
        values = column_of(kind, num_rows + skip, rng)
        form = draw(st.sampled_from(["arrow", "nulls", "chunks", "numpy"]))
        mask = rng.random(len(values)) < 0.3 if form == "nulls" else None
        if form == "chunks":
            found.append(pa.chunked_array([values[:skip][:0], values[skip : skip + 7], values[skip + 7 :]]))
        elif form == "numpy":
            found.append(values[skip:])
        else:
            found.append(pa.array(values, mask=mask)[skip:])
    return found


@needs_kernel
@settings(deadline=None, max_examples=150)
@given(columns(), st.data())
def test_the_kernel_moves_the_same_bytes_as_numpy(columns, data):
    num_rows, seed = len(columns[0]), data.draw(st.integers(0, 99))
    rng = np.random.default_rng(seed)
    has_nulls = any(not isinstance(column, np.ndarray) and column.null_count for column in columns)
    dtype = FLOAT if has_nulls or data.draw(st.booleans()) else WHOLE
    array = rng.integers(0, 9, (num_rows + 5, len(columns))).astype(dtype)
    places = rng.permutation(num_rows + 5)[:num_rows]
    places[rng.random(num_rows) < data.draw(st.sampled_from([0.0, 0.5, 1.0]))] = -1
    rows = Packed(columns, dtype)
    with pytest.MonkeyPatch.context() as patch:
        found = moved(rows, places, array), moved(rows.to_numpy(), places, array)
        by_numpy(patch)
        expected = moved(rows, places, array), moved(rows.to_numpy(), places, array)
    for one in (*found, *expected):
        np.testing.assert_array_equal(one, found[0])
    placed = places >= 0
    np.testing.assert_array_equal(found[0][places[placed]], rows.to_numpy()[placed])
    untouched = np.setdiff1d(np.arange(num_rows + 5), places[placed])
    np.testing.assert_array_equal(found[0][untouched], array[untouched])


@needs_kernel
def test_big_whole_numbers_beside_nulls_are_rounded_once(monkeypatch):
    rows, array = Packed([pa.array([2**60 + 2**36 + 1, None])], FLOAT), np.zeros((2, 1), np.float32)
    by_kernel = moved(rows, np.arange(2), array)
    by_numpy(monkeypatch)
    assert moved(rows, np.arange(2), array).tobytes() == by_kernel.tobytes()


@pytest.mark.parametrize("kernel", [pytest.param(True, marks=needs_kernel), False])
@pytest.mark.parametrize("shape", [(), (4,), (5, 3, 3), (16,), (1, 64)])
@pytest.mark.parametrize("dtype", ["float32", "int64", "uint8", "float16"])
def test_rows_of_any_shape_move_whole(kernel, shape, dtype, monkeypatch):
    if not kernel:
        by_numpy(monkeypatch)
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 200, (40, *shape)).astype(dtype)
    places = rng.permutation(60)[:40]
    array = moved(rows, places, np.zeros((60, *shape), dtype))
    np.testing.assert_array_equal(array[places], rows)
    assert not array[np.setdiff1d(np.arange(60), places)].any()


@needs_kernel
def test_the_kernel_refuses_what_would_write_elsewhere():
    rows, array = Packed([np.arange(4.0)], FLOAT), np.zeros((4, 1), np.float32)
    for places in (np.array([0, 1, 2, 4]), np.array([0, 1, 2])):
        with pytest.raises(ValueError, match="bad places"):
            scatter(rows, places, array)
    with pytest.raises(ValueError, match="bad width"):
        scatter(rows, np.arange(4), np.zeros((4, 2), np.float32))
    with pytest.raises(ValueError, match="bad rows"):
        scatter(np.zeros((3, 1), np.float32), np.arange(4), array)


@pytest.mark.parametrize("num_rows", [0, 1, 1000])
def test_an_encoder_packs_what_it_encodes(num_rows):
    """Also more columns than a tile of the kernel holds, and types that it does not read."""
    table = pa.table({f"x{number}": np.random.default_rng(number).random(num_rows) for number in range(1100)})
    table = table.append_column("half", pa.array(np.ones(num_rows, np.float16)))
    table = table.append_column("price", pa.array([None] * num_rows, pa.decimal128(5, 2)))
    encoder = make_encoder(table.schema, target="x7")
    packed, encoded = encoder.pack(table), encoder.encode(table)
    assert encoded.keys() == encoder.fields.keys() == packed.keys() | {"weight"}
    assert encoded["weight"].tolist() == [1] * num_rows
    for name, values in packed.items():
        array = moved(values, np.arange(num_rows), np.zeros_like(encoded[name]))
        np.testing.assert_array_equal(array, encoded[name])
        assert encoded[name].shape == (num_rows, *encoder.fields[name].shape)
    many = Packed([np.arange(3.0)] * 50_000, FLOAT)
    np.testing.assert_array_equal(moved(many, np.arange(3), np.zeros((3, 50_000), np.float32)), many.to_numpy())


@pytest.mark.parametrize("shape", [(40,), (), (3, 7)])
def test_the_ring_begins_where_a_line_of_the_cache_does(shape):
    ring = Ring({"inputs": Field(np.dtype("f4"), shape)}, num_steps=7, width=13)
    assert ring.batch(0)["inputs"].data_ptr() % 64 == 0
    assert ring.nbytes == 7 * 13 * 4 * int(np.prod(shape))
    assert not ring.batch(6)["inputs"].any()
