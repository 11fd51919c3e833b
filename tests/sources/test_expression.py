"""Dask expressions, evaluated chunk by chunk, give what Dask computes."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cloudpickle import dumps, loads
from hypothesis import given, settings
from hypothesis import strategies as st

from dtk.errors import DataError, SourceError
from dtk.sources import ExpressionSource, ParquetSource, as_source, counted

# Dask 2026.8 resets an index in place, which pandas 3.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword")


def refuse_to_compute(*_args, **_kwargs):
    raise AssertionError("building a source computed something")


def make_frame(num_rows=1000, seed=0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "x": np.where(rng.random(num_rows) < 0.1, np.nan, rng.normal(size=num_rows)),
            "i": rng.integers(0, 50, num_rows),
            "s": rng.choice(["a", "b", "ä", ""], num_rows),
            "c": pd.Categorical(rng.choice(["u", "v", "w"], num_rows)),
            "t": pd.date_range("2020-01-01", periods=num_rows, freq="h"),
            "b": rng.random(num_rows) > 0.5,
            "n": pd.array(np.where(rng.random(num_rows) > 0.99, None, rng.integers(0, 9, num_rows)), dtype="Int64"),
        }
    )


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    directory = tmp_path_factory.mktemp("table")
    table = pa.Table.from_pandas(make_frame()).replace_schema_metadata()
    pq.write_table(table.slice(0, 600), directory / "a.parquet", row_group_size=100)
    pq.write_table(table.slice(600), directory / "b.parquet", row_group_size=150)
    return str(directory)


def check_equal(data, *, kind=ExpressionSource, columns=None):
    """Check that the source, sent to another process, reads what Dask computes."""
    with dask.config.set(scheduler=refuse_to_compute):
        source = as_source(data, columns)
    source = loads(dumps(source))
    assert type(source) is kind
    source = counted(source)
    tables = [source.read(chunk) for chunk in range(source.num_chunks)]
    assert [table.num_rows for table in tables] == list(source.chunk_rows)
    assert all(table.schema.equals(source.schema) for table in tables)
    found = pa.concat_tables(tables).to_pandas()
    expected = (data if columns is None else data[columns]).compute().reset_index(drop=True)
    expected = expected.astype({name: "str" for name in expected if expected[name].dtype == "string"})
    pd.testing.assert_frame_equal(found, expected, check_dtype=False, check_categorical=False)
    return source


def add_length(frame):
    return frame.assign(length=len(frame))


def double(frame, by=2):
    return frame.assign(double=frame.x * by)


double.dtk_rowwise = True

EXPRESSIONS = {
    "filter": lambda df: df[(df.x > 0) & ~df.b],
    "assign": lambda df: df.assign(z=df.x * 2 + df.i, upper=df.s.str.upper(), hour=df.t.dt.hour),
    "query": lambda df: df.query("x > 0 and i < 20"),
    "fillna": lambda df: df.fillna({"x": 0.5, "n": 0}),
    "dropna": lambda df: df.dropna(subset=["x"]),
    "isin": lambda df: df[df.i.isin([1, 2, 3]) & (df.s != "a")],
    "between": lambda df: df[df.t.between("2020-01-03", "2020-01-20")],
    "astype": lambda df: df.astype({"i": "float32", "s": "category"}),
    "rename": lambda df: df.rename(columns={"x": "y"}),
    "map": lambda df: df.assign(m=df.i.map(lambda value: value + 1, meta=("m", "int64"))),
    "where": lambda df: df.assign(x=df.x.where(df.x > 0, 0.0)),
    "apply": lambda df: df.assign(a=df.apply(lambda row: row.x + row.i, axis=1, meta=("a", "f8"))),
    "ufunc": lambda df: df.assign(log=np.log1p(df.i)),
    "category": lambda df: df[df.c == "u"],
    "date": lambda df: df.assign(day=df.t.dt.date),
    "replace": lambda df: df.replace({"i": {3: 4}}),
    "unary": lambda df: df.assign(minus=-df.x, size=df.x.abs()),
    "marked": lambda df: df.map_partitions(double, by=3),
    "twice filtered": lambda df: df[df.x > 0].pipe(lambda one: one[one.i > 10]),
}


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_equals_dask(path, name):
    source = check_equal(EXPRESSIONS[name](dd.read_parquet(path, index=False)))
    assert source.num_chunks == 9


def test_rows_that_a_filter_leaves_out_do_not_come_back(path):
    """A frame without rows takes up those of a column that is set, in pandas: here whole row groups are left out."""
    df = dd.read_parquet(path, index=False)
    source = check_equal(df[df.t >= "2020-01-10"].assign(odd=df.i % 2, two=2))
    assert source.chunk_rows[:2].tolist() == [0, 0]
    assert source.chunk_rows.sum() == 1000 - 9 * 24


def test_plain_columns_are_a_parquet_source(path):
    df = dd.read_parquet(path, index=False)
    check_equal(df, kind=ParquetSource)
    check_equal(df[["s", "x"]], kind=ParquetSource)
    check_equal(df.drop(columns="x"), kind=ParquetSource, columns=["t", "i"])
    assert as_source(df).identity == as_source(path).identity


def test_partitions_can_be_chosen(path):
    df = dd.read_parquet(path, index=False)
    check_equal(df.partitions[[1]], kind=ParquetSource)
    check_equal(df[df.x > 0].partitions[[1]])


@pytest.mark.parametrize("chosen", [[0, 0], [0, 6, 1], [7, 0], [8, 3, 8]])
def test_chosen_partitions_keep_their_order_and_repeat(path, chosen):
    df = dd.read_parquet(path, index=False, split_row_groups=True)
    check_equal(df.partitions[chosen], kind=ParquetSource)
    check_equal(df.partitions[chosen].assign(z=1))
    source = check_equal(df.partitions[chosen].map_partitions(add_length))
    assert source.num_chunks == len(chosen)
    whole = dd.read_parquet(path, index=False, split_row_groups=False)
    assert as_source(whole.partitions[[1, 1]]).chunk_rows.sum() == len(whole.partitions[[1, 1]]) == 800


def test_the_arrow_file_system_and_filters(path):
    df = dd.read_parquet(path, filesystem="arrow")
    check_equal(df[df.x > 0])
    check_equal(dd.read_parquet(path, filters=[("i", ">", 10)]))
    check_equal(dd.read_parquet(path, filters=[[("i", ">", 40)], [("s", "==", "a")]])[["x"]])


def test_index_of_the_files(tmp_path):
    make_frame(100).set_index("t").to_parquet(tmp_path / "a.parquet", row_group_size=30)
    df = dd.read_parquet(tmp_path)
    check_equal(df[df.x > 0])


def test_unmarked_functions_get_whole_partitions(path):
    source = check_equal(dd.read_parquet(path, index=False).map_partitions(add_length))
    assert source.num_chunks == 2
    assert set(source.read(0)["length"].to_pylist()) == {600}


WHOLE_PARTITIONS = {
    "aggregate": lambda df: df.query("x > x.mean()"),
    "attribute": lambda df: df.query("i < x.size / 200"),
    "index": lambda df: df.query("index < 150"),
    "eval": lambda df: df.eval("z = i - i.mean()"),
}


@pytest.mark.parametrize("name", WHOLE_PARTITIONS)
def test_texts_that_look_beyond_the_row_get_whole_partitions(path, name):
    source = check_equal(WHOLE_PARTITIONS[name](dd.read_parquet(path, index=False)))
    assert source.num_chunks == 2


def test_texts_of_one_row_are_read_by_row_group(path):
    df = dd.read_parquet(path, index=False)
    for data in (df.query("i in (1, 2) and s == 'index (x.mean())'"), df.eval("z = (x + i) * 2")):
        assert check_equal(data).num_chunks == 9


def test_a_redefined_column_has_the_type_of_its_new_values(path):
    df = dd.read_parquet(path, index=False)
    coded = df.assign(s=df.s.map({"a": 1, "b": 0, "ä": 2, "": 3}, meta=("s", object)))
    source = check_equal(coded)
    assert source.schema.field("s").type == pa.int64()
    named = df.assign(i=df.i.apply(lambda value: f"n{value}", meta=("i", object)))
    assert check_equal(named).schema.field("i").type == pa.string()
    picky = df.assign(
        z=df.s.map(lambda value: {"a": 1.5}.get(value, 2.0), meta=("z", object))
    )  # knows no made-up value
    assert check_equal(picky).schema.field("z").type == pa.float64()


def test_numbers_are_no_strings(tmp_path):
    pq.write_table(pa.table({"s": ["a"] * 5 + ["1"] * 5}), tmp_path / "a.parquet", row_group_size=5)
    df = dd.read_parquet(tmp_path, index=False)
    data = df.assign(s=df.s.map(lambda value: int(value) if value.isdigit() else value, meta=("s", object)))
    source = as_source(data)
    assert source.read(0)["s"].to_pylist() == ["a"] * 5
    with pytest.raises(DataError, match=r"row group 1: column 's' is taken for strings but holds int64; give"):
        source.read(1)


def test_only_needed_columns_are_read(path):
    df = dd.read_parquet(path, index=False)
    source = as_source(df[df.x > 0].assign(z=df.i + 1), columns=["z"])
    assert set(source.base.schema.names) == {"x", "i"}
    assert source.chunk_rows is None
    assert set(source.row_counter.columns) == {"x"}
    assert source.chunk_nbytes.sum() < as_source(path).chunk_nbytes.sum()
    assert list(as_source(df.assign(z=1)).chunk_rows) == [100] * 6 + [150, 150, 100]


def test_threads_read_the_same(path):
    df = dd.read_parquet(path, index=False)
    source = as_source(df[df.x > 0].assign(z=df.i + 1))
    expected = [source.read(chunk) for chunk in range(source.num_chunks)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(source.read, range(source.num_chunks))) == expected


def test_identity_follows_expression_and_files(path):
    df = dd.read_parquet(path, index=False)
    assert as_source(df[df.x > 0]).identity == as_source(dd.read_parquet(path, index=False)[df.x > 0]).identity
    assert as_source(df[df.x > 0]).identity != as_source(df[df.x > 1]).identity
    assert counted(as_source(df[df.x > 0])).identity != as_source(df[df.x > 0]).identity


SCRIPT = """
import sys
import dask.dataframe as dd
from dtk.sources import as_source

