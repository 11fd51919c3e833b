"""One Arrow schema for all chunks of a frame, told from its types alone."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pyarrow as pa
from dask.dataframe.utils import has_known_categories

__all__ = ["arrow_schema", "arrow_type"]


def arrow_schema(meta: pd.DataFrame) -> pa.Schema:
    """Choose the Arrow types of a frame's columns.

    Parameters
    ----------
    meta : pd.DataFrame
        A frame without rows.

    Returns
    -------
    pa.Schema
        Objects are taken for strings, categories have int32 codes.
    """
    return pa.schema([(str(name), arrow_type(meta[name])) for name in meta.columns])


def arrow_type(column: pd.Series[Any], stored: pa.DataType | None = None) -> pa.DataType:
    """Choose the Arrow type of a column.

    Parameters
    ----------
    column : pd.Series
        Without rows.
    stored : pa.DataType, optional
        The type of the column of that name in the files below.

    Returns
    -------
    pa.DataType
        The same for every chunk.
    """
    if isinstance(column.dtype, pd.CategoricalDtype):
        if has_known_categories(column) and len(column.cat.categories):
            values = pa.array(column.cat.categories, from_pandas=True).type
        else:
            values = stored.value_type if stored is not None and pa.types.is_dictionary(stored) else pa.string()
        return pa.dictionary(pa.int32(), pa.string() if pa.types.is_large_string(values) else values)
    if column.dtype == object:
        return pa.string()
    found = pa.Schema.from_pandas(column.to_frame(), preserve_index=False).field(0).type
    return pa.string() if pa.types.is_large_string(found) else found
