"""Columns whose values are vectors: Arrow's fixed-size lists, and its tensors of a fixed shape."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

__all__ = ["element_type", "vector_shape", "vectors"]


def vector_shape(kind: pa.DataType) -> tuple[int, ...]:
    """Return the shape of a column's values.

    Parameters
    ----------
    kind : pyarrow.DataType
        The column's type.

    Returns
    -------
    tuple of int
        Empty for what is no vector.

    Examples
    --------
    >>> vector_shape(pa.list_(pa.float32(), 3)), vector_shape(pa.fixed_shape_tensor(pa.uint8(), (2, 4)))
    ((3,), (2, 4))
    """
    if isinstance(kind, pa.FixedShapeTensorType):
        return tuple(kind.shape)
    if pa.types.is_fixed_size_list(kind):
        return (kind.list_size, *vector_shape(kind.value_type))
    return ()


def element_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of a vector's elements, or a type that is no vector unchanged.

    Parameters
    ----------
    kind : pyarrow.DataType
        The column's type.

    Returns
    -------
    pyarrow.DataType
        For example float32.
    """
    if isinstance(kind, pa.FixedShapeTensorType):
        return kind.value_type
    return element_type(kind.value_type) if pa.types.is_fixed_size_list(kind) else kind


def vectors(column: pa.ChunkedArray) -> NDArray[Any]:
    """Convert vectors without a copy where Arrow can.

    Parameters
    ----------
    column : pyarrow.ChunkedArray
        Of a type with a `vector_shape`, and numbers in it.

    Returns
    -------
    numpy.ndarray
        Shape ``[rows, *vector_shape]``. What is null becomes NaN, the whole of a vector that is null itself.
    """
    shape = vector_shape(column.type)
    array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    num_rows, is_null = len(array), np.zeros(0, bool)
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    while pa.types.is_fixed_size_list(array.type):
        if array.null_count:
            elements = num_rows * int(np.prod(shape)) // len(array)  # of a vector, at this depth
            null = np.repeat(array.is_null().to_numpy(zero_copy_only=False), elements)
            is_null = is_null | null if len(is_null) else null
        size = array.type.list_size
        array = array.values.slice(array.offset * size, len(array) * size)  # flatten() would leave out null vectors
    values: NDArray[Any] = array.to_numpy(zero_copy_only=False)
    if len(is_null):
        values = np.where(is_null, np.nan, values)
    return values.reshape(num_rows, *shape)
