"""Columns of vectors in a batch."""

from __future__ import annotations

import dask.dataframe as dd
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtk.errors import ArgumentError, DataError
from dtk.loader import Loader
from dtk.loader.vectors import vector_shape, vectors

NAN = float("nan")


@given(
    size=st.integers(1, 4),
    inner=st.integers(0, 3),
    rows=st.lists(st.booleans(), max_size=8),
    cut=st.integers(0, 8),
)
def test_vectors_equal_the_values(size, inner, rows, cut):
    """`inner` of 0 means one dimension; True in `rows` is a null vector."""
    kind = pa.list_(pa.float32(), size)
    one = list(range(size)) if not inner else [list(range(size))] * inner
    kind = pa.list_(kind, inner) if inner else kind
    values = [None if is_null else one for is_null in rows]
    column = pa.chunked_array([pa.array(values, kind).slice(cut)], type=kind)
    found = vectors(column)
    shape = (inner, size) if inner else (size,)
    assert found.shape == (max(len(rows) - cut, 0), *shape) == (len(column), *vector_shape(kind))
    for is_null, row in zip(rows[cut:], found, strict=True):
        np.testing.assert_array_equal(row, np.full(shape, NAN) if is_null else np.array(one))


def test_an_element_that_is_null_becomes_nan():
    column = pa.chunked_array([pa.array([[1.0, None], [3.0, 4.0]], pa.list_(pa.float32(), 2))])
    np.testing.assert_array_equal(vectors(column), [[1, NAN], [3, 4]])


@pytest.fixture
def embedded(tmp_path):
    rng = np.random.default_rng(0)
    values = rng.standard_normal((500, 8)).astype(np.float32)
    images = rng.integers(0, 256, (500, 4, 6), np.uint8)
    table = pa.table(
        {
            "x": np.arange(500),
            "embedding": pa.FixedSizeListArray.from_arrays(values.ravel(), 8),
            "b": np.arange(500) % 2 == 0,
            "image": pa.FixedShapeTensorArray.from_numpy_ndarray(images),
            "y": np.arange(500) % 3,
        }
    )
    (tmp_path / "frame").mkdir()
    pq.write_table(table, tmp_path / "part.parquet", row_group_size=90)
    pq.write_table(table.drop_columns("image"), tmp_path / "frame" / "part.parquet", row_group_size=90)
    return tmp_path / "part.parquet", values, images


def frame_of(path):
    return dd.read_parquet(path.parent / "frame")  # pandas knows no tensors


@pytest.mark.parametrize("open_data", [str, frame_of])
@pytest.mark.parametrize("has_kernel", [True, False])
def test_vectors_stand_among_the_inputs(embedded, open_data, has_kernel, monkeypatch):
    if not has_kernel:
        monkeypatch.setattr("dtk.loader.scatter._kernel", None)
    path, values, _ = embedded
    loader = Loader(open_data(path), inputs=["x", "embedding", "b"], target="y", global_batch_size=50)
    assert loader.plan.fields["inputs"].shape == (10,)
    count = 0
    for batch in loader:
        rows = batch["inputs"][:, 0].numpy().astype(int)
        np.testing.assert_array_equal(batch["inputs"][:, 1:9], values[rows])
        np.testing.assert_array_equal(batch["inputs"][:, 9], rows % 2 == 0)
        np.testing.assert_array_equal(batch["target"], rows % 3)
        count += len(rows)
    assert count == 500


def test_a_single_tensor_keeps_its_shape(embedded):
    path, _, images = embedded
    loader = Loader(path, inputs=["image"], target="embedding", global_batch_size=500, shuffle=False)
    (batch,) = loader
    assert batch["inputs"].shape == (500, 4, 6)
    np.testing.assert_array_equal(batch["inputs"], images)
    np.testing.assert_array_equal(batch["target"], embedded[1])


def test_a_table_in_memory_gives_the_same(embedded):
    path, values, _ = embedded
    (batch,) = Loader(pq.read_table(path), inputs=["embedding"], target="y", global_batch_size=500, shuffle=False)
    np.testing.assert_array_equal(batch["inputs"], values)


@pytest.mark.parametrize("kind", [pa.int32(), pa.float64()])
@pytest.mark.parametrize("vector", [[1, None], None])
def test_a_target_with_nulls_is_refused(kind, vector):
    table = pa.table({"x": [1.0, 2.0], "y": pa.array([[1, 2], vector], pa.list_(kind, 2))})
    with pytest.raises(DataError, match="target='y' is .* in 1 rows"):
        list(Loader(table, target="y", global_batch_size=2))


def test_lists_of_any_length_are_refused_with_the_remedy():
    table = pa.table({"x": [[1.0], [2.0, 3.0]]})
    with pytest.raises(ArgumentError, match=r"inputs='x' holds list<.*; write it as a list of a fixed size"):
        Loader(table)


def test_a_weight_is_one_number():
    table = pa.table({"x": [1.0], "w": pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2))})
    with pytest.raises(ArgumentError, match="weight='w' .* give one number a sample"):
        Loader(table, weight="w")
