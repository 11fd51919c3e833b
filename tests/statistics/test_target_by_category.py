"""What the target is in each category: the same whatever the chunking, and within its bound."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dtk.errors import ArgumentError, DataError
from dtk.statistics import TargetByCategory
from dtk.statistics.target_by_category import fold_of

words = st.sampled_from(["a", "b", "ü", None])
targets = {
    "fractions": st.floats(-1e6, 1e6),
    "far": st.floats(0, 1).map(lambda value: 1e9 + value),
    "whole": st.integers(-3, 3),
    "words": st.sampled_from(["yes", "no", "perhaps"]),
    "booleans": st.booleans(),
}


def filled(table: pa.Table, cuts: list[int], **options: int) -> TargetByCategory:
    """Fill one in parts, half of which are merged first."""
    whole, later = TargetByCategory(**options), TargetByCategory(**options)
    stops = [0, *sorted(min(cut, len(table)) for cut in cuts), len(table)]
    for number, (start, stop) in enumerate(pairwise(stops)):
        part = TargetByCategory(**options)
        part.update(table.slice(start, stop - start), np.arange(start, stop))
        (whole if number % 2 else later).merge(part)
    whole.merge(later)
    return whole


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_any_chunking_gives_what_pandas_gives(data):
    kind = data.draw(st.sampled_from(list(targets)))
    rows = data.draw(st.lists(st.tuples(words, targets[kind]), min_size=1, max_size=30))
    values, target = zip(*rows, strict=True)
    table = pa.table({"value": pa.array(values, pa.string()), "target": pa.array(target)})
    if data.draw(st.booleans()):
        table = table.set_column(0, "value", table["value"].dictionary_encode())
    cuts = data.draw(st.lists(st.integers(0, 30), max_size=4))
    found = filled(table, cuts, num_folds=3)
    fold = fold_of(np.arange(len(rows)), 3)
    keys = found.keys.to_pylist()
    assert found.num_rows == len(rows)
    for without in (None, 0, 1, 2):
        frame = pd.DataFrame({"value": values, "target": target}, dtype=object)[fold != without]
        count, mean, squares = found.moments(without)
        for at, key in ((0, None), *((number + 2, key) for number, key in enumerate(keys))):
            chosen = frame["target"][frame["value"].isna() if key is None else frame["value"] == key]
            assert count[at] == len(chosen)
            if len(chosen) and kind != "words":
                numbers = chosen.to_numpy(np.float64)
                scale = np.abs(numbers).max() + 1e-300
                assert abs(mean[at] - numbers.mean()) <= 1e-12 * scale
                assert abs(squares[at] - ((numbers - numbers.mean()) ** 2).sum()) <= 1e-9 * (1 + numbers.var()) * len(
                    numbers
                ) + (1e-12 * scale) ** 2 * len(numbers)
            if found.classes is not None:
                by_class = dict(zip(found.classes.to_pylist(), found.class_counts(without)[at], strict=True))
                assert {each: n for each, n in by_class.items() if n} == chosen.value_counts().to_dict()
    assert found.has_fractions == (kind in ("fractions", "far") and any(value != int(value) for value in target))


@settings(max_examples=20, deadline=None)
@given(rows=st.lists(st.tuples(words, st.floats(-5, 5)), max_size=20))
def test_the_state_is_plain_json(rows):
    values, target = zip(*rows, strict=True) if rows else ((), ())
    table = pa.table({"value": pa.array(values, pa.string()), "target": pa.array(target, pa.float64())})
    found = filled(table, [3], num_folds=2)
    stored = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    restored = TargetByCategory.from_dict(stored)
    assert restored.to_dict() == found.to_dict()
    restored.merge(found)
    assert restored.moments()[0].sum() == 2 * len(rows)


def test_memory_is_bounded_and_what_was_cut_is_known():
    rng = np.random.default_rng(0)
    rare = [f"word {number}" for number in range(3000)]
    values = np.array(["often"] * 1000 + ["also"] * 500 + rare, dtype=object)[rng.permutation(4500)]
    target = (values == "often") + rng.random(4500)
    table = pa.table({"value": values, "target": target})
    found = filled(table, list(range(100, 4500, 100)), max_size=50)
    assert len(found.keys) <= 50
    assert not found.is_exact
    counts = dict(zip(found.result()["categories"], found.result()["count"], strict=True))
    assert 1000 - found.max_error <= counts["often"] <= 1000
    assert 500 - found.max_error <= counts["also"] <= 500
    count, mean, _ = found.moments()
    assert count.sum() == 4500
    assert np.isclose((count * mean).sum() / 4500, target.mean())
    assert found.num_distinct > 50


def test_many_classes_are_moments_only():
    table = pa.table({"value": ["a"] * 200, "target": list(range(200))})
    found = filled(table, [50, 100])
    assert found.classes is None
    assert found.moments()[1][2] == 99.5
    few = filled(table, [], max_classes=200)
    assert few.classes is not None
    assert len(few.classes) == 200


def test_missing_targets_count_nowhere_else():
    found = filled(pa.table({"value": ["a", "a", None], "target": [1.0, None, float("nan")]}), [1])
    assert found.missing_targets == 2
    assert found.moments()[0].tolist() == [0, 0, 1]


def test_empty_parts_of_unknown_type_change_nothing():
    found = TargetByCategory()
    found.update(pa.table({"value": pa.nulls(0), "target": pa.nulls(0)}), np.arange(0))
    found.update(pa.table({"value": ["a"], "target": [2.5]}), np.arange(1))
    assert found.is_number
    assert found.has_fractions


def test_what_cannot_be_is_refused():
    with pytest.raises(ArgumentError, match="num_folds=1 must be at least 2"):
        TargetByCategory(1)
    with pytest.raises(ArgumentError, match="row=None does not number"):
        TargetByCategory().update(pa.table({"value": ["a"], "target": [1.0]}))
    with pytest.raises(DataError, match="infinite values"):
        TargetByCategory().update(pa.table({"value": ["a"], "target": [float("inf")]}), np.arange(1))


def test_infinite_categories_are_plain_json_too():
    found = filled(pa.table({"value": [1.0, float("inf"), -float("inf")], "target": [1.0, 0.0, 1.0]}), [1])
    restored = TargetByCategory.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)))
    assert restored.result()["categories"] == [-np.inf, 1.0, np.inf]


def test_merging_leaves_the_other_as_it_is_also_where_it_cuts():
    parts = [
        filled(pa.table({"value": np.arange(60) + 40 * part, "target": [1] * 60}), [], max_size=80) for part in (0, 1)
    ]
    before = parts[1].to_dict()
    parts[0].merge(parts[1])
    assert parts[0].max_error == 1
    assert len(parts[0].keys) == 40
    assert parts[0].num_distinct == 100
    parts[0].merge(parts[1])
    assert parts[1].to_dict() == before
    assert parts[0].moments()[0].sum() == 180


def test_row_numbers_are_as_many_as_rows():
    with pytest.raises(ArgumentError, match=r"row=\[3\] does not number the 2 values"):
        TargetByCategory().update(pa.table({"value": ["a", "b"], "target": [1, 2]}), np.arange(3))
