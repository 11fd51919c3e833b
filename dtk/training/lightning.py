"""Lightning's ``Trainer`` in the ranks of `dtk.launch`: what it must be told of them.

Lightning is imported late, under either of its names; dtk does not need it.
"""

from __future__ import annotations

import os
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from dtk.errors import ClusterError, DependencyError
from dtk.training.gang.rank import current_rank

__all__ = ["trainer_options"]


def trainer_options() -> dict[str, Any]:
    """Say what Lightning's ``Trainer`` must be told in a rank; to be called there.

    It takes each rank for a node of its own with one device, so that any number of ranks on a host will do. The
    process group is the one that the rank has joined, and a `dtk.Loader` gives each rank its part by itself.

    Returns
    -------
    dict of str to object
        The arguments ``accelerator``, ``devices``, ``num_nodes``, ``strategy``, ``plugins`` and
        ``use_distributed_sampler``.

    Raises
    ------
    ClusterError
        If this process is no rank.
    DependencyError
        If Lightning is not installed.

    Examples
    --------
    >>> def fit(module, loader):  # doctest: +SKIP
    ...     Trainer(max_epochs=2, **trainer_options()).fit(module, loader)
    >>> dtk.launch(fit, module, loader, ranks=2)  # doctest: +SKIP
    """
    context = current_rank()
    if context is None:
        raise ClusterError("this process is no rank; call trainer_options() in the function that dtk.launch runs")
    base = _environments().ClusterEnvironment
    environment = type("DaskEnvironment", (_DaskEnvironment, base), {})
    return {
        "accelerator": context.device,
        "devices": 1,
        "num_nodes": context.ranks,
        "strategy": "ddp" if context.ranks > 1 else "auto",
        "plugins": [environment()],
        "use_distributed_sampler": False,
    }


def _environments() -> Any:
    """Import Lightning's base class under the name by which the user's code knows it."""
    for package, name in (("lightning", "lightning.fabric"), ("pytorch_lightning", "lightning_fabric")):
        if find_spec(package) is not None:
            return import_module(f"{name}.plugins.environments")
    raise DependencyError("Lightning is not installed; pip install lightning")


class _DaskEnvironment:
    """Where a rank stands, as Lightning asks for it."""

    creates_processes_externally = True

    @property
    def main_address(self) -> str:
        return os.environ["MASTER_ADDR"]

    @property
    def main_port(self) -> int:
        return int(os.environ["MASTER_PORT"])

    @staticmethod
    def detect() -> bool:
        return current_rank() is not None

    def world_size(self) -> int:
        return int(os.environ["WORLD_SIZE"])

    def set_world_size(self, size: int) -> None:
        """Nothing: the gang says it."""

    def global_rank(self) -> int:
        return int(os.environ["RANK"])

    def set_global_rank(self, rank: int) -> None:
        """Nothing: the gang says it."""

    def local_rank(self) -> int:
        return 0  # the only one of its node

    def node_rank(self) -> int:
        return self.global_rank()
