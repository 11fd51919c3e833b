"""What columns mean, and their values as floats."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dtk.statistics import infer_kind, to_floats


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [
        (pa.int8(), "number"),
        (pa.float16(), "number"),
        (pa.decimal128(5, 2), "number"),
        (pa.time64("us"), "number"),
        (pa.duration("s"), "number"),
        (pa.bool_(), "boolean"),
        (pa.bool8(), "number"),  # an extension type over int8
        (pa.string(), "category"),
        (pa.large_string(), "category"),
        (pa.dictionary(pa.int8(), pa.int64()), "category"),
        (pa.date32(), "date"),
        (pa.timestamp("ns", "UTC"), "date"),
        (pa.null(), "ignore"),
        (pa.binary(), "ignore"),
        (pa.list_(pa.int8()), "ignore"),
    ],
)
def test_kinds(dtype: pa.DataType, kind: str) -> None:
    assert infer_kind(dtype) == kind


@given(st.lists(st.none() | st.integers(-(2**40), 2**40), max_size=40), st.integers(0, 40))
@settings(deadline=None, max_examples=40)
def test_floats_equal_pandas(values: list[int | None], cut: int) -> None:
    array = pa.array(values, pa.int64())
    expected = pd.Series(values, dtype="Int64").to_numpy(float, na_value=np.nan)
    np.testing.assert_array_equal(to_floats(pa.chunked_array([array[:cut], array[cut:]])), expected)
