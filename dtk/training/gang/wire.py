"""Frames between a supervisor and its rank: a length, then a pickled message.

Both ends are this very program on one machine, joined by an anonymous pipe; nothing here is ever read from a file.
"""

from __future__ import annotations

import pickle
import struct
import threading
from typing import Any, BinaryIO

__all__ = ["FrameReader", "FrameWriter"]

_LENGTH = struct.Struct("<Q")


class FrameWriter:
    """Writes messages; any thread may.

    Parameters
    ----------
    stream : file
        Binary, writable; owned by the writer.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def write(self, message: Any) -> None:
        """Write one message.

        Parameters
        ----------
        message : object
            Picklable.
        """
        body = pickle.dumps(message, protocol=5)
        with self._lock:
            self._stream.write(_LENGTH.pack(len(body)))
            self._stream.write(body)
            self._stream.flush()

    def close(self) -> None:
        """Close the stream; the other end reads its end."""
        with self._lock:
            self._stream.close()


class FrameReader:
    """Reads messages.

    Parameters
    ----------
    stream : file
        Binary, readable; owned by the reader.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def read(self) -> Any:
        """Read one message.

        Returns
        -------
        object
            The message.

        Raises
        ------
        EOFError
            If the other end is gone.
        """
        head = self._stream.read(_LENGTH.size)
        if len(head) < _LENGTH.size:
            raise EOFError
        (length,) = _LENGTH.unpack(head)
        body = self._stream.read(length)
        if len(body) < length:
            raise EOFError
        return pickle.loads(body)
