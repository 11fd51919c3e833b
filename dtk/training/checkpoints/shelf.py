"""A directory of few and large files, on a shared disk or in an object store: each file is there whole, or not.

On a disk a name is taken by one only, of all who try at once. In an object store that holds where it has conditional
writes (S3, Google and Azure do); where it has none, two that try in the same instant may both believe to have it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from dtk.sources.spool_place import Place

__all__ = ["Shelf"]

_NO_LINKS: Final = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class Shelf:
    """A directory of files, by name.

    Parameters
    ----------
    path : str
        Local, or a URL.
    storage_options : mapping, optional
        For the file system of a URL.
    """

    def __init__(self, path: str, storage_options: Mapping[str, Any] | None = None) -> None:
        self._place = Place.of(path, storage_options)
        self.path = path.rstrip("/") if "://" in path else self._place.root

    @property
    def is_local(self) -> bool:
        """Whether the files are on a disk, and can be read and written where they are."""
        return self._place.is_local

    def local(self, name: str) -> Path:
        """Return where a file is on the disk.

        Parameters
        ----------
        name : str
            Below the directory.

        Returns
        -------
        pathlib.Path
            Absolute.
        """
        assert self.is_local
        return Path(self._at(name))

    def names(self, below: str = "") -> set[str]:
        """List a directory.

        Parameters
        ----------
        below : str
            Its name; the whole one if empty.

        Returns
        -------
        set of str
            Names in it; none if it is not there.
        """
        self._place.fs.invalidate_cache()
        with contextlib.suppress(FileNotFoundError):
            found = self._place.call("ls", self._at(below), detail=False)
            return {os.path.basename(name.rstrip("/")) for name in found}
        return set()

    def has(self, name: str) -> bool:
        """Tell whether a file or directory is there.

        Parameters
        ----------
        name : str
            Its name.

        Returns
        -------
        bool
            As of now.
        """
        self._place.fs.invalidate_cache()
        return self._place.exists(self._at(name))

    def read(self, name: str) -> bytes:
        """Read a small file.

        Parameters
        ----------
        name : str
            Its name.

        Returns
        -------
        bytes
            All of it.
        """
        return self._place.cat_file(self._at(name))

    def make(self, name: str) -> None:
        """Make a directory, where there are any.

        Parameters
        ----------
        name : str
            Its name; that it is there is no error.
        """
        if self.is_local:
            os.makedirs(self._at(name), exist_ok=True)

    def write(self, name: str, content: bytes, *, exclusive: bool = False) -> None:
        """Write a small file: who finds it finds all of it.

        Parameters
        ----------
        name : str
            Its name.
        content : bytes
            All of it.
        exclusive : bool
            Whether nothing of that name may be there; then `content` must be like no other's.

        Raises
        ------
        FileExistsError
            If it is there, and must not be.
        """
        if self.is_local:
            _write_local(Path(self._at(name)), content, exclusive=exclusive)
        elif not exclusive:
            self._place.call("pipe_file", self._at(name), content)
        else:
            if self.has(name):
                raise FileExistsError(name)
            self._create(name, content)

    def put(self, source: Path, name: str) -> None:
        """Bring a file of this machine; for an object store.

        Parameters
        ----------
        source : pathlib.Path
            The file.
        name : str
            What it is called here.
        """
        self._place.call("put_file", str(source), self._at(name))

    def get(self, name: str, target: Path) -> None:
        """Fetch a file to this machine; from an object store.

        Parameters
        ----------
        name : str
            Its name.
        target : pathlib.Path
            Where to.
        """
        self._place.call("get_file", self._at(name), str(target))

    def remove(self, name: str) -> None:
        """Remove a file, or a directory with all in it.

        Parameters
        ----------
        name : str
            Its name; that it is not there is no error.
        """
        path = self._at(name)
        if not self.is_local:
            with contextlib.suppress(FileNotFoundError):
                self._place.call("rm", path, recursive=True)
        elif os.path.isdir(path):
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def _create(self, name: str, content: bytes) -> None:
        """Write to an object store what must not be there, as far as it can tell."""
        try:
            self._place.fs.pipe_file(self._at(name), content, mode="create")
        except (NotImplementedError, TypeError, FileNotFoundError):  # no conditional writes, or no bucket: it says so
            self._place.call("pipe_file", self._at(name), content)
        except OSError as error:
            text = str(error).lower()
            if not isinstance(error, FileExistsError) and "precondition" not in text and "pre-condition" not in text:
                raise
            if self.read(name) != content:  # else its answer was lost, and the client has asked again
                raise FileExistsError(name) from error

    def _at(self, name: str) -> str:
        return f"{self._place.root}/{name}" if name else self._place.root


def _write_local(path: Path, content: bytes, *, exclusive: bool) -> None:
    """Write under another name first."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if not exclusive:
            temporary.replace(path)
            return
        try:
            os.link(temporary, path)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            with path.open("xb") as file:  # a shared disk without hard links; a kill may leave it empty
                file.write(content)
    finally:
        temporary.unlink(missing_ok=True)
