"""Messages that tasks publish and clients read, through a topic on the scheduler."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["subscribed"]


@contextlib.contextmanager
def subscribed(client: Client, topic: str, handler: Callable[[dict[str, Any]], None] | None) -> Iterator[None]:
    """Call a handler with every message on a topic.

    Parameters
    ----------
    client : distributed.Client
        Connected.
    topic : str
        The topic.
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
    client.subscribe_topic(topic, lambda event: handler(event[1]))
    try:
        yield
    finally:
        client.unsubscribe_topic(topic)
