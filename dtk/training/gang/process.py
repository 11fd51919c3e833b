"""The process of a rank: started in a fresh interpreter, and told later what to do.

What it needs of libraries it loads at once; then it waits for its orders. So a process may be started before there is
anything to do: see `dtk.training.gang.spares`.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

__all__ = ["RankProcess", "start_process"]

# A rank whose worker is gone leaves, also while it still imports what takes seconds.
START_RANK = """
import os, signal, sys, threading, time
def leave_with(worker):
    while os.getppid() == worker:
        time.sleep(0.5)
    rank = sys.modules.get("dtk.training.gang.rank")
    getattr(rank, "leave_orphaned", lambda: os.killpg(0, signal.SIGKILL))()
threading.Thread(target=leave_with, args=(int(sys.argv[3]),), daemon=True).start()
from dtk.training.gang.rank import leave_process, main
leave_process(main(*map(int, sys.argv[1:3]), sys.argv[4].split()))
"""


@dataclass(frozen=True)
class RankProcess:
    """A rank's process, as its worker holds it.

    Parameters
    ----------
    popen : subprocess.Popen
        The process; what it prints comes out of its ``stdout``.
    orders : socket.socket
        Takes its orders; its end tells the rank that the worker is gone.
    frames_fd : int
        Gives what it tells.
    """

    popen: subprocess.Popen[bytes]
    orders: socket.socket
    frames_fd: int

    def rouse(self, listening: socket.socket | None, *, timeout_s: float = 0.0) -> bool:
        """Make it a rank, which waits for its orders.

        Parameters
        ----------
        listening : socket.socket or None
            Which the rank shall take over.
        timeout_s : float
            Seconds to wait for its answer; 0 waits for none.

        Returns
        -------
        bool
            Whether it has answered.
        """
        fds = [] if listening is None else [listening.fileno()]
        passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        with contextlib.suppress(ConnectionError, TimeoutError):  # it is gone, or stopped
            self.orders.sendmsg([b"\0"], passed)
            if timeout_s:
                self.orders.settimeout(timeout_s)
                answer = self.orders.recv(1)
                self.orders.settimeout(None)
                return bool(answer)
        return False

    def discard(self) -> None:
        """End a process that has been given nothing."""
        self.popen.kill()
        self.popen.wait()
        self.orders.close()
        os.close(self.frames_fd)
        assert self.popen.stdout is not None
        self.popen.stdout.close()


def start_process(
    environment: Mapping[str, str], *, is_spare: bool = False, modules: Iterable[str] = ()
) -> RankProcess:
    """Start a rank's process.

    Parameters
    ----------
    environment : mapping of str to str
        All that it gets.
    is_spare : bool
        Whether it is to be told apart from ranks, until it is one.
    modules : iterable of str
        Modules of dtk to load, too, before it waits.

    Returns
    -------
    RankProcess
        It loads its libraries, and waits.
    """
    ours, theirs = socket.socketpair()
    frames_out, frames_in = os.pipe()
    fds = [theirs.fileno(), frames_in]
    arguments = [*map(str, fds), str(os.getpid()), " ".join(modules), *(["spare"] if is_spare else [])]
    try:
        popen = subprocess.Popen(
            [sys.executable, "-c", START_RANK, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=fds,
            env=dict(environment),
            start_new_session=True,
        )
    except BaseException:
        ours.close()
        os.close(frames_out)
        raise
    finally:
        theirs.close()
        os.close(frames_in)
    return RankProcess(popen, ours, frames_out)
