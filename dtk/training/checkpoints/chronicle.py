"""What stays of a training beside its checkpoints, for people and for other programs.

::

    checkpoints/
    ├── history.parquet    a row an epoch, over all ranks: loss, seconds, samples, what validation gave
    └── summary.json       how it went: its launches, and the samples of each epoch, each counted once

Both are written whole, by rank 0 of the last launch. An epoch's samples are those of the steps that the weights have
gone through: what a launch trained on after its last checkpoint, before it broke, is in none of them.
"""

from __future__ import annotations

import json
import os
import uuid
import warnings
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from dtk.sources.spool_place import Place
from dtk.training.checkpoints.directory import CLAIMS

__all__ = ["HISTORY", "SUMMARY", "Chronicle"]

HISTORY: Final = "history.parquet"
SUMMARY: Final = "summary.json"
VERSION: Final = 1


class Chronicle:
    """Keeps the history and the summary of a training.

    Parameters
    ----------
    path : str
        The directory of its checkpoints.
    incarnation : int
        Which launch this is.
    ranks : int
        How many there are.
    step : int
        The step that this launch begins with, counted over all epochs.
    storage_options : mapping, optional
        For the file system of a URL.
    """

    def __init__(
        self,
        path: str,
        incarnation: int,
        ranks: int,
        step: int,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        self._place = Place.of(path, storage_options)
        self._incarnation = incarnation
        self._launches = [
            *(launch for launch in self._launches_before() if launch["incarnation"] < incarnation),
            {"incarnation": incarnation, "ranks": ranks, "began": _now(), "first_step": step},
        ]

    def write(self, history: Sequence[Mapping[str, Any]], *, step: int, left: str | None = None) -> None:
        """Write both files, if no later launch has taken the directory; a disk that is full brings a warning.

        Parameters
        ----------
        history : sequence of mapping
            One entry an epoch.
        step : int
            The step that comes next.
        left : str, optional
            At the end: why it came before its time; empty if it did not.
        """
        self._launches[-1] |= {"next_step": step} | ({} if left is None else {"ended": _now(), "left": left})
        try:
            if not self._place.exists(self._at(f"{CLAIMS}/{self._incarnation + 1:08d}.json")):
                self._write(SUMMARY, json.dumps(self._summary(history, left), indent=1).encode())
                if history:
                    self._write(HISTORY, _parquet(history))
        except OSError as error:
            warnings.warn(f"the history was not written to {self._place.root}: {error}", stacklevel=2)

    def _summary(self, history: Sequence[Mapping[str, Any]], left: str | None) -> dict[str, Any]:
        launches = []
        for number, launch in enumerate(self._launches):
            later = [after["first_step"] for after in self._launches[number + 1 :]]
            stop = min(later, default=launch["next_step"])
            launches.append(launch | {"steps": max(0, stop - launch["first_step"])})
        return {
            "version": VERSION,
            "is_finished": left == "",
            "restarts": len(launches) - 1,
            "steps": sum(launch["steps"] for launch in launches),
            "samples": sum(entry["samples"] for entry in history),
            "epochs": [{"epoch": entry["epoch"], "samples": entry["samples"]} for entry in history],
            "launches": launches,
        }

    def _launches_before(self) -> list[dict[str, Any]]:
        try:
            if not self._place.exists(self._at(SUMMARY)):
                return []
            found = json.loads(self._place.cat_file(self._at(SUMMARY)))
            return list(found["launches"]) if found["version"] == VERSION else []
        except (OSError, ValueError, KeyError, TypeError):  # it is for reading, and nothing depends on it
            return []

    def _at(self, name: str) -> str:
        return f"{self._place.root}/{name}"

    def _write(self, name: str, content: bytes) -> None:
        if not self._place.is_local:
            self._place.call("pipe_file", self._at(name), content)
            return
        temporary = Path(self._at(f".{name}.{uuid.uuid4().hex}"))
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._at(name))
        finally:
            temporary.unlink(missing_ok=True)


def _parquet(history: Sequence[Mapping[str, Any]]) -> bytes:
    names = dict.fromkeys(name for entry in history for name in entry)
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.table({name: [entry.get(name) for entry in history] for name in names}), buffer)
    return bytes(buffer.getvalue())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
