"""Fetching from object stores: many requests at a time, tried again after a while where a failure may pass.

Requests run on the event loop of the file system or of Zarr, in one thread that the library keeps anyway; the threads
that decode hold the futures of what they will need.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

from dtk.errors import DtkError, FetchError, NotFoundError

__all__ = ["Fetch", "FetchCost", "Fetcher", "Retries", "fetcher_of", "gathered", "is_transient", "steadily"]

REQUESTS: Final = 64  # at a time, of an event loop: all of fsspec's file systems share one, Zarr has another

Result = TypeVar("Result")
Fetch = list[Future[Any]]  # what a source has asked a store for, to be given to its `read`

_jitter = random.SystemRandom()  # what fails together must not come back together; no result depends on it
_PASSING_STATUSES: Final = frozenset({408, 425, 429})  # all from 500 on, too
_LASTING: Final = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
# By name, so that none of these packages needs to be here.
_PASSING: Final = frozenset(
    {("aiohttp", "ClientError"), ("obstore", "GenericError"), ("gcsfs", "HttpError"), ("google", "TransportError")}
    | {("botocore", name) for name in ("ConnectionError", "HTTPClientError", "IncompleteReadError")}
)


@dataclass(frozen=True)
class Retries:
    """How long a request may take, how often and when it is tried again.

    Parameters
    ----------
    attempts : int
        At most so many.
    first_s : float
        Seconds before the second one; each wait is twice the one before, less up to a half at random.
    most_s : float
        The longest wait, seconds.
    timeout_s : float or None
        Seconds that an attempt may take; by default four megabytes come at a quarter of a megabit a second. None for
        what makes many requests, such as a listing, which end by the timeouts of the file system.
    """

    attempts: int = 6
    first_s: float = 0.25
    most_s: float = 10.0
    timeout_s: float | None = 120.0

    def wait_s(self, attempt: int) -> float:
        """Draw how long to wait after a failed attempt.

        Parameters
        ----------
        attempt : int
            1 after the first one.

        Returns
        -------
        float
            Seconds.
        """
        longest = min(self.most_s, self.first_s * 2.0 ** (attempt - 1))
        return longest * _jitter.uniform(0.5, 1.0)


RETRIES: Final = Retries()


@dataclass(frozen=True)
class FetchCost:
    """What fetching the chunks of a remote source takes.

    Parameters
    ----------
    nbytes : numpy.ndarray
        An int64 ``[chunks]``: bytes that are fetched, and held until they are decoded.
    requests : numpy.ndarray
        An int64 ``[chunks]``: requests for them.
    once : int
        Requests that are made once, whatever the number of chunks.
    each : int
        Of the `requests`, those that a chunk makes once, however many row groups it is of.
    footer_nbytes : numpy.ndarray, optional
        An int64 ``[chunks]``: what the file's footer takes, which is fetched once; see `with_footers`.
    gap_nbytes : numpy.ndarray, optional
        An int64 ``[chunks]``: bytes between what is fetched of a row group and of the next one of its file.
    """

    nbytes: npt.NDArray[np.int64]
    requests: npt.NDArray[np.int64]
    once: int = 0
    each: int = 0
    footer_nbytes: npt.NDArray[np.int64] | None = None
    gap_nbytes: npt.NDArray[np.int64] | None = None

    def with_footers(self) -> FetchCost:
        """Return the cost where footers are too many to be kept, so that one is fetched with each chunk.

        Returns
        -------
        FetchCost
            Of one more request a chunk.
        """
        assert self.footer_nbytes is not None
        return FetchCost(self.nbytes + self.footer_nbytes, self.requests + 1)


class Fetcher:
    """Makes requests on one event loop, so many at a time, and tries again those that fail for a while.

    Parameters
    ----------
    loop : asyncio.AbstractEventLoop
        Running in another thread.
    num_requests : int
        Requests at a time; others wait for their turn.
    retries : Retries, optional
        How often to try; as the module says if None.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, *, num_requests: int = REQUESTS, retries: Retries | None = None
    ) -> None:
        self._loop, self._retries = loop, retries
        self._turns = asyncio.Semaphore(num_requests)

    def start(self, work: Callable[..., Coroutine[Any, Any, Result]], *arguments: Any) -> Future[Result]:
        """Start a coroutine on the loop.

        Parameters
        ----------
        work : callable
            An asynchronous function that uses `request` and `gathered`.
        *arguments : object
            Its arguments.

        Returns
        -------
        concurrent.futures.Future
            Its result, when it is there. To cancel it gives its requests up.
        """
        started: list[Future[Result]] = []

        async def _guarded() -> Result:
            try:
                return await work(*arguments)
            except Exception:
                if started and started[0].cancelled():  # nobody will ask, and asyncio would complain of that
                    raise asyncio.CancelledError from None
                raise

        started.append(asyncio.run_coroutine_threadsafe(_guarded(), self._loop))
        return started[0]

    @property
    def retries(self) -> Retries:
        """How often it tries."""
        return self._retries or RETRIES

    async def request(
        self, url: str, get: Callable[[], Awaitable[Result]], *, retries: Retries | None = None
    ) -> Result:
        """Make a request, again and again if need be.

        Parameters
        ----------
        url : str
            What an error names.
        get : callable
            Makes one attempt.
        retries : Retries, optional
            How often to try; as the fetcher does if None.

        Returns
        -------
        object
            What it gives.

        Raises
        ------
        NotFoundError
            If nothing is there.
        FetchError
            If it failed for good, or too often.
        """
        retries = retries or self.retries
        attempt = 1
        while True:
            try:
                async with self._turns:
                    return await asyncio.wait_for(get(), retries.timeout_s)
            except DtkError:
                raise
            except Exception as error:
                _check_passing(error, url, attempt, retries)
            await asyncio.sleep(retries.wait_s(attempt))
            attempt += 1


