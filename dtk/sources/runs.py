"""Runs of rows that are one step apart, and how many windows begin in each chunk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dtk.errors import DataError
from dtk.sources.count_cache import key_of, load_arrays, save_arrays
from dtk.sources.source import chunk_groups
from dtk.sources.times import Times, is_step, most_common, times_of_table
from dtk.sources.window import Window

if TYPE_CHECKING:
    from dtk.sources.source import Source

__all__ = ["Runs", "runs_of_axis", "runs_of_table", "window_starts"]

Integers = npt.NDArray[np.int64]

_KEPT_STEPS: Final = 16  # of the most common ones of a chunk


@dataclass(frozen=True, eq=False)
class Runs:
    """Where the windows of a source begin.

    Parameters
    ----------
    step : int or float or None
        The time from one row to the next, in the unit of the times; None if time never goes on.
    rows : numpy.ndarray
        An int64 ``[chunks]``: rows of each chunk.
    windows : numpy.ndarray
        An int64 ``[chunks]``: windows whose first row is in it.
    before : numpy.ndarray
        An int64 ``[chunks]``: rows of earlier chunks in the run of its first row.
    after : numpy.ndarray
        An int64 ``[chunks]``: rows of later chunks that its windows need.
    is_whole : numpy.ndarray
        A bool ``[chunks]``: whether no run begins inside it.
    longest : int
        Rows of the longest run.
    num_backward : int
        Rows where time goes back inside a group.
    """

    step: float | None
    rows: Integers
    windows: Integers
    before: Integers
    after: Integers
    is_whole: npt.NDArray[np.bool_]
    longest: int
    num_backward: int


def window_starts(bounds: Integers, before: int, after: int, window: Window) -> Integers:
    """Find the first rows of the windows that begin in a chunk.

    Parameters
    ----------
    bounds : numpy.ndarray
        An int64 ``[runs + 1]``: where in the chunk runs begin, and its rows at last.
    before : int
        Rows of earlier chunks in the run of its first row.
    after : int
        Rows of later chunks in the run of its last row, as many as windows need.
    window : Window
        The window.

    Returns
    -------
    numpy.ndarray
        An int64 ``[windows]``: rows counted from the chunk's first one, rising.

    Examples
    --------
    >>> window_starts(np.array([0, 4, 9]), before=0, after=0, window=Window("t", history=2, lead=1, stride=2)).tolist()
    [0, 4, 6]
    """
    begin, end = bounds[:-1], bounds[1:].copy()
    end[-1:] += after
    skipped = np.zeros(len(begin), np.int64)
    skipped[:1] = -before % window.stride
    first = begin + skipped
    counts = np.maximum((end - window.num_rows - first) // window.stride + 1, 0)
    numbers = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    starts: Integers = np.repeat(first, counts) + numbers * window.stride
    return starts


def runs_of_axis(times: Times, chunk_edges: Integers, step: float | None, window: Window) -> tuple[Runs, Integers]:
    """Find the runs of a coordinate in memory.

    Parameters
    ----------
    times : Times
        Of all samples.
    chunk_edges : numpy.ndarray
        An int64 ``[chunks + 1]``: the samples at which chunks begin and end.
    step : int or float or None
        The time from one sample to the next; the most common one if None.
    window : Window
        The window.

    Returns
    -------
    runs : Runs
        The runs.
    breaks : numpy.ndarray
        An int64: the samples that begin a run, but for the first one.
    """
    if step is None:
        step = next(iter(most_common(times.steps())), None)
    breaks = times.breaks(step)
    cuts = np.unique(np.concatenate([chunk_edges, breaks]))
    begin, rows = cuts[:-1], np.diff(chunk_edges)
    chunk = np.searchsorted(chunk_edges, begin, side="right") - 1
    begins_run = np.isin(begin, np.append(0, breaks))
    stitched = _stitch(chunk, np.diff(cuts), begins_run, len(rows), window)
    is_whole = np.bincount(chunk, minlength=len(rows)) <= 1
    return Runs(step, rows, *stitched[:3], is_whole, stitched[3], times.num_backward), breaks


def runs_of_table(source: Source, step: float | None, window: Window, *, progress: bool = False) -> Runs:
    """Find the runs of a table by one pass over its times and groups, unless they were kept from an earlier one.

    Parameters
    ----------
    source : Source
        The table, with at least these columns.
    step : int or float or None
        The time from one row to the next; the most common one if None.
    window : Window
        The window.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    Runs
        The runs.

    Raises
    ------
    DataError
        If a chunk cannot be read, or a time is missing.
    """
    if not source.num_chunks:
        none = np.zeros(0, np.int64)
        return Runs(step, none, none, none, none, none.astype(bool), 0, 0)
    key = key_of(source, "runs", window.dim, window.groups, step, window.num_rows, window.stride)
    kept = None if key is None else load_arrays(key)
    if kept is not None and len(kept["rows"]) == source.num_chunks:
        return _from_arrays(kept)
    runs = _counted(source, step, window, progress=progress)
    if key is not None:
        save_arrays(key, _to_arrays(runs))
    return runs


def _to_arrays(runs: Runs) -> dict[str, Any]:
    return {name: np.atleast_1d(value) for name, value in vars(runs).items() if value is not None}


def _from_arrays(arrays: Mapping[str, pa.Array]) -> Runs:
    found: dict[str, Any] = {name: values.to_numpy(zero_copy_only=False) for name, values in arrays.items()}
    found |= {name: found[name][0].item() for name in ("step", "longest", "num_backward") if name in found}
    return Runs(step=found.pop("step", None), **found)


def _counted(source: Source, step: float | None, window: Window, *, progress: bool) -> Runs:
    groups = [range(*group) for group in chunk_groups(source, 256)]
    found, steps = _summaries(source, groups, step, window, progress=progress)
    if step is None:
        step = _common_step(found, steps)
        # Chunks of another step of their own are looked at again: few, where the data has a common one.
        others = np.flatnonzero((found.step != 0) & (found.step != step))
        if step is not None and len(others):
            pieces = np.array_split(others, min(256, len(others)))
            again, _ = _summaries(source, pieces, step, window, progress=progress)
            for values, changed in zip(found, again, strict=True):
                values[others] = changed
    return _joined_runs(found, step, window)


class _Chunks(NamedTuple):
    """What is to know of some chunks to put their runs together: an array ``[chunks]`` each."""

    rows: Integers
    head: Integers  # rows of the run that it begins with
    tail: Integers  # rows of the run that it ends with
    windows: Integers  # of the runs between these
    longest: Integers  # rows of the longest of these runs
    num_backward: Integers
    step: npt.NDArray[Any]  # by which the runs were found; 0 for none
    first: npt.NDArray[Any]  # time of its first row
    last: npt.NDArray[Any]
    first_group: Integers
    last_group: Integers


_Summary = tuple[_Chunks, Counter[Any]]  # and the most common steps


def _summaries(
    source: Source, groups: Sequence[Any], step: float | None, window: Window, *, progress: bool
) -> _Summary:
    from dtk.runtime import map_reduce

    found = map_reduce(_Summarise(step, window), _merge, groups, shared=source, label="windows", progress=progress)
    return _merge([found])  # what comes from a worker may be read-only


@dataclass(frozen=True)
class _Summarise:
    """Summarises a group of chunks, in a task."""

    step: float | None
    window: Window

    def __call__(self, source: Source, chunks: Iterable[int]) -> _Summary:
        return _merge([self._of(source, int(chunk)) for chunk in chunks])

    def _of(self, source: Source, chunk: int) -> _Summary:
        dim, groups = self.window.dim, self.window.groups
        try:
            times = times_of_table(source.read(chunk, list(dict.fromkeys([dim, *groups]))), dim, groups)
        except DataError as error:
            where = source.describe(chunk)
            raise error if where in str(error) else DataError(f"{where}: {error}") from error
        rows = len(times.values)
        counted = most_common(times.steps(), _KEPT_STEPS) if self.step is None else {}
        step = next(iter(counted), None) if self.step is None else self.step
        bounds = np.concatenate([[0], times.breaks(step), [rows]])
        inner = np.diff(bounds[1:-1])
        ends = times.values[[0, -1]] if rows else np.zeros(2, times.values.dtype)
        found = _Chunks(
            rows=np.array([rows]),
            head=bounds[[1]],
            tail=rows - bounds[[-2]],
            windows=np.maximum((inner - self.window.num_rows) // self.window.stride + 1, 0).sum(keepdims=True),
            longest=inner.max(initial=0, keepdims=True),
            num_backward=np.array([times.num_backward]),
            step=np.array([step or 0], times.values.dtype),
            first=ends[:1],
            last=ends[1:],
            first_group=np.array([times.first_group]),
            last_group=np.array([times.last_group]),
        )
        return found, Counter(counted)


def _merge(parts: list[_Summary]) -> _Summary:
    steps: Counter[Any] = Counter()
    for _, counted in parts:
        steps.update(counted)
    return _Chunks(*(np.concatenate(arrays) for arrays in zip(*(found for found, _ in parts), strict=True))), steps


def _common_step(found: _Chunks, steps: Counter[Any]) -> float | None:
    kept = found.rows > 0
    across = found.first[kept][1:] - found.last[kept][:-1]
    across = across[found.first_group[kept][1:] == found.last_group[kept][:-1]]
    steps = steps + Counter(most_common(across[across > 0], _KEPT_STEPS))
    return min(steps, key=lambda step: (-steps[step], step), default=None)


def _joined_runs(found: _Chunks, step: float | None, window: Window) -> Runs:
    """Put the runs that the chunks begin and end with together."""
    kept = np.flatnonzero(found.rows)
    across = found.first[kept][1:] - found.last[kept][:-1]
    is_same = found.first_group[kept][1:] == found.last_group[kept][:-1]
    follows = is_step(across, step) & is_same
    is_whole = found.head == found.rows
    # A chunk is one segment of a run, or two with runs of its own between them, whose windows are counted.
    num_segments = np.where(is_whole[kept], 1, 2)
    chunk = np.repeat(kept, num_segments)
    is_first = np.append(True, chunk[1:] != chunk[:-1])[: len(chunk)]
    begins_run = np.ones(len(chunk), bool)
    begins_run[np.flatnonzero(is_first)[1:]] = ~follows
    num_rows = np.where(is_first, found.head[chunk], found.tail[chunk])
    windows, before, after, longest = _stitch(chunk, num_rows, begins_run, len(found.rows), window)
    longest = max(longest, int(found.longest.max(initial=0)))
    backward = int(found.num_backward.sum() + np.count_nonzero(across[is_same] < 0))
    return Runs(step, found.rows, windows + found.windows, before, after, is_whole, longest, backward)


def _stitch(
    chunk: Integers, num_rows: Integers, begins_run: npt.NDArray[np.bool_], num_chunks: int, window: Window
) -> tuple[Integers, Integers, Integers, int]:
    """Count the windows of segments of runs: windows, rows before and after by chunk, and rows of the longest run."""
    windows, before, after = (np.zeros(num_chunks, np.int64) for _ in range(3))
    if not len(chunk):
        return windows, before, after, 0
    begin = np.cumsum(num_rows) - num_rows
    firsts = np.flatnonzero(begins_run)
    totals = np.add.reduceat(num_rows, firsts)
    run = np.cumsum(begins_run) - 1
    offset, total = begin - begin[firsts][run], totals[run]
    stop = np.clip(total - window.num_rows + 1, offset, offset + num_rows)
    past = -(-stop // window.stride)  # windows of the run that begin before
    counts = past - -(-offset // window.stride)
    np.add.at(windows, chunk, counts)
    before[chunk[::-1]] = offset[::-1]  # of the first segment, which is written last
    missing = (past - 1) * window.stride + window.num_rows - (offset + num_rows)
    after[chunk] = np.where(counts > 0, np.maximum(missing, 0), 0)
    return windows, before, after, int(totals.max())
