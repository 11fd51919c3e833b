"""Images on the device of the batch: floats, size, normalisation, and changes at random that come from a seed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dtk.errors import ArgumentError

__all__ = [
    "Augment",
    "Augmentation",
    "ColorJitter",
    "HorizontalFlip",
    "Normalize",
    "RandomCrop",
    "RandomErasing",
    "Resize",
    "ToFloat",
]


class ToFloat(nn.Module):
    """Turns what `ImageDecoder` gives into what networks take."""

    def forward(self, images: Tensor) -> Tensor:
        """Convert a batch.

        Parameters
        ----------
        images : torch.Tensor
            uint8 [B, H, W, C].

        Returns
        -------
        torch.Tensor
            float32 [B, C, H, W] from 0 to 1, in the memory format of channels last.
        """
        return images.permute(0, 3, 1, 2).to(torch.float32) / 255


class Resize(nn.Module):
    """Resizes images by an antialiased bilinear filter, as Pillow does, to within 1 of 255 levels.

    Parameters
    ----------
    size : (int, int)
        Height and width.

    Raises
    ------
    ArgumentError
        If it is none.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        if len(size) != 2 or min(size) < 1:
            raise ArgumentError(f"size={size!r} must be height and width in pixels")
        self.size = (int(size[0]), int(size[1]))

    def forward(self, images: Tensor) -> Tensor:
        """Resize a batch.

        Parameters
        ----------
        images : torch.Tensor
            Float [B, C, H, W].

        Returns
        -------
        torch.Tensor
            Float [B, C, *size].
        """
        if images.shape[-2:] == self.size:
            return images
        return functional.interpolate(images, self.size, mode="bilinear", align_corners=False, antialias=True)


