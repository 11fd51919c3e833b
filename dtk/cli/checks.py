"""All that doesn't fit together in a spec: with its data, and with the machine; collected, not raised."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from dtk.cli.spec import ClusterSpec, Spec, beside
from dtk.config import Mistake, did_you_mean, find_mistakes, read_yaml
from dtk.errors import ArgumentError, DataError, DtkError, SourceError
from dtk.preparation.expressions import evaluate

if TYPE_CHECKING:
    import dask.dataframe as dd

    from dtk.runtime.local import LocalSize

__all__ = ["Checks", "Task", "task_of"]

Task = Literal["classification", "regression"]


class Checks:
    """Applies a spec to its data, and collects what doesn't fit.

    Parameters
    ----------
    spec : Spec
        As much of it as is valid by itself.
    mistakes : list of Mistake
        What is wrong with it by itself; what is found is added.
    path : str
        Of the spec.
    """

    def __init__(self, spec: Spec, mistakes: list[Mistake], path: str) -> None:
        self.spec = spec
        self.mistakes = mistakes
        self.path = path
        self.size: LocalSize | None = None

    def run(self, data: dd.DataFrame) -> tuple[dd.DataFrame, dict[str, dd.DataFrame]]:
        """Look at everything.

        Parameters
        ----------
        data : dask.dataframe.DataFrame
            As opened.

        Returns
        -------
        data : dask.dataframe.DataFrame
            Derived and filtered.
        pieces : dict of str to dask.dataframe.DataFrame
            With the columns that are needed. Both are good only if no mistake was found.
        """
        self._check_cluster()
        self._check_model()
        data = self.apply(data)
        self._check_names(list(data.columns))
        self._check_types(data)
        pieces = self._split(data)
        columns = self._columns(list(data.columns))
        if not self.mistakes:
            pieces = {name: piece[columns] for name, piece in pieces.items()}
            self._check_inputs(pieces["train"])
        return data, pieces

    def apply(self, data: dd.DataFrame) -> dd.DataFrame:
        """Derive and filter.

        Parameters
        ----------
        data : dask.dataframe.DataFrame
            As opened.

        Returns
        -------
        dask.dataframe.DataFrame
            With the derived columns, and without what the filters leave out.
        """
        return self._filter(self._derive(data))

    def _found(self, place: str, text: object) -> None:
        self.mistakes.append(Mistake((place,), f"{place}: {text}"))

    def _is_wrong(self, setting: str) -> bool:
        """Tell whether a mistake was found in a setting, or in a part of it."""
        found = [str(mistake.place[0]) for mistake in self.mistakes if mistake.place]
        return any(name == setting or name.startswith(f"{setting}.") for name in found)

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
        named += [(place, name) for place in ("kinds", "columns") for name in getattr(spec, place)]
        for place, name in named:
            if name is not None and name not in columns:
                self._found(place, f"{name!r} is no column of the data{did_you_mean(name, columns)}")
        inputs = self._inputs(columns)
        if not inputs:
            self._found("exclude", "leaves no column to learn from; exclude fewer")
        for place, told in (("kinds", "its kind"), ("columns", "its preparation")):
            for name in getattr(spec, place):
                if name in columns and name not in inputs:
                    self._found(place, f"{name!r} is none of the inputs, so that {told} is no matter; leave it out")

    def _check_types(self, data: dd.DataFrame) -> None:
        """Look at the types of the columns that are not inputs; what is no column was found before."""
        from pandas.api.types import is_bool_dtype, is_datetime64_any_dtype, is_integer_dtype, is_numeric_dtype

        spec = self.spec
        types = dict(data.dtypes.items())
        target, weight, by = types.get(spec.target), types.get(spec.sample_weight), types.get(spec.split.by)
        if weight is not None and not is_numeric_dtype(weight):
            self._found("sample_weight", f"{spec.sample_weight!r} holds {weight}; give a column of numbers")
        if target is not None and is_integer_dtype(target) and spec.task is None and not self._is_wrong("task"):
            text = f"is missing: {spec.target!r} holds whole numbers; say classification, if they are names of classes"
            self._found("task", f"{text}, or regression, if they are amounts")
        if target is not None and is_bool_dtype(target) and isinstance(spec.class_weight, dict):
            for name in spec.class_weight:
                if not isinstance(name, bool) and name not in (0, 1):
                    self._found("class_weight", f"{name!r} is no class of {spec.target!r}; there is true, and false")
        is_of_classes = target is not None and (is_bool_dtype(target) or not is_numeric_dtype(target))
        if is_of_classes and spec.target_transform is not None and spec.task is None:
            self._found(
                "target_transform", f"{spec.target!r} holds {target}, and no numbers to transform; leave it out"
            )
        if by is not None and (is_datetime64_any_dtype(by) or str(by).startswith("date")):
            for cut in spec.split.at or ():
                if isinstance(cut, (int, float)):
                    self._found("split", f"at={cut!r} is no time; write it as '2013-10-01'")

    def _check_cluster(self) -> None:
        """Size the cluster as it will be started, or read the file that describes it."""
        import torch

        from dtk.runtime.client import ClusterFile
        from dtk.runtime.local import size_local

        cluster = self.spec.cluster
        if self._is_wrong("cluster") or (isinstance(cluster, str) and "://" in cluster):
            return
        given: ClusterSpec | ClusterFile | None = None if isinstance(cluster, str) else cluster or ClusterSpec()
        try:
            if isinstance(cluster, str):
                file = beside(self.path, cluster)
                given, mistakes = find_mistakes(read_yaml(file), ClusterFile)
                for mistake in mistakes:
                    self._found("cluster", f"{file}: {mistake.text}")
            if given is None or (isinstance(given, ClusterFile) and given.kind != "local"):
                return
            size = size_local(given.workers, given.threads, given.memory, given.rank_memory)
        except DtkError as error:
            self._found("cluster", error)
            return
        self.size = size
        slots = size.workers * size.threads
        if self.spec.ranks is not None and self.spec.ranks > slots and not torch.cuda.is_available():
            text = f"a cluster of {size.workers} x {size.threads} threads has room for {slots}"
            self._found("ranks", f"{self.spec.ranks} are too many: {text}; ask fewer, or give cluster.workers")

    def _check_model(self) -> None:
        from dtk.models.registry import spec_to_dict

        try:
            spec_to_dict(self.spec.model)
        except ArgumentError as error:
            self._found("model", error)

    def _check_inputs(self, train: dd.DataFrame) -> None:
        """Refuse what ranks cannot read in place, and kinds that don't go with the types."""
        from dtk.preparation import TablePreparation
        from dtk.sources import as_source, schema_of

        spec = self.spec
        try:
            schema = schema_of(as_source(train))
            preparation = TablePreparation(kinds=spec.kinds or None, columns=spec.columns or None)
            preparation.planned(schema, target=spec.target, weight=spec.sample_weight)
        except SourceError as error:
            self._found("data", error)
        except (ArgumentError, DataError) as error:
            self._found("inputs", error)

    def _split(self, data: dd.DataFrame) -> dict[str, dd.DataFrame]:
        from dtk.sources import split

        wanted = self.spec.split
        if self._is_wrong("split"):
            return {}
        try:
            pieces = split(data, **wanted.model_dump(exclude_none=True))
        except ArgumentError as error:
            self._found("split", error)
            return {}
        return dict(zip(wanted.pieces, pieces, strict=True))

    def _columns(self, columns: list[str]) -> list[str]:
        """Name the inputs, the target and the weight."""
        spec = self.spec
        return [*self._inputs(columns), spec.target, *([spec.sample_weight] if spec.sample_weight else [])]

    def _inputs(self, columns: list[str]) -> list[str]:
        left_out = {self.spec.target, self.spec.sample_weight, *self.spec.exclude}
        return [name for name in self.spec.inputs or columns if name not in left_out]


def task_of(spec: Spec, data: dd.DataFrame) -> Task:
    """Tell what is learnt: classes, or a number.

    Parameters
    ----------
    spec : Spec
        Checked: it says so where the target is whole numbers.
    data : dask.dataframe.DataFrame
        With the target.

    Returns
    -------
    {"classification", "regression"}
        As the spec says, or as the target's type does.
    """
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    if spec.task is not None:
        return spec.task
    dtype = data[spec.target].dtype
    return "regression" if is_numeric_dtype(dtype) and not is_bool_dtype(dtype) else "classification"
