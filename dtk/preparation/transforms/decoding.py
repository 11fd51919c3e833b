"""Images: from the bytes of files to arrays, on the loader's threads, and what their channels hold."""

from __future__ import annotations

import io
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dtk.errors import ArgumentError, DataError, DependencyError
from dtk.sources.columns import close_to
from dtk.statistics import scan

if TYPE_CHECKING:
    from dtk.loader import Field

__all__ = ["ChannelMoments", "ImageDecoder", "channel_moments"]

_MODES: Final = {1: "L", 3: "RGB", 4: "RGBA"}
_LEVELS: Final = 256


class ImageDecoder:
    """Decodes a column of image files (JPEG, PNG, ...) to pixels: what `dtk.Loader` takes as ``preparation=``.

    Needs Pillow (``pip install dask-dtk[images]``).

    Parameters
    ----------
    column : str
        Of bytes, or of structs with a field ``"bytes"``, as Hugging Face's datasets write them.
    size : (int, int)
        Height and width. Images of another size are resized by Pillow's antialiased bilinear filter, to exactly that.
    channels : int
        1 (grey), 3 (red, green, blue) or 4 (and alpha); other images are converted.

    Raises
    ------
    ArgumentError
        If there is no such size or number of channels.
    DependencyError
        If Pillow is not installed.

    Notes
    -----
    A missing image is black. The orientation that a camera notes beside the pixels is not applied.
    """

    def __init__(self, column: str, size: tuple[int, int], *, channels: int = 3) -> None:
        if len(size) != 2 or min(size) < 1:
            raise ArgumentError(f"size={size!r} must be height and width in pixels")
        if channels not in _MODES:
            raise ArgumentError(f"channels={channels!r} must be 1, 3 or 4")
        _pillow()
        self.column = column
        self.size = (int(size[0]), int(size[1]))
        self.channels = channels

    @property
    def columns(self) -> tuple[str, ...]:
        """The column that is read."""
        return (self.column,)

    @property
    def fields(self) -> dict[str, Field]:
        """What `encode` returns: "inputs", uint8 of height, width and channels."""
        from dtk.loader import Field

        return {"inputs": Field(np.dtype(np.uint8), (*self.size, self.channels))}

    def encode(self, table: pa.Table) -> dict[str, NDArray[np.uint8]]:
        """Decode the images of some rows.

        Parameters
        ----------
        table : pyarrow.Table
            With the column.

        Returns
        -------
        dict
            "inputs": uint8 [n, height, width, channels].

        Raises
        ------
        DataError
            If the column is missing or holds no bytes, or an image is damaged.
        """
        if self.column not in table.column_names:
            raise DataError(
                f"column {self.column!r} is missing in the data; {close_to(self.column, table.column_names)}"
            )
        images = np.zeros((table.num_rows, *self.size, self.channels), np.uint8)
        for image, content in zip(images, self._contents(table[self.column]), strict=True):
            if content is not None:
                image[:] = self._decode(content)
        return {"inputs": images}

    def _contents(self, column: pa.ChunkedArray) -> list[Any]:
        if pa.types.is_struct(column.type) and column.type.get_field_index("bytes") >= 0:
            column = pc.struct_field(column, "bytes")
        kind = column.type
        checks = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_null)
        if not any(check(kind) for check in checks):
            raise DataError(f"column {self.column!r} holds {kind}, where the bytes of image files are expected")
        return list(column.to_pylist())

    def _decode(self, content: bytes) -> NDArray[np.uint8]:
        image = _pillow()
        height, width = self.size
        try:
            with image.open(io.BytesIO(content)) as opened:
                pixels = opened.convert(_MODES[self.channels])
        except (OSError, ValueError, SyntaxError, image.DecompressionBombError) as error:
            raise DataError(f"column {self.column!r} has an image that cannot be read: {error}") from error
        if pixels.size != (width, height):
            pixels = pixels.resize((width, height), image.Resampling.BILINEAR)
        return np.asarray(pixels).reshape(height, width, self.channels)

    def to_dict(self) -> dict[str, Any]:
        """Return all that `from_dict` needs, as plain JSON values.

        Returns
        -------
        dict
            The parameters.
        """
        return {"column": self.column, "size": list(self.size), "channels": self.channels}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """Rebuild a decoder.

        Parameters
        ----------
        state : mapping
            What `to_dict` returned, also after a round trip through JSON.

        Returns
        -------
        ImageDecoder
            That does the same.
        """
        return cls(state["column"], tuple(state["size"]), channels=state["channels"])


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise DependencyError(
            "images need the package 'pillow'; install it with pip install 'dask-dtk[images]'"
        ) from None
    return Image


