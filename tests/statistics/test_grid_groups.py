"""Moments of groups of positions equal those of each group alone, however the data is cut and merged."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dtk.errors import ArgumentError, DataError
from dtk.statistics import GridGroups, GridMoments, GroupedGridMoments

SIZES = {"y": 3, "time": 11, "x": 2}


@given(
    codes=st.lists(st.integers(-1, 3), min_size=11, max_size=11),
    cuts=st.lists(st.integers(0, 11), max_size=3),
    keep=st.sampled_from([(), ("x",), ("y",), ("y", "x")]),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=60)
def test_equal_to_each_group_alone(codes: list[int], cuts: list[int], keep: tuple[str, ...], seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(1e6, 1.0, tuple(SIZES.values()))
    values[rng.random(values.shape) < 0.2] = np.nan
    groups = GridGroups("group", "time", np.array(codes, np.int64), 4)
    merged = GroupedGridMoments(SIZES, keep, groups)
    for start, stop in pairwise([0, *sorted(cuts), 11]):
        for row in range(3):
            part = merged.fresh()
            where = {"time": slice(start, stop), "y": slice(row, row + 1)}
            part.update(values[row : row + 1, start:stop], at=where)
            merged.merge(part)
    assert merged.dims == ("group", *keep)
    for group in range(4):
        alone = GridMoments(SIZES, keep)
        alone.update(values[:, groups.codes == group])
        for name, expected in alone.result().items():
            np.testing.assert_allclose(merged.result()[name][group], expected, rtol=1e-9, atol=1e-4 * (name == "std"))
    again = GroupedGridMoments.from_dict(json.loads(json.dumps(merged.to_dict())))
    for name, array in merged.result().items():
        np.testing.assert_array_equal(again.result()[name], array)


def test_the_grouped_dimension_is_not_kept() -> None:
    groups = GridGroups("group", "time", np.zeros(11, np.int64), 1)
    with pytest.raises(ArgumentError, match="dim='time' is grouped"):
        GroupedGridMoments(SIZES, ["time"], groups)


def test_groups_and_blocks_that_do_not_fit_are_refused() -> None:
    codes = np.arange(11) % 3
    with pytest.raises(ArgumentError, match="name='x' of the groups is a dimension"):
        GroupedGridMoments(SIZES, [], GridGroups("x", "time", codes, 3))
    with pytest.raises(ArgumentError, match="codes up to 2 must lie below num_groups=2"):
        GroupedGridMoments(SIZES, [], GridGroups("group", "time", codes, 2))
    moments = GroupedGridMoments(SIZES, ["x"], GridGroups("group", "time", codes, 3))
    for shape in ((3, 11, 1), (3, 4, 2), (3, 11)):
        with pytest.raises(DataError, match="does not fit dimensions"):
            moments.update(np.zeros(shape))
    with pytest.raises(DataError, match="are no numbers; convert them first"):
        moments.update(np.zeros((3, 11, 2), "M8[ns]"))
    assert not moments.count.any()
