"""The loader: samples of a source, in the plan's order, as batches of tensors."""

from __future__ import annotations

import copy as copying
import os
import time
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, Final, Self

import numpy as np
import torch
from numpy.typing import NDArray

from dtk.errors import ArgumentError
from dtk.loader.encoder import Encoder, LabelledEncoder, make_encoder
from dtk.loader.grids import GridEncoder
from dtk.loader.order import Tail
from dtk.loader.paddings import Paddings
from dtk.loader.plan import Plan
from dtk.loader.planning import make_plan
from dtk.loader.reader import Reader
from dtk.loader.ring import Ring, pad
from dtk.loader.schedule import make_schedule
from dtk.loader.state import check_state, state_of
from dtk.memory import parse_nbytes
from dtk.sources import Source, TableSource, as_source, counted
from dtk.sources.arrays import ArraySource, array_source
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
    preparation : Encoder, optional
        What encodes the inputs; number and boolean columns are packed into ``"inputs"`` if None.
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
        The rank that iterates; from the gang (``RANK``) or 0 if None.
    ranks : int, optional
        The number of ranks; from the gang (``WORLD_SIZE``) or 1 if None.
    read_threads : int, optional
        Threads that read; if None, the processor's cores by the ranks of this host, at most 4.
    copy : bool
        Whether a batch stays valid; otherwise only until the next one is asked for.

    Attributes
    ----------
    encoder : LabelledEncoder
        What makes the arrays of a batch.
    preparation, target, weight : object
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
        preparation: Encoder | None = None,
        global_batch_size: int = 4096,
        shuffle: bool = True,
        seed: int = 0,
        memory: int | str = "1 GiB",
        tail: Tail = "trim",
        rank: int | None = None,
        ranks: int | None = None,
        read_threads: int | None = None,
        copy: bool = False,
    ) -> None:
        for name, value, least in (("global_batch_size", global_batch_size, 1), ("seed", seed, 0)):
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
                raise ArgumentError(f"{name}={value!r} must be a whole number, at least {least}")
        if tail not in ("trim", "pad"):
            raise ArgumentError(f"tail={tail!r} must be 'trim' or 'pad'")
        if read_threads is not None and read_threads < 1:
            raise ArgumentError(f"read_threads={read_threads!r} must be at least 1")
        _check_rank(rank, ranks)
        self.preparation, self.target, self.weight = preparation, target, weight
        self.encoder: LabelledEncoder | GridEncoder
        self._source: Source | ArraySource
        arrays = array_source(data)
        if arrays is not None:
            if preparation is not None:
                raise ArgumentError(f"preparation={preparation!r} is for tables; arrays are taken as they are")
            self._source = arrays
            self.encoder = GridEncoder(arrays, inputs=inputs, target=target, weight=weight)
        else:
            source = as_source(data)
            self.encoder = make_encoder(
                source.schema, inputs=inputs, target=target, weight=weight, preparation=preparation
            )
            columns = list(self.encoder.columns)
            is_narrow = isinstance(data, Source) or columns == source.schema.names
            self._source = source if is_narrow else as_source(data, columns)
        self._arguments = {
            "global_batch_size": int(global_batch_size),
            "shuffle": bool(shuffle),
            "seed": int(seed),
            "tail": tail,
        }
        self._memory_nbytes = parse_nbytes(memory)
        self._rank, self._ranks = rank, ranks
        self._read_threads, self._copy = read_threads, copy
        self._plan: Plan | None = None
        self._ring: Ring | None = None
        self._encoded: dict[str, NDArray[Any]] | None = None
        self._scratches: list[Scratch] = []
        self._shared: Batch = {}
        self._epoch = self._step = 0
        self._is_ahead = True  # whether the next iteration starts at (epoch, step), and not with the epoch after
        self.wait_s = 0.0
        self.read_nbytes = 0

    @property
    def plan(self) -> Plan:
        """What the loader reads, in which order, at what cost.

        Made at the first look: from metadata, or by one pass over the filter's columns where a row filter hides how
        many rows there are.

        Returns
        -------
        Plan
            The same for all ranks.
        """
        if self._plan is None:
            if not isinstance(self._source, ArraySource):
                self._source = counted(self._source)
            self._plan = self._make_plan()
        return self._plan

    @property
    def is_of_grids(self) -> bool:
        """Whether samples are of variables with dimensions, and not rows of a table."""
        return isinstance(self._source, ArraySource)

    @property
    def is_in_memory(self) -> bool:
        """Whether the data is a table in memory, which travels with the loader."""
        return isinstance(self._source, TableSource)

    @property
    def rank(self) -> int:
        """The rank that iterates."""
        return self._rank if self._rank is not None else int(os.environ.get("RANK", "0"))

    @property
    def ranks(self) -> int:
        """The number of ranks."""
        return self._ranks if self._ranks is not None else int(os.environ.get("WORLD_SIZE", "1"))

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

    def __iter__(self) -> Iterator[Batch]:
        plan, rank, ranks = self.plan, self.rank, self.ranks
        _check_rank(rank, ranks)
        plan.check(ranks)
        if not self._is_ahead:
            self._epoch, self._step = self._epoch + 1, 0
        self._is_ahead = False
        epoch, start = self._epoch, self._step
        batches = self._from_memory if self._is_small(plan) else self._from_disk
        static = self._static()
        with closing(batches(plan, epoch, rank, ranks, start)) as running:
            for step, batch in enumerate(running, start=start):
                self._step = step + 1
                yield batch | static
        self._epoch, self._step, self._is_ahead = epoch + 1, 0, True

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
        _check_rank(rank, ranks)
        other = copying.copy(self)
        other._rank, other._ranks = rank, ranks
        return other

    def state_dict(self) -> dict[str, Any]:
        """Return where the iteration stands: what follows the batch that was handed out last.

        Returns
        -------
        dict
            Plain values, fit for JSON. The same on all ranks that have taken the same number of steps.
        """
        return state_of(self.plan, self._epoch, self._step)

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
            If the state is of another version, or incomplete.
        """
        check_state(state, self.plan)
        for name, value in self._arguments.items():
            if state["order"][name] != value:
                warnings.warn(
                    f"{name}={value!r} is ignored: the state goes on with {state['order'][name]!r}", stacklevel=2
                )
        plan = self._make_plan(dict(state["order"]))
        if not 0 <= state["step"] <= plan.num_steps or state["epoch"] < 0:
            raise ArgumentError(f"state is at step {state['step']} of epoch {state['epoch']}, where there is none")
        self._plan, self._ring = plan, None
        self._epoch, self._step, self._is_ahead = int(state["epoch"]), int(state["step"]), True

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_ring": None, "_encoded": None, "_scratches": [], "_shared": {}}

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
            **self._arguments,  # type: ignore[arg-type]
        )

    def _from_disk(self, plan: Plan, epoch: int, rank: int, ranks: int, start: int) -> Generator[Batch, None, None]:
        order, ring_steps, width = plan.order, plan.ring_steps(ranks), plan.order.batch_width(ranks)
        ring, self._ring = self._ring, None  # an iteration beside this one makes its own
        if ring is None or (ring.num_steps, ring.width) != (ring_steps, width):
            ring = Ring(plan.fields, ring_steps, width)
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
            fetch_nbytes=plan.fetch_nbytes,
            scratches=self._scratches,
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
                yield {name: tensor.clone() for name, tensor in batch.items()} if self._copy else batch
        finally:
            reader.close()
        self._ring = ring

    def _from_memory(self, plan: Plan, epoch: int, rank: int, ranks: int, start: int) -> Generator[Batch, None, None]:
        began = time.perf_counter()
        if self._encoded is None:
            assert isinstance(self._source, TableSource)
            assert isinstance(self.encoder, LabelledEncoder)
            parts = [
                self.encoder.encode(self._source.read(chunk, list(self.encoder.columns)))
                for chunk in range(plan.num_chunks)
            ]
            self._encoded = {name: np.concatenate([part[name] for part in parts]) for name in plan.fields}
        rows_of_steps = plan.order.batch_rows(epoch, rank, ranks, start)
        self.wait_s += time.perf_counter() - began
        for rows in rows_of_steps:
            batch = {name: values.take(rows, axis=0, mode="clip") for name, values in self._encoded.items()}
            if rows.min() < 0:
                pad(batch, rows < 0)
            yield {name: torch.from_numpy(values) for name, values in batch.items()}

    def _static(self) -> Batch:
        """Return what all samples share; read at the first iteration."""
        if isinstance(self._source, ArraySource) and isinstance(self.encoder, GridEncoder) and not self._shared:
            static = self.encoder.static(self._source)
            self._shared = {} if static is None else {"static": torch.from_numpy(static)}
        return self._shared

    def _is_small(self, plan: Plan) -> bool:
        index_nbytes = 8
        nbytes = plan.order.num_rows * (plan.row_nbytes + index_nbytes)
        return isinstance(self._source, TableSource) and nbytes * _CACHED_SHARE <= self._memory_nbytes


def _check_rank(rank: int | None, ranks: int | None) -> None:
    if (rank is None) != (ranks is None):
        raise ArgumentError(f"rank={rank!r} and ranks={ranks!r} must be given together, or neither")
    if rank is not None and ranks is not None and not 0 <= rank < ranks:
        raise ArgumentError(f"rank={rank!r} must be at least 0 and less than ranks={ranks!r}")


def _default_threads() -> int:
    """Return the cores of this process's share, at most a few: more would wait for each other."""
    asked = os.environ.get("DTK_READ_THREADS")
    if asked is not None:
        return max(1, int(asked))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(_MOST_THREADS, cores // max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))))
