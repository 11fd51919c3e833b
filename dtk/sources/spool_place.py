"""The path of a spool: what is there, and how much room is left."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from typing import Any, Final

import fsspec
from fsspec.implementations.local import LocalFileSystem

from dtk.errors import ArgumentError, DataError
from dtk.sources.spool_manifest import MANIFEST, Manifest

__all__ = ["RECORDS", "UNPUBLISHED", "Place", "sizes_below"]

RECORDS: Final = "_records"
UNPUBLISHED: Final = "_data-"  # what the names of directories begin with that readers of an object store pass over


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
    """

    path: str
    root: str
    fs: Any

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> Place:
        """Look where a path leads.

        Parameters
        ----------
        path : str or path
            Local, or a URL.

        Returns
        -------
        Place
            Nothing is made there.
        """
        text = os.fspath(path)
        fs, root = fsspec.core.url_to_fs(text)
        if isinstance(fs, LocalFileSystem):
            root = os.path.abspath(os.path.expanduser(root))
            root = os.path.realpath(root) if os.path.islink(root) else root  # a link stays, and leads to what is new
        return cls(text, root.rstrip("/"), fs)

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
        path = f"{self.root}/{MANIFEST}"
        self.fs.invalidate_cache()
        if self.fs.exists(path):
            return Manifest.of_json(self.fs.cat_file(path), path)
        if not self.fs.exists(self.root):
            return None
        below = self.fs.ls(self.root, detail=False)
        if not self.is_local:  # what interrupted spools left
            below = [name for name in below if not os.path.basename(name.rstrip("/")).startswith(UNPUBLISHED)]
        if not self.fs.isdir(self.root) or below:
            raise ArgumentError(f"path={self.path!r} exists and is no spool; give another path")
        return None

    def check_whole(self, manifest: Manifest) -> None:
        """Compare the sizes of a spool's files with its manifest.

        Parameters
        ----------
        manifest : Manifest
            Its own.

        Raises
        ------
        DataError
            If a file is missing or of another size; it is named.
        """
        directory = self.root if manifest.data == "." else f"{self.root}/{manifest.data}"
        sizes = sizes_below(self.fs, directory)
        for piece in manifest.pieces:
            for name, (nbytes, _) in piece.objects.items():
                if sizes.get(name) != nbytes:
                    found = f"has {sizes[name]} bytes, not {nbytes}" if name in sizes else "is missing"
                    raise DataError(f"{directory}/{name} {found}; spool again with overwrite=True")

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


def sizes_below(fs: Any, directory: str) -> dict[str, int]:
    """List the bytes of all files of a spool.

    Parameters
    ----------
    fs : fsspec.AbstractFileSystem
        Where it lies.
    directory : str
        What holds its pieces.

    Returns
    -------
    dict of str to int
        By name below the directory; without the manifest and the records.
    """
    fs.invalidate_cache(directory)
    if isinstance(fs, LocalFileSystem):
        found = {
            f"{where}/{name}": os.path.getsize(f"{where}/{name}")
            for where, _, names in os.walk(directory)
            for name in names
        }
    else:
        found = {f"/{path.lstrip('/')}": int(told["size"]) for path, told in fs.find(directory, detail=True).items()}
        directory = f"/{directory.lstrip('/')}"
    below = {path[len(directory) + 1 :]: size for path, size in found.items()}
    return {name: size for name, size in below.items() if name != MANIFEST and not name.startswith(f"{RECORDS}/")}
