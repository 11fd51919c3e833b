"""The path of a spool: what is there, and how much room is left."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from fsspec.implementations.local import LocalFileSystem

from dtk.errors import ArgumentError, DataError, DtkError, FetchError, NotFoundError
from dtk.sources.filesystems import filesystem_of
from dtk.sources.remote import steadily
from dtk.sources.spool_manifest import MANIFEST, OBJECTS, Manifest, Objects, read_manifest

__all__ = ["RECORDS", "UNPUBLISHED", "Place", "sizes_below"]

RECORDS: Final = "_records"
UNPUBLISHED: Final = "_data-"  # what the names of directories begin with that readers of an object store pass over
_UNPUBLISHED: Final = re.compile(rf"{UNPUBLISHED}(unknown-)?[0-9a-f]{{32,}}-[0-9a-f]{{8}}(-again)?(\.owner)?")


@dataclass(frozen=True)
class Place:
    """The path of a spool, whether there is one or not.

    Parameters
    ----------
    path : str
        As given.
    root : str
        The same, absolute and without a protocol.
    fs : fsspec.AbstractFileSystem
        Where it lies.
    storage_options : mapping of str to object
        What the file system was made with.
    """

    path: str
    root: str
    fs: Any
    storage_options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, path: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None) -> Place:
        """Look where a path leads.

        Parameters
        ----------
        path : str or path
            Local, or a URL.
        storage_options : mapping, optional
            For the file system of a URL.

        Returns
        -------
        Place
            Nothing is made there.

        Raises
        ------
        ArgumentError
            If there is no such protocol, or it has no such option.
        DependencyError
            If a package for this protocol is missing.
        """
        text = os.fspath(path)
        fs, root = filesystem_of(text, storage_options)
        if fs is None:
            fs = LocalFileSystem()
            root = os.path.abspath(os.path.expanduser(root))
            root = os.path.realpath(root) if os.path.islink(root) else root  # a link stays, and leads to what is new
        return cls(text, root.rstrip("/"), fs, dict(storage_options or {}))

    def call(self, method: str, path: str, *arguments: Any, **options: Any) -> Any:
        """Call the file system; an object store again, where it fails for a while.

        Parameters
        ----------
        method : str
            A method of fsspec's file systems.
        path : str
            Its first argument.
        *arguments : object
            Others.
        **options : object
            And its keywords.

        Returns
        -------
        object
            What it returns.

        Raises
        ------
        FetchError
            If an object store failed too often, or refused.
        NotFoundError
            If it has no place for what is written.
        """
        function = getattr(self.fs, method)
        if self.is_local:
            return function(path, *arguments, **options)
        url = self.fs.unstrip_protocol(path)
        try:
            return steadily(url, function, path, *arguments, **options)
        except FileNotFoundError as error:
            if method != "pipe_file":
                raise
            raise NotFoundError(
                f"{url} cannot be written: {error}; make its bucket first, or check the name"
            ) from error
        except DtkError:
            raise
        except Exception as error:  # clients raise what they like
            remedy = "check the address, the rights, and the credentials in storage_options= or the environment"
            raise FetchError(
                f"{url} cannot be reached ({method}): {type(error).__name__}: {error}; {remedy}"
            ) from error

    def exists(self, path: str) -> bool:
        """Tell whether something is there.

        Parameters
        ----------
        path : str
            A file or a directory.

        Returns
        -------
        bool
            False only where the store says so.
        """
        try:
            self.call("info", path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def cat_file(self, path: str) -> bytes:
        """Read a file.

        Parameters
        ----------
        path : str
            The file.

        Returns
        -------
        bytes
            Its content.
        """
        return bytes(self.call("cat_file", path))

    @property
    def is_local(self) -> bool:
        """Whether it is a directory of this machine, or one that is shared with it."""
        return isinstance(self.fs, LocalFileSystem)

    def manifest(self) -> Manifest | None:
        """Read what is there.

        Returns
        -------
        Manifest or None
            None if there is nothing, or an empty directory.

        Raises
        ------
        ArgumentError
            If something else is there.
        DataError
            If the manifest is damaged.
        """
        self.fs.invalidate_cache()
        found = read_manifest(self.root, self)
        if found is not None:
            return found
        if not self.exists(self.root):
            return None
        below = {os.path.basename(name.rstrip("/")) for name in self.call("ls", self.root, detail=False)}
        if not self.is_local:
            below.difference_update(self.unpublished())
        if not self.call("isdir", self.root) or below:
            raise ArgumentError(f"path={self.path!r} exists and is no spool; give another path")
        return None

    def unpublished(self) -> list[str]:
        """List what lies below an object store's path that was not published, or was before.

        Returns
        -------
        list of str
            Names of prefixes and of their owners, sorted; that of what is published, too.
        """
        self.fs.invalidate_cache()
        names = [os.path.basename(name.rstrip("/")) for name in self.call("ls", self.root, detail=False)]
        return sorted(name for name in names if _UNPUBLISHED.fullmatch(name))

    def check_whole(self, manifest: Manifest) -> Objects:
        """Compare the names and sizes of a spool's files with its manifest.

        Parameters
        ----------
        manifest : Manifest
            Its own.

        Returns
        -------
        Objects
            The files.

        Raises
        ------
        DataError
            If a file is missing, of another size, or none of the spool's; it is named.
        """
        directory, found = manifest.directory(self.root), sizes_below(self, manifest.directory(self.root))
        objects = manifest.read_objects(self.root, self)
        for name, nbytes in objects.sizes():
            if name not in found:
                raise DataError(f"{directory}/{name} is missing; spool again with overwrite=True")
            size = found.pop(name)
            if size not in (nbytes, None):  # a web server may not tell
                raise DataError(f"{directory}/{name} has {size} bytes, not {nbytes}; spool again with overwrite=True")
        strange = [name for name in found if not any(part.startswith((".", "_")) for part in name.split("/"))]
        if strange:
            raise DataError(f"{directory}/{strange[0]} is none of the spool's files; put it elsewhere")
        return objects

    def free_nbytes(self) -> int | None:
        """Tell how much room is left.

        Returns
        -------
        int or None
            Bytes; None for an object store.
        """
        if not self.is_local:
            return None
        above = self.root
        while not os.path.isdir(above):
            above = os.path.dirname(above)
        return shutil.disk_usage(above).free


def sizes_below(place: Place, directory: str) -> dict[str, int | None]:
    """List the bytes of all files of a spool.

    Parameters
    ----------
    place : Place
        Where it lies.
    directory : str
        What holds its pieces.

    Returns
    -------
    dict of str to int or None
        By name below the directory, None where the store does not tell; without the manifest and the records.
    """
    place.fs.invalidate_cache(directory)
    found: dict[str, int | None]
    if place.is_local:
        found = {
            f"{where}/{name}": os.path.getsize(f"{where}/{name}")
            for where, _, names in os.walk(directory)
            for name in names
        }
    else:
        listed = place.call("find", directory, detail=True)
        found = {f"/{path.lstrip('/')}": told["size"] for path, told in listed.items()}
        directory = f"/{directory.lstrip('/')}"
    below = {path[len(directory) + 1 :]: size for path, size in found.items()}
    return {
        name: size
        for name, size in below.items()
        if name not in (MANIFEST, OBJECTS) and not name.startswith(f"{RECORDS}/")
    }
