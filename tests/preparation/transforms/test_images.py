"""Images, beside Pillow and NumPy."""

from __future__ import annotations

import io
import json
import pickle
import sys
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

import dtk
from dtk.errors import ArgumentError, DataError, DependencyError
from dtk.preparation.transforms.decoding import ChannelMoments, ImageDecoder, channel_moments
from dtk.preparation.transforms.images import (
    Augment,
    Augmentation,
    ColorJitter,
    HorizontalFlip,
    Normalize,
    RandomCrop,
    RandomErasing,
    Resize,
    ToFloat,
)

AUGMENTATIONS = [
    HorizontalFlip(),
    RandomCrop(padding=3),
    RandomCrop((6, 7)),
    ColorJitter(0.4, 0.4, 0.4),
    RandomErasing(),
]
SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40))


def pictures(num: int = 12, height: int = 9, width: int = 11) -> NDArray[np.uint8]:
    """Smooth ones, with some noise."""
    rng = np.random.default_rng(0)
    waves = np.sin(np.arange(height)[:, None, None] / 3 + np.arange(width)[:, None] / 4 + np.arange(3))
    return np.clip(127 + 90 * waves + rng.normal(0, 30, (num, height, width, 3)), 0, 255).astype(np.uint8)


def file_of(pixels: NDArray[np.uint8], kind: str = "PNG", mode: str = "RGB") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(stream, kind)
    return stream.getvalue()


def table(images: NDArray[np.uint8]) -> pa.Table:
    return pa.table({"image": [file_of(image) for image in images], "label": list(range(len(images)))})


