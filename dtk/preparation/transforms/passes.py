"""The passes over the data that a fit makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
import pyarrow as pa

from dtk.errors import DataError
from dtk.preparation.transforms.base import Need, Transform
from dtk.preparation.transforms.chains import Chain, check_chain, known_from, plan_passes
from dtk.preparation.transforms.crossfit import note_rows
from dtk.preparation.transforms.fit_state import FitState, Request
from dtk.preparation.transforms.given import Given
from dtk.sources import ParquetSource, readable
from dtk.statistics import Moments, scan

__all__ = ["fit_alone", "fit_chains"]

_FLOAT32_EPSILON: Final = 2.0**-23
_FLOAT32_RANGE: Final = (1e-30, 1e30)


def fit_chains(
    chains: Sequence[Chain],
    data: Any,
    target: str | None = None,
    *,
    seen: FitState | None = None,
    progress: bool = False,
    label: str = "prepare",
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
    label : str
        Name of the tasks on the dashboard and of the progress bar.

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
    watching: list[int] = []
    passes = plan_passes(chains)
    for number, planned in enumerate(passes):
        fits = [[step for which, step in planned.fits if which == position] for position in range(len(chains))]
        requests = [_request(chain, steps) for chain, steps in zip(chains, fits, strict=True)]
        if number == 0:
            watching, requests = _watch(chains, requests)
        told = label if len(passes) == 1 else f"{label}, pass {number + 1} of {len(passes)}"
        read = [name for each in requests if each.needs for name in each.names] + ([target] if target else [])
        first_row = 0 if seen is None else seen.num_rows
        make = partial(FitState, requests, target, first_row, _num_rows(data))
        state = scan(data, make, columns=list(dict.fromkeys(read)), progress=progress, label=told)
        if seen is not None:
            state.merge(seen)
        if state.num_rows == 0:
            raise DataError("data has no rows, and preparation learns from them; check its path and its filters")
        for position, (chain, steps) in enumerate(zip(chains, fits, strict=True)):
            found = {need: state.found(position, need) for need in requests[position].needs}
            if number == 0:
                chain.seen = {need: state.found(watching[position], need) for need in chain.watched}
                found = _without_empty(chain, found)
                wide[position] = _wide_columns({**chain.seen, **({} if chain.fitted else found)})
            _learn(chain, chain.fitted, steps, found)
    names = list(dict.fromkeys(name for chain in chains for name in chain.names if name != target))
    for chain in chains:
        _settle(chain, len(chain.steps))
        note_rows(chain.steps, data, names, is_all=seen is None)
    return state, wide


def _request(chain: Chain, steps: Sequence[int]) -> Request:
    """Return what is needed for some steps of a chain, of which those before are known."""
    start = known_from(chain, chain.fitted)
    _settle(chain, start)
    needs = tuple(dict.fromkeys(need for step in steps for need in chain.steps[step]._needs().values()))
    return Request(chain.names, tuple(chain.steps[:start]), chain.names_at(start), needs)


def _watch(chains: Sequence[Chain], requests: Sequence[Request]) -> tuple[list[int], list[Request]]:
    """Add what is watched to the requests, each statistic once, and say which of them has it for each chain."""
    watching, all_requests = list(range(len(chains))), list(requests)
    for position, (chain, request) in enumerate(zip(chains, requests, strict=True)):
        if not request.steps:
            needs = tuple(dict.fromkeys([*request.needs, *chain.watched]))
            all_requests[position] = Request(chain.names, (), chain.names, needs)
        elif chain.watched:  # of what the data holds, and not of what comes out of the first steps
            watching[position] = len(all_requests)
            all_requests.append(Request(chain.names, (), chain.names, chain.watched))
    return watching, all_requests


def _without_empty(chain: Chain, found: dict[Need, list[Any]]) -> dict[Need, list[Any]]:
    """Leave out the columns of which nothing that is watched saw a value, where the chain says so."""
    if not chain.drop_empty:
        return found
    kept = [at for at, each in enumerate(zip(*chain.seen.values(), strict=True)) if any(map(_num_values, each))]
    if len(kept) == len(chain.names):
        return found
    chain.names, chain.types = tuple(chain.names[at] for at in kept), tuple(chain.types[at] for at in kept)
    for step in chain.steps[: chain.fitted]:
        del step.n_features_in_
    check_chain(chain)
    _settle(chain, chain.fitted)
    chain.seen = {need: [each[at] for at in kept] for need, each in chain.seen.items()}
    return {need: [each[at] for at in kept] for need, each in found.items()}


def _num_values(statistic: Any) -> int:
    return int((statistic.finite if isinstance(statistic, Moments) else statistic).count)


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
    return _is_wide(*map(float, facts))


def _is_wide(mean: float, scale: float, low: float, high: float) -> bool:
    """Tell whether rounding to float32 would move a value by more than a thousandth of the standard deviation."""
    largest = max(abs(low), abs(high), abs(mean))
    if not low < high:  # one value, or none: its rounding is that of the mean
        return low == high and largest > _FLOAT32_RANGE[1]
    outside = not _FLOAT32_RANGE[0] < scale < _FLOAT32_RANGE[1] or largest > _FLOAT32_RANGE[1]
    return outside or largest * _FLOAT32_EPSILON > scale * 1e-3


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


def _settle(chain: Chain, stop: int) -> None:
    """Say what goes into the steps that are known; there is nothing to say where no column is left."""
    if not chain.names:
        return
    names = chain.names
    for step in chain.steps[:stop]:
        step._begin(names)
        names = tuple(str(name) for name in step.get_feature_names_out(None))
    chain.fitted = max(chain.fitted, stop)


def _learn(chain: Chain, start: int, steps: Sequence[int], given: Mapping[Need, Sequence[Any]]) -> None:
    if not chain.names:
        return
    names = chain.names_at(start)
    for number in range(start, (max(steps) if steps else start - 1) + 1):
        step = chain.steps[number]
        step._begin(names)
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
