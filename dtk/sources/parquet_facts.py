"""What tells Parquet files from other ones: their identity, and the facts that a saved state keeps of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dtk.sources.facts import changed_columns, changed_files, column_facts, file_facts, short_digest
from dtk.sources.footers import Footer

if TYPE_CHECKING:
    from dtk.sources.parquet import ParquetSource

__all__ = ["parquet_changes", "parquet_facts", "parquet_identity"]


def parquet_identity(footers: Sequence[Footer], schema: pa.Schema, chunks: npt.NDArray[np.int32]) -> str:
    """Hash what a source reads of files.

    Parameters
    ----------
    footers : sequence of Footer
        One a file.
    schema : pa.Schema
        The columns that it yields.
    chunks : numpy.ndarray
        An int32: the file of each row group, then its number there.

    Returns
    -------
    str
        Hash of names, sizes, times and footers.
    """
    digest = hashlib.blake2b(chunks.tobytes(), digest_size=16)
    for footer in sorted(footers, key=lambda footer: footer.path):
        digest.update(f"{footer.path}\0{footer.nbytes}\0{footer.version}\0{footer.digest}\n".encode())
    digest.update(repr([(field.name, str(field.type)) for field in schema]).encode())
    return digest.hexdigest()


def parquet_facts(source: ParquetSource) -> dict[str, Any]:
    """Return what a saved state tells of a source.

    Parameters
    ----------
    source : ParquetSource
        The source.

    Returns
    -------
    dict
        Plain values, see `dtk.sources.facts`.
    """
    directory = _directory(source)
    names = [path[len(directory) + 1 :] for path in source.paths]
    return {
        "kind": "parquet",
        "columns": column_facts(source.schema),
        "directory": directory,
        "files": file_facts(names, source.versions, _rows_of_files(source)),
        "row_groups": short_digest(source.file_of_chunk.tobytes(), source.row_group.tobytes()),
    }


def parquet_changes(source: ParquetSource, facts: Mapping[str, Any]) -> list[str]:
    """Say how a source differs from what it was.

    Parameters
    ----------
    source : ParquetSource
        As it is now.
    facts : mapping
        Its facts then.

    Returns
    -------
    list of str
        One for each difference.
    """
    found = changed_columns(facts["columns"], source.facts["columns"])
    then, now = facts["directory"], _directory(source)
    if not f"{then}/".startswith(f"{now}/") and not f"{now}/".startswith(f"{then}/"):
        return [*found, f"it lies in {now} and lay in {then}"]
    runs = [[f"{then}/{run[0]}", *run[1:]] for run in facts["files"]]
    files = changed_files(runs, source.paths, source.versions, _rows_of_files(source))
    if not files and facts["row_groups"] != source.facts["row_groups"]:
        found.append("other row groups are chosen, by other filters")
    return found + files


def _directory(source: ParquetSource) -> str:
    """Return the one that all files lie in, or below."""
    return source.root.rpartition("/")[0]


def _rows_of_files(source: ParquetSource) -> npt.NDArray[np.int64]:
    return np.bincount(source.file_of_chunk, source.chunk_rows, minlength=len(source.names)).astype(np.int64)
