"""How a rank joins the others: by the store that rank 0 keeps, at an address that the gang was given beforehand."""

from __future__ import annotations

import os
import queue
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from dtk.training.gang.events import rank_key

if TYPE_CHECKING:
    from torch.distributed import Store

__all__ = ["Orders", "RanksMissingError", "connect", "join_group"]


@dataclass(frozen=True)
class Orders:
    """What a supervisor tells its rank.

    Parameters
    ----------
    rank, ranks : int
        This process's number, and how many there are.
    host : str
        Host of rank 0's store.
    port : int
        Its port.
    variables : mapping of str to str
        To set in the environment.
    backend : str
        ``"gloo"`` or ``"nccl"``.
    threads : int
        For torch's operators.
    hang_timeout_s : float
        After which a collective gives up.
    join_timeout_s : float
        After which it no longer waits for the other ranks to start.
    payload : bytes
        The function and its arguments, by cloudpickle.
    grace_s : float
        What a rank that shall leave has for its last checkpoint.
    listen_fd : int or None
        For rank 0: the listening socket, once it came with the orders.
    """

    rank: int
    ranks: int
    host: str
    port: int
    variables: Mapping[str, str]
    backend: str
    threads: int
    hang_timeout_s: float
    join_timeout_s: float
    payload: bytes
    grace_s: float = 30.0
    listen_fd: int | None = None


class RanksMissingError(Exception):
    """Other ranks did not come in time.

    Parameters
    ----------
    awaited : tuple of int
        Which.
    place : str
        Host and port where they should have met.
    """

    def __init__(self, awaited: tuple[int, ...], place: str) -> None:
        super().__init__(f"rank {', '.join(map(str, awaited))} did not come to {place}")
        self.awaited = awaited
        self.place = place


def connect(orders: Orders) -> Store:
    """Open a connection to the gang's store.

    Parameters
    ----------
    orders : Orders
        A rank's.

    Returns
    -------
    torch.distributed.Store
        It answers one question at a time.
    """
    from torch.distributed import TCPStore

    timeout = timedelta(seconds=orders.hang_timeout_s)
    return TCPStore(orders.host, orders.port, is_master=False, timeout=timeout, wait_for_workers=False)


def join_group(orders: Orders) -> Store:
    """Wait for all ranks, and join the default process group with them.

    Parameters
    ----------
    orders : Orders
        This rank's.

    Returns
    -------
    torch.distributed.Store
        The gang's.

    Raises
    ------
    RanksMissingError
        If other ranks do not come in time.
    """
    from torch import distributed

    timeout = timedelta(seconds=orders.hang_timeout_s)
    store = _open_store(orders)
    keys = [rank_key(rank) for rank in range(orders.ranks)]
    store.set(keys[orders.rank], "started")
    try:
        store.wait(keys, timedelta(seconds=orders.join_timeout_s))
    except distributed.DistStoreError as error:
        missing = tuple(rank for rank, key in enumerate(keys) if not store.check([key]))
        raise RanksMissingError(missing, _place(orders)) from error
    store.set_timeout(timeout)
    try:
        distributed.init_process_group(
            orders.backend, store=store, rank=orders.rank, world_size=orders.ranks, timeout=timeout
        )
    except RuntimeError as error:
        variable = f"{orders.backend.upper()}_SOCKET_IFNAME"
        error.add_note(
            f"rank {orders.rank} on host {socket.gethostname()} spoke through {variable}={os.environ.get(variable)!r}, "
            f"as rank 0 is at {_place(orders)}; give env={{{variable!r}: ...}} if the ranks reach each other through "
            "another interface"
        )
        raise
    joined = [f"{key}/joined" for key in keys]
    store.set(joined[orders.rank], "")
    store.wait(joined, timeout)  # one whose function ends at once would close what others are still connecting to
    return store


def _place(orders: Orders) -> str:
    """Name the address of rank 0's store."""
    return f"[{orders.host}]:{orders.port}" if ":" in orders.host else f"{orders.host}:{orders.port}"


def _open_store(orders: Orders) -> Store:
    """Join rank 0's store; its socket listens before rank 0 starts, and torch would wait there without limit."""
    from torch import distributed

    opened: queue.SimpleQueue[Any] = queue.SimpleQueue()
    options: dict[str, Any] = {} if orders.listen_fd is None else {"master_listen_fd": orders.listen_fd}

    def open_store() -> None:
        try:
            store = distributed.TCPStore(
                orders.host,
                orders.port,
                orders.ranks,
                is_master=orders.rank == 0,
                timeout=timedelta(seconds=orders.join_timeout_s),
                wait_for_workers=False,
                **options,
            )
        except Exception as error:
            opened.put(error)
        else:
            opened.put(store)

    threading.Thread(target=open_store, daemon=True).start()
    try:
        store = opened.get(timeout=orders.join_timeout_s)
    except queue.Empty:
        raise RanksMissingError((0,), _place(orders)) from None
    if isinstance(store, Exception):
        raise store
    opened_store: Store = store
    return opened_store