def test_files_become_pixels() -> None:
    images = pictures()
    decoder = ImageDecoder("image", (9, 11))
    np.testing.assert_array_equal(decoder.encode(table(images))["inputs"], images)
    structs = pa.table({"image": [{"bytes": file_of(images[0]), "path": "x.png"}, {"bytes": None, "path": None}]})
    np.testing.assert_array_equal(decoder.encode(structs)["inputs"], [images[0], np.zeros_like(images[0])])
    again = ImageDecoder.from_dict(json.loads(json.dumps(pickle.loads(pickle.dumps(decoder)).to_dict())))
    np.testing.assert_array_equal(again.encode(table(images))["inputs"], images)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_other_sizes_and_modes_are_converted(channels: int, mode: str, kind: str) -> None:
    contents = [file_of(pictures(1, 30, 20)[0], kind, other) for other in ("RGB", "L")]
    found = ImageDecoder("x", (8, 12), channels=channels).encode(pa.table({"x": contents}))["inputs"]
    for image, content in zip(found, contents, strict=True):
        expected = Image.open(io.BytesIO(content)).convert(mode).resize((12, 8), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(image.squeeze(), np.asarray(expected))


def test_what_is_no_image_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = ImageDecoder("image", (9, 11))
    whole = file_of(pictures(1)[0])
    for content in (b"", b"no image", whole[: len(whole) // 2]):
        with pytest.raises(DataError, match="column 'image' has an image that cannot be read"):
            decoder.encode(pa.table({"image": [whole, content]}))
    with pytest.raises(DataError, match="column 'image' holds int64, where the bytes of image files are expected"):
        decoder.encode(pa.table({"image": [1]}))
    with pytest.raises(DataError, match="column 'image' is missing in the data"):
        decoder.encode(pa.table({"images": [whole]}))
    with pytest.raises(ArgumentError, match="channels=2 must be 1, 3 or 4"):
        ImageDecoder("x", (1, 1), channels=2)
    with pytest.raises(ArgumentError, match=r"size=\(0, 1\) must be height and width"):
        ImageDecoder("x", (0, 1))
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(DependencyError, match=r"pip install 'dask-dtk\[images\]'"):
        ImageDecoder("x", (1, 1))


def test_channels_are_measured_in_one_pass(tmp_path: Path) -> None:
    images = pictures(40)
    pq.write_table(table(images), tmp_path / "images.parquet", row_group_size=7)
    decoder = ImageDecoder("image", (9, 11))
    expected = images.reshape(-1, 3) / 255
    for data in (table(images), tmp_path, dd.read_parquet(tmp_path)):
        moments = channel_moments(data, decoder)
        np.testing.assert_allclose(moments.mean, expected.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(moments.std, expected.std(axis=0), rtol=1e-12)
    again = ChannelMoments.from_dict(json.loads(json.dumps(moments.to_dict())))
    assert again.result() == moments.result()
    assert np.isnan(ChannelMoments().mean).all()

    x = ToFloat()(torch.from_numpy(images))
    assert x.shape == (40, 3, 9, 11)
    normal = Normalize(moments.mean.tolist(), moments.std.tolist())(x)
    np.testing.assert_allclose(normal.mean(dim=(0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(normal.std(dim=(0, 2, 3), correction=0), 1, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)), given_size=st.tuples(st.integers(1, 40), st.integers(1, 40))
)
def test_resizing_equals_pillows(size: tuple[int, int], given_size: tuple[int, int]) -> None:
    images = pictures(2, *given_size)
    found = Resize(size)(ToFloat()(torch.from_numpy(images))).permute(0, 2, 3, 1).numpy() * 255
    for image, result in zip(images, found, strict=True):
        expected = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR), np.float64)
        assert np.abs(result - expected).max() <= 1.01


def floats(num: int = 12) -> torch.Tensor:
    return ToFloat()(torch.from_numpy(pictures(num)))


@pytest.mark.parametrize("augmentation", AUGMENTATIONS, ids=lambda each: type(each).__name__)
def test_what_is_drawn_comes_from_seed_and_step_alone(augmentation: Augmentation) -> None:
    images = floats()
    augment = Augment([augmentation, HorizontalFlip(0.3)], seed=5)
    state = torch.get_rng_state(), np.random.get_state()[1].tolist()
    found = augment(images, step=3)
    assert torch.equal(torch.get_rng_state(), state[0])
    assert np.random.get_state()[1].tolist() == state[1]
    torch.rand(1)
    assert torch.equal(augment(images, step=3), found)
    assert not torch.equal(augment(images, step=4), found)
    assert not torch.equal(Augment(augment.augmentations, seed=6)(images, step=3), found)
    parts = [augment(images[:5], step=3), augment(images[5:], step=3, first=5)]  # two ranks
    assert torch.allclose(torch.cat(parts), found, atol=1e-6)
    assert 0 <= found.min() <= found.max() <= 1
    assert torch.equal(augment.eval()(images, step=3), images)


def test_flips_swap_left_and_right() -> None:
    images, draws = floats(3), torch.tensor([[0.1], [0.6], [0.49]])
    found = HorizontalFlip().apply(images, draws)
    assert torch.equal(found[[0, 2]], images[[0, 2]].flip(-1))
    assert torch.equal(found[1], images[1])


def test_crops_are_taken_at_every_place() -> None:
    images = floats(2)
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)))
    found = RandomCrop(padding=2).apply(images, torch.tensor([[0.0, 0.99], [0.5, 0.21]]))
    np.testing.assert_array_equal(found[0], padded[0, :, 0:9, 4:15])
    np.testing.assert_array_equal(found[1], padded[1, :, 2:11, 1:12])
    inner = RandomCrop((4, 5)).apply(images, torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    np.testing.assert_array_equal(inner[0], images[0, :, 5:9, 0:5])
    np.testing.assert_array_equal(inner[1], images[1, :, 0:4, 6:11])
    with pytest.raises(ArgumentError, match=r"size=\(10, 11\) is more than the padded images have: \(9, 11\)"):
        RandomCrop((10, 11)).apply(images, torch.zeros(2, 2))


def test_colours_change_as_in_pillow() -> None:
    from PIL import ImageEnhance

    pixels = pictures(1)
    images = ToFloat()(torch.from_numpy(pixels))
    kinds = {"Brightness": (0.5, 0, 0), "Contrast": (0, 0.5, 0), "Color": (0, 0, 0.5)}
    for name, strengths in kinds.items():
        for draw, factor in ((0.0, 0.5), (1.0, 1.5), (0.5, 1.0)):
            found = ColorJitter(*strengths).apply(images, torch.full((1, 3), draw))[0].permute(1, 2, 0).numpy() * 255
            expected = np.asarray(getattr(ImageEnhance, name)(Image.fromarray(pixels[0])).enhance(factor), np.float64)
            assert np.abs(found - expected).max() <= 2  # Pillow rounds on the way


def test_erasing_blackens_a_rectangle_of_the_wanted_size() -> None:
    images = torch.ones(2, 3, 20, 30)
    erase = RandomErasing(0.5, area=(0.1, 0.2), ratio=(0.5, 2))
    found = erase.apply(images, torch.tensor([[0.1, 1.0, 0.5, 1.0, 0.0], [0.9, 0.5, 0.5, 0.5, 0.5]]))
    side = round((0.2 * 600) ** 0.5)
    expected = np.ones((3, 20, 30))
    expected[:, 20 - side :, :side] = 0
    np.testing.assert_array_equal(found[0], expected)
    assert torch.equal(found[1], images[1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Resize((0, 2)), "size="),
        (lambda: Normalize([0.5], [0.1, 0.2]), "must have one value a channel each"),
        (lambda: Normalize([0.5], [float("nan")]), "must be finite"),
        (lambda: HorizontalFlip(2), "p=2 must lie between 0 and 1"),
        (lambda: RandomCrop(padding=-1), "padding=-1 must be at least 0"),
        (lambda: ColorJitter(contrast=2), "contrast=2 must lie between 0 and 1"),
        (lambda: RandomErasing(area=(0.5, 0.1)), "area="),
        (lambda: RandomErasing(ratio=(0, 1)), "ratio="),
    ],
)
def test_wrong_parameters_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        make()


def test_a_channel_of_one_level_is_only_shifted() -> None:
    assert Normalize([0.25], [0.0])(torch.full((1, 1, 2, 2), 0.5)).unique().item() == 0.25


def test_the_loader_decodes(tmp_path: Path) -> None:
    images = pictures(40)
    pq.write_table(table(images), tmp_path / "images.parquet", row_group_size=10)
    decoder = ImageDecoder("image", (9, 11))
    loader = dtk.Loader(tmp_path, preparation=decoder, target="label", global_batch_size=8, rank=0, ranks=1)
    batches = [(batch["target"].int().tolist(), batch["inputs"].numpy().copy()) for batch in loader]
    seen = {label: image for labels, found in batches for label, image in zip(labels, found, strict=True)}
    np.testing.assert_array_equal(np.stack([seen[number] for number in range(40)]), images)
