"""The loader: samples of a source, in the plan's order, as batches of tensors."""

from __future__ import annotations

import copy as copying
import os
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any, Final, Self

import numpy as np
import torch

from dtk.errors import ArgumentError
from dtk.loader.dataset import LoaderDataset
from dtk.loader.encoder import Encoder, LabelledEncoder
from dtk.loader.intake import take_rows, take_windows
from dtk.loader.kept import KeptTable
from dtk.loader.order import Tail
from dtk.loader.paddings import Paddings
from dtk.loader.plan import Plan
from dtk.loader.planning import make_plan
from dtk.loader.ranks import check_rank, current_rank
from dtk.loader.reader import Reader
from dtk.loader.ring import Ring
from dtk.loader.sampling import Sampling
from dtk.loader.schedule import make_schedule
from dtk.loader.state import check_state, state_of
from dtk.loader.transfer import as_device, on_device
from dtk.memory import parse_nbytes
from dtk.sources import Source, TableSource
from dtk.sources.arrays import ArraySource, Verify
from dtk.sources.counting import count, with_rows
from dtk.sources.window import Window
from dtk.sources.windows import WindowSource
from dtk.sources.zarr_read import Scratch

__all__ = ["Loader"]

_CACHED_SHARE: Final = 10  # a table of at most a tenth of the memory is encoded once and kept
_MOST_THREADS: Final = 4

Batch = dict[str, torch.Tensor]


