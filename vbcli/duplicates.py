"""Videos that are nearly the same, by how they look and by their features, and those that leak from one split into another.

Notation: N videos, D dimensions of a feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import faiss
import numpy as np

from vbcli.pixels import HASH_BITS, N_HASHES

HASH_DISTANCE = 0.2
"""Share of the bits of their hashes in which near-duplicates differ at most; docs/folders.md has what it finds."""
SIMILARITY = 0.9
"""Cosine of the mean features that near-duplicates have at least: of the default encoder's."""
N_NEAREST = 16
"""Neighbours that are looked at."""
MIN_COMPARED = N_HASHES // 2 + 1
"""Frames that two videos must both have a hash of, to be compared by them: plain ones have none."""
_BLOCK = 1 << 22


@dataclass(frozen=True)
class Neighbours:
    """The nearest others of each video.

    Args:
        nearest: int64 (N, K), -1 where there are none.
        closeness: float64 (N, K), similarity or distance.
    """

    nearest: np.ndarray
    closeness: np.ndarray


def hash_neighbours(hashes: np.ndarray) -> Neighbours:
    """By the share of bits in which the hashes differ, also from those of the mirrored video, nearest first.

    Args:
        hashes: uint64 (N, N_HASHES), of the same places in each video; 0 has no say.
    """
    n = len(hashes)
    bits = np.unpackbits(hashes.astype(">u8").view(np.uint8).reshape(n, N_HASHES, -1), axis=2)
    has_hash = (hashes != 0).astype(np.float32)
    signs = (2 * bits.astype(np.float32) - 1) * has_hash[:, :, None]
    # A mirrored picture has the odd frequencies across with the other sign.
    mirrored = (signs.reshape(n, N_HASHES, -1, 8) * np.array([1, -1] * 4, np.float32)).reshape(n, -1)
    signs = signs.reshape(n, -1)
    k = min(n - 1, N_NEAREST)
    nearest, closeness = np.full((n, k), -1), np.full((n, k), np.inf)
    size = max(1, _BLOCK // n)
    for start in range(0, n if k else 0, size):
        rows = np.arange(start, min(start + size, n))
        n_compared = has_hash[rows] @ has_hash.T
        agreeing = np.maximum(signs[rows] @ signs.T, mirrored[rows] @ signs.T) / (HASH_BITS * np.maximum(n_compared, 1))
        distances = np.where(n_compared >= MIN_COMPARED, (1 - agreeing) / 2, np.inf)
        distances[rows - start, rows] = np.inf
        found = np.argpartition(distances, k - 1, axis=1)[:, :k]
        found = np.take_along_axis(found, np.argsort(np.take_along_axis(distances, found, 1), axis=1, kind="stable"), 1)
        closeness[rows] = np.take_along_axis(distances, found, 1)
        nearest[rows] = np.where(np.isfinite(closeness[rows]), found, -1)
    return Neighbours(nearest, closeness)


def feature_neighbours(features: np.ndarray) -> Neighbours:
    """By the cosine of features, nearest first.

    Args:
        features: float32 (N, D); a row that holds a NaN is of a video that is compared with none.
    """
    n = len(features)
    places = np.flatnonzero(~np.isnan(features).any(1))
    features = features[places]
    unit = np.ascontiguousarray(features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12), np.float32)
    index = faiss.IndexFlatIP(unit.shape[1])
    index.add(unit)
    similarities, nearest = index.search(unit, min(len(unit), N_NEAREST + 1))
    k = max(nearest.shape[1] - 1, 0)
    kept, close = np.full((n, k), -1), np.full((n, k), -np.inf)
    for i, place in enumerate(places):
        others = np.flatnonzero(nearest[i] != i)[:k]
        kept[place], close[place] = places[nearest[i, others]], similarities[i, others]
    return Neighbours(kept, close)


def group_pairs(n: int, pairs: Sequence[tuple[int, int]]) -> list[int]:
    """The first member of the group that each of n belongs to, where pairs belong together."""
    first = list(range(n))

    def find(i: int) -> int:
        while first[i] != i:
            first[i] = first[first[i]]
            i = first[i]
        return i

    for one, other in pairs:
        a, b = sorted((find(one), find(other)))
        first[b] = a
    return [find(i) for i in range(n)]


def near_pairs(
    hashes: Neighbours, features: Neighbours | None, hash_distance: float = HASH_DISTANCE, similarity: float = SIMILARITY
) -> list[tuple[int, int]]:
    """Pairs of near-duplicates: by their hashes, or by their features."""
    pairs = []
    for found, is_near in ((hashes, lambda d: d <= hash_distance), (features, lambda s: s >= similarity)):
        if found is not None:
            rows, columns = np.nonzero(is_near(found.closeness) & (found.nearest >= 0))
            pairs += list(zip(rows.tolist(), found.nearest[rows, columns].tolist(), strict=True))
    return pairs
