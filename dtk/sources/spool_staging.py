"""Where a spool lies: pieces under a temporary name until all are there, then published whole.

On a local or shared disk the directory gets its name by a rename. An object store has none: there the pieces lie under
a prefix that readers pass over, and the manifest, which is written last and at once, leads to them.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass

from dtk.errors import DataError, DiskLimitError
from dtk.memory import format_nbytes
from dtk.sources.spool_manifest import MANIFEST, Manifest, Piece, content_digest
from dtk.sources.spool_place import RECORDS, UNPUBLISHED, Place, sizes_below
from dtk.sources.write import publish

__all__ = ["Staging", "begun_nbytes", "unfinished"]


@dataclass(frozen=True)
class Staging:
    """Pieces of a spool that is not complete; made by `of`, and sent to the workers.

    Parameters
    ----------
    place : Place
        Where it will be published.
    token : str
        Hash of what is spooled, and how.
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
    token: str
    directory: str
    max_nbytes: int | None

    @classmethod
    def of(
        cls, place: Place, identity: str, layout: str, max_nbytes: int | None, published: Manifest | None = None
    ) -> Staging:
        """Name the place for the pieces of one spool until it is complete.

        Parameters
        ----------
        place : Place
            Where it will be published.
        identity : str
            Hash of what is spooled.
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
        token = f"{identity}-{layout}"
        if place.is_local:
            return cls(place, token, f"{place.root}.partial-{token}", max_nbytes)
        name = f"{UNPUBLISHED}{token}"
        if published is not None and published.data == name:  # the same again, beside it
            name += "-again"
        return cls(place, token, f"{place.root}/{name}", max_nbytes)

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
            self._write(announced, b"")
            try:
                self._check_bound()
                for name, content in objects.items():
                    self._write(f"{self.directory}/{name}", content)
                self._write(self._record(f"{number:07d}.{piece.nbytes}.json"), json.dumps(asdict(piece)).encode())
            finally:
                with suppress(FileNotFoundError):
                    self.place.fs.rm_file(announced)
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
                self.place.fs.rm_file(self._record(name))
        if self.place.is_local:
            for directory, _, files in os.walk(self.directory):
                for name in files:
                    if name.startswith("."):  # what a killed process left
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
            piece = Piece.of_json(json.loads(self.place.fs.cat_file(path)))
            if all(self._digest_of(name) == told for name, told in piece.objects.items()):
                return [piece]
        except (OSError, ValueError, KeyError, TypeError):
            pass  # not there, or not whole: either way it is written again
        with suppress(FileNotFoundError):
            self.place.fs.rm_file(path)
        return []

    def publish(self, manifest: Manifest, *, replaces: bool) -> None:
        """Give the spool its name.

        Parameters
        ----------
        manifest : Manifest
            Of all pieces.
        replaces : bool
            Whether it takes the place of an older one.

        Raises
        ------
        ArgumentError
            If something came into being there that is not to be replaced.
        DataError
            If a piece is not where this process looks for it.
        DiskLimitError
            If the disk is full.
        """
        sizes = sizes_below(self.place.fs, self.directory)
        wanted = {name: nbytes for piece in manifest.pieces for name, (nbytes, _) in piece.objects.items()}
        lost = [name for name, nbytes in wanted.items() if sizes.get(name) != nbytes]
        if lost:
            raise DataError(
                f"{self.directory}/{lost[0]} was written and is not there; give a path that this process and all"
                " workers share"
            )
        for name in sizes.keys() - wanted.keys():
            self.place.fs.rm_file(f"{self.directory}/{name}")
        if self.place.is_local:
            with self._disk_errors():
                self._write(f"{self.directory}/{MANIFEST}", manifest.to_json())
            publish(self.directory, self.place.root, self.token, replaces=replaces)
            shutil.rmtree(f"{self.place.root}/{RECORDS}")
            for directory in unfinished(self.place, self.token.rpartition("-")[0]):  # the same, cut otherwise
                shutil.rmtree(directory)
            return
        older = self.place.manifest()
        self._write(f"{self.place.root}/{MANIFEST}", manifest.to_json())
        self.place.fs.rm(f"{self.directory}/{RECORDS}", recursive=True)
        if older is not None and older.data != manifest.data:
            self.place.fs.rm(f"{self.place.root}/{older.data}", recursive=True)

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
        if self.place.fs.exists(self.directory):
            self.place.fs.rm(self.directory, recursive=True)

    def _record(self, name: str) -> str:
        return f"{self.directory}/{RECORDS}/{name}"

    def _names(self) -> list[str]:
        directory = f"{self.directory}/{RECORDS}"
        self.place.fs.invalidate_cache(directory)
        if not self.place.fs.exists(directory):
            return []
        names = [os.path.basename(name) for name in self.place.fs.ls(directory, detail=False)]
        return [name for name in names if name[:1].isdigit()]

    def _check_bound(self) -> None:
        if self.max_nbytes is None:
            return
        if self.written_nbytes() > self.max_nbytes:
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
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise DiskLimitError(
                f"the disk below path={self.place.path!r} is full; free some of it and call again, or give another"
                " path. What was there before is as it was"
            ) from error

    def _write(self, path: str, content: bytes) -> None:
        if not self.place.is_local:
            self.place.fs.pipe_file(path, content)  # whole or not at all
            return
        directory, name = os.path.split(path)
        os.makedirs(directory, exist_ok=True)
        temporary = f"{directory}/.{name}.{uuid.uuid4().hex[:8]}"
        try:
            with open(temporary, "wb") as file:
                file.write(content)
            os.replace(temporary, path)
        except BaseException:
            if os.path.exists(temporary):
                os.remove(temporary)
            raise

    def _digest_of(self, name: str) -> tuple[int, str]:
        with self.place.fs.open(f"{self.directory}/{name}", "rb") as file:
            digest, nbytes = hashlib.blake2b(digest_size=16), 0
            while part := file.read(1 << 20):
                digest.update(part)
                nbytes += len(part)
        return nbytes, digest.hexdigest()


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
    return sum(Staging(place, "", directory, None).written_nbytes() for directory in unfinished(place, identity))


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
