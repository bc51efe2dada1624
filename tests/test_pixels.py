"""Measures of made pictures whose values are known, and hashes against their definition and against changes of look."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont

from vbcli import pixels


def photo(seed: int = 0, size: tuple[int, int] = (240, 180)) -> Image.Image:
    """Smooth blobs with some detail: like a photograph in its frequencies."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(size[1], size[0], 3))
    spectrum = np.fft.fft2(noise, axes=(0, 1))
    fy, fx = np.meshgrid(np.fft.fftfreq(size[1]), np.fft.fftfreq(size[0]), indexing="ij")
    spectrum /= np.maximum(np.hypot(fx, fy), 0.01)[..., None] ** 1.2
    picture = np.fft.ifft2(spectrum, axes=(0, 1)).real
    picture = (picture - picture.min()) / np.ptp(picture)
    return Image.fromarray((picture * 255).astype(np.uint8))


def luma(picture: Image.Image) -> np.ndarray:
    return pixels.luma(np.asarray(picture.convert("RGB")))


def test_luma_of_pure_colours() -> None:
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]], np.uint8)
    assert pixels.luma(colours)[0] == pytest.approx([0.299, 0.587, 0.114, 1.0], abs=1e-6)


def test_sharpness_by_hand_and_where_a_picture_is_blurred() -> None:
    # One white point: its Laplacian is -4 there and 1 beside it.
    point = np.zeros((9, 9))
    point[4, 4] = 1
    values = np.zeros(81)
    values[:5] = [-4, 1, 1, 1, 1]
    assert pixels.sharpness(point) == pytest.approx(values.var())
    picture = photo()
    levels = [pixels.sharpness(luma(picture.filter(ImageFilter.GaussianBlur(radius)))) for radius in (0, 1, 3)]
    assert levels[0] > 3 * levels[1] > 3 * levels[2]


def test_motion_and_black() -> None:
    dark, bright = np.full((10, 10), 0.2), np.full((10, 10), 0.7)
    assert pixels.motion(dark, bright) == pytest.approx(0.5)
    assert pixels.is_black(np.full((10, 10), 16 / 255))
    assert not pixels.is_black(dark)
    starry = np.zeros((10, 10))
    starry[::3, ::3] = 0.4  # dark, but something is there
    assert starry.mean() < 0.07
    assert not pixels.is_black(starry)


def test_lines_of_text_are_found_and_their_area_is_about_right() -> None:
    plain = photo(3)
    written = plain.copy()
    draw = ImageDraw.Draw(written)
    font = ImageFont.load_default(size=18)
    area = 0.0
    for line, y in (("now add the onions", 120), ("and stir them well", 148)):
        draw.text((20, y), line, fill="white", font=font, stroke_width=1, stroke_fill="black")
        left, top, right, bottom = draw.textbbox((20, y), line, font=font)
        area += (right - left) * (bottom - top)
    found = pixels.text_share(luma(written))
    assert found == pytest.approx(area / (240 * 180), rel=0.5)
    assert pixels.text_share(luma(plain)) < found / 5
    assert pixels.text_share(np.full((100, 100), 0.5)) == 0


def bits(number: int) -> np.ndarray:
    return np.unpackbits(np.array([number], ">u8").view(np.uint8))


def hash_of(picture: Image.Image) -> int:
    small = picture.convert("L").resize((pixels.HASH_SIDE, pixels.HASH_SIDE), Image.Resampling.LANCZOS)
    return pixels.perceptual_hash(np.asarray(small) / 255)


def test_the_hash_is_that_of_its_definition() -> None:
    small = np.random.default_rng(0).random((32, 32))
    # The cosine transform written out, whatever its scale: signs against a median do not depend on it, but the first row and column do.
    k, n = np.meshgrid(np.arange(32), np.arange(32), indexing="ij")
    basis = np.cos(np.pi * (2 * n + 1) * k / 64) * np.where(k == 0, np.sqrt(1 / 32), np.sqrt(2 / 32))
    low = (basis @ small @ basis.T)[:8, :8].ravel()
    assert bits(pixels.perceptual_hash(small)).astype(bool).tolist() == (low > np.median(low[1:])).tolist()


def test_what_looks_the_same_has_nearly_the_same_hash() -> None:
    picture = photo(1)
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=20)
    alike = [
        Image.open(data),
        picture.resize((120, 90)),
        picture.filter(ImageFilter.GaussianBlur(1)),
        ImageEnhance.Brightness(picture).enhance(1.2),
    ]
    for other in alike:
        assert (bits(hash_of(picture)) != bits(hash_of(other))).sum() <= 5
    different = [(bits(hash_of(photo(i))) != bits(hash_of(photo(i + 50)))).sum() for i in range(20)]
    assert min(different) > 12


def test_a_plain_picture_has_no_hash_and_a_faint_one_has() -> None:
    for value in (0, 16, 128, 255):
        plain = np.clip(value + np.random.default_rng(0).normal(0, 2, (180, 240, 1)), 0, 255)
        assert hash_of(Image.fromarray(np.repeat(plain, 3, 2).astype(np.uint8))) == 0
    assert hash_of(ImageEnhance.Contrast(photo(1)).enhance(0.3)) != 0


@pytest.mark.parametrize(("n", "expected"), [(1, [0] * 5), (5, [0, 1, 2, 3, 4]), (10, [1, 3, 5, 7, 9]), (3, [0, 0, 1, 2, 2])])
def test_hashed_frames_are_spread_over_the_video(n: int, expected: list[int]) -> None:
    assert pixels.hashed_frames(n) == expected
