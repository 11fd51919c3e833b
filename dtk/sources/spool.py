"""Writing a Dask collection once, in the layout that the loader reads best."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

from dtk.errors import ArgumentError, DataError, DiskLimitError
from dtk.memory import format_nbytes, parse_nbytes
from dtk.sources.publishing import finish_replacing
from dtk.sources.spool_manifest import Manifest, Piece
from dtk.sources.spool_place import Place
from dtk.sources.spool_staging import Staging, begun_nbytes, clear_records, remove_abandoned, unfinished

if TYPE_CHECKING:
    import dask.dataframe as dd
    import xarray as xr

__all__ = ["spool"]

LABEL: Final = "spool"


class Work(Protocol):
    """What there is to spool, cut into pieces."""

    @property
    def kind(self) -> str:
        """Either "table" or "grid"."""

    @property
    def identity(self) -> str | None:
        """Hash of the data; None where only its author can tell whether it is still the same."""

    @property
    def layout(self) -> str:
        """Hash of how it is cut into pieces."""

    @property
    def estimated_nbytes(self) -> int | None:
        """Bytes on disk, estimated; None where nothing tells."""

    @property
    def fixed(self) -> Mapping[str, bytes]:
        """Objects that belong to no piece."""

    @property
    def encode(self) -> Any:
        """Function ``(number, value) -> (objects, rows)`` that is sent to the workers."""

    def paths_read(self) -> Sequence[str]:
        """List the paths and URLs that the data is read from."""

    def parts(self) -> Sequence[Any]:
        """List the lazy values of the pieces, in order."""


def spool(
    data: Any,
    path: str | os.PathLike[str],
    *,
    dim: str | None = None,
    max_nbytes: int | str | None = None,
    cache: str | os.PathLike[str] | None = None,
    cache_nbytes: int | str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: bool | None = None,
) -> dd.DataFrame | xr.Dataset:
    """Write data once, in the layout that the loader reads best, and open it there.

    The workers write, each the pieces that it computed. A piece has its digest taken when it is written, and the spool
    gets its name when all pieces are there: nobody sees half of it. Called again after an interruption, it checks the
    pieces that are there and writes only the others; called again with the same data after that, it writes nothing.

    Parameters
    ----------
    data : dask.dataframe.DataFrame, pandas.DataFrame, xarray.Dataset, str or path
        A table or a Dataset, also one that is computed, or the path of one, as for `dtk.open`.
    path : str or path
        A directory that all workers share, or a URL of an object store. It is not there yet, is empty, or is a spool.
    dim : str, optional
        For a Dataset, the dimension of the samples; the first one of the biggest variable if None.
    max_nbytes : int or str, optional
        Bytes on disk that the spool may take; what is free there if None. The work ends soon after it takes more.
    cache : str or path, optional
        A directory of each host's own disk. What reads the spool copies files there at first use, and reads them from
        there afterwards; processes and spools may share it. Without one, all is read from `path`.
    cache_nbytes : int or str, optional
        Bytes that all files in `cache` may take: those used least recently are removed. Half of its disk if None.
    storage_options : mapping, optional
        For the file system of a URL in `path`, as for `dtk.open`: writing, opening and the cache use them.
    overwrite : bool
        Whether to write it again where there is a spool; the old one stays whole until the new one is complete.
    progress : bool, optional
        Whether to show a progress bar; by default where standard error is a terminal.

    Returns
    -------
    dask.dataframe.DataFrame or xarray.Dataset
        Lazy, as `dtk.open(path)` gives it. A named index has become a column; one without a name is left out.

    Raises
    ------
    ArgumentError
        If `path` holds something else, the spool of other data, or what `data` is read from; also if it came to hold
        something during the work.
    DiskLimitError
        If the spool would take more than is free or than `max_nbytes`, as far as it is known before the work; or does.
    DataError
        If there are no rows, a column's values do not fit one type, or a variable cannot be stored as it is. If files
        of a complete spool are missing, of another size, or not its own.
    DependencyError
        If a package for the protocol of a URL is missing.
    FetchError
        If an object store failed too often.

    Warns
    -----
    UserWarning
        If another process writes the same: it is waited for, and its result taken. If an object store holds what
        interrupted spools have left.

    Notes
    -----
    Tables become Parquet, with pandas' types kept, as far as Parquet has them: seconds become milliseconds. Datasets
    become Zarr, version 3, cut along `dim` alone; values are stored as they are, with no scale or offset, and variables
    without samples are held in memory.

    Data is known again by what is computed and by what is read. Functions count with their code, with the user's own
    functions, classes and constants that they use by name, and with the versions of installed packages, but not with
    what they read themselves. Files count with paths, sizes and times, a Zarr store with those of all objects that are
    read, Icechunk with the snapshot. Where nothing tells that data changed (what `from_map` and `from_delayed` read,
    arrays of other libraries, stores that list no times), it is spooled whole each time. NetCDF that was opened without
    chunks and cut afterwards is other data in each process: open it with ``chunks={}``.

    Who opens a spool looks at its manifest: the files of a table must be there, and a chunk of a grid that is not is no
    fill value but a `DataError`, when it is read. Pages of Parquet and chunks of Zarr carry sums. `dtk.Loader` compares
    both; Dask compares those of Zarr.

    Examples
    --------
    >>> import tempfile, pandas as pd
    >>> frame = pd.DataFrame({"x": [1, 2, 3]})
    >>> spool(frame, tempfile.mkdtemp()).compute()["x"].tolist()
    [1, 2, 3]
    """
    if cache is None and cache_nbytes is not None:
        raise ArgumentError(f"cache_nbytes={cache_nbytes!r} is for a cache; give cache=, a directory, too")
    kept = None if cache_nbytes is None else parse_nbytes(cache_nbytes, name="cache_nbytes")
    limit = None if max_nbytes is None else parse_nbytes(max_nbytes, name="max_nbytes")
    place = Place.of(path, storage_options)
    if place.is_local:
        finish_replacing(place.root)
    published = place.manifest()
    work = _work_of(data, dim)
    if published is not None and not overwrite:
        _check_same(place, published, work)
        place.check_whole(published)
        clear_records(place, published)
        return _opened(place, cache, kept)
    _check_inputs(place, work)
    remove_abandoned(place)
    _check_room(place, work, limit)
    staging = Staging.of(place, work.identity, work.layout, limit, published)
    with staging.held():
        now = place.manifest()
        if now is None or now == published or now.identity != work.identity:  # else another process has spooled it
            _write_whole(work, staging, sys.stderr.isatty() if progress is None else progress, published is not None)
    return _opened(place, cache, kept)


def _write_whole(work: Work, staging: Staging, progress: bool, replaces: bool) -> None:
    try:
        pieces = _write(work, staging, progress)
        if not any(piece.num_rows for piece in pieces):
            staging.remove()
            raise DataError("data has no rows, so that nothing is spooled; look at its filters")
        staging.publish(work.kind, work.identity, pieces, replaces=replaces)
    except BaseException:
        if work.identity is None:  # what it reads may change until the next attempt, so that its pieces are of no use
            staging.remove()
        raise


def _opened(place: Place, cache: str | os.PathLike[str] | None, nbytes: int | None) -> dd.DataFrame | xr.Dataset:
    if cache is None:
        from dtk.sources.open import open as open_data

        return open_data(place.path, storage_options=place.storage_options)
    from dtk.sources.spool_cache import open_cached

    return open_cached(place.path, os.fspath(cache), nbytes, place.storage_options)


def _work_of(data: Any, dim: str | None) -> Work:
    if isinstance(data, (str, os.PathLike)):
        from dtk.sources.open import open as open_data

        data = open_data(data)
    if hasattr(data, "data_vars"):
        from dtk.sources.spool_grid import GridWork

        return GridWork.of(data, dim)
    if dim is not None:
        raise ArgumentError(f"dim={dim!r} is for Datasets; leave it out for a table")
    from dtk.sources.spool_table import TableWork

    return TableWork.of(data)


def _check_same(place: Place, published: Manifest, work: Work) -> None:
    """Refuse to take a spool for that of other data."""
    if work.identity is None:
        raise ArgumentError(
            f"path={place.path!r} holds a spool, and whether it is of this data only you can tell, as it is read by"
            " functions of your own, or from what has no times; open it with dtk.open, or give overwrite=True"
        )
    if published.identity != work.identity:
        cut = " or along another dimension" if published.kind == work.kind == "grid" else ""
        was, now = (f"{one.kind} {str(one.identity)[:8]}" for one in (published, work))
        raise ArgumentError(
            f"path={place.path!r} holds a spool of other data{cut} ({was}, this is {now}); give another path, or"
            " overwrite=True"
        )


def _check_inputs(place: Place, work: Work) -> None:
    if place.fs.exists(place.root) and any(_holds(place, path) for path in work.paths_read()):
        raise ArgumentError(f"path={place.path!r} holds what the data is read from; spool elsewhere")


def _holds(place: Place, path: str) -> bool:
    """Tell whether what is read from a path lies in the spool's, or the other way round."""
    from dtk.sources.write import overlaps

    if place.is_local:
        return overlaps(path, place.root)
    own, read = (f"{url.rstrip('/')}/" for url in (place.fs.unstrip_protocol(place.root), path))
    return read.startswith(own) or own.startswith(read)


