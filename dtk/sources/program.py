"""The few tasks that an expression needs for one chunk, kept to be run without a scheduler."""

from __future__ import annotations

from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Any

import cloudpickle
import pandas as pd
from dask._task_spec import DataNode, GraphNode, Task
from dask.dataframe.dask_expr._expr import Assign
from dask.dataframe.dask_expr.io.io import BlockwiseIO

__all__ = ["Program"]


class ChunkFrame(BlockwiseIO):
    """Stands for the frame of one chunk, and takes up the projections above it.

    Parameters
    ----------
    frame_meta : pd.DataFrame
        The frame's columns and types, without rows.
    column_names : list of str, optional
        What the expression needs of them; all if None.
    """

    _parameters = ["frame_meta", "column_names"]  # noqa: RUF012 - as Dask reads it
    _defaults = {"column_names": None}  # noqa: RUF012
    _absorb_projections = True

    @property
    def columns(self) -> list[str]:
        """Names of the columns that the expression needs."""
        meta, names = self.operands
        return list(meta.columns) if names is None else list(names)

    @property
    def _meta(self) -> pd.DataFrame:
        meta: pd.DataFrame = self.operands[0][self.columns]
        return meta

    def _divisions(self) -> tuple[None, None]:
        return (None, None)

    def _task(self, name: Any, index: int) -> Any:
        return DataNode(name, None)  # never run: `Program` gives the frame

    def substitute_parameters(self, substitutions: dict[str, Any]) -> Any:
        """Follow a projection, which Dask writes as the operand ``columns``.

        Parameters
        ----------
        substitutions : dict of str to object
            Operands by name.

        Returns
        -------
        Expr
            The same placeholder with these operands.
        """
        if "columns" in substitutions:
            substitutions = {"column_names": substitutions["columns"]}
        return super().substitute_parameters(substitutions)


@dataclass(frozen=True, eq=False)
class Program:
    """The tasks of an expression over one chunk's frame, in the order in which they run.

    Parameters
    ----------
    tasks : tuple of (key, GraphNode)
        Dask's tasks.
    inputs : tuple of (key, list of str)
        Keys that stand for the chunk's frame, with the columns that each has.
    output : object
        The key of the result.
    done_after : tuple of tuple
        For each task, the keys that no later one needs.
    """

    tasks: tuple[tuple[Any, GraphNode], ...]
    inputs: tuple[tuple[Any, list[str]], ...]
    output: Any
    done_after: tuple[tuple[Any, ...], ...]

    @classmethod
    def of(cls, lowered: Any) -> Program:
        """Take the tasks of a lowered expression of one partition.

        Parameters
        ----------
        lowered : Expr
            Over `ChunkFrame` leaves.

        Returns
        -------
        Program
            Picklable.
        """
        graph: dict[Any, GraphNode] = dict(lowered.__dask_graph__())
        inputs = {(leaf._name, 0): leaf.columns for leaf in lowered.find_operations(ChunkFrame)}
        order = TopologicalSorter({key: node.dependencies for key, node in graph.items()}).static_order()
        tasks = tuple((key, _on_rows(graph[key])) for key in order if key not in inputs)
        output = (lowered._name, 0)
        last_use = {needed: number for number, (_, task) in enumerate(tasks) for needed in task.dependencies}
        done: list[list[Any]] = [[] for _ in tasks]
        for key, number in last_use.items():
            if key != output:
                done[number].append(key)
        return cls(tasks, tuple(inputs.items()), output, tuple(map(tuple, done)))

    @property
    def columns(self) -> list[str]:
        """Columns of the chunk's frame that it needs, each once."""
        return list(dict.fromkeys(name for _, names in self.inputs for name in names))

    def run(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Evaluate the expression.

        Parameters
        ----------
        frame : pd.DataFrame
            The chunk's frame.

        Returns
        -------
        pd.DataFrame
            What Dask would compute of it.
        """
        values: dict[Any, Any] = {key: frame[names] for key, names in self.inputs}
        for (key, task), done in zip(self.tasks, self.done_after, strict=True):
            values[key] = task(values)
            for finished in done:
                del values[finished]
        result: pd.DataFrame = values[self.output]
        return result

    def __reduce__(self) -> tuple[Any, ...]:
        # Tasks hold the user's functions, which only cloudpickle takes from a script.
        return _loaded, (cloudpickle.dumps((self.tasks, self.inputs, self.output, self.done_after)),)


def _on_rows(task: GraphNode) -> GraphNode:
    """Let no rows come back that a filter has left out."""
    if isinstance(task, Task) and task.func is Assign.operation:
        return Task(task.key, _assign, *task.args, **task.kwargs)
    return task


def _assign(frame: pd.DataFrame, *pairs: Any) -> pd.DataFrame:
    """Set columns; to a frame that has no rows pandas would add those of the values, null in all other columns."""
    if not len(frame):
        pairs = tuple(value.iloc[:0] if isinstance(value, pd.Series) else value for value in pairs)
    assigned: pd.DataFrame = Assign.operation(frame, *pairs)
    return assigned


def _loaded(payload: bytes) -> Program:
    return Program(*cloudpickle.loads(payload))
