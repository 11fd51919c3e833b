"""A DuckDB without tables, in which queries are read and bound; nothing runs in it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

__all__ = ["bare_connection"]

_SETTINGS: Final[dict[str, Any]] = {
    "threads": 1,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "python_enable_replacements": False,
    "enable_external_access": False,
}
_INSTANCES: dict[int, DuckDBPyConnection] = {}
_LOCK = threading.Lock()


@contextmanager
def bare_connection() -> Iterator[DuckDBPyConnection]:
    """Open a connection that sees no tables but those registered with it.

    Yields
    ------
    duckdb.DuckDBPyConnection
        Its errors are JSON.
    """
    import duckdb

    with _LOCK:
        if os.getpid() not in _INSTANCES:
            _INSTANCES[os.getpid()] = duckdb.connect(
                ":memory:", config=_SETTINGS
            )  # which takes a hundred queries' time
        connection = _INSTANCES[os.getpid()].cursor()
    try:
        connection.execute("SET errors_as_json = true")
        connection.execute("SET TimeZone = 'UTC'")
        yield connection
    finally:
        connection.close()
