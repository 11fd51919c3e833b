"""Runs of rows one step apart: where windows begin, however the rows are cut into chunks."""

from __future__ import annotations

import datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dtk.errors import ArgumentError, DataError
from dtk.sources import TableSource, Window
from dtk.sources.runs import runs_of_axis, runs_of_table, window_starts
from dtk.sources.times import step_of, step_text, times_of_arrays, times_of_table, unit_of_type
from dtk.sources.windows import WindowSource


def starts_by_hand(times, groups, step, window):
    """Walk along the rows, as the definition says."""
    starts, begin = [], 0
    for row in range(1, len(times) + 1):
        if row == len(times) or groups[row] != groups[row - 1] or times[row] - times[row - 1] != step:
            starts += range(begin, row - window.num_rows + 1, window.stride)
            begin = row
    return starts


@st.composite
def series(draw):
    """Times of several groups with gaps, places where time goes back, and single rows."""
    pieces = draw(st.lists(st.tuples(st.integers(1, 30), st.sampled_from([-7, 0, 2, 10]), st.booleans()), min_size=1))
    times, groups, at, group = [], [], 0, 0
    for size, jump, is_other in pieces:
        at, group = at + jump, group + is_other
        times.append(at + 5 * np.arange(size))
        groups.append(np.full(size, group))
        at = times[-1][-1]
    return np.concatenate(times), np.concatenate(groups)


windows = st.builds(
    Window,
    st.just("t"),
    history=st.integers(1, 9),
    lead=st.sampled_from([None, 0, 1, 3, (0, 2), (1, 2, 5)]),
    stride=st.integers(1, 7),
    group=st.just("g"),
)


class Ragged(TableSource):
    """A table in chunks of any sizes, empty ones too."""

    def __init__(self, table, sizes):
        super().__init__(table)
        object.__setattr__(self, "edges", np.append(0, np.cumsum(sizes)))

    @property
    def chunk_rows(self):
        return np.diff(self.edges)

    @property
    def chunk_nbytes(self):
        return 8 * self.chunk_rows

    def read(self, chunk, columns=None):
        part = self.table.slice(self.edges[chunk], self.edges[chunk + 1] - self.edges[chunk])
        return part if columns is None else part.select(columns)

    def describe(self, chunk):
        return f"chunk {chunk}"


def ragged_sizes(data, num_rows):
    cuts = data.draw(st.lists(st.integers(0, num_rows), max_size=12).map(sorted))
    return np.diff([0, *cuts, num_rows])


def starts_of(source, num_chunks):
    """Where windows begin, as the rows of all chunks are counted."""
    first = np.cumsum(source.runs.rows) - source.runs.rows
    return np.concatenate([first[chunk] + source.read(chunk, ["t"]).starts for chunk in range(num_chunks)])


@settings(deadline=None, max_examples=300)
@given(series(), windows, st.data())
def test_windows_are_those_of_the_definition_however_rows_are_cut(series, window, data):
    times, groups = series
    table = pa.table({"t": times, "g": groups})
    sizes = ragged_sizes(data, len(times))
    source = WindowSource(Ragged(table, sizes), window, step=5)
    runs = runs_of_table(source.base, 5, window)
    source = WindowSource(source.base, window, step=5, runs=runs)
    expected = starts_by_hand(times, groups, 5, window)
    assert runs.windows.sum() == len(expected)
    assert starts_of(source, len(sizes)).tolist() == expected
    for chunk in range(len(sizes)):
        block = source.read(chunk, ["t"])
        assert block.num_rows == runs.windows[chunk]
        rows = pa.concat_tables(block.parts)["t"].to_numpy()
        assert len(rows) == runs.rows[chunk] + runs.after[chunk]  # and no more than the windows need
        needed = int(block.starts.max(initial=-1)) + window.num_rows
        assert not block.num_rows or len(rows) == max(needed, runs.rows[chunk])
        for start in block.starts:
            np.testing.assert_array_equal(np.diff(rows[start : start + window.num_rows]), 5)


