"""Where a spool lies: pieces under a temporary name until all are there, then published whole.

On a local or shared disk the directory gets its name by a rename. An object store has none: there the pieces lie under
a prefix that readers pass over, and the manifest, which is written last and at once, leads to them.
"""

from __future__ import annotations

import errno
import glob
import json
import os
import shutil
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Final

from dtk.errors import ArgumentError, DataError, DiskLimitError, FetchError
from dtk.memory import format_nbytes
from dtk.sources.publishing import LOCK, is_held, publish, sole_writer, written_whole
from dtk.sources.spool_manifest import MANIFEST, OBJECTS, Manifest, Objects, Piece, content_digest
from dtk.sources.spool_place import RECORDS, UNPUBLISHED, Place, sizes_below
from dtk.sources.store_owner import OWNER, sole_owner

__all__ = ["Staging", "begun_nbytes", "clear_records", "remove_abandoned", "unfinished"]

_UNKNOWN: Final = "unknown"  # in the place of an identity, where only its author knows what the data is
_LOOKS: Final = 64  # how often a piece looks at what all take: at each of the first, then at ever fewer
_SYNCED_NBYTES: Final = 16 * 2**20  # of a file; smaller ones would wait longer than they take, and are known by sums
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Staging:
    """Pieces of a spool that is not complete; made by `of`, and sent to the workers.

    Parameters
    ----------
    place : Place
        Where it will be published.
    directory : str
        Where the pieces lie.
    max_nbytes : int or None
        Bytes that all pieces may take.

    Notes
    -----
    Beside each piece lies a record of its rows and digests, whose name holds its number and bytes: a listing tells how
    much is written. A piece is announced so before its first byte is there.
    """

    place: Place
    directory: str
    max_nbytes: int | None

    @classmethod
    def of(
        cls, place: Place, identity: str | None, layout: str, max_nbytes: int | None, published: Manifest | None = None
    ) -> Staging:
        """Name the place for the pieces of one spool until it is complete.

        Parameters
        ----------
        place : Place
            Where it will be published.
        identity : str or None
            Hash of what is spooled; None where what is written before tells nothing of it.
        layout : str
            Hash of how it is cut.
        max_nbytes : int or None
            Bytes that it may take.
        published : Manifest, optional
            Of the spool that is there.

        Returns
        -------
        Staging
            Nothing is made there.
        """
        token = f"{identity or f'{_UNKNOWN}-{uuid.uuid4().hex}'}-{layout}"
        if place.is_local:
            return cls(place, f"{place.root}.partial-{token}", max_nbytes)
        name = f"{UNPUBLISHED}{token}"
        if published is not None and published.data == name:  # the same again, beside it
            name += "-again"
        return cls(place, f"{place.root}/{name}", max_nbytes)

    def held(self) -> AbstractContextManager[bool]:
        """Let no other process write the same; wait for one that does.

        Returns
        -------
        context manager
            Of whether another one was waited for.
        """
        if self.place.is_local:
            return sole_writer(self.directory, self.place.path)
        return sole_owner(self.place, self.directory)

    def put(self, number: int, num_rows: int, objects: Mapping[str, bytes]) -> Piece:
        """Write a piece, each object whole or not at all.

        Parameters
        ----------
        number : int
            Its place in the order.
        num_rows : int
            Rows or samples.
        objects : mapping of str to bytes
            Content by name.

        Returns
        -------
        Piece
            Its record, which is written last.

        Raises
        ------
        DiskLimitError
            If it would pass the bound, or the disk is full.
        """
        told = {name: (len(content), content_digest(content)) for name, content in objects.items()}
        piece = Piece(number, num_rows, told)
        with self._disk_errors():
            announced = self._record(f"{number:07d}.{piece.nbytes}.begun")
            self._write(announced, b"", is_lasting=False)
            try:
                if number % max(1, number // _LOOKS) == 0:  # a look lists what all pieces so far have announced
                    self._check_bound(self.written_nbytes)
                for name, content in objects.items():
                    self._write(f"{self.directory}/{name}", content, is_lasting=len(content) >= _SYNCED_NBYTES)
                record = self._record(f"{number:07d}.{piece.nbytes}.json")
                self._write(record, json.dumps(asdict(piece)).encode(), is_lasting=False)  # it is compared when read
            finally:
                self._remove_file(announced)
        return piece

    def recorded(self) -> list[str]:
        """List the records of pieces that were written before, and clear away what was only begun.

        Returns
        -------
        list of str
            Names, in the order of the pieces.
        """
        names = self._names()
        for name in names:
            if not name.endswith(".json"):
                self._remove_file(self._record(name))
        if self.place.is_local:
            for directory, _, files in os.walk(self.directory):
                for name in files:
                    if name.startswith(".") and name != LOCK:  # what a killed process left
                        os.remove(f"{directory}/{name}")
        return sorted(name for name in names if name.endswith(".json"))

    def verified(self, record: str) -> list[Piece]:
        """Read a piece again and compare it with its record.

        Parameters
        ----------
        record : str
            One of `recorded`.

        Returns
        -------
        list of Piece
            The piece; empty, and the record removed, if it is not what was written.
        """
        path = self._record(record)
        try:
            piece = Piece.of_json(json.loads(self.place.cat_file(path)))
            if all(self._told_of(name) == told for name, told in piece.objects.items()):
                return [piece]
        except FetchError:
            raise
        except (OSError, ValueError, KeyError, TypeError):
            pass  # not there, or not whole: either way it is written again
        self._remove_file(path)
        return []

    def publish(self, kind: str, identity: str | None, pieces: Sequence[Piece], *, replaces: bool) -> None:
        """Give the spool its name.

        Parameters
        ----------
        kind : str
            "table" or "grid".
        identity : str or None
            Hash of what was spooled.
        pieces : sequence of Piece
            All of them.
        replaces : bool
            Whether it takes the place of an older one.

        Raises
        ------
        ArgumentError
            If something came into being there that is not to be replaced.
        DataError
            If a piece is not where this process looks for it.
        DiskLimitError
            If the disk is full, or they take more than the bound.
        """
        objects = Objects.of(pieces)
        self._check_bound(lambda: objects.nbytes)
        self._remove_strange(objects)
        data = "." if self.place.is_local else os.path.basename(self.directory)
        told, num_rows = objects.to_bytes(), sum(piece.num_rows for piece in pieces)
        manifest = Manifest(kind, identity, data, num_rows, len(pieces), objects.nbytes, content_digest(told))
        with self._disk_errors():
            self._write(f"{self.directory}/{OBJECTS}", told)
            if self.place.is_local:
                self._write(f"{self.directory}/{MANIFEST}", manifest.to_json())
        if self.place.is_local:
            publish(self.directory, self.place.root, replaces=replaces)
            clear_records(self.place, manifest)
            for directory in unfinished(self.place, identity or _UNKNOWN):  # the same, cut otherwise
                if not is_held(directory):
                    shutil.rmtree(directory)
            return
        if not replaces and self.place.manifest() is not None:
            raise ArgumentError(
                f"path={self.place.path!r} came into being while its content was written, which is in"
                f" {self.directory!r} now; give overwrite=True or another path"
            )
        self._write(f"{self.place.root}/{MANIFEST}", manifest.to_json())
        clear_records(self.place, manifest)
        self._clear_store(manifest, replaces)

    def _remove_strange(self, objects: Objects) -> None:
        """Look whether all files are there, and remove others."""
        sizes = sizes_below(self.place, self.directory)
        for name, nbytes in objects.sizes():
            if sizes.pop(name, None) != nbytes:
                raise DataError(
                    f"{self.directory}/{name} was written and is not there; give a path that this process and all"
                    " workers share"
                )
        for name in sizes.keys() - {LOCK}:
            self._remove_file(f"{self.directory}/{name}")

    def _clear_store(self, manifest: Manifest, replaces: bool) -> None:
        """Remove what the spool has replaced; tell of what others left."""
        names = [name for name in self.place.unpublished() if name.removesuffix(OWNER) != manifest.data]
        if replaces:
            for name in names:
                self.place.call("rm", f"{self.place.root}/{name}", recursive=True)
            return
        rests = [name for name in names if not name.endswith(OWNER)]
        if rests:
            sizes = [sizes_below(self.place, f"{self.place.root}/{name}") for name in rests]
            nbytes = format_nbytes(sum(size or 0 for one in sizes for size in one.values()))
            warnings.warn(
                f"path={self.place.path!r} also holds {nbytes} of spools that were interrupted, or are being written:"
                f" {', '.join(rests)}; remove what nobody goes on with",
                stacklevel=4,
            )

    def written_nbytes(self) -> int:
        """Tell how much is written, or about to be.

        Returns
        -------
        int
            Bytes of all pieces.
        """
        nbytes = {number: int(size) for number, size, _ in (name.split(".") for name in self._names())}
        return sum(nbytes.values())

    def remove(self) -> None:
        """Remove all that was written."""
        if self.place.exists(self.directory):
            self.place.call("rm", self.directory, recursive=True)

    def _record(self, name: str) -> str:
        return f"{self.directory}/{RECORDS}/{name}"

    def _names(self) -> list[str]:
        directory = f"{self.directory}/{RECORDS}"
        self.place.fs.invalidate_cache(directory)
        if not self.place.exists(directory):
            return []
        names = [os.path.basename(name) for name in self.place.call("ls", directory, detail=False)]
        return [name for name in names if name[:1].isdigit()]

    def _check_bound(self, nbytes: Callable[[], int]) -> None:
        if self.max_nbytes is not None and nbytes() > self.max_nbytes:
            raise DiskLimitError(
                f"the spool takes more than max_nbytes={format_nbytes(self.max_nbytes)}; allow more, or spool fewer"
                f" rows or columns. What was at path={self.place.path!r} before is as it was"
            )

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except DiskLimitError:
            raise
        except OSError as error:
            if error.errno not in _FULL:
                raise
            raise DiskLimitError(
                f"the disk below path={self.place.path!r} is full; free some of it and call again, or give another"
                " path. What was there before is as it was"
            ) from error

    def _write(self, path: str, content: bytes, *, is_lasting: bool = True) -> None:
        if not self.place.is_local:
            self.place.call("pipe_file", path, content)  # whole or not at all
            return
        with written_whole(path, is_lasting=is_lasting) as temporary, open(temporary, "wb") as file:
            file.write(content)

    def _remove_file(self, path: str) -> None:
        with suppress(FileNotFoundError):
            self.place.call("rm_file", path)

    def _told_of(self, name: str) -> tuple[int, str]:
        content = self.place.cat_file(f"{self.directory}/{name}")
        return len(content), content_digest(content)


def clear_records(place: Place, manifest: Manifest) -> None:
    """Remove the records of a spool that is published; a process may have been killed before it did.

    Parameters
    ----------
    place : Place
        Where it is published.
    manifest : Manifest
        Its own.
    """
    records = f"{manifest.directory(place.root)}/{RECORDS}"
    if place.is_local:
        shutil.rmtree(records, ignore_errors=True)
    elif place.exists(records):
        with suppress(FileNotFoundError):  # another process does the same
            place.call("rm", records, recursive=True)


def remove_abandoned(place: Place) -> None:
    """Remove what killed processes left of data that nobody can go on with.

    Parameters
    ----------
    place : Place
        Of a spool; in an object store nothing tells whether the processes live.
    """
    for directory in unfinished(place, _UNKNOWN) if place.is_local else ():
        if not is_held(directory):
            shutil.rmtree(directory, ignore_errors=True)


def begun_nbytes(place: Place, identity: str) -> int:
    """Tell how much of a spool is written already.

    Parameters
    ----------
    place : Place
        Where it will be published, on a disk.
    identity : str
        Hash of what is spooled.

    Returns
    -------
    int
        Bytes of its pieces.
    """
    return sum(Staging(place, directory, None).written_nbytes() for directory in unfinished(place, identity))


def unfinished(place: Place, identity: str = "*") -> list[str]:
    """List what interrupted spools have left beside a place.

    Parameters
    ----------
    place : Place
        On a disk.
    identity : str
        Hash of what is spooled; any if left out.

    Returns
    -------
    list of str
        Directories.
    """
    return sorted(glob.glob(f"{glob.escape(place.root)}.partial-{identity}-*"))
