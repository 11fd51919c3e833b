"""Columns of text that hold numbers, booleans or dates."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final, Self

import numpy as np
import pandas as pd
import pyarrow as pa

from dtk.errors import ArgumentError, DataError
from dtk.preparation.frames import FrameTransform, check_columns, is_lazy
from dtk.statistics import scan

__all__ = ["TypeRepair"]

_DATE_FORMATS: Final = ("ISO8601", "%d.%m.%Y", "%d.%m.%Y %H:%M", "%m/%d/%Y", "%d/%m/%Y", "%Y/%m/%d", "%d %b %Y")
_NUM_EXAMPLES: Final = 5
_MAX_UNITS: Final = 100
_KINDS: Final = ("number", "boolean", "date")


class TypeRepair(FrameTransform):
    """Turn text that means numbers, booleans or dates into these.

    Numbers may have separators of thousands and a unit before or behind (``"1,234.5 km"``, ``"$3"``, ``"12 %"``), which
    must be the same one wherever there is one. Booleans are words. Dates have one format a column; times with an offset
    become UTC.

    Parameters
    ----------
    columns : mapping of str to str, optional
        What columns are: ``"number"``, ``"boolean"`` or ``"date"``. By default that is found out for all of text.
    decimal, thousands : str
        The separators of numbers.
    true, false : sequence of str
        What booleans are called, in any case.
    date_formats : sequence of str
        Those to try, as `pandas.to_datetime` takes them; the first of those that read most is taken.
    min_share : float
        How many of the values of a column must be read, as a share, to take it for more than text.

    Attributes
    ----------
    report_ : dict of str to dict
        For each column of text: ``kind`` (None where it stays text), ``format`` or ``unit``, ``count`` of values that
        are not missing, ``missing``, ``unread`` and ``examples`` of what could not be read: the first five in
        alphabetical order.

    Notes
    -----
    The fit is one scan, and reports the same however the data is cut, as long as a column has no more than 200 units.
    What cannot be read becomes missing: numbers are float64, booleans pandas' ``"boolean"``, dates
    ``"datetime64[us]"``.

    Examples
    --------
    >>> repair = TypeRepair(min_share=0.5).fit(pd.DataFrame({"price": ["1,200 EUR", "7", "n/a"]}))
    >>> repair.report_["price"]["unit"], repair.report_["price"]["examples"]
    ('EUR', ['n/a'])
    """

    def __init__(
        self,
        columns: Mapping[str, str] | None = None,
        *,
        decimal: str = ".",
        thousands: str = ",",
        true: Sequence[str] = ("yes", "y", "true", "t", "on"),
        false: Sequence[str] = ("no", "n", "false", "f", "off"),
        date_formats: Sequence[str] = _DATE_FORMATS,
        min_share: float = 0.9,
    ) -> None:
        self.columns = columns
        self.decimal = decimal
        self.thousands = thousands
        self.true = true
        self.false = false
        self.date_formats = date_formats
        self.min_share = min_share

    def _fit(self, data: Any) -> None:
        if not self.decimal or self.decimal == self.thousands:
            raise ArgumentError(f"decimal={self.decimal!r} and thousands={self.thousands!r} must differ")
        if not 0 < self.min_share <= 1:
            raise ArgumentError(f"min_share={self.min_share!r} must be more than 0, and 1 at most")
        wanted = dict(self.columns or {})
        check_columns("columns", list(wanted), data)
        for name, kind in wanted.items():
            if kind not in _KINDS:
                raise ArgumentError(f"columns={{{name!r}: {kind!r}}} must be one of {_KINDS}")
            if not (_is_text(data.dtypes[name]) or _is_already(data.dtypes[name], kind)):
                raise DataError(
                    f"column {name!r} holds {data.dtypes[name]}, no text; leave it out of columns=, or cast it"
                )
        names = [name for name, dtype in data.dtypes.items() if _is_text(dtype)]
        if self.columns is not None:
            names = [name for name in names if name in wanted]
        self.report_: dict[str, dict[str, Any]] = {}
        if names:
            readers = self._readers()
            tallies = scan(data, partial(_Tallies, names, readers), columns=names, label="fit").columns
            self.report_ = {name: _chosen(tallies[name], wanted.get(name), self.min_share) for name in names}

    def _readers(self) -> dict[str, Any]:
        return {
            "number": partial(_numbers, decimal=self.decimal, thousands=self.thousands),
            "boolean": partial(_booleans, words=_words(self.true, True) | _words(self.false, False)),
        } | {f"date {one}": partial(_dates, date_format=one) for one in self.date_formats}

    def _apply(self, data: Any) -> Any:
        if not is_lazy(data):
            return self._repaired(data)
        return data.map_partitions(self._repaired, meta=self._repaired(data._meta))

    def _repaired(self, data: pd.DataFrame) -> pd.DataFrame:
        readers, changed = self._readers(), {}
        for name, found in self.report_.items():
            if found["kind"] is not None and _is_text(data[name].dtype):
                reader = f"date {found['format']}" if found["kind"] == "date" else found["kind"]
                values, units = readers[reader](_text(data[name]))
                changed[name] = values if units is None else values.where(units.isin(["", found["unit"]]))
        return data.assign(**changed)


class _Tally:
    """What each way of reading makes of a column."""

    def __init__(self, readers: Iterable[str]) -> None:
        self.count = self.missing = 0
        self.read = dict.fromkeys(readers, 0)
        self.examples: dict[str, set[str]] = {name: set() for name in readers}
        self.units: Counter[str] = Counter()
        self.of_units: dict[str, set[str]] = {}

    def update(self, text: pd.Series[Any], readers: Mapping[str, Any]) -> None:
        present = text[text.notna()]
        self.missing += len(text) - len(present)
        self.count += len(present)
        counts = present.value_counts()
        words = pd.Series(counts.index, dtype=present.dtype)
        for name, reader in readers.items():
            values, units = reader(words)
            is_read = values.notna().to_numpy(bool)
            self.read[name] += int(counts.to_numpy()[is_read].sum())
            self._add(self.examples[name], words[~is_read])
            if units is not None:
                for unit, at in units[is_read].groupby(units[is_read]).groups.items():
                    self.units[str(unit)] += int(counts.to_numpy()[list(at)].sum())
                    self._add(self.of_units.setdefault(str(unit), set()), words.loc[list(at)])
        self._cut()

    def merge(self, other: _Tally) -> None:
        self.missing += other.missing
        self.count += other.count
        self.units.update(other.units)
        for name, read in other.read.items():
            self.read[name] += read
            self._add(self.examples[name], other.examples[name])
        for unit, examples in other.of_units.items():
            self._add(self.of_units.setdefault(unit, set()), examples)
        self._cut()

    def _add(self, examples: set[str], more: Iterable[str]) -> None:
        kept = sorted(examples | set(more))[:_NUM_EXAMPLES]
        examples.clear()
        examples.update(kept)

    def _cut(self) -> None:
        """Forget the rarest units: text that merely looks like numbers may have any number of them."""
        if len(self.units) > 2 * _MAX_UNITS:
            self.units = Counter(dict(self.units.most_common(_MAX_UNITS)))
            self.of_units = {unit: self.of_units[unit] for unit in self.units}


class _Tallies:
    """The state of the scan."""

    def __init__(self, names: Sequence[str], readers: Mapping[str, Any]) -> None:
        self.readers = readers
        self.columns = {name: _Tally(readers) for name in names}

    def update(self, table: pa.Table, first_row: int) -> None:
        for name, tally in self.columns.items():
            tally.update(_text(table.column(name).to_pandas()), self.readers)

    def merge(self, other: Self) -> None:
        for name, tally in self.columns.items():
            tally.merge(other.columns[name])


def _chosen(tally: _Tally, wanted: str | None, min_share: float) -> dict[str, Any]:
    """Report on a column, and on how it is best read."""
    unit = min((one for one in tally.units if one), key=lambda one: (-tally.units[one], one), default="")
    with_unit = {"number": tally.units[""] + tally.units[unit]} if unit else {}
    read = tally.read | with_unit
    allowed = [name for name in read if wanted is None or name.split()[0] == wanted]
    best = max(allowed, key=read.__getitem__)
    report: dict[str, Any] = {"kind": None, "count": tally.count, "missing": tally.missing, "unread": 0, "examples": []}
    if wanted is None and (not tally.count or read[best] < min_share * tally.count):
        return report
    unread = set(tally.examples[best])
    kind, _, date_format = best.partition(" ")
    if kind == "number":
        unread |= {one for other, examples in tally.of_units.items() if other not in ("", unit) for one in examples}
    how = {"number": {"unit": unit}, "boolean": {}, "date": {"format": date_format}}[kind]
    examples = sorted(unread)[:_NUM_EXAMPLES]
    return {**report, "kind": kind, **how, "unread": tally.count - read[best], "examples": examples}


def _is_text(dtype: Any) -> bool:
    return bool(pd.api.types.is_object_dtype(dtype) or pd.api.types.is_string_dtype(dtype))


def _is_already(dtype: Any, kind: str) -> bool:
    types = pd.api.types
    checks = {"number": types.is_numeric_dtype, "boolean": types.is_bool_dtype, "date": types.is_datetime64_any_dtype}
    return bool(checks[kind](dtype))


def _text(column: pd.Series[Any]) -> pd.Series[Any]:
    return column.astype("str").where(column.notna()) if column.dtype == object else column.astype("str")


def _words(words: Iterable[str], value: bool) -> dict[str, bool]:
    return {word.casefold(): value for word in words}


def _numbers(text: pd.Series[Any], *, decimal: str, thousands: str) -> tuple[pd.Series[Any], pd.Series[Any]]:
    """Read numbers, NaN where there is none, and their units."""
    point, comma = re.escape(decimal), re.escape(thousands)
    whole = rf"\d{{1,3}}(?:{comma}\d{{3}})+|\d+" if thousands else r"\d+"
    number = rf"(?:(?:{whole})(?:{point}\d*)?|{point}\d+)(?:[eE][+-]?\d+)?"
    unit = r"[^\W\d_][^\d]*|[%‰°$€£¥][^\d]*"
    parts = text.str.extract(rf"^\s*([+-]?)\s*([$€£¥]?)\s*({number})\s*({unit})?\s*$")
    digits = parts[2].str.replace(thousands, "", regex=False) if thousands else parts[2]
    values = pd.to_numeric(digits.str.replace(decimal, ".", regex=False), errors="coerce").astype("float64")
    units = (parts[1].fillna("") + parts[3].fillna("").str.strip()).astype("str")
    return values * np.where(parts[0] == "-", -1.0, 1.0), units


def _booleans(text: pd.Series[Any], *, words: Mapping[str, bool]) -> tuple[pd.Series[Any], None]:
    return text.str.strip().str.casefold().map(dict(words)).astype("boolean"), None


def _dates(text: pd.Series[Any], *, date_format: str) -> tuple[pd.Series[Any], None]:
    dates = pd.to_datetime(text.str.strip(), format=date_format, errors="coerce", utc=True)
    return dates.dt.tz_localize(None).astype("datetime64[us]"), None
