"""A spec put to work: its data opened, derived, filtered and split, and all that doesn't fit together said at once."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from dtk.cli.checks import Checks, Task, task_of
from dtk.cli.spec import ClusterSpec, Spec, beside, read_spec
from dtk.config import Mistake, mistakes_error
from dtk.errors import ArgumentError, DtkError
from dtk.preparation.expressions import names_in

if TYPE_CHECKING:
    import dask.dataframe as dd

    from dtk.estimators import TorchClassifier, TorchRegressor
    from dtk.runtime.local import LocalSize

__all__ = ["Job", "opened_as", "prepare"]


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
    data : dask.dataframe.DataFrame
        Lazy: derived and filtered, not split.
    pieces : dict of str to dask.dataframe.DataFrame
        Lazy: train, test, and validation if the split has three pieces; with the inputs, the target and the weight.
    size : LocalSize or None
        Of the local cluster that will be started; None for one that will be joined.
    """

    spec: Spec
    path: str
    task: Task
    data: dd.DataFrame
    pieces: dict[str, dd.DataFrame]
    size: LocalSize | None

    @property
    def output(self) -> str:
        """Where the bundle goes: an absolute path."""
        output = self.spec.output
        return str(Path(beside(self.path, output) if output else Path(self.path).with_suffix(".bundle")).absolute())

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
            "kinds": spec.kinds or None,
            "columns": spec.columns or None,
            "memory": spec.memory,
            "ranks": spec.ranks,
            "random_state": spec.seed,
            "progress": progress,
        }
        if self.task == "regression":
            return TorchRegressor(spec.model, target_transform=spec.target_transform, **shared)
        return TorchClassifier(spec.model, class_weight=spec.class_weight, **shared)

    def rank_counts(self) -> tuple[int, ...]:
        """Say how many ranks there will be; several numbers to compare where only the cluster tells.

        Returns
        -------
        tuple of int
            One number for a local cluster.
        """
        import torch

        if self.spec.ranks is not None:
            return (self.spec.ranks,)
        if self.size is None or torch.cuda.is_available():
            return (1, 2, 4, 8)
        return (self.size.workers,)

    def share_nbytes(self, ranks: int) -> int | None:
        """Return what each of a number of ranks may hold on the local cluster that will be started.

        Parameters
        ----------
        ranks : int
            Dealt out evenly among the workers.

        Returns
        -------
        int or None
            Bytes; None for a cluster that will be joined.
        """
        return None if self.size is None else self.size.rank_nbytes // math.ceil(ranks / self.size.workers)

    def refuse_empty_pieces(self) -> None:
        """Refuse a split that leaves a piece without rows; counts only where two chunks don't tell.

        Raises
        ------
        ArgumentError
            If a piece has no rows.
        """
        from dtk.sources import as_source, counted

        for name, piece in self.pieces.items():
            source: Any = as_source(piece, columns=[])
            if source.chunk_rows is None and any(source.count(chunk) for chunk in {0, source.num_chunks - 1}):
                continue
            if not counted(source, progress=True).chunk_rows.sum():
                raise ArgumentError(f"{self.path}: split: the {name} piece has no rows; {self._remedy()}")

    def _remedy(self) -> str:
        by = self.spec.split.by
        if by is None:
            return "give it a larger fraction, or check data and filter"
        least, most = self.data[by].min().compute(), self.data[by].max().compute()
        return f"at must lie within {by!r}, which goes from {least} to {most}"

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
    checks = Checks(spec, mistakes, path)
    try:
        data, pieces = checks.run(_open_table(beside(path, spec.data), spec.format))
    except DtkError as error:
        if not mistakes:
            raise
        mistakes.append(Mistake(("data",), f"data: {error}"))
    if mistakes:
        raise mistakes_error(path, mistakes)
    return Job(spec, path, task_of(spec, data), data, pieces, checks.size)


def opened_as(
    path: str, spec_path: str | None, needed: Iterable[str], *, filtered: bool, format: str | None = None
) -> dd.DataFrame:
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
    format : str, optional
        Of the data; the spec's, or guessed, if None.

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
        return _open_table(path, format)
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
    data = Checks(spec, mistakes, spec_path).apply(_open_table(path, format or spec.format))
    if mistakes:
        raise mistakes_error(f"{spec_path} with {path}", mistakes)
    return data


def _open_table(path: str, format: str | None = None) -> dd.DataFrame:
    from dtk.sources import open as open_data

    data = open_data(path, format=format)
    if not hasattr(data, "map_partitions"):
        raise ArgumentError(f"data={path!r} holds arrays; only tables go here, for now")
    return cast("dd.DataFrame", data)
