"""The loader: samples of a source, in the plan's order, as batches of tensors."""

from __future__ import annotations

import copy as copying
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any, Self

import torch

from dtk.arguments import check_whole
from dtk.errors import ArgumentError
from dtk.loader.dataset import LoaderDataset
from dtk.loader.encoder import Encoder
from dtk.loader.feed import Batch, Feed
from dtk.loader.intake import take_rows, take_windows
from dtk.loader.order import Tail
from dtk.loader.plan import Plan
from dtk.loader.planned import Planned
from dtk.loader.position import Position
from dtk.loader.ranks import check_rank, current_rank
from dtk.loader.state import state_of
from dtk.loader.transfer import as_device
from dtk.memory import parse_nbytes
from dtk.sources import TableSource
from dtk.sources.arrays import ArraySource, Verify
from dtk.sources.window import Window

__all__ = ["Loader"]


class Loader:
    """Iterates over the samples of a table or of grids, shuffled anew in each epoch, in bounded memory.

    Parameters
    ----------
    data : dask.dataframe.DataFrame, xarray.Dataset, str, path, pandas.DataFrame, pyarrow.Table, mapping or Source
        What `dtk.sources.as_source` takes, or grids: variables of a Zarr store as they lie there. Only metadata is
        read before the first iteration.
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
        What encodes the inputs; number and boolean columns are packed into ``"inputs"`` if None. The rows that it was
        cross-fitted to are encoded out of fold, see `in_folds`.
    window : Window, optional
        Makes samples of consecutive rows; a sample is one row if None.
    dim : str, optional
        The dimension that samples of grids lie along. If None the only one that target, weight and `sampling` share,
        or the first one of the biggest variable; refused where others have dimensions that none with it has.
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
        Threads that read; if None, the processor's cores by the ranks of this host, at most 4. Where the footers of
        Parquet files are larger together than 8 MiB and an eighth of `memory`, each beyond 4 keeps about 2 MiB of them
        on top of the plan.
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
    put together as ``"static"``, which has no batch dimension and is read once: one tensor for all batches, which you
    must not change in place unless ``copy=True`` gives each batch its own.

    With a window ``"inputs"``, and whatever else a preparation makes, have an axis for the rows of the history behind
    that of the batch. ``"target"`` has one for the leads if these are several, and ``"known"`` always has. The weight
    is that of the first target's row. The target may be an input too, unless it lies at lead 0, and is one by default,
    of grids if it ends with the same dimensions as the others; times and groups of tables are none by default.

    With `sampling`, an epoch has as many steps as without, but its rows are drawn with replacement and anew in each
    epoch: some come several times and others not at all, so that "every sample once" does not hold. The weights and
    classes of all rows, like the rows that a filter leaves, are known by one pass over these columns: see `count`.
    A batch is a slice of memory that the readers fill again: it is valid until the next one is asked for, unless
    ``copy=True``. Those of a GPU (`on_device`) and those of `to_iterable_dataset` are copies. To leave an iteration, by
    an exception, a ``break`` or Ctrl-C, ends its threads.

    Examples
    --------
    >>> data = {"x": [0.0, 1.0, 2.0, 3.0, 4.0, 5.0], "late": [0, 1, 0, 1, 0, 1]}
    >>> loader = Loader(data, target="late", global_batch_size=2)
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
        dim: str | None = None,
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
        check_whole("global_batch_size", global_batch_size, 1)
        check_whole("seed", seed, 0)
        if not isinstance(shuffle, bool):
            raise ArgumentError(f"shuffle={shuffle!r} must be True or False")
        if tail not in ("trim", "pad"):
            raise ArgumentError(f"tail={tail!r} must be 'trim' or 'pad'")
        if read_threads is not None:
            check_whole("read_threads", read_threads, 1)
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
            "dim": dim,
        }
        if window is None:
            taken = take_rows(data, shuffle=shuffle, verify=verify, **asked)
        else:
            taken = take_windows(data, window, verify=verify, **asked)
        self.encoder = taken.encoder
        arguments = {
            "global_batch_size": int(global_batch_size),
            "shuffle": shuffle,
            "seed": int(seed),
            "tail": tail,
        }
        self._planned = Planned(taken, arguments, parse_nbytes(memory))
        self._position = Position()
        self._feed = Feed(read_threads, copy)
        self._feeds = {(self._feed.device, self._feed.prefetch): self._feed}  # views come and go; their rings stay
        self._rank, self._ranks = rank, ranks

    @property
    def plan(self) -> Plan:
        """What the loader reads, in which order, at what cost.

        Made at the first look: from metadata, after what `count` does if that was not called before.

        Returns
        -------
        Plan
            The same for all ranks.
        """
        return self._planned.plan or self._planned.made(self.ranks)

    @property
    def is_of_grids(self) -> bool:
        """Whether samples are of variables with dimensions, and not rows of a table."""
        return isinstance(self._planned.rows, ArraySource)

    @property
    def is_in_memory(self) -> bool:
        """Whether the data is a table in memory, which travels with the loader."""
        return isinstance(self._planned.rows, TableSource)

    @property
    def in_folds(self) -> bool | None:
        """Whether rows are encoded out of fold.

        Returns
        -------
        bool or None
            True for the rows that `preparation` was cross-fitted to. False for others: these get the encoding of the
            whole fit, and must not be trained on if rows of the fit are among them. None where nothing is cross-fitted.
        """
        return self._planned.taken.in_folds

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
        return self._position.epoch

    @property
    def wait_s(self) -> float:
        """Seconds that iterations waited for data so far, those of views on devices too."""
        return self._position.wait_s

    @property
    def read_nbytes(self) -> int:
        """Bytes on disk of what was read so far, by views on devices too."""
        return self._position.read_nbytes

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
        position = self._position
        epoch, start = position.begin()
        with closing(self._feed.batches(self._planned, position, rank, ranks, epoch, start)) as batches:
            for step, batch in enumerate(batches, start=start):
                collated = batch if self.collate is None else self.collate(batch)
                position.step = step + 1
                yield collated
        position.go_to(epoch + 1)

    def count(self, *, progress: bool = False) -> None:
        """Count what metadata does not tell, by one pass over the columns that do, on the cluster if there is one.

        These are the rows of each chunk below a filter, what its rows weigh in the draw, and where the windows of a
        table begin. Nothing is done where none of it is needed, or where it was done before; what was counted is kept
        on disk, too, for other loaders of the same data. It travels with the loader: ranks never count.

        Parameters
        ----------
        progress : bool
            Whether to show a progress bar.

        Raises
        ------
        ArgumentError
            If the target has too many values to be balanced.
        DataError
            If a row has no weight, class or time, a weight is negative, all are 0, or no window fits.
        """
        self._planned.count(progress=progress)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration.

        Parameters
        ----------
        epoch : int
            The epoch. Naming the one that a loaded state is in the middle of leaves its step as it is.

        Raises
        ------
        ArgumentError
            If the epoch is no whole number, or negative.
        """
        check_whole("epoch", epoch, 0)
        position = self._position
        position.go_to(int(epoch), position.step if position.is_ahead and epoch == position.epoch else 0)

    def read_ahead(self, epoch: int | None) -> None:
        """Name the epoch that comes after the next iteration, or after the one that is under way.

        Its reading begins before that is over, once nothing is left to read of it: threads have nothing else to do, and
        the memory of steps that were taken is free. So the first batch of the epoch is there when it is asked for. No
        batch and no state is another for it.

        Parameters
        ----------
        epoch : int or None
            The epoch. Where it does not come next, what was read of it is given up. None gives it up at once, and is to
            be said where no iteration comes.

        Raises
        ------
        ArgumentError
            If the epoch is no whole number, or negative.
        """
        if epoch is None:
            self._feed.give_up()
        else:
            check_whole("epoch", epoch, 0)
            self._feed.next_epoch = int(epoch)

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
        other = self._copied()
        other._rank, other._ranks = rank, ranks
        if other._planned.plan is not None:
            other._planned.plan = replace(other._planned.plan, ranks=ranks)
        return other

    def on_device(self, device: torch.device | str, *, prefetch: int = 1) -> Self:
        """Return a view whose batches lie on a device.

        Parameters
        ----------
        device : torch.device or str
            For a GPU, the readers fill pinned memory, and a stream of its own copies from there beside the steps.
        prefetch : int
            Batches that are on their way to a GPU ahead of the one that was handed out.

        Returns
        -------
        Loader
            A view: it shares its plan, epoch, step and state with this loader, so that an iteration of either is the
            next epoch. Batches on another device than the CPU stay valid.

        Raises
        ------
        ArgumentError
            If there is no such kind of device, or `prefetch` is negative.

        Examples
        --------
        >>> loader = Loader({"x": [0.0, 1.0, 2.0, 3.0]}, global_batch_size=2).on_device("cpu")
        >>> [batch["inputs"].device.type for batch in loader]
        ['cpu', 'cpu']
        """
        check_whole("prefetch", prefetch, 0)
        other, wanted = copying.copy(self), (as_device(device), prefetch)
        other._feed = self._feeds.setdefault(wanted, replace(self._feed, device=wanted[0], prefetch=prefetch))
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
        >>> loader = Loader({"x": [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]}, global_batch_size=2)
        >>> batches = torch.utils.data.DataLoader(loader.to_iterable_dataset(), batch_size=None)
        >>> [tuple(batch["inputs"].shape) for batch in batches]
        [(2, 1), (2, 1), (2, 1)]
        """
        other = self._copied()
        other._feed.copy = True
        return LoaderDataset(other, self._position.next_epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return where the iteration stands: what follows the batch that was handed out last.

        Returns
        -------
        dict
            Plain values, fit for JSON. The same on all ranks that have taken the same number of steps.
        """
        plan = self.plan  # counts the source's rows where that is needed
        return state_of(self._planned.source, plan, self._position.epoch, self._position.step)

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
            If the data is not what it was, or not where it was: the same files under another path are other data.
        ArgumentError
            If the state is of another version, incomplete or damaged.
        """
        self._planned.load(state, self.ranks)
        self._position.go_to(int(state["epoch"]), int(state["step"]))

    def for_evaluation(self) -> Self:
        """Return a copy that encodes rows as a prediction does, also those of a cross-fit.

        Returns
        -------
        Loader
            At the same epoch and step; `in_folds` is None.
        """
        other = self._copied()
        other._planned = other._planned.without_folds()
        return other

    def _copied(self) -> Self:
        """Return a copy that shares nothing that changes."""
        other = copying.copy(self)
        other._planned, other._position = copying.copy(self._planned), replace(self._position)
        other._feed = replace(self._feed)
        other._feeds = {(other._feed.device, other._feed.prefetch): other._feed}
        return other
