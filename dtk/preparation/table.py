"""Preparation of a table: fitted in one pass, applied inside each batch, saved with the model."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dtk.errors import ArgumentError, DataError
from dtk.preparation.target import Target, choose_task
from dtk.preparation.target_transform import target_steps
from dtk.preparation.values import KINDS, check_type
from dtk.sources import ExpressionSource, readable, schema_of
from dtk.sources.columns import checked_columns, close_to
from dtk.statistics import infer_kind

if TYPE_CHECKING:
    from torch import nn

    from dtk.loader import Field, Packed
    from dtk.preparation.groups import OwnSteps
    from dtk.preparation.transforms import ColumnTransformer
    from dtk.preparation.transforms.chains import Chain

# The transforms are imported where they are needed: they load scikit-learn.

__all__ = ["TablePreparation"]


class TablePreparation:
    """Turns the columns of a table into what a network takes: numbers standardised, categories as codes.

    Numbers are standardised, clipped to 8 standard deviations, and the mean where missing. Booleans are 0 and 1, the
    more frequent one where missing. Of dates, the cyclic parts that vary (month, weekday, hour) are taken as sine and
    cosine. Categories become codes by falling count; missing, rare and unseen ones are code 0. `columns` has other
    transforms for those columns that need them.

    Parameters
    ----------
    kinds : mapping of str to str, optional
        ``"number"``, ``"category"``, ``"date"``, ``"boolean"`` or ``"ignore"`` for columns whose Arrow type says
        otherwise, for example ``{"flight": "category"}``.
    columns : mapping, optional
        Transforms of `dtk.preparation.transforms` for a column, or for a tuple of columns that go through them
        together: one or a list, by their names and parameters if you like, ``"passthrough"`` or ``"drop"``. For
        example ``{"distance": "RobustScaler", ("lat", "lon"): PCA(1), "title": {"TfidfVectorizer":
        {"max_features": 100}}}``.
    max_categories : int
        Most categories of a column to tell apart; rarer ones are unknown.

    Attributes
    ----------
    transformer : ColumnTransformer
        The fitted transforms, in groups of columns.
    target : ClassTarget, NumberTarget or None
        What `fit` learnt of the target.

    Raises
    ------
    ArgumentError
        If a kind, a transform or a parameter is unknown, or `max_categories` less than 1.

    Examples
    --------
    >>> data = {"delay": np.array([1.0, np.nan, 3.0]), "carrier": np.array(["UA", "AA", "UA"])}
    >>> preparation = TablePreparation().fit(data)
    >>> preparation.feature_names, preparation.cardinalities
    (('delay',), (3,))
    >>> preparation.encode(pa.table(data))["codes"][:, 0]
    array([1, 2, 1])
    >>> TablePreparation(columns={"carrier": "OneHotEncoder"}).fit(data).feature_names
    ('delay', 'carrier_AA', 'carrier_UA')
    """

    def __init__(
        self,
        *,
        kinds: Mapping[str, str] | None = None,
        columns: Mapping[Any, Any] | None = None,
        max_categories: int = 10_000,
    ) -> None:
        for name, kind in (kinds or {}).items():
            if kind not in KINDS:
                raise ArgumentError(f"kinds[{name!r}]={kind!r} is no kind of column; {close_to(kind, KINDS)}")
        if max_categories < 1:
            raise ArgumentError(f"max_categories={max_categories!r} must be at least 1")
        self._given_kinds = dict(kinds or {})
        self._own: OwnSteps = {}
        if columns:
            from dtk.preparation.groups import own_steps

            self._own = own_steps(columns)
        self._max_categories = max_categories
        self._transformer: ColumnTransformer | None = None
        self._kinds: dict[str, str] = {}
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
        """Learn what is needed from the data, in one pass over it unless `columns` need more.

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
        from dtk.preparation.fit import target_chain, target_of
        from dtk.preparation.groups import chains_of
        from dtk.preparation.transforms import ColumnTransformer
        from dtk.preparation.transforms.chains import plan_passes
        from dtk.preparation.transforms.passes import fit_chains

        source = readable(data)
        schema = schema_of(source)
        kinds = self._choose_kinds(schema, inputs, target, weight)
        task = choose_task(schema, target, task, self._given_kinds)
        steps = target_steps(target_transform)
        if steps and task != "regression":
            raise ArgumentError(f"target_transform={target_transform!r} is for a regression; give task='regression'")
        groups = chains_of(schema, kinds, self._own, self._max_categories)
        chains = [chain for _, chain in groups]
        labels = [] if target is None or task is None else [target_chain(schema, target, task, steps)]
        needed = {name for chain in (*chains, *labels) for name in chain.names}
        # an expression evaluates all of its columns, so that it is better made anew where few of them are needed
        narrower = isinstance(source, ExpressionSource) and len(needed) < len(schema)
        given = data if narrower else source
        num_passes = len(plan_passes([*chains, *labels]))
        _, wide = fit_chains([*chains, *labels], given, target, progress=progress)
        self.target, seen_of_target = target_of(labels[0]) if labels else (None, None)
        left = {name for chain in chains for name in chain.names}
        for name in [name for name in kinds if name in needed - left]:
            warnings.warn(f"column {name!r} has no values in the data; it is ignored", UserWarning, stacklevel=2)
        kept = [number for number, chain in enumerate(chains) if chain.names]
        transformer = ColumnTransformer.of_fitted(
            [groups[number] for number in kept], [wide[number] for number in kept], num_passes
        )
        if not transformer.feature_names and not transformer.category_names:
            raise DataError("inputs: no column has any value, or the dates are all the same: nothing to learn from")
        self._transformer = transformer
        self._kinds = {name: kind for name, kind in kinds.items() if name in left}
        self._ignored = tuple(name for name in kinds if name not in left)
        seen = {name: value for chain in chains for name, value in self._seen_of(chain)}
        self._seen = [seen[name] for name in self._kinds] + ([] if seen_of_target is None else [seen_of_target])
        return self

    def _seen_of(self, chain: Chain) -> list[tuple[str, dict[str, Any]]]:
        from dtk.preparation.fit import seen_of

        statistics = next(iter(chain.seen.values()), [None] * len(chain.names))
        pairs = zip(chain.names, statistics, strict=True)
        return [(name, seen_of(name, self._kinds[name], each, self._max_categories)) for name, each in pairs]

    def _choose_kinds(
        self, schema: pa.Schema, inputs: Sequence[str] | None, target: str | None, weight: str | None
    ) -> dict[str, str]:
        """Decide the kind of each input from its type, and refuse what cannot be read so."""
        for name, role in ((target, "target"), (weight, "weight")):
            if name is not None:
                checked_columns(name, schema.names, argument=role)
        checked_columns(list(self._given_kinds), schema.names, argument="kinds")
        own = {name: steps for names, steps in self._own.items() for name in names}
        checked_columns(list(own), schema.names, argument="columns")
        names = checked_columns(inputs, schema.names, argument="inputs")
        if inputs is None:
            names = [name for name in names if name not in (target, weight)]
        elif target in names:
            raise ArgumentError(f"inputs name the target {target!r}; a model cannot be told what it predicts")
        if not names:
            raise ArgumentError(f"inputs={inputs!r} leaves no column to learn from; the data has {schema.names}")
        for name in own:
            if name not in names:
                raise ArgumentError(f"columns={name!r} is none of the inputs; leave it out, or name it in inputs=")
        kinds = {}
        for name in names:
            found = schema.field(name).type
            kind = self._given_kinds.get(name) or infer_kind(found)
            # nulls only in the metadata: a later chunk has none of another type, and fit warns
            kinds[name] = "number" if pa.types.is_null(found) and name not in self._given_kinds else kind
            if name in own:
                continue
            check_type(name, found, kind)
            if kinds[name] == "ignore" and name not in self._given_kinds:
                if inputs is not None:
                    raise DataError(f"inputs={name!r} holds {found}, which is no kind of input; leave it out")
                warnings.warn(f"column {name!r} holds {found}; it is ignored", UserWarning, stacklevel=3)
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
        from dtk.preparation.transforms import ColumnTransformer
        from dtk.preparation.transforms.chains import Chain

        chain = Chain(tuple(columns), (pa.float64(),) * len(columns), [])
        return cls.of(ColumnTransformer.of_fitted([("raw", chain)] if columns else [], [[]], 0))

    @classmethod
    def of(cls, transformer: ColumnTransformer) -> Self:
        """Make a preparation of transforms that are fitted already.

        Parameters
        ----------
        transformer : ColumnTransformer
            Fitted.

        Returns
        -------
        TablePreparation
            That encodes the same, for a bundle to carry.

        Raises
        ------
        NotFittedError
            If it is not fitted.
        """
        from dtk.preparation.fit import seen_of

        preparation = cls()
        for _, steps, names in transformer.fitted_groups:
            kind = steps[0]._kind if steps and steps[0]._kind in KINDS else "number"
            preparation._kinds |= dict.fromkeys(names, kind)
        preparation._seen = [seen_of(name, kind, None, 0) for name, kind in preparation._kinds.items()]
        preparation._transformer = transformer
        return preparation

    @property
    def transformer(self) -> ColumnTransformer:
        """The fitted transforms, in groups of columns."""
        if self._transformer is None:
            raise ArgumentError("preparation is not fitted; call preparation.fit(data) first")
        return self._transformer

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are read, in the order of the inputs."""
        self.transformer  # noqa: B018  # refuses what is not fitted
        return tuple(self._kinds)

    @property
    def kinds(self) -> dict[str, str]:
        """The kind of each column, ignored ones included."""
        return self._kinds | dict.fromkeys(self._ignored, "ignore")

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the numbers that a network gets: the columns of what `as_module` makes of "inputs"."""
        return self.transformer.feature_names

    @property
    def category_names(self) -> tuple[str, ...]:
        """Names of the codes that a network gets, for embeddings."""
        return self.transformer.category_names

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """How many codes each of `category_names` has, code 0 included."""
        return self.transformer.cardinalities

    @property
    def fields(self) -> dict[str, Field]:
        """What `encode` returns, by name: dtype, and shape of one sample."""
        return self.transformer.fields

    def planned(
        self,
        schema: pa.Schema,
        *,
        inputs: Sequence[str] | None = None,
        target: str | None = None,
        weight: str | None = None,
    ) -> tuple[tuple[str, ...], dict[str, Field]]:
        """Say what a fit would read, and what `encode` would return after it, from the types of the columns alone.

        Parameters
        ----------
        schema : pyarrow.Schema
            Of the data.
        inputs, target, weight : object
            As for `fit`.

        Returns
        -------
        columns : tuple of str
            The inputs that are read.
        fields : dict
            As `fields`; as wide as they can be, where the data decides.

        Raises
        ------
        ArgumentError
            If a name is no column of the data, there are no inputs, or a parameter of a transform is out of its range.
        DataError
            If a column cannot be read as its kind.
        """
        from dtk.loader import Field
        from dtk.preparation.groups import chains_of
        from dtk.preparation.transforms.chains import check_chain
        from dtk.preparation.transforms.composition import DTYPES
        from dtk.preparation.transforms.parts import planned_part

        kinds = self._choose_kinds(schema, inputs, target, weight)
        widths = dict.fromkeys(DTYPES, 0)
        chains = [chain for _, chain in chains_of(schema, kinds, self._own, self._max_categories)]
        for chain in chains:
            check_chain(chain, target)
            field, width = planned_part(chain.steps, len(chain.names))
            widths[field] += width
        read = {name for chain in chains for name in chain.names}
        fields = {name: Field(DTYPES[name], (width,)) for name, width in widths.items() if width}
        return tuple(name for name in kinds if name in read), fields

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
        self.transformer.check(schema)

    def is_cross_fitted_to(self, source: Any) -> bool | None:
        """Tell whether rows are those that steps such as `TargetEncoder` were cross-fitted to.

        Parameters
        ----------
        source : Source
            The rows.

        Returns
        -------
        bool or None
            None where there is no such step.
        """
        return self.transformer.is_cross_fitted_to(source)

    def encode(self, table: pa.Table, rows: NDArray[np.int64] | None = None) -> dict[str, NDArray[Any]]:
        """Turn rows into arrays.

        Parameters
        ----------
        table : pyarrow.Table
            With the columns of the fit, in any order.
        rows : numpy.ndarray, optional
            int64 [n]: their numbers at fit, where they are to be encoded out of fold; see `is_cross_fitted_to`.

        Returns
        -------
        dict
            "inputs": float32 [n, encoded columns], NaN where missing, not yet standardised (see `as_module`); "codes":
            int64 [n, encoded columns]. One that would have no columns is left out.

        Raises
        ------
        DataError
            If a column is missing, or of another type than at fit.
        """
        return self.transformer.encode(table, rows)

    def pack(self, table: pa.Table, rows: NDArray[np.int64] | None = None) -> dict[str, Packed]:
        """Turn rows into arrays that are packed on their way into the batches.

        Parameters
        ----------
        table : pyarrow.Table
            With the columns of the fit, in any order.
        rows : numpy.ndarray, optional
            int64 [n]: their numbers at fit, where they are to be encoded out of fold; see `is_cross_fitted_to`.

        Returns
        -------
        dict
            As `encode`.

        Raises
        ------
        DataError
            If a column is missing, or of another type than at fit.
        """
        return self.transformer.pack(table, rows)

    def as_module(self) -> nn.Module:
        """Return the part of preparation that runs on the device of the batch.

        Returns
        -------
        torch.nn.Module
            ``forward(inputs, codes)`` makes of what `encode` returns numbers, float32 [B, features], and codes for
            embeddings, int64 [B, categories]; None for one that has no columns.
        """
        return self.transformer.as_module()

    def to_dict(self) -> dict[str, Any]:
        """Return all that `from_dict` needs, as plain JSON values; the target is kept apart.

        Returns
        -------
        dict
            Floats survive JSON to the last bit.
        """
        return {
            "kinds": dict(self._kinds),
            "ignored": list(self._ignored),
            "transformer": self.transformer.to_dict(),
            "seen": self._seen,
        }

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
        from dtk.preparation.transforms import ColumnTransformer

        preparation = cls()
        preparation._kinds = dict(state["kinds"])
        preparation._ignored = tuple(state["ignored"])
        preparation._transformer = ColumnTransformer.from_dict(state["transformer"])
        preparation._seen = state["seen"]
        return preparation

    def __repr__(self) -> str:
        if self._transformer is None:
            return "TablePreparation(not fitted)"
        return f"TablePreparation({len(self.feature_names)} features, {len(self.category_names)} categories)"
