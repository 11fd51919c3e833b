from __future__ import annotations

from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from dtk.errors import ArgumentError, DataError
from dtk.loader import Field
from dtk.loader.encoder import PlainEncoder, make_encoder

TABLE = pa.table(
    {
        "a": pa.array([1, None, 3], pa.int32()),
        "b": pa.array([True, None, False]),
        "c": pa.array([0.5, float("nan"), None], pa.float64()),
        "d": pa.array([Decimal("1.5"), None, Decimal("2.5")]),
        "y": pa.array([0, 1, 2], pa.int8()),
        "z": pa.array([0.0, 1.0, 2.0], pa.float64()),
        "s": ["u", "v", "w"],
    }
)
NAN = float("nan")


def test_numbers_and_booleans_are_packed_in_order_and_nulls_are_nan():
    packed = PlainEncoder(TABLE.schema, ["c", "a", "b", "d"]).encode(TABLE)["inputs"]
    assert packed.dtype == np.float32
    np.testing.assert_array_equal(packed, [[0.5, 1, 1, 1.5], [NAN, NAN, NAN, NAN], [NAN, 3, 0, 2.5]])


def test_slices_and_chunked_columns_are_packed_alike():
    encoder = PlainEncoder(TABLE.schema, ["a", "b"])
    chunked = pa.concat_tables([TABLE.slice(0, 1), TABLE.slice(1)])
    np.testing.assert_array_equal(encoder.encode(chunked)["inputs"], encoder.encode(TABLE)["inputs"])
    np.testing.assert_array_equal(encoder.encode(TABLE.slice(1, 2))["inputs"], encoder.encode(TABLE)["inputs"][1:])
    assert encoder.encode(TABLE.slice(0, 0))["inputs"].shape == (0, 2)


@pytest.mark.parametrize(("target", "dtype"), [("y", np.int64), ("z", np.float32)])
def test_the_target_is_of_its_own_kind(target, dtype):
    encoder = make_encoder(TABLE.schema, inputs=["a"], target=target, weight="z")
    encoded = encoder.encode(TABLE)
    assert encoded.keys() == encoder.fields.keys() == {"inputs", "target", "weight"}
    for name, field in encoder.fields.items():
        assert encoded[name].dtype == field.dtype
        assert encoded[name].shape == (3, *field.shape)
    assert encoded["target"].dtype == dtype
    np.testing.assert_array_equal(encoded["target"], [0, 1, 2])
    np.testing.assert_array_equal(encoded["weight"], [0, 1, 2])


def test_inputs_are_all_other_columns_and_weights_are_ones():
    schema = TABLE.schema.remove(TABLE.schema.get_field_index("s"))
    encoder = make_encoder(schema, target="y", weight="z")
    assert encoder.columns == ("a", "b", "c", "d", "y", "z")
    assert encoder.fields["inputs"].shape == (4,)
    assert make_encoder(schema, inputs=["a"]).encode(TABLE)["weight"].tolist() == [1, 1, 1]


class Lengths:
    """Encodes strings as their lengths, and a target with them."""

    columns = ("s",)

    def __init__(self):
        self.fields = {"codes": Field(np.dtype(np.int64), (1,)), "target": Field(np.dtype(np.int64))}

    def encode(self, table):
        lengths = np.array([len(text) for text in table.column("s").to_pylist()])
        return {"codes": lengths[:, None], "target": lengths}


def test_a_preparation_comes_before_the_columns_themselves():
    encoder = make_encoder(TABLE.schema, target="s", preparation=Lengths())
    assert encoder.columns == ("s",)
    assert encoder.encode(TABLE)["target"].tolist() == [1, 1, 1]
    assert encoder.encode(TABLE)["weight"].tolist() == [1, 1, 1]
    assert "weight" not in encoder.pack(TABLE)
    assert encoder.fields["weight"].constant == 1
    assert make_encoder(TABLE.schema, weight="z", preparation=Lengths()).columns == ("s", "z")
    with pytest.raises(ArgumentError, match=r"inputs=\['a'\] lacks \['s'\], which preparation= reads"):
        make_encoder(TABLE.schema, inputs=["a"], preparation=Lengths())
    with pytest.raises(ArgumentError, match="preparation='s' is no column of the data"):
        make_encoder(TABLE.select(["a"]).schema, preparation=Lengths())


def test_null_targets_and_weights_are_refused():
    for name in ("target", "weight"):
        with pytest.raises(DataError, match=f"{name}='a' is null in 1 rows"):
            make_encoder(TABLE.schema, inputs=["b"], **{name: "a"}).encode(TABLE)


@pytest.mark.parametrize("name", ["target", "weight"])
@pytest.mark.parametrize("value", [NAN, float("inf"), 1e39])
def test_targets_and_weights_that_are_no_finite_numbers_are_refused(name, value):
    """Also those beyond float32: each of them would make the loss and all weights of the network NaN."""
    table = pa.table({"x": [0.0, 1.0, 2.0], "v": [1.0, value, value]})
    message = rf"{name}='v' is NaN, infinite or too large for float32 in 2 rows; .*numpy\.isfinite"
    with pytest.raises(DataError, match=message):
        make_encoder(table.schema, **{name: "v"}).encode(table)


@pytest.mark.parametrize("kind", [pa.int16(), pa.float64()])
def test_negative_weights_are_refused(kind):
    table = pa.table({"x": [0.0, 1.0, 2.0], "w": pa.array([0, 1, -1], kind)})
    encoder = make_encoder(table.schema, weight="w")
    with pytest.raises(DataError, match=r"weight='w' is negative in 1 rows; .*data\['w'\] >= 0"):
        encoder.pack(table)
    assert make_encoder(table.schema, inputs=["x"], target="w").encode(table)["target"].tolist() == [0, 1, -1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"inputs": ["a", "y"], "target": "y"}, r"inputs=\['a', 'y'\] hold the target 'y'"),
        ({"inputs": ["a", "z"], "weight": "z"}, r"inputs=\['a', 'z'\] hold the weight 'z'"),
        ({"inputs": ["a", "b", "a"]}, r"inputs=.* name \['a'\] twice"),
        ({"inputs": "a"}, r"inputs='a' must be a list"),
        ({"inputs": ["s"], "target": "yy"}, "target='yy' is no column of the data; did you mean 'y'"),
        ({"target": "s"}, "target='s' holds string, neither numbers nor booleans"),
        ({"inputs": ["s"], "target": "y", "weight": "zz"}, "weight='zz' is no column of the data"),
    ],
)
def test_target_and_weight_are_looked_at_before_the_inputs(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        make_encoder(TABLE.schema, **arguments)


@pytest.mark.parametrize("inputs", [[], "a"])
def test_inputs_must_be_a_list_of_columns(inputs):
    with pytest.raises(ArgumentError, match="must list one column at least"):
        PlainEncoder(TABLE.schema, inputs)
