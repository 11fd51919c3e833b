"""The target of a table: classes as codes, or numbers standardised; and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from typing import Any, ClassVar, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dtk.errors import ArgumentError, DataError
from dtk.preparation.target_transform import TargetTransform
from dtk.preparation.values import Value, as_numbers, check_column, check_type, lookup, vocabulary_keys
from dtk.statistics import infer_kind

__all__ = ["ClassTarget", "NumberTarget", "Target", "choose_task", "refuse_missing", "target_from_dict"]

_TASK_OF_KIND: Final = {"number": "regression", "category": "classification", "boolean": "classification"}


@dataclass(frozen=True)
class ClassTarget:
    """A target of classes.

    Parameters
    ----------
    name : str
        The column of the data.
    classes : tuple
        In sorted order: strings, integers, whole floats or booleans. The code of a class is its position.
    counts : tuple of int
        How often each occurred at fit.
    """

    task: ClassVar[str] = "classification"
    dtype: ClassVar[np.dtype[Any]] = np.dtype(np.int64)
    name: str
    classes: tuple[Value, ...]
    counts: tuple[int, ...]

    @cached_property
    def keys(self) -> pa.Array:
        """The classes, as values are compared with them."""
        return vocabulary_keys(self.classes)

    @property
    def num_outputs(self) -> int:
        """One output of the network a class."""
        return len(self.classes)

    def check(self, schema: pa.Schema) -> None:
        """Refuse data without this target, or with one of another type, before any of it is read.

        Parameters
        ----------
        schema : pyarrow.Schema
            Of the data.

        Raises
        ------
        DataError
            If the column is missing or of another type than at fit.
        """
        check_column(schema, self.name, "category", self.keys.type)

    def encode(self, values: pa.Array | pa.ChunkedArray) -> NDArray[np.int64]:
        """Turn classes into codes.

        Parameters
        ----------
        values : pyarrow.Array or pyarrow.ChunkedArray
            Shape [n].

        Returns
        -------
        numpy.ndarray
            int64 [n].

        Raises
        ------
        DataError
            If a value is missing, or no class that was seen at fit.
        """
        values = _chunked(values)
        codes = lookup(self.name, values, self.keys)
        if len(codes) and codes.min() < 0:
            _refuse_missing(self.name, values)
            unknown = values.take(pa.array([int(codes.argmin())]))[0].as_py()
            shown = ", ".join(repr(known) for known in self.classes[:10]) + (", ..." if len(self.classes) > 10 else "")
            raise DataError(
                f"target={self.name!r} holds {unknown!r}, which is none of the classes seen at fit ({shown}); "
                "fit on data that has it, or filter it out"
            )
        return codes

    def decode(self, codes: NDArray[np.integer[Any]]) -> NDArray[Any]:
        """Turn codes into classes.

        Parameters
        ----------
        codes : numpy.ndarray
            Integers [n].

        Returns
        -------
        numpy.ndarray
            [n], of bool, int64, float64, or object for strings.
        """
        decoded: NDArray[Any] = self.labels[codes]
        return decoded

    @property
    def labels(self) -> NDArray[Any]:
        """The classes as an array."""
        return np.array(self.classes, dtype=object if isinstance(self.classes[0], str) else None)

    def weights(self, class_weight: str | Mapping[Any, float]) -> NDArray[np.float32]:
        """Return the weight of each class.

        Parameters
        ----------
        class_weight : str or mapping
            ``"balanced"`` for ``rows / (classes * count)``, or the weight by class, 1 for those that are not named.

        Returns
        -------
        numpy.ndarray
            float32 [classes].

        Raises
        ------
        ArgumentError
            If a class is unknown, or a weight negative or infinite.
        """
        if isinstance(class_weight, str):
            if class_weight != "balanced":
                raise ArgumentError(f"class_weight={class_weight!r} must be 'balanced' or a weight by class")
            balanced = [sum(self.counts) / (len(self.counts) * count) for count in self.counts]
            return np.array(balanced, dtype=np.float32)
        for label, weight in class_weight.items():
            if label not in self.classes:
                raise ArgumentError(f"class_weight names {label!r}, which is no class; the classes are {self.classes}")
            if not (isinstance(weight, Real) and 0 <= weight < math.inf):
                raise ArgumentError(f"class_weight[{label!r}]={weight!r} must be a finite number, 0 or more")
        return np.array([class_weight.get(label, 1.0) for label in self.classes], dtype=np.float32)

    def to_dict(self) -> dict[str, Any]:
        """Return all that `target_from_dict` needs, as plain JSON values.

        Returns
        -------
        dict
            With the task, which tells the class.
        """
        return {"task": self.task, "name": self.name, "classes": list(self.classes), "counts": list(self.counts)}


@dataclass(frozen=True)
class NumberTarget:
    """A target of numbers, which the network sees standardised.

    Parameters
    ----------
    name : str
        The column of the data.
    mean : float
        At fit.
    scale : float
        Standard deviation at fit (of the population); 1 where the target is constant.
    transform : TargetTransform, optional
        What it goes through first; `mean` and `scale` are those of what comes out.
    """

    task: ClassVar[str] = "regression"
    dtype: ClassVar[np.dtype[Any]] = np.dtype(np.float32)
    name: str
    mean: float
    scale: float
    transform: TargetTransform | None = None

    @property
    def num_outputs(self) -> int:
        """One output of the network."""
        return 1

    def check(self, schema: pa.Schema) -> None:
        """Refuse data without this target, or with one of another type, before any of it is read.

        Parameters
        ----------
        schema : pyarrow.Schema
            Of the data.

        Raises
        ------
        DataError
            If the column is missing or of another type than at fit.
        """
        check_column(schema, self.name, "number")

    def encode(self, values: pa.Array | pa.ChunkedArray) -> NDArray[np.float32]:
        """Transform and standardise numbers.

        Parameters
        ----------
        values : pyarrow.Array or pyarrow.ChunkedArray
            Shape [n].

        Returns
        -------
        numpy.ndarray
            float32 [n].

        Raises
        ------
        DataError
            If a value is missing or no number, or the transform has none for it.
        """
        numbers = self.numbers(values)
        if self.transform is not None:
            numbers = self.transform.forward(self.name, numbers)
        return ((numbers - self.mean) / self.scale).astype(np.float32)

    def numbers(self, values: pa.Array | pa.ChunkedArray) -> NDArray[np.float64]:
        """Return numbers in the target's unit.

        Parameters
        ----------
        values : pyarrow.Array or pyarrow.ChunkedArray
            Shape [n].

        Returns
        -------
        numpy.ndarray
            float64 [n].

        Raises
        ------
        DataError
            If a value is missing or no number.
        """
        numbers: NDArray[np.float64] = as_numbers(self.name, _chunked(values)).to_numpy().astype(np.float64)
        if np.isnan(numbers).any():
            _refuse_missing(self.name, _chunked(values))
        return numbers

    def decode(self, outputs: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Undo the standardisation, and the transform.

        Parameters
        ----------
        outputs : numpy.ndarray
            Floats [n], as the network predicts them.

        Returns
        -------
        numpy.ndarray
            float64 [n], in the target's unit.
        """
        numbers: NDArray[np.float64] = outputs.astype(np.float64) * self.scale + self.mean
        return numbers if self.transform is None else self.transform.inverse(numbers)

    def to_dict(self) -> dict[str, Any]:
        """Return all that `target_from_dict` needs, as plain JSON values.

        Returns
        -------
        dict
            With the task, which tells the class.
        """
        standard: dict[str, Any] = {"mean": self.mean, "scale": self.scale}
        if self.transform is not None:  # in there, so that a version that knows no transforms refuses it
            standard = {"transform": {**self.transform.to_dict(), **standard}}
        return {"task": self.task, "name": self.name, **standard}


