"""Read columns as booleans."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from dtk.preparation.transforms.base import Columns, Transform
from dtk.preparation.values import as_booleans

__all__ = ["AsBooleans"]


class AsBooleans(Transform):
    """Turn booleans and numbers into 0 and 1: numbers other than 0 are 1, and missing values stay missing.

    Examples
    --------
    >>> flags = pa.table({"late": [True, None, False], "minutes": [0.0, 12.0, -3.0]})
    >>> AsBooleans().fit_transform(flags).to_pydict()
    {'late': [1, None, 0], 'minutes': [0, 1, 1]}
    """

    _kind = "boolean"
    _cleans = True

    def _cleaned_types(self, types: Sequence[pa.DataType]) -> list[pa.DataType]:
        return [pa.uint8()] * len(types)

    def _clean(self, columns: Columns) -> list[pa.ChunkedArray]:
        return [as_booleans(name, column) for name, column in zip(self.get_feature_names_out(), columns, strict=True)]
