"""Results as pandas frames, of types that are known before anything is computed."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["frame_of"]

_NULLABLE: Final = {
    pa.int8(): "Int8", pa.int16(): "Int16", pa.int32(): "Int32", pa.int64(): "Int64",
    pa.uint8(): "UInt8", pa.uint16(): "UInt16", pa.uint32(): "UInt32", pa.uint64(): "UInt64", pa.bool_(): "boolean",
}  # fmt: skip


def frame_of(table: pa.Table, never_missing: Collection[str] = ()) -> pd.DataFrame:
    """Make a pandas frame of a result.

    Parameters
    ----------
    table : pa.Table
        The result; one without rows for the frame's types alone.
    never_missing : collection of str
        Columns of integers and booleans that have a value in every row: these are NumPy's own types, others pandas'
        nullable ones.

    Returns
    -------
    pandas.DataFrame
        Floats are NumPy's, with NaN for what is missing; texts are pandas' own; dates, decimals, lists and all others
        are Arrow's.
    """
    import pandas as pd

    columns: dict[str, Any] = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        kind = column.type
        if kind in _NULLABLE and name not in never_missing:
            columns[name] = column.to_pandas(types_mapper={kind: pd.api.types.pandas_dtype(_NULLABLE[kind])}.get)
        elif _is_arrows(kind):
            columns[name] = column.to_pandas(types_mapper=pd.ArrowDtype)
        elif pa.types.is_string(kind):
            columns[name] = column.to_pandas().astype("str")
        else:
            columns[name] = column.to_pandas()
    return pd.DataFrame(columns, index=pd.RangeIndex(table.num_rows))


def _is_arrows(kind: pa.DataType) -> bool:
    """Tell whether pandas would have objects for it, which Dask takes for texts."""
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    return not (is_number or pa.types.is_string(kind) or pa.types.is_timestamp(kind))