KNOWN = {"a", "b", "c", "dd"}
CHOSEN = {"a": 1, "b": 2}

def is_known(value, also=frozenset({"x", "y", "z"})):
    return value in KNOWN or value in {"q", "w", "e"} or value in also or any(value == key for key in CHOSEN)

class Adds:
    def __init__(self, values):
        self.values = set(values)

    def __call__(self, frame):
        return frame.assign(k=frame.s.isin(self.values))

df = dd.read_parquet(sys.argv[1], index=False)
for words in ("abcdef", "abcde"):
    data = df[df.s.isin({"a", "b", "ä"})].assign(z=df.s.map(is_known, meta=("z", bool)), h=df.t.dt.hour)
    print(as_source(data.map_partitions(Adds(words))).identity)
    KNOWN.add("e")
"""


def test_identity_is_the_same_in_every_process(path):
    found = []
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed}
        command = [sys.executable, "-W", "ignore", "-c", SCRIPT, path]
        found.append(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert found[0] == found[1]
    assert len(set(found[0].split())) == 2


class Power:
    def __init__(self, exponent):
        self.exponents = {exponent}

    def __call__(self, value):
        return sum(value**exponent for exponent in self.exponents)

    def times(self, value):
        return sum(value * exponent for exponent in self.exponents)


class Table(dict):
    """Holds its values as a dict does, not as attributes."""


def test_identity_of_functions_is_what_they_do(path):
    df = dd.read_parquet(path, index=False)

    def identity(function):
        return as_source(df.assign(z=df.i.map(function, meta=("z", "f8")))).identity

    def adder(number):
        return lambda value: value + number

    def countdown(value):
        return countdown(value - 1) if value > 0 else 0.0

    assert identity(adder(1)) == identity(adder(1)) != identity(adder(2))
    assert identity(countdown) == identity(countdown)
    assert identity(partial(pow, 2)) != identity(partial(pow, 3))
    assert identity(Power(2)) == identity(Power(2)) != identity(Power(3))
    assert identity(Power(2).times) != identity(Power(3).times)
    assert identity({"a": 1}.get) == identity({"a": 1}.get) != identity({"a": 2}.get)
    assert identity(Table(a=1).get) == identity(Table(a=1).get) != identity(Table(a=2).get)


def test_counted_on_a_cluster(path, client):
    df = dd.read_parquet(path, index=False)
    expected = int((make_frame().x > 0).sum())
    assert counted(as_source(df[df.x > 0])).chunk_rows.sum() == expected


REFUSED = {
    "Merge": lambda df: df.merge(df, on="i"),
    "Head": lambda df: df.head(5, compute=False),
    "Mean": lambda df: df.assign(z=df.x - df.x.mean()),
    "CumSum": lambda df: df.assign(z=df.x.cumsum()),
    "RearrangeByColumn": lambda df: df.shuffle("i"),
    "Repartition": lambda df: df.repartition(npartitions=1),
    ".cat": lambda df: df.assign(z=df.c.cat.codes),
    "FromPandas": lambda _: dd.from_pandas(make_frame(10), npartitions=2),
    "Sample": lambda df: df.sample(frac=0.5),
    "partition's number": lambda df: df.map_partitions(with_number),
}


def with_number(frame, partition_info=None):
    return frame.assign(number=partition_info["number"] if partition_info else 0)


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_the_remedy(path, name):
    with pytest.raises(SourceError) as caught:
        as_source(REFUSED[name](dd.read_parquet(path, index=False)))
    assert name in str(caught.value)
    assert "write it once with dtk.spool(data, path) (about " in str(caught.value)
    assert "B before compression" in str(caught.value)


def test_two_reads_are_refused(path, tmp_path):
    make_frame(100).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(SourceError):
        as_source(dd.read_parquet(path, index=False).assign(z=dd.read_parquet(tmp_path, index=False).x))


def test_a_value_that_does_not_fit_names_the_chunk(path):
    df = dd.read_parquet(path, index=False)
    bad = df.assign(z=df.i.map(lambda value: "text", meta=("z", "int64")))
    with pytest.raises(DataError, match=r"a\.parquet, row group 0: .*give the column one type"):
        as_source(bad).read(0)


COMPARE = {"<": np.less, ">=": np.greater_equal, "==": np.equal}
CONDITIONS = st.tuples(st.sampled_from(["x", "i", "n"]), st.sampled_from(sorted(COMPARE)), st.integers(-2, 30))


@settings(deadline=None, max_examples=8)
@given(
    conditions=st.lists(CONDITIONS, max_size=3),
    derived=st.lists(st.tuples(st.sampled_from(["x", "i"]), st.sampled_from(["i", "n"]), st.floats(-3, 3)), max_size=2),
    columns=st.one_of(st.none(), st.lists(st.sampled_from(["x", "i", "s", "t", "b"]), min_size=1, unique=True)),
)
def test_random_filters_and_columns_equal_dask(path, conditions, derived, columns):
    df = dd.read_parquet(path, index=False)
    for number, (left, right, factor) in enumerate(derived):
        df = df.assign(**{f"d{number}": df[left] * factor + df[right]})
    for name, operator, value in conditions:
        df = df[COMPARE[operator](df[name], value)]
    plain = not conditions and (not derived or columns is not None)
    check_equal(df, kind=ParquetSource if plain else ExpressionSource, columns=columns)
