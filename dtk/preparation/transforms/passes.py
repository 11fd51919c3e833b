"""How many passes over the data a fit needs, why, and the passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dtk.errors import ArgumentError, DataError
from dtk.preparation.columns import is_wide
from dtk.preparation.transforms.base import Need, Transform
from dtk.preparation.transforms.given import Given
from dtk.sources import ParquetSource, readable
from dtk.statistics import Moments, TableSample, scan

__all__ = [
    "Chain",
    "FitState",
    "Pass",
    "Request",
    "apply_steps",
    "check_chain",
    "fit_alone",
    "fit_chains",
    "plan_passes",
]


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
    """

    names: tuple[str, ...]
    types: tuple[pa.DataType, ...]
    steps: Sequence[Transform]
    fitted: int = 0
    """How many steps from the first on are fitted, or need no fit."""

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
    fitted = [_known_from(chain, 0) for chain in chains]
    passes: list[Pass] = []
    reason = ""
    while any(start < len(chain.steps) for start, chain in zip(fitted, chains, strict=True)):
        fits, reasons = [], []
        for number, chain in enumerate(chains):
            ready, why = _ready(chain, fitted[number])
            fits += [(number, step) for step in ready]
            reasons += [why] if why else []
            fitted[number] = _known_from(chain, ready[-1] + 1 if ready else fitted[number])
        passes.append(Pass(tuple(fits), reason))
        reason = "; ".join(dict.fromkeys(reasons))
    return passes


def _known_from(chain: Chain, start: int) -> int:
    """Return the first step from `start` on that has to learn."""
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


@dataclass(frozen=True)
class Request:
    """What is needed of the columns that come out of some fitted steps.

    Parameters
    ----------
    names : tuple of str
        The columns of the data.
    steps : tuple of Transform
        Fitted.
    columns : tuple of str
        What comes out of them.
    needs : tuple of Need
        Of each column.
    """

    names: tuple[str, ...]
    steps: tuple[Transform, ...]
    columns: tuple[str, ...]
    needs: tuple[Need, ...]


class FitState:
    """What a scan fills for transforms: the statistics that they need, each once.

    Parameters
    ----------
    requests : sequence of Request
        What is needed.
    target : str, optional
        The column of the target.
    first_row : int
        How many rows were seen before these data.
    total_rows : int, optional
        Rows of these data, if that is known.
    """

    def __init__(
        self, requests: Sequence[Request], target: str | None, first_row: int = 0, total_rows: int | None = None
    ) -> None:
        self.requests = requests
        self.target = target
        self.first_row = first_row
        self.num_rows = 0
        self._statistics: dict[tuple[int, int, Need], Any] = {}
        sampled: dict[Need, list[str]] = {}
        for number, request in enumerate(requests):
            for need in request.needs:
                if need.is_sample:
                    sampled.setdefault(need, []).extend(_key(number, each) for each in range(len(request.columns)))
                else:
                    made = {(number, each, need): need.make() for each in range(len(request.columns))}
                    self._statistics |= made
        self._samples = {
            need: TableSample(keys, total_rows=total_rows, **dict(need.options)) for need, keys in sampled.items()
        }

    def update(self, table: pa.Table, first_row: int) -> None:
        """Take in one chunk.

        Parameters
        ----------
        table : pyarrow.Table
            Some rows; there may be none.
        first_row : int
            The number of its first row in the whole data.
        """
        self.num_rows += table.num_rows
        row = np.arange(first_row, first_row + table.num_rows) + self.first_row
        sampled: dict[Need, dict[str, Any]] = {need: {} for need in self._samples}
        for number, request in enumerate(self.requests):
            for each, values in enumerate(_columns_for(request, table)):
                for need in request.needs:
                    if need.is_sample:
                        sampled[need][_key(number, each)] = values
                    elif need.with_target:
                        both = pa.table({"value": values, "target": table[self.target]})
                        self._statistics[number, each, need].update(both, row)
                    else:
                        self._statistics[number, each, need].update(values, row)
        for need, columns in sampled.items():
            self._samples[need].update(pa.table(columns), row)

    def merge(self, other: FitState) -> None:
        """Take in what another state has seen.

        Parameters
        ----------
        other : FitState
            Of other rows; left as it is.
        """
        self.num_rows += other.num_rows
        for key, statistic in self._statistics.items():
            statistic.merge(other._statistics[key])
        for need, sample in self._samples.items():
            sample.merge(other._samples[need])

    def found(self, request: int, need: Need) -> list[Any]:
        """Return the statistics of the columns of a request.

        Parameters
        ----------
        request : int
            Its position.
        need : Need
            One of its needs.

        Returns
        -------
        list
            One a column.
        """
        columns = range(len(self.requests[request].columns))
        if need.is_sample:
            return [self._samples[need].column(_key(request, each)) for each in columns]
        return [self._statistics[request, each, need] for each in columns]


def _key(request: int, column: int) -> str:
    return f"{request}.{column}"


def _columns_for(request: Request, table: pa.Table) -> list[Any]:
    """Return the columns that come out of the steps of a request, as Arrow."""
    if not request.needs:
        return []
    columns = [table[name] for name in request.names]
    if request.steps:  # they get text as text
        columns = [_as_text(column) for column in columns]
    given = apply_steps(request.steps, request.names, columns)
    return given if isinstance(given, list) else [pa.array(np.ascontiguousarray(column)) for column in given.T]


def _as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


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