def steadily(url: str, call: Callable[..., Result], *arguments: Any, **options: Any) -> Result:
    """Call a function that makes requests of its own, again and again if need be.

    Parameters
    ----------
    url : str
        What an error names.
    call : callable
        The function.
    *arguments : object
        Its arguments.
    **options : object
        And its keywords.

    Returns
    -------
    object
        What it returns.

    Raises
    ------
    FetchError
        If it failed too often, for what may pass; other errors are its own.
    """
    attempt = 1
    while True:
        try:
            return call(*arguments, **options)
        except DtkError:
            raise
        except Exception as error:
            if not is_transient(error):
                raise
            _check_passing(error, url, attempt, RETRIES)
        time.sleep(RETRIES.wait_s(attempt))
        attempt += 1


def _check_passing(error: Exception, url: str, attempt: int, retries: Retries) -> None:
    """Raise what a request failed with, unless it may be tried again."""
    if attempt < retries.attempts and is_transient(error):
        return
    if is_transient(error):
        remedy = "see whether the store is up, and go on from the last state"
        raise FetchError(f"{url} was not fetched in {attempt} attempts: {_said(error)}; {remedy}") from error
    cause: BaseException = error
    if isinstance(error, FileNotFoundError):
        cause = error.__cause__ or error  # fsspec takes whatever goes wrong on the web for a missing file
        if isinstance(cause, OSError) or _status(cause) is not None:
            raise NotFoundError(f"{url} is not there; check the path") from error
    is_wrong_call = isinstance(cause, AttributeError | TypeError)
    remedy = "check storage_options" if is_wrong_call else "check the credentials and the address"
    raise FetchError(f"{url} cannot be fetched: {_said(cause)}; {remedy}") from error


_fetchers: dict[asyncio.AbstractEventLoop, Fetcher] = {}


def fetcher_of(loop: asyncio.AbstractEventLoop) -> Fetcher:
    """Return the fetcher that all who use an event loop share.

    Parameters
    ----------
    loop : asyncio.AbstractEventLoop
        Of fsspec or of Zarr.

    Returns
    -------
    Fetcher
        Always the same one.
    """
    return _fetchers.setdefault(loop, Fetcher(loop))


async def gathered(works: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
    """Run coroutines beside each other; the first error ends all of them.

    Parameters
    ----------
    works : iterable of coroutine
        Of the same kind.

    Returns
    -------
    list
        Their results, in order.
    """
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def is_transient(error: BaseException) -> bool:
    """Tell whether the same request may succeed later.

    Parameters
    ----------
    error : BaseException
        Of a file system, a store or their HTTP clients.

    Returns
    -------
    bool
        True for lost connections, timeouts, throttling and errors of the server; False for what is not there, not
        allowed or wrongly asked.

    Examples
    --------
    >>> is_transient(ConnectionResetError()), is_transient(PermissionError())
    (True, False)
    """
    link: BaseException | None = error
    while link is not None:  # libraries wrap what happened, sometimes into a FileNotFoundError
        status = _status(link)
        if status is not None:
            return status >= 500 or status in _PASSING_STATUSES
        if any((kind.__module__.partition(".")[0], kind.__name__) in _PASSING for kind in type(link).__mro__):
            return True
        link = link.__cause__
    return isinstance(error, OSError | EOFError | TimeoutError) and not isinstance(error, _LASTING)


def _said(error: BaseException) -> str:
    """Put an error into words; where a library wrapped the server's answer into another, that answer."""
    link: BaseException | None = error
    while link is not None and _status(link) is None:
        link = link.__cause__
    told = link or error
    return f"{type(told).__name__}: {told}" if str(told) else type(told).__name__


def _status(error: BaseException) -> int | None:
    """Find the HTTP status in an error, wherever its library keeps it."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        found = getattr(error, "status", None) or getattr(error, "code", None) or getattr(response, "status_code", None)
    return found if isinstance(found, int) and 400 <= found < 600 else None