class ChannelMoments:
    """Mean and standard deviation of each channel of images, exactly: how often each level occurs is counted.

    Parameters
    ----------
    channels : int
        How many there are.

    Examples
    --------
    >>> moments = ChannelMoments(1)
    >>> moments.update(np.array([[[[0], [255]]]], np.uint8))
    >>> moments.mean, moments.std
    (array([0.5]), array([0.5]))
    """

    def __init__(self, channels: int = 3) -> None:
        self._counts = np.zeros((channels, _LEVELS), np.int64)

    def update(self, values: NDArray[np.uint8], row: NDArray[np.int64] | None = None) -> None:
        """Take in some images.

        Parameters
        ----------
        values : numpy.ndarray
            uint8 [n, height, width, channels].
        row : numpy.ndarray, optional
            Not used.
        """
        for counts, channel in zip(self._counts, np.moveaxis(values, -1, 0), strict=True):
            counts += np.bincount(channel.ravel(), minlength=_LEVELS)

    def merge(self, other: Self) -> None:
        """Take in what another object has seen.

        Parameters
        ----------
        other : ChannelMoments
            Left as it is; of as many channels.
        """
        self._counts += other._counts

    @property
    def mean(self) -> NDArray[np.float64]:
        """The means, float64 [channels], of levels from 0 to 1; NaN without images."""
        with np.errstate(invalid="ignore"):
            return np.asarray(self._counts @ np.linspace(0, 1, _LEVELS) / self._counts.sum(axis=1))

    @property
    def std(self) -> NDArray[np.float64]:
        """The standard deviations of the population, float64 [channels], of levels from 0 to 1; NaN without images."""
        distances = np.linspace(0, 1, _LEVELS) - self.mean[:, None]
        with np.errstate(invalid="ignore"):
            return np.asarray(np.sqrt((self._counts * distances**2).sum(axis=1) / self._counts.sum(axis=1)))

    def result(self) -> dict[str, Any]:
        """Return what it says.

        Returns
        -------
        dict
            ``mean`` and ``std``: lists of floats.
        """
        return {"mean": self.mean.tolist(), "std": self.std.tolist()}

    def to_dict(self) -> dict[str, Any]:
        """Return all that `from_dict` needs, as plain JSON values.

        Returns
        -------
        dict
            With ``counts``, a list for each channel.
        """
        return {"counts": self._counts.tolist()}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """Rebuild an object from `to_dict`.

        Parameters
        ----------
        state : mapping
            What `to_dict` returned, also after a round trip through JSON.

        Returns
        -------
        ChannelMoments
            With the same results as the first.
        """
        moments = cls(len(state["counts"]))
        moments._counts += np.array(state["counts"], np.int64)
        return moments


class _DecodedMoments:
    """Moments of a table's images, for a scan."""

    def __init__(self, decoder: ImageDecoder) -> None:
        self.decoder = decoder
        self.moments = ChannelMoments(decoder.channels)

    def update(self, table: pa.Table, first_row: int) -> None:
        for start in range(0, table.num_rows, 256):  # what is decoded at once stays small
            self.moments.update(self.decoder.encode(table.slice(start, 256))["inputs"])

    def merge(self, other: _DecodedMoments) -> None:
        self.moments.merge(other.moments)


def channel_moments(data: Any, decoder: ImageDecoder, *, progress: bool = False) -> ChannelMoments:
    """Measure the channels of images in one pass: what `Normalize` subtracts and divides by.

    Missing images count as black ones.

    Parameters
    ----------
    data : dask.dataframe.DataFrame, pandas.DataFrame, pyarrow.Table, str or Source
        With the decoder's column.
    decoder : ImageDecoder
        That decodes them.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    ChannelMoments
        Its ``mean`` and ``std``.

    Raises
    ------
    DataError
        If an image is damaged.
    """
    state: _DecodedMoments = scan(
        data, partial(_DecodedMoments, decoder), columns=[decoder.column], progress=progress, label="measure images"
    )
    return state.moments
