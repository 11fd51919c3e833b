"""Validation data of an estimator: a share of the training data or other data, checked before any training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from numbers import Real
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa

from dtk.errors import ArgumentError, DataError, DtkError
from dtk.estimators.inputs import Labelled
from dtk.loader import Loader
from dtk.memory import parse_nbytes
from dtk.preparation import SampleEncoder, TablePreparation, Target
from dtk.sources import Source, split
from dtk.statistics import scan

__all__ = [
    "check_held",
    "held_and_labels",
    "held_loader",
    "is_share",
    "naming",
    "num_rows",
    "refuse_empty",
    "split_share",
]

LARGE_BATCH: Final = 4096


@contextmanager
def naming(argument: str) -> Iterator[None]:
    """Name the argument in the errors about its data.

    Parameters
    ----------
    argument : str
        Its name, and perhaps its value.

    Yields
    ------
    None
        Nothing.

    Raises
    ------
    DtkError
        What was raised within, of the same class.
    """
    try:
        yield
    except DtkError as error:
        raise type(error)(f"{argument}: {error}") from error
    except ValueError as error:  # scikit-learn's
        raise DataError(f"{argument}: {error}") from error


def is_share(validation: Any) -> bool:
    """Tell a share of the training data from data.

    Parameters
    ----------
    validation : object
        As for `fit`.

    Returns
    -------
    bool
        Whether it is a number.

    Raises
    ------
    ArgumentError
        If it is a number, and no share.
    """
    if not isinstance(validation, Real):
        return False
    if isinstance(validation, bool) or not 0 < float(validation) < 1:
        raise ArgumentError(
            f"validation={validation!r} must be a share between 0 and 1, or data: a table, or a pair (X, y)"
        )
    return True


def held_and_labels(validation: Any) -> tuple[Any, Any]:
    """Take validation data apart.

    Parameters
    ----------
    validation : table or (X, y)
        As for `fit`.

    Returns
    -------
    X : object
        The inputs, or a table with the target.
    y : object
        The target; None for a table.

    Raises
    ------
    ArgumentError
        If it is a sequence, and no pair.
    """
    if not isinstance(validation, tuple | list):
        return validation, None
    if len(validation) != 2:
        raise ArgumentError(f"validation of {len(validation)} parts must be a share, a table, or a pair (X, y)")
    return validation[0], validation[1]


def split_share(whole: Labelled, share: float) -> tuple[Labelled, Labelled]:
    """Hold out a share of the training data.

    Parameters
    ----------
    whole : Labelled
        Before training and validation are told apart.
    share : float
        Of its rows.

    Returns
    -------
    train : Labelled
        The one piece; lazy where the data is.
    held : Labelled
        The other.
    """
    train, held = split(whole.data, fractions=[1 - float(share), float(share)])
    return Labelled(train, whole.target, whole.weight), Labelled(held, whole.target)


def num_rows(source: Source) -> int:
    """Count the rows of a source.

    Parameters
    ----------
    source : Source
        With known rows.

    Returns
    -------
    int
        Their number.
    """
    assert source.chunk_rows is not None
    return int(source.chunk_rows.sum())


def refuse_empty(source: Source, held: Source, *, share: float | None) -> None:
    """Refuse pieces of the data without any rows.

    Parameters
    ----------
    source, held : Source
        Training and validation data, with known rows.
    share : float, optional
        That was held out, where the one is a piece of the other.

    Raises
    ------
    DataError
        If the validation data, or the training data less that share, is empty.
    """
    if share is None:
        if not num_rows(held):
            raise DataError("validation: the data has no rows; check its path and its filters")
        return
    for piece, purpose in ((held, "to validate on"), (source, "to train on")):
        if not num_rows(piece):
            raise DataError(
                f"validation={share!r} leaves none of {num_rows(source) + num_rows(held)} rows {purpose}; "
                "give another share, or other data"
            )


def check_held(held: Labelled, schema: pa.Schema, preparation: TablePreparation, target: Target) -> None:
    """Refuse validation data that would fail after the first epoch.

    Parameters
    ----------
    held : Labelled
        The validation data, of which the target is read once.
    schema : pyarrow.Schema
        Of that data.
    preparation : TablePreparation
        Fitted.
    target : ClassTarget or NumberTarget
        Fitted.

    Raises
    ------
    DataError
        If a column is missing or of another type than at fit, or the target is missing or of an unknown class.
    """
    preparation.check(schema)
    target.check(schema)
    scan(held.data, partial(_Labels, target), columns=[target.name], label="check")


class _Labels:
    """Encodes a target, only to see whether it can be."""

    def __init__(self, target: Target) -> None:
        self._target = target

    def update(self, table: pa.Table, first_row: int) -> None:
        encoded = self._target.encode(table[self._target.name])
        unfit = int(np.count_nonzero(~np.isfinite(encoded)))
        if unfit:
            raise DataError(f"target={self._target.name!r} holds {unfit} infinite values; filter them out first")

    def merge(self, other: Self) -> None:
        """There is nothing to merge: what is unfit was refused."""


def held_loader(
    source: Source, preparation: TablePreparation, target: Target, *, batch_size: int, memory: int | str
) -> Loader:
    """Make the loader of validation data.

    It is shuffled, though the order is no matter: only then each rank decodes a part of the data, and not all of it.

    Parameters
    ----------
    source : Source
        With known rows.
    preparation : TablePreparation
        Fitted.
    target : ClassTarget or NumberTarget
        Fitted.
    batch_size : int
        Of the training; here it is 4096 at least, or all rows.
    memory : int or str
        That the loader may take: a quarter, or more where the largest chunk needs it.

    Returns
    -------
    Loader
        That gives every row once.
    """
    make = partial(
        Loader,
        source,
        preparation=SampleEncoder(preparation, target=target),
        global_batch_size=min(max(batch_size, LARGE_BATCH), num_rows(source)),
        tail="pad",
    )
    limit_nbytes = parse_nbytes(memory)
    for share in (4, 2):
        loader = make(memory=max(1, limit_nbytes // share))
        if loader.plan.memory_nbytes(1) <= loader.plan.memory_limit_nbytes:
            return loader
    return make(memory=limit_nbytes)
