"""Transforms of several groups of columns, fitted together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from dtk.errors import ArgumentError, DataError
from dtk.preparation.transforms.base import Transform
from dtk.preparation.transforms.chains import Chain, Pass, apply_steps, check_chain, plan_passes
from dtk.preparation.transforms.crossfit import is_cross_fitted_to
from dtk.preparation.transforms.fit_state import FitState
from dtk.preparation.transforms.given import TARGET, Given, take
from dtk.preparation.transforms.parts import Part, part_of
from dtk.preparation.transforms.passes import fit_chains
from dtk.preparation.transforms.specs import steps_from_spec
from dtk.preparation.values import check_type
from dtk.sources.columns import close_to

if TYPE_CHECKING:
    from torch import nn

    from dtk.loader import Field, Packed

__all__ = ["DTYPES", "ColumnTransformer"]

DTYPES: Final[dict[str, np.dtype[Any]]] = {"inputs": np.dtype(np.float32), "codes": np.dtype(np.int64)}
"""Of what `ColumnTransformer.encode` returns."""

Step = Transform | str | Mapping[str, Any]
Steps = Step | Sequence[Step]


class ColumnTransformer(Transform):
    """Applies transforms to groups of columns, as `sklearn.compose.ColumnTransformer`; the whole fit is one scan.

    A step that learns from what an earlier one makes of the data is fitted in the same scan where that can be derived,
    such as the mean of a column in which the missing values are filled in. Where it cannot, `plan` says so.

    Parameters
    ----------
    transformers : list of (str, Transform or list of Transform, columns)
        A name, one transform or several to be applied one after the other (a scikit-learn ``Pipeline`` of them, too),
        ``"drop"`` or ``"passthrough"``; and the columns: a name, or a list of names or of positions. Transformers of
        scikit-learn are converted by `from_sklearn`. For a transform its name may stand, or its name and parameters:
        ``{"SimpleImputer": {"strategy": "median"}}``.
    remainder : str
        What becomes of columns that no group names: ``"drop"`` or ``"passthrough"``.
    verbose_feature_names_out : bool
        Whether the names of the output begin with the name of their group.

    Attributes
    ----------
    transformers_ : list of (str, list of Transform, list of str)
        The fitted groups, that of the remainder last, without dropped ones.
    num_passes_ : int
        How many times the fit read the data.

    Examples
    --------
    >>> from dtk.preparation.transforms import SimpleImputer, StandardScaler
    >>> import pandas as pd
    >>> data = pd.DataFrame({"delay": [1.0, None, 3.0], "distance": [5.0, 6.0, 7.0]})
    >>> numbers = ColumnTransformer([("number", [SimpleImputer(), StandardScaler()], ["delay", "distance"])])
    >>> numbers.fit_transform(data)[:, 0].round(2), numbers.num_passes_
    (array([-1.22,  0.  ,  1.22]), 1)
    """

    _kind = "mixed"

    def __init__(
        self,
        transformers: Sequence[tuple[str, Steps, Any]],
        *,
        remainder: str = "drop",
        verbose_feature_names_out: bool = True,
    ) -> None:
        self.transformers = transformers
        self.remainder = remainder
        self.verbose_feature_names_out = verbose_feature_names_out

    def fit(self, X: Any, y: Any = None, *, progress: bool = False) -> Self:
        """Learn all groups from data, in as few passes over it as can be.

        Parameters
        ----------
        X : DataFrame, array, pyarrow.Table, dask.dataframe.DataFrame, dask.array.Array, xarray.Dataset or str
            As for `Transform.fit`.
        y : str, array or Series, optional
            The target, or its column in `X`, for transforms that learn from it.
        progress : bool
            Whether to show a progress bar.

        Returns
        -------
        ColumnTransformer
            This object, fitted.

        Raises
        ------
        ArgumentError
            If a group names a column that is not there, or a parameter is out of its range.
        DataError
            If a column cannot be read as its transform wants it.
        """
        self.__dict__.pop("_seen", None)
        self._fit(X, y, progress=progress)
        return self

    def partial_fit(self, X: Any, y: Any = None) -> Self:
        """Learn from more data, on top of what was seen by earlier calls; only where one pass is enough.

        Parameters
        ----------
        X : object
            As for `fit`.
        y : object, optional
            As for `fit`.

        Returns
        -------
        ColumnTransformer
            This object, fitted to all data since the last `fit`, or since it was made.

        Raises
        ------
        ArgumentError
            If the fit needs several passes, or columns are others than before.
        DataError
            If a column cannot be read.
        """
        self._seen = self._fit(X, y, seen=self.__dict__.get("_seen"), passes=1)
        return self

    def _fit(
        self, X: Any, y: Any, *, seen: FitState | None = None, passes: int | None = None, progress: bool = False
    ) -> FitState | None:
        given = take(self, X, self._kind, y=y, reset=seen is None)
        groups = self._groups(given)
        chains = [chain for _, chain in groups]
        plan = plan_passes(chains)
        if passes is not None and len(plan) > passes:
            raise ArgumentError(f"partial_fit cannot: {explain(plan)}; call fit on all data")
        data, target = given.scannable
        state, wide = fit_chains(chains, data, target, seen=seen, progress=progress)
        self._set_fitted(groups, wide, len(plan))
        return state

    @classmethod
    def of_fitted(
        cls, groups: Sequence[tuple[str, Chain]], wide: Sequence[Sequence[int]], num_passes: int
    ) -> ColumnTransformer:
        """Put groups together that were fitted already.

        Parameters
        ----------
        groups : sequence of (str, Chain)
            A name, and columns with their fitted steps.
        wide : sequence of sequence of int
            As `fit_chains` returns it.
        num_passes : int
            How many times the fit read the data.

        Returns
        -------
        ColumnTransformer
            Fitted.
        """
        unfitted = [
            (name, [clone(step) for step in chain.steps] or "passthrough", list(chain.names)) for name, chain in groups
        ]
        made = cls(unfitted, verbose_feature_names_out=False)
        made._begin([name for _, chain in groups for name in chain.names])
        made._set_fitted(groups, wide, num_passes)
        return made

    def _set_fitted(self, groups: Sequence[tuple[str, Chain]], wide: Sequence[Sequence[int]], num_passes: int) -> None:
        self.__dict__.pop("_parts", None)
        self.transformers_ = [(name, list(chain.steps), list(chain.names)) for name, chain in groups]
        self.num_passes_ = num_passes
        self.wide_ = [list(columns) for columns in wide]

    def plan(self, X: Any, y: Any = None) -> str:
        """Say how many passes over the data a fit needs, and why, from its columns alone.

        Parameters
        ----------
        X : object
            As for `fit`; nothing of it is read.
        y : object, optional
            As for `fit`.

        Returns
        -------
        str
            Such as ``"fit needs 1 pass"``.

        Raises
        ------
        ArgumentError
            If a group names a column that is not there, or a parameter is out of its range.
        DataError
            If a column cannot be read as its transform wants it.
        """
        given = take(clone(self), X, self._kind, y=y, reset=True)
        chains = [chain for _, chain in self._groups(given)]
        for chain in chains:
            check_chain(chain, None if given.target is None else TARGET)
        return explain(plan_passes(chains))

    def _groups(self, given: Given) -> list[tuple[str, Chain]]:
        """Return a chain of unfitted transforms for each group that is not dropped."""
        types = dict(zip(given.names, given.types, strict=True))
        if self.remainder not in ("drop", "passthrough"):
            raise ArgumentError(f"remainder={self.remainder!r} must be 'drop' or 'passthrough'")
        names = [name for name, _, _ in self.transformers]
        if len(set(names)) < len(names):
            raise ArgumentError(f"transformers: the names {names!r} are not unique")
        rest, groups = dict(types), []
        for name, steps, columns in self.transformers:
            chosen = _chosen(name, columns, list(types))
            for column in chosen:
                rest.pop(column, None)
            if steps != "drop" and chosen:
                chain = Chain(tuple(chosen), tuple(types[column] for column in chosen), _steps_of(name, steps))
                groups.append((name, chain))
        if rest and self.remainder == "passthrough":
            groups.append(("remainder", Chain(tuple(rest), tuple(rest.values()), [])))
        return groups

    @property
    def _is_cross_fitted(self) -> bool:
        groups = [_steps_of(name, steps) for name, steps, _ in self.transformers if not isinstance(steps, str)]
        return any(step._is_cross_fitted for steps in groups for step in steps)

    def _apply(self, given: Given) -> NDArray[Any] | list[pa.ChunkedArray]:
        columns = dict(zip(given.names, given.columns, strict=True))
        results = [
            apply_steps(steps, names, [columns[name] for name in names], given.row)
            for _, steps, names in self.transformers_
        ]
        results = [_as_numbers(result) for result in results]
        if all(isinstance(result, np.ndarray) for result in results):
            return np.concatenate(results, axis=1) if results else np.empty((len(given.columns[0]), 0))
        parts: list[pa.ChunkedArray] = []
        for result in results:
            parts += result if isinstance(result, list) else [pa.chunked_array([column]) for column in result.T]
        return parts

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[Any]:
        """See `Transform`."""
        check_is_fitted(self)
        out = []
        for name, steps, columns in self.transformers_:
            names = steps[-1].get_feature_names_out(None) if steps else columns
            out += [f"{name}__{each}" if self.verbose_feature_names_out else str(each) for each in names]
        if len(set(out)) < len(out):
            raise ArgumentError("names of the output are not unique; give verbose_feature_names_out=True")
        return np.array(out, dtype=object)

    @property
    def fitted_groups(self) -> list[tuple[str, list[Transform], list[str]]]:
        """The groups as they were fitted: ``transformers_``."""
        check_is_fitted(self)
        return self.transformers_

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the numbers that `as_module` gives."""
        return self._names(of_codes=False)

    @property
    def category_names(self) -> tuple[str, ...]:
        """Names of the codes that `as_module` passes on, for embeddings."""
        return self._names(of_codes=True)

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """How many codes each of `category_names` has, 0 included."""
        groups = zip(self._parts, self.transformers_, strict=True)
        return tuple(size for part, (_, steps, _) in groups if part.gives_codes for size in steps[-1].cardinalities_)

    def _names(self, *, of_codes: bool) -> tuple[str, ...]:
        groups = zip(self._parts, self.transformers_, strict=True)
        return tuple(
            str(name)
            for part, (_, steps, names) in groups
            if part.gives_codes == of_codes
            for name in (steps[-1].get_feature_names_out(None) if steps else names)
        )

    @property
    def fields(self) -> dict[str, Field]:
        """What `encode` returns, by name: dtype, and shape of one sample."""
        from dtk.loader import Field

        widths = dict.fromkeys(DTYPES, 0)
        for part in self._parts:
            widths[part.field] += part.width
        return {name: Field(DTYPES[name], (width,)) for name, width in widths.items() if width}

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are read."""
        check_is_fitted(self)
        return tuple(dict.fromkeys(name for _, _, names in self.transformers_ for name in names))

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
        check_is_fitted(self)
        for _, steps, names in self.transformers_:
            types = [_type_in(schema, name) for name in names]
            if steps:
                steps[0]._check_again(names, types)
            else:
                for name, found in zip(names, types, strict=True):
                    check_type(name, found, "number")

    @cached_property
    def _parts(self) -> list[Part]:
        check_is_fitted(self)
        return [
            part_of(steps, names, wide) for (_, steps, names), wide in zip(self.transformers_, self.wide_, strict=True)
        ]

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
        steps = [step for _, steps, _ in self.transformers_ for step in steps]
        return is_cross_fitted_to(steps, source, self.columns)

    def pack(self, table: pa.Table, rows: NDArray[np.int64] | None = None) -> dict[str, Packed]:
        """Turn rows into arrays that are packed on their way into the batches: the first stage.

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
        from dtk.loader import Packed

        encoded: dict[str, list[Any]] = {}
        for part in self._parts:
            encoded.setdefault(part.field, []).extend(part.encode(table, rows))
        return {name: Packed(columns, DTYPES[name]) for name, columns in encoded.items()}

    def encode(self, table: pa.Table, rows: NDArray[np.int64] | None = None) -> dict[str, NDArray[Any]]:
        """Turn rows into arrays: the first stage.

        Parameters
        ----------
        table : pyarrow.Table
            With the columns of the fit, in any order.
        rows : numpy.ndarray, optional
            int64 [n]: their numbers at fit, where they are to be encoded out of fold; see `is_cross_fitted_to`.

        Returns
        -------
        dict
            "inputs": float32 [n, encoded columns], NaN where missing; "codes": int64 [n, encoded columns]. One that
            would have no columns is left out.

        Raises
        ------
        DataError
            If a column is missing, or of another type than at fit.
        """
        return {name: packed.to_numpy() for name, packed in self.pack(table, rows).items()}

    def as_module(self) -> nn.Module:
        """Return the numeric stage of all groups as one torch module.

        Returns
        -------
        torch.nn.Module
            ``forward(inputs, codes)`` maps what `encode` returns to the output, float32 [B, features], and the codes
            that are left for embeddings, int64 [B, columns]; None for one that has no columns.

        Raises
        ------
        NotFittedError
            If there was no fit.
        """
        from dtk.preparation.module import ColumnsModule

        check_is_fitted(self)
        return ColumnsModule(self._parts)