def fit_chains(
    chains: Sequence[Chain],
    data: Any,
    target: str | None = None,
    *,
    seen: FitState | None = None,
    progress: bool = False,
) -> tuple[FitState | None, list[list[int]]]:
    """Fit the transforms of all chains together, in as few passes as can be.

    Parameters
    ----------
    chains : sequence of Chain
        Not fitted.
    data : object
        What `dtk.statistics.scan` reads.
    target : str, optional
        The column of the target.
    seen : FitState, optional
        What was seen of earlier data, where there is one pass.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    state : FitState or None
        Of the last pass; None where nothing is learnt from the data.
    wide : list of list of int
        For each chain the columns that float32 cannot hold well enough, as far as their statistics tell.

    Raises
    ------
    ArgumentError
        If a parameter is out of its range, or a target is needed that is not there.
    DataError
        If the data has no rows.
    """
    for chain in chains:
        check_chain(chain, target)
    data = _with_codes(data)
    state: FitState | None = None
    wide: list[list[int]] = [[] for _ in chains]
    passes = plan_passes(chains)
    for number, planned in enumerate(passes):
        requests, fits = [], []
        for position, chain in enumerate(chains):
            steps = [step for which, step in planned.fits if which == position]
            start = _known_from(chain, chain.fitted)
            _settle(chain, start)
            needs = tuple(dict.fromkeys(need for step in steps for need in chain.steps[step]._needs().values()))
            fits.append((chain, start, steps))
            requests.append(Request(chain.names, tuple(chain.steps[:start]), chain.names_at(start), needs))
        label = "prepare" if len(passes) == 1 else f"prepare, pass {number + 1} of {len(passes)}"
        columns = list(
            dict.fromkeys([*(name for r in requests if r.needs for name in r.names), *([target] if target else [])])
        )
        first_row = 0 if seen is None else seen.num_rows
        make = partial(FitState, requests, target, first_row, _num_rows(data))
        state = scan(data, make, columns=columns, progress=progress, label=label)
        if seen is not None:
            state.merge(seen)
        if state.num_rows == 0:
            raise DataError("data has no rows, and preparation learns from them; check its path and its filters")
        for position, (chain, start, steps) in enumerate(fits):
            found = {need: state.found(position, need) for need in requests[position].needs}
            if start == 0:
                wide[position] = _wide_columns(found)
            _learn(chain, start, steps, found)
    for chain in chains:
        _settle(chain, len(chain.steps))
    return state, wide


def _with_codes(data: Any) -> Any:
    """Read text as codes of a dictionary where that can be done: values are counted without looking at each."""
    source = readable(data)
    return source.with_dictionaries() if isinstance(source, ParquetSource) else data


def _num_rows(data: Any) -> int | None:
    """Count the rows where that costs nothing; parts of a sample can then be smaller."""
    rows = getattr(data, "chunk_rows", None)
    if rows is not None:
        return int(np.sum(rows))
    return int(data.num_rows) if isinstance(data, pa.Table) else None


def _wide_columns(found: Mapping[Need, Sequence[Any]]) -> list[int]:
    """Return the columns for which float32 is too coarse or too narrow."""
    return sorted(
        {
            column
            for need, statistics in found.items()
            for column, statistic in enumerate(statistics)
            if _has_wide_values(need, statistic)
        }
    )


def _has_wide_values(need: Need, statistic: Any) -> bool:
    if need.is_sample:
        values = statistic._numbers()
        values = values[np.isfinite(values)]
        facts = (values.mean(), values.std(), values.min(), values.max()) if len(values) else (0, 1, 0, 0)
    elif need.statistic is Moments and not need.with_target:
        moments = statistic.finite
        facts = (moments.mean, moments.std, float(moments.min), float(moments.max))
    else:
        return False
    return facts[2] < facts[3] and is_wide(*map(float, facts))  # not where there is one value, or none


def fit_alone(transform: Transform, given: Given, seen: FitState | None = None) -> FitState | None:
    """Fit one transform to all columns.

    Parameters
    ----------
    transform : Transform
        Its ``n_features_in_`` is set.
    given : Given
        The columns.
    seen : FitState, optional
        Of earlier data.

    Returns
    -------
    FitState or None
        As `fit_chains` returns.
    """
    data, target = given.scannable
    chain = Chain(tuple(given.names), tuple(given.types), [transform])
    return fit_chains([chain], data, target, seen=seen)[0]


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


def _settle(chain: Chain, stop: int) -> None:
    """Say what goes into the steps that are known."""
    names = chain.names
    for step in chain.steps[:stop]:
        if not hasattr(step, "n_features_in_"):
            step.n_features_in_ = len(names)
            step.feature_names_in_ = np.array(names, dtype=object)
        names = tuple(str(name) for name in step.get_feature_names_out(None))
    chain.fitted = max(chain.fitted, stop)


def _learn(chain: Chain, start: int, steps: Sequence[int], given: Mapping[Need, Sequence[Any]]) -> None:
    names = chain.names_at(start)
    for number in range(start, (max(steps) if steps else start - 1) + 1):
        step = chain.steps[number]
        if not hasattr(step, "n_features_in_"):
            step.n_features_in_ = len(names)
            step.feature_names_in_ = np.array(names, dtype=object)
        if number in steps and not step._is_stateless:
            found = {}
            for name, need in step._needs().items():
                statistics = given[need]
                for earlier in chain.steps[start:number]:
                    statistics = earlier._derive(need, statistics)
                found[name] = statistics
            step._learn(found)
        names = tuple(str(name) for name in step.get_feature_names_out(None))
        chain.fitted = number + 1
