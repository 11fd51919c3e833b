"""Draws with replacement are exact: their distribution, and that a weight of 0 gets nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dtk.loader.draws import drawn, most_drawn, rows_a_draw, shared_out

weights = st.lists(st.sampled_from([0.0, 1e-300, 1e-9, 0.3, 1.0, 7.0, 1e9]), min_size=1, max_size=40).filter(sum)


def is_likely(counts, probabilities):
    """Tell whether counts are of these probabilities: a chi-square test at about five standard deviations."""
    expected = counts.sum() * probabilities / probabilities.sum()
    kept = expected > 5
    distance = ((counts - expected)[kept] ** 2 / expected[kept]).sum()
    freedom = int(kept.sum()) - 1
    return distance < freedom + 5 * np.sqrt(2 * freedom) + 5


@settings(max_examples=100, deadline=None)
@given(weights, st.integers(0, 10**6), st.integers(0, 9))
def test_shares_add_up_and_nothing_goes_to_a_weight_of_zero(weights, total, seed):
    counts = shared_out(np.random.default_rng(seed), total, np.array(weights))
    assert counts.sum() == total
    assert (counts >= 0).all()
    assert not counts[np.array(weights) == 0].any()


@settings(max_examples=100, deadline=None)
@given(weights, st.integers(0, 300), st.integers(0, 9))
def test_rows_rise_and_none_is_of_a_weight_of_zero(weights, num_rows, seed):
    rows = drawn(np.random.default_rng(seed), num_rows, np.array(weights))
    assert len(rows) == num_rows
    assert (np.diff(rows) >= 0).all()
    assert (np.array(weights)[rows] > 0).all()


@pytest.mark.parametrize("size", [1, 2, 37, 1000])
def test_both_follow_the_weights(size):
    weights = np.random.default_rng(1).random(size) ** 4
    assert is_likely(shared_out(np.random.default_rng(2), 10**6, weights), weights)
    rows = drawn(np.random.default_rng(3), 10**6, weights)
    counts = np.bincount(rows, minlength=size)
    assert is_likely(counts, weights)
    assert size == 1 or not is_likely(counts, weights**1.02)  # the test would notice


def test_draws_differ_as_those_of_a_multinomial_do():
    weights = np.array([1.0, 2.0, 0.0, 5.0])
    many = np.stack([shared_out(np.random.default_rng(seed), 1000, weights) for seed in range(2000)])
    share = weights / weights.sum()
    np.testing.assert_allclose(np.cov(many.T), 1000 * (np.diag(share) - np.outer(share, share)), atol=15)


def test_a_chunk_is_read_again_only_for_about_as_many_rows_as_it_holds():
    assert most_drawn(np.array([1, 100, 100, 110])).tolist() == [151, 151, 151, 166]
    assert most_drawn(np.zeros(0, np.int64)).tolist() == []
    chunk_rows = np.array([100, 100, 100, 100, 1, 0])
    assert rows_a_draw(np.array([0, 104, 150, 1000, 1000, 0]), chunk_rows).tolist() == [1, 104, 150, 143, 143, 1]
