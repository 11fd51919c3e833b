"""Messages that gangs publish and clients read.

All gangs share one topic: the scheduler keeps the last messages of a topic for as long as it lives.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["TOPIC", "subscribed"]

TOPIC = "dtk-gangs"
Handler = Callable[[dict[str, Any]], None]

_handlers: weakref.WeakKeyDictionary[Client, dict[str, Handler]] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


@contextlib.contextmanager
def subscribed(client: Client, gang: str, handler: Handler | None) -> Iterator[None]:
    """Call a handler with every message of a gang.

    Parameters
    ----------
    client : distributed.Client
        Connected.
    gang : str
        The gang's name, which its messages carry as ``"gang"``.
    handler : callable or None
        Called on the client's own thread; None reads nothing.

    Yields
    ------
    None
        While it is subscribed.
    """
    if handler is None:
        yield
        return
    with _lock:  # a client has one handler a topic, and may run several gangs
        handlers = _handlers.setdefault(client, {})
        if not handlers:
            client.subscribe_topic(TOPIC, lambda event: _pass_on(handlers, event[1]))
        handlers[gang] = handler
    try:
        yield
    finally:
        with _lock:
            del handlers[gang]
            if not handlers and client.status == "running":
                client.unsubscribe_topic(TOPIC)


def _pass_on(handlers: dict[str, Handler], message: dict[str, Any]) -> None:
    handler = handlers.get(message["gang"])
    if handler is not None:
        handler(message)
