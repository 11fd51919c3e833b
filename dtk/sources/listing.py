"""Find the files behind a path, and tell what format they are of."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa
from dask.utils import natural_sort_key
from fsspec.implementations.local import LocalFileSystem

from dtk.errors import ArgumentError, DataError, FetchError, NotFoundError
from dtk.sources.columns import close_to
from dtk.sources.filesystems import SteadyFiles, filesystem_of, storage_options_of
from dtk.sources.remote import is_transient
from dtk.sources.remote_files import remote_files
from dtk.sources.spool_manifest import Manifest, read_manifest
from dtk.sources.spool_place import Place

__all__ = ["FORMATS", "Listing", "compression_of", "hive_types", "list_files"]

FORMATS: Final = ("csv", "netcdf", "parquet", "zarr")
COMPRESSIONS: Final = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz", ".zst": "zstd", ".zip": "zip"}
_SUFFIXES: Final = {
    ".parquet": "parquet",
    ".parq": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".nc": "netcdf",
    ".nc4": "netcdf",
    ".zarr": "zarr",
}
_ZARR_MARKS: Final = ("zarr.json", ".zgroup", ".zarray", ".zmetadata")
_MAGIC: Final = ((b"PAR1", "parquet"), (b"CDF", "netcdf"), (b"\x89HDF\r\n\x1a\n", "netcdf"))


@dataclass(frozen=True)
class Listing:
    """The files behind a path.

    Parameters
    ----------
    path : str
        What was asked for.
    root : str
        The same without a protocol; what comes before the first wildcard, if it has any.
    format : str
        One of `FORMATS`.
    files : tuple of str
        In natural order; for Zarr the store's directory alone.
    filesystem : fsspec.AbstractFileSystem or None
        None for local files.
    storage_options : mapping of str to object
        What the file system was made with.
    spool : Manifest or None
        Of what `dtk.spool` wrote: all of its files are there, or its chunks are never absent.
    """

    path: str
    root: str
    format: str
    files: tuple[str, ...]
    filesystem: Any
    storage_options: Mapping[str, Any] = field(default_factory=dict)
    spool: Manifest | None = None


def list_files(
    path: str | os.PathLike[str], *, format: str | None = None, storage_options: Mapping[str, Any] | None = None
) -> Listing:
    """Find the files behind a path.

    Parameters
    ----------
    path : str or path
        A file, a directory, a pattern with wildcards, or such a URL.
    format : str, optional
        One of `FORMATS`; guessed from names, then from first bytes, if None.
    storage_options : mapping, optional
        For the file system of a URL: an endpoint, credentials.

    Returns
    -------
    Listing
        Of at least one file; those whose names start with a dot or an underscore are left out.

    Raises
    ------
    NotFoundError
        If nothing is there.
    DataError
        If a directory has no such files, or the format cannot be told.
    ArgumentError
        If the format is unknown, or there is no such protocol.
    DependencyError
        If a package for the protocol is missing.
    FetchError
        If a remote store does not answer.
    """
    if format is not None and format not in FORMATS:
        raise ArgumentError(f"format={format!r} is unknown; {close_to(format, FORMATS)}")
    path = os.fspath(path)
    filesystem, root = filesystem_of(path, storage_options)
    if filesystem is not None:
        remote_files(filesystem).forget()
    fs = LocalFileSystem() if filesystem is None else SteadyFiles(filesystem)
    options = {} if filesystem is None else storage_options_of(path, storage_options)
    is_there = fs.exists(root)  # before its name is taken for a pattern
    manifest = _manifest(root, fs) if is_there else None
    if manifest is not None:
        return _of_spool(Place(path, root.rstrip("/"), filesystem or fs, options), manifest, filesystem)
    if not is_there and any(wildcard in root for wildcard in "*?["):
        found = [name for name in fs.glob(root) if not _is_hidden(os.path.basename(name))]
        if not found:
            raise NotFoundError(f"{path} matches no file; check the pattern and the directory")
        root = re.split(r"[*?\[]", root, maxsplit=1)[0].rpartition("/")[0]
    elif not is_there:
        raise NotFoundError(f"{path} is not there; {_beside(root, fs)}")
    else:
        found = [root]
    if _is_zarr(found, fs, format):
        if len(found) > 1:
            raise DataError(f"{path} matches {len(found)} Zarr stores; open one")
        return Listing(path, root, "zarr", tuple(found), filesystem, options)
    files = [file for name in found for file in _visible(name, fs)]
    if not files:
        raise DataError(f"{path} is an empty directory; it should hold files of {', '.join(FORMATS)}")
    format = format or _guess(path, files, fs)
    of_format = [file for file in files if _format_of_name(file) == format]
    files = sorted(set(of_format or files), key=natural_sort_key)
    return Listing(path, root, format, tuple(files), filesystem, options)


def _manifest(root: str, fs: Any) -> Manifest | None:
    """Read a spool's manifest, where one may ask for it: an address or a right may be for a single file."""
    try:
        return read_manifest(root.rstrip("/"), fs)
    except FetchError as error:
        if error.__cause__ is None or is_transient(error.__cause__):
            raise
        return None


