"""What every transform must do with data, whatever it is: one function that does it all in all the ways there are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from sklearn.base import clone

from dtk.preparation.transforms import ColumnTransformer, Transform, transform_from_dict

__all__ = ["as_array", "assert_same", "assert_transforms_alike", "assert_two_stages_alike", "in_partitions", "refuse"]


def refuse(*args: Any, **kwargs: Any) -> None:
    """Be a scheduler that computes nothing: what is lazy stays lazy."""
    raise AssertionError("something was computed")


def as_array(result: Any) -> np.ndarray:
    """Turn any result of `transform` into an array [rows, features]."""
    if hasattr(result, "compute"):
        result = result.compute()
    if isinstance(result, pa.Table):
        result = result.to_pandas()
    return np.asarray(result)


def assert_same(found: Any, expected: Any, *, rtol: float = 1e-9, atol: float = 1e-9) -> None:
    """Compare results of `transform`; missing values and infinities are equal to themselves."""
    found, expected = as_array(found), as_array(expected)
    assert found.shape == expected.shape
    if found.dtype == object or expected.dtype == object:
        missing = pd.isna(expected)
        assert (pd.isna(found) == missing).all()
        assert found[~missing].tolist() == expected[~missing].tolist()
    else:
        np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol)


def in_partitions(frame: pd.DataFrame, cuts: Sequence[float] = (0, 0.3, 0.3, 1)) -> dd.DataFrame:
    """Cut a frame into lazy partitions at shares of its rows; the first of them is empty, and so is another."""
    stops = [int(len(frame) * cut) for cut in cuts]
    pieces = [frame.iloc[start:stop] for start, stop in zip([0, *stops[:-1]], stops, strict=True)]
    return dd.from_map(_same, pieces, meta=frame.iloc[:0])


def _same(piece: pd.DataFrame) -> pd.DataFrame:
    return piece


def assert_transforms_alike(
    transform: Transform,
    frame: pd.DataFrame,
    *,
    y: str | None = None,
    expected: Any = None,
    rtol: float = 1e-9,
    atol: float = 1e-9,
    module_tolerance: float = 1e-6,
    has_partial_fit: bool = True,
) -> Transform:
    """Fit to the columns of a frame in memory, and find that all other ways of fitting and applying it do the same.

    Parameters
    ----------
    transform : Transform
        Not fitted, and left so.
    frame : pandas.DataFrame
        The columns, and the target.
    y : str, optional
        The target's column.
    expected : array, optional
        [rows, features]: what scikit-learn makes of it.
    rtol, atol : float
        How much chunking, or scikit-learn, may differ.
    module_tolerance : float
        How much the module may differ in float32, absolutely and as a share.
    has_partial_fit : bool
        Whether it learns from parts.

    Returns
    -------
    Transform
        Fitted.
    """
    inputs = frame if y is None else frame.drop(columns=y)
    fitted = clone(transform).fit(frame, y)
    result = fitted.transform(inputs)
    names = list(fitted.get_feature_names_out())
    assert as_array(result).shape == (len(frame), len(names))
    if expected is not None:
        assert_same(result, expected, rtol=rtol, atol=atol)

    stored = json.loads(json.dumps(fitted.to_dict(), allow_nan=False))
    restored = transform_from_dict(stored)
    assert restored.to_dict() == fitted.to_dict()
    assert list(restored.get_feature_names_out()) == names
    assert_same(restored.transform(inputs), result, rtol=0, atol=0)

    lazy = in_partitions(frame)
    with dask.config.set(scheduler=refuse):
        applied = fitted.transform(lazy)  # the target is there too, and left out
    assert list(applied.columns) == names
    rounding = 1e-6 if as_array(result).dtype == np.float32 else 0  # frames that are lazy come out as float64
    assert_same(applied, result, rtol=rounding, atol=rounding)
    assert applied.compute().index.equals(frame.index)
    with dask.config.set(scheduler="sync"):
        assert_same(clone(transform).fit(lazy, y).transform(inputs), result, rtol=rtol, atol=atol)

    table = pa.Table.from_pandas(frame, preserve_index=False)
    from_arrow = clone(transform).fit(table, y).transform(table)
    assert from_arrow.column_names == names
    assert_same(from_arrow, result, rtol=rtol, atol=atol)

    if has_partial_fit:
        part = clone(transform)
        for start in range(0, len(frame), max(1, len(frame) // 3)):
            part.partial_fit(frame[start : start + max(1, len(frame) // 3)], y)
        assert_same(part.transform(inputs), result, rtol=rtol, atol=atol)

    if not (fitted._cleans or isinstance(fitted, ColumnTransformer)):
        encoded = fitted._encode(list(inputs.columns), [table[name] for name in inputs.columns])
        x = torch.as_tensor(encoded if fitted._codes else encoded.astype(np.float32))
        assert x.shape[1] == fitted._num_encoded
        assert x.dtype == (torch.int64 if fitted._codes else torch.float32)
        out = fitted.as_module()(x).numpy()
        assert_same(out, result, rtol=module_tolerance, atol=module_tolerance)
    return fitted


def assert_two_stages_alike(
    composition: ColumnTransformer, frame: pd.DataFrame, *, y: str | None = None, tolerance: float = 1e-6
) -> ColumnTransformer:
    """Fit a composition, and find that what is encoded and computed by its module is what `transform` returns."""
    fitted = clone(composition).fit(frame, y)
    table = pa.Table.from_pandas(frame, preserve_index=False)
    encoded = fitted.encode(table)
    assert {name: (each.dtype, each.shape[1:]) for name, each in encoded.items()} == {
        name: (field.dtype, field.shape) for name, field in fitted.fields.items()
    }
    found = fitted.as_module()(**{name: torch.as_tensor(each) for name, each in encoded.items()})
    out = torch.cat([part.to(torch.float64) for part in found if part is not None], dim=1)
    inputs = frame if y is None else frame.drop(columns=y)
    assert_same(out.numpy(), codes_last(fitted, fitted.transform(inputs)), rtol=tolerance, atol=tolerance)
    restored = transform_from_dict(json.loads(json.dumps(fitted.to_dict(), allow_nan=False)))
    for name, each in restored.encode(table).items():
        np.testing.assert_array_equal(each, encoded[name])
    return fitted


def codes_last(fitted: ColumnTransformer, features: Any) -> Any:
    """Order the columns of a transform as a module gives them: codes for embeddings after all numbers."""
    is_code = [
        step_codes
        for part, (_, steps, names) in zip(fitted._parts, fitted.transformers_, strict=True)
        for step_codes in [part.gives_codes] * len(steps[-1].get_feature_names_out(None) if steps else names)
    ]
    return features[:, np.argsort(is_code, kind="stable")]
