from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dtk.errors import ArgumentError
from dtk.loader import Order
from dtk.loader.advice import blocks_that_mix
from dtk.loader.mixing import Mixing


def entropies(labels, num_labels):
    """The entropy of each row of labels."""
    counts = np.stack([(labels == label).sum(axis=1) for label in range(num_labels)], axis=1)
    shares = counts / counts.sum(axis=1, keepdims=True)
    return -(shares * np.log(np.where(counts, shares, 1))).sum(axis=1)


def measured(order, labels, epochs, ranks=1):
    """The mean entropy of the batches that the order makes, over that of a full shuffle's."""
    num_labels = int(labels.max()) + 1
    random = np.random.default_rng(0)
    found, full = [], []
    for epoch in range(epochs):
        shuffled = random.permutation(labels)
        for rank in range(ranks):
            rows = order.batch_rows(epoch, rank, ranks)
            rows = rows[:, : len(range(*order.rank_slots(rank, ranks)))]
            rows = rows[(rows >= 0).all(axis=1)]
            found.append(entropies(labels[rows], num_labels))
            full.append(entropies(shuffled[: rows.size].reshape(rows.shape), num_labels))
    return np.concatenate(found).mean() / np.concatenate(full).mean()


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([40, 77, 120]),
    st.sampled_from([None, 50]),
    st.sampled_from([1, 3, 4, 8]),
    st.sampled_from([1.5, 2.0, 3.4, 6.0]),
    st.sampled_from([2, 3, 10, 40]),
    st.sampled_from([1, 1, 2, 5]),
    st.booleans(),
)
def test_the_prediction_is_within_a_point_of_what_is_drawn(chunks, block, shards, fill, num_labels, ranks, is_even):
    random = np.random.default_rng(chunks)
    chunk_rows = np.full(chunks, 100) if is_even else random.integers(50, 150, chunks)
    order = Order(chunk_rows, 64, shards, int(fill * 100), block, tail="trim" if is_even else "pad")
    labels = np.arange(order.num_rows) * num_labels // order.num_rows
    assert Mixing(order, num_labels).entropy(ranks) == pytest.approx(measured(order, labels, 16, ranks), abs=0.01)


def test_classes_of_different_shares_are_predicted():
    order = Order(np.full(60, 100), 50, 2, 250)
    labels = np.repeat([0, 1, 2], [600, 1200, 4200])
    assert Mixing(order, (1, 2, 7)).entropy() == pytest.approx(measured(order, labels, 16), abs=0.01)
    assert Mixing(order, [0.1, 0.2, 0.7]).num_labels == 3


@pytest.mark.parametrize("num_labels", [2, 5, 10, 20])
@pytest.mark.parametrize(("shards", "fill_blocks"), [(1, None), (4, None), (24, 2)])
def test_a_pool_of_five_blocks_a_label_mixes_as_well_as_a_full_shuffle(num_labels, shards, fill_blocks):
    # Staggered shards start and end with a part of a fill: it takes some fills until that is few of all.
    blocks = blocks_that_mix(num_labels)
    shards = shards if fill_blocks is None else -(-blocks // fill_blocks)
    fill_rows = 100 * (fill_blocks or -(-blocks // shards))
    order = Order(np.full(10 * blocks, 100), 480, shards, fill_rows)
    mixing = Mixing(order, num_labels)
    assert mixing.pool_rows <= shards * fill_rows
    assert mixing.pool_rows >= 0.85 * shards * fill_rows
    assert mixing.entropy() >= 0.98


def test_one_chunk_at_a_time_mixes_nothing_and_the_whole_data_all():
    assert Mixing(Order(np.full(50, 1000), 100, 1, 1000), 50).entropy() < 0.01
    whole = Order(np.full(50, 1000), 100, 1, 50_000)
    assert Mixing(whole, 50).entropy() == pytest.approx(1, abs=0.005)
    assert Mixing(whole, 50).entropy(8) == pytest.approx(1, abs=0.01)
    assert Mixing(whole, 1).entropy() == 1


def test_small_and_odd_orders():
    for tail in ("trim", "pad"):
        single = Order(np.array([0, 1]), 1, 1, 10, tail=tail)
        assert Mixing(single, 2).entropy(3) == 1
        few = Order(np.array([3, 0, 5, 1]), 8, 8, 4, tail=tail)
        assert 0 < Mixing(few, 2).entropy() <= 1.2
        assert Mixing(few, 2).entropy(20) == 1  # batches of one sample
    many = Order(np.full(4, 2**31), 4096, 1, 2**32)
    assert 0.3 < Mixing(many, 4).entropy() < 1


def test_the_same_is_predicted_each_time_and_global_random_state_left_alone():
    order = Order(np.full(40, 100), 64, 4, 250)
    state = np.random.get_state()[1].copy()
    assert Mixing(order).entropy(2) == Mixing(order).entropy(2)
    np.testing.assert_array_equal(np.random.get_state()[1], state)


@pytest.mark.parametrize("labels", [0, -3, [], [1, 0], [1, float("nan")], [[1, 2]]])
def test_labels_must_be_classes(labels):
    with pytest.raises(ArgumentError, match=r"labels=.* must be a number of classes"):
        Mixing(Order(np.full(4, 10), 4, 1, 10), labels)


def test_the_work_is_bounded_by_the_chunks_and_not_by_the_rows():
    small, big = (Order(np.full(2000, rows), 4096, 24, 3 * rows) for rows in (10_000, 100_000_000))
    parts = [Mixing(order)._parts for order in (small, big)]
    steps, labels = ([sum(getattr(part, name).size for part in one) for one in parts] for name in ("steps", "labels"))
    assert steps[0] == steps[1] <= 2048 + 16
    assert max(labels) <= 16 * 2000 * 10
