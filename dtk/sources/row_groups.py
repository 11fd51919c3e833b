"""The row groups of Parquet files that a source reads, chosen by their footers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dtk.sources.footers import Footer

__all__ = ["RowGroups"]


@dataclass(frozen=True)
class RowGroups:
    """Row groups that have rows, in the order of the files.

    Parameters
    ----------
    of_files : list of numpy.ndarray
        For each file, an int32: the numbers of its row groups.
    num_rows : numpy.ndarray
        An int64 ``[row groups]``.
    nbytes : numpy.ndarray
        An int64 ``[row groups]``: bytes on disk of the columns.
    decoded_nbytes : int
        Bytes before compression of the columns, all row groups together.
    """

    of_files: list[npt.NDArray[np.int32]]
    num_rows: npt.NDArray[np.int64]
    nbytes: npt.NDArray[np.int64]
    decoded_nbytes: int

    @classmethod
    def chosen(
        cls, footers: Sequence[Footer], columns: Sequence[str], wanted: Sequence[Sequence[int] | None] | None
    ) -> RowGroups:
        """Choose row groups.

        Parameters
        ----------
        footers : sequence of Footer
            One a file.
        columns : sequence of str
            Columns in the files that are read.
        wanted : sequence, optional
            For each file, the row groups wanted, None for all.

        Returns
        -------
        RowGroups
            Those of them that have rows.
        """
        of_files, num_rows, nbytes, decoded = [], [], [], 0
        for footer, numbers in zip(footers, wanted or [None] * len(footers), strict=True):
            group = np.arange(len(footer.group_rows)) if numbers is None else np.asarray(numbers, np.int64)
            group = group[footer.group_rows[group] > 0]
            at = [footer.schema.get_field_index(name) for name in columns]
            of_files.append(group.astype(np.int32))
            num_rows.append(footer.group_rows[group])
            nbytes.append(footer.column_nbytes[np.ix_(group, at)].sum(axis=1))
            share = num_rows[-1].sum() / max(1, footer.group_rows.sum())
            decoded += int(footer.decoded_nbytes[at].sum() * share)
        return cls(of_files, np.concatenate(num_rows), np.concatenate(nbytes).astype(np.int64), decoded)

    @property
    def file(self) -> npt.NDArray[np.int32]:
        """The file of each, int32 ``[row groups]``."""
        return np.repeat(np.arange(len(self.of_files), dtype=np.int32), [len(group) for group in self.of_files])

    @property
    def number(self) -> npt.NDArray[np.int32]:
        """Their numbers in their files, int32 ``[row groups]``."""
        return np.concatenate(self.of_files)
