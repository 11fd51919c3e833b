"""Where a rank runs, and the environment that is made for it."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["RankPlace", "rank_environment", "rank_variables"]

KEEP_MEMORY_NBYTES = 2**30  # freed memory a rank keeps: a fresh page costs more than the step that needs it
MAPPED_NBYTES = 32 * 2**20
"""From this size on an array gets a mapping of its own, which goes when it goes: on the heap the temporary arrays of
a step leave holes that small ones break, and a rank with a module of 160 MiB grew by several times that."""


@dataclass(frozen=True)
class RankPlace:
    """Where and how one rank of a gang runs.

    Parameters
    ----------
    gang : str
        Its name, unique in the cluster.
    rank, ranks : int
        Its number, and how many there are.
    local_rank, local_ranks : int
        The same among the ranks of its host.
    threads : int
        For its operators.
    memory_nbytes : int
        The most that its process tree may hold; 0 where there is no limit.
    gpu : str or None
        The one device it sees.
    host, port : str, int
        Of rank 0's store.
    hang_timeout_s : float
        After which a collective gives up, and a rank that is silent is ended.
    join_timeout_s : float
        After which ranks that were started no longer wait for those that were not.
    tells_of_start : bool
        Whether its silence counts from the start of its function; else from the first that it tells, if it tells any.
    env : mapping
        Set in its environment, over everything else.
    grace_s : float
        Seconds that it has for a last checkpoint; 0 if it takes none.
    worker_ranks : int
        How many ranks of the gang its worker carries.
    """

    gang: str
    rank: int
    ranks: int
    local_rank: int
    local_ranks: int
    threads: int
    memory_nbytes: int
    gpu: str | None
    host: str
    port: int
    hang_timeout_s: float
    join_timeout_s: float
    tells_of_start: bool = False
    env: Mapping[str, str] = field(default_factory=dict)
    grace_s: float = 0.0
    worker_ranks: int = 1


def rank_environment(place: RankPlace) -> dict[str, str]:
    """Build a rank's environment afresh: a nanny's settings make a training process a third slower.

    Parameters
    ----------
    place : RankPlace
        The rank's.

    Returns
    -------
    dict of str to str
        All that its process is started with; the same for the next rank in the same place.
    """
    threads = str(place.threads)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    return {
        "ARROW_DEFAULT_MEMORY_POOL": "system",  # its own ones keep as much again of what was freed
        **_interface(place.host),
        **inherited,
        "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path),
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "DTK_READ_THREADS": threads,
        "MALLOC_TRIM_THRESHOLD_": str(KEEP_MEMORY_NBYTES),
        "MALLOC_MMAP_THRESHOLD_": str(MAPPED_NBYTES),
        **({} if place.gpu is None else {"CUDA_VISIBLE_DEVICES": place.gpu}),
        **place.env,
    }


def rank_variables(place: RankPlace) -> dict[str, str]:
    """Name what is this one rank's alone, and may be set in its process later.

    Parameters
    ----------
    place : RankPlace
        The rank's.

    Returns
    -------
    dict of str to str
        The usual variables of ``torch.distributed``.
    """
    return {
        "RANK": str(place.rank),
        "WORLD_SIZE": str(place.ranks),
        "LOCAL_RANK": str(place.local_rank if place.gpu is None else 0),  # a rank sees one GPU, number 0
        "LOCAL_WORLD_SIZE": str(place.local_ranks),
        "MASTER_ADDR": place.host,
        "MASTER_PORT": str(place.port),
        **place.env,
    }


def _interface(store_host: str) -> dict[str, str]:
    """Name the network interface through which this host reaches rank 0, for gloo and NCCL."""
    import psutil

    family = socket.AF_INET6 if ":" in store_host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((store_host, 9))  # no packet leaves: this only asks for the route
            address = ipaddress.ip_address(probe.getsockname()[0])
        except (OSError, ValueError):
            return {}
    for name, entries in psutil.net_if_addrs().items():
        for entry in entries:
            if entry.family == family and ipaddress.ip_address(entry.address.split("%")[0]) == address:
                return {"GLOO_SOCKET_IFNAME": name, "NCCL_SOCKET_IFNAME": name}
    return {}
