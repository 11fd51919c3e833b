"""The schema of a table: what its columns must be like, as a YAML file or a mapping says it."""

from __future__ import annotations

import datetime as dt
import math
import os
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator
from pydantic_core.core_schema import ValidationInfo

from dtk.config import read_model, validate_model
from dtk.errors import ArgumentError

__all__ = ["Bound", "ColumnSchema", "DriftLimits", "TableSchema", "as_number", "is_date", "read_schema"]

_NS_PER_S: Final = 10**9
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_TEXT_KINDS: Final = ("category", "text")
_WITH_PARAMETERS: Final = re.compile(r"[<(,=]|\[\d+\]")  # types that Arrow can name, but not make of a name

Bound = int | float | dt.datetime | dt.date | str
Allowed = bool | int | float | dt.datetime | dt.date | str


def _is_no_boolean(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("should be a number or a date")
    return value


def _check_finite(value: Bound) -> None:
    try:
        is_finite = not isinstance(value, (int, float)) or math.isfinite(value)
    except OverflowError:  # of an integer that no float holds
        is_finite = False
    if not is_finite:
        raise ValueError("should be finite; leave it out for no limit")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ColumnSchema(_Section):
    """What a column must be like. What is not said may be anything.

    Parameters
    ----------
    kind : str, optional
        ``"number"``, ``"category"``, ``"text"``, ``"date"``, ``"boolean"`` or ``"other"``, as a profile says it;
        ``"category"`` and ``"text"`` are the same to a check.
    dtype : str, optional
        The Arrow type, such as ``"int64"`` or ``"timestamp[us]"``.
    required : bool
        Whether the column must be there.
    missing : float, optional
        The largest share of rows without a value: 0 for none.
    min, max : int, float, date or str, optional
        The smallest and largest value of numbers and dates, themselves allowed. Dates are ISO 8601.
    values : list, optional
        All values there may be.
    pattern : str, optional
        A regular expression (RE2) that each whole string matches.
    min_length, max_length : int, optional
        Characters of strings.
    unique : bool
        Whether no value may be there twice; missing ones may.
    order : str, optional
        Of numbers and dates, from row to row: ``"increasing"``, ``"strictly increasing"``, ``"decreasing"`` or
        ``"strictly decreasing"``. Rows without a value are passed over.
    """

    kind: Literal["number", "category", "text", "date", "boolean", "other"] | None = None
    dtype: str | None = None
    required: bool = True
    missing: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    min: Annotated[Bound | None, BeforeValidator(_is_no_boolean)] = None
    max: Annotated[Bound | None, BeforeValidator(_is_no_boolean)] = None
    values: list[Allowed] | None = Field(default=None, min_length=1)
    pattern: str | None = None
    min_length: int | None = Field(default=None, ge=0)
    max_length: int | None = Field(default=None, ge=0)
    unique: bool = False
    order: Literal["increasing", "strictly increasing", "decreasing", "strictly decreasing"] | None = None

    # Each check sits at the later of its fields and looks at the earlier ones: so pydantic finds all mistakes at once.

    @field_validator("dtype")
    @classmethod
    def _is_a_type(cls, dtype: str | None) -> str | None:
        if dtype is None or _WITH_PARAMETERS.search(dtype):
            return dtype
        try:
            return str(pa.type_for_alias(dtype))
        except ValueError:
            raise ValueError(
                "is no type of Arrow; write it as 'int64', 'double', 'string' or 'timestamp[us]'"
            ) from None

    @field_validator("min", "max")
    @classmethod
    def _is_a_bound(cls, bound: Bound | None, info: ValidationInfo) -> Bound | None:
        if bound is None:
            return None
        _check_finite(bound)
        as_number(bound)
        kind = info.data.get("kind")
        if kind is not None and kind != ("date" if is_date(bound) else "number"):
            raise ValueError(f"does not go with kind: {kind}; give numbers for numbers, and ISO 8601 for dates")
        low = info.data.get("min") if info.field_name == "max" else None
        if low is not None and is_date(low) != is_date(bound):
            raise ValueError(f"and min={low!r} must both be numbers, or both dates")
        if low is not None and as_number(low) > as_number(bound):
            raise ValueError(f"is less than min={low!r}")
        return bound

    @field_validator("values")
    @classmethod
    def _are_alike(cls, values: list[Allowed] | None) -> list[Allowed] | None:
        has_text = any(isinstance(value, str) for value in values or ())
        for value in values or ():
            if isinstance(value, bool) and has_text:
                raise ValueError(
                    f"hold {value} among text; quote it, as in 'NO' or 'on', which YAML takes for a boolean"
                )
        return values

    @field_validator("pattern", "min_length", "max_length")
    @classmethod
    def _is_of_text(cls, value: Any, info: ValidationInfo) -> Any:
        kind = info.data.get("kind")
        if value is not None and kind is not None and kind not in _TEXT_KINDS:
            raise ValueError(f"is for strings, and kind: {kind} has none; leave one of them out")
        least = info.data.get("min_length") if info.field_name == "max_length" else None
        if value is not None and least is not None and value < least:
            raise ValueError(f"is less than min_length={least}")
        return value

    @field_validator("pattern")
    @classmethod
    def _is_a_pattern(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            try:
                pc.match_substring_regex(pa.array([""]), pattern)
            except pa.ArrowInvalid as error:
                raise ValueError(f"is no regular expression of RE2, which has no look-around: {error}") from None
        return pattern

    @field_validator("order")
    @classmethod
    def _is_of_numbers(cls, order: str | None, info: ValidationInfo) -> str | None:
        kind = info.data.get("kind")
        if order is not None and kind not in (None, "number", "date"):
            raise ValueError(f"is for numbers and dates, not for kind: {kind}")
        return order


class DriftLimits(_Section):
    """How far new data may be from known statistics.

    Parameters
    ----------
    psi : float
        Population stability index.
    ks : float
        The distance of Kolmogorov and Smirnov: the largest difference of two shares of values up to a number.
    mean : float
        By how many of the known standard deviations the mean may move.
    std : float
        By which factor the standard deviation may grow or shrink.
    missing : float
        By how much the share of missing values may grow.
    unseen : float
        The share of values that are no known category.
    out_of_range : float
        The share of numbers below the known minimum or above the known maximum.
    """

    psi: float = Field(default=0.2, gt=0)
    ks: float = Field(default=0.1, gt=0)
    mean: float = Field(default=0.25, gt=0)
    std: float = Field(default=1.5, gt=1)
    missing: float = Field(default=0.05, ge=0, le=1)
    unseen: float = Field(default=0.01, ge=0, le=1)
    out_of_range: float = Field(default=0.01, ge=0, le=1)


class TableSchema(_Section):
    """What a table must be like. Read from YAML by `read_schema`, proposed by `Report.propose_schema`.

    Parameters
    ----------
    columns : dict of str to ColumnSchema
        By name.
    extra : bool
        Whether there may be other columns.
    unique : list of list of str
        Columns that are a key together.
    max_keys : int
        Most keys to look at, of each key; more rows are judged by a sample of as many keys. A key takes 32 bytes.
    drift : DriftLimits
        How far the data may be from the statistics that it is compared with.
    not_converted : tuple of str
        What a pandera schema says and this one doesn't.
    """

    columns: dict[str, ColumnSchema] = {}
    extra: bool = True
    unique: list[Annotated[list[str], Field(min_length=1)]] = []
    max_keys: int = Field(default=8_000_000, ge=1000)
    drift: DriftLimits = DriftLimits()
    not_converted: Annotated[tuple[str, ...], Field(exclude=True)] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return what `read_schema` takes, as plain JSON values.

        Returns
        -------
        dict
            Without what is as by default; dates are ISO 8601 strings.
        """
        return self.model_dump(mode="json", exclude_defaults=True)

    def to_yaml(self) -> str:
        """Return the file that says it.

        Returns
        -------
        str
            YAML.
        """
        content = self.to_dict()
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110)
        # line ends of Unicode, such as U+0085, would be read as spaces
        return text if yaml.safe_load(text) == content else yaml.safe_dump(content, sort_keys=False)


def read_schema(schema: Any) -> TableSchema:
    """Make a schema of what says one.

    Parameters
    ----------
    schema : TableSchema, str, path, mapping, pandera.DataFrameSchema or pandera.DataFrameModel
        A path is that of a YAML file.

    Returns
    -------
    TableSchema
        Checked by itself.

    Raises
    ------
    NotFoundError
        If there is no such file.
    ArgumentError
        If anything is wrong: every mistake is named, with its place.

    Warns
    -----
    UserWarning
        For what a pandera schema says that has no counterpart here.
    """
    if isinstance(schema, TableSchema):
        return schema
    if isinstance(schema, (str, os.PathLike)):
        return read_model(os.fspath(schema), TableSchema)
    if isinstance(schema, Mapping):
        return validate_model(schema, TableSchema, "schema")
    from dtk.analytics.from_pandera import from_pandera, is_pandera

    if is_pandera(schema):
        return from_pandera(schema)
    raise ArgumentError(
        f"schema={schema!r} is no schema; give the path of a YAML file, a mapping, or a pandera.DataFrameSchema"
    )


def is_date(bound: Bound) -> bool:
    """Tell whether a bound is one of dates.

    Parameters
    ----------
    bound : int, float, date or str
        As a schema says it.

    Returns
    -------
    bool
        True for dates and for text.
    """
    return not isinstance(bound, (int, float))


def as_number(bound: Bound) -> int | float:
    """Turn a bound into a number that values compare with.

    Parameters
    ----------
    bound : int, float, date or str
        As a schema says it.

    Returns
    -------
    int or float
        Of dates: nanoseconds since 1970, in UTC where there is a zone.

    Raises
    ------
    ValueError
        If text is no date.

    Examples
    --------
    >>> as_number("1970-01-02") == as_number("1970-01-02T01:00:00+01:00") == 86_400 * 10**9
    True
    """
    if isinstance(bound, (int, float)):
        return bound
    if isinstance(bound, str):
        return _nanoseconds(bound)
    if not isinstance(bound, dt.datetime):
        bound = dt.datetime(bound.year, bound.month, bound.day)
    since = (bound if bound.tzinfo is not None else bound.replace(tzinfo=dt.UTC)) - _EPOCH
    return (since.days * 86_400 + since.seconds) * _NS_PER_S + since.microseconds * 1000


def _nanoseconds(text: str) -> int:
    """Read a date of any year, to the nanosecond."""
    try:
        if re.search(r"T.*(Z|[+-]\d\d(:?\d\d)?)$", text):
            return int(as_number(dt.datetime.fromisoformat(text)))
        if not re.match(r"[+-]?\d{4,}-", text):  # NumPy knows words, too, such as "today"
            raise ValueError(text)
        moment = np.datetime64(text)
    except ValueError:
        raise ValueError("is no number and no date; write dates as '2013-01-31' or '2013-01-31T12:00:00'") from None
    seconds = moment.astype("datetime64[s]")
    rest = (moment - seconds).astype("timedelta64[ns]")
    return int(seconds.astype(np.int64)) * _NS_PER_S + int(rest.astype(np.int64))
