"""How a training shows its progress to the user who waits for it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from dtk.memory import format_nbytes
from dtk.progress import Progress

__all__ = ["ShowBeat"]

SILENT_S: Final = 5.0
WORTH_TELLING: Final = 0.05  # of the time


class ShowBeat:
    """Turns a gang's messages into a progress bar, and a line an epoch.

    Parameters
    ----------
    bar : Progress
        Of so many steps as the training has.
    """

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._then = time.monotonic()
        self._samples = 0
        self._seconds: dict[tuple[str, int], float] = {}

    def __call__(self, message: dict[str, Any]) -> None:
        """Show a message.

        Parameters
        ----------
        message : dict
            Of one rank alone, or of a gang, with columns by rank.
        """
        for entry in message.get("entries", [message["entry"]] if message.get("entry") else []):
            self._bar.say(_epoch_line(entry, message["epochs"]))
        if message["phase"] == "validation":
            return
        ranks = message.get("ranks", {"rank": [0]})
        elapsed_s = max(time.monotonic() - self._then, 1e-9)
        self._then += elapsed_s
        figures = [
            f"epoch {message['epoch']}/{message['epochs']}",
            f"loss {message['loss']:.4f}",
            f"{max(0, message['samples'] - self._samples) / elapsed_s:,.0f} samples/s",
        ]
        for name, whom in (("wait_s", "data"), ("sync_s", "other ranks")):
            by_rank = dict(zip(ranks["rank"], ranks.get(name, [message.get(name)]), strict=True))
            share, where = self._waiting(by_rank, name, elapsed_s)
            if name == "wait_s" or share >= WORTH_TELLING:
                figures.append(f"{share:.0%} waiting for {whom}{where}")
        self._samples = message["samples"]
        held = [nbytes or 0 for nbytes in (message.get("memory_nbytes"), *ranks.get("held_nbytes", []))]
        if max(held):
            figures.append(format_nbytes(max(held)))
        silent = [
            rank
            for rank, since_s in zip(ranks["rank"], ranks.get("silent_s", [0.0]), strict=True)
            if since_s > SILENT_S
        ]
        if silent:
            figures.append(f"rank {', '.join(map(str, silent[:3]))} silent")
        self._bar.update(message["step"], ", ".join(figures))

    def _waiting(self, seconds: Mapping[int, float | None], name: str, elapsed_s: float) -> tuple[float, str]:
        """Return the share of the time that the rank waits which does so most, and its name where that matters."""
        known = {rank: now_s for rank, now_s in seconds.items() if now_s is not None}
        shares = {
            rank: min(1.0, max(0.0, now_s - self._seconds.get((name, rank), 0.0)) / elapsed_s)
            for rank, now_s in known.items()
        }
        self._seconds |= {(name, rank): now_s for rank, now_s in known.items()}
        slowest = max(shares, key=lambda rank: shares[rank], default=0)
        share = shares.get(slowest, 0.0)
        return share, f" (rank {slowest})" if len(shares) > 1 and share >= WORTH_TELLING else ""


def _epoch_line(entry: Mapping[str, Any], epochs: int) -> str:
    figures = ", ".join(
        f"{name.replace('_', ' ')} {value:.4f}"
        for name, value in entry.items()
        if name == "loss" or name.startswith("validation_")
    )
    sync_share = entry["sync_s"] / max(entry["seconds"], 1e-9)
    return (
        f"epoch {entry['epoch']}/{epochs}: {figures}, {entry['samples_per_s']:,.0f} samples/s, "
        f"{entry['wait_share']:.0%} waiting for data"
        + (f", {sync_share:.0%} waiting for other ranks" if sync_share >= WORTH_TELLING else "")
    )
