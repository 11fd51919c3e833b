"""Files of an fsspec file system, fetched in ranges, many at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dtk.errors import DataError, FetchError
from dtk.sources.byte_ranges import Span, merged, split
from dtk.sources.remote import Fetcher, fetcher_of, gathered

__all__ = ["RemoteFiles", "SharedTask", "remote_files", "tag_of", "version_of"]


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
    """

    def __init__(self, filesystem: Any) -> None:
        self._given = filesystem
        if not filesystem.async_impl:
            from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper

            filesystem = AsyncFileSystemWrapper(filesystem, asynchronous=False)
        elif filesystem.asynchronous:  # made for somebody's own event loop
            options = {**filesystem.storage_options, "asynchronous": False}
            filesystem = type(filesystem)(*filesystem.storage_args, **options)
        self._filesystem = filesystem
        self.fetcher: Fetcher = fetcher_of(filesystem.loop)
        self.footers: dict[tuple[str, str], SharedTask] = {}

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

    def call(self, method: str, path: str, **options: Any) -> Any:
        """Ask the file system something, and wait for the answer.

        Parameters
        ----------
        method : str
            A method of fsspec's file systems.
        path : str
            Its argument.
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
        return self.fetcher.start(self.fetcher.request, self.url(path), lambda: asked(path, **options)).result()

    async def range(self, path: str, start: int, stop: int) -> bytes:
        """Fetch a range of a file in one request.

        Parameters
        ----------
        path : str
            The file.
        start : int
            The first byte.
        stop : int
            The byte after the last.

        Returns
        -------
        bytes
            All of it.

        Raises
        ------
        FetchError
            If the store does not give it.
        """

        async def _get() -> bytes:
            content: bytes = await self._filesystem._cat_file(path, start=start, end=stop)
            if len(content) < stop - start:
                raise EOFError(f"{len(content)} bytes came where {stop - start} were asked for")
            if len(content) > stop - start:
                raise ValueError("the server gives whole files only, and dtk has to read parts of them")
            return content

        return await self.fetcher.request(self.url(path), _get) if stop > start else b""

    async def ranges(self, path: str, spans: Sequence[Span]) -> list[tuple[int, Any]]:
        """Fetch spans of a file at once, those that are close to each other together.

        Parameters
        ----------
        path : str
            The file.
        spans : sequence of (int, int)
            First byte, and the one after the last.

        Returns
        -------
        list of (int, bytes)
            Where each part starts, and its content; together they cover the spans.

        Raises
        ------
        FetchError
            If the store does not give them.
        """

        async def _part(start: int, stop: int) -> tuple[int, Any]:
            pieces = split(start, stop)
            if len(pieces) == 1:
                return start, await self.range(path, start, stop)
            whole = np.empty(stop - start, np.uint8)

            async def _piece(first: int, last: int) -> None:
                whole[first - start : last - start] = np.frombuffer(await self.range(path, first, last), np.uint8)

            await gathered(_piece(*one) for one in pieces)
            return start, memoryview(whole)  # type: ignore[arg-type]

        wanted = [(group[0][0], max(stop for _, stop in group)) for group in merged(spans)]
        return await gathered(_part(*span) for span in wanted)

    async def version(self, path: str) -> str:
        """Ask for a file's size and version, not trusting what a listing said before.

        Parameters
        ----------
        path : str
            The file.

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
        self._given.invalidate_cache(path)
        return version_of(await self.fetcher.request(self.url(path), lambda: self._filesystem._info(path)))

    async def check_version(self, path: str, version: str) -> None:
        """Refuse a file that was changed.

        Parameters
        ----------
        path : str
            The file.
        version : str
            What `version` gave before.

        Raises
        ------
        DataError
            If it is another one now.
        """
        if await self.version(path) != version:
            raise DataError(f"{path} was changed since it was opened; open the data again")

    async def tail(self, path: str, nbytes: int, length: int) -> bytes:
        """Fetch the end of a file.

        Parameters
        ----------
        path : str
            The file.
        nbytes : int
            Its size.
        length : int
            Bytes wanted; fewer come from a smaller file.

        Returns
        -------
        bytes
            Its last bytes.
        """
        return await self.range(path, max(0, nbytes - length), nbytes)

    async def tails(self, paths: Sequence[str], length: int) -> list[tuple[str, bytes]]:
        """Fetch the versions and the ends of several files.

        Parameters
        ----------
        paths : sequence of str
            The files; what a listing said of them is trusted.
        length : int
            Bytes of each.

        Returns
        -------
        list of (str, bytes)
            For each file its version and its last bytes.
        """

        async def _one(path: str) -> tuple[str, bytes]:
            version = version_of(await self.fetcher.request(self.url(path), lambda: self._filesystem._info(path)))
            return version, await self.tail(path, int(version.partition(":")[0]), length)

        return await gathered(_one(path) for path in paths)


_known: dict[Any, RemoteFiles] = {}  # fsspec keeps its file systems as long


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


def tag_of(info: Mapping[str, Any]) -> str:
    """Tell what changes when a file does from what its file system says of it.

    Parameters
    ----------
    info : mapping
        As of fsspec.

    Returns
    -------
    str
        A tag or a time; empty if there is none.
    """
    keys = ("ETag", "etag", "mtime", "LastModified", "updated", "created")
    return str(next((info[key] for key in keys if info.get(key)), ""))
