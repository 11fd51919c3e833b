"""Transforms one after the other on the same columns: what is checked, and how many passes a fit needs, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dtk.errors import ArgumentError
from dtk.preparation.transforms.base import Need, Transform

__all__ = ["Chain", "Pass", "apply_steps", "check_chain", "known_from", "plan_passes"]


@dataclass
class Chain:
    """Transforms that are applied one after the other to the same columns.

    Parameters
    ----------
    names : tuple of str
        The columns of the data.
    types : tuple of pyarrow.DataType
        Of their values.
    steps : sequence of Transform
        In order.
    watched : tuple of Need
        Statistics of the columns of the data that are wanted for themselves.
    drop_empty : bool
        Whether columns are left out in which none of these saw a value.
    """

    names: tuple[str, ...]
    types: tuple[pa.DataType, ...]
    steps: Sequence[Transform]
    watched: tuple[Need, ...] = ()
    drop_empty: bool = False
    fitted: int = 0
    """How many steps from the first on are fitted, or need no fit."""
    seen: dict[Need, list[Any]] = field(default_factory=dict)
    """What was watched: one a column."""

    def names_at(self, step: int) -> tuple[str, ...]:
        """Name the columns that go into a step, all before it being fitted.

        Parameters
        ----------
        step : int
            Its position.

        Returns
        -------
        tuple of str
            In order.
        """
        names = self.names
        for earlier in self.steps[:step]:
            names = tuple(str(name) for name in earlier.get_feature_names_out(None))
        return names


@dataclass(frozen=True)
class Pass:
    """One scan of the data, and what it fits.

    Parameters
    ----------
    fits : tuple of (int, int)
        Chain and step of all that it fits.
    reason : str
        Why these could not be fitted earlier; empty for the first.
    """

    fits: tuple[tuple[int, int], ...]
    reason: str = ""


def plan_passes(chains: Sequence[Chain]) -> list[Pass]:
    """Say what each pass over the data fits, from the transforms alone.

    Parameters
    ----------
    chains : sequence of Chain
        Of transforms that are not fitted.

    Returns
    -------
    list of Pass
        As few as can be; none where nothing is learnt from the data.
    """
    fitted = [known_from(chain, 0) for chain in chains]
    passes: list[Pass] = []
    reason = ""
    to_watch = any(chain.watched for chain in chains)
    while any(start < len(chain.steps) for start, chain in zip(fitted, chains, strict=True)) or (
        to_watch and not passes
    ):
        fits, reasons = [], []
        for number, chain in enumerate(chains):
            ready, why = _ready(chain, fitted[number])
            fits += [(number, step) for step in ready]
            reasons += [why] if why else []
            fitted[number] = known_from(chain, ready[-1] + 1 if ready else fitted[number])
        passes.append(Pass(tuple(fits), reason))
        reason = "; ".join(dict.fromkeys(reasons))
    return passes


def known_from(chain: Chain, start: int) -> int:
    """Return the first step from some one on that has to learn.

    Parameters
    ----------
    chain : Chain
        Of fitted steps up to `start`.
    start : int
        Where to begin.

    Returns
    -------
    int
        Its position; that after the last step where none has to.
    """
    while start < len(chain.steps) and chain.steps[start]._is_stateless:
        start += 1
    return start


def _ready(chain: Chain, start: int) -> tuple[list[int], str]:
    """Return the steps that one pass can fit where those before `start` are known, and why no more."""
    ready: list[int] = []
    for number in range(start, len(chain.steps)):
        step = chain.steps[number]
        for need in step._needs().values():
            for earlier in chain.steps[start:number]:
                if not earlier._derives(need):
                    name, giver = type(step).__name__, type(earlier).__name__
                    return ready, f"{name} learns from what {giver} makes of {_shown(chain.names)}"
        ready.append(number)
    return ready, ""


def _shown(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def check_chain(chain: Chain, target: str | None = None) -> None:
    """Refuse what cannot be fitted, before anything is read.

    Parameters
    ----------
    chain : Chain
        Not fitted.
    target : str, optional
        The column of the target.

    Raises
    ------
    ArgumentError
        If a parameter is out of its range, a step cannot follow the one before it, or a target is missing.
    DataError
        If a column cannot be read.
    """
    names, types, are_numbers = list(chain.names), list(chain.types), False
    for step in chain.steps:
        name = type(step).__name__
        if are_numbers and step._kind not in ("number", "any"):
            raise ArgumentError(
                f"{name} reads columns of the data, and cannot follow a step that makes numbers of them"
            )
        step._check(names, types)
        if target is None and any(need.with_target for need in step._needs().values()):
            raise ArgumentError(f"y=None: {name} requires y to be passed, but the target y is None; name its column")
        if step._cleans:
            types = step._cleaned_types(types)
        else:
            types, are_numbers = [pa.float64()] * len(types), True


def apply_steps(
    steps: Sequence[Transform],
    names: Sequence[str],
    columns: Sequence[pa.ChunkedArray],
    row: NDArray[np.int64] | None = None,
) -> list[pa.ChunkedArray] | NDArray[Any]:
    """Apply fitted steps to columns.

    Parameters
    ----------
    steps : sequence of Transform
        In order.
    names : sequence of str
        Of the columns.
    columns : sequence of pyarrow.ChunkedArray
        Shape [rows] each.
    row : numpy.ndarray, optional
        int64 [rows]: the numbers of rows of the fit, for steps that encode these in folds.

    Returns
    -------
    list of pyarrow.ChunkedArray or numpy.ndarray
        Arrow columns where no step makes numbers of them, else [rows, features].
    """
    current, x = list(columns), None
    for step in steps:
        if x is None and step._cleans:
            current = step._clean(current)
        elif x is None and row is not None and step._is_cross_fitted:
            x = step._encode_in_folds(names, current, row)
        else:
            x = step._compute(step._encode(names, current) if x is None else x)
        names = [str(name) for name in step.get_feature_names_out(None)]
    return current if x is None else x