@settings(deadline=None, max_examples=100)
@given(series(), windows, st.data())
def test_a_coordinate_in_memory_has_the_same_runs_as_a_table(series, window, data):
    values, groups = series
    sizes = ragged_sizes(data, len(values))
    sizes = sizes[sizes > 0]
    of_table = runs_of_table(Ragged(pa.table({"t": values, "g": groups}), sizes), None, window)
    times, _ = times_of_arrays(values, [groups])
    of_axis, breaks = runs_of_axis(times, np.append(0, np.cumsum(sizes)), of_table.step, window)
    for name in ("rows", "windows", "before", "after", "is_whole", "longest", "num_backward"):
        np.testing.assert_array_equal(getattr(of_axis, name), getattr(of_table, name), err_msg=name)
    assert np.array_equal(breaks, times.breaks(of_table.step))


@settings(deadline=None, max_examples=100)
@given(series(), st.data())
def test_the_step_is_the_most_common_one_however_rows_are_cut(series, data):
    times, groups = series
    steps = np.diff(times)[(np.diff(groups) == 0) & (np.diff(times) > 0)]
    values, counts = np.unique(steps, return_counts=True)
    expected = values[np.argmax(counts)] if len(values) else None
    sizes = ragged_sizes(data, len(times))
    window = Window("t", group="g")
    assert runs_of_table(Ragged(pa.table({"t": times, "g": groups}), sizes), None, window).step == expected


def test_chunks_of_another_step_are_looked_at_again():
    times = np.concatenate([np.arange(100), 100 + 3 * np.arange(8), 124 + np.arange(50)])
    runs = runs_of_table(Ragged(pa.table({"t": times}), [50, 50, 8, 50]), None, Window("t", history=4, lead=None))
    assert runs.step == 1
    assert runs.windows.tolist() == [50, 48, 0, 47]
    assert runs.longest == 101


@pytest.mark.parametrize(
    ("column", "step", "unit"),
    [
        (pa.array([1, 2, 3], pa.uint16()), 1, "i8"),
        (pa.array([0.1, 0.2, 0.3]), 0.1, "f8"),
        (pa.array([0, 60, 120], pa.timestamp("s")), "1min", "M8[s]"),
        (pa.array([0, 60, 120], pa.timestamp("ms", tz="UTC")), datetime.timedelta(milliseconds=60), "M8[ms]"),
        (pa.array([5, 6, 7], pa.date32()), "1D", "M8[D]"),
        (pa.array([0, 86_400_000, 172_800_000], pa.date64()), np.timedelta64(24, "h"), "M8[ms]"),
        (pa.array([10, 20, 30], pa.time32("s")), "10s", "m8[s]"),
        (pa.array([10, 20, 30], pa.duration("us")), "10us", "m8[us]"),
    ],
)
def test_times_of_any_kind(column, step, unit):
    times = times_of_table(pa.table({"t": column}), "t", [])
    assert unit_of_type(column.type, "t") == unit
    assert len(times.breaks(step_of(step, np.dtype(unit)))) == 0
    assert len(times.breaks(2 * step_of(step, np.dtype(unit)))) == 2


def test_steps_of_floating_point_may_differ_a_little():
    times, _ = times_of_arrays(np.arange(10_000) * 0.1 + 1e5, [])
    runs, breaks = runs_of_axis(times, np.array([0, 10_000]), None, Window("t", history=2))
    assert runs.step == pytest.approx(0.1)
    assert len(breaks) == 0


def test_dates_of_another_calendar():
    class Date(datetime.datetime):  # as cftime's, these are objects whose difference is a timedelta
        pass

    values = np.array([Date(2000, 1, day) for day in (1, 2, 3, 7)], object)
    times, unit = times_of_arrays(values, [])
    assert times.breaks(step_of("1D", unit)).tolist() == [3]


