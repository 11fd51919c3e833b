"""Booleans, and numbers read as such."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from dtk.errors import DataError
from dtk.preparation.transforms import AsBooleans, ColumnTransformer, SimpleImputer
from tests.preparation.transforms.common import assert_two_stages_alike

FRAME = pd.DataFrame(
    {
        "flag": pd.array([True, None, False, True], dtype="boolean"),
        "minutes": [0.0, np.nan, -3.0, 1e-300],  # float32 would make 0 of the last one
        "count": [0, 2, 0, 1],
    }
)


def test_numbers_other_than_zero_are_true():
    found = AsBooleans().fit_transform(pa.Table.from_pandas(FRAME))
    assert found.to_pydict() == {"flag": [1, None, 0, 1], "minutes": [0, None, 1, 1], "count": [0, 1, 0, 1]}


def test_gaps_take_the_more_frequent_one_in_both_stages():
    steps = [AsBooleans(), SimpleImputer(strategy="most_frequent")]
    fitted = assert_two_stages_alike(ColumnTransformer([("flags", steps, list(FRAME))]), FRAME)
    assert fitted.transform(FRAME).tolist() == [[1, 0, 0], [1, 1, 1], [0, 1, 0], [1, 1, 1]]
    assert fitted.num_passes_ == 1


def test_text_is_no_boolean():
    with pytest.raises(DataError, match="column 'flag' holds .*, where booleans are expected; cast it"):
        AsBooleans().fit(pd.DataFrame({"flag": ["yes", "no"]}))
