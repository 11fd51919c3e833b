"""One column of a table: gathered in one pass, then summed up."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dtk.analytics.numbers import Value, iso_date, json_fields, known_number
from dtk.errors import DataError
from dtk.statistics import Categories, Moments, category_keys, infer_kind
from dtk.statistics.sample import rank_error

__all__ = ["MAX_DISTINCT", "ColumnKind", "ColumnProfile", "ColumnState", "kind_of_column", "summarise_column"]

ColumnKind = Literal["number", "category", "date", "boolean", "text", "other"]
MAX_DISTINCT: Final = 50_000
QUANTILES: Final = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
_NUM_TOP: Final = 10
_KEPT_COUNTS: Final = 1000
_GRID: Final = np.linspace(0, 1, 101)
_NUM_BINS: Final = 40
_SLICE_ROWS: Final = 65_536
_TEXT_LENGTH: Final = 30  # mean characters from which near-unique strings are text and no names
_NS_PER_MS: Final = 10**6


def kind_of_column(dtype: pa.DataType) -> ColumnKind:
    """Say how a column is summed up.

    Parameters
    ----------
    dtype : pyarrow.DataType
        Its type.

    Returns
    -------
    str
        As `dtk.statistics.infer_kind`, but ``"other"`` for bytes and nested values, and ``"category"`` for a type that
        is not known yet, as of Python objects in Dask.
    """
    if pa.types.is_null(dtype):
        return "category"
    kind = infer_kind(dtype)
    return "other" if kind == "ignore" else kind


@dataclass(frozen=True)
class ColumnProfile:
    """What one column holds. Dates are ISO 8601 strings; what does not apply is None or empty.

    Parameters
    ----------
    name : str
        The column.
    dtype : str
        Its Arrow type.
    kind : str
        ``"number"``, ``"category"``, ``"date"``, ``"boolean"``, ``"text"`` or ``"other"``.
    num_rows : int
        Rows, missing ones included.
    num_missing : int
        Nulls and NaN.
    num_distinct : int or None
        Distinct values.
    distinct_is_exact : bool
        False where `num_distinct` is only a lower bound.
    num_infinite : int
        Infinite numbers.
    mean, std : float or None
        Of numbers and booleans; for the population (``ddof=0``).
    min, max : str, int, float or None
        Range of numbers and dates, exact.
    quantiles : dict of str to str, int, float or None
        By share, such as ``"0.5"``; from a sample of rows.
    rank_error : float
        How far a quantile's share can be off, with 99% confidence; 0 where exact.
    skewness : float or None
        Of the sampled numbers.
    histogram_edges : tuple of float
        Of numbers; of dates in milliseconds since 1970. [bins + 1].
    histogram_counts : tuple of float
        Rows in each bin, scaled up from the sample. [bins].
    top : tuple of (value, int)
        The most frequent values and their counts.
    top_error : int
        How much too low these counts can be; 0 while exact.
    length_min, length_mean, length_max : float or None
        Characters of strings.
    num_sampled : int
        Values that quantiles are from.
    grid : tuple of float
        Of numbers: the quantiles at 0%, 1%, ... 100%, each one a sampled value. For comparing other data with.
    counts : tuple of (value, int)
        Of categories and booleans: how often each occurs, where there are at most 1,000. For comparing other data with.
    """

    name: str
    dtype: str
    kind: ColumnKind
    num_rows: int
    num_missing: int
    num_distinct: int | None = None
    distinct_is_exact: bool = True
    num_infinite: int = 0
    mean: float | None = None
    std: float | None = None
    min: Value = None
    max: Value = None
    quantiles: dict[str, Value] | None = None
    rank_error: float = 0.0
    skewness: float | None = None
    histogram_edges: tuple[float, ...] = ()
    histogram_counts: tuple[float, ...] = ()
    top: tuple[tuple[Value, int], ...] = ()
    top_error: int = 0
    length_min: float | None = None
    length_mean: float | None = None
    length_max: float | None = None
    num_sampled: int = 0
    grid: tuple[float, ...] = ()
    counts: tuple[tuple[Value, int], ...] = ()

    @property
    def num_present(self) -> int:
        """Rows that have a value."""
        return self.num_rows - self.num_missing

    @property
    def missing_share(self) -> float:
        """The share of rows without a value; 0 without rows."""
        return self.num_missing / self.num_rows if self.num_rows else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values.

        Returns
        -------
        dict
            All fields, and the missing share.
        """
        return json_fields(asdict(self) | {"missing_share": self.missing_share})


class ColumnState:
    """What is gathered of one column.

    Parameters
    ----------
    name : str
        The column.
    kind : str
        What `kind_of_column` says.
    """

    def __init__(self, name: str, kind: ColumnKind) -> None:
        self.name = name
        self.kind = kind
        self.num_rows = 0
        self.num_null = 0
        self.moments = Moments()  # of the values, or of the lengths of strings
        self.categories = Categories(MAX_DISTINCT)

    def update(self, values: pa.ChunkedArray) -> None:
        """Take in one chunk.

        Parameters
        ----------
        values : pyarrow.ChunkedArray
            Shape [rows].

        Raises
        ------
        DataError
            If the values are not of the column's kind.
        """
        self.num_rows += len(values)
        self.num_null += values.null_count
        if self.kind == "other":
            return
        if self.kind == "category":
            self.categories.update(values)
            for chunk in values.chunks:
                self.moments.update(_lengths(chunk))
            return
        try:
            self.moments.update(values)
        except DataError as error:
            raise DataError(f"column {self.name!r} is a {self.kind} in one part of the data, but: {error}") from None
        # distinct numbers beyond the limit are of no use, and slow to count: stop there
        for start in range(0, len(values), _SLICE_ROWS):
            if self.categories.is_exact:
                self.categories.update(values.slice(start, _SLICE_ROWS))
        self._forget_many()

    def merge(self, other: ColumnState) -> None:
        """Take in what another state has seen.

        Parameters
        ----------
        other : ColumnState
            Of the same column; left as it is.
        """
        self.num_rows += other.num_rows
        self.num_null += other.num_null
        self.moments.merge(other.moments)
        self.categories.merge(other.categories)
        self._forget_many()

    def _forget_many(self) -> None:
        """Hold no part of the numbers' counts, for a wide table has many columns of numbers."""
        if self.kind != "category" and not self.categories.is_exact:
            self.categories.forget()