def test_groups_of_any_kind():
    arrays = {
        "text": pa.array(["a", "a", None, None, "b"]),
        "codes": pa.array(["a", "a", None, None, "b"]).dictionary_encode(),
        "number": pa.array([1, 1, 2, 2, 3]),
        "float": pa.array([1.0, 1.0, None, None, 2.0]),
    }
    table = pa.table({"t": range(5), **arrays})
    for names in ([name] for name in arrays):
        times = times_of_table(table, "t", names)
        assert times.breaks(1).tolist() == [2, 4]
        assert (
            times_of_table(table.slice(3), "t", names).first_group == times_of_table(table[:3], "t", names).last_group
        )
    assert times_of_table(table, "t", ["text", "number"]).breaks(1).tolist() == [2, 4]


@pytest.mark.parametrize(
    ("step", "unit", "message"),
    [
        (0, "i8", "step=0 must be a positive whole number"),
        (0.5, "i8", "step=0.5 must be a positive whole number"),
        ("1h", "f8", "step='1h' must be a positive number"),
        (60, "M8[s]", "step=60 is no time: a number has no unit; give one such as '6h'"),
        ("soon", "M8[s]", "step='soon' is no time"),
        ("10ms", "M8[s]", "must be positive, and whole in the unit of the times"),
        ("-1h", "M8[s]", "must be positive"),
    ],
)
def test_a_step_that_cannot_be_is_refused(step, unit, message):
    with pytest.raises(ArgumentError, match=message):
        step_of(step, np.dtype(unit))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array(["a", "b"]), "holds <U1, neither numbers nor times"),
        (np.array([b"a", object()], object), "holds bytes, no times"),
        (np.array([1.0, np.nan]), "missing values"),
        (np.array(["2000", "NaT"], "M8[D]"), "missing values"),
    ],
)
def test_a_coordinate_without_times_is_refused(values, message):
    with pytest.raises(DataError, match=message):
        times_of_arrays(values, [])


def test_a_null_time_is_refused_by_the_name_of_its_chunk():
    table = pa.table({"t": [1, 2, 3, None]})
    with pytest.raises(DataError, match=r"chunk 1: window dim='t' is null in 1 rows; .*dropna\(subset=\['t'\]\)"):
        runs_of_table(Ragged(table, [2, 2]), None, Window("t"))


def test_a_time_that_is_nan_is_refused():
    with pytest.raises(DataError, match=r"window dim='t' is NaN in 1 rows; .*dropna\(subset=\['t'\]\)"):
        times_of_table(pa.table({"t": [1.0, float("nan"), 3.0]}), "t", [])


def test_a_step_is_written_as_people_would():
    written = {
        step_text(step, np.dtype(unit))
        for step, unit in ((3_600, "M8[s]"), (3_600_000, "m8[ms]"), (60, "M8[m]"), (36 * 10**11, "M8[ns]"))
    }
    assert written == {"1 h"}
    assert [step_text(step, np.dtype(unit)) for step, unit in ((90, "M8[s]"), (7, "M8[D]"), (2, "M8[M]"))] == [
        "90 s",
        "7 D",
        "2 M",
    ]
    assert [step_text(step, np.dtype("f8")) for step in (0.25, 3.0, None)] == ["0.25", "3", None]
    assert step_text(10**15 + 1, np.dtype("i8")) == "1000000000000001"


def test_starts_of_one_chunk():
    window = Window("t", history=2, lead=1, stride=2)
    assert window_starts(np.array([0, 4, 9]), 0, 0, window).tolist() == [0, 4, 6]
    assert window_starts(np.array([0, 4, 9]), 1, 0, window).tolist() == [1, 4, 6]
    assert window_starts(np.array([0, 4, 9]), 0, 1, window).tolist() == [0, 4, 6]
    assert window_starts(np.array([0, 4, 9]), 0, 2, window).tolist() == [0, 4, 6, 8]
