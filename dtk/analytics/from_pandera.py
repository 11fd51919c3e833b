"""A pandera schema as a schema of ours: what it says of values, and by name what has no counterpart."""

from __future__ import annotations

import datetime as dt
import math
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np

from dtk.analytics.schema import Bound, TableSchema, as_number, is_date
from dtk.config import find_mistakes

__all__ = ["from_pandera", "is_pandera"]

_EXACT: Final = re.compile(r"(u?int|float)(8|16|32|64)")
_KINDS: Final = (
    (re.compile(r"bool|boolean"), "boolean"),
    (re.compile(r"datetime64.*|date|timestamp.*"), "date"),
    (re.compile(r"str|string.*|category"), "category"),
    (re.compile(r"u?int(?!erval).*|float.*|decimal.*|timedelta.*|double"), "number"),
)
_LARGEST_EXACT: Final = 2**53


def is_pandera(schema: object) -> bool:
    """Tell whether an object is a schema of pandera, without importing it.

    Parameters
    ----------
    schema : object
        Anything.

    Returns
    -------
    bool
        True for a ``DataFrameSchema`` and for a class derived from ``DataFrameModel``.
    """
    bases = schema.__mro__ if isinstance(schema, type) else type(schema).__mro__
    wanted = "DataFrameModel" if isinstance(schema, type) else "DataFrameSchema"
    return any(base.__module__.partition(".")[0] == "pandera" and base.__name__ == wanted for base in bases)


def from_pandera(schema: Any) -> TableSchema:
    """Convert a schema of pandera.

    Parameters
    ----------
    schema : pandera.DataFrameSchema or pandera.DataFrameModel
        Of pandas.

    Returns
    -------
    TableSchema
        What there is no counterpart for is in ``not_converted``.

    Warns
    -----
    UserWarning
        For what there is no counterpart for.
    """
    schema = schema.to_schema() if hasattr(schema, "to_schema") else schema
    lost = list(_lost(schema))
    columns = {}
    for name, column in schema.columns.items():
        if column.regex:
            lost.append(f"column {name!r}: regex=True; name the columns")
        else:
            columns[str(name)] = _convert(str(name), column, bool(schema.coerce), lost)
    unique = [schema.unique] if isinstance(schema.unique, str) else schema.unique
    content = {"columns": columns, "extra": schema.strict is not True, "unique": [list(unique)] if unique else []}
    told = tuple(f"not checked: {one}" for one in lost)
    if told:
        warnings.warn(f"this pandera schema says what dtk does not check: {'; '.join(lost)}", UserWarning, stacklevel=4)
    return TableSchema.model_validate({**content, "not_converted": told})


def _lost(schema: Any) -> Iterator[str]:
    """Name what the schema as a whole says and ours can't."""
    if schema.index is not None:
        yield "index"
    for check in schema.checks:
        yield f"check {_name_of(check)!r} of the whole table"
    for name in ("ordered", "parsers", "add_missing_columns", "drop_invalid_rows", "dtype"):
        if getattr(schema, name, None):
            yield f"{name}={getattr(schema, name)!r}"
    if schema.strict == "filter":
        yield "strict='filter'"


def _convert(name: str, column: Any, coerced: bool, lost: list[str]) -> dict[str, Any]:
    said: dict[str, Any] = {"required": bool(column.required), "unique": bool(column.unique)}
    if not column.nullable:
        said["missing"] = 0
    coerced = coerced or bool(column.coerce)
    if column.dtype is not None:
        said |= _kind_of(name, str(column.dtype), coerced, lost)
    if getattr(column, "parsers", None):
        lost.append(f"column {name!r}: parsers")
    for check in column.checks:
        convert = _CHECKS.get(check.name or "")
        if convert is None or check.raise_warning or check.groupby is not None:
            lost.append(f"column {name!r}: check {_name_of(check)!r}")
            continue
        tried = _merged(said, convert(check.statistics))
        # what our schema has no place for, such as a second pattern, or one that RE2 can't read
        _, mistakes = find_mistakes({"columns": {name: tried}}, TableSchema)
        if tried is None or mistakes:
            lost.append(f"column {name!r}: check {_name_of(check)!r}")
        else:
            said = tried
    return said


