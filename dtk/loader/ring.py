"""The ring of future batches: rows are scattered to their places in it, and a batch is a slice of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from dtk.loader.encoder import Field
from dtk.loader.packed import Joined, Packed, Windows
from dtk.loader.scatter import scatter
from dtk.loader.segments import Integers

__all__ = ["Ring", "pad"]

_LINE_NBYTES: Final = 64


class Ring:
    """Preallocated batches of the next steps of a rank, one array a field.

    Parameters
    ----------
    fields : mapping of str to Field
        The arrays of a batch.
    num_steps : int
        Steps that it holds.
    width : int
        Rows of a batch.
    pinned : bool
        Whether a GPU copies from it.
    """

    def __init__(self, fields: Mapping[str, Field], num_steps: int, width: int, *, pinned: bool = False) -> None:
        self.num_steps, self.width = num_steps, width
        num_rows = num_steps * width
        zeros = {name: _zeros((num_rows, *field.shape), field.dtype) for name, field in fields.items()}
        self._tensors = {name: torch.from_numpy(array) for name, array in zeros.items()}
        if pinned:
            self._tensors = {name: tensor.pin_memory() for name, tensor in self._tensors.items()}
        self._arrays = {name: tensor.numpy() for name, tensor in self._tensors.items()}
        self._constants = {name: field.constant for name, field in fields.items() if field.constant is not None}

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in self._arrays.values())

    def scatter(self, rows: Mapping[str, NDArray[Any] | Packed | Joined | Windows], places: Integers) -> None:
        """Copy rows to their places.

        Parameters
        ----------
        rows : mapping of str to numpy.ndarray, Packed, Joined or Windows
            For each field that is no constant ``[rows, *shape]``.
        places : numpy.ndarray
            An int64 ``[rows]``: step modulo `num_steps`, times `width`, plus the row in the batch; -1 for rows that
            are left out.
        """
        for name in self._arrays.keys() - self._constants.keys():
            scatter(rows[name], places, self._arrays[name])

    def batch(self, step: int, padding: NDArray[np.bool_] | None = None) -> dict[str, torch.Tensor]:
        """Return the batch of a step, without a copy.

        Parameters
        ----------
        step : int
            The step.
        padding : numpy.ndarray, optional
            A bool ``[width]``: the rows to be made padding.

        Returns
        -------
        dict of str to torch.Tensor
            Views of the ring: for each field ``[width, *shape]``.
        """
        rows = slice(step % self.num_steps * self.width, (step % self.num_steps + 1) * self.width)
        for name, constant in self._constants.items():
            self._arrays[name][rows] = constant
        if padding is not None:
            pad({name: array[rows] for name, array in self._arrays.items()}, padding)
        return {name: tensor[rows] for name, tensor in self._tensors.items()}


def _zeros(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Take memory that begins where a line of the cache does: rows of whole half lines then touch as few as can be."""
    nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    memory = np.zeros(nbytes + _LINE_NBYTES, np.uint8)
    start = -memory.__array_interface__["data"][0] % _LINE_NBYTES
    return memory[start : start + nbytes].view(dtype).reshape(shape)


def pad(arrays: Mapping[str, NDArray[Any]], padding: NDArray[np.bool_]) -> None:
    """Overwrite rows of a batch with its first real row, or with zeros if it has none, and give them weight 0.

    Parameters
    ----------
    arrays : mapping of str to numpy.ndarray
        For each field ``[rows, *shape]``; changed in place.
    padding : numpy.ndarray
        A bool ``[rows]``: which rows.
    """
    real = np.flatnonzero(~padding)
    for name, array in arrays.items():
        array[padding] = array[real[0]] if len(real) and name != "weight" else 0
