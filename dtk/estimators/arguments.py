"""Refuse an estimator's arguments before any data is looked at."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

from sklearn.utils import check_random_state

from dtk.errors import ArgumentError
from dtk.memory import parse_nbytes
from dtk.models import ModelSchema, build
from dtk.preparation import TablePreparation

__all__ = ["check_arguments"]


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Refuse what no data could make work.

    Parameters
    ----------
    arguments : mapping of str to object
        An estimator's, by name.

    Raises
    ------
    ArgumentError
        If one is of the wrong type or out of range.
    """
    for name in ("epochs", "batch_size", "patience", "ranks"):
        _check_count(name, arguments[name], is_optional=name != "epochs")
    learning_rate = arguments["learning_rate"]
    if not _is_real(learning_rate) or not 0 < learning_rate < math.inf:
        raise ArgumentError(f"learning_rate={learning_rate!r} must be a number, more than 0")
    parse_nbytes(arguments["memory"])
    target = arguments["target"]
    if target is not None and not isinstance(target, str):
        raise ArgumentError(f"target={target!r} must be the name of a column, or None; give values as y")
    kinds = arguments["kinds"]
    if kinds is not None and not isinstance(kinds, Mapping):
        raise ArgumentError(f"kinds={kinds!r} must map columns to kinds, for example {{'flight': 'category'}}")
    columns = arguments["columns"]
    if columns is not None and not isinstance(columns, Mapping):
        raise ArgumentError(f"columns={columns!r} must map columns to transforms, e.g. {{'fare': 'RobustScaler'}}")
    TablePreparation(kinds=kinds, columns=columns)
    _check_class_weight(arguments.get("class_weight"))
    try:
        check_random_state(arguments["random_state"])
    except ValueError as error:
        raise ArgumentError(f"random_state={arguments['random_state']!r} makes no seed: {error}") from error
    _check_model(arguments["model"])


def _check_count(name: str, value: Any, *, is_optional: bool) -> None:
    if value is None and is_optional:
        return
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        remedy = ", or None" if is_optional else ""
        raise ArgumentError(f"{name}={value!r} must be a whole number, at least 1{remedy}")


def _check_class_weight(class_weight: Any) -> None:
    if class_weight is None or class_weight == "balanced":
        return
    if not isinstance(class_weight, Mapping):
        raise ArgumentError(f"class_weight={class_weight!r} must be 'balanced', a weight by class, or None")
    for label, weight in class_weight.items():
        if not _is_real(weight) or not 0 <= weight < math.inf:
            raise ArgumentError(f"class_weight[{label!r}]={weight!r} must be a number, 0 or more")


def _check_model(model: Any) -> None:
    if isinstance(model, str | Mapping):
        build(model, ModelSchema(1, (), 2))  # refuses names and options that are unknown
    elif not callable(model):
        raise ArgumentError(f"model={model!r} must be a name, a mapping with a name, a torch module or a callable")


def _is_real(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
