"""Columns of a table in groups that are prepared in the same way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import pyarrow as pa

from dtk.errors import ArgumentError
from dtk.preparation.fit import WATCHED
from dtk.preparation.transforms import Transform, steps_from_spec
from dtk.preparation.transforms.chains import Chain

__all__ = ["OwnSteps", "chains_of", "own_steps"]

OwnSteps = Mapping[tuple[str, ...], list[Transform] | None]
"""The steps of columns that a user chose; None to leave them out."""

_CLIP: Final = {"low": -8.0, "high": 8.0, "by": "value"}
"""Standardised numbers are clipped to 8 standard deviations, so that one outlier cannot spoil a step."""

_ZERO: Final = {"SimpleImputer": {"strategy": "constant", "fill_value": 0.0, "keep_empty_features": True}}
_STEPS: Final[Mapping[str, Sequence[Any]]] = {
    "number": ["StandardScaler", _ZERO, {"Clip": _CLIP}],
    "boolean": ["AsBooleans", {"SimpleImputer": {"strategy": "most_frequent"}}],
    "date": ["DateFeatures", _ZERO],
}


def own_steps(columns: Mapping[Any, Any]) -> OwnSteps:
    """Make the steps that a user chose for columns.

    Parameters
    ----------
    columns : mapping
        As `TablePreparation` takes them.

    Returns
    -------
    OwnSteps
        Unfitted.

    Raises
    ------
    ArgumentError
        If a transform or a parameter is unknown, or a column named twice.
    """
    own: dict[tuple[str, ...], list[Transform] | None] = {}
    for key, spec in columns.items():
        names = (key,) if isinstance(key, str) else tuple(key)
        for name in names:
            if any(name in earlier for earlier in own):
                raise ArgumentError(f"columns: {name!r} stands in two groups; give each column once")
        try:
            own[names] = None if isinstance(spec, str) and spec == "drop" else steps_from_spec(spec)
        except ArgumentError as error:
            raise ArgumentError(f"columns[{key!r}]: {error}") from None
    return own


def chains_of(
    schema: pa.Schema, kinds: Mapping[str, str], own: OwnSteps, max_categories: int
) -> list[tuple[str, Chain]]:
    """Set up unfitted steps for groups of columns, in the order of the inputs.

    Neighbours of one kind are one group, and so are all categories, which have an array of their own.

    Parameters
    ----------
    schema : pyarrow.Schema
        Of the data.
    kinds : mapping of str to str
        The kind of each input, in order.
    own : OwnSteps
        What the user chose for some of them.
    max_categories : int
        Of a column.

    Returns
    -------
    list of (str, Chain)
        The name of each group, and its columns and steps.
    """
    of_user = {name: names for names in own for name in names}
    members: dict[tuple[str, ...], list[str]] = {}  # by the columns of the user's group, or by kind and number
    last, number = "", 0
    for name, kind in kinds.items():
        if name in of_user:
            group, last = of_user[name], ""
        elif kind in ("category", "ignore"):
            group = (kind, "")
        else:
            number += kind != last
            group, last = (kind, str(number)), kind
        members.setdefault(group, []).append(name)
    chains = []
    for group, names in members.items():
        types = tuple(schema.field(name).type for name in names)
        if group in own:
            steps = own[group]
            if steps is not None:
                watched = _watched({kinds[name] for name in names}, steps)
                chains.append(("+".join(names), Chain(tuple(names), types, steps_from_spec(steps), watched)))
            continue
        kind = group[0]
        if kind != "ignore":
            made = _STEPS.get(kind, [{"EmbeddingCodes": {"max_categories": max_categories}}])
            chain = Chain(tuple(names), types, steps_from_spec(made), (WATCHED[kind],), drop_empty=True)
            chains.append(("".join(group), chain))
    return chains


def _watched(kinds: set[str], steps: Sequence[Transform]) -> tuple[Any, ...]:
    """Watch the columns of a user's group, if one statistic does for all; texts are no categories to be counted."""
    if len(kinds) != 1 or not kinds <= WATCHED.keys():
        return ()
    (kind,) = kinds
    if kind == "category" and not any(need == WATCHED[kind] for step in steps[:1] for need in step._needs().values()):
        return ()
    return (WATCHED[kind],)
