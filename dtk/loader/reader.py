"""Threads that decode chunks and scatter their rows into the ring, just ahead of the consumer."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from dtk.errors import DataError, FetchError, NotFoundError
from dtk.loader.ahead import Ahead, give_up
from dtk.loader.encoder import LabelledEncoder
from dtk.loader.grids import GridEncoder
from dtk.loader.order import Order
from dtk.loader.plan import streamed
from dtk.loader.ring import Ring
from dtk.loader.sampling import EpochDraw, Sampling
from dtk.loader.schedule import Piece, Read, Schedule
from dtk.loader.segments import Integers
from dtk.loader.streams import Streams
from dtk.loader.windows import WindowEncoder
from dtk.sources.arrays import ArraySource
from dtk.sources.parquet import ParquetSource
from dtk.sources.row_numbers import RowNumbers
from dtk.sources.window import WindowBlock
from dtk.sources.windows import WindowSource
from dtk.sources.zarr_read import Scratch

if TYPE_CHECKING:
    from dtk.sources import Source
    from dtk.sources.remote import Fetch

__all__ = ["Reader"]


class Reader:
    """Fills a ring for one rank and one epoch, from its first read to its last.

    Parameters
    ----------
    source : Source, ArraySource or WindowSource
        Where the chunks are read, which are those of the order.
    encoder : LabelledEncoder, GridEncoder or WindowEncoder
        What makes arrays of their rows.
    order : Order
        The order of samples.
    schedule : Schedule
        The reads.
    ring : Ring
        Where the rows go.
    epoch : int
        The epoch.
    rank : int
        The rank.
    ranks : int
        The number of ranks.
    start : int
        The first step.
    lap : int
        The steps that the ring has gone through in epochs before.
    step : int, optional
        As for `give_up`: the step that the consumer is at; `start` if None.
    num_threads : int
        Threads, at most one a read.
    decode_nbytes : int
        Bytes of decoded chunks that all threads hold at a time; a single chunk may be larger.
    chunk_nbytes : numpy.ndarray
        An int64 ``[chunks]``: what each takes of them.
    slice_rows : int
        Rows of the slices in which big row groups are read; 0 for none.
    fetch_nbytes : int
        Bytes of a remote source that are fetched ahead of decoding.
    scratches : list of Scratch
        Memory that reads of arrays use, and leave here for the next one.
    sampling : Sampling, optional
        How rows are drawn; each comes once if None.
    numbers : RowNumbers, optional
        By what the encoder is told which rows it encodes; not at all if None.

    Notes
    -----
    Reads start in the order of their first steps. One starts when the ring reaches its last step and the decoded
    bytes leave room; the consumer waits until no read is left that its step needs. `Schedule` promises that the
    oldest read can always start by the step that waits for it.
    """

    def __init__(
        self,
        *,
        source: Source | ArraySource | WindowSource,
        encoder: LabelledEncoder | GridEncoder | WindowEncoder,
        order: Order,
        schedule: Schedule,
        ring: Ring,
        epoch: int,
        rank: int,
        ranks: int,
        start: int,
        lap: int = 0,
        step: int | None = None,
        num_threads: int,
        decode_nbytes: int,
        chunk_nbytes: Integers,
        slice_rows: int,
        fetch_nbytes: int,
        scratches: list[Scratch],
        sampling: Sampling | None = None,
        numbers: RowNumbers | None = None,
    ) -> None:
        self._source, self._encoder, self._ring = source, encoder, ring
        self._schedule = schedule
        self._columns = list(encoder.columns)
        self._draw = None if sampling is None else EpochDraw(sampling, order, epoch)
        if sampling is not None and sampling.rule.column not in self._columns:
            self._columns.append(sampling.rule.column)
        self._places = _Places(order, schedule, ring, epoch, order.rank_slots(rank, ranks), start=start, lap=lap)
        self._chunk_rows, self._chunk_nbytes, self._room_nbytes = order.chunk_rows, chunk_nbytes, decode_nbytes
        self._numbers = numbers
        if numbers is not None:  # windows lie in the chunks of the rows, others in what these are joined to
            is_joined = not isinstance(source, WindowSource)
            self._starts = np.cumsum(order.chunk_rows) - order.chunk_rows if is_joined else numbers.edges[:-1]
        self._is_streamed = streamed(order.chunk_rows, slice_rows)
        assert not (fetch_nbytes and self._is_streamed.any())  # a stream would fetch anew what was fetched for it
        self._streams = Streams(source, self._columns, slice_rows) if isinstance(source, ParquetSource) else None
        self._changed = threading.Condition()
        self._step = start if step is None else step
        self._next = 0
        self._running: dict[int, int] = {}  # number of a read -> its first step
        self._held_nbytes = 0
        self._ahead = Ahead(source, columns=self._columns, chunks=schedule.chunk, limit_nbytes=fetch_nbytes)
        self._fetches: dict[int, Fetch | None] = {}  # number of a running read -> what it waits for
        self._scratches = scratches
        self._error: BaseException | None = None
        self._stopped = False
        self._consumer = threading.current_thread()
        self.read_nbytes = 0
        # No more threads than may hold a chunk at a time: what one has freed is kept for it by the allocators.
        at_once = max(1, decode_nbytes // max(1, int(chunk_nbytes.max(initial=1))))
        self._threads = [
            threading.Thread(target=self._work, name=f"dtk-read-{number}", daemon=True)
            for number in range(min(num_threads, at_once, len(schedule)))
        ]
        atexit.register(self.close)  # an iteration that nobody closes must not run on while the interpreter ends
        try:
            for thread in self._threads:
                thread.start()
        except BaseException:  # no thread is left, nor memory for one, or Ctrl-C
            self.close()
            raise

    @property
    def is_done(self) -> bool:
        """Whether all is read, and in the ring."""
        with self._changed:
            return self._error is None and self._next == len(self._schedule) and not self._running

    def give_up(self, step: int) -> None:
        """Give up the batches before a step.

        Parameters
        ----------
        step : int
            The step; never less than before. Negative for one of the epoch before, which the ring still holds: the
            last one of that is -1.
        """
        with self._changed:
            self._step = step
            if self._is_reached(self._next):  # else threads would wake for nothing, beside the step
                self._changed.notify_all()

    def wait_for(self, step: int) -> None:
        """Give up the batches before a step, and wait until its own is complete.

        Parameters
        ----------
        step : int
            The step; never less than before.

        Raises
        ------
        DataError
            If a chunk could not be read; it is named.
        """
        self._consumer = threading.current_thread()
        self.give_up(step)
        with self._changed:
            while self._error is None and self._needs(step):
                self._changed.wait()
            if self._error is not None:
                raise self._error

    def close(self) -> None:
        """End all threads; the consumer's thread waits for them, and the main one, where the interpreter ends."""
        with self._changed:
            self._stopped = True
            self._ahead.close()
            for fetch in self._fetches.values():
                give_up(fetch)
            self._changed.notify_all()
        # The garbage collector closes lost iterations in any thread, also in one that the readers themselves wait for.
        if threading.current_thread() in (self._consumer, threading.main_thread()):
            for thread in self._threads:
                if thread.ident is not None:  # Ctrl-C may come before it was started
                    thread.join()
        atexit.unregister(self.close)  # not before: Ctrl-C may come while it waits

    def _needs(self, step: int) -> bool:
        schedule = self._schedule
        if self._next < len(schedule) and schedule.first_step[self._next] <= step:
            return True
        return any(first_step <= step for first_step in self._running.values())

    def _work(self) -> None:
        try:
            self._read_all()
        except BaseException as error:  # a fetch could not start; the consumer raises it
            with self._changed:
                self._error = self._error or error
                self._stopped = True
                self._changed.notify_all()
        finally:  # Arrow keeps what a thread has freed for this thread, which is about to end
            pa.default_memory_pool().release_unused()

    def _read_all(self) -> None:
        while (number := self._take()) is not None:
            read = self._schedule[number]
            try:
                has_read = self._execute(read, self._fetches[number])
            except BaseException as error:  # the consumer raises it
                with self._changed:
                    self._error = self._error or _named(error, self._source.describe(read.chunk))
                    self._stopped = True
                    self._changed.notify_all()
                return
            with self._changed:
                self.read_nbytes += int(self._source.chunk_nbytes[read.chunk]) if has_read else 0
                del self._running[number], self._fetches[number]
                self._held_nbytes -= self._nbytes_of(read.chunk)
                self._changed.notify_all()

    def _take(self) -> int | None:
        """Wait for the next read that may start; None at the end."""
        schedule = self._schedule
        with self._changed:
            while not self._stopped and self._next < len(schedule):
                number = self._next
                nbytes = self._nbytes_of(int(schedule.chunk[number]))
                has_room = not self._running or self._held_nbytes + nbytes <= self._room_nbytes
                if has_room and self._is_reached(number):
                    self._next += 1
                    self._running[number] = int(schedule.first_step[number])
                    self._fetches[number] = self._ahead.take()
                    self._held_nbytes += nbytes
                    return number
                self._changed.wait()
        return None

    def _is_reached(self, number: int) -> bool:
        """Tell whether the ring reaches as far as a read writes."""
        last_steps = self._schedule.last_step
        return number < len(last_steps) and bool(last_steps[number] < self._step + self._ring.num_steps)

    def _nbytes_of(self, chunk: int) -> int:
        return int(self._chunk_nbytes[chunk])

    def _execute(self, read: Read, fetch: Fetch | None) -> bool:
        """Carry out a read; return False if no row of it is this rank's, and nothing was read."""
        pieces = [(piece, self._places.of(piece)) for piece in read.pieces]
        has_rows = any((places >= 0).any() for _, places in pieces)
        if not has_rows:
            give_up(fetch)
        elif self._streams is not None and self._is_streamed[read.chunk]:
            self._stream(self._streams, read.chunk, pieces)
        else:
            with self._block(read.chunk, fetch) as block:
                if block.num_rows != self._chunk_rows[read.chunk]:
                    raise DataError(
                        f"{block.num_rows} rows where {self._chunk_rows[read.chunk]} were planned; open it anew"
                    )
                for (rows, at), (_, places) in zip(self._rows(read, block), pieces, strict=True):
                    self._ring.scatter(self._packed(rows, read.chunk, at), places)
        for piece in read.pieces:
            self._places.release(piece.fill)
        return has_rows

    def _stream(self, streams: Streams, chunk: int, pieces: list[tuple[Piece, Integers]]) -> None:
        """Read a part of a big chunk, slice by slice."""
        first_row = min(piece.first_row for piece, _ in pieces)
        stop_row = max(piece.first_row + piece.num_rows for piece, _ in pieces)
        for at, table in streams.slices(chunk, first_row, stop_row):
            for piece, places in pieces:
                start = max(at - piece.first_row, 0)
                stop = min(at + table.num_rows - piece.first_row, piece.num_rows)
                if start < stop:
                    first, num_rows = piece.first_row + start, stop - start
                    rows = table.slice(first - at, num_rows)
                    packed = self._packed(rows, chunk, range(first, first + num_rows))
                    self._ring.scatter(packed, places[start:stop])

    def _rows(self, read: Read, block: Any) -> Iterator[tuple[Any, Integers | range]]:
        """Yield the rows of each piece of a chunk, and where in the chunk they lie."""
        runs = ((piece.first_row, piece.num_rows) for piece in read.pieces)
        if self._draw is None:
            yield from ((block.slice(first, rows), range(first, first + rows)) for first, rows in runs)
        else:
            yield from ((block.take(rows), rows) for rows in self._draw.rows(read.chunk, block, runs))

    def _packed(self, rows: Any, chunk: int, at: Integers | range) -> Any:
        """Encode rows of a chunk, by their numbers where the encoder is to know these."""
        if self._numbers is None:
            return self._encoder.pack(rows)
        assert not isinstance(self._encoder, GridEncoder)
        if isinstance(rows, WindowBlock):
            at = range(sum(part.num_rows for part in rows.parts))
        positions = np.arange(at.start, at.stop) if isinstance(at, range) else at
        return self._encoder.pack(rows, self._numbers.at(self._starts[chunk] + positions))

    @contextmanager
    def _block(self, chunk: int, fetch: Fetch | None) -> Iterator[Any]:
        """Read a chunk: a table, or arrays in memory that the next read overwrites."""
        fetched: dict[str, Any] = {} if fetch is None else {"fetched": fetch}
        if not isinstance(self._source, ArraySource | WindowSource):
            yield self._source.read(chunk, self._columns, **fetched)
            return
        scratch = self._scratches.pop() if self._scratches else Scratch()  # a list's methods are atomic
        try:
            yield self._source.read(chunk, self._columns, scratch, **fetched)
        finally:
            self._scratches.append(scratch)


