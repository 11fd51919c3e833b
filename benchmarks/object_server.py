"""A small HTTP server of a directory, in a process of its own, that answers late or fails on request.

It knows ranges, ETags and listings as pages of links, keeps connections open, and takes a thread a connection, so that
any number of requests wait beside each other. For benchmarks and tests; it listens on loopback only.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

__all__ = ["ObjectServer", "serve"]


class ObjectServer:
    """A running server, as its client sees it.

    Parameters
    ----------
    url : str
        Where the directory is, without a slash at its end.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def behave(self, **behaviour: Any) -> None:
        """Set what it does from now on, and forget what it counted.

        Parameters
        ----------
        **behaviour : object
            ``delay_s``: seconds before each answer. ``fail``: how many of the next requests to a file fail, and
            ``how``: a status such as 503, "reset" for a connection that breaks off, or "short" for a body that does.
            ``tells``: "ETag" of a file, or "Last-Modified", or nothing where empty.
        """
        self._call(json.dumps(behaviour).encode())

    def counts(self) -> dict[str, int]:
        """Return the requests since `behave`: of each method, and the most at a time as ``"peak"``."""
        counts: dict[str, int] = json.loads(self._call(None))
        return counts

    def _call(self, body: bytes | None) -> bytes:
        with urllib.request.urlopen(f"{self.url}/.control", data=body, timeout=30) as answer:
            content: bytes = answer.read()
        return content


@contextmanager
def serve(directory: str | os.PathLike[str], *, delay_s: float = 0.0) -> Iterator[ObjectServer]:
    """Serve a directory from another process until the block ends.

    Parameters
    ----------
    directory : str or path
        What to serve.
    delay_s : float
        Seconds before each answer.

    Yields
    ------
    ObjectServer
        The server.
    """
    command = [sys.executable, "-S", __file__, os.fspath(directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            server = ObjectServer(process.stdout.readline().strip())
            server.behave(delay_s=delay_s)
            yield server
        finally:
            process.kill()


class _State:
    """What a server does and has counted."""

    def __init__(self, root: Path) -> None:
        self.root, self.lock = root.resolve(), threading.Lock()
        self.open = 0
        self.behave({})

    def behave(self, behaviour: dict[str, Any]) -> None:
        self.delay_s = float(behaviour.get("delay_s", 0.0))
        self.fail, self.how = int(behaviour.get("fail", 0)), behaviour.get("how", 503)
        self.tells = behaviour.get("tells", "ETag")
        self.counts: Counter[str] = Counter()


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    state: _State

    def log_message(self, format: str, *values: object) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        self.state.behave(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self._answer(200, b"")

    def do_HEAD(self) -> None:
        self._serve(is_head=True)

    def do_GET(self) -> None:
        if self.path == "/.control":
            self._answer(200, json.dumps(self.state.counts).encode())
        else:
            self._serve(is_head=False)

    def _serve(self, *, is_head: bool) -> None:
        state = self.state
        path = (state.root / unquote(urlsplit(self.path).path).lstrip("/")).resolve()
        if not path.is_relative_to(state.root):
            self._answer(404, b"nothing there")
            return
        with state.lock:
            state.counts[self.command] += 1
            state.open += 1
            state.counts["peak"] = max(state.counts["peak"], state.open)
            fails = state.fail > 0 and path.is_file()
            state.fail -= fails
        try:
            time.sleep(state.delay_s)
            if fails and state.how == "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                self.close_connection = True
                self.connection.close()
            elif fails and state.how != "short":
                self._answer(int(state.how), b"not now")
            elif path.is_file():
                self._send(path, is_head=is_head, share=0.5 if fails else 1.0)
            elif path.is_dir():
                names = [entry.name + "/" * entry.is_dir() for entry in path.iterdir()]
                here = urlsplit(self.path).path.rstrip("/")
                page = "".join(f'<a href="{here}/{name}">{name}</a>\n' for name in names).encode()
                self._answer(200, b"" if is_head else page, {"Content-Type": "text/html"}, len(page))
            else:
                self._answer(404, b"nothing there")
        finally:
            with state.lock:
                state.open -= 1

    def _send(self, path: Path, *, is_head: bool, share: float) -> None:
        """Send a file or the range that is asked for; only a share of it, to break off in the middle."""
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            start, stop, code = 0, status.st_size, 200
            asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
            headers = {"Accept-Ranges": "bytes"}
            tag = hashlib.sha256(f"{path}{status.st_size}{status.st_mtime_ns}".encode()).hexdigest()[:16]
            known = {"ETag": f'"{tag}"', "Last-Modified": self.date_time_string(status.st_mtime)}
            headers |= {name: known[name] for name in known if name == self.state.tells}
            if asked and asked[1]:
                start, stop, code = int(asked[1]), min(stop, int(asked[2]) + 1) if asked[2] else stop, 206
            elif asked and asked[2]:
                start, code = max(0, stop - int(asked[2])), 206
            if start >= stop and code == 206:
                self._answer(416, b"", {"Content-Range": f"bytes */{status.st_size}"})
                return
            if code == 206:
                headers["Content-Range"] = f"bytes {start}-{stop - 1}/{status.st_size}"
            self._answer(code, b"", headers, stop - start)
            self.wfile.flush()
            sent_to = start if is_head else start + int((stop - start) * share)
            while start < sent_to:
                start += os.sendfile(self.connection.fileno(), file.fileno(), start, sent_to - start)
            self.close_connection |= share < 1

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None, length: int = 0) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length or len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that hang up."""


def _main(directory: str) -> None:
    _Handler.state = _State(Path(directory))
    server = _Server(("127.0.0.1", 0), _Handler)
    print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()  # until its parent is gone


if __name__ == "__main__":
    _main(sys.argv[1])
