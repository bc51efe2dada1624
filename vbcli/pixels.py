"""Measures of pictures: how bright, how sharp, how much they move, how much looks like text, and a hash of how they look.

Notation: F frames of a video, H height and W width in pixels. Luma is from 0 (black) to 1 (white).
"""

from __future__ import annotations

from typing import cast

import numpy as np
from scipy import fft, ndimage

BLACK, BLACK_PEAK = 0.08, 0.12
"""A frame is black whose mean luma, and whose 99 % brightest pixel, are below these: 16 of 255 is television's black."""
FROZEN = 0.002
"""Two frames are the same whose mean difference in luma is less: what coding alone changes."""
HASH_SIDE, HASH_BITS = 32, 64
PLAIN = 0.016
"""A picture has no structure to be recognised by whose luma, HASH_SIDE pixels wide, has a smaller standard deviation: 4 of 255."""
N_HASHES = 5
"""Frames of a video that are hashed, from its beginning to its end."""

_EDGE = 0.12
_TEXT_GAP_PX, _TEXT_HEIGHT_PX = 9, 6
_TEXT_ASPECT, _TEXT_FILL = 2.0, 0.45


def luma(pixels: np.ndarray) -> np.ndarray:
    """Luma of an RGB picture, uint8 (H, W, 3) to float32 (H, W); BT.601, as JPEG has it."""
    return (pixels.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)) / 255


def sharpness(picture: np.ndarray) -> float:
    """Variance of the Laplacian of a luma picture (H, W): low where it is out of focus or was enlarged.

    Source: Pech-Pacheco et al. 2000, "Diatom autofocusing in brightfield microscopy", section 3 (LAPV).
    """
    return float(ndimage.laplace(picture.astype(np.float64)).var())


def motion(before: np.ndarray, after: np.ndarray) -> float:
    """Mean absolute difference of two luma pictures (H, W), 0 to 1."""
    return float(np.abs(after - before).mean())


def is_black(picture: np.ndarray) -> bool:
    """Whether a luma picture (H, W) shows nothing."""
    return bool(picture.mean() < BLACK and np.quantile(picture, 0.99) < BLACK_PEAK)


def text_share(picture: np.ndarray) -> float:
    """Share of a luma picture (H, W) that looks like lines of text: wide boxes that are full of upright edges. 0 to 1.

    It takes no other than a rough guess: fences and railings count, too.

    Source: Wu et al. 1997, "Finding text in images", section 3 (strokes that are dense along a line, and grouped).
    """
    edges = np.abs(ndimage.sobel(picture, axis=1) / 4) > _EDGE
    joined = ndimage.binary_closing(edges, np.ones((1, _TEXT_GAP_PX), bool))
    joined = ndimage.binary_opening(joined, np.ones((_TEXT_HEIGHT_PX // 2, 1), bool))
    labels, _ = cast(tuple[np.ndarray, int], ndimage.label(joined))
    area = 0
    parts: list[tuple[slice, slice]] = ndimage.find_objects(labels)
    for part in parts:
        rows, columns = part
        height, width = rows.stop - rows.start, columns.stop - columns.start
        box = edges[part]
        if height >= _TEXT_HEIGHT_PX and width >= _TEXT_ASPECT * height and joined[part].mean() >= _TEXT_FILL and box.any(0).mean() > 0.3:
            area += height * width
    return area / picture.size


def perceptual_hash(picture: np.ndarray) -> int:
    """64 bits that pictures of the same look share: the signs of the lowest frequencies against their median. 0 of a plain picture.

    Args:
        picture: float (HASH_SIDE, HASH_SIDE), luma.

    Source: Zauner 2010, "Implementation and Benchmarking of Perceptual Image Hash Functions", section 3.2.1.
    """
    if picture.std() < PLAIN:
        return 0
    low = np.asarray(fft.dctn(picture.astype(np.float64), norm="ortho"))[:8, :8].ravel()
    bits = low > np.median(low[1:])
    return int(np.packbits(bits).view(">u8")[0])


def hashed_frames(n_frames: int) -> list[int]:
    """Which frames of a video are hashed: `N_HASHES`, evenly spread; of fewer frames some are hashed several times."""
    return [int((i + 0.5) * n_frames / N_HASHES) for i in range(N_HASHES)]