def explain(passes: Sequence[Pass]) -> str:
    """Say how many passes there are, and why.

    Parameters
    ----------
    passes : sequence of Pass
        What `plan_passes` returned.

    Returns
    -------
    str
        A clause.
    """
    if len(passes) < 2:
        return f"fit needs {len(passes)} pass" + ("" if passes else "es")
    return f"fit needs {len(passes)} passes because " + "; then because ".join(each.reason for each in passes[1:])


def _chosen(name: str, columns: Any, available: Sequence[str]) -> list[str]:
    chosen = [columns] if isinstance(columns, str | int) else list(columns)
    found: list[str] = []
    for column in chosen:
        if isinstance(column, int | np.integer) and not isinstance(column, bool):
            if not -len(available) <= column < len(available):
                raise ArgumentError(f"transformers[{name!r}]: there is no column {column} of {len(available)}")
            column = available[int(column)]
        if column not in available:
            raise ArgumentError(f"transformers[{name!r}]: {column!r} is no column of X; {close_to(column, available)}")
        found.append(str(column))
    return found


def _steps_of(name: str, steps: Any) -> list[Transform]:
    """Clone the steps of a group: what the user gave stays unfitted."""
    try:
        return steps_from_spec(steps)
    except ArgumentError as error:
        raise ArgumentError(f"transformers[{name!r}]: {error}") from None


def _type_in(schema: pa.Schema, name: str) -> pa.DataType:
    if name not in schema.names:
        raise DataError(f"column {name!r} is missing in the data; {close_to(name, schema.names)}")
    return schema.field(name).type


def _as_numbers(result: NDArray[Any] | Sequence[pa.ChunkedArray]) -> Any:
    """Turn columns that passed through into numbers, where they are some."""
    if isinstance(result, np.ndarray):
        return result
    kinds = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
    if all(any(check(column.type) for check in kinds) for column in result):
        from dtk.statistics import to_floats

        return np.stack([to_floats(column) for column in result], axis=1)
    return list(result)
