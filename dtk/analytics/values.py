"""Values of any Arrow type: which are there, what they are like, and one of them as plain JSON."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import pyarrow as pa

from dtk.analytics.numbers import Value
from dtk.statistics import category_keys, infer_kind, to_floats
from dtk.statistics.kinds import without_views

__all__ = ["is_ordered", "is_present", "judge_each", "plain_value"]

_MAX_TEXT: Final = 200


def is_ordered(dtype: pa.DataType) -> bool:
    """Tell whether values compare as numbers do.

    Parameters
    ----------
    dtype : pyarrow.DataType
        Of them; a dictionary of numbers is one, too.

    Returns
    -------
    bool
        True for numbers and dates.
    """
    if pa.types.is_dictionary(dtype):
        return is_ordered(dtype.value_type)
    return infer_kind(dtype) in ("number", "date")


def is_present(values: pa.Array) -> np.ndarray:
    """Say which values are there: neither null nor NaN.

    Parameters
    ----------
    values : pyarrow.Array
        Shape [rows].

    Returns
    -------
    numpy.ndarray
        bool [rows].
    """
    if isinstance(values, pa.ExtensionArray):
        values = values.storage
    if pa.types.is_dictionary(values.type):
        return _look_up(values, is_present(values.dictionary))
    return np.asarray(~values.is_null(nan_is_null=True).to_numpy(zero_copy_only=False))


def judge_each(values: pa.Array, judge: Callable[[pa.Array], np.ndarray]) -> np.ndarray:
    """Judge the values that are there, each distinct one once where the chunk says which there are.

    Parameters
    ----------
    values : pyarrow.Array
        Shape [rows].
    judge : callable
        ``judge(values) -> bool [rows]``, for values of which none is missing, and without a dictionary.

    Returns
    -------
    numpy.ndarray
        bool [rows]; False where a value is missing.
    """
    if isinstance(values, pa.ExtensionArray):
        values = values.storage
    if pa.types.is_dictionary(values.type):
        if len(values.dictionary) > len(values):
            return judge_each(values.dictionary_decode(), judge)
        return _look_up(values, judge_each(values.dictionary, judge))
    values = without_views(values)
    present = is_present(values)
    if present.all():
        return judge(values)
    broken = np.zeros(len(values), bool)
    if present.any():
        broken[present] = judge(values.filter(pa.array(present)))
    return broken


def plain_value(values: pa.Array | pa.ChunkedArray) -> Value:
    """Return a value as plain JSON; long text is cut.

    Parameters
    ----------
    values : pyarrow.Array or pyarrow.ChunkedArray
        Shape [1].

    Returns
    -------
    str, int, float, bool or None
        Dates in ISO 8601, durations in seconds, None where it is missing.
    """
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    values = values.storage if isinstance(values, pa.ExtensionArray) else values
    values = values.dictionary_decode() if pa.types.is_dictionary(values.type) else values
    if values.null_count:
        return None
    if pa.types.is_duration(values.type):
        return float(to_floats(values)[0])
    value = category_keys(values)[0].as_py() if pa.types.is_temporal(values.type) else values[0].as_py()
    if isinstance(value, float) and not np.isfinite(value):
        return None if np.isnan(value) else str(value)
    if isinstance(value, (bool, int, float)):
        return value
    text = str(value)
    return text if len(text) <= _MAX_TEXT else f"{text[: _MAX_TEXT - 1]}\u2026"


def _look_up(values: pa.DictionaryArray, of_dictionary: np.ndarray) -> np.ndarray:
    """Return what is said of the dictionary for each row; False where that is null."""
    if not len(of_dictionary):
        return np.zeros(len(values), bool)
    valid = values.indices.is_valid().to_numpy(zero_copy_only=False)
    return np.asarray(of_dictionary[values.indices.fill_null(0).to_numpy()] & valid)
