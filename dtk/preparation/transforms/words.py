"""What transforms of texts check."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from dtk.errors import ArgumentError, DataError
from dtk.statistics.kinds import is_text, plain_type

__all__ = ["check_text", "checked_share"]


def check_text(names: Sequence[str], types: Sequence[pa.DataType]) -> None:
    """Refuse columns that are no text.

    Parameters
    ----------
    names : sequence of str
        Of the columns.
    types : sequence of pyarrow.DataType
        Of their values.

    Raises
    ------
    DataError
        If one holds something else.
    """
    for name, found in zip(names, types, strict=True):
        if not (is_text(found) or pa.types.is_null(plain_type(found))):
            raise DataError(
                f"column {name!r} holds {found}, where text is expected; cast it with data.astype({{{name!r}: 'str'}})"
            )


def checked_share(name: str, value: float, num_documents: int) -> float:
    """Return a number of documents from a number, or a share of them.

    Parameters
    ----------
    name : str
        Of the parameter, for the error.
    value : int or float
        A number of documents, or a share of them.
    num_documents : int
        How many there are.

    Returns
    -------
    float
        A number of documents.

    Raises
    ------
    ArgumentError
        If it is neither.
    """
    if isinstance(value, float) and not 0 <= value <= 1:
        raise ArgumentError(f"{name}={value!r} must be a share from 0 to 1, or a number of documents as an int")
    if value < 0:
        raise ArgumentError(f"{name}={value!r} must be at least 0")
    return value * num_documents if isinstance(value, float) else value
