"""What a complete spool holds: its pieces, and the digest of each of their files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from dtk.errors import DataError

__all__ = ["MANIFEST", "Manifest", "Piece", "content_digest", "spooled_root"]

MANIFEST: Final = "_spool.json"
_VERSION: Final = 1


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


@dataclass(frozen=True)
class Manifest:
    """What a complete spool holds.

    Parameters
    ----------
    kind : str
        "table" or "grid".
    identity : str or None
        Hash of what was spooled; None where only its author can tell whether it is still the same.
    data : str
        The directory of the pieces, from the spool's own.
    pieces : sequence of Piece
        In order.
    """

    kind: str
    identity: str | None
    data: str
    pieces: Sequence[Piece]

    def to_json(self) -> bytes:
        """Write it down.

        Returns
        -------
        bytes
            JSON.
        """
        known = {"spool": _VERSION, "kind": self.kind, "identity": self.identity, "data": self.data}
        totals = {
            "num_rows": sum(piece.num_rows for piece in self.pieces),
            "nbytes": sum(piece.nbytes for piece in self.pieces),
        }
        return json.dumps({**known, **totals, "pieces": [asdict(piece) for piece in self.pieces]}).encode()

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
            If it is damaged, or of a later dtk.
        """
        try:
            found = json.loads(text)
            if found["spool"] != _VERSION:
                raise DataError(
                    f"{where} is of version {found['spool']}, and this dtk knows {_VERSION}; install another"
                )
            pieces = [Piece.of_json(piece) for piece in found["pieces"]]
            return cls(found["kind"], found["identity"], found["data"], pieces)
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{where} is damaged ({error!r}); remove the spool and write it again") from error


def spooled_root(root: str, fs: Any) -> str:
    """Follow a spool's manifest to its data.

    Parameters
    ----------
    root : str
        A directory or a prefix, without a protocol.
    fs : fsspec.AbstractFileSystem
        Where it lies.

    Returns
    -------
    str
        Where the data lies; `root` itself if it is no spool.

    Raises
    ------
    DataError
        If the manifest is damaged.
    """
    path = f"{root.rstrip('/')}/{MANIFEST}"
    if not fs.exists(path):
        return root
    data = Manifest.of_json(fs.cat_file(path), path).data
    return root if data == "." else f"{root.rstrip('/')}/{data}"