def _kind_of(name: str, dtype: str, coerced: bool, lost: list[str]) -> dict[str, str]:
    plain = dtype.lower()
    if plain == "object":
        return {}
    kind = next((kind for pattern, kind in _KINDS if pattern.fullmatch(plain)), None)
    if kind is None:
        lost.append(f"column {name!r}: dtype {dtype}")
        return {}
    if coerced:  # it would be cast first
        return {"kind": kind}
    return {"kind": kind} | ({"dtype": plain} if _EXACT.fullmatch(plain) else {})


def _name_of(check: Any) -> str:
    return str(check.name or "of no name")


def _merged(said: dict[str, Any], more: dict[str, Any]) -> dict[str, Any] | None:
    """Join two sets of rules that must both be kept; None where one place can't hold both."""
    merged = dict(said)
    for name, value in more.items():
        if name not in said:
            merged[name] = value
        elif name in ("min", "max"):
            if is_date(said[name]) != is_date(value):
                return None
            narrower = max if name == "min" else min
            merged[name] = narrower(said[name], value, key=as_number)
        elif name == "min_length":
            merged[name] = max(said[name], value)
        elif name == "max_length":
            merged[name] = min(said[name], value)
        elif name == "values":
            merged[name] = [one for one in said[name] if one in value]
        else:
            return None
    return merged


def _plain(value: Any) -> Any:
    """Return a value as YAML could say it; dates of NumPy and pandas as text, to the nanosecond."""
    if isinstance(value, np.datetime64):
        return str(value)
    if isinstance(value, np.generic):
        return value.item()
    return value.isoformat() if isinstance(value, dt.datetime) else value


def _beyond(value: Any, direction: int) -> Bound:
    """Return the next value that a column may have above or below one that it may not."""
    bound: Bound = _plain(value)
    if is_date(bound):
        return str(np.datetime64(int(as_number(bound)) + direction, "ns"))
    if isinstance(bound, int) and abs(bound) >= _LARGEST_EXACT:
        return bound + direction
    return math.nextafter(float(as_number(bound)), direction * math.inf)


def _range(said: dict[str, Any]) -> dict[str, Any]:
    low, high = said["min_value"], said["max_value"]
    return {
        "min": _plain(low) if said.get("include_min", True) else _beyond(low, 1),
        "max": _plain(high) if said.get("include_max", True) else _beyond(high, -1),
    }


def _lengths(said: dict[str, Any]) -> dict[str, Any]:
    exact = said.get("exact_value")
    least, most = (exact, exact) if exact is not None else (said.get("min_value"), said.get("max_value"))
    return {name: value for name, value in (("min_length", least), ("max_length", most)) if value is not None}


def _pattern(said: dict[str, Any]) -> str:
    pattern = said["pattern"]
    return str(getattr(pattern, "pattern", pattern))


_CHECKS: Final[dict[str, Callable[[dict[str, Any]], dict[str, Any]]]] = {
    "greater_than_or_equal_to": lambda said: {"min": _plain(said["min_value"])},
    "less_than_or_equal_to": lambda said: {"max": _plain(said["max_value"])},
    "greater_than": lambda said: {"min": _beyond(said["min_value"], 1)},
    "less_than": lambda said: {"max": _beyond(said["max_value"], -1)},
    "in_range": _range,
    "equal_to": lambda said: {"values": [_plain(said["value"])]},
    "isin": lambda said: {"values": [_plain(value) for value in said["allowed_values"]]},
    # pandera matches from the start, and searches anywhere
    "str_matches": lambda said: {"pattern": f"(?:{_pattern(said)})(?s:.*)"},
    "str_contains": lambda said: {"pattern": f"(?s:.*)(?:{_pattern(said)})(?s:.*)"},
    "str_startswith": lambda said: {"pattern": f"{re.escape(said['string'])}(?s:.*)"},
    "str_endswith": lambda said: {"pattern": f"(?s:.*){re.escape(said['string'])}"},
    "str_length": _lengths,
}
