"""What can be inputs, and what can be no target and no weight."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dtk.errors import ArgumentError

__all__ = ["check_inputs", "is_number", "unfit_labels"]


def check_inputs(inputs: Sequence[str], *, target: str | None = None, weight: str | None = None) -> None:
    """Refuse inputs that are no list of different names.

    Parameters
    ----------
    inputs : sequence of str
        The columns or variables.
    target : str, optional
        What must not be one of them.
    weight : str, optional
        What must not be one of them, either.

    Raises
    ------
    ArgumentError
        If they are one name or none, hold the target or the weight, or name a column twice.
    """
    if isinstance(inputs, str) or not isinstance(inputs, Iterable):
        raise ArgumentError(f"inputs={inputs!r} must be a list of names; give inputs=[{inputs!r}]")
    if not list(inputs):
        raise ArgumentError(f"inputs={inputs!r} must name one at least; leave inputs= out to take all")
    for name, label in (("target", target), ("weight", weight)):
        if label is not None and label in inputs:
            raise ArgumentError(f"inputs={list(inputs)!r} hold the {name} {label!r}; leave it out of inputs=")
    twice = sorted({name for name in inputs if list(inputs).count(name) > 1})
    if twice:
        raise ArgumentError(f"inputs={list(inputs)!r} name {twice} twice; give each once")


def unfit_labels(raw: NDArray[Any], label: NDArray[Any], *, is_weight: bool) -> Iterator[tuple[str, int]]:
    """Find labels that would spoil a loss.

    Parameters
    ----------
    raw : numpy.ndarray
        ``[rows, *shape]``: the values.
    label : numpy.ndarray
        ``[rows, *shape]``: the same as a batch holds them.
    is_weight : bool
        Whether they weigh the samples.

    Yields
    ------
    problem : str
        What they are: NaN, infinite or too large for float32, or negative.
    num_rows : int
        In how many rows.
    """
    if raw.dtype.kind == "f":
        is_finite = np.isfinite(label if label.dtype.kind == "f" else raw)
        num_rows = int(np.count_nonzero(~is_finite.all(axis=tuple(range(1, raw.ndim)))))
        yield "NaN, infinite or too large for float32", num_rows
    if is_weight:
        yield "negative", int(np.count_nonzero(label < 0))


def is_number(kind: pa.DataType) -> bool:
    """Tell whether a type is one of numbers or booleans.

    Parameters
    ----------
    kind : pyarrow.DataType
        The type of a column, or of the elements of one.

    Returns
    -------
    bool
        Whether floats can be made of it.
    """
    types = pa.types
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_decimal(kind))
