"""Encode categories without knowing them: by hashes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sklearn.utils import murmurhash3_32
from sklearn.utils.validation import check_is_fitted

from dtk.preparation.transforms.base import Columns, Transform, refuse
from dtk.statistics.keys import coded_keys

__all__ = ["HashingEncoder"]


class HashingEncoder(Transform):
    """Add up the categories of all columns in a few columns that their hashes choose; nothing is learnt.

    Each value adds 1 or -1 to one column of the output. That is what `sklearn.feature_extraction.FeatureHasher` makes
    of the dicts ``{column: text of the value}``, to the last bit, but dense: take hundreds of columns, not a million.
    Numbers and booleans are categories, too, where there they would be weights: the text of 2.0 is ``"2"``, since
    columns of whole numbers come as floats where values are missing. Missing values add nothing.

    The hash is MurmurHash3 of ``"column=value"`` in UTF-8, the same on every machine.

    Parameters
    ----------
    n_features : int
        Columns of the output.
    alternate_sign : bool
        Whether the hash also chooses the sign, so that what falls together cancels on average.

    Notes
    -----
    Weinberger et al., "Feature hashing for large scale multitask learning" (2009).

    Examples
    --------
    >>> HashingEncoder(n_features=4).fit_transform(np.array([["UA"], ["AA"], ["UA"]])).tolist()
    [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]
    """

    _kind = "category"
    _codes = True

    def __init__(self, n_features: int = 256, *, alternate_sign: bool = True) -> None:
        self.n_features = n_features
        self.alternate_sign = alternate_sign

    def _check(self, names: Sequence[str], types: Sequence[pa.DataType]) -> None:
        super()._check(names, types)
        if not (isinstance(self.n_features, Integral) and 1 <= self.n_features <= 2**20):
            refuse("n_features", self.n_features, "a number of columns from 1 to 1,048,576")

    def _encode(self, names: Sequence[str], columns: Columns) -> NDArray[np.int64]:
        codes = np.full((len(columns[0]) if columns else 0, len(names)), -1)
        for number, (name, column) in enumerate(zip(names, columns, strict=True)):
            start = 0
            for chunk in column.chunks:
                keys, positions = coded_keys(chunk)
                of_key = np.append(self._hashed(name, keys), -1)
                codes[start : start + len(chunk), number] = of_key[positions]
                start += len(chunk)
        return codes

    def _hashed(self, name: str, keys: pa.Array) -> NDArray[np.int64]:
        """Return the code of each key: twice its column in the output, and 1 more where the sign is negative."""
        texts = (f"{name}={_text(key)}" for key in keys.to_pylist())
        hashes = np.array([murmurhash3_32(text.encode(), seed=0) for text in texts], np.int64)
        is_negative = (hashes < 0) & self.alternate_sign
        return abs(hashes) % self.n_features * 2 + is_negative

    def _parameters(self) -> dict[str, NDArray[Any]]:
        return {"column": np.arange(self.n_features), "one": np.ones(1)}

    def _forward(self, x: Any, p: Mapping[str, Any], xp: Any) -> Any:
        dtype = p["one"].dtype
        total = xp.zeros_like(p["one"] * p["column"])[None, :]
        sign = xp.astype(1 - 2 * (x % 2), dtype)
        place = xp.where(x < 0, x, x // 2)
        for number in range(x.shape[1]):
            chosen = place[:, number : number + 1] == p["column"]
            total = total + xp.astype(chosen, dtype) * sign[:, number : number + 1]
        return total

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[Any]:
        """See `Transform`."""
        check_is_fitted(self)
        return np.array([f"hashingencoder{number}" for number in range(self.n_features)], dtype=object)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []
        return tags


def _text(key: Any) -> str:
    return str(int(key)) if isinstance(key, float) and key.is_integer() else str(key)
