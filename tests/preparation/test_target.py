from __future__ import annotations

import json
import pickle

import numpy as np
import pyarrow as pa
import pytest
from sklearn.utils.class_weight import compute_class_weight

from dtk.errors import ArgumentError, DataError
from dtk.preparation import ClassTarget, NumberTarget, Target, target_from_dict

TARGETS = [
    ClassTarget("late", (False, True), (3, 1)),
    ClassTarget("carrier", ("AA", "UA", "é"), (3, 1, 2)),
    ClassTarget("number", (-1, 3), (3, 1)),
    ClassTarget("float", (0.0, 1.0), (3, 1)),
    NumberTarget("delay", 1 / 3, 2 / 7),
]


@pytest.mark.parametrize("target", TARGETS)
def test_round_trips(target: Target) -> None:
    assert target_from_dict(json.loads(json.dumps(target.to_dict()))) == target
    assert pickle.loads(pickle.dumps(target)) == target


@pytest.mark.parametrize("target", TARGETS[:4])
def test_classes_decode_to_what_they_were(target: ClassTarget) -> None:
    values = [target.classes[position] for position in (1, 0, 1)]
    codes = target.encode(pa.array(values))
    assert codes.dtype == np.int64
    assert codes.tolist() == [1, 0, 1]
    decoded = target.decode(codes)
    assert decoded.tolist() == values
    assert isinstance(decoded.tolist()[0], type(values[0]))


def test_classes_are_found_in_dictionaries_and_floats() -> None:
    assert TARGETS[1].encode(pa.array(["UA", "AA"]).dictionary_encode()).tolist() == [1, 0]
    assert TARGETS[2].encode(pa.array([3.0, -1.0])).tolist() == [1, 0]


def test_unknown_and_missing_classes_are_refused() -> None:
    with pytest.raises(
        DataError, match=r"target='carrier' holds 'ZZ', which is none of the classes .*\('AA', 'UA', 'é'\)"
    ):
        TARGETS[1].encode(pa.chunked_array([["UA"], ["ZZ", "AA"]]))
    with pytest.raises(DataError, match=r"target='carrier' is missing in 2 rows; drop them with data.dropna"):
        TARGETS[1].encode(pa.array(["UA", None, None]))
    with pytest.raises(DataError, match="column 'carrier' holds int64"):
        TARGETS[1].encode(pa.array([1]))


def test_numbers_are_standardised_and_back() -> None:
    target = NumberTarget("delay", 1e6, 2.0)
    encoded = target.encode(pa.array([1e6, 1_000_002.0]))
    assert encoded.dtype == np.float32
    assert encoded.tolist() == [0.0, 1.0]
    assert target.decode(encoded).tolist() == [1e6, 1_000_002.0]
    for missing in (None, float("nan")):
        with pytest.raises(DataError, match="target='delay' is missing in 1 rows"):
            target.encode(pa.array([1.0, missing]))


def test_class_weights_equal_sklearns() -> None:
    target = ClassTarget("late", (False, True), (30, 10))
    labels = np.array([False] * 30 + [True] * 10)
    expected = compute_class_weight("balanced", classes=np.array([False, True]), y=labels)
    np.testing.assert_allclose(target.weights("balanced"), expected, rtol=1e-6)
    assert target.weights({True: 5}).tolist() == [1.0, 5.0]


def test_wrong_class_weights_are_refused() -> None:
    with pytest.raises(ArgumentError, match="class_weight='balance' must be 'balanced'"):
        TARGETS[0].weights("balance")
    with pytest.raises(ArgumentError, match="class_weight names 'ZZ', which is no class"):
        TARGETS[1].weights({"ZZ": 1.0})
    with pytest.raises(ArgumentError, match=r"class_weight\['UA'\]=-1 must be a finite number, 0 or more"):
        TARGETS[1].weights({"UA": -1})
    for weight in (np.inf, np.nan, "1"):
        with pytest.raises(ArgumentError, match="must be a finite number, 0 or more"):
            TARGETS[1].weights({"UA": weight})  # type: ignore[dict-item]
