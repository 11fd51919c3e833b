"""Windows over the rows of a source: each belongs to the chunk of its first row, and reaches into later chunks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dtk.errors import DataError
from dtk.sources.arrays import ArraySource
from dtk.sources.expression import ExpressionSource
from dtk.sources.facts import changes, facts_of
from dtk.sources.parquet import ParquetSource
from dtk.sources.remote import Fetch, FetchCost
from dtk.sources.runs import Runs, runs_of_table, window_starts
from dtk.sources.source import Source
from dtk.sources.times import step_text, times_of_table
from dtk.sources.window import Window, WindowBlock
from dtk.sources.window_costs import WindowCosts
from dtk.sources.zarr_read import Scratch

__all__ = ["WindowSource"]

Integers = npt.NDArray[np.int64]

_WHOLE: Final = np.dtype(np.int64)


@dataclass(frozen=True, eq=False, repr=False)
class WindowSource:
    """The windows over a source's rows; a chunk holds those whose first row is in a chunk of that source.

    Parameters
    ----------
    base : Source or ArraySource
        The rows. Of tables the times and groups are among the columns.
    window : Window
        The window.
    keys : Source, optional
        The times and groups of tables, chunk by chunk as `base`, which then are counted by reading no more than these.
    step : int or float, optional
        From one row to the next, in the unit of the times; the most common one if None.
    unit : numpy.dtype
        Of the times: a datetime64 or timedelta64 with its unit, int64 or float64.
    runs : Runs, optional
        Where windows begin; None while unknown, see `counted`.
    breaks : numpy.ndarray, optional
        Of arrays, an int64: the samples that begin a run, but for the first one.
    """

    base: Source | ArraySource
    window: Window
    keys: Source | None = None
    step: float | None = None
    unit: np.dtype[Any] = _WHOLE
    runs: Runs | None = None
    breaks: Integers | None = None

    def counted(self, *, progress: bool = False) -> WindowSource:
        """Find the runs: of tables by one pass over their times and groups.

        Parameters
        ----------
        progress : bool
            Whether to show a progress bar.

        Returns
        -------
        WindowSource
            With known runs.

        Raises
        ------
        DataError
            If no window fits into the rows.
        """
        source = self
        if self.runs is None:
            assert not isinstance(self.base, ArraySource)
            runs = runs_of_table(self.keys or self.base, self.step, self.window, progress=progress)
            base = self.base
            if isinstance(base, ExpressionSource) and base.chunk_rows is None:
                base = replace(base, chunk_rows=runs.rows)
            if not np.array_equal(np.asarray(base.chunk_rows), runs.rows):
                raise DataError("the rows of the data changed while they were counted; open it anew")
            source = replace(self, base=base, keys=None, runs=runs)
        source.check()
        return source

    def check(self) -> None:
        """Refuse data that no window fits into.

        Raises
        ------
        DataError
            If there are rows, but no run is long enough.
        """
        runs, window = self._runs, self.window
        if runs.rows.any() and not runs.windows.any():
            order = ", ".join(map(repr, (*window.groups, window.dim)))
            back = f"; time goes back in {runs.num_backward:,} rows" if runs.num_backward else ""
            raise DataError(
                f"window of {window.num_rows:,} rows (history={window.history}, lead={window.lead!r}) is longer than "
                f"any run of rows one step of {window.dim!r} apart: the longest has {runs.longest:,}{back}; sort the "
                f"data by {order}, lower history= or lead=, or give the step= that is meant"
            )

    @property
    def schema(self) -> pa.Schema:
        """Columns of the rows, of tables."""
        assert not isinstance(self.base, ArraySource)
        return self.base.schema

    @property
    def step_text(self) -> str | None:
        """The time from one row to the next, for people; None if time never goes on."""
        return step_text(self._runs.step, self.unit)

    @property
    def text(self) -> str:
        """What a window is, for people."""
        window, step = self.window, self.step_text
        if window.num_rows == 1 or step is None:
            return f"of 1 row of {window.dim!r}"
        found = "" if window.step is not None else " (the most common step; give step= if another is meant)"
        return f"of {window.num_rows:,} rows of {window.dim!r}, {step} apart{found}"

    @cached_property
    def identity(self) -> str:
        """Hash of the rows' identity, of the window and of where windows begin."""
        runs = self._runs
        digest = hashlib.blake2b(f"{self.base.identity} {self._meant!r}".encode(), digest_size=16)
        for counts in (runs.rows, runs.windows, runs.before, runs.after):
            digest.update(counts.tobytes())
        return digest.hexdigest()

    @property
    def facts(self) -> dict[str, Any]:
        """What a saved state tells of it, see `dtk.sources.facts`."""
        return {"kind": "windows", "window": repr(self._meant), "base": facts_of(self.base)}

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
        found = changes(self.base, facts["base"])
        if facts["window"] != repr(self._meant):
            found = [f"window={self._meant!r} was {facts['window']}", *found]
        return found

    @property
    def chunk_rows(self) -> Integers:
        """Windows of each chunk, int64 ``[chunks]``."""
        return self._runs.windows

    @property
    def num_chunks(self) -> int:
        """Number of chunks."""
        return self.base.num_chunks

    @property
    def time_columns(self) -> list[str]:
        """Columns that tell where runs begin inside a chunk; none of arrays, whose coordinates lie in memory."""
        return [] if isinstance(self.base, ArraySource) else [self.window.dim, *self.window.groups]

    @property
    def chunk_nbytes(self) -> Integers:
        """Bytes on disk that the windows of each chunk need, int64 ``[chunks]``."""
        return self.costs.chunk_nbytes

    @cached_property
    def costs(self) -> WindowCosts:
        """What the windows cost."""
        return WindowCosts(self.base, self._runs)

    def cautions(self) -> list[str]:
        """Say what becomes no window though it may have been meant to.

        Returns
        -------
        list of str
            One line each.
        """
        runs, window = self._runs, self.window
        order = ", ".join(map(repr, (*window.groups, window.dim)))
        found = []
        if runs.num_backward:
            found.append(
                f"time goes back in {runs.num_backward:,} rows, where no window crosses; sort the data by {order}"
            )
        num_rows, num_windows = int(runs.rows.sum()), int(runs.windows.sum())
        if 2 * num_windows * window.stride < num_rows - window.num_rows:
            found.append(
                f"only {num_windows:,} windows begin in {num_rows:,} rows, as no more than {runs.longest:,} follow "
                f"each other one step of {window.dim!r} apart; sort the data by {order}, or give the step= that is "
                "meant"
            )
        return found

    def fetch_cost(self, columns: Sequence[str] | None = None) -> FetchCost | None:
        """Estimate what fetching the rows of each chunk's windows takes.

        Parameters
        ----------
        columns : sequence of str, optional
            Which columns or variables; all if None.

        Returns
        -------
        FetchCost or None
            None of what is local; later row groups are fetched whole.
        """
        return self.costs.fetch_cost(columns)

    def fetch(self, chunk: int, columns: Sequence[str] | None = None) -> Fetch:
        """Start to fetch what `read` will need of remote stores.

        Parameters
        ----------
        chunk : int
            From 0 to ``num_chunks - 1``.
        columns : sequence of str, optional
            Which columns or variables; all if None.

        Returns
        -------
        list of concurrent.futures.Future
            To be given to `read`, or cancelled; nothing of what is local.
        """
        base = self.base
        if isinstance(base, ArraySource):
            return base.fetch_samples(*self._samples(chunk), columns)
        if not isinstance(base, ParquetSource | ExpressionSource):
            return []
        names, own = self._columns_of(chunk, columns)
        later = (base.fetch(number, names) for number, _ in self._later_rows(chunk))
        return [*base.fetch(chunk, own), *(future for fetch in later for future in fetch)]

    def read(
        self,
        chunk: int,
        columns: Sequence[str] | None = None,
        scratch: Scratch | None = None,
        *,
        fetched: Fetch | None = None,
    ) -> WindowBlock:
        """Read the windows that begin in a chunk.

        Parameters
        ----------
        chunk : int
            From 0 to ``num_chunks - 1``.
        columns : sequence of str, optional
            Which columns or variables; all if None.
        scratch : Scratch, optional
            Memory for arrays to use again: what was read with it before is overwritten.
        fetched : list of concurrent.futures.Future, optional
            What `fetch` returned for the same chunk and columns.

        Returns
        -------
        WindowBlock
            ``chunk_rows[chunk]`` windows.

        Raises
        ------
        DataError
            If a file is damaged or changed.
        FetchError
            If a remote store does not give it.
        """
        runs = self._runs
        rows = int(runs.rows[chunk])
        if isinstance(self.base, ArraySource):
            first, stop = self._samples(chunk)
            block = self.base.read_samples(first, stop, columns, scratch, fetched=fetched)
            low, high = np.searchsorted(self._breaks, [first + 1, first + rows])
            return WindowBlock((block,), self._starts(chunk, self._breaks[low:high] - first))
        names, own = self._columns_of(chunk, columns)
        coming = iter(fetched or self.fetch(chunk, columns))
        table = self.base.read(chunk, own, **self._fetched(chunk, coming))
        _check_rows(table, rows)
        breaks = np.zeros(0, np.int64)
        if not runs.is_whole[chunk]:
            breaks = times_of_table(table, self.window.dim, self.window.groups).breaks(runs.step)
        return WindowBlock((table.select(names), *self._later(chunk, names, coming)), self._starts(chunk, breaks))

    def describe(self, chunk: int) -> str:
        """Say where a chunk lies.

        Parameters
        ----------
        chunk : int
            From 0 to ``num_chunks - 1``.

        Returns
        -------
        str
            That of the rows.
        """
        return self.base.describe(chunk)

    def __repr__(self) -> str:
        return f"WindowSource({self.window!r}, {self.base!r})"

    @cached_property
    def _meant(self) -> Window:
        """The window as it decides where samples lie, however it was said."""
        return replace(self.window, known=(), step=self.step_text)

    @property
    def _runs(self) -> Runs:
        assert self.runs is not None
        return self.runs

    @property
    def _breaks(self) -> Integers:
        assert self.breaks is not None
        return self.breaks

    def _starts(self, chunk: int, breaks: Integers) -> Integers:
        runs = self._runs
        bounds = np.concatenate([[0], breaks, runs.rows[chunk : chunk + 1]])
        return window_starts(bounds, int(runs.before[chunk]), int(runs.after[chunk]), self.window)

    def _samples(self, chunk: int) -> tuple[int, int]:
        """Return the first sample that the windows of a chunk need, and the one after the last."""
        assert isinstance(self.base, ArraySource)
        first = int(self.base.chunk_edges[chunk])
        return first, first + int(self._runs.rows[chunk] + self._runs.after[chunk])

    def _columns_of(self, chunk: int, columns: Sequence[str] | None) -> tuple[list[str], list[str]]:
        """Return the columns that windows consist of, and those that are read of their chunk."""
        assert not isinstance(self.base, ArraySource)
        names = self.base.schema.names if columns is None else list(columns)
        keys = [] if self._runs.is_whole[chunk] else self.time_columns
        return names, list(dict.fromkeys([*names, *keys]))

    def _later_rows(self, chunk: int) -> Iterator[tuple[int, int]]:
        """Yield the later chunks that the windows of a chunk reach into, and how many rows of each."""
        num_rows = int(self._runs.after[chunk])
        while num_rows:
            chunk += 1
            wanted = min(num_rows, int(self._runs.rows[chunk]))
            if wanted:
                yield chunk, wanted
            num_rows -= wanted

    def _fetched(self, chunk: int, coming: Iterator[Any]) -> dict[str, Any]:
        """Take what was fetched for a chunk; a source that fetches nothing knows no such argument."""
        if isinstance(self.base, ParquetSource):
            return {"fetched": list(islice(coming, 1))}
        if isinstance(self.base, ExpressionSource):
            first, stop = self.base.first_group[chunk : chunk + 2].tolist()
            return {"fetched": list(islice(coming, stop - first))}
        return {}

    def _later(self, chunk: int, names: list[str], coming: Iterator[Any]) -> Iterator[pa.Table]:
        """Read the first rows of later chunks."""
        for later, num_rows in self._later_rows(chunk):
            fetched = self._fetched(later, coming)
            if isinstance(self.base, ParquetSource):
                table = next(self.base.read_slices(later, num_rows, names, **fetched))
                _check_rows(table, num_rows)
                yield table
            else:
                assert not isinstance(self.base, ArraySource)
                table = self.base.read(later, names, **fetched)
                _check_rows(table, int(self._runs.rows[later]))
                yield table.slice(0, num_rows)


def _check_rows(table: pa.Table, num_rows: int) -> None:
    if table.num_rows != num_rows:
        raise DataError(f"{table.num_rows} rows where {num_rows} were planned; open it anew")
