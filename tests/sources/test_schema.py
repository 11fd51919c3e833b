"""The types of columns, told without reading them, and kept on the way through Dask."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dtk.errors import DataError, NotFoundError, SourceError
from dtk.sources import Source, as_source, readable, schema_of, write_parquet
from dtk.sources import open as open_data
from dtk.sources.footers import _read_footer
from dtk.sources.schema import arrow_schema, table_of_frame

pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword")  # Dask 2026.8 with pandas 3.1

DAY = dt.date(2013, 2, 1)
NOON = dt.datetime(2013, 2, 1, 12)
COLUMNS = {
    "boolean": pa.array([True, None], pa.bool_()),
    "int8": pa.array([1, 2], pa.int8()),
    "int64": pa.array([1, None], pa.int64()),
    "uint32": pa.array([1, 2], pa.uint32()),
    "float32": pa.array([1.5, None], pa.float32()),
    "string": pa.array(["a", None]),
    "empty strings": pa.array([None, None], pa.string()),
    "binary": pa.array([b"\xff\x00", None]),
    "text as binary": pa.array([b"x", b"y"]),
    "fixed binary": pa.array([b"xy", None], pa.binary(2)),
    "date": pa.array([DAY, None], pa.date32()),
    "time": pa.array([NOON.time(), None], pa.time64("us")),
    "milliseconds": pa.array([NOON.time(), None], pa.time32("ms")),
    "timestamp": pa.array([NOON, None], pa.timestamp("us")),
    "zoned": pa.array([NOON, None], pa.timestamp("ns", "Europe/Berlin")),
    "duration": pa.array([dt.timedelta(1), None], pa.duration("us")),
    "decimal": pa.array([Decimal("1.50"), None], pa.decimal128(5, 2)),
    "list": pa.array([[1, 2], None], pa.list_(pa.int64())),
    "struct": pa.array([{"a": 1, "b": "x"}, None]),
    "category": pa.array(["a", "b"]).dictionary_encode(),
}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    directory = tmp_path_factory.mktemp("types")
    pq.write_table(pa.table(COLUMNS | {"key": [1, 2]}), directory / "a.parquet", row_group_size=1)
    return str(directory)


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("shuffled", [False, True])
def test_every_type_survives_being_written(path, tmp_path, name, shuffled):
    data = open_data(path, columns=["key", name])
    written = write_parquet(data.shuffle("key") if shuffled else data, tmp_path / "out")
    table = pa.concat_tables([as_source(written).read(chunk) for chunk in range(as_source(written).num_chunks)])
    table = table.sort_by("key")
    kind = COLUMNS[name].type
    assert table.schema.field(name).type == (pa.dictionary(pa.int32(), pa.string()) if name == "category" else kind)
    assert table[name].to_pylist() == COLUMNS[name].to_pylist()


def test_types_are_followed_through_what_moves_rows(path):
    data = open_data(path, columns=["key", "binary", "time", "list"])
    expected = {"binary": pa.binary(), "time": pa.time64("us"), "list": pa.list_(pa.int64())}
    moved = {
        "filter": data[data.key > 1],
        "sort": data.sort_values("key"),
        "shuffle": data.shuffle("key"),
        "concat": dd.concat([data, data]),
        "merge": data.merge(data[["key"]], on="key"),
        "rename": data.rename(columns={"key": "k"}),
        "assign": data.repartition(npartitions=1).assign(z=1),
    }
    for name, frame in moved.items():
        found = schema_of(frame)
        assert {column: found.field(column).type for column in expected} == expected, name
    assert schema_of(data.rename(columns={"time": "t"})).field("t").type == pa.time64("us")
    both = schema_of(data.merge(data, on="key"))
    assert (both.field("time_x").type, both.field("binary_y").type) == (pa.time64("us"), pa.binary())


def test_types_of_a_function_are_those_of_its_values(path):
    data = open_data(path)
    derived = data.assign(binary=data.string.str.upper(), day=data.timestamp.dt.date)[["binary", "day"]]
    assert schema_of(derived).types == arrow_schema(derived).types == [pa.string(), pa.date32()]
    unknown = data.shuffle("key").map_partitions(lambda frame: frame[["binary"]], meta={"binary": object})
    assert schema_of(unknown).types == [pa.string()]
    with pytest.raises(TypeError, match="column 'binary' is taken for strings but holds binary"):
        table_of_frame(unknown.compute(), schema_of(unknown))


def test_the_order_of_categories_survives_being_written(tmp_path):
    sizes = pd.CategoricalDtype(["small", "big"], ordered=True)
    frame = pd.DataFrame({"size": pd.Series(["big", "small", None, "big"], dtype=sizes), "n": range(4)})
    pq.write_table(pa.Table.from_pandas(frame), tmp_path / "in.parquet", row_group_size=2)
    data = open_data(tmp_path / "in.parquet")
    assert schema_of(data[data.n >= 0]).field("size").type.ordered
    for written in (dd.from_pandas(frame, npartitions=2), data[data.n >= 0]):
        found = open_data(write_parquet(written, tmp_path / "out", overwrite=True)).compute()["size"]
        assert found.cat.ordered
        assert found.tolist()[:2] == ["big", "small"]


@pytest.mark.parametrize("values", [np.array([1j, 2j]), pd.Categorical([1j, 2j]), pd.arrays.SparseArray([0, 1])])
def test_a_column_that_arrow_has_no_type_for_is_named(tmp_path, values):
    frame = pd.DataFrame({"n": [1, 2], "z": values})
    with pytest.raises(DataError, match="column 'z' holds .*, for which Arrow has no type: .*; convert it, or leave"):
        write_parquet(dd.from_pandas(frame, npartitions=1), tmp_path / "out")
    with pytest.raises(DataError, match="cannot become a table: .*column"):
        as_source(frame)


def test_objects_in_memory_are_looked_at():
    frame = pd.DataFrame({"day": [None, DAY], "list": [[1], [2]], "text": ["a", None], "mixed": [1, "x"]}, dtype=object)
    expected = [pa.date32(), pa.list_(pa.int64()), pa.string(), pa.string()]
    assert arrow_schema(frame).types == expected
    with dask.config.set({"dataframe.convert-string": False}):
        assert schema_of(dd.from_pandas(frame, npartitions=2)).types == expected


def test_readable_is_a_source_or_the_data_itself(path):
    data = open_data(path)
    assert isinstance(readable(data), Source)
    assert isinstance(readable(data[data.key > 1]), Source)
    assert isinstance(readable(data.partitions[[0]]), Source)
    assert isinstance(readable(path), Source)
    for other in (data.shuffle("key"), dd.from_pandas(pd.DataFrame({"x": [1]}), npartitions=1), 3, None):
        assert readable(other) is other
    assert schema_of(readable(data)) == schema_of(data) == schema_of(path)
    with pytest.raises(SourceError, match="is no table"):
        schema_of(3)
    with pytest.raises(NotFoundError):
        readable(f"{path}/missing")


def test_footers_are_read_once(path, monkeypatch):
    data = open_data(path)
    read = []
    monkeypatch.setattr("dtk.sources.footers._read_footer", lambda *args: read.append(args) or _read_footer(*args))
    assert schema_of(readable(data)).names == list(data.columns)
    assert len(read) == 1
    schema_of(readable(data.shuffle("key")))
    assert len(read) == 1