def _check_room(place: Place, work: Work, max_nbytes: int | None) -> None:
    """Refuse what will not fit, as far as that is known without the work."""
    free = place.free_nbytes()
    estimated = None if free is None and max_nbytes is None else work.estimated_nbytes
    if estimated is None:
        return
    if max_nbytes is not None and estimated > max_nbytes:
        raise DiskLimitError(
            f"max_nbytes={format_nbytes(max_nbytes)} is less than the about {format_nbytes(estimated)} that the spool"
            " will take; allow more, or spool fewer rows or columns"
        )
    begun = 0 if free is None or work.identity is None else begun_nbytes(place, work.identity)
    if free is not None and estimated - begun > free:
        left = unfinished(place)
        hint = f" ({', '.join(left)} {'is' if len(left) == 1 else 'are'} unfinished)" if left else ""
        raise DiskLimitError(
            f"path={place.path!r} has {format_nbytes(free)} free, which is less than the about"
            f" {format_nbytes(estimated)} that the spool will take; free some{hint}, give another path, or spool fewer"
            " rows or columns"
        )


def _write(work: Work, staging: Staging, progress: bool) -> list[Piece]:
    """Write the pieces that are not there yet; all of them in order."""
    from dask.delayed import delayed

    from dtk.runtime import delayed_reduce, map_reduce

    pieces: list[Piece] = []
    records = staging.recorded()
    if records:
        groups = [records[first::64] for first in range(min(64, len(records)))]
        pieces = map_reduce(_verify, _joined, groups, shared=staging, label=f"{LABEL}-check", progress=progress)
    done = {piece.number for piece in pieces}
    parts = work.parts()
    if work.fixed and len(parts) not in done:
        pieces = [*pieces, staging.put(len(parts), 0, work.fixed)]
    missing = [delayed((number, part)) for number, part in enumerate(parts) if number not in done]
    if missing:
        write: Any = partial(_write_piece, encode=work.encode, staging=staging)
        pieces = [*pieces, *delayed_reduce(write, _joined, missing, label=LABEL, progress=progress)]
    return sorted(pieces, key=lambda piece: piece.number)


def _write_piece(part: tuple[int, Any], *, encode: Any, staging: Staging) -> list[Piece]:
    number, value = part
    objects, num_rows = encode(number, value)
    return [staging.put(number, num_rows, objects)]


def _verify(staging: Staging, records: Sequence[str]) -> list[Piece]:
    return [piece for record in records for piece in staging.verified(record)]


def _joined(parts: list[list[Piece]]) -> list[Piece]:
    return [piece for part in parts for piece in part]
