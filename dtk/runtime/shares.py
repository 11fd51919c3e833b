"""What the ranks of a worker may use: GPUs and memory, asked of the workers without a GPU library."""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from dtk.runtime.client import RANK_MEMORY_VARIABLE
from dtk.runtime.pinned import ask_workers

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
    idle_gpus : tuple of str
        Devices that are there, but that the worker's torch was not built for.
    """

    gpus: tuple[str, ...]
    memory_nbytes: int
    idle_gpus: tuple[str, ...] = ()


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
        By worker address; without those workers that do not answer.
    """
    found: dict[str, _Sight] = ask_workers(client, _look, client.nthreads())
    sharing: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for address, sight in sorted(found.items()):
        sharing.setdefault((sight.host, sight.gpus), []).append(address)
    shares = {}
    for (_, gpus), addresses in sharing.items():
        for number, address in enumerate(addresses):
            dealt, sight = gpus[number :: len(addresses)], found[address]
            usable, idle = (dealt, ()) if sight.torch_is_for_gpus else ((), dealt)
            shares[address] = RankShare(usable, sight.memory_nbytes, idle)
    return shares


@dataclass(frozen=True)
class _Sight:
    """What a worker sees of its own host."""

    host: str
    gpus: tuple[str, ...]
    torch_is_for_gpus: bool
    memory_nbytes: int


def _look(dask_worker: Worker) -> _Sight:
    memory_nbytes = int(os.environ.get(RANK_MEMORY_VARIABLE, "0")) or dask_worker.memory_manager.memory_limit or 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        driver = Path("/proc/driver/nvidia/gpus")
        visible = ",".join(map(str, range(len(list(driver.iterdir())) if driver.is_dir() else 0)))
    gpus = tuple(device.strip() for device in visible.split(",") if device.strip() not in ("", "-1"))
    return _Sight(socket.gethostname(), gpus, bool(gpus) and _torch_is_for_gpus(), memory_nbytes)


def _torch_is_for_gpus() -> bool:
    """Tell whether torch was built for CUDA or ROCm, from its version file: importing it takes seconds and memory."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    version = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    return re.search(r"^(cuda|hip)\b[^=]*= *['\"]", version, flags=re.MULTILINE) is not None
