"""A cache of a spool on a host's own disk: files are copied at first use, and checked by their digests."""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
import threading
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from fsspec.implementations.local import LocalFileSystem
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

from dtk.errors import ArgumentError, DataError
from dtk.sources.filesystems import filesystem_of
from dtk.sources.publishing import written_whole
from dtk.sources.spool_manifest import Objects, content_digest, read_manifest
from dtk.sources.spool_place import Place

if TYPE_CHECKING:
    import dask.dataframe as dd
    import xarray as xr

    from dtk.sources.listing import Listing

__all__ = ["open_cached", "zarr_store"]

_LOOK_SHARE: Final = 64  # a process looks at what all have copied when it has copied this part of the bound itself
_OF_CACHE: Final = re.compile(r"[0-9a-f]{32}|\.[0-9a-f]{32}\.[0-9a-f]{8}")
_KEPT_SHARE: Final = 0.9  # of the bound, when files are removed


def open_cached(
    path: str, directory: str, max_nbytes: int | None, storage_options: Mapping[str, Any] | None = None
) -> dd.DataFrame | xr.Dataset:
    """Open a spool so that it is read through a cache.

    Parameters
    ----------
    path : str
        Of the spool: a directory or a URL.
    directory : str
        Of the cache, on each host that reads.
    max_nbytes : int or None
        Bytes that all files in it may take; half of its disk if None.
    storage_options : mapping, optional
        For the file system of a URL.

    Returns
    -------
    dask.dataframe.DataFrame or xarray.Dataset
        Lazy, as of `dtk.open`.

    Raises
    ------
    DataError
        If the spool is damaged.
    """
    from dtk.sources.listing import list_files
    from dtk.sources.open import open_listing

    listing = list_files(path, storage_options=storage_options)
    assert listing.spool is not None
    # fsspec keeps file systems by their arguments, in workers too: none of an older spool may be taken for this one's.
    published = content_digest(listing.spool.to_json())
    files = _CachedFiles(path, directory, max_nbytes, published, dict(storage_options or {}))
    return open_listing(replace(listing, filesystem=files))


def zarr_store(listing: Listing) -> Any:
    """Return what Zarr opens.

    Parameters
    ----------
    listing : Listing
        Of a Zarr store.

    Returns
    -------
    str or zarr.abc.store.Store
        A path or a URL; of a spool a store in which no chunk may be absent.
    """
    if listing.spool is None:
        return listing.files[0] if listing.filesystem is None else listing.path
    from dtk.sources.whole_store import FsspecStore, LocalStore

    store: FsspecStore | LocalStore
    if listing.filesystem is None:
        store = LocalStore(listing.files[0], read_only=True)
    elif isinstance(listing.filesystem, _CachedFiles):
        from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper

        files = AsyncFileSystemWrapper(listing.filesystem, asynchronous=True)
        store = FsspecStore(files, read_only=True, path=listing.files[0])
    else:
        found = FsspecStore.from_url(listing.path, dict(listing.storage_options), read_only=True)
        assert isinstance(found, FsspecStore)
        store = found
    store.published = listing.spool.objects
    return store


