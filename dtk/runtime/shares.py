"""What the ranks of a worker may use: GPUs and memory, asked of the workers without a GPU library."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dtk.runtime.client import RANK_MEMORY_VARIABLE

if TYPE_CHECKING:
    from distributed import Client, Worker

__all__ = ["RankShare", "rank_shares"]


@dataclass(frozen=True)
class RankShare:
    """What the ranks of one worker may use together.

    Parameters
    ----------
    gpus : tuple of str
        Devices, as ``CUDA_VISIBLE_DEVICES`` names them.
    memory_nbytes : int
        What `dtk.connect` set aside for ranks, else the worker's own limit; 0 where there is none.
    """

    gpus: tuple[str, ...]
    memory_nbytes: int


def rank_shares(client: Client) -> dict[str, RankShare]:
    """Ask the workers what their ranks may use.

    Workers on one host that were not told apart by ``CUDA_VISIBLE_DEVICES`` (as dask-cuda does) see the same GPUs;
    these are dealt out, so that no two ranks share one.

    Parameters
    ----------
    client : distributed.Client
        Connected.

    Returns
    -------
    dict of str to RankShare
        By worker address.
    """
    found: dict[str, tuple[str, tuple[str, ...], int]] = client.run(_look)
    sharing: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for address, (host, gpus, _) in sorted(found.items()):
        sharing.setdefault((host, gpus), []).append(address)
    return {
        address: RankShare(gpus[number :: len(addresses)], found[address][2])
        for (_, gpus), addresses in sharing.items()
        for number, address in enumerate(addresses)
    }


def _look(dask_worker: Worker) -> tuple[str, tuple[str, ...], int]:
    import socket

    memory_nbytes = int(os.environ.get(RANK_MEMORY_VARIABLE, "0")) or dask_worker.memory_manager.memory_limit or 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        driver = Path("/proc/driver/nvidia/gpus")
        visible = ",".join(map(str, range(len(list(driver.iterdir())) if driver.is_dir() else 0)))
    gpus = tuple(device.strip() for device in visible.split(",") if device.strip() not in ("", "-1"))
    return socket.gethostname(), gpus, memory_nbytes
