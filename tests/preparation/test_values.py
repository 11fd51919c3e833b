"""Positions in a vocabulary."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtk.preparation.values import lookup, vocabulary_keys

WORDS = [f"word {number}" for number in range(128)]


@given(
    values=st.lists(st.one_of(st.none(), st.integers(0, 127)), max_size=50),
    known=st.sets(st.integers(0, 127), min_size=1),
    index=st.sampled_from([pa.int8(), pa.uint8(), pa.int32(), pa.int64()]),
)
def test_codes_of_a_dictionary_are_found_like_values(values, known, index):
    vocabulary = [WORDS[number] for number in sorted(known)]
    plain = pa.array([None if number is None else WORDS[number] for number in values], pa.string())
    coded = pa.DictionaryArray.from_arrays(pa.array(values, index), pa.array(WORDS))
    expected = [
        -1 if value is None or value not in vocabulary else vocabulary.index(value) for value in plain.to_pylist()
    ]
    for array in (plain, coded, coded.slice(len(values) // 2)):
        column = pa.chunked_array([array], type=array.type)
        found = lookup("word", column, vocabulary_keys(vocabulary))
        assert found.dtype == np.int64
        assert found.tolist() == expected[len(expected) - len(array) :]


@pytest.mark.parametrize("indices", [[], [None, None]])
def test_an_empty_dictionary_has_no_codes(indices):
    empty = pa.DictionaryArray.from_arrays(pa.array(indices, pa.int32()), pa.array([], pa.string()))
    found = lookup("word", pa.chunked_array([empty], type=empty.type), vocabulary_keys(["a"]))
    assert found.tolist() == [-1] * len(indices)
