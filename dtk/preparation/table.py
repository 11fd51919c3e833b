"""Preparation of a table: fitted in one pass, applied inside each batch, saved with the model."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dtk.errors import ArgumentError, DataError
from dtk.preparation.columns import (
    DATE_PARTS,
    CategoryColumn,
    Column,
    DateColumn,
    Feature,
    InputColumn,
    RawColumn,
    column_from_dict,
    column_to_dict,
)
from dtk.preparation.fit import TableFit
from dtk.preparation.target import Target, choose_task
from dtk.preparation.target_transform import target_steps
from dtk.preparation.values import KINDS, check_column, check_type, check_zone
from dtk.sources import ExpressionSource, readable, schema_of
from dtk.sources.columns import checked_columns, close_to
from dtk.statistics import infer_kind, scan

if TYPE_CHECKING:
    from torch import nn

    from dtk.loader import Field, Packed

__all__ = ["TablePreparation"]

_PACK_ROWS: Final = 4096  # rows of a packed block stay in the core's cache while its columns are filled


class TablePreparation:
    """Turns the columns of a table into what a network takes: numbers standardised, categories as codes.

    Numbers are standardised, clipped to 8 standard deviations, and the mean where missing. Booleans are 0 and 1, the
    more frequent one where missing. Of dates, the cyclic parts that vary (month, weekday, hour) are taken as sine and
    cosine. Categories become codes by falling count; missing, rare and unseen ones are code 0.

    Parameters
    ----------
    kinds : mapping of str to str, optional
        ``"number"``, ``"category"``, ``"date"``, ``"boolean"`` or ``"ignore"`` for columns whose Arrow type says
        otherwise, for example ``{"flight": "category"}``.
    max_categories : int
        Most categories of a column to tell apart; rarer ones are unknown.

    Attributes
    ----------
    target : ClassTarget, NumberTarget or None
        What `fit` learnt of the target.

    Raises
    ------
    ArgumentError
        If a kind is unknown, or `max_categories` less than 1.

    Examples
    --------
    >>> data = {"delay": np.array([1.0, np.nan, 3.0]), "carrier": np.array(["UA", "AA", "UA"])}
    >>> preparation = TablePreparation().fit(data)
    >>> preparation.feature_names, preparation.cardinalities
    (('delay',), (3,))
    >>> preparation.encode(pa.table(data))["codes"][:, 0]
    array([1, 2, 1])
    """

    def __init__(self, *, kinds: Mapping[str, str] | None = None, max_categories: int = 10_000) -> None:
        for name, kind in (kinds or {}).items():
            if kind not in KINDS:
                raise ArgumentError(f"kinds[{name!r}]={kind!r} is no kind of column; {close_to(kind, KINDS)}")
        if max_categories < 1:
            raise ArgumentError(f"max_categories={max_categories!r} must be at least 1")
        self._given_kinds = dict(kinds or {})
        self._max_categories = max_categories
        self._columns: tuple[Column, ...] | None = None
        self._ignored: tuple[str, ...] = ()
        self._seen: list[dict[str, Any]] = []
        self.target: Target | None = None

    def fit(
        self,
        data: Any,
        *,
        inputs: Sequence[str] | None = None,
        target: str | None = None,
        task: str | None = None,
        weight: str | None = None,
        target_transform: Any = None,
        progress: bool = False,
    ) -> Self:
        """Learn what is needed from the data, in one pass over it.

        Parameters
        ----------
        data : dask.dataframe.DataFrame, pandas.DataFrame, pyarrow.Table, dict of arrays, str or Source
            Read chunk by chunk on the current Dask client, or here where there is none.
        inputs : sequence of str, optional
            The columns to prepare, in this order; by default all but `target` and `weight`.
        target : str, optional
            The column to predict.
        task : str, optional
            ``"classification"`` or ``"regression"``; by default what the kind of the target says: regression for
            numbers, and classification otherwise.
        weight : str, optional
            The column of sample weights, which is no input.
        target_transform : str, mapping, Transform or sequence of these, optional
            What a target of numbers goes through before it is standardised, see `target_steps`; predictions come back
            in its own unit.
        progress : bool
            Whether to show a progress bar.

        Returns
        -------
        TablePreparation
            This object, fitted.

        Raises
        ------
        ArgumentError
            If a name is no column of the data, the target is among the inputs or its kind contradicts `task`, or there
            are no inputs.
        DataError
            If a column cannot be read as its kind, the data has no rows, or the target has missing values or one class.

        Warns
        -----
        UserWarning
            For columns that are left out: without any value, or of a type that no network takes.
        """
        source = readable(data)
        schema = schema_of(source)
        for name, role in ((target, "target"), (weight, "weight")):
            if name is not None:
                checked_columns(name, schema.names, argument=role)
        checked_columns(list(self._given_kinds), schema.names, argument="kinds")
        kinds = self._choose_kinds(schema, inputs, target, weight)
        task = choose_task(schema, target, task, self._given_kinds)
        steps = target_steps(target_transform)
        if steps and task != "regression":
            raise ArgumentError(f"target_transform={target_transform!r} is for a regression; give task='regression'")
        wanted = {name: kind for name, kind in kinds.items() if kind != "ignore"}
        needed = [*wanted, *([target] if target is not None else [])]
        make = partial(TableFit, schema, wanted, self._max_categories, target, task, steps)
        # an expression evaluates all of its columns, so that it is better made anew where few of them are needed
        narrower = isinstance(source, ExpressionSource) and len(needed) < len(schema)
        fitted = scan(data if narrower else source, make, columns=needed, progress=progress, label="prepare")
        if fitted.num_rows == 0:
            raise DataError("data has no rows, and preparation needs some; check its path and its filters")
        self.target = fitted.finish_target()
        self._seen = fitted.seen()
        columns = fitted.finish_columns()
        for name in [name for name, column in columns.items() if column is None]:
            warnings.warn(f"column {name!r} has no values in the data; it is ignored", UserWarning, stacklevel=2)
        self._columns = tuple(column for column in columns.values() if column is not None)
        self._ignored = tuple(name for name in kinds if columns.get(name) is None)
        if not self.features and not self._categories:
            raise DataError("inputs: no column has any value, or the dates are all the same: nothing to learn from")
        return self

    def _choose_kinds(
        self, schema: pa.Schema, inputs: Sequence[str] | None, target: str | None, weight: str | None
    ) -> dict[str, str]:
        """Decide the kind of each input from its type, and refuse what cannot be read so."""
        names = checked_columns(inputs, schema.names, argument="inputs")
        if inputs is None:
            names = [name for name in names if name not in (target, weight)]
        elif target in names:
            raise ArgumentError(f"inputs name the target {target!r}; a model cannot be told what it predicts")
        if not names:
            raise ArgumentError(f"inputs={inputs!r} leaves no column to learn from; the data has {schema.names}")
        kinds = {}
        for name in names:
            found = schema.field(name).type
            kind = self._given_kinds.get(name) or infer_kind(found)
            check_type(name, found, kind)
            if kind == "ignore" and name not in self._given_kinds and not pa.types.is_null(found):
                if inputs is not None:
                    raise DataError(f"inputs={name!r} holds {found}, which is no kind of input; leave it out")
                warnings.warn(f"column {name!r} holds {found}; it is ignored", UserWarning, stacklevel=3)
            # nulls only in the metadata: a later chunk has none of another type, and fit warns
            kinds[name] = "number" if pa.types.is_null(found) and name not in self._given_kinds else kind
        return kinds

    @classmethod
    def raw(cls, columns: Sequence[str]) -> Self:
        """Make a preparation that passes numbers as they are, NaN where missing, without a fit.

        Parameters
        ----------
        columns : sequence of str
            The inputs, in this order: numbers or booleans.

        Returns
        -------
        TablePreparation
            Ready to use.
        """
        preparation = cls()
        preparation._columns = tuple(RawColumn(name) for name in columns)
        return preparation

    @property
    def fitted_columns(self) -> tuple[Column, ...]:
        """What was learnt of each column, in the order of the inputs."""
        if self._columns is None:
            raise ArgumentError("preparation is not fitted; call preparation.fit(data) first")
        return self._columns

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are read."""
        return tuple(column.name for column in self.fitted_columns)

    @property
    def kinds(self) -> dict[str, str]:
        """The kind of each column, ignored ones included."""
        kinds: dict[str, str] = {column.name: column.kind for column in self.fitted_columns}
        return kinds | dict.fromkeys(self._ignored, "ignore")

    @property
    def _inputs(self) -> tuple[InputColumn, ...]:
        return tuple(column for column in self.fitted_columns if not isinstance(column, CategoryColumn))

    @property
    def _categories(self) -> tuple[CategoryColumn, ...]:
        return tuple(column for column in self.fitted_columns if isinstance(column, CategoryColumn))

    @property
    def features(self) -> tuple[Feature, ...]:
        """How each column of "inputs" is standardised."""
        return tuple(feature for column in self._inputs for feature in column.features)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the columns of "inputs"."""
        return tuple(feature.name for feature in self.features)

    @property
    def category_names(self) -> tuple[str, ...]:
        """Names of the columns of "codes"."""
        return tuple(column.name for column in self._categories)

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """Number of codes of each column of "codes", code 0 included."""
        return tuple(column.cardinality for column in self._categories)

    @property
    def fields(self) -> dict[str, Field]:
        """What `encode` returns, by name: dtype, and shape of one sample."""
        from dtk.loader import Field

        fields = {}
        if self.features:
            fields["inputs"] = Field(np.dtype(np.float32), (len(self.features),))
        if self._categories:
            fields["codes"] = Field(np.dtype(np.int64), (len(self._categories),))
        return fields

    def planned_fields(
        self,
        schema: pa.Schema,
        *,
        inputs: Sequence[str] | None = None,
        target: str | None = None,
        weight: str | None = None,
    ) -> dict[str, Field]:
        """Say what `encode` would return after a fit, from the types of the columns alone.

        Parameters
        ----------
        schema : pyarrow.Schema
            Of the data.
        inputs, target, weight : object
            As for `fit`.

        Returns
        -------
        dict
            As `fields`; for dates with all their parts, of which a fit may leave some out.

        Raises
        ------
        ArgumentError
            If a name is no column of the data, or there are no inputs.
        """
        from dtk.loader import Field

        kinds = list(self._choose_kinds(schema, inputs, target, weight).values())
        num_inputs = kinds.count("number") + kinds.count("boolean") + 2 * len(DATE_PARTS) * kinds.count("date")
        planned = {"inputs": (np.float32, num_inputs), "codes": (np.int64, kinds.count("category"))}
        return {name: Field(np.dtype(dtype), (width,)) for name, (dtype, width) in planned.items() if width}

    def check(self, schema: pa.Schema) -> None:
        """Refuse data that cannot be encoded, before any of it is read.

        Parameters
        ----------
        schema : pyarrow.Schema
            Of the data; columns that are not needed are no matter, nor is their order.

        Raises
        ------
        DataError
            If a column is missing, or of another type than at fit.
        """
        for column in self.fitted_columns:
            keys = column.keys.type if isinstance(column, CategoryColumn) else None
            check_column(schema, column.name, column.kind, keys)
            if isinstance(column, DateColumn):
                check_zone(column.name, schema.field(column.name).type, column.zone)

    def encode(self, table: pa.Table) -> dict[str, NDArray[Any]]:
        """Turn rows into arrays.

        Parameters
        ----------
        table : pyarrow.Table
            With the columns of the fit, in any order.

        Returns
        -------
        dict
            "inputs": float32 [n, features], NaN where missing, not yet standardised (see `as_module`); "codes": int64
            [n, categories]. One that would have no columns is left out.

        Raises
        ------
        DataError
            If a column is missing, or of another type than at fit.
        """
        return {name: _pack(columns) for name, columns in self._encoded(table).items()}

    def pack(self, table: pa.Table) -> dict[str, Packed]:
        """Turn rows into arrays that are packed on their way into the batches.

        Parameters
        ----------
        table : pyarrow.Table
            With the columns of the fit, in any order.

        Returns
        -------
        dict
            As `encode`.

        Raises
        ------
        DataError
            If a column is missing, or of another type than at fit.
        """
        from dtk.loader import Packed

        return {name: Packed(columns, columns[0].dtype) for name, columns in self._encoded(table).items()}

    def _encoded(self, table: pa.Table) -> dict[str, list[NDArray[Any]]]:
        """Encode each column; those of "inputs" and of "codes" are of one dtype each."""
        self.check(table.schema)
        inputs = [array for column in self._inputs for array in column.encode(table[column.name])]
        codes = [column.codes(table[column.name]) for column in self._categories]
        return {name: columns for name, columns in (("inputs", inputs), ("codes", codes)) if columns}

    def as_module(self) -> nn.Module:
        """Return the part of preparation that runs on the device of the batch.

        Returns
        -------
        Standardise
            ``forward(inputs, codes)`` imputes and standardises `inputs`, and passes `codes` on.
        """
        from dtk.preparation.module import Standardise

        return Standardise(self.features)

    def to_dict(self) -> dict[str, Any]:
        """Return all that `from_dict` needs, as plain JSON values; the target is kept apart.

        Returns
        -------
        dict
            Floats survive JSON to the last bit.
        """
        columns = [column_to_dict(column) for column in self.fitted_columns]
        state = {"max_categories": self._max_categories, "columns": columns, "ignored": list(self._ignored)}
        return state | {"seen": self._seen} if self._seen else state

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Self:
        """Rebuild a fitted preparation.

        Parameters
        ----------
        state : dict
            What `to_dict` returned, also after a round trip through JSON.

        Returns
        -------
        TablePreparation
            That encodes the same.
        """
        preparation = cls(max_categories=state["max_categories"])
        preparation._columns = tuple(column_from_dict(column) for column in state["columns"])
        preparation._ignored = tuple(state["ignored"])
        preparation._seen = state.get("seen", [])
        return preparation

    def __repr__(self) -> str:
        if self._columns is None:
            return "TablePreparation(not fitted)"
        return f"TablePreparation({len(self.features)} inputs, {len(self._categories)} categories)"


def _pack(columns: list[NDArray[Any]]) -> NDArray[Any]:
    """Set columns [n] beside each other as C-contiguous rows [n, columns]."""
    packed = np.empty((len(columns[0]), len(columns)), dtype=columns[0].dtype)
    for start in range(0, len(packed), _PACK_ROWS):
        stop = start + _PACK_ROWS
        np.stack([column[start:stop] for column in columns], axis=1, out=packed[start:stop])
    return packed
