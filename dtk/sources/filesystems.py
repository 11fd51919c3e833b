"""From a path or URL to its file system, and questions to a remote one that are asked again where it fails."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import fsspec
from fsspec.implementations.local import LocalFileSystem

from dtk.errors import ArgumentError, DependencyError, FetchError, NotFoundError
from dtk.sources.remote import REQUESTS, Retries
from dtk.sources.remote_files import remote_files

__all__ = ["SteadyFiles", "filesystem_of", "storage_options_of"]

_HINT: Final = Retries(attempts=1, timeout_s=10.0)
_EXTRAS: Final = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "http": "http", "https": "http"}


def storage_options_of(path: str, storage_options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Complete the options of a file system.

    Parameters
    ----------
    path : str
        A path or URL.
    storage_options : mapping, optional
        What fsspec's file system of this protocol takes.

    Returns
    -------
    dict
        The same and, for S3, as many connections as there may be requests, unless said otherwise.
    """
    options = dict(storage_options or {})
    if _protocol(path) in ("s3", "s3a"):
        configured = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
        options["config_kwargs"] = (
            {"max_pool_connections": REQUESTS} | configured | dict(options.get("config_kwargs") or {})
        )
    return options


def filesystem_of(
    path: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None
) -> tuple[Any | None, str]:
    """Find the file system of a path.

    Parameters
    ----------
    path : str or path
        A path or URL.
    storage_options : mapping, optional
        What fsspec's file system of this protocol takes: an endpoint, credentials.

    Returns
    -------
    tuple of fsspec.AbstractFileSystem or None, and str
        None for local files; and the path as the file system knows it.

    Raises
    ------
    DependencyError
        If a package for this protocol is missing.
    ArgumentError
        If there is no such protocol, or it has no such option.
    """
    path = os.fspath(path)
    protocol = _protocol(path)
    try:
        filesystem, root = fsspec.core.url_to_fs(path, **storage_options_of(path, storage_options))
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        remedy = f"install it with: pip install 'dask-dtk[{extra}]'" if extra else "install it"
        raise DependencyError(f"{path} needs a package that is not there ({error}); {remedy}") from error
    except TypeError as error:
        given = ", ".join(sorted(storage_options or {})) or "none"  # no values: they may be secrets
        raise ArgumentError(f"storage_options ({given}) do not fit {path}: {error}; check their names") from error
    except ValueError as error:
        raise ArgumentError(f"path={path!r} cannot be opened: {error}") from error
    return (None if isinstance(filesystem, LocalFileSystem) else filesystem), root


class SteadyFiles:
    """The questions that a listing asks a remote file system, asked again where it fails for a while.

    Parameters
    ----------
    filesystem : fsspec.AbstractFileSystem
        Of any kind.
    """

    def __init__(self, filesystem: Any) -> None:
        self._files = remote_files(filesystem)
        self._filesystem = filesystem
        self._patient = replace(self._files.fetcher.retries, timeout_s=None)  # listings make thousands of requests

    def names_beside(self, path: str) -> list[str]:
        """List what lies where a path should, for a hint: only once, and not for long.

        Parameters
        ----------
        path : str
            What is not there.

        Returns
        -------
        list of str
            Paths; none where the store does not tell.
        """
        parent = path.rstrip("/").rpartition("/")[0]
        try:
            return list(self._files.call("ls", parent or "/", _HINT, detail=False))
        except (FetchError, NotFoundError):
            return []

    def exists(self, path: str) -> bool:
        """Tell whether something is there.

        Parameters
        ----------
        path : str
            A file or directory.

        Returns
        -------
        bool
            False only where the store says so.
        """
        try:
            self._files.call("info", path)
        except NotFoundError:
            return False
        return True

    def isdir(self, path: str) -> bool:
        """Tell whether a path is a directory.

        Parameters
        ----------
        path : str
            A path.

        Returns
        -------
        bool
            Of a web server, for what it shows as a page.
        """
        if str(path).startswith(("http://", "https://")):  # else the whole file would be searched for links
            try:
                info = self._files.call("info", path)
            except NotFoundError:
                return False
            if not str(info.get("mimetype", "")).startswith("text/html"):
                return False
        return bool(self._files.call("isdir", path, self._patient))

    def find(self, path: str) -> list[str]:
        """List all files below a directory.

        Parameters
        ----------
        path : str
            The directory.

        Returns
        -------
        list of str
            Their paths.
        """
        return list(self._files.call("find", path, self._patient))

    def glob(self, path: str) -> list[str]:
        """List what a pattern matches.

        Parameters
        ----------
        path : str
            With wildcards.

        Returns
        -------
        list of str
            Paths.
        """
        return list(self._files.call("glob", path, self._patient))

    def cat_file(self, path: str) -> bytes:
        """Read a whole file.

        Parameters
        ----------
        path : str
            The file.

        Returns
        -------
        bytes
            Its content.
        """
        return bytes(self._files.call("cat_file", path, self._patient))

    def open(self, path: str, mode: str = "rb") -> Any:
        """Open a file.

        Parameters
        ----------
        path : str
            The file.
        mode : str
            As of Python's own ``open``.

        Returns
        -------
        file
            Of the file system itself.
        """
        return self._filesystem.open(path, mode)


def _protocol(path: str) -> str:
    return path.partition("://")[0] if "://" in path else ""
