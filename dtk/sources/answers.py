"""Ranges of files with the version that the server's answer names, which the file systems' own methods drop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final

import numpy as np

__all__ = ["TaggedGet", "tag_of", "tagged_get"]

TaggedGet = Callable[[str, int, int], Awaitable[tuple[Any, str]]]  # bytes or a memoryview of them

_LONG_NBYTES: Final = 1 << 20
_ENCODED: Final = "Content-Encoding"
_TAGS: Final = ("ETag", "etag", "Content-MD5", "blob_id", "sha")
_TIMES: Final = (
    *("mtime", "LastModified", "Last-Modified", "last_modified", "updated", "modify", "modified"),
    *("last_write_time", "modificationTime", "modifiedTime", "created"),
)


def tag_of(info: Mapping[str, Any]) -> str:
    """Tell what changes when a file does from what its file system, or an answer's headers, say of it.

    Parameters
    ----------
    info : mapping
        As of fsspec; each file system has keys of its own.

    Returns
    -------
    str
        A tag or a time; empty if there is none.

    Examples
    --------
    >>> tag_of({"size": 120, "Last-Modified": "Sat, 21 Nov 2026 10:00:00 GMT"})
    'Sat, 21 Nov 2026 10:00:00 GMT'
    """
    return str(next((info[key] for key in (*_TAGS, *_TIMES) if info.get(key)), ""))


def tagged_get(filesystem: Any) -> TaggedGet | None:
    """Find what fetches a range of a file and tells of which version it is.

    Parameters
    ----------
    filesystem : fsspec.asyn.AsyncFileSystem
        Of any kind.

    Returns
    -------
    callable or None
        ``get(path, start, stop)`` gives the content and its tag as of `tag_of`; None where answers are not known.
    """
    kind = type(filesystem)
    found = _GETS.get((kind.__module__, kind.__qualname__))
    return None if found is None else partial(found, filesystem)


async def _http(filesystem: Any, path: str, start: int, stop: int) -> tuple[Any, str]:
    options = dict(filesystem.kwargs)
    headers = {**options.pop("headers", {}), "Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
    session = await filesystem.set_session()
    async with session.get(filesystem.encode_url(path), headers=headers, **options) as answer:
        is_plain = answer.status < 400 and answer.content_length == stop - start and not answer.headers.get(_ENCODED)
        content = await (_long_body(answer) if is_plain and stop - start > _LONG_NBYTES else answer.read())
        filesystem._raise_not_found_for_status(answer, path)
        return content, tag_of(answer.headers)


async def _long_body(answer: Any) -> memoryview:
    """Take a body piece by piece: to put the pieces together at the end takes twice as long, and twice the memory."""
    whole = memoryview(np.empty(answer.content_length, np.uint8))  # type: ignore[arg-type]
    reached = 0
    async for piece in answer.content.iter_any():
        whole[reached : reached + len(piece)] = piece
        reached += len(piece)
    return whole[:reached]


async def _s3(filesystem: Any, path: str, start: int, stop: int) -> tuple[Any, str]:
    bucket, key, version = filesystem.split_path(path)
    asked = {"Bucket": bucket, "Key": key, "Range": f"bytes={start}-{stop - 1}"}
    answer = await filesystem._call_s3("get_object", **asked, **({"VersionId": version} if version else {}))
    try:
        return await answer["Body"].read(), tag_of(answer)
    finally:
        answer["Body"].close()


_GETS: Final = {("fsspec.implementations.http", "HTTPFileSystem"): _http, ("s3fs.core", "S3FileSystem"): _s3}
