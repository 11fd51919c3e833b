"""Moments of groups of positions equal those of each group alone, however the data is cut and merged."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dtk.errors import ArgumentError
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
