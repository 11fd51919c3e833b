"""Turn dates into numbers, and texts into dates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from sklearn.utils.validation import _check_feature_names_in, check_is_fitted

from dtk.errors import ArgumentError, DataError
from dtk.preparation.transforms.base import Columns, Found, Need, Transform, refuse
from dtk.preparation.values import as_dates, check_type, check_zone, zone_of

__all__ = ["DateFeatures", "DateSpread", "ParseDates"]

_US_PER_DAY: Final = 86_400 * 10**6
_HAS_OFFSET: Final = r"(:\d\d|T\d{4}|T\d{6})(\.\d+)? ?(Z|UTC|[+-]\d\d(:?\d\d)?)$"
"""A time of day, and how far it is from UTC."""


class _Part(NamedTuple):
    """A number that is read from dates: its first value, and its period; 0 where it does not come back."""

    read: Callable[[pa.ChunkedArray], pa.ChunkedArray]
    first: int
    period: int


_PARTS: Final[dict[str, _Part]] = {
    "year": _Part(pc.year, 0, 0),
    "month": _Part(pc.month, 1, 12),
    "day": _Part(pc.day, 1, 31),
    "weekday": _Part(pc.day_of_week, 0, 7),
    "hour": _Part(pc.hour, 0, 24),
    "minute": _Part(pc.minute, 0, 60),
    "dayofyear": _Part(pc.day_of_year, 1, 366),
}
_NAMES: Final = (*_PARTS, "elapsed")
_BY_DEFAULT: Final = ("month", "weekday", "hour")


class DateSpread:
    """The earliest of some dates, and which of their months, weekdays and hours occur.

    Parameters
    ----------
    zone : str, optional
        The time zone in which they are read; their own by default.
    """

    def __init__(self, zone: str | None = None) -> None:
        self.zone = zone
        self.count = 0
        self.missing = 0
        self.earliest: int | None = None
        self.seen = {name: np.zeros(_PARTS[name].period, dtype=bool) for name in _BY_DEFAULT}

    def update(self, values: pa.Array | pa.ChunkedArray, row: NDArray[np.int64] | None = None) -> None:
        """Take in one chunk of a column.

        Parameters
        ----------
        values : pyarrow.Array or pyarrow.ChunkedArray
            Shape [rows]: dates or timestamps.
        row : numpy.ndarray, optional
            Not used.
        """
        column = values if isinstance(values, pa.ChunkedArray) else pa.chunked_array([values])
        dates = as_dates("date", column, _zone_for(column.type, self.zone)).drop_null()
        self.missing += len(column) - len(dates)
        if not len(dates):
            return
        self.count += len(dates)
        first = int(_microseconds(dates, self.zone).min())
        self.earliest = first if self.earliest is None else min(self.earliest, first)
        for name, seen in self.seen.items():
            seen[pc.unique(_PARTS[name].read(dates)).to_numpy(zero_copy_only=False) - _PARTS[name].first] = True

    def merge(self, other: Self) -> None:
        """Take in what another object has seen.

        Parameters
        ----------
        other : DateSpread
            Left as it is.
        """
        self.count += other.count
        self.missing += other.missing
        found = [each for each in (self.earliest, other.earliest) if each is not None]
        self.earliest = min(found, default=None)
        for name, seen in other.seen.items():
            self.seen[name] = self.seen[name] | seen

    def result(self) -> dict[str, Any]:
        """Return what was seen.

        Returns
        -------
        dict
            ``count``, ``missing``, ``earliest`` (microseconds since 1970, or None) and ``varying``: parts with several
            values.
        """
        varying = [name for name, seen in self.seen.items() if seen.sum() > 1]
        return {"count": self.count, "missing": self.missing, "earliest": self.earliest, "varying": varying}

    def to_dict(self) -> dict[str, Any]:
        """Return all that `from_dict` needs, as plain JSON values.

        Returns
        -------
        dict
            The whole state.
        """
        return vars(self) | {"seen": {name: seen.tolist() for name, seen in self.seen.items()}}

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Self:
        """Rebuild an object from `to_dict`.

        Parameters
        ----------
        state : dict
            What `to_dict` returned, also after a round trip through JSON.

        Returns
        -------
        DateSpread
            Equal to the first.
        """
        made = cls(state["zone"])
        made.count, made.missing, made.earliest = state["count"], state["missing"], state["earliest"]
        made.seen = {name: np.array(seen, dtype=bool) for name, seen in state["seen"].items()}
        return made


class DateFeatures(Transform):
    """Turn dates into numbers: parts of the calendar and of the clock, and the time that has gone by.

    Missing dates are missing numbers.

    Parameters
    ----------
    parts : list of str, optional
        Of ``"year"``, ``"month"``, ``"day"``, ``"weekday"`` (Monday is 0), ``"hour"``, ``"minute"``, ``"dayofyear"``
        and ``"elapsed"``: days since the earliest date at fit. By default those of month, weekday and hour that took
        more than one value at fit.
    cyclic : bool
        Whether parts that come back are two numbers, the sine and cosine of their place in the period, so that
        December is next to January. Years and elapsed days are numbers all the same.
    zone : str, optional
        The time zone in which they are read, with daylight saving up to 2037 (Arrow knows of no later one); that of
        the column at fit by default. Dates without a zone are taken to show the time there already; where the clocks go
        back, the earlier one is meant.

    Attributes
    ----------
    parts_ : list of list of str
        Of each column.
    zones_ : list of (str or None)
        The time zone in which each column is read; None for dates without one.
    origins_ : list of int
        The earliest date of each column at fit, in microseconds since 1970.

    Examples
    --------
    >>> dates = pd.DataFrame({"day": pd.to_datetime(["2024-01-01", "2024-07-01"])})
    >>> features = DateFeatures(parts=["month", "elapsed"], cyclic=False).fit(dates)
    >>> features.transform(dates).tolist(), features.get_feature_names_out().tolist()
    ([[1.0, 0.0], [7.0, 182.0]], ['day_month', 'day_elapsed'])
    """

    _kind = "date"

    def __init__(self, *, parts: Sequence[str] | None = None, cyclic: bool = True, zone: str | None = None) -> None:
        self.parts = parts
        self.cyclic = cyclic
        self.zone = zone

    def _check(self, names: Sequence[str], types: Sequence[pa.DataType]) -> None:
        super()._check(names, types)
        if self.parts is not None and (isinstance(self.parts, str) or not set(self.parts) <= set(_NAMES)):
            refuse("parts", self.parts, f"a list of {', '.join(map(repr, _NAMES))}")
        _check_zone_name(self.zone)
        self.zones_ = [_zone_for(found, self.zone) for found in types]

    def _check_again(self, names: Sequence[str], types: Sequence[pa.DataType]) -> None:
        super()._check_again(names, types)
        for name, found, zone in zip(names, types, self.zones_, strict=True):
            check_zone(name, found, zone)

    def _needs(self) -> Mapping[str, Need]:
        learns = self.parts is None or "elapsed" in self.parts
        return {"spread": Need(DateSpread, (("zone", self.zone),))} if learns else {}

    def _learn(self, found: Found) -> None:
        spreads: Sequence[DateSpread] = found["spread"]
        self.origins_ = [each.earliest or 0 for each in spreads]
        self.varying_ = [each.result()["varying"] for each in spreads]

    @property
    def parts_(self) -> list[list[str]]:
        """The parts of each column."""
        return self.varying_ if self.parts is None else [list(self.parts) for _ in self.zones_]

    def _encode(self, names: Sequence[str], columns: Columns) -> NDArray[np.float64]:
        encoded = []
        for number, (name, column) in enumerate(zip(names, columns, strict=True)):
            dates = as_dates(name, column, self.zones_[number])
            for part in self.parts_[number]:
                if part == "elapsed":
                    gone = _microseconds(dates, self.zone) - float(self.origins_[number])
                    encoded.append(gone / _US_PER_DAY)
                else:
                    encoded.append(np.asarray(_PARTS[part].read(dates).to_numpy(), np.float64))
        num_rows = len(columns[0]) if columns else 0
        return np.stack(encoded, axis=1) if encoded else np.empty((num_rows, 0))

    @property
    def _num_encoded(self) -> int:
        return sum(map(len, self.parts_))

    def _planned_encoded(self, num_columns: int) -> int:
        return num_columns * len(_BY_DEFAULT if self.parts is None else self.parts)

    def _waves(self) -> list[tuple[str, float, float, int]]:
        """Return part, first value, scale and wave (0: none, 1: sine, 2: cosine) of each feature, by encoded column."""
        found = []
        for part in (part for parts in self.parts_ for part in parts):
            _, first, period = _PARTS.get(part, (None, 0, 0))
            if period and self.cyclic:
                found += [(part, float(first), 2 * np.pi / period, wave) for wave in (1, 2)]
            else:
                found.append((part, 0.0, 1.0, 0))
        return found

    def _parameters(self) -> dict[str, NDArray[Any]]:
        waves = self._waves()
        source = np.cumsum([wave != 2 for *_, wave in waves], dtype=np.int64) - 1
        first, scale = (np.array([each[at] for each in waves], np.float64) for at in (1, 2))
        return {
            "source": source,
            "first": first,
            "scale": scale,
            "wave": np.array([each[3] for each in waves], np.int64),
        }

    def _forward(self, x: Any, p: Mapping[str, Any], xp: Any) -> Any:
        x = (xp.take(x, p["source"], axis=1) - p["first"]) * p["scale"]
        return xp.where(p["wave"] == 1, xp.sin(x), xp.where(p["wave"] == 2, xp.cos(x), x))

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[Any]:
        """See `Transform`."""
        check_is_fitted(self)
        names = _check_feature_names_in(self, input_features)
        owners = [name for name, parts in zip(names, self.parts_, strict=True) for _ in parts]
        source = self._parameters()["source"].tolist()
        waves = ("", "_sin", "_cos")
        out = [f"{owners[at]}_{each[0]}{waves[each[3]]}" for at, each in zip(source, self._waves(), strict=True)]
        return np.array(out, dtype=object)


class ParseDates(Transform):
    """Turn texts into dates; dates stay what they are, but for their zone.

    Parameters
    ----------
    formats : list of str, optional
        As for `time.strftime`, such as ``"%d.%m.%Y"``: the first that fits a text is taken. ISO 8601 by default.
    errors : str
        What becomes of texts that no format fits: ``"raise"`` an error that names one, or make them ``"missing"``.
    zone : str, optional
        The time zone of the dates that come out; none by default. Texts without an offset are taken to show the time
        there; where the clocks go back, the earlier one is meant. Texts with an offset need a zone.

    Examples
    --------
    >>> texts = pa.table({"day": ["31.12.2024", "1.1.2025"]})
    >>> ParseDates(formats=["%d.%m.%Y"]).fit(texts).transform(texts)["day"].to_pylist()
    [datetime.datetime(2024, 12, 31, 0, 0), datetime.datetime(2025, 1, 1, 0, 0)]
    """

    _kind = "mixed"
    _cleans = True

    def __init__(self, *, formats: Sequence[str] | None = None, errors: str = "raise", zone: str | None = None) -> None:
        self.formats = formats
        self.errors = errors
        self.zone = zone

    def _check(self, names: Sequence[str], types: Sequence[pa.DataType]) -> None:
        if self.errors not in ("raise", "missing"):
            refuse("errors", self.errors, "'raise' or 'missing'")
        if isinstance(self.formats, str) or (self.formats is not None and not self.formats):
            refuse("formats", self.formats, "a list of formats")
        _check_zone_name(self.zone)
        for name, found in zip(names, types, strict=True):
            if not _is_text(found):
                check_type(name, found, "date")

    def _cleaned_types(self, types: Sequence[pa.DataType]) -> list[pa.DataType]:
        return [pa.timestamp("us", self.zone)] * len(types)

    def _clean(self, columns: Columns) -> list[pa.ChunkedArray]:
        return [self._parsed(name, column) for name, column in zip(self.get_feature_names_out(), columns, strict=True)]

    def _parsed(self, name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
        wanted = pa.timestamp("us", self.zone)
        if not _is_text(column.type):
            own = zone_of(column.type)
            dates = as_dates(name, column, own)
            if own is None:
                return _localized(dates, self.zone).cast(wanted, safe=False)
            return as_dates(name, dates, self.zone).cast(wanted, safe=False)
        chunks = []
        for chunk in column.chunks:
            plain = chunk.storage if isinstance(chunk, pa.ExtensionArray) else chunk
            coded = plain if pa.types.is_dictionary(plain.type) else plain.dictionary_encode()
            chunks.append(self._parsed_texts(name, coded.dictionary).take(coded.indices))
        return pa.chunked_array(chunks, type=wanted)

    def _parsed_texts(self, name: str, texts: pa.Array) -> pa.Array:
        """Parse distinct texts."""
        texts = texts.cast(pa.large_string())
        given = pd.Series(texts.to_pandas(), dtype="str")
        has_offset = pc.match_substring_regex(texts, _HAS_OFFSET).fill_null(False).to_numpy(zero_copy_only=False)
        wanted = pa.timestamp("us", self.zone)
        parsed: pa.Array = pa.nulls(len(texts), wanted)
        for with_offset in (False, True):
            chosen = has_offset == with_offset
            if (with_offset and self.zone is None) or not chosen.any():
                continue
            dates = self._by_formats(given[chosen], utc=with_offset)
            found = dates.cast(wanted) if with_offset else _localized(dates, self.zone).cast(wanted)
            parsed = pc.replace_with_mask(parsed, pa.array(chosen), found)
        if self.errors == "raise":
            failed = np.flatnonzero(parsed.is_null().to_numpy(zero_copy_only=False) & given.notna().to_numpy())
            if len(failed):
                self._refuse_text(name, given.iloc[int(failed[0])], with_offset=bool(has_offset[failed[0]]))
        return parsed

    def _by_formats(self, texts: pd.Series, *, utc: bool) -> pa.Array:
        """Return timestamps, of UTC or of no zone; null where no format fits."""
        found: Any = None
        for text_format in self.formats or ["ISO8601"]:
            dates = pd.to_datetime(texts, format=text_format, errors="coerce", utc=utc)
            found = dates if found is None else found.where(found.notna(), dates)
        return pa.array(found).cast(pa.timestamp("us", "UTC" if utc else None))

    def _refuse_text(self, name: str, text: str, *, with_offset: bool) -> None:
        tried = "ISO 8601" if self.formats is None else ", ".join(map(repr, self.formats))
        remedy = "give formats= that it has, or errors='missing'"
        if with_offset and self.zone is None:
            remedy = "it has an offset from UTC: give zone='UTC', or another zone to read all dates in"
        raise DataError(f"column {name!r} holds {text!r}, which is no date in {tried}; {remedy}")


def _zone_for(found: pa.DataType, zone: str | None) -> str | None:
    """Return the zone in which to read dates of a type."""
    own = zone_of(found)
    return None if own is None else zone or own


def _localized(dates: Any, zone: str | None) -> Any:
    """Say that dates without a zone show the time in it."""
    if zone is None:
        return dates
    return pc.assume_timezone(dates, zone, ambiguous="earliest", nonexistent="latest")


def _microseconds(dates: pa.ChunkedArray, zone: str | None) -> NDArray[Any]:
    """Return microseconds since 1970; float64 with NaN where some are missing."""
    if dates.type.tz is None:
        dates = _localized(dates, zone)
    numbers: NDArray[Any] = dates.cast(pa.timestamp("us", dates.type.tz), safe=False).cast(pa.int64()).to_numpy()
    return numbers


def _check_zone_name(zone: str | None) -> None:
    if zone is None:
        return
    try:
        pc.hour(pa.array([0], pa.timestamp("s", zone)))
    except (pa.ArrowInvalid, TypeError):
        raise ArgumentError(f"zone={zone!r} is no time zone; give one such as 'Europe/Berlin'") from None


def _is_text(found: pa.DataType) -> bool:
    plain = found.storage_type if isinstance(found, pa.BaseExtensionType) else found
    plain = plain.value_type if pa.types.is_dictionary(plain) else plain
    return any(check(plain) for check in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))
