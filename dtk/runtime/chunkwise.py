"""Map over chunks and merge as a tree: on the current Dask client, or on threads where there is none."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from dtk.errors import ArgumentError
from dtk.progress import Progress
from dtk.runtime.client import current_client

if TYPE_CHECKING:
    from dask.callbacks import Callback
    from distributed import Client, Future

__all__ = ["delayed_reduce", "map_reduce"]

Part = TypeVar("Part")
FAN_IN = 8


def map_reduce(
    map_fn: Callable[[Any, Any], Part],
    merge_fn: Callable[[list[Part]], Part],
    pieces: Sequence[Any],
    *,
    shared: Any = None,
    label: str = "scan",
    progress: bool = False,
) -> Part:
    """Apply a function to every piece and merge the results as a tree.

    The client handles one future a piece, so `pieces` are groups of chunks, as many as keep the cluster busy, and
    never single chunks.

    Parameters
    ----------
    map_fn : callable
        ``map_fn(shared, piece) -> part``, run once a piece.
    merge_fn : callable
        ``merge_fn(parts) -> part`` for a list of at most 8 parts, in the order of the pieces.
    pieces : sequence
        Small picklable arguments, for example ranges of chunks.
    shared : object
        What all pieces need, sent once to each worker that asks for it.
    label : str
        Name of the tasks on the dashboard and of the progress bar.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    object
        The merged part.

    Raises
    ------
    ArgumentError
        If there are no pieces.

    Examples
    --------
    >>> map_reduce(lambda base, piece: base + piece, sum, [1, 2, 3], shared=10)
    36
    """
    if not pieces:
        raise ArgumentError("pieces=[] leaves nothing to merge; give at least one piece")
    client = current_client()
    if client is None:
        call = partial(map_fn, shared)
        return _on_threads([(call, piece) for piece in pieces], merge_fn, label, progress)
    token = uuid.uuid4().hex[:8]
    held = client.submit(_hold, shared, key=f"{label}-shared-{token}", pure=False)
    futures = [  # by their priorities in order, or parts whose neighbours come late would wait unmerged
        client.submit(map_fn, held, piece, key=f"{label}-{token}-{number}", pure=False, priority=-number)
        for number, piece in enumerate(pieces)
    ]
    return _on_cluster(client, futures, merge_fn, f"{label}-merge-{token}", label, progress)


def delayed_reduce(
    map_fn: Callable[[Any], Part],
    merge_fn: Callable[[list[Part]], Part],
    parts: Sequence[Any],
    *,
    label: str = "scan",
    progress: bool = False,
) -> Part:
    """Apply a function to the value of every delayed object and merge the results as a tree.

    Parameters
    ----------
    map_fn : callable
        ``map_fn(value) -> part``.
    merge_fn : callable
        ``merge_fn(parts) -> part`` for a list of at most 8 parts, in the order of `parts`.
    parts : sequence of dask.delayed.Delayed
        One a partition.
    label : str
        Name of the tasks on the dashboard and of the progress bar.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    object
        The merged part.

    Raises
    ------
    ArgumentError
        If there are no parts.
    """
    from dask.delayed import delayed

    if not parts:
        raise ArgumentError("parts=[] leaves nothing to merge; give at least one part")
    client = current_client()
    if client is None:
        return _on_threads([(map_fn, part) for part in parts], merge_fn, label, progress)
    token = uuid.uuid4().hex[:8]
    mapped = [
        delayed(map_fn, pure=False)(part, dask_key_name=f"{label}-{token}-{number}")
        for number, part in enumerate(parts)
    ]
    futures: list[Future[Any]] = client.compute(mapped)
    return _on_cluster(client, futures, merge_fn, f"{label}-merge-{token}", label, progress)


def _hold(value: Any) -> Any:
    """Keep a value as the result of a task, so that a lost worker's copy can be made again."""
    return value


def _on_cluster(
    client: Client,
    futures: list[Future[Any]],
    merge_fn: Callable[[list[Part]], Part],
    merge_key: str,
    label: str,
    progress: bool,
) -> Part:
    """Merge mapped parts as a tree; empties `futures`."""
    from distributed import as_completed as as_futures_complete

    level, merges = futures, 0
    while len(level) > 1:
        groups = [level[start : start + FAN_IN] for start in range(0, len(level), FAN_IN)]
        level = [
            client.submit(merge_fn, group, key=f"{merge_key}-{merges + number}", pure=False)
            for number, group in enumerate(groups)
        ]
        merges += len(groups)
    merged, total = level[0], len(futures)
    waiting = as_futures_complete(futures)
    futures.clear()  # the cluster keeps a part for as long as a future stands for it: let it go once it is merged
    try:
        with Progress(label, total, enabled=progress) as bar:
            done = 0
            for future in waiting:
                if future.status in ("error", "cancelled"):
                    break  # and so is what it would be merged into
                done += 1  # noqa: SIM113  # enumerate would hold the future, too
                bar.update(done)
                del future  # or its part would stay until the next one is there
        return merged.result()  # type: ignore[no-any-return]
    except BaseException:
        client.cancel([merged, *waiting.futures])
        raise


def _on_threads(
    calls: Sequence[tuple[Callable[[Any], Part], Any]],
    merge_fn: Callable[[list[Part]], Part],
    label: str,
    progress: bool,
) -> Part:
    """Compute all in one graph: parts may share work, such as a shuffle, and what is merged early is held no longer."""
    import dask
    from dask.delayed import delayed

    # without a look into them: sources and the like are no collections, and are large
    level = [delayed(function, pure=False, traverse=False)(argument) for function, argument in calls]
    mapped = {part.key for part in level}
    merge = delayed(merge_fn, pure=False, traverse=False)
    while len(level) > 1:
        # two and two: what is merged at once waits for the last of it
        level = [merge(level[start : start + 2]) for start in range(0, len(level), 2)]
    with Progress(label, len(mapped), enabled=progress) as bar, _counting(bar, mapped):
        (result,) = dask.compute(level[0], scheduler="threads")
    return result  # type: ignore[no-any-return]


def _counting(bar: Progress, keys: set[str]) -> Callback:
    """Tell a progress bar how many of some tasks are done, while Dask runs them on threads."""
    from dask.callbacks import Callback

    finished = 0

    def count(key: str, *_: Any) -> None:
        nonlocal finished
        if key in keys:
            finished += 1
            bar.update(finished)

    return Callback(posttask=count)
