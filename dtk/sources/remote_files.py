"""Files of an fsspec file system, fetched in ranges, many at a time."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dtk.errors import DataError, FetchError
from dtk.sources.answers import tag_of, tagged_get
from dtk.sources.byte_ranges import Span, merged, split
from dtk.sources.forks import of_this_process
from dtk.sources.remote import Fetcher, Retries, fetcher_of, gathered

__all__ = ["RemoteFiles", "SharedTask", "remote_files", "version_of"]


@dataclass
class SharedTask:
    """A task that several wait for.

    Parameters
    ----------
    task : asyncio.Task
        The task.
    waiting : int
        How many wait for it.
    """

    task: asyncio.Task[Any]
    waiting: int = 0


class RemoteFiles:
    """The files of a file system.

    Parameters
    ----------
    filesystem : fsspec.AbstractFileSystem
        Of any kind. One that is not asynchronous is called from threads.

    Attributes
    ----------
    fetcher : Fetcher
        Of the event loop that the file system lives on.
    footers : dict
        By path and version, the task that fetches a footer just now.
    token : str
        Tells this file system from others.
    """

    def __init__(self, filesystem: Any) -> None:
        filesystem = self._given = of_this_process(filesystem)
        if not filesystem.async_impl:
            from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper

            filesystem = AsyncFileSystemWrapper(filesystem, asynchronous=False)
        elif filesystem.asynchronous:  # made for somebody's own event loop
            options = {**filesystem.storage_options, "asynchronous": False}
            filesystem = type(filesystem)(*filesystem.storage_args, **options)
        self._filesystem, self._tagged_get = filesystem, tagged_get(filesystem)
        self.fetcher: Fetcher = fetcher_of(filesystem.loop)
        self.footers: dict[tuple[str, str], SharedTask] = {}
        self.token = str(getattr(self._given, "_fs_token", id(self._given)))

    @property
    def tells_versions(self) -> bool:
        """Whether what is fetched comes with its version, so that nobody need ask for it."""
        return self._tagged_get is not None

    def url(self, path: str) -> str:
        """Return the address of a file, for people.

        Parameters
        ----------
        path : str
            As the file system knows it.

        Returns
        -------
        str
            With the protocol.
        """
        return str(self._given.unstrip_protocol(path))

    def call(self, method: str, path: str, retries: Retries | None = None, **options: Any) -> Any:
        """Ask the file system something, and wait for the answer.

        Parameters
        ----------
        method : str
            A method of fsspec's file systems.
        path : str
            Its argument.
        retries : Retries, optional
            How often to try; as always if None.
        **options : object
            Others.

        Returns
        -------
        object
            What the method returns.

        Raises
        ------
        NotFoundError
            If it is not there.
        FetchError
            If the store does not answer.
        """
        asked = getattr(self._filesystem, f"_{method}")

        async def _ask() -> Any:
            return await self.fetcher.request(self.url(path), lambda: asked(path, **options), retries=retries)

        return self.fetcher.start(_ask).result()

    def forget(self, path: str | None = None) -> None:
        """Drop what was listed: some file systems keep it, and would not see what was written since.

        Parameters
        ----------
        path : str, optional
            A file; all if None.
        """
        for one in (self._given, self._filesystem):  # who was given an asynchronous one asks another
            one.invalidate_cache(path)

    async def range(self, path: str, start: int, stop: int, version: str | None = None) -> tuple[Any, bool]:
        """Fetch a range of a file in one request.

        Parameters
        ----------
        path : str
            The file.
        start : int
            The first byte.
        stop : int
            The byte after the last.
        version : str, optional
            What the file should be, as `version_of` gives it.

        Returns
        -------
        bytes or memoryview
            All of it.
        bool
            Whether it is known to be of this version; it may be where it is not known.

        Raises
        ------
        DataError
            If the file was changed.
        FetchError
            If the store does not give it.
        """
        wanted = None if version is None else version.partition(":")[2]

        async def _get() -> tuple[Any, bool]:
            if self._tagged_get is None:
                content, tag = await self._filesystem._cat_file(path, start=start, end=stop), ""
            else:
                content, tag = await self._tagged_get(path, start, stop)
            if len(content) != stop - start and tag and wanted and tag != wanted:
                raise _changed(path)
            if len(content) < stop - start:
                raise EOFError(f"{len(content)} bytes came where {stop - start} were asked for")
            if len(content) > stop - start:
                raise ValueError("the server gives whole files only, and dtk has to read parts of them")
            return content, bool(tag) and tag == wanted

        return await self.fetcher.request(self.url(path), _get) if stop > start else (b"", False)

    async def ranges(self, path: str, spans: Sequence[Span], version: str) -> list[tuple[int, Any]]:
        """Fetch spans of a file at once, those that are close to each other together.

        Parameters
        ----------
        path : str
            The file.
        spans : sequence of (int, int)
            First byte, and the one after the last.
        version : str
            What the file has to be, as `version_of` gives it.

        Returns
        -------
        list of (int, bytes)
            Where each part starts, and its content; together they cover the spans.

        Raises
        ------
        DataError
            If the file was changed.
        FetchError
            If the store does not give them.
        """
        are_known = []

        async def _content(start: int, stop: int) -> Any:
            content, is_known = await self.range(path, start, stop, version)
            are_known.append(is_known)
            return content

        async def _part(start: int, stop: int) -> tuple[int, Any]:
            pieces = split(start, stop)
            if len(pieces) == 1:
                return start, await _content(start, stop)
            whole = np.empty(stop - start, np.uint8)

            async def _piece(first: int, last: int) -> None:
                whole[first - start : last - start] = np.frombuffer(await _content(first, last), np.uint8)

            await gathered(_piece(*one) for one in pieces)
            return start, memoryview(whole)  # type: ignore[arg-type]

        wanted = [(group[0][0], max(stop for _, stop in group)) for group in merged(spans)]
        parts = await gathered(_part(*span) for span in wanted)
        if not are_known or not all(are_known):  # asked after the last byte came: it may change until then
            await self.check_version(path, version)
        return parts

    async def version(self, path: str, retries: Retries | None = None) -> str:
        """Ask for a file's size and version, not trusting what a listing said before.

        Parameters
        ----------
        path : str
            The file.
        retries : Retries, optional
            How often to try; as always if None.

        Returns
        -------
        str
            As `version_of` gives it.

        Raises
        ------
        NotFoundError
            If it is not there.
        FetchError
            If the store does not answer.
        """
        self.forget(path)
        ask = self.fetcher.request(self.url(path), lambda: self._filesystem._info(path), retries=retries)
        return version_of(await ask)

    async def check_version(self, path: str, version: str, retries: Retries | None = None) -> None:
        """Refuse a file that was changed.

        Parameters
        ----------
        path : str
            The file.
        version : str
            What `version` gave before.
        retries : Retries, optional
            How often to try; as always if None.

        Raises
        ------
        DataError
            If it is another one now.
        """
        if await self.version(path, retries) != version:
            raise _changed(path)

    async def listed_version(self, path: str) -> str:
        """Tell a file's version; what a listing said of it is trusted.

        Parameters
        ----------
        path : str
            The file.

        Returns
        -------
        str
            As `version_of` gives it.
        """
        return version_of(await self.fetcher.request(self.url(path), lambda: self._filesystem._info(path)))

    async def tail(self, path: str, version: str, length: int) -> Any:
        """Fetch the end of a file.

        Parameters
        ----------
        path : str
            The file.
        version : str
            What it has to be, where that is told without asking once more.
        length : int
            Bytes wanted; fewer come from a smaller file.

        Returns
        -------
        bytes or memoryview
            Its last bytes.
        """
        nbytes = int(version.partition(":")[0])
        content, is_known = await self.range(path, max(0, nbytes - length), nbytes, version)
        if self.tells_versions and not is_known:
            await self.check_version(path, version)
        return content


_known: dict[Any, RemoteFiles] = {}  # fsspec keeps its file systems as long
os.register_at_fork(after_in_child=_known.clear)


def remote_files(filesystem: Any) -> RemoteFiles:
    """Return the one that all who use a file system share.

    Parameters
    ----------
    filesystem : fsspec.AbstractFileSystem
        Where the files lie.

    Returns
    -------
    RemoteFiles
        Made at the first call.
    """
    found = _known.get(filesystem)
    if found is None:
        found = _known[filesystem] = RemoteFiles(filesystem)
    return found


def version_of(info: Mapping[str, Any]) -> str:
    """Tell a file's size and version from what its file system says of it.

    Parameters
    ----------
    info : mapping
        As of fsspec.

    Returns
    -------
    str
        Bytes, a colon, and the tag or time that changes when the file does.

    Raises
    ------
    FetchError
        If the size is unknown: ranges of it cannot be read.

    Examples
    --------
    >>> version_of({"size": 120, "ETag": "a1"})
    '120:a1'
    """
    if info.get("size") is None:
        raise FetchError(
            f"{info.get('name')} has no known size, so that parts of it cannot be read; use another server"
        )
    return f"{info['size']}:{tag_of(info)}"


def _changed(path: str) -> DataError:
    return DataError(f"{path} was changed since it was opened; open the data again")