def _of_spool(place: Place, manifest: Manifest, filesystem: Any) -> Listing:
    """List what a spool's manifest tells: of a table all files, which are looked for; of a grid its store."""
    data = manifest.directory(place.root)
    path = manifest.directory(place.path.rstrip("/"))
    format, files = "zarr", [data]
    if manifest.kind == "table":
        names = [name for name, _ in place.check_whole(manifest).sizes()]
        format, files = "parquet", [f"{data}/{name}" for name in sorted(names, key=natural_sort_key)]
    return Listing(path, data, format, tuple(files), filesystem, place.storage_options, manifest)


def hive_types(listing: Listing) -> dict[str, pa.DataType]:
    """Choose types for the columns that ``key=value`` directories hold.

    Parameters
    ----------
    listing : Listing
        The files.

    Returns
    -------
    dict of str to pa.DataType
        int64 where all values are whole numbers as Python writes them (``1``, not ``01``), else string.

    Raises
    ------
    DataError
        If files differ in their keys.
    """
    values: dict[str, set[str]] = {}
    first: list[str] | None = None
    for file in listing.files:
        parts = os.path.dirname(file[len(listing.root) :]).split("/")
        pairs = [part.split("=", 1) for part in parts if "=" in part]
        keys = [key for key, _ in pairs]
        if first is None:
            first = keys
        if keys != first:
            raise DataError(
                f"{file} lies under the keys {keys} but {listing.files[0]} under {first}; use the same keys"
            )
        for key, value in pairs:
            values.setdefault(key, set()).add(value)
    number = re.compile(r"0|-?[1-9][0-9]{0,17}|__HIVE_DEFAULT_PARTITION__")
    return {
        key: pa.int64() if all(number.fullmatch(value) for value in found) else pa.string()
        for key, found in values.items()
    }


def compression_of(file: str) -> str | None:
    """Tell by its name how a file is compressed.

    Parameters
    ----------
    file : str
        A path.

    Returns
    -------
    str or None
        As fsspec calls it; None for a plain file.
    """
    return COMPRESSIONS.get(os.path.splitext(file)[1].lower())


def _is_zarr(found: Sequence[str], fs: Any, format: str | None) -> bool:
    if format is not None:
        return format == "zarr"
    first = found[0]
    if not fs.isdir(first):
        return False
    return any(fs.exists(f"{first}/{mark}") for mark in _ZARR_MARKS) or first.rstrip("/").endswith(".zarr")


def _visible(name: str, fs: Any) -> list[str]:
    """List the files in a directory, or the file itself."""
    if not fs.isdir(name):
        return [name]
    return [
        file for file in fs.find(name) if not any(_is_hidden(part) for part in file[len(name) :].strip("/").split("/"))
    ]


def _is_hidden(part: str) -> bool:
    return part.startswith(".") or (part.startswith("_") and "=" not in part)


def _format_of_name(file: str) -> str | None:
    stem, suffix = os.path.splitext(file.lower())
    return _SUFFIXES.get(os.path.splitext(stem)[1] if suffix in COMPRESSIONS else suffix)


def _guess(path: str, files: Sequence[str], fs: Any) -> str:
    counts = Counter(filter(None, map(_format_of_name, files)))
    if counts:
        if len(counts) > 1:
            raise DataError(f"{path} holds files of several formats ({', '.join(sorted(counts))}); give format=")
        return next(iter(counts))
    with fs.open(files[0], "rb") as file:
        start = file.read(8)
    for magic, format in _MAGIC:
        if start.startswith(magic):
            return format
    raise DataError(f"{files[0]} is of no format that its name or first bytes tell; give format= one of {FORMATS}")


def _beside(root: str, fs: Any) -> str:
    """Say what lies where a missing path should."""
    directory, _, name = root.rstrip("/").rpartition("/")
    if isinstance(fs, SteadyFiles):
        found = fs.names_beside(root)
    elif fs.isdir(directory or "/"):
        found = fs.ls(directory or "/", detail=False)
    else:
        return f"neither is the directory {directory}"
    names = sorted(os.path.basename(item.rstrip("/")) for item in found)
    return close_to(name, names) if names else f"nothing is seen in {directory}; check the path"