class Normalize(nn.Module):
    """Shifts and scales each channel.

    Parameters
    ----------
    mean, std : sequence of float
        One a channel: given, or measured by `channel_moments`. A channel of one level is divided by 1.

    Raises
    ------
    ArgumentError
        If they differ in number, or a deviation is negative or missing.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std):
            raise ArgumentError(f"mean={list(mean)!r} and std={list(std)!r} must have one value a channel each")
        if not all(math.isfinite(value) for value in [*mean, *std]) or min(std, default=0) < 0:
            raise ArgumentError(f"mean={list(mean)!r}, std={list(std)!r} must be finite, and no deviation negative")
        self.register_buffer("mean", torch.tensor([float(value) for value in mean])[:, None, None])
        self.register_buffer("std", torch.tensor([float(value) or 1.0 for value in std])[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        """Normalise a batch.

        Parameters
        ----------
        images : torch.Tensor
            Float [B, C, H, W].

        Returns
        -------
        torch.Tensor
            Float [B, C, H, W].
        """
        return (images - self.mean) / self.std


class Augmentation:
    """A change of images that is a function of them and of numbers drawn at random: the same numbers, the same change.

    Attributes
    ----------
    num_draws : int
        How many numbers it takes for each image.
    """

    num_draws: int

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        """Change a batch.

        Parameters
        ----------
        images : torch.Tensor
            Float [B, C, H, W] from 0 to 1.
        draws : torch.Tensor
            float32 [B, num_draws], uniform from 0 to 1.

        Returns
        -------
        torch.Tensor
            Float [B, C, H, W] from 0 to 1.
        """
        raise NotImplementedError


class Augment(nn.Module):
    """Changes images at random while training, and leaves them alone in eval mode.

    What is drawn depends on the seed, the step, and an image's place in the global batch; no global generator is used.
    A training that is resumed, or runs on another number of ranks, changes the same images in the same way.

    Parameters
    ----------
    augmentations : sequence of Augmentation
        One after the other.
    seed : int
        Another seed draws other numbers.

    Examples
    --------
    >>> augment = Augment([HorizontalFlip(), RandomCrop(padding=4)], seed=1)
    >>> augment(torch.rand(8, 3, 32, 32), step=0).shape
    torch.Size([8, 3, 32, 32])
    """

    def __init__(self, augmentations: Sequence[Augmentation], *, seed: int = 0) -> None:
        super().__init__()
        self.augmentations = list(augmentations)
        self.seed = seed

    def forward(self, images: Tensor, step: int, first: int = 0) -> Tensor:
        """Change a batch.

        Parameters
        ----------
        images : torch.Tensor
            Float [B, C, H, W] from 0 to 1.
        step : int
            The number of the batch since the training began.
        first : int
            The place of this batch's first image in the global batch.

        Returns
        -------
        torch.Tensor
            Float [B, C, H, W] from 0 to 1.
        """
        if not self.training:
            return images
        num_draws = sum(each.num_draws for each in self.augmentations)
        rng = np.random.default_rng([self.seed, step])
        drawn = rng.random((first + len(images), num_draws), dtype=np.float32)[first:]
        draws = torch.from_numpy(drawn).to(images.device, non_blocking=True)
        start = 0
        for each in self.augmentations:
            images = each.apply(images, draws[:, start : start + each.num_draws])
            start += each.num_draws
        return images


class HorizontalFlip(Augmentation):
    """Swaps left and right.

    Parameters
    ----------
    p : float
        The share of images.
    """

    num_draws = 1

    def __init__(self, p: float = 0.5) -> None:
        self.p = _share("p", p)

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        """See `Augmentation`."""
        return torch.where((draws[:, 0] < self.p)[:, None, None, None], images.flip(-1), images)


class RandomCrop(Augmentation):
    """Pads images with black, and cuts out as much as there was, or less.

    Parameters
    ----------
    size : (int, int), optional
        Height and width of what is cut out; that of the image by default.
    padding : int
        Pixels on each side.
    """

    num_draws = 2

    def __init__(self, size: tuple[int, int] | None = None, *, padding: int = 0) -> None:
        if padding < 0:
            raise ArgumentError(f"padding={padding!r} must be at least 0")
        self.size = size
        self.padding = padding

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        """See `Augmentation`."""
        height, width = self.size or images.shape[-2:]
        padded = functional.pad(images, [self.padding] * 4)
        if height > padded.shape[-2] or width > padded.shape[-1]:
            raise ArgumentError(f"size={self.size!r} is more than the padded images have: {tuple(padded.shape[-2:])}")
        rows = _starts(draws[:, 0], padded.shape[-2] - height)[:, None] + torch.arange(height, device=images.device)
        columns = _starts(draws[:, 1], padded.shape[-1] - width)[:, None] + torch.arange(width, device=images.device)
        every = torch.arange(len(images), device=images.device)[:, None, None]
        return padded[every, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


class ColorJitter(Augmentation):
    """Changes brightness, contrast and saturation, in this order, each by a factor around 1.

    Parameters
    ----------
    brightness, contrast, saturation : float
        The factors lie between 1 minus this and 1 plus it. Images of one channel have no saturation.
    """

    num_draws = 3

    def __init__(self, brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0) -> None:
        self.strengths = (
            _share("brightness", brightness),
            _share("contrast", contrast),
            _share("saturation", saturation),
        )

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        """See `Augmentation`."""
        strengths = torch.tensor(self.strengths, device=draws.device)
        factors = (1 + (2 * draws - 1) * strengths)[:, :, None, None, None]
        images = (images * factors[:, 0]).clamp(0, 1)
        mean = _grey(images).mean(dim=(-2, -1), keepdim=True)
        images = (mean + (images - mean) * factors[:, 1]).clamp(0, 1)
        grey = _grey(images)
        return (grey + (images - grey) * factors[:, 2]).clamp(0, 1)


class RandomErasing(Augmentation):
    """Makes a rectangle black.

    Parameters
    ----------
    p : float
        The share of images.
    area : (float, float)
        The least and largest share of the image.
    ratio : (float, float)
        The least and largest height over width, in pixels; both are drawn before what sticks out is cut off.

    Notes
    -----
    Z. Zhong, L. Zheng, G. Kang, S. Li and Y. Yang, "Random erasing data augmentation" (2020).
    """

    num_draws = 5

    def __init__(
        self, p: float = 0.5, *, area: tuple[float, float] = (0.02, 0.33), ratio: tuple[float, float] = (0.3, 3.3)
    ) -> None:
        self.p = _share("p", p)
        if not 0 <= area[0] <= area[1] <= 1:
            raise ArgumentError(f"area={area!r} must be two shares of the image, the smaller first")
        if not 0 < ratio[0] <= ratio[1]:
            raise ArgumentError(f"ratio={ratio!r} must be two positive numbers, the smaller first")
        self.area = area
        self.ratio = ratio

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        """See `Augmentation`."""
        height, width = images.shape[-2:]
        area = (self.area[0] + draws[:, 1] * (self.area[1] - self.area[0])) * height * width
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        ratio = torch.exp(low + draws[:, 2] * (high - low))
        tall = (area * ratio).sqrt().round().clamp(max=height)
        wide = (area / ratio).sqrt().round().clamp(max=width)
        rows = _is_between(_starts(draws[:, 3], height - tall), tall, height)
        columns = _is_between(_starts(draws[:, 4], width - wide), wide, width)
        is_erased = rows[:, None, :, None] & columns[:, None, None, :] & (draws[:, 0] < self.p)[:, None, None, None]
        return images.masked_fill(is_erased, 0)


def _share(name: str, value: float) -> float:
    if not 0 <= value <= 1:
        raise ArgumentError(f"{name}={value!r} must lie between 0 and 1")
    return value


def _starts(draws: Tensor, last: Tensor | int) -> Tensor:
    """Return whole numbers from 0 to the last one, each as likely as the others: int64 [B]."""
    limit = torch.as_tensor(last, device=draws.device)
    return torch.minimum((draws * (limit + 1)).floor(), limit).long()


def _is_between(start: Tensor, length: Tensor, size: int) -> Tensor:
    """Tell which of `size` places are among `length` from the start: bool [B, size]."""
    place = torch.arange(size, device=start.device)
    return (place >= start[:, None]) & (place < (start + length)[:, None])


def _grey(images: Tensor) -> Tensor:
    """Return the luma of ITU-R 601: [B, 1, H, W]; the mean where there are not three channels."""
    if images.shape[1] != 3:
        return images.mean(dim=1, keepdim=True)
    weights = torch.tensor([0.299, 0.587, 0.114], device=images.device, dtype=images.dtype)
    return (images * weights[:, None, None]).sum(dim=1, keepdim=True)
