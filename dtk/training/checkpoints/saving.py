"""Taking checkpoints while the training goes on, and finding the way back to one.

The tensors are copied at the step, and written in the background by `torch.distributed.checkpoint`, each rank its part,
as safetensors: nothing is pickled, and any number of ranks can read them again. All else is JSON. What goes to an
object store is written to a temporary file of this machine first, and comes back by way of one.

All ranks take part in all that is done here, and all of them learn of an error on one: none waits for another that has
given up. Only where a rank is gone do the others see a broken connection, which ends the gang.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

from safetensors.torch import save_file
from torch import Tensor, distributed
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException

from dtk.errors import CheckpointError, DtkError
from dtk.training.checkpoints.directory import Checkpoint, CheckpointDirectory, Manifest, file_digest

__all__ = ["Saver"]

FAILURES: Final = 3
LOOK_S: Final = 10.0  # what one host has written, another may see a little later
LOOK_POLL_S: Final = 0.25

Result = TypeVar("Result")


class _WriteError(Exception):
    """A rank could not do its part; all ranks raise it, with the same text."""


class _GangError(Exception):
    """The ranks lost each other; its cause says how."""


class Saver:
    """Writes and reads the checkpoints of one rank, together with the others.

    Parameters
    ----------
    checkpoint : Checkpoint
        Where, how often, how many.
    rank, ranks : int
        This process's number, and how many there are.
    hang_timeout_s : float
        Seconds after which a rank that does not take part counts as hung.
    """

    def __init__(self, checkpoint: Checkpoint, rank: int, ranks: int, *, hang_timeout_s: float = 300.0) -> None:
        self._directory = CheckpointDirectory(checkpoint.path, checkpoint.storage_options)
        self._checkpoint = checkpoint
        self._rank, self._ranks = rank, ranks
        self._group = None
        if ranks > 1:  # without it, gloo would wait for half an hour
            self._group = distributed.new_group(backend="gloo", timeout=timedelta(seconds=hang_timeout_s))
        self._staged: dict[str, Tensor] = {}
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self._faults: dict[str, str] = {}
        self._failures = 0

    @property
    def is_writing(self) -> bool:
        """Whether this rank still writes, or waits for others that do."""
        return self._thread is not None and self._thread.is_alive()

    def claim(self) -> tuple[int, list[Manifest]]:
        """Begin: rank 0 takes the directory, and all see what it holds.

        Returns
        -------
        int
            The number of this launch.
        list of Manifest
            The checkpoints there are, from the last one to the first.

        Raises
        ------
        CheckpointError
            If the directory cannot be had, or is not the same one on all ranks.
        """
        try:
            incarnation, (manifests, self._faults) = self._on_rank_0(self._claim)
        except _WriteError as error:
            raise CheckpointError(
                f"checkpoint={self._checkpoint.path!r} cannot be written: {error}; give another directory"
            ) from None
        missing = [rank for rank, is_there in enumerate(self._on_all(lambda: self._sees(incarnation))) if not is_there]
        if missing:
            raise CheckpointError(
                f"checkpoint={self._checkpoint.path!r} is not shared: what rank 0 wrote there, rank "
                f"{', '.join(map(str, missing))} does not find; give a directory that all workers share"
            )
        return incarnation, manifests

    def load_last(self, manifests: list[Manifest], restore: Callable[[Manifest, Path], None]) -> Manifest | None:
        """Go on from the last checkpoint that is as it was written; all ranks look together, each at a share of it.

        Parameters
        ----------
        manifests : list of Manifest
            From `claim`.
        restore : callable
            ``restore(manifest, path)`` goes on from the files at a path.

        Returns
        -------
        Manifest or None
            The one that was taken; None if there are none. Those after it are damaged: they are removed, with a
            warning.

        Raises
        ------
        CheckpointError
            If none is whole.
        """
        faults = dict(self._faults)
        for manifest in manifests:
            with self._folder(manifest.name) as path:
                found = self._on_all(lambda one=manifest, at=path: self._look(one, at))  # type: ignore[misc]
                fault = next((fault for fault in found if fault), "")
                if not fault:
                    restore(manifest, path)
                    self._on_rank_0(lambda: self._pass_over(faults))
                    return manifest
            faults[manifest.name] = fault
        if faults:
            raise CheckpointError(
                f"no checkpoint in {self._checkpoint.path!r} is whole: {'; '.join(faults.values())}; give another "
                "directory to begin anew"
            )
        return None

    def load(self, path: Path, tensors: dict[str, Tensor]) -> None:
        """Read tensors of a checkpoint into those that are given.

        Parameters
        ----------
        path : pathlib.Path
            Where its files are.
        tensors : dict of str to Tensor
            By name; changed in place.

        Raises
        ------
        CheckpointError
            If they cannot be read.
        """
        reader = dcp.HuggingFaceStorageReader(str(path))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is")  # one rank alone has no group
            try:
                dcp.load(tensors, storage_reader=reader, process_group=self._group, no_dist=self._group is None)
            except CheckpointException as error:  # it is no Exception, and nobody would expect it
                raise CheckpointError(f"the checkpoint in {str(path)!r} cannot be read: {_first(error)}") from None

    def save(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Take a checkpoint: copy now, write in the background; all ranks call it before the same step.

        Parameters
        ----------
        step : int
            The step that comes next.
        tensors : mapping of str to Tensor
            By name: the same on all ranks, or a rank's part of it.
        state : mapping
            All else, in types of JSON; rank 0's counts.
        """
        self.wait()
        self._stage(tensors)
        copied = json.loads(json.dumps(state)) if self._rank == 0 else {}  # the loop goes on, and changes it
        self._thread = threading.Thread(target=self._write, args=(step, copied), name="dtk-checkpoint")
        self._thread.start()

    def wait(self, *, is_last: bool = False) -> None:
        """Wait until the checkpoint that is being written is published.

        Parameters
        ----------
        is_last : bool
            Whether none comes after it, so that a failure must be an error.

        Raises
        ------
        CheckpointError
            If the directory was taken over, or several in a row could not be written.
        """
        self.settle()
        error, self._error = self._error, None
        if error is None:
            return
        if isinstance(error, _GangError) and error.__cause__ is not None:
            raise error.__cause__
        if isinstance(error, CheckpointError):
            raise error
        self._failures += 1
        text = f"the checkpoint could not be written to {self._checkpoint.path!r}: {error}"
        if is_last or self._failures >= FAILURES:
            raise CheckpointError(f"{text}; those before it are whole") from error
        if self._rank == 0:
            warnings.warn(f"{text}; the training goes on, and tries again at the next one", stacklevel=2)

    def settle(self) -> None:
        """Wait until nothing is being written, however that went."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _claim(self) -> tuple[int, tuple[list[Manifest], dict[str, str]]]:
        return self._directory.claim(self._checkpoint.training), self._directory.published()

    def _sees(self, incarnation: int) -> bool:
        end = time.monotonic() + LOOK_S
        while not self._directory.sees_claim(incarnation):
            if time.monotonic() >= end:
                return False
            time.sleep(LOOK_POLL_S)
        return True

    def _pass_over(self, faults: Mapping[str, str]) -> None:
        for name, fault in faults.items():
            warnings.warn(f"{fault}; the checkpoint before it is taken instead", stacklevel=2)
            self._directory.remove(name)

    @contextlib.contextmanager
    def _folder(self, name: str) -> Iterator[Path]:
        """Give the directory of this machine in which a checkpoint's files are read and written."""
        if self._directory.shelf.is_local:
            yield self._directory.shelf.local(name)
            return
        with tempfile.TemporaryDirectory(prefix="dtk-checkpoint-", ignore_cleanup_errors=True) as folder:
            yield Path(folder)

    def _look(self, manifest: Manifest, path: Path) -> str:
        """Fetch a checkpoint's files where they are far, and say what is wrong with this rank's share of them."""
        shelf, names = self._directory.shelf, sorted(manifest.files)
        if shelf.is_local:
            names = names[self._rank :: self._ranks]
        else:
            for name in names:
                with contextlib.suppress(FileNotFoundError):  # `damage` says so
                    shelf.get(f"{manifest.name}/{name}", path / name)
        return self._directory.damage(manifest, names, path)

    def _stage(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy into the memory of the copy before, where it fits."""
        for name in self._staged.keys() - tensors.keys():
            del self._staged[name]
        for name, tensor in tensors.items():
            kept = self._staged.get(name)
            if kept is not None and kept.shape == tensor.shape and kept.dtype == tensor.dtype:
                kept.copy_(tensor.detach())
            else:
                self._staged[name] = tensor.detach().to("cpu", copy=True)

    def _write(self, step: int, state: dict[str, Any]) -> None:
        name = ""
        try:
            name = self._on_rank_0(lambda: self._directory.begin(step))
            files = self._write_files(name)
            self._on_rank_0(lambda: self._directory.publish(step, files, state))
            self._failures, name = 0, ""  # it counts, whatever follows
            self._on_rank_0(self._prune)
        except Exception as error:  # told at the next checkpoint, or at the end
            self._error = error
            if name and not isinstance(error, _GangError):
                self._give_up(name)

    def _write_files(self, name: str) -> dict[str, list[Any]]:
        """Write this rank's tensors; give the bytes and digests of the files of all ranks."""
        with self._folder(name) as path:
            self._write_tensors(path)
            told = self._on_all(lambda: self._bring(path, name))
        return {name: facts for one in told for name, facts in one.items()}

    def _write_tensors(self, path: Path) -> None:
        if self._group is None:  # dcp.save would warn, and warnings are no matter of a thread
            file = path / "shard-00001-model-00001-of-00001.safetensors"
            save_file(self._staged, file)
            with file.open("rb") as written:
                os.fsync(written.fileno())
            return
        writer = dcp.HuggingFaceStorageWriter(str(path), save_distributed=True)
        try:
            dcp.save(self._staged, storage_writer=writer, process_group=self._group)
        except CheckpointException as error:  # all ranks have it; it is no Exception, and would end the thread
            raise _WriteError(_first(error)) from None
        except Exception as error:
            raise _GangError from error

    def _bring(self, path: Path, name: str) -> dict[str, list[Any]]:
        """Digest the files that this rank has written, and bring them to where they belong."""
        shelf, told = self._directory.shelf, {}
        for one in path.glob(f"shard-{self._rank + 1:05d}-*.safetensors"):
            told[one.name] = [one.stat().st_size, file_digest(one)]
            if not shelf.is_local:
                shelf.put(one, f"{name}/{one.name}")
        return told

    def _prune(self) -> None:
        with contextlib.suppress(OSError):  # what cannot be removed now is so the next time
            self._directory.prune(self._checkpoint.keep)

    def _give_up(self, name: str) -> None:
        """Remove what is half written, once nobody writes to it: it may be what fills the disk."""
        with contextlib.suppress(_GangError, _WriteError):
            self._on_rank_0(lambda: self._directory.remove(name))

    def _on_rank_0(self, call: Callable[[], Result]) -> Result:
        """Do something on rank 0, and give all ranks what came of it, or its error."""
        found: list[Any] = self._on_all(call if self._rank == 0 else lambda: None)
        return found[0]  # type: ignore[no-any-return]

    def _on_all(self, call: Callable[[], Result]) -> list[Result]:
        """Do something on all ranks, and give all what came of it, by rank, or the first one's error."""
        told: tuple[Any, DtkError | str | None]
        try:
            told = (call(), None)
        except DtkError as error:
            told = (None, error)
        except Exception as error:
            told = (None, f"rank {self._rank}: {type(error).__name__}: {error}")
        found: list[Any] = [told]
        if self._group is not None:
            found = [None] * self._ranks
            try:
                distributed.all_gather_object(found, told, group=self._group)
            except Exception as error:
                raise _GangError from error
        for _, failure in found:
            if failure is not None:
                raise failure if isinstance(failure, DtkError) else _WriteError(failure)
        return [value for value, _ in found]


def _first(error: CheckpointException) -> str:
    """Say what went wrong on one of the ranks."""
    rank, failure = next(iter(error.failures.items()))
    return f"rank {rank}: {type(failure[0]).__name__}: {failure[0]}"
