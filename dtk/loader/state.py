"""Where an iteration stands, as plain values, and whether a saved one fits the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from dtk.errors import ArgumentError, DataError
from dtk.loader.plan import Plan
from dtk.sources import Source
from dtk.sources.arrays import ArraySource
from dtk.sources.facts import changes, facts_of

__all__ = ["check_state", "state_of"]

_VERSION: Final = 1


def state_of(source: Source | ArraySource, plan: Plan, epoch: int, step: int) -> dict[str, Any]:
    """Describe a position and everything that it depends on.

    Parameters
    ----------
    source : Source or ArraySource
        What is read.
    plan : Plan
        What is iterated over.
    epoch : int
        The epoch.
    step : int
        The next step.

    Returns
    -------
    dict
        Plain values, fit for JSON.
    """
    return {
        "version": _VERSION,
        "epoch": epoch,
        "step": step,
        "source": plan.source_identity,
        "num_rows": plan.order.num_rows,
        "num_chunks": source.num_chunks,
        "facts": facts_of(source),
        "order": plan.order.parameters(),
        "sampling": None if plan.sampling is None else dict(plan.sampling),
    }


def check_state(state: Mapping[str, Any], source: Source | ArraySource, plan: Plan) -> None:
    """Refuse a state that is not of this data.

    Parameters
    ----------
    state : mapping
        What `state_of` returned.
    source : Source or ArraySource
        As it is now.
    plan : Plan
        Of the data as it is now.

    Raises
    ------
    DataError
        If the data is not what it was.
    ArgumentError
        If the state is of another version, incomplete or damaged, or rows are drawn in another way.
    """
    if not isinstance(state, Mapping):
        raise ArgumentError(f"state={state!r} is none; pass what state_dict() returned")
    if state.get("version") != _VERSION:
        raise ArgumentError(f"state of version {state.get('version')!r} must be of version {_VERSION}")
    missing = sorted({"epoch", "step", "source", "num_rows", "num_chunks", "order"} - state.keys())
    if missing:
        raise ArgumentError(f"state={sorted(state)!r} lacks {missing}; pass what state_dict() returned")
    _check_values(state, plan)
    drawn, draws = state.get("sampling") or {}, plan.sampling or {}
    if drawn.get("by") != draws.get("by"):
        raise ArgumentError(
            f"sampling={draws.get('by')!r} is not what the state was saved with; pass sampling={drawn.get('by')!r}"
        )
    if state["source"] != plan.source_identity:
        was = f"{state['num_rows']:,} rows in {state['num_chunks']:,} chunks"
        found = f"{plan.order.num_rows:,} rows in {source.num_chunks:,} chunks"
        told = [f"it had {was} and has {found}"] if was != found else []
        told += changes(source, state.get("facts", {}))
        raise DataError(
            f"the data is not what the state was saved from: {'; '.join(told) or 'its metadata changed'}. "
            "Restore it, or start anew without the state"
        )
    if dict(drawn) != dict(draws):
        raise DataError(
            f"what rows are drawn by, sampling={draws.get('by')!r}, is not what the state was saved with: the column's "
            "values or the target changed; restore them, or start anew without the state"
        )


def _check_values(state: Mapping[str, Any], plan: Plan) -> None:
    """Refuse what no loader has saved, before anything is made of it."""
    order, sampling = state["order"], state.get("sampling")
    parameters = plan.order.parameters().keys()
    if not isinstance(order, Mapping) or order.keys() | {"join_rows"} != parameters:  # which was not there at first
        raise _damaged("order", order, f"have the keys {list(parameters)}")
    if not isinstance(sampling, Mapping | None) or not isinstance(state.get("facts", {}), Mapping):
        raise _damaged("sampling, facts", [sampling, state.get("facts")], "be mappings")
    least = {"epoch": 0, "step": 0, "num_rows": 0, "num_chunks": 0}
    least_of_order = {"global_batch_size": 1, "num_shards": 1, "fill_rows": 1, "seed": 0}
    least_of_order |= {name: 1 for name in ("block_rows", "join_rows") if order.get(name) is not None}
    for values, bounds in ((state, least), (order, least_of_order)):
        for name, bound in bounds.items():
            value = values[name]
            if not isinstance(value, int) or isinstance(value, bool) or value < bound:
                raise _damaged(name, value, f"be a whole number, at least {bound}")
    most = order["global_batch_size"] if order["shuffle"] else 1
    if order["num_shards"] > most:
        raise _damaged("num_shards", order["num_shards"], f"be at most {most}")
    if order["tail"] not in ("trim", "pad") or not isinstance(order["shuffle"], bool):
        raise _damaged("tail, shuffle", [order["tail"], order["shuffle"]], "be 'trim' or 'pad', and True or False")


def _damaged(name: str, value: Any, rule: str) -> ArgumentError:
    return ArgumentError(f"state is damaged: {name}={value!r} must {rule}; pass what state_dict() returned")
