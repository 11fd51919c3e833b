"""Row groups of remote Parquet files: fetched in a few requests at once, decoded from memory."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from dtk.errors import FetchError
from dtk.sources.byte_ranges import GAP_NBYTES, REQUEST_NBYTES, PartialFile, Span
from dtk.sources.footers import Footer, footer_bytes, parse_footer
from dtk.sources.kept_files import FOOTERS, parsed_nbytes
from dtk.sources.remote import FetchCost, Retries
from dtk.sources.remote_files import RemoteFiles, SharedTask

__all__ = ["MissingBytes", "RowGroupBytes", "fetch_cost", "joined_cost", "start_row_groups"]

_ONCE: Final = Retries(attempts=1)


class RowGroupBytes(NamedTuple):
    """What of a file was fetched for row groups.

    Parameters
    ----------
    file : PartialFile
        The columns' bytes where they belong.
    footer : pq.FileMetaData
        The file's.
    missing : MissingBytes
        Fetches what a decoder reads beside it.
    """

    file: PartialFile
    footer: pq.FileMetaData
    missing: MissingBytes

    def give_up(self) -> None:
        """Wait for no more bytes, while another thread reads."""
        self.missing.give_up()


class MissingBytes:
    """Fetches what a decoder reads beside a column's own bytes, until it is given up.

    Parameters
    ----------
    files : RemoteFiles
        Where the file lies.
    path : str
        The file.
    version : str
        What it was when it was opened.
    """

    def __init__(self, files: RemoteFiles, path: str, version: str) -> None:
        self._files, self._path, self._version = files, path, version
        self._started: list[Future[Any]] = []
        self._is_given_up = False

    def read(self, start: int, stop: int) -> bytes:
        """Wait for bytes of the file.

        Parameters
        ----------
        start : int
            The first byte.
        stop : int
            The byte after the last.

        Returns
        -------
        bytes
            All of them.
        """
        future = self._files.fetcher.start(self._files.ranges, self._path, [(start, stop)], self._version)
        self._started.append(future)
        if self._is_given_up:
            future.cancel()
        ((_, content),) = future.result()
        return bytes(content)

    def give_up(self) -> None:
        """Wait no more."""
        self._is_given_up = True
        for future in self._started:
            future.cancel()


def start_row_groups(
    files: RemoteFiles, path: str, version: str, groups: Sequence[int], leaves: Sequence[int], limit_nbytes: int
) -> Future[RowGroupBytes]:
    """Start to fetch row groups of a file.

    Parameters
    ----------
    files : RemoteFiles
        Where the file lies.
    path : str
        The file.
    version : str
        What it was when it was opened; another one is refused.
    groups : sequence of int
        The row groups within the file.
    leaves : sequence of int
        Which of Parquet's columns, of which a struct has several.
    limit_nbytes : int
        Bytes of all footers that the process may keep.

    Returns
    -------
    concurrent.futures.Future
        Raises `DataError` where the file was changed, `FetchError` where the store does not give it.
    """
    return files.fetcher.start(_row_groups, files, path, version, groups, leaves, limit_nbytes)


async def _row_groups(
    files: RemoteFiles, path: str, version: str, groups: Sequence[int], leaves: Sequence[int], limit_nbytes: int
) -> RowGroupBytes:
    try:
        footer = FOOTERS.get(_key(files, path, version)) or await _shared_footer(files, path, version, limit_nbytes)
        parts = await files.ranges(path, column_spans(footer, groups, leaves), version)
    except FetchError:
        with suppress(FetchError):  # that a file was changed says more
            await files.check_version(path, version, _ONCE)
        raise

    missing = MissingBytes(files, path, version)
    return RowGroupBytes(PartialFile(int(version.partition(":")[0]), parts, missing.read), footer, missing)


async def _shared_footer(files: RemoteFiles, path: str, version: str, limit_nbytes: int) -> pq.FileMetaData:
    """Fetch a footer once for all row groups of its file that are being fetched."""
    shared = files.footers.get((path, version))
    if shared is None or shared.task.done():
        shared = SharedTask(asyncio.ensure_future(_footer(files, path, version, limit_nbytes)))
        shared.task.add_done_callback(lambda task: task.cancelled() or task.exception())  # maybe nobody waits for it
        files.footers[path, version] = shared
    shared.waiting += 1
    try:
        return await asyncio.shield(shared.task)  # who gives up does not take it from the others
    finally:
        shared.waiting -= 1
        if not shared.waiting:
            shared.task.cancel()
            if files.footers.get((path, version)) is shared:
                del files.footers[path, version]


async def _footer(files: RemoteFiles, path: str, version: str, limit_nbytes: int) -> pq.FileMetaData:
    footer, _ = parse_footer(path, await footer_bytes(files, path, version))
    FOOTERS.put(_key(files, path, version), footer, limit_nbytes)
    return footer


def _key(files: RemoteFiles, path: str, version: str) -> tuple[str, str]:
    return f"{files.token}\0{path}", version


def column_spans(footer: pq.FileMetaData, groups: Sequence[int], leaves: Sequence[int]) -> list[Span]:
    """Find where the columns of row groups lie in their file.

    Parameters
    ----------
    footer : pq.FileMetaData
        The file's.
    groups : sequence of int
        The row groups.
    leaves : sequence of int
        Which of Parquet's columns.

    Returns
    -------
    list of (int, int)
        First byte, and the one after the last; row group after row group.
    """
    spans = []
    for row_group in map(footer.row_group, groups):
        for leaf in leaves:
            column = row_group.column(leaf)
            start = column.data_page_offset
            if column.has_dictionary_page and 0 < column.dictionary_page_offset < start:
                start = column.dictionary_page_offset
            spans.append((start, start + column.total_compressed_size))
    return spans


def fetch_cost(
    files: RemoteFiles, footers: Sequence[Footer], columns: Sequence[str], groups: Sequence[npt.NDArray[Any]]
) -> FetchCost:
    """Estimate what fetching row groups takes.

    Parameters
    ----------
    files : RemoteFiles
        Where the files lie.
    footers : sequence of Footer
        One a file.
    columns : sequence of str
        Which columns.
    groups : sequence of numpy.ndarray
        For each file, the row groups wanted.

    Returns
    -------
    FetchCost
        By row group: the columns' bytes and small gaps between them.
    """
    checks = 0 if files.tells_versions and all(footer.version for footer in footers) else 1  # is it still the same?
    nbytes, requests, gaps_after = [], [], []
    for footer, group in zip(footers, groups, strict=True):
        at = np.sort([index for name in columns if (index := footer.schema.get_field_index(name)) >= 0])
        stored = footer.column_nbytes[group]
        stops = np.cumsum(stored, axis=1)
        if not len(at):
            nbytes.append(np.zeros(len(group), np.int64))
            requests.append(np.ones(len(group), np.int64))
            gaps_after.append(np.zeros(len(group), np.int64))
            continue
        gaps = (stops - stored)[:, at[1:]] - stops[:, at[:-1]]
        is_fetched = gaps <= GAP_NBYTES
        nbytes.append(stored[:, at].sum(axis=1) + np.where(is_fetched, gaps, 0).sum(axis=1))
        runs = 1 + np.count_nonzero(~is_fetched, axis=1)
        requests.append(checks + np.maximum(runs, -(-nbytes[-1] // REQUEST_NBYTES)))
        before, after = (stops - stored)[:, at[0]], stops[:, -1] - stops[:, at[-1]]
        gaps_after.append(after + np.append(before[1:], 0))
    return FetchCost(
        nbytes=np.concatenate(nbytes),
        requests=np.concatenate(requests),
        once=len(footers),
        each=checks,
        footer_nbytes=np.repeat([parsed_nbytes(footer) for footer in footers], [len(group) for group in groups]),
        gap_nbytes=np.concatenate(gaps_after),
    )


def joined_cost(cost: FetchCost, edges: npt.NDArray[np.int64]) -> FetchCost:
    """Estimate what fetching row groups takes if several that follow each other are fetched together.

    Parameters
    ----------
    cost : FetchCost
        As `fetch_cost` estimates it for each.
    edges : numpy.ndarray
        An int64 ``[joined + 1]``: the first row group of each.

    Returns
    -------
    FetchCost
        Small gaps between row groups are fetched too; what is asked for once a read is counted once.
    """
    first = edges[:-1]
    assert cost.gap_nbytes is not None
    assert cost.footer_nbytes is not None
    is_inner = np.ones(len(cost.nbytes), np.bool_)
    is_inner[edges[1:] - 1] = False
    is_fetched = is_inner & (cost.gap_nbytes <= GAP_NBYTES)
    nbytes = np.add.reduceat(cost.nbytes + np.where(is_fetched, cost.gap_nbytes, 0), first)
    parts = np.add.reduceat(cost.requests - cost.each - is_fetched, first)
    requests = cost.each + np.maximum(parts, -(-nbytes // REQUEST_NBYTES))
    return replace(cost, nbytes=nbytes, requests=requests, footer_nbytes=cost.footer_nbytes[first], gap_nbytes=None)
