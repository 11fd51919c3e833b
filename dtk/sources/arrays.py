"""Zarr arrays as a source: samples along a dimension that they share, one chunk a chunk or shard along it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from dtk.sources.array_facts import array_changes, array_facts
from dtk.sources.remote import Fetch, FetchCost
from dtk.sources.variables import ArrayBlock, ArrayVariable, read_variable
from dtk.sources.zarr_read import Scratch, fetch_region, region_cost, stored_chunk_nbytes

__all__ = ["ArraySource", "Verify"]

Verify = Literal["metadata", "list"]


@dataclass(frozen=True, eq=False, repr=False)
class ArraySource:
    """Variables of a Zarr store that share a dimension, read one chunk along it at a time.

    Parameters
    ----------
    dim : str
        The dimension of the samples.
    variables : mapping of str to ArrayVariable
        What can be read.
    num_samples : int
        The size of `dim`.
    chunk_edges : numpy.ndarray
        An int64 ``[chunks + 1]``: the samples at which chunks begin and end.
    verify : {"metadata", "list"}
        What its identity holds: the metadata, or a listing of all objects as well.
    """

    dim: str
    variables: Mapping[str, ArrayVariable]
    num_samples: int
    chunk_edges: npt.NDArray[np.int64]
    verify: Verify = "metadata"

    @cached_property
    def identity(self) -> str:
        """Hash of the stores' places and metadata, of what is selected, and of the snapshot or the listing."""
        return hashlib.blake2b(json.dumps(self.facts).encode(), digest_size=16).hexdigest()

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What a saved state tells of it, see `dtk.sources.facts`."""
        return array_facts(self)

    def changes(self, facts: Mapping[str, Any]) -> list[str]:
        """Say how it differs from what it was.

        Parameters
        ----------
        facts : mapping
            Its facts then.

        Returns
        -------
        list of str
            One for each difference.
        """
        return array_changes(self, facts)

    @property
    def chunk_rows(self) -> npt.NDArray[np.int64]:
        """Samples of each chunk, int64 ``[chunks]``."""
        return np.diff(self.chunk_edges)

    @cached_property
    def chunk_nbytes(self) -> npt.NDArray[np.int64]:
        """Bytes in the store of each chunk, int64 ``[chunks]``, estimated from a few."""
        of_sample = 0.0
        for name, stored in self._object_nbytes.items():
            array = self.variables[name].read.array
            whole = int(np.prod(array.shards or array.chunks, dtype=np.int64)) * array.dtype.itemsize
            of_sample += self.variables[name].row_nbytes * stored / max(1, whole)
        nbytes: npt.NDArray[np.int64] = np.ceil(self.chunk_rows * of_sample).astype(np.int64)
        return nbytes

    @cached_property
    def _object_nbytes(self) -> dict[str, float]:
        """Mean bytes of an object in the store, for each variable with samples."""
        return {name: stored_chunk_nbytes(one.read.array) for name, one in self.variables.items() if not one.is_static}

    @property
    def num_chunks(self) -> int:
        """Number of chunks along the samples."""
        return len(self.chunk_edges) - 1

    def decoded_row_nbytes(self, columns: Sequence[str]) -> float:
        """Return the bytes that a sample takes while it is read.

        Parameters
        ----------
        columns : sequence of str
            Which variables.

        Returns
        -------
        float
            As stored and, where that is another type, as decoded.
        """
        total = 0.0
        for name in columns:
            variable = self.variables[name]
            if not variable.is_static:
                decoded = int(np.prod(variable.shape, dtype=np.int64)) * variable.dtype.itemsize
                total += variable.row_nbytes + (decoded if variable.read.decode else 0)
        return total

    def fetch_cost(self, columns: Sequence[str] | None = None) -> FetchCost | None:
        """Estimate what fetching the chunks takes.

        Parameters
        ----------
        columns : sequence of str, optional
            Which variables; all that have samples if None.

        Returns
        -------
        FetchCost or None
            None for local stores.
        """
        return self.fetch_cost_of_samples(self.chunk_edges[:-1], self.chunk_edges[1:], columns)

    def fetch_cost_of_samples(
        self, starts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64], columns: Sequence[str] | None = None
    ) -> FetchCost | None:
        """Estimate what fetching runs of samples takes.

        Parameters
        ----------
        starts : numpy.ndarray
            An int64 ``[runs]``: the first sample of each.
        stops : numpy.ndarray
            An int64 ``[runs]``: the sample after the last.
        columns : sequence of str, optional
            Which variables; all that have samples if None.

        Returns
        -------
        FetchCost or None
            By run; None for local stores.
        """
        remote = [self.variables[name] for name in self._sampled(columns) if self.variables[name].is_remote]
        if not remote or not len(starts):
            return None
        length = int(stops[0] - starts[0])
        costs = [
            region_cost(one.read.array, one.region(0, length), one.axis, starts, stops, self._object_nbytes[one.name])
            for one in remote
        ]
        return FetchCost(np.sum([cost.nbytes for cost in costs], 0), np.sum([cost.requests for cost in costs], 0))

    def fetch(self, chunk: int, columns: Sequence[str] | None = None) -> Fetch:
        """Start to fetch what `read` will need of remote stores.

        Parameters
        ----------
        chunk : int
            From 0 to ``num_chunks - 1``.
        columns : sequence of str, optional
            Which variables; all that have samples if None.

        Returns
        -------
        list of concurrent.futures.Future
            One a remote variable, to be given to `read`, or cancelled.
        """
        start, stop = self.chunk_edges[chunk : chunk + 2].tolist()
        return self.fetch_samples(start, stop, columns)

    def fetch_samples(self, start: int, stop: int, columns: Sequence[str] | None = None) -> Fetch:
        """Start to fetch what `read_samples` will need of remote stores.

        Parameters
        ----------
        start : int
            The first sample.
        stop : int
            The sample after the last.
        columns : sequence of str, optional
            Which variables; all that have samples if None.

        Returns
        -------
        list of concurrent.futures.Future
            One a remote variable, to be given to `read_samples`, or cancelled.
        """
        remote = [self.variables[name] for name in self._sampled(columns) if self.variables[name].is_remote]
        return [fetch_region(one.read.array, one.region(start, stop), self._object_nbytes[one.name]) for one in remote]

    def read(
        self,
        chunk: int,
        columns: Sequence[str] | None = None,
        scratch: Scratch | None = None,
        *,
        fetched: Fetch | None = None,
    ) -> ArrayBlock:
        """Read one whole chunk.

        Parameters
        ----------
        chunk : int
            From 0 to ``num_chunks - 1``.
        columns : sequence of str, optional
            Which variables; all that have samples if None.
        scratch : Scratch, optional
            Memory to use again: what was read with it before is overwritten. Fresh memory if None.
        fetched : list of concurrent.futures.Future, optional
            What `fetch` returned for the same chunk and variables.

        Returns
        -------
        ArrayBlock
            ``chunk_rows[chunk]`` samples.

        Raises
        ------
        DataError
            If a chunk in the store is damaged; it is named.
        FetchError
            If a remote store does not give it.
        """
        start, stop = self.chunk_edges[chunk : chunk + 2].tolist()
        return self.read_samples(start, stop, columns, scratch, fetched=fetched)

    def read_samples(
        self,
        start: int,
        stop: int,
        columns: Sequence[str] | None = None,
        scratch: Scratch | None = None,
        *,
        fetched: Fetch | None = None,
    ) -> ArrayBlock:
        """Read a run of samples, also across chunks.

        Parameters
        ----------
        start : int
            The first sample.
        stop : int
            The sample after the last.
        columns : sequence of str, optional
            Which variables; all that have samples if None.
        scratch : Scratch, optional
            Memory to use again.
        fetched : list of concurrent.futures.Future, optional
            What `fetch_samples` returned for the same samples and variables.

        Returns
        -------
        ArrayBlock
            The samples.

        Raises
        ------
        DataError
            If a chunk in the store is damaged; it is named.
        FetchError
            If a remote store does not give it.
        """
        scratch = scratch or Scratch()
        names = self._sampled(columns)
        coming = iter(fetched or self.fetch_samples(start, stop, names))
        futures = {name: next(coming) if self.variables[name].is_remote else None for name in names}
        arrays = {name: read_variable(self.variables[name], start, stop, scratch, futures[name]) for name in names}
        return ArrayBlock(arrays, stop - start)

    def read_static(self, name: str) -> npt.NDArray[Any]:
        """Read a variable that has no samples.

        Parameters
        ----------
        name : str
            The variable.

        Returns
        -------
        numpy.ndarray
            The whole of it.
        """
        return read_variable(self.variables[name], 0, 0, Scratch())

    def describe(self, chunk: int) -> str:
        """Say where a chunk lies.

        Parameters
        ----------
        chunk : int
            From 0 to ``num_chunks - 1``.

        Returns
        -------
        str
            The store and the samples.
        """
        start, stop = self.chunk_edges[chunk : chunk + 2].tolist()
        array = next(iter(self.variables.values())).read.array
        return f"{array.store_path}, {self.dim} {start} to {stop - 1}"

    def _sampled(self, columns: Sequence[str] | None) -> Sequence[str]:
        return [name for name, one in self.variables.items() if not one.is_static] if columns is None else columns

    def __repr__(self) -> str:
        return f"ArraySource({list(self.variables)}, {self.num_samples} along {self.dim!r}, {self.num_chunks} chunks)"
