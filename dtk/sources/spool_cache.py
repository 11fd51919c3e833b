"""A cache of a spool on a host's own disk: files are copied at first use, and checked by their digests."""

from __future__ import annotations

import errno
import os
import re
import shutil
import threading
import uuid
from collections import defaultdict
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import fsspec
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

from dtk.errors import DataError
from dtk.sources.spool_manifest import MANIFEST, Manifest, content_digest

if TYPE_CHECKING:
    import dask.dataframe as dd
    import xarray as xr

    from dtk.sources.listing import Listing

__all__ = ["open_cached", "zarr_store"]

_LOOK_SHARE: Final = 64  # a process looks at what all have copied when it has copied this part of the bound itself
_OF_CACHE: Final = re.compile(r"[0-9a-f]{32}(\.[0-9a-f]{8})?")
_KEPT_SHARE: Final = 0.9  # of the bound, when files are removed


def open_cached(path: str, directory: str, max_nbytes: int | None) -> dd.DataFrame | xr.Dataset:
    """Open a spool so that it is read through a cache.

    Parameters
    ----------
    path : str
        Of the spool: a directory or a URL.
    directory : str
        Of the cache, on each host that reads.
    max_nbytes : int or None
        Bytes that all files in it may take; half of its disk if None.

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

    listing = list_files(path)
    filesystem, root = fsspec.core.url_to_fs(path)
    # fsspec keeps file systems by their arguments, in workers too: none of an older spool may be taken for this one's.
    published = content_digest(filesystem.cat_file(f"{root.rstrip('/')}/{MANIFEST}"))
    return open_listing(replace(listing, filesystem=_CachedFiles(path, directory, max_nbytes, published)))


def zarr_store(listing: Listing) -> Any:
    """Return what Zarr opens.

    Parameters
    ----------
    listing : Listing
        Of a Zarr store.

    Returns
    -------
    str or zarr.storage.FsspecStore
        A path or a URL; a store where it is read through a cache.
    """
    if not isinstance(listing.filesystem, _CachedFiles):
        return listing.files[0] if listing.filesystem is None else listing.path
    from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
    from zarr.storage import FsspecStore

    files = AsyncFileSystemWrapper(listing.filesystem, asynchronous=True)
    return FsspecStore(files, read_only=True, path=listing.files[0])


class _CachedFiles(AbstractFileSystem):  # type: ignore[misc]
    """The file system of a spool, read through a cache on this host's disk.

    Notes
    -----
    Files are named by their digests, so that processes and spools share them. One is written under a temporary name,
    and checked when it is copied and when a process opens it first. Those used least recently are removed. What does
    not fit is read from the spool, as are the ends of files: of Parquet they are the footers, which planning reads.
    """

    protocol = "dtk-spool"

    def __init__(self, url: str, directory: str, max_nbytes: int | None, published: str, **options: Any) -> None:
        super().__init__(url, directory, max_nbytes, published, **options)
        self._published = published
        self._target, root = fsspec.core.url_to_fs(url)
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
        told = self._told.get(path)
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

    @cached_property
    def _told(self) -> dict[str, tuple[int, str]]:
        """Bytes and digest of each file, by its path."""
        where = f"{self._root}/{MANIFEST}"
        content = self._target.cat_file(where)
        if content_digest(content) != self._published:
            raise DataError(f"{where} was written again since it was opened; open it anew")
        manifest = Manifest.of_json(content, where)
        data = self._root if manifest.data == "." else f"{self._root}/{manifest.data}"
        return {f"{data}/{name}": told for piece in manifest.pieces for name, told in piece.objects.items()}

    @cached_property
    def _max_nbytes(self) -> int:
        if self._given_nbytes is not None:
            return int(self._given_nbytes)
        return shutil.disk_usage(self._directory).total // 2

    def _read(self, path: str, nbytes: int, digest: str, start: int, stop: int) -> bytes | None:
        """Read a part of a file from the cache, which is copied there first; None where it has no room."""
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
        content: bytes = self._target.cat_file(path)
        if len(content) != nbytes or content_digest(content) != digest:
            raise DataError(f"{self.unstrip_protocol(path)} is not what was spooled; spool again with overwrite=True")
        temporary = f"{local}.{uuid.uuid4().hex[:8]}"
        try:
            with self._writing:
                self._make_room(nbytes)
                with open(temporary, "wb") as file:
                    file.write(content)
                os.replace(temporary, local)
            self._checked.add(digest)
        except OSError as error:
            with suppress(FileNotFoundError):
                os.remove(temporary)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                self._too_large.add(digest)
            elif error.errno != errno.ENOENT:  # another process has just made room
                raise
        return content

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
