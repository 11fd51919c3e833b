"""A loader as PyTorch's `IterableDataset`, for what takes nothing else."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from dtk.arguments import check_whole
from dtk.errors import ArgumentError
from dtk.loader.ranks import is_in_group

if TYPE_CHECKING:
    from types import FrameType

    from dtk.loader.loader import Loader

__all__ = ["LoaderDataset"]


class LoaderDataset(IterableDataset[Any]):
    """The batches of a loader as the items of a dataset; made by `Loader.to_iterable_dataset`.

    Parameters
    ----------
    loader : Loader
        One that copies its batches, and that nothing else iterates over.
    epoch : int
        The epoch of the next iteration.

    Raises
    ------
    ArgumentError
        By an iteration or `set_epoch`: if a DataLoader makes batches of the batches, or has several workers, or
        Accelerate would share out again what is one rank's.

    Notes
    -----
    For ``torch.utils.data.DataLoader(dataset, batch_size=None)``, also with ``num_workers=1``: each item is a whole
    batch of this rank. Lightning leaves such a dataset as it is. Accelerate shares it out once more: leave it out of
    ``accelerator.prepare``.

    Each iteration is the next epoch, whichever process it takes place in.
    """

    def __init__(self, loader: Loader, epoch: int) -> None:
        self._loader = loader
        # Shared with a worker process, which lives for one epoch and counts for the next, or is told of a new one.
        self._shared_epoch = torch.tensor(epoch).share_memory_()
        self._owner: int | None = os.getpid()

    def __len__(self) -> int:
        self._own()
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        self._check_use()
        return self._batches()

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration.

        Parameters
        ----------
        epoch : int
            The epoch. Naming the one that a loaded state is in the middle of leaves its step as it is.
        """
        self._check_use()
        check_whole("epoch", epoch, 0)
        self._own()
        self._shared_epoch.fill_(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return where the iteration in this process stands: what follows the batch that was handed out last.

        Returns
        -------
        dict
            As `Loader.state_dict` returns it.
        """
        return self._loader.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where another loader or dataset of the same data stood.

        Parameters
        ----------
        state : mapping
            What `state_dict` returned.
        """
        self._loader.load_state_dict(state)
        self._own()
        self._shared_epoch.fill_(self._loader.epoch)

    def _batches(self) -> Generator[Any, None, None]:
        self._own()
        self._loader.set_epoch(int(self._shared_epoch))
        self._shared_epoch += 1
        yield from self._loader

    def _own(self) -> None:
        """Share the epoch with workers of this process alone: ranks that got the dataset from it count apart."""
        if get_worker_info() is None:
            if self._owner != os.getpid():
                self._shared_epoch, self._owner = self._shared_epoch.clone().share_memory_(), os.getpid()
        elif self._owner not in (None, os.getppid()):
            raise ArgumentError("the dataset comes from another process than its DataLoader; make it where it is used")

    def _check_use(self) -> None:
        """Refuse to be shared out or put together once more, as far as the callers tell."""
        worker = get_worker_info()
        if worker is not None and worker.num_workers > 1:
            raise ArgumentError(
                f"num_workers={worker.num_workers} would yield every batch {worker.num_workers} times; pass "
                "num_workers=0 or 1 to the DataLoader, and read_threads= to the loader"
            )
        for frame in _callers():
            kind = frame.f_code.co_qualname.partition(".")[0]
            if kind == "IterableDatasetShard" or (kind == "DataLoaderDispatcher" and self._loader.ranks > 1):
                raise ArgumentError(
                    f"Accelerate would share out the batches of one rank of ranks={self._loader.ranks} once more, and "
                    "samples would get lost; leave it out of accelerator.prepare and iterate over "
                    "loader.on_device(accelerator.device), or give the loader rank=0, ranks=1 and Accelerate "
                    "dispatch_batches=True"
                )
            if frame.f_code.co_qualname == "_IterableDatasetFetcher.__init__" and frame.f_locals.get("auto_collation"):
                raise ArgumentError(
                    "batch_size must be None: the items are whole batches; DataLoader(..., batch_size=None)"
                )

    def __getstate__(self) -> dict[str, Any]:
        loader = self._loader
        if is_in_group():  # a worker that is spawned knows of none, and a rank that is spawned has yet to join one
            loader = loader.on_rank(loader.rank, loader.ranks)
        is_for_worker = any("MultiProcessingDataLoaderIter" in frame.f_code.co_qualname for frame in _callers())
        if is_for_worker:
            self._own()
            return {**self.__dict__, "_loader": loader, "_owner": None}
        return {**self.__dict__, "_loader": loader, "_shared_epoch": int(self._shared_epoch)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._shared_epoch = torch.as_tensor(self._shared_epoch).share_memory_()


def _callers() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back
