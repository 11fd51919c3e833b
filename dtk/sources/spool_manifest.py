"""What a complete spool holds: a few facts, and apart from them the bytes and the digest of each of its files."""

from __future__ import annotations

import bisect
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from dtk.errors import DataError

__all__ = ["MANIFEST", "OBJECTS", "Manifest", "Objects", "Piece", "content_digest", "read_manifest"]

MANIFEST: Final = "_spool.json"
OBJECTS: Final = "_objects.arrow"
_VERSION: Final = 2
_SCHEMA: Final = pa.schema({"name": pa.string(), "nbytes": pa.int64(), "digest": pa.binary(16)})


def content_digest(content: bytes) -> str:
    """Hash what a file of a spool holds.

    Parameters
    ----------
    content : bytes
        All of it.

    Returns
    -------
    str
        Hex digest.
    """
    return hashlib.blake2b(content, digest_size=16).hexdigest()


@dataclass(frozen=True)
class Piece:
    """What is written at once: one file of a table, or the chunks of some samples.

    Parameters
    ----------
    number : int
        Its place in the order.
    num_rows : int
        Rows or samples; 0 for what belongs to no sample.
    objects : mapping of str to (int, str)
        For each name below the spool's directory, its bytes and their digest.
    """

    number: int
    num_rows: int
    objects: Mapping[str, tuple[int, str]]

    @property
    def nbytes(self) -> int:
        """Bytes on disk."""
        return sum(nbytes for nbytes, _ in self.objects.values())

    @classmethod
    def of_json(cls, found: Mapping[str, Any]) -> Piece:
        """Make one of what `dataclasses.asdict` gave.

        Parameters
        ----------
        found : mapping
            Read from JSON.

        Returns
        -------
        Piece
            The same.
        """
        objects = {name: (int(nbytes), str(digest)) for name, (nbytes, digest) in found["objects"].items()}
        return cls(found["number"], found["num_rows"], objects)


@dataclass(frozen=True, eq=False)
class Objects:
    """The files of a spool, as columns: there may be a million.

    Parameters
    ----------
    table : pa.Table
        Sorted by ``name``, with ``nbytes`` and ``digest``.
    """

    table: pa.Table

    @classmethod
    def of(cls, pieces: Sequence[Piece]) -> Objects:
        """List the files of pieces.

        Parameters
        ----------
        pieces : sequence of Piece
            All of them.

        Returns
        -------
        Objects
            Of all names.
        """
        told = [(name, *one) for piece in pieces for name, one in piece.objects.items()]
        columns = [
            [name for name, _, _ in told],
            [nbytes for _, nbytes, _ in told],
            [bytes.fromhex(digest) for _, _, digest in told],
        ]
        return cls(pa.table(columns, schema=_SCHEMA).sort_by("name").combine_chunks())

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return pc.sum(self.table["nbytes"]).as_py() or 0

    def sizes(self) -> Iterator[tuple[str, int]]:
        """List the files.

        Yields
        ------
        tuple of str and int
            Name and bytes.
        """
        for batch in self.table.to_batches(4096):
            yield from zip(batch["name"].to_pylist(), batch["nbytes"].to_pylist(), strict=True)

    def find(self, name: str) -> tuple[int, str] | None:
        """Look a file up.

        Parameters
        ----------
        name : str
            Below the spool's directory.

        Returns
        -------
        tuple of int and str, or None
            Its bytes and digest; None for what is none of the spool's.
        """
        names = self._names
        at = bisect.bisect_left(range(len(names)), name, key=lambda row: names[row].as_py())
        if at == len(names) or names[at].as_py() != name:
            return None
        return self.table["nbytes"][at].as_py(), self.table["digest"][at].as_py().hex()

    @cached_property
    def _names(self) -> pa.Array:
        return self.table["name"].combine_chunks()

    def to_bytes(self) -> bytes:
        """Write them down.

        Returns
        -------
        bytes
            An Arrow file.
        """
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, _SCHEMA, options=pa.ipc.IpcWriteOptions(compression="zstd")) as file:
            file.write_table(self.table)
        return bytes(sink.getvalue())


@dataclass(frozen=True)
class Manifest:
    """What a complete spool is.

    Parameters
    ----------
    kind : str
        "table" or "grid".
    identity : str or None
        Hash of what was spooled; None where only its author can tell whether it is still the same.
    data : str
        The directory of the pieces, from the spool's own.
    num_rows : int
        Rows or samples.
    num_pieces : int
        How many pieces it was written in.
    nbytes : int
        Bytes of all files.
    objects : str
        Digest of the list of them.
    """

    kind: str
    identity: str | None
    data: str
    num_rows: int
    num_pieces: int
    nbytes: int
    objects: str

    @property
    def objects_name(self) -> str:
        """Where the list of files lies, from the spool's own directory."""
        return OBJECTS if self.data == "." else f"{self.data}/{OBJECTS}"

    def directory(self, root: str) -> str:
        """Tell where the pieces lie.

        Parameters
        ----------
        root : str
            The spool's own directory.

        Returns
        -------
        str
            A directory.
        """
        return root if self.data == "." else f"{root}/{self.data}"

    def to_json(self) -> bytes:
        """Write it down.

        Returns
        -------
        bytes
            JSON.
        """
        return json.dumps({"spool": _VERSION, **vars(self)}).encode()

    @classmethod
    def of_json(cls, text: bytes, where: str) -> Manifest:
        """Read what `to_json` wrote.

        Parameters
        ----------
        text : bytes
            JSON.
        where : str
            Its path, for the error.

        Returns
        -------
        Manifest
            The same.

        Raises
        ------
        DataError
            If it is damaged, or of another dtk.
        """
        try:
            found = json.loads(text)
            version = found.pop("spool")
            if version == _VERSION:
                return cls(**found)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{where} is damaged ({error!r}); remove the spool and write it again") from error
        raise DataError(
            f"{where} is of version {version}, and this dtk knows {_VERSION}; remove the spool and write it again, or"
            " install another dtk"
        )

    def read_objects(self, root: str, fs: Any) -> Objects:
        """Read the list of its files.

        Parameters
        ----------
        root : str
            The spool's own directory.
        fs : fsspec.AbstractFileSystem
            Where it lies.

        Returns
        -------
        Objects
            As they were written.

        Raises
        ------
        DataError
            If the list is not there, or not what was written.
        """
        path = f"{root}/{self.objects_name}"
        try:
            content = fs.cat_file(path)
        except FileNotFoundError as error:
            raise DataError(f"{path} is missing; spool again with overwrite=True") from error
        if content_digest(content) != self.objects:
            raise DataError(f"{path} is not what was written; open the data anew, or spool again with overwrite=True")
        return Objects(pa.ipc.open_file(pa.py_buffer(content)).read_all())


def read_manifest(root: str, fs: Any) -> Manifest | None:
    """Read what a spool says of itself.

    Parameters
    ----------
    root : str
        A directory or a prefix, without a protocol.
    fs : fsspec.AbstractFileSystem
        Where it lies.

    Returns
    -------
    Manifest or None
        None if it is no spool.

    Raises
    ------
    DataError
        If the manifest is damaged.
    """
    path = f"{root}/{MANIFEST}"
    return Manifest.of_json(fs.cat_file(path), path) if fs.exists(path) else None
