from __future__ import annotations

import pickle

import numpy as np
import pyarrow as pa
import pytest

from dtk.errors import ArgumentError, DataError
from dtk.preparation import SampleEncoder, TablePreparation

TABLE = pa.table({"x": [1.0, 2.0, 3.0], "c": ["a", "b", "a"], "late": [True, False, False], "w": [1.0, 2.0, 0.0]})


def fitted() -> TablePreparation:
    return TablePreparation().fit(TABLE, target="late", weight="w")


def test_samples_hold_inputs_target_and_weight() -> None:
    preparation = fitted()
    encoder = SampleEncoder(preparation, target=preparation.target, weight="w", class_weight={True: 10.0})
    assert encoder.columns == ("x", "c", "late", "w")
    encoded = pickle.loads(pickle.dumps(encoder)).encode(TABLE.select(["w", "late", "c", "x"]))
    assert encoded["target"].tolist() == [1, 0, 0]
    assert encoded["weight"].tolist() == [10.0, 2.0, 0.0]
    assert set(encoded) == {"inputs", "codes", "target", "weight"} == set(encoder.fields)
    for name, field in encoder.fields.items():
        assert encoded[name].dtype == field.dtype
        assert encoded[name].shape == (3, *field.shape)


def test_without_weights_there_is_no_weight() -> None:
    preparation = fitted()
    encoder = SampleEncoder(preparation, target=preparation.target)
    assert set(encoder.encode(TABLE)) == {"inputs", "codes", "target"} == set(encoder.fields)


def test_without_a_target_there_are_inputs_only() -> None:
    encoder = SampleEncoder(fitted())
    assert encoder.columns == ("x", "c")
    assert set(encoder.encode(TABLE.select(["x", "c"]))) == {"inputs", "codes"}


@pytest.mark.parametrize("unfit", [None, -1.0, np.nan, np.inf])
def test_weights_that_cannot_be_are_refused(unfit: float | None) -> None:
    table = TABLE.set_column(3, "w", pa.array([1.0, 2.0, unfit]))
    with pytest.raises(DataError, match="weight='w' is missing, negative or infinite in 1 rows"):
        SampleEncoder(fitted(), weight="w").encode(table)


def test_missing_columns_and_senseless_class_weights_are_refused() -> None:
    preparation = fitted()
    encoder = SampleEncoder(preparation, target=preparation.target, weight="w")
    with pytest.raises(DataError, match="column 'late' is missing"):
        encoder.encode(TABLE.drop_columns(["late"]))
    with pytest.raises(DataError, match="column 'w' is missing"):
        encoder.encode(TABLE.drop_columns(["w"]))
    with pytest.raises(ArgumentError, match="class_weight='balanced' needs a target of classes"):
        SampleEncoder(preparation, class_weight="balanced")
