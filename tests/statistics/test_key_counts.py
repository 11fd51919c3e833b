"""Keys in buckets are counted as keys in one, whatever types they come in."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dtk.statistics import Categories, key_counts

words = st.lists(st.sampled_from(["a", "bb", "é", "", "long enough for two words", "1"]), max_size=40)
whole = st.lists(st.integers(-3, 3) | st.just(2**60 + 1), max_size=40)


def of(parts: list[pa.Array], nbytes: int) -> Categories:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(key_counts, "_SPLIT_NBYTES", nbytes)
        merged = Categories()
        for part in parts:
            one = Categories()
            for half in (part[::2], part[1::2]):
                one.update(half)
            one.is_exact  # noqa: B018 - it consolidates
            before = one.to_dict()
            merged.merge(one)
            merged.is_exact  # noqa: B018
            assert one.to_dict() == before
        return merged


@given(st.lists(words, min_size=1, max_size=4) | st.lists(whole, min_size=1, max_size=4), st.sampled_from([0, 300]))
@settings(deadline=None, max_examples=60)
def test_buckets_change_nothing(values: list[list[str | int]], nbytes: int) -> None:
    found = of([pa.array(part) for part in values], nbytes)
    assert found.counts == Counter(value for part in values for value in part)
    assert found.is_exact


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_types_that_come_later(order: tuple[int, ...]) -> None:
    parts = [pa.array([1, 2, 2]), pa.array([2.0, 0.5]), pa.array(["a", "2"])]
    numbers = of([parts[number] for number in order if number < 2], 0)
    assert numbers.counts == {2: 3, 0.5: 1, 1: 1}
    assert of([parts[number] for number in order], 0).counts == of([parts[number] for number in order], 2**20).counts


def test_many_distinct_texts_are_bounded() -> None:
    texts = pa.array(np.char.add("customer-", np.arange(200_000).astype(str)))
    found = Categories(max_bytes=2**20)
    for start, stop in pairwise(range(0, 200_001, 20_000)):
        found.update(texts[start:stop])
    assert found.nbytes <= 2**20
    assert found.count == 200_000
    assert "are not counted" in found.note
    whole = Categories()
    for start, stop in pairwise(range(0, 200_001, 20_000)):
        whole.update(texts[start:stop])
        whole.update(texts[start : start + 10])
    assert (whole.num_distinct, whole.is_exact) == (200_000, True)
    assert len(whole._held.buckets) > 1
    assert [count for _, count in whole.top(101)] == [2] * 100 + [1]
