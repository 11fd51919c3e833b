"""From variables with dimensions to the arrays of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dtk.errors import ArgumentError, DataError
from dtk.loader.checks import unfit_labels
from dtk.loader.encoder import Field
from dtk.loader.packed import Joined
from dtk.sources.arrays import ArraySource
from dtk.sources.variables import ArrayBlock, ArrayVariable

__all__ = ["GridEncoder", "GridLabels"]

_FLOAT = np.dtype(np.float32)


class GridLabels:
    """Takes the target and the weight of samples from variables.

    Parameters
    ----------
    source : ArraySource
        What is read.
    target : str, optional
        The variable that becomes ``"target"``: int64 if it holds integers or booleans, else float32.
    weight : str, optional
        The variable that becomes ``"weight"``: a number for each sample.

    Raises
    ------
    ArgumentError
        If a variable is missing, or has no value for each sample.
    """

    def __init__(self, source: ArraySource, *, target: str | None = None, weight: str | None = None) -> None:
        self.fields: dict[str, Field] = {}
        self._dim = source.dim
        self._names = {name: label for name, label in (("target", target), ("weight", weight)) if label is not None}
        for name, label in self._names.items():
            variable = source.variables.get(label)
            if variable is None or variable.is_static:
                raise ArgumentError(
                    f"{name}={label!r} is no variable with samples, which lie along {source.dim!r}; "
                    f"{_remedy(source, variable)}"
                )
            is_whole = name == "target" and variable.dtype.kind in "iub"
            self.fields[name] = Field(np.dtype(np.int64) if is_whole else _FLOAT, variable.shape)
        if weight is not None and source.variables[weight].shape:
            raise ArgumentError(f"weight={weight!r} has dimensions beside {source.dim!r}; give one number a sample")
        self.columns = tuple(dict.fromkeys(self._names.values()))

    def pack(self, block: ArrayBlock) -> dict[str, NDArray[Any]]:
        """Encode samples.

        Parameters
        ----------
        block : ArrayBlock
            The samples.

        Returns
        -------
        dict of str to numpy.ndarray
            For each field ``[samples, *field.shape]``.

        Raises
        ------
        DataError
            If a weight, or a target of one number a sample, is NaN or infinite, or a weight negative.
        """
        packed: dict[str, NDArray[Any]] = {}
        for name, label in self._names.items():
            packed[name] = raw = block.arrays[label]
            if self.fields[name].shape:
                continue  # a field may be masked
            with np.errstate(over="ignore", invalid="ignore"):
                values = raw.astype(self.fields[name].dtype, copy=False)
            for problem, num_samples in unfit_labels(raw, values, is_weight=name == "weight"):
                if num_samples:
                    raise DataError(
                        f"{name}={label!r} is {problem} in {num_samples} samples; leave these out along {self._dim!r} "
                        "first, and spool the others with dtk.spool"
                    )
        return packed


class GridEncoder:
    """Puts the variables of a source beside each other as channels.

    Parameters
    ----------
    source : ArraySource
        What is read.
    inputs : sequence of str, optional
        The input variables, in the order of their channels; all but target and weight, by name, if None.
    target : str, optional
        The variable that becomes ``"target"``, see `GridLabels`.
    weight : str, optional
        The variable that becomes ``"weight"``; ones if None.
    argument : str
        The argument that an error about the inputs names.

    Raises
    ------
    ArgumentError
        If a variable is missing, or the inputs do not share their last dimensions.

    Notes
    -----
    The last two dimensions that the inputs have beside that of the samples, or the one, stay as they are; all others
    become channels, and the variables follow each other: ``[batch, channels, *dimensions]``. Variables without the
    dimension of the samples become ``"static"``, of the same shape but without the batch, read once.
    """

    def __init__(
        self,
        source: ArraySource,
        *,
        inputs: Sequence[str] | None = None,
        target: str | None = None,
        weight: str | None = None,
        argument: str = "inputs",
    ) -> None:
        self._labels = GridLabels(source, target=target, weight=weight)
        # A store lists its variables in any order.
        names = sorted(set(source.variables) - {target, weight}) if inputs is None else list(inputs)
        for name in names:
            if name not in source.variables or name in (target, weight):
                raise ArgumentError(f"{argument}={name!r} is no variable to learn from; there are {_named(source)}")
        chosen = [source.variables[name] for name in names]
        self._inputs = [variable for variable in chosen if not variable.is_static]
        static = [variable for variable in chosen if variable.is_static]
        for variable in static:
            if not variable.shape:
                raise ArgumentError(f"{argument}={variable.name!r} is one number for all samples; leave it out")
        if not self._inputs:
            raise ArgumentError(f"{argument}={names!r} have no samples: none has the dimension {source.dim!r}")
        dims = _shared_dims(self._inputs, argument)
        self.fields = {"inputs": Field(_FLOAT, _shape(self._inputs, dims, argument)), **self._labels.fields}
        self.fields.setdefault("weight", Field(_FLOAT, constant=1.0))
        self.columns = tuple(dict.fromkeys([*(one.name for one in self._inputs), *self._labels.columns]))
        self.static_shape = _shape(static, dims, argument, source.dim) if static else ()
        self._static = static

    def pack(self, block: ArrayBlock) -> Mapping[str, NDArray[Any] | Joined]:
        """Encode samples.

        Parameters
        ----------
        block : ArrayBlock
            The samples.

        Returns
        -------
        mapping of str to numpy.ndarray or Joined
            For each field that is no constant ``[samples, *field.shape]``.

        Raises
        ------
        DataError
            If a weight, or a target of one number a sample, is NaN or infinite, or a weight negative.
        """
        inputs = Joined([block.arrays[variable.name] for variable in self._inputs])
        return {"inputs": inputs, **self._labels.pack(block)}

    def static(self, source: ArraySource) -> NDArray[np.float32] | None:
        """Read the variables that all samples share.

        Parameters
        ----------
        source : ArraySource
            The source.

        Returns
        -------
        numpy.ndarray or None
            Float32 ``[channels, *dimensions]``; None if there are none.
        """
        if not self._static:
            return None
        static = np.empty(self.static_shape, _FLOAT)
        first = 0
        for variable in self._static:
            values = source.read_static(variable.name).reshape(-1, *self.static_shape[1:])
            static[first : first + len(values)] = values
            first += len(values)
        return static


def _shared_dims(variables: Sequence[ArrayVariable], argument: str) -> tuple[str, ...]:
    """Return the last dimensions that stay as they are; all variables must have them."""
    longest = max(variables, key=lambda variable: len(variable.dims))
    dims = longest.dims[-2:]
    for variable in variables:
        if variable.dims[len(variable.dims) - len(dims) :] != dims:
            raise ArgumentError(
                f"{argument}={variable.name!r} has the dimensions {variable.dims} and {longest.name!r} has "
                f"{longest.dims}; they must share their last two, so leave one out, or transpose it and write it anew"
            )
    return dims


def _shape(
    variables: Sequence[ArrayVariable], dims: tuple[str, ...], argument: str, lacks: str = ""
) -> tuple[int, ...]:
    """Return the shape of the variables' channels: ``(channels, *dimensions)``."""
    shapes = {variable.shape[len(variable.shape) - len(dims) :] for variable in variables}
    is_same = all(variable.dims[len(variable.dims) - len(dims) :] == dims for variable in variables)
    if len(shapes) != 1 or not is_same:
        names = [variable.name for variable in variables]
        why = f" as they lack {lacks!r}, along which samples lie" if lacks else ""
        remedy = f"leave others out{', or pass another dim=' if lacks else ''}"
        raise ArgumentError(f"{argument}={names!r} must end with the dimensions {dims} of one size{why}; {remedy}")
    spatial = next(iter(shapes))
    per_channel = int(np.prod(spatial, dtype=np.int64))
    channels = sum(int(np.prod(variable.shape, dtype=np.int64)) // max(1, per_channel) for variable in variables)
    return (channels, *spatial)


def _remedy(source: ArraySource, variable: ArrayVariable | None) -> str:
    if variable is not None and variable.shape:
        return f"choose another, or one of its dimensions {variable.dims} with dim="
    return f"there are {', '.join(map(repr, source.variables))}"


def _named(source: ArraySource) -> str:
    return ", ".join(map(repr, source.variables))