class _CachedFiles(AbstractFileSystem):  # type: ignore[misc]
    """The file system of a spool, read through a cache on this host's disk.

    Notes
    -----
    Files are named by their digests, so that processes and spools share them. One is written under a temporary name,
    and checked when it is copied and when a process opens it first. Those used least recently are removed. What does
    not fit is read from the spool, as are the ends of files: of Parquet they are the footers, which planning reads.
    """

    protocol = "dtk-spool"

    def __init__(
        self,
        url: str,
        directory: str,
        max_nbytes: int | None,
        published: str,
        target_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(url, directory, max_nbytes, published, target_options, **options)
        self._published = published
        target, root = filesystem_of(url, target_options)
        self._target = LocalFileSystem() if target is None else target
        self._root = root.rstrip("/")
        self._directory = os.path.abspath(os.path.expanduser(directory))
        self._given_nbytes = max_nbytes
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._checked: set[str] = set()
        self._too_large: set[str] = set()  # for the disk, as others have filled it
        self._writing = threading.Lock()
        self._unseen_nbytes: int | None = None

    def unstrip_protocol(self, name: str) -> str:
        """Return the address of a file, for people."""
        return str(self._target.unstrip_protocol(name))

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        """Describe a file or a directory of the spool."""
        found: dict[str, Any] = self._target.info(path, **options)
        return found

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        """List a directory of the spool."""
        found: list[Any] = self._target.ls(path, detail=detail, **options)
        return found

    def invalidate_cache(self, path: str | None = None) -> None:
        """Forget what listings said."""
        self._target.invalidate_cache(path)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        """Read a file, or a part of it."""
        told = self._told(path)
        first, last = start or 0, end
        if told is not None:
            nbytes, digest = told
            last = nbytes if last is None else last
            first, last = (max(0, nbytes + part) if part < 0 else part for part in (first, last))
            is_end = start is not None and last >= nbytes
            if digest in self._checked or not is_end:
                content = self._read(path, nbytes, digest, first, last)
                if content is not None:
                    return content
        found: bytes = self._target.cat_file(path, start=start, end=end, **options)
        return found

    def _open(self, path: str, mode: str = "rb", block_size: Any = None, **options: Any) -> Any:
        return _File(self, path, mode, size=self.info(path)["size"], cache_type="none")

    def _told(self, path: str) -> tuple[int, str] | None:
        """Return the bytes and the digest of a file; None for what is no piece of the spool."""
        directory, objects = self._objects
        return objects.find(path.removeprefix(directory)) if path.startswith(directory) else None

    @cached_property
    def _objects(self) -> tuple[str, Objects]:
        """The directory of the pieces, and what the spool's list says of them."""
        place = Place(self._root, self._root, self._target)
        manifest = read_manifest(self._root, place)
        if manifest is None or content_digest(manifest.to_json()) != self._published:
            raise DataError(f"{self._root} was written again since it was opened; open it anew")
        return f"{manifest.directory(self._root)}/", manifest.read_objects(self._root, place)

    @cached_property
    def _max_nbytes(self) -> int:
        if self._given_nbytes is not None:
            return int(self._given_nbytes)
        return shutil.disk_usage(self._directory).total // 2

    def _read(self, path: str, nbytes: int, digest: str, start: int, stop: int) -> bytes | None:
        """Read a part of a file from the cache, which is copied there first; None where it has no room."""
        with self._naming_cache():
            os.makedirs(self._directory, exist_ok=True)
        if digest in self._too_large or nbytes > self._max_nbytes * _KEPT_SHARE:
            return None
        local = f"{self._directory}/{digest}"
        with self._locks[digest]:
            content = self._checked_content(local, nbytes, digest)
            if content is None and digest not in self._checked:
                content = self._copied(path, local, nbytes, digest)
        if content is not None:
            return content[start:stop]
        try:
            with open(local, "rb") as file:
                file.seek(start)
                return file.read(stop - start)
        except FileNotFoundError:  # another process has just made room
            self._checked.discard(digest)
            return None

    @contextmanager
    def _naming_cache(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.ENOENT):
                raise
            raise ArgumentError(
                f"cache={self._directory!r} cannot be written on {socket.gethostname()}: {error}; give a directory of"
                " each host's own disk that its processes may write to"
            ) from error

    def _checked_content(self, local: str, nbytes: int, digest: str) -> bytes | None:
        """Look whether a file is there and whole; its content, if this process had to read it for that."""
        try:
            if os.path.getsize(local) != nbytes:
                os.remove(local)
                raise FileNotFoundError(local)
            os.utime(local)  # those used least recently go first
            if digest in self._checked:
                return None
            with open(local, "rb") as file:
                content = file.read()
        except FileNotFoundError:
            self._checked.discard(digest)
            return None
        if content_digest(content) != digest:
            with suppress(FileNotFoundError):
                os.remove(local)
            return None
        self._checked.add(digest)
        return content

    def _copied(self, path: str, local: str, nbytes: int, digest: str) -> bytes:
        """Fetch a file, and keep a copy where there is room."""
        content = Place(self._root, self._root, self._target).cat_file(path)
        if len(content) != nbytes or content_digest(content) != digest:
            raise DataError(f"{self.unstrip_protocol(path)} is not what was spooled; spool again with overwrite=True")
        try:
            with self._writing, self._naming_cache():
                self._make_room(nbytes)
                with written_whole(local, is_lasting=False) as temporary, open(temporary, "wb") as file:
                    file.write(content)
            self._checked.add(digest)
        except OSError as error:
            if error.errno != errno.ENOENT:  # where another process has just made room
                self._give_up(digest)
        return content

    def _give_up(self, digest: str) -> None:
        """Read a file from the spool from now on."""
        if not self._too_large:
            warnings.warn(
                f"cache={self._directory!r} is on a full disk of {socket.gethostname()}: files that do not fit are"
                " read from the spool each time; free some of it",
                stacklevel=2,
            )
        self._too_large.add(digest)

    def _make_room(self, nbytes: int) -> None:
        """Remove what was used least recently, if the cache may be full."""
        if self._unseen_nbytes is not None:
            self._unseen_nbytes += nbytes
            if self._unseen_nbytes <= self._max_nbytes // _LOOK_SHARE:
                return
        self._unseen_nbytes = 0
        found = []
        for entry in os.scandir(self._directory):
            if _OF_CACHE.fullmatch(entry.name):  # what else lies there is not dtk's to remove
                with suppress(FileNotFoundError):
                    status = entry.stat()
                    found.append((status.st_mtime_ns, status.st_size, entry.path))
        total = sum(size for _, size, _ in found) + nbytes
        for _, size, path in sorted(found):
            if total <= self._max_nbytes * _KEPT_SHARE:
                break
            with suppress(FileNotFoundError):
                os.remove(path)
            total -= size


class _File(AbstractBufferedFile):  # type: ignore[misc]
    """A file that is read through the cache."""

    def _fetch_range(self, start: int, end: int) -> bytes:
        content: bytes = self.fs.cat_file(self.path, start=start, end=end)
        return content