class Loader:
    """Iterates over the samples of a table or of grids, shuffled anew in each epoch, in bounded memory.

    Parameters
    ----------
    data : dask.dataframe.DataFrame, xarray.Dataset, str, path, pandas.DataFrame, pyarrow.Table, mapping or Source
        What `dtk.sources.as_source` takes, or variables of a Zarr store as they lie there: the samples are along the
        first dimension of the biggest one. Only metadata is read before the first iteration.
    inputs : sequence of str, optional
        The input columns or variables; all but target and weight if None.
    target : str, optional
        The target column: it becomes int64 if it holds integers or booleans, else float32.
    weight : str, optional
        The column that weighs the samples in the loss; 1 for each if None.
    sampling : str, optional
        How rows are drawn, if not each once: the column of non-negative numbers that their probability is proportional
        to, or ``"balanced"``, which makes the values of the target equally frequent. Such a column is no input unless
        `inputs` names it.
    preparation : Encoder, optional
        What encodes the inputs; number and boolean columns are packed into ``"inputs"`` if None.
    window : Window, optional
        Makes samples of consecutive rows; a sample is one row if None.
    global_batch_size : int
        Samples of a step, over all ranks.
    shuffle : bool
        Whether to shuffle; the order on disk otherwise.
    seed : int
        Seed of the order.
    memory : int or str
        Memory that the loader of a rank may take, in bytes or with a unit.
    tail : {"trim", "pad"}
        Rows that fill no global batch are left out, others in each epoch, or come in a last batch that is padded with
        samples of weight 0.
    rank : int, optional
        The rank that iterates; if None, from the process group, else from ``RANK``, else 0.
    ranks : int, optional
        The number of ranks; if None, from the process group, else from ``WORLD_SIZE``, else 1.
    read_threads : int, optional
        Threads that read; if None, the processor's cores by the ranks of this host, at most 4.
    copy : bool
        Whether a batch stays valid; otherwise only until the next one is asked for.
    collate : callable, optional
        Called with each batch, in the thread that iterates; what it returns is handed out instead. Tensors that it
        keeps or returns stay valid as long as the batch does.
    verify : {"metadata", "list"}
        By what a saved state knows a plain Zarr store again: its metadata, or as well a listing of all objects with
        sizes and times, which takes a while where they are many. Parquet files are known by size, time and footer,
        Icechunk by its snapshot.

    Attributes
    ----------
    encoder : LabelledEncoder
        What makes the arrays of a batch.
    preparation, target, weight, sampling, window, collate : object
        As given.
    wait_s : float
        Seconds that iterations waited for data so far.
    read_nbytes : int
        Bytes on disk of what was read so far.

    Raises
    ------
    ArgumentError
        If an argument cannot work.
    SourceError
        If the data cannot be read chunk by chunk where it lies.
    DataError
        If the data is missing or damaged.

    Notes
    -----
    A batch is a dict of tensors of the same shape on all ranks and in all steps: ``"inputs"`` float32
    ``[batch, columns]`` or what the preparation makes, ``"target"`` if there is one, and ``"weight"`` float32
    ``[batch]``, 0 for padding. The global batches depend on the plan and the epoch, not on the number of ranks.

    ``"inputs"`` of grids are ``[batch, channels, *dimensions]``: the last two dimensions stay, all others become
    channels, and the variables follow each other. Variables without the dimension of the samples are in the same way
    put together as ``"static"``, which has no batch dimension and is read once.

    With a window ``"inputs"``, and whatever else a preparation makes, have an axis for the rows of the history behind
    that of the batch. ``"target"`` has one for the leads if these are several, and ``"known"`` always has. The weight
    is that of the first target's row. The target may be an input too, unless it lies at lead 0, and is one by default;
    times and groups of tables are none by default.

    With `sampling`, an epoch has as many steps as without, but its rows are drawn with replacement and anew in each
    epoch: some come several times and others not at all, so that "every sample once" does not hold. The weights and
    classes of all rows, like the rows that a filter leaves, are known by one pass over these columns: see `count`.
    A batch is a slice of memory that the readers fill again: it is valid until the next one is asked for, unless
    ``copy=True``. Those of a GPU (`on_device`) and those of `to_iterable_dataset` are copies. To leave an iteration, by
    an exception, a ``break`` or Ctrl-C, ends its threads.

    Examples
    --------
    >>> loader = Loader({"x": np.arange(6.0), "late": np.arange(6) % 2}, target="late", global_batch_size=2)
    >>> [tuple(batch["inputs"].shape) for batch in loader]
    [(2, 1), (2, 1), (2, 1)]
    """

    def __init__(
        self,
        data: Any,
        *,
        inputs: Sequence[str] | None = None,
        target: str | None = None,
        weight: str | None = None,
        sampling: str | None = None,
        preparation: Encoder | None = None,
        window: Window | None = None,
        global_batch_size: int = 4096,
        shuffle: bool = True,
        seed: int = 0,
        memory: int | str = "1 GiB",
        tail: Tail = "trim",
        rank: int | None = None,
        ranks: int | None = None,
        read_threads: int | None = None,
        copy: bool = False,
        collate: Callable[[Batch], Any] | None = None,
        verify: Verify = "metadata",
    ) -> None:
        for name, value, least in (("global_batch_size", global_batch_size, 1), ("seed", seed, 0)):
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
                raise ArgumentError(f"{name}={value!r} must be a whole number, at least {least}")
        if tail not in ("trim", "pad"):
            raise ArgumentError(f"tail={tail!r} must be 'trim' or 'pad'")
        if read_threads is not None and read_threads < 1:
            raise ArgumentError(f"read_threads={read_threads!r} must be at least 1")
        if verify not in ("metadata", "list"):
            raise ArgumentError(f"verify={verify!r} must be 'metadata' or 'list'")
        if collate is not None and not callable(collate):
            raise ArgumentError(f"collate={collate!r} must be callable: it is given each batch")
        check_rank(rank, ranks)
        self.preparation, self.target, self.weight, self.sampling = preparation, target, weight, sampling
        self.window, self.collate = window, collate
        asked: dict[str, Any] = {
            "inputs": inputs,
            "target": target,
            "weight": weight,
            "preparation": preparation,
            "sampling": sampling,
        }
        if window is None:
            taken = take_rows(data, shuffle=shuffle, verify=verify, **asked)
        else:
            taken = take_windows(data, window, verify=verify, **asked)
        self.encoder, self._source, self._rule = taken.encoder, taken.source, taken.rule
        self._counting = taken.counting  # what `count` is to read
        self._sampling: Sampling | None = None
        self._arguments = {
            "global_batch_size": int(global_batch_size),
            "shuffle": bool(shuffle),
            "seed": int(seed),
            "tail": tail,
        }
        self._memory_nbytes = parse_nbytes(memory)
        self._rank, self._ranks = rank, ranks
        self._read_threads, self._copy = read_threads, copy
        self._device, self._prefetch = torch.device("cpu"), 1
        self._plan: Plan | None = None
        self._ring: Ring | None = None
        self._kept: KeptTable | None = None
        self._scratches: list[Scratch] = []
        self._shared: Batch = {}
        self._epoch = self._step = 0
        self._is_ahead = True  # whether the next iteration starts at (epoch, step), and not with the epoch after
        self.wait_s = 0.0
        self.read_nbytes = 0

    @property
    def plan(self) -> Plan:
        """What the loader reads, in which order, at what cost.

        Made at the first look: from metadata, after what `count` does if that was not called before.

        Returns
        -------
        Plan
            The same for all ranks.
        """
        if self._plan is None:
            self.count()
            self._plan = self._make_plan()
        return self._plan

    @property
    def is_of_grids(self) -> bool:
        """Whether samples are of variables with dimensions, and not rows of a table."""
        return isinstance(self._rows, ArraySource)

    @property
    def is_in_memory(self) -> bool:
        """Whether the data is a table in memory, which travels with the loader."""
        return isinstance(self._rows, TableSource)

    @property
    def rank(self) -> int:
        """The rank that iterates."""
        return self._rank if self._rank is not None else current_rank()[0]

    @property
    def ranks(self) -> int:
        """The number of ranks."""
        return self._ranks if self._ranks is not None else current_rank()[1]

    @property
    def epoch(self) -> int:
        """The epoch of the next iteration, or of the one that is under way."""
        return self._epoch

    @property
    def num_samples(self) -> int:
        """Samples of an epoch, over all ranks."""
        return self.plan.num_samples

    def __len__(self) -> int:
        return self.plan.num_steps

    def __iter__(self) -> Iterator[Any]:
        plan, rank, ranks = self.plan, self.rank, self.ranks
        check_rank(rank, ranks)
        plan.check(ranks)
        if not self._is_ahead:
            self._epoch, self._step = self._epoch + 1, 0
        self._is_ahead = False
        epoch, start = self._epoch, self._step
        batches = self._from_memory if self._is_small(plan) else self._from_disk
        static = {name: tensor.to(self._device) for name, tensor in self._static().items()}
        with (
            closing(batches(plan, epoch, rank, ranks, start)) as running,
            closing(on_device(running, self._device, self._prefetch)) as moved,
        ):
            for step, batch in enumerate(moved, start=start):
                whole = batch | static
                collated = whole if self.collate is None else self.collate(whole)
                self._step = step + 1
                yield collated
        self._epoch, self._step, self._is_ahead = epoch + 1, 0, True

    def count(self, *, progress: bool = False) -> None:
        """Count what metadata does not tell, by one pass over the columns that do, on the cluster if there is one.

        These are the rows of each chunk below a filter, and what its rows weigh in the draw. Nothing is done where
        neither is needed, or where it was done before; what was counted is kept on disk, too, for other loaders of the
        same data. It travels with the loader: ranks never count.

        Parameters
        ----------
        progress : bool
            Whether to show a progress bar.

        Raises
        ------
        ArgumentError
            If the target has too many values to be balanced.
        DataError
            If a row has no weight or class, a weight is negative, or all are 0.
        """
        if isinstance(self._source, WindowSource):
            self._source = self._source.counted()
        if self._counting is None:
            return
        if self._rule is None:
            counts = count(self._counting, progress=progress)
        else:
            counts = self._rule.count(self._counting, progress=progress)
            self._sampling = Sampling(self._rule, counts)
        if self._source.chunk_rows is None:
            assert not isinstance(self._source, ArraySource)
            self._source = with_rows(self._source, counts.chunk_rows)
        self._counting = None

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration.

        Parameters
        ----------
        epoch : int
            The epoch. Naming the one that a loaded state is in the middle of leaves its step as it is.

        Raises
        ------
        ArgumentError
            If the epoch is negative.
        """
        if epoch < 0:
            raise ArgumentError(f"epoch={epoch!r} must be at least 0")
        if not (self._is_ahead and epoch == self._epoch):
            self._epoch, self._step = epoch, 0
        self._is_ahead = True

    def on_rank(self, rank: int, ranks: int) -> Self:
        """Return a copy that iterates as one rank of several.

        Parameters
        ----------
        rank : int
            The rank.
        ranks : int
            The number of ranks.

        Returns
        -------
        Loader
            At the same epoch and step; it shares nothing that changes.

        Raises
        ------
        ArgumentError
            If there is no such rank.
        """
        check_rank(rank, ranks)
        other = copying.copy(self)
        other._rank, other._ranks = rank, ranks
        other._plan = None if self._plan is None else replace(self._plan, ranks=ranks)
        return other

    def on_device(self, device: torch.device | str, *, prefetch: int = 1) -> Self:
        """Return a copy whose batches lie on a device.

        Parameters
        ----------
        device : torch.device or str
            For a GPU, the readers fill pinned memory, and a stream of its own copies from there beside the steps.
        prefetch : int
            Batches that are on their way to a GPU ahead of the one that was handed out.

        Returns
        -------
        Loader
            At the same epoch and step; it shares nothing that changes, so iterate over the same copy in all epochs.
            Batches on another device than the CPU stay valid.

        Raises
        ------
        ArgumentError
            If there is no such kind of device, or `prefetch` is negative.

        Examples
        --------
        >>> loader = Loader({"x": np.arange(4.0)}, global_batch_size=2).on_device("cpu")
        >>> [batch["inputs"].device.type for batch in loader]
        ['cpu', 'cpu']
        """
        if isinstance(prefetch, bool) or not isinstance(prefetch, int) or prefetch < 0:
            raise ArgumentError(f"prefetch={prefetch!r} must be a whole number, at least 0")
        other = copying.copy(self)
        other._device, other._prefetch = as_device(device), prefetch
        return other

    def to_iterable_dataset(self) -> LoaderDataset:
        """Return a view for what takes PyTorch's datasets, such as its `DataLoader`.

        Returns
        -------
        LoaderDataset
            Its items are whole batches, and copies, so that they may be kept: for
            ``DataLoader(dataset, batch_size=None)``. It begins at this loader's epoch and step, and has a state of its
            own.

        Examples
        --------
        >>> loader = Loader({"x": np.arange(6.0)}, global_batch_size=2)
        >>> batches = torch.utils.data.DataLoader(loader.to_iterable_dataset(), batch_size=None)
        >>> [tuple(batch["inputs"].shape) for batch in batches]
        [(2, 1), (2, 1), (2, 1)]
        """
        other = copying.copy(self)
        other._copy = True
        return LoaderDataset(other, self._epoch if self._is_ahead else self._epoch + 1)

    def state_dict(self) -> dict[str, Any]:
        """Return where the iteration stands: what follows the batch that was handed out last.

        Returns
        -------
        dict
            Plain values, fit for JSON. The same on all ranks that have taken the same number of steps.
        """
        plan = self.plan  # counts the source's rows where that is needed
        return state_of(self._source, plan, self._epoch, self._step)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where another loader of the same data stood, on any number of ranks.

        Parameters
        ----------
        state : mapping
            What `state_dict` returned. Its order is taken as it is; arguments of this loader that differ are ignored,
            with a warning.

        Raises
        ------
        DataError
            If the data is not what it was.
        ArgumentError
            If the state is of another version, incomplete or damaged.
        """
        plan = self.plan
        check_state(state, self._source, plan)
        for name, value in self._arguments.items():
            if state["order"][name] != value:
                warnings.warn(
                    f"{name}={value!r} is ignored: the state goes on with {state['order'][name]!r}", stacklevel=2
                )
        plan = self._make_plan(dict(state["order"]))
        if state["step"] > plan.num_steps:
            raise ArgumentError(f"state is at step {state['step']} of epoch {state['epoch']}, where there is none")
        self._plan, self._ring = plan, None
        self._epoch, self._step, self._is_ahead = state["epoch"], state["step"], True

    def __getstate__(self) -> dict[str, Any]:
        self.count()  # once, and not in each rank
        return {**self.__dict__, "_ring": None, "_kept": None, "_scratches": [], "_shared": {}}

    def __copy__(self) -> Self:
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__, _ring=None, _scratches=[])
        return other

    def _make_plan(self, parameters: dict[str, Any] | None = None) -> Plan:
        return make_plan(
            self._source,
            self.encoder,
            memory_limit_nbytes=self._memory_nbytes,
            parameters=parameters,
            sampling=self._sampling,
            ranks=self.ranks,
            **self._arguments,  # type: ignore[arg-type]
        )

    def _from_disk(self, plan: Plan, epoch: int, rank: int, ranks: int, start: int) -> Generator[Batch, None, None]:
        order, ring_steps, width = plan.order, plan.ring_steps(ranks), plan.order.batch_width(ranks)
        ring, self._ring = self._ring, None  # an iteration beside this one makes its own
        if ring is None or (ring.num_steps, ring.width) != (ring_steps, width):
            ring = Ring(plan.fields, ring_steps, width, pinned=self._device.type == "cuda")
        schedule = make_schedule(
            order, epoch, rank, ranks, ring_steps=ring_steps, lead_steps=plan.lead_steps(ranks), start=start
        )
        reader = Reader(
            source=self._source,
            encoder=self.encoder,
            order=order,
            schedule=schedule,
            ring=ring,
            epoch=epoch,
            rank=rank,
            ranks=ranks,
            start=start,
            num_threads=self._read_threads or _default_threads(),
            decode_nbytes=plan.decode_nbytes,
            chunk_nbytes=plan.chunk_nbytes,
            slice_rows=plan.slice_rows,
            fetch_nbytes=plan.fetch_nbytes,
            scratches=self._scratches,
            sampling=self._sampling,
        )
        counted_nbytes = 0
        paddings = Paddings(order, epoch, rank, ranks)
        try:
            for step in range(start, plan.num_steps):
                began = time.perf_counter()
                reader.wait_for(step)
                self.wait_s += time.perf_counter() - began
                self.read_nbytes += reader.read_nbytes - counted_nbytes
                counted_nbytes = reader.read_nbytes
                batch = ring.batch(step, paddings.of(step))
                is_copied = self._copy and self._device.type == "cpu"  # on their way elsewhere they are anyway
                yield {name: tensor.clone() for name, tensor in batch.items()} if is_copied else batch
        finally:
            reader.close()
        self._ring = ring

    def _from_memory(self, plan: Plan, epoch: int, rank: int, ranks: int, start: int) -> Generator[Batch, None, None]:
        began = time.perf_counter()
        if self._kept is None:
            assert isinstance(self._source, TableSource)
            assert isinstance(self.encoder, LabelledEncoder)
            self._kept = KeptTable(self._source, self.encoder)
        batches = self._kept.batches(plan.order, self._sampling, epoch, rank, ranks, start)
        self.wait_s += time.perf_counter() - began
        yield from batches

    def _static(self) -> Batch:
        """Return what all samples share; read at the first iteration."""
        if isinstance(self._rows, ArraySource) and not self._shared:
            assert not isinstance(self.encoder, LabelledEncoder)
            static = self.encoder.static(self._rows)
            self._shared = {} if static is None else {"static": torch.from_numpy(static)}
        return self._shared

    @property
    def _rows(self) -> Source | ArraySource:
        """The source of the rows, below windows."""
        return self._source.base if isinstance(self._source, WindowSource) else self._source

    def _is_small(self, plan: Plan) -> bool:
        index_nbytes = 8 if self._sampling is None else 64
        nbytes = plan.order.num_rows * (plan.row_nbytes + index_nbytes)
        return isinstance(self._source, TableSource) and nbytes * _CACHED_SHARE <= self._memory_nbytes


def _default_threads() -> int:
    """Return the cores of this process's share, at most a few: more would wait for each other."""
    asked = os.environ.get("DTK_READ_THREADS")
    if asked is not None:
        return max(1, int(asked))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(_MOST_THREADS, cores // max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))))