class _Places:
    """Where in the ring the rows of the open fills go."""

    def __init__(
        self, order: Order, schedule: Schedule, ring: Ring, epoch: int, slots: tuple[int, int], *, start: int, lap: int
    ) -> None:
        self._order, self._fills, self._ring, self._epoch = order, schedule.fills, ring, epoch
        self._slots, self._start, self._lap = slots, start, lap
        self._missing = schedule.num_pieces.copy()
        self._open: dict[int, Integers] = {}
        self._lock = threading.Lock()

    def of(self, piece: Piece) -> Integers:
        """Return the places of a piece's rows, -1 for those that are not this rank's or come before the first step."""
        with self._lock:  # one fill's permutation at a time, so that its memory is known
            if piece.fill not in self._open:
                self._open[piece.fill] = self._make(piece.fill)
            return self._open[piece.fill][piece.offset : piece.offset + piece.num_rows]

    def release(self, fill: int) -> None:
        """Forget a fill when its last piece is in the ring."""
        with self._lock:
            self._missing[fill] -= 1
            if self._missing[fill] == 0:
                del self._open[fill]

    def _make(self, fill: int) -> Integers:
        fills, shard = self._fills, int(self._fills.shard[fill])
        slot, end = self._order.shard_slots[shard : shard + 2].tolist()
        first, last = self._slots
        num_rows, position = int(fills.num_rows[fill]), int(fills.position[fill])
        # The positions of a fill follow each other: their places are a table of steps and columns.
        steps = np.arange(position // (end - slot), (position + num_rows - 1) // (end - slot) + 1)
        columns = np.arange(slot, end) - first  # rows of this rank's batch, where they are its own
        table = ((steps + self._lap) % self._ring.num_steps * self._ring.width)[:, None] + columns
        if slot < first or end > last:
            table[:, (columns < 0) | (columns >= last - first)] = -1
        table[steps < self._start] = -1
        places: Integers = table.ravel()[position % (end - slot) :][:num_rows]
        self._order.shuffle_fill(places, self._epoch, shard, int(fills.number[fill]))
        return places


def _named(error: BaseException, where: str) -> BaseException:
    """Name the chunk in an error; what is not about the data, such as a want of memory, stays as it is."""
    if isinstance(error, MemoryError | FetchError) or not isinstance(error, Exception):
        return error
    if isinstance(error, DataError) and where in str(error):
        return error
    kind = NotFoundError if isinstance(error, FileNotFoundError) else DataError
    text = str(error) if isinstance(error, DataError) else f"{type(error).__name__}: {error}"
    named = kind(f"{where} cannot be loaded: {text}")
    named.__cause__ = error
    return named
