"""Datasets as work for a spool: Zarr of version 3, cut along the samples alone, each chunk written by one task."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from dask.base import optimize

from dtk.config import did_you_mean
from dtk.errors import ArgumentError, DataError
from dtk.sources.grid_identity import grid_identity, grid_paths

if TYPE_CHECKING:
    import xarray as xr
    from dask.array import Array

__all__ = ["GridWork"]

CHUNK_NBYTES: Final = 2 * 2**20  # of the biggest variable, decoded
PIECE_NBYTES: Final = 64 * 2**20  # of all variables, decoded
_FEW_TASKS: Final = 64  # of a first chunk that is computed to see how well it is compressed
_OF_TIME: Final = ("units", "calendar")


@dataclass(frozen=True, eq=False)
class GridWork:
    """A Dataset to spool.

    Parameters
    ----------
    data : xarray.Dataset
        What to write; what has samples is lazy, cut into pieces along them, all else in memory or small.
    dim : str
        The dimension of the samples.
    names : tuple of str
        Variables that are written piece by piece.
    chunk_rows : int
        Samples of a chunk.
    piece_rows : int
        Samples of a piece, a multiple of these.
    identity : str or None
        Hash of what is computed and what is read; None where that may change without notice.
    """

    data: xr.Dataset
    dim: str
    names: tuple[str, ...]
    chunk_rows: int
    piece_rows: int
    identity: str | None

    kind = "grid"

    @classmethod
    def of(cls, data: xr.Dataset, dim: str | None) -> GridWork:
        """Look at a Dataset, lazily.

        Parameters
        ----------
        data : xarray.Dataset
            Opened, computed or in memory.
        dim : str, optional
            The dimension of the samples; the first one of the biggest variable if None.

        Returns
        -------
        GridWork
            Nothing is computed.

        Raises
        ------
        ArgumentError
            If there is no such dimension.
        DataError
            If there are no variables, or no samples.
        """
        if not data.data_vars:
            raise DataError("data has no variables; give some")
        if not all(isinstance(name, str) for name in data.variables):
            raise DataError(f"data has variables of the names {list(data.variables)}; name them by strings")
        empty = [str(name) for name, size in data.sizes.items() if size == 0]
        if empty:
            raise DataError(f"data is empty along {empty}; give it samples")
        largest = max(data.data_vars.values(), key=lambda variable: variable.nbytes)
        if dim is None and not largest.dims:
            raise DataError("data has no dimensions; give variables that have samples")
        dim = str(largest.dims[0]) if dim is None else dim
        if dim not in data.sizes:
            raise ArgumentError(
                f"dim={dim!r} is no dimension of the data{did_you_mean(dim, list(map(str, data.sizes)))}"
            )
        names = tuple(
            str(name) for name, variable in data.variables.items() if dim in variable.dims and name not in data.xindexes
        )
        if not names:
            raise ArgumentError(f"dim={dim!r} is in none of the variables; give one that is")
        num_samples = int(data.sizes[dim])
        of_sample = [data[name].nbytes // num_samples for name in names]
        chunk_rows = min(num_samples, max(1, CHUNK_NBYTES // max(1, *of_sample)))
        piece_rows = chunk_rows * max(1, PIECE_NBYTES // max(1, chunk_rows * sum(of_sample)))
        return cls(data, dim, names, chunk_rows, piece_rows, grid_identity(data, dim))

    @property
    def layout(self) -> str:
        """Hash of dimension, chunks and pieces."""
        import xarray as xr

        # The metadata is written anew each time: another version might encode times in other units.
        told = repr([self.dim, self.names, self.chunk_rows, self.piece_rows, xr.__version__, _codecs()])
        return hashlib.blake2b(told.encode(), digest_size=4).hexdigest()

    @cached_property
    def fixed(self) -> dict[str, bytes]:
        """The metadata, and the variables that have no samples."""
        import xarray as xr
        from zarr.storage import MemoryStore

        whole = [name for name in self.data.variables if name not in self.names]
        loaded = self.data[whole].compute()
        kept = {name: _encoding_of_time(loaded[name].variable) for name in whole}
        data = self._pieced().assign_coords(loaded.coords).assign(loaded.data_vars).drop_encoding()
        encoding: dict[Hashable, dict[str, Any]] = {name: kept[name] | {"_FillValue": None} for name in whole}
        for name in self.names:
            variable = data[name]
            chunks = [self.chunk_rows if one == self.dim else size for one, size in variable.sizes.items()]
            encoding[name] = {"chunks": tuple(chunks), "compressors": _codecs(), "_FillValue": None}
            encoding[name] |= _exact_time(variable.dtype)
        objects: dict[str, Any] = {}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="zarr")  # one place for all metadata is no standard yet
            try:
                data.to_zarr(
                    MemoryStore(objects),
                    compute=False,
                    zarr_format=3,
                    consolidated=True,
                    encoding=encoding,
                    safe_chunks=False,
                    write_empty_chunks=True,
                )
                stored = xr.open_zarr(MemoryStore(objects), consolidated=True, chunks=None)
            except (ValueError, TypeError, NotImplementedError) as error:
                raise DataError(f"data cannot be stored as Zarr: {error}") from error
        _check_read_back(self.data, stored)
        of_pieces = tuple(f"{name}/c/" for name in self.names)  # Dask arrays of objects are written at once
        return {name: content.to_bytes() for name, content in objects.items() if not name.startswith(of_pieces)}

    @cached_property
    def estimated_nbytes(self) -> int:
        """Bytes on disk: as compressed as a first chunk is, where that takes few tasks."""
        decoded = sum(variable.nbytes for variable in self.data.variables.values())
        largest = max(self.names, key=lambda name: int(self.data[name].nbytes))
        variable = self.data[largest].variable
        num_rows = min([self.chunk_rows, *variable.chunksizes.get(self.dim, ())[:1]])
        (first,) = optimize(variable.isel({self.dim: slice(0, num_rows)}).chunk().data)
        if first.dtype.kind not in "fiub" or len(first.__dask_graph__()) > _FEW_TASKS:
            return int(decoded)
        values = np.ascontiguousarray(first.compute())
        return int(decoded * _compressed_nbytes(values) / values.nbytes)

    @property
    def encode(self) -> Any:
        """Function ``(number, arrays) -> (objects, samples)`` that is sent to the workers."""
        wanted = {"zarr.json", *(f"{name}/zarr.json" for name in self.names)}
        return partial(
            _encode_piece,
            metadata={name: content for name, content in self.fixed.items() if name in wanted},
            dims={name: tuple(map(str, self.data[name].dims)) for name in self.names},
            dim=self.dim,
            piece_rows=self.piece_rows,
        )

    def paths_read(self) -> list[str]:
        """List the paths and URLs that the data is read from.

        Returns
        -------
        list of str
            Also of what it was read from that is in memory now, as far as the encoding names it.
        """
        return grid_paths(self.data)

    def parts(self) -> list[Any]:
        """List the arrays of each piece.

        Returns
        -------
        list of dict
            In order: by variable, a `dask.delayed.Delayed` array.
        """
        pieced = self._pieced()
        arrays: Sequence[Array] = optimize(*(pieced[name].data for name in self.names))  # together: they may share
        blocks = {
            name: array.to_delayed(optimize_graph=False).ravel() for name, array in zip(self.names, arrays, strict=True)
        }
        num_pieces = -(-int(self.data.sizes[self.dim]) // self.piece_rows)
        return [{name: blocks[name][number] for name in self.names} for number in range(num_pieces)]

    def _pieced(self) -> xr.Dataset:
        """Return the variables that have samples, cut into pieces."""
        names = list(self.names)
        data = self.data[names].drop_vars([name for name in self.data[names].variables if name not in names])
        return data.chunk({dim: self.piece_rows if dim == self.dim else -1 for dim in data.dims})


def _encode_piece(
    number: int,
    arrays: Mapping[str, Any],
    *,
    metadata: Mapping[str, bytes],
    dims: Mapping[str, tuple[str, ...]],
    dim: str,
    piece_rows: int,
) -> tuple[dict[str, bytes], int]:
    """Make the chunks of some samples."""
    import xarray as xr
    from zarr.core.buffer import default_buffer_prototype
    from zarr.storage import MemoryStore

    buffer = default_buffer_prototype().buffer
    objects: dict[str, Any] = {name: buffer.from_bytes(content) for name, content in metadata.items()}
    data = xr.Dataset({name: (dims[name], array) for name, array in arrays.items()})
    num_rows = int(data.sizes[dim])
    region = {dim: slice(number * piece_rows, number * piece_rows + num_rows)}
    data.to_zarr(MemoryStore(objects), region=region, consolidated=False, write_empty_chunks=True)
    return {name: content.to_bytes() for name, content in objects.items() if name not in metadata}, num_rows


def _check_read_back(data: xr.Dataset, stored: xr.Dataset) -> None:
    """Refuse attributes that readers take for a way to decode values."""
    told = [("data", data.attrs, stored.attrs)]
    for name, variable in data.variables.items():
        told.append((f"variable {name!r}", variable.attrs, stored.variables[name].attrs))
    for where, attrs, found in told:
        taken = sorted(map(str, attrs.keys() - found.keys()))
        if taken:
            raise DataError(
                f"{where} has the attribute {taken[0]!r} ({attrs[taken[0]]!r}), by which readers decode values;"
                " decode them first with xarray.decode_cf(data), or drop or rename the attribute"
            )


def _encoding_of_time(variable: xr.Variable) -> dict[str, Any]:
    return {key: variable.encoding[key] for key in _OF_TIME if key in variable.encoding}


def _exact_time(dtype: np.dtype[Any]) -> dict[str, Any]:
    """Choose whole numbers that hold all values, of which only some are there at a time."""
    if dtype.kind not in "mM":
        return {}
    unit = {"s": "seconds", "ms": "milliseconds", "us": "microseconds"}.get(np.datetime_data(dtype)[0], "nanoseconds")
    return {"units": unit if dtype.kind == "m" else f"{unit} since 1970-01-01", "dtype": "int64"}


def _codecs() -> list[Any]:
    from zarr.codecs import BloscCodec, Crc32cCodec

    return [BloscCodec(cname="lz4", clevel=5, shuffle="shuffle"), Crc32cCodec()]


def _compressed_nbytes(values: np.ndarray[Any, Any]) -> int:
    from numcodecs import Blosc

    return len(Blosc(cname="lz4", clevel=5, shuffle=Blosc.SHUFFLE).encode(values))
