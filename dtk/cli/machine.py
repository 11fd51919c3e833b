"""Facts about a machine, gathered in milliseconds: here, on the scheduler's and on the workers'."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import runpy
import shutil
import socket
import subprocess
import tempfile
from importlib import metadata, util
from pathlib import Path
from typing import Any, Final

__all__ = ["PACKAGES", "THREAD_VARIABLES", "cgroup_limit_nbytes", "look", "mount_of", "read_token"]

PACKAGES: Final = (
    "dask-dtk", "torch", "dask", "distributed", "pyarrow", "numpy", "pandas", "cloudpickle", "msgpack", "tornado",
)  # fmt: skip
THREAD_VARIABLES: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_MAX_THREADS")
MEMORY_FILE_SYSTEMS: Final = ("tmpfs", "ramfs")
_UNLIMITED: Final = 1 << 60  # what the older cgroups say for no limit is near 2**63
_ASK_S: Final = 10


def look() -> dict[str, Any]:
    """Gather the facts of the machine and process that it runs in.

    Returns
    -------
    dict
        Plain values: versions, cores, memory, GPUs, threads, scratch.
    """
    import psutil

    return {
        "host": socket.gethostname(),
        "versions": versions(),
        "torch_cuda": torch_cuda(),
        "cores": os.cpu_count() or 1,
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "memory_nbytes": psutil.virtual_memory().total,
        "free_nbytes": psutil.virtual_memory().available,
        "cgroup_nbytes": cgroup_limit_nbytes(),
        "gpus": gpus(),
        "threads": {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ},
        "scratch": scratch(),
    }


def versions() -> dict[str, str | None]:
    """Look up what is installed, without importing it.

    Returns
    -------
    dict of str to str or None
        Python, and each of `PACKAGES`; None for one that is not there.
    """
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    if found["dask-dtk"] is None:  # run from a clone
        from dtk import __version__

        found["dask-dtk"] = __version__
    return found


def torch_cuda() -> str | None:
    """Tell for which CUDA torch was built, without the seconds that importing it takes.

    Returns
    -------
    str or None
        Such as ``"12.8"``; None for a build without CUDA, or no torch.
    """
    spec = util.find_spec("torch")
    file = Path(spec.origin).with_name("version.py") if spec is not None and spec.origin else None
    if file is None or not file.is_file():
        return None
    cuda = runpy.run_path(str(file)).get("cuda")
    return None if cuda is None else str(cuda)


def cgroup_limit_nbytes(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int | None:
    """Find the least memory limit of this process's control group and those above it.

    Parameters
    ----------
    root : Path
        Where control groups are mounted.
    own : Path
        Tells the groups of this process.

    Returns
    -------
    int or None
        Bytes; None where nothing limits it.
    """
    limits = []
    with contextlib.suppress(OSError):
        for line in own.read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            if controllers not in ("", "memory") and "memory" not in controllers.split(","):
                continue
            base = root if controllers == "" else root / "memory"
            name = "memory.max" if controllers == "" else "memory.limit_in_bytes"
            place = base / group.strip("/")
            for directory in (place, *place.parents):
                with contextlib.suppress(OSError, ValueError):
                    limits.append(int((directory / name).read_text()))
                if directory == base:
                    break
    return min((limit for limit in limits if limit < _UNLIMITED), default=None)


def gpus() -> dict[str, Any]:
    """Ask NVIDIA's driver for the GPUs.

    Returns
    -------
    dict
        ``names``; ``visible`` (CUDA_VISIBLE_DEVICES or None); ``driver`` and ``cuda`` (the newest that it takes), each
        None where it is not known.
    """
    directory = Path("/proc/driver/nvidia/gpus")
    names = []
    if directory.is_dir():
        for information in sorted(directory.glob("*/information")):
            with contextlib.suppress(OSError):
                found = re.search(r"^Model:\s*(.+)$", information.read_text(), re.MULTILINE)
                names.append(found[1].strip() if found else "GPU")
    told = ""
    if shutil.which("nvidia-smi"):
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            told = subprocess.run(["nvidia-smi"], capture_output=True, text=True, timeout=_ASK_S, check=True).stdout
            listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=_ASK_S, check=True)
            names = re.findall(r"^GPU \d+: (.+?)(?: \(UUID.*)?$", listed.stdout, re.MULTILINE) or names
    driver, cuda = re.search(r"Driver Version: *([\d.]+)", told), re.search(r"CUDA Version: *([\d.]+)", told)
    return {
        "names": names,
        "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "driver": driver[1] if driver else _driver_in_proc(),
        "cuda": cuda[1] if cuda else None,
    }


def _driver_in_proc() -> str | None:
    with contextlib.suppress(OSError):
        found = re.search(r"\s(\d{3,}\.\d+(?:\.\d+)?)\s", Path("/proc/driver/nvidia/version").read_text())
        return found[1] if found else None
    return None


def scratch() -> dict[str, Any]:
    """Describe the file system on which Dask spills and dtk keeps temporary files.

    Returns
    -------
    dict
        ``path``, ``file_system`` (its type), ``in_memory``, ``total_nbytes`` and ``free_nbytes``.
    """
    import dask

    path = str(dask.config.get("temporary-directory", None) or tempfile.gettempdir())
    usage = shutil.disk_usage(path if os.path.exists(path) else os.sep)
    kind = mount_of(path)
    return {
        "path": path,
        "file_system": kind,
        "in_memory": kind in MEMORY_FILE_SYSTEMS,
        "total_nbytes": usage.total,
        "free_nbytes": usage.free,
    }


def mount_of(path: str, mounts: Path = Path("/proc/self/mounts")) -> str | None:
    """Tell the type of the file system that a path lies on.

    Parameters
    ----------
    path : str
        Anything; it need not exist.
    mounts : Path
        The kernel's table of mounts.

    Returns
    -------
    str or None
        Such as ``"tmpfs"``, ``"ext4"`` or ``"nfs4"``; None where it can't be told.
    """
    real = os.path.realpath(path)
    best, kind = "", None
    with contextlib.suppress(OSError):
        for line in mounts.read_text().splitlines():
            _, point, found = line.split()[:3]
            point = point.replace("\\040", " ")
            if len(point) >= len(best) and (real == point or real.startswith(point.rstrip("/") + "/")):
                best, kind = point, found
    return kind


def read_token(path: str) -> str | None:
    """Read a small file, if it is there.

    Parameters
    ----------
    path : str
        The file.

    Returns
    -------
    str or None
        What it holds.
    """
    with contextlib.suppress(OSError):
        os.listdir(os.path.dirname(path))  # a network file system may remember that the file was not there
        return Path(path).read_text()
    return None
