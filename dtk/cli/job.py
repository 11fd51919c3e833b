"""A spec put to work: its data opened, derived, filtered and split, and all that doesn't fit together said at once."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from dtk.cli.expressions import evaluate, names_in
from dtk.cli.spec import ClusterSpec, Spec, beside, read_spec
from dtk.config import Mistake, did_you_mean, mistakes_error
from dtk.errors import ArgumentError, DtkError

if TYPE_CHECKING:
    import dask.dataframe as dd

    from dtk.estimators import TorchClassifier, TorchRegressor

__all__ = ["Job", "opened_as", "prepare"]

FEW_CLASSES: Final = 20

Task = Literal["classification", "regression"]


@dataclass(frozen=True)
class Job:
    """What a spec asks for, checked; nothing of it has run.

    Parameters
    ----------
    spec : Spec
        As read.
    path : str
        Of the spec.
    task : {"classification", "regression"}
        As the spec says, or inferred.
    pieces : dict of str to dask.dataframe.DataFrame
        Lazy: train, test, and validation if the split has three pieces; with the inputs, the target and the weight.
    """

    spec: Spec
    path: str
    task: Task
    pieces: dict[str, dd.DataFrame]

    @property
    def output(self) -> str:
        """Where the bundle goes."""
        return beside(self.path, self.spec.output) if self.spec.output else str(Path(self.path).with_suffix(".bundle"))

    @property
    def inputs(self) -> list[str]:
        """Names of the inputs."""
        others = (self.spec.target, self.spec.sample_weight)
        return [name for name in self.pieces["train"].columns if name not in others]

    def estimator(self, *, progress: bool | None = None) -> TorchClassifier | TorchRegressor:
        """Make the estimator that the spec describes.

        Parameters
        ----------
        progress : bool, optional
            Whether to show progress.

        Returns
        -------
        TorchClassifier or TorchRegressor
            Not fitted.
        """
        from dtk.estimators import TorchClassifier, TorchRegressor

        spec = self.spec
        shared: dict[str, Any] = {
            "target": spec.target,
            "epochs": spec.epochs,
            "learning_rate": spec.learning_rate,
            "batch_size": spec.batch_size,
            "patience": spec.patience,
            "kinds": {name: kind for name, kind in spec.kinds.items() if name in self.inputs} or None,
            "memory": spec.memory,
            "ranks": spec.ranks,
            "random_state": spec.seed,
            "progress": progress,
        }
        if self.task == "regression":
            return TorchRegressor(spec.model, **shared)
        return TorchClassifier(spec.model, class_weight=spec.class_weight, **shared)

    @contextlib.contextmanager
    def cluster(self) -> Iterator[Any]:
        """Start or join the cluster that the spec names, and end or leave it afterwards.

        Yields
        ------
        distributed.Client
            The current client meanwhile.
        """
        from dtk.runtime import connect

        wanted = self.spec.cluster
        if isinstance(wanted, ClusterSpec):
            client = connect(**wanted.model_dump(exclude_none=True))
        else:
            client = connect(wanted if wanted is None else beside(self.path, wanted))
        with client:
            yield client


def prepare(path: str | os.PathLike[str]) -> Job:
    """Read a spec and open its data, without running anything on it.

    Parameters
    ----------
    path : str or path
        A YAML file.

    Returns
    -------
    Job
        Checked.

    Raises
    ------
    NotFoundError
        If there is no such file.
    ArgumentError
        If anything in the spec is wrong, by itself or with the data: every mistake, a line each.
    DtkError
        If the data cannot be opened, and that is all.
    """
    path = os.fspath(path)
    spec, mistakes = read_spec(path)
    if spec is None:
        raise mistakes_error(path, mistakes)
    pieces: dict[str, dd.DataFrame] = {}
    try:
        pieces = _Checks(spec, mistakes).run(_open_table(beside(path, spec.data), spec.format))
    except DtkError as error:
        if not mistakes:
            raise
        mistakes.append(Mistake(("data",), f"data: {error}"))
    if mistakes:
        raise mistakes_error(path, mistakes)
    return Job(spec, path, _task_of(spec, pieces["train"]), pieces)


def opened_as(path: str, spec_path: str | None, needed: Iterable[str], *, filtered: bool) -> dd.DataFrame:
    """Open other data as a spec has it, so that a bundle trained by the spec finds its columns there.

    Parameters
    ----------
    path : str
        The data.
    spec_path : str or None
        The spec whose derived columns and filters are wanted; None for the data as it is.
    needed : iterable of str
        Columns that must be there. What only others are derived from need not be in the data.
    filtered : bool
        Whether to apply the filters, too.

    Returns
    -------
    dask.dataframe.DataFrame
        Lazy.

    Raises
    ------
    ArgumentError
        If the spec is wrong, or doesn't go with this data: every mistake, a line each.
    DtkError
        If the data cannot be opened.
    """
    if spec_path is None:
        return _open_table(path)
    spec, mistakes = read_spec(spec_path)
    if spec is None or mistakes:
        raise mistakes_error(spec_path, mistakes)
    wanted = {*needed, *(name for text in spec.filter for name in names_in(text) if filtered)}
    derive = {}
    for name, text in reversed(spec.derive.items()):
        if name in wanted:
            derive[name] = text
            wanted |= set(names_in(text))
    derive = dict(reversed(derive.items()))
    spec = spec.model_copy(update={"derive": derive, "filter": spec.filter if filtered else []})
    checks = _Checks(spec, mistakes)
    data = checks.apply(_open_table(path, spec.format))
    if mistakes:
        raise mistakes_error(f"{spec_path} with {path}", mistakes)
    return data


def _open_table(path: str, format: str | None = None) -> dd.DataFrame:
    from dtk.sources import open as open_data

    data = open_data(path, format=format)
    if not hasattr(data, "map_partitions"):
        raise ArgumentError(f"data={path!r} holds arrays; only tables go here, for now")
    return cast("dd.DataFrame", data)


class _Checks:
    """Applies a spec to its data, and collects what doesn't fit."""

    def __init__(self, spec: Spec, mistakes: list[Mistake]) -> None:
        self.spec = spec
        self.mistakes = mistakes

    def run(self, data: dd.DataFrame) -> dict[str, dd.DataFrame]:
        """Return the pieces; they are good only if no mistake was found."""
        filtered = self.apply(data)
        self._check_names(list(filtered.columns))
        self._check_model()
        pieces = self._split(filtered)
        return {name: piece[self._columns(piece)] for name, piece in pieces.items()} if not self.mistakes else pieces

    def apply(self, data: dd.DataFrame) -> dd.DataFrame:
        """Return the data with the derived columns and without what the filters leave out."""
        return self._filter(self._derive(data))

    def _found(self, place: str, text: object) -> None:
        self.mistakes.append(Mistake((place,), f"{place}: {text}"))

    def _derive(self, data: dd.DataFrame) -> dd.DataFrame:
        for name, expression in self.spec.derive.items():
            try:
                data = data.assign(**{name: evaluate(expression, data)})
            except ArgumentError as error:
                self._found(f"derive.{name}", error)
                data = data.assign(**{name: 0})  # so that what names it isn't wrong, too
        return data

    def _filter(self, data: dd.DataFrame) -> dd.DataFrame:
        from pandas.api.types import is_bool_dtype

        for number, expression in enumerate(self.spec.filter):
            try:
                mask = evaluate(expression, data)
                if not is_bool_dtype(mask.dtype):
                    raise ArgumentError(
                        f"{expression!r} is {mask.dtype}, neither true nor false; compare it with something"
                    )
                data = data[mask]
            except ArgumentError as error:
                self._found(f"filter.{number}", error)
        return data

    def _check_names(self, columns: list[str]) -> None:
        spec = self.spec
        named = [("target", spec.target), ("sample_weight", spec.sample_weight)]
        named += [("split.by", spec.split.by), ("split.group", spec.split.group)]
        for place, names in (("inputs", spec.inputs), ("exclude", spec.exclude), ("split.key", spec.split.key)):
            named += [(place, name) for name in names or ()]
        named += [("kinds", name) for name in spec.kinds]
        for place, name in named:
            if name is not None and name not in columns:
                self._found(place, f"{name!r} is no column of the data{did_you_mean(name, columns)}")

    def _check_model(self) -> None:
        from dtk.models.registry import spec_to_dict

        try:
            spec_to_dict(self.spec.model)
        except ArgumentError as error:
            self._found("model", error)

    def _split(self, data: dd.DataFrame) -> dict[str, dd.DataFrame]:
        from dtk.sources import split

        wanted = self.spec.split
        if any(mistake.place[:1] and str(mistake.place[0]).startswith("split") for mistake in self.mistakes):
            return {}
        try:
            pieces = split(data, **wanted.model_dump(exclude_none=True))
        except ArgumentError as error:
            self._found("split", error)
            return {}
        return dict(zip(wanted.pieces, pieces, strict=True))

    def _columns(self, data: dd.DataFrame) -> list[str]:
        """Name the inputs, the target and the weight."""
        spec = self.spec
        others = [spec.target, spec.sample_weight] if spec.sample_weight else [spec.target]
        left_out = {*others, *spec.exclude}
        inputs = [name for name in spec.inputs or data.columns if name not in left_out]
        return [*inputs, *others]


def _task_of(spec: Spec, data: dd.DataFrame) -> Task:
    """Infer the task from the target's type, and for integers from how many values there are."""
    import pandas as pd

    if spec.task is not None:
        return spec.task
    dtype = data[spec.target].dtype
    if pd.api.types.is_bool_dtype(dtype) or not pd.api.types.is_numeric_dtype(dtype):
        return "classification"
    if not pd.api.types.is_integer_dtype(dtype):
        return "regression"
    from dtk.statistics import scan

    seen = scan(data[[spec.target]], partial(_FewValues, spec.target), label="infer the task")
    return "classification" if len(seen.values) <= FEW_CLASSES else "regression"


class _FewValues:
    """The distinct values of a column, until they are too many for classes."""

    def __init__(self, column: str) -> None:
        self.column = column
        self.values: set[Any] = set()

    def update(self, table: Any, first_row: int) -> None:  # what a scan calls
        if len(self.values) <= FEW_CLASSES:
            self.values |= set(table[self.column].unique().drop_null().to_pylist())

    def merge(self, other: _FewValues) -> None:
        self.values |= other.values