def _lengths(chunk: pa.Array) -> pa.Array:
    """Return the characters of each string, null where it is missing or none."""
    if pa.types.is_dictionary(chunk.type):
        return _lengths(chunk.dictionary).take(chunk.indices)
    keys = category_keys(chunk)
    return pc.utf8_length(keys) if pa.types.is_large_string(keys.type) else pa.nulls(len(chunk), pa.int32())


def summarise_column(
    state: ColumnState, dtype: pa.DataType, sample: np.ndarray, *, sample_is_exact: bool
) -> ColumnProfile:
    """Sum up what was gathered.

    Parameters
    ----------
    state : ColumnState
        After the scan.
    dtype : pyarrow.DataType
        The column's type.
    sample : numpy.ndarray
        float64 [sampled rows]: the column's values as numbers, NaN where missing; not used for strings.
    sample_is_exact : bool
        Whether the sample holds every row.

    Returns
    -------
    ColumnProfile
        The column's summary.
    """
    common: dict[str, Any] = {"name": state.name, "dtype": str(dtype), "num_rows": state.num_rows}
    if state.kind == "other":
        return ColumnProfile(**common, kind="other", num_missing=state.num_null)
    categories, moments = state.categories, state.moments
    common |= {
        "num_distinct": categories.num_distinct,
        "distinct_is_exact": categories.is_exact,
        # numbers stop counting at the limit, so that only exact counts are their counts at all
        "top": tuple(categories.top(_NUM_TOP)) if categories.is_exact or state.kind == "category" else (),
        "top_error": categories.max_error if state.kind == "category" else 0,
    }
    if state.kind not in ("number", "date") and categories.is_exact and categories.num_distinct <= _KEPT_COUNTS:
        common["counts"] = tuple(categories.top())
    if state.kind == "category":
        is_text = moments.count > 0 and moments.mean >= _TEXT_LENGTH and categories.num_distinct > moments.count / 2
        return ColumnProfile(
            **common,
            kind="text" if is_text or (moments.mean >= _TEXT_LENGTH and not categories.is_exact) else "category",
            num_missing=categories.missing,
            length_min=known_number(moments.min),
            length_mean=known_number(moments.mean),
            length_max=known_number(moments.max),
        )
    present = sample[~np.isnan(sample)]
    common |= {
        "kind": state.kind,
        "num_missing": moments.missing,
        "num_infinite": moments.num_infinite,
        "rank_error": 0.0 if sample_is_exact or not len(present) else rank_error(len(present)),
        "num_sampled": len(present),
    }
    if state.kind == "boolean":
        return ColumnProfile(**common, mean=known_number(moments.mean), std=known_number(moments.std))
    finite = present[np.isfinite(present)]
    scale = (moments.count - moments.num_infinite) / len(finite) if len(finite) else 0.0
    with np.errstate(invalid="ignore", over="ignore"):  # between infinite or huge values
        quantiles = np.quantile(present, QUANTILES) if len(present) else np.full(len(QUANTILES), np.nan)
    if state.kind == "date":
        edges, counts = _histogram(finite / _NS_PER_MS, scale, whole=False)
        return ColumnProfile(
            **common,
            min=iso_date(moments.min),
            max=iso_date(moments.max),
            quantiles={str(share): iso_date(value) for share, value in zip(QUANTILES, quantiles.tolist(), strict=True)},
            histogram_edges=edges,
            histogram_counts=counts,
        )
    edges, counts = _histogram(finite, scale, whole=pa.types.is_integer(dtype))
    return ColumnProfile(
        **common,
        mean=known_number(moments.mean),
        std=known_number(moments.std),
        min=known_number(moments.min),
        max=known_number(moments.max),
        quantiles={str(share): known_number(value) for share, value in zip(QUANTILES, quantiles.tolist(), strict=True)},
        skewness=_skewness(finite),
        grid=tuple(np.quantile(present, _GRID, method="inverted_cdf").tolist()) if len(present) else (),
        histogram_edges=edges,
        histogram_counts=counts,
    )


def _histogram(values: np.ndarray, scale: float, *, whole: bool) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Count values in bins of equal width: one a value for few whole numbers."""
    if not len(values):
        return (), ()
    low, high = values.min(), values.max()
    if whole and high - low < _NUM_BINS:
        edges = np.arange(low - 0.5, high + 1)
    else:
        with np.errstate(over="ignore", invalid="ignore"):
            edges = np.linspace(low, high, _NUM_BINS + 1)
    if not (np.isfinite(edges).all() and (np.diff(edges) > 0).all()):  # one value, or a range that floats can't cut
        return (float(low), float(high)), (len(values) * scale,)
    counts, _ = np.histogram(values, edges)
    return tuple(edges.tolist()), tuple((counts * scale).tolist())


def _skewness(values: np.ndarray) -> float | None:
    """Return the third standardised moment."""
    if len(values) < 3:
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        distances = values - values.mean()
        std = float(np.sqrt(np.mean(distances**2)))
        if not math.isfinite(std) or std <= 1e-12 * float(np.abs(values).max()):
            return None
        return float(np.mean((distances / std) ** 3))