Target = ClassTarget | NumberTarget


def choose_task(schema: pa.Schema, target: str | None, task: str | None, kinds: Mapping[str, str]) -> str | None:
    """Decide the task from the kind of the target, and refuse a target that does not suit it.

    Parameters
    ----------
    schema : pyarrow.Schema
        Of the data.
    target : str or None
        The column to predict.
    task : str or None
        What was asked for.
    kinds : mapping of str to str
        The kinds that were given.

    Returns
    -------
    str or None
        ``"classification"`` or ``"regression"``; None without a target.

    Raises
    ------
    ArgumentError
        If the task is unknown, or the kind of the target contradicts it or is that of no target.
    DataError
        If the column cannot be read so.
    """
    if task is not None and task not in _TASK_OF_KIND.values():
        raise ArgumentError(f"task={task!r} must be 'classification' or 'regression'")
    if target is None:
        return None
    found, kind = schema.field(target).type, kinds.get(target)
    if kind is not None:
        if kind not in _TASK_OF_KIND:
            raise ArgumentError(f"kinds[{target!r}]={kind!r} is no kind of target; give 'category' or 'number'")
        if task not in (None, _TASK_OF_KIND[kind]):
            raise ArgumentError(f"task={task!r} contradicts kinds[{target!r}]={kind!r} of the target; leave one out")
    task = task or _TASK_OF_KIND.get(kind or infer_kind(found), "classification")
    check_type(target, found, "number" if task == "regression" else "category")
    return task


def target_from_dict(state: dict[str, Any]) -> Target:
    """Rebuild a fitted target.

    Parameters
    ----------
    state : dict
        What `to_dict` returned, also after a round trip through JSON.

    Returns
    -------
    ClassTarget or NumberTarget
        Equal to the first.
    """
    if state["task"] == "classification":
        return ClassTarget(state["name"], tuple(state["classes"]), tuple(state["counts"]))
    if "transform" in state:
        inner = state["transform"]
        return NumberTarget(state["name"], inner["mean"], inner["scale"], TargetTransform.from_dict(inner))
    return NumberTarget(state["name"], state["mean"], state["scale"])


def _chunked(values: pa.Array | pa.ChunkedArray) -> pa.ChunkedArray:
    return values if isinstance(values, pa.ChunkedArray) else pa.chunked_array([values])


def refuse_missing(name: str, missing: int) -> None:
    """Refuse a target that is not there in every row.

    Parameters
    ----------
    name : str
        The column of the data.
    missing : int
        In how many rows it is missing.

    Raises
    ------
    DataError
        If there are any.
    """
    if missing:
        raise DataError(f"target={name!r} is missing in {missing} rows; drop them with data.dropna(subset=[{name!r}])")


def _refuse_missing(name: str, values: pa.ChunkedArray) -> None:
    refuse_missing(name, values.is_null(nan_is_null=True).to_numpy().sum())
