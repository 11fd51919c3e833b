"""From variables with dimensions to the arrays of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dtk.errors import ArgumentError
from dtk.loader.encoder import Field
from dtk.loader.packed import Joined
from dtk.sources.arrays import ArraySource
from dtk.sources.variables import ArrayBlock, ArrayVariable

__all__ = ["GridEncoder"]

_FLOAT = np.dtype(np.float32)


class GridEncoder:
    """Puts the variables of a source beside each other as channels.

    Parameters
    ----------
    source : ArraySource
        What is read.
    inputs : sequence of str, optional
        The input variables, in the order of their channels; all but target and weight, by name, if None.
    target : str, optional
        The variable that becomes ``"target"``: int64 if it holds integers or booleans, else float32.
    weight : str, optional
        The variable that becomes ``"weight"``: a number for each sample.
    may_hold_target : bool
        Whether the target may be an input too: in windows, which hold it at another time.

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
        may_hold_target: bool = False,
    ) -> None:
        for argument, name in (("target", target), ("weight", weight)):
            if name is not None and (name not in source.variables or source.variables[name].is_static):
                raise ArgumentError(f"{argument}={name!r} is no variable with samples; there are {_named(source)}")
        # A store lists its variables in any order.
        names = sorted(set(source.variables) - {target, weight}) if inputs is None else list(inputs)
        for name in names:
            if name not in source.variables or name in (None if may_hold_target else target, weight):
                raise ArgumentError(f"inputs={name!r} is no variable to learn from; there are {_named(source)}")
        chosen = [source.variables[name] for name in names]
        self._inputs = [variable for variable in chosen if not variable.is_static]
        static = [variable for variable in chosen if variable.is_static]
        for variable in static:
            if not variable.shape:
                raise ArgumentError(f"inputs={variable.name!r} is one number for all samples; leave it out of inputs=")
        if not self._inputs:
            raise ArgumentError(f"inputs={names!r} have no samples: none has the dimension {source.dim!r}")
        self._target, self._weight = target, weight
        dims = _shared_dims(self._inputs)
        self.fields: dict[str, Field] = {"inputs": Field(_FLOAT, _shape(self._inputs, dims))}
        if target is not None:
            variable = source.variables[target]
            dtype = np.dtype(np.int64) if variable.dtype.kind in "iub" else _FLOAT
            self.fields["target"] = Field(dtype, variable.shape)
        if weight is not None and source.variables[weight].shape:
            raise ArgumentError(f"weight={weight!r} has dimensions beside {source.dim!r}; give one number a sample")
        self.fields["weight"] = Field(_FLOAT)
        self.columns = tuple(
            dict.fromkeys([*(one.name for one in self._inputs), *(name for name in (target, weight) if name)])
        )
        self.static_shape = _shape(static, dims) if static else ()
        self._static = tuple(one.name for one in static)

    def pack(self, block: ArrayBlock) -> Mapping[str, NDArray[Any] | Joined]:
        """Encode samples.

        Parameters
        ----------
        block : ArrayBlock
            The samples.

        Returns
        -------
        mapping of str to numpy.ndarray or Joined
            For each field ``[samples, *field.shape]``.
        """
        packed: dict[str, NDArray[Any] | Joined] = {
            "inputs": Joined([block.arrays[variable.name] for variable in self._inputs])
        }
        if self._target is not None:
            packed["target"] = block.arrays[self._target]
        ones = np.ones(block.num_rows, _FLOAT)
        packed["weight"] = block.arrays[self._weight] if self._weight is not None else ones
        return packed

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
        spatial = self.static_shape[1:]
        parts = [source.read_static(name).astype(_FLOAT).reshape(-1, *spatial) for name in self._static]
        return np.concatenate(parts)


def _shared_dims(variables: Sequence[ArrayVariable]) -> tuple[str, ...]:
    """Return the last dimensions that stay as they are; all variables must have them."""
    longest = max(variables, key=lambda variable: len(variable.dims))
    dims = longest.dims[-2:]
    for variable in variables:
        if variable.dims[len(variable.dims) - len(dims) :] != dims:
            raise ArgumentError(
                f"inputs={variable.name!r} has the dimensions {variable.dims} and {longest.name!r} has {longest.dims}; "
                "inputs must share their last two, so leave one out, or transpose it and write it anew"
            )
    return dims


def _shape(variables: Sequence[ArrayVariable], dims: tuple[str, ...]) -> tuple[int, ...]:
    """Return the shape of the variables' channels: ``(channels, *dimensions)``."""
    shapes = {variable.shape[len(variable.shape) - len(dims) :] for variable in variables}
    is_same = all(variable.dims[len(variable.dims) - len(dims) :] == dims for variable in variables)
    if len(shapes) != 1 or not is_same:
        names = [variable.name for variable in variables]
        raise ArgumentError(f"inputs={names!r} must end with the dimensions {dims} of one size; leave others out")
    spatial = next(iter(shapes))
    per_channel = int(np.prod(spatial, dtype=np.int64))
    channels = sum(int(np.prod(variable.shape, dtype=np.int64)) // max(1, per_channel) for variable in variables)
    return (channels, *spatial)


def _named(source: ArraySource) -> str:
    return ", ".join(map(repr, source.variables))
