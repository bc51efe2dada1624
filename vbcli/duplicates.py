"""Videos that are nearly the same, by how they look and by their features, and those that leak from one split into another.

Notation: N videos, D dimensions of a feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import faiss
import numpy as np

from vbcli.pixels import HASH_BITS, N_HASHES

HASH_DISTANCE = 0.08
"""Share of the bits of their hashes in which near-duplicates differ at most."""
SIMILARITY = 0.995
"""Cosine of the mean features that near-duplicates have at least."""
N_NEAREST = 16
"""Neighbours that are looked at."""


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
    """By the share of bits in which the hashes differ, nearest first.

    Args:
        hashes: uint64 (N, N_HASHES), of the same places in each video.
    """
    codes = hashes.astype(">u8").view(np.uint8).reshape(len(hashes), -1)
    index = faiss.IndexBinaryFlat(8 * codes.shape[1])
    index.add(codes)
    distances, nearest = index.search(codes, min(len(codes), N_NEAREST + 1))
    return _without_self(nearest, distances / (HASH_BITS * N_HASHES), worst=np.inf)


def feature_neighbours(features: np.ndarray) -> Neighbours:
    """By the cosine of features, nearest first.

    Args:
        features: float32 (N, D).
    """
    unit = np.ascontiguousarray(features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12), np.float32)
    index = faiss.IndexFlatIP(unit.shape[1])
    index.add(unit)
    similarities, nearest = index.search(unit, min(len(unit), N_NEAREST + 1))
    return _without_self(nearest, similarities.astype(np.float64), worst=-np.inf)


def _without_self(nearest: np.ndarray, closeness: np.ndarray, worst: float) -> Neighbours:
    n, k = len(nearest), max(nearest.shape[1] - 1, 0)
    kept, close = np.full((n, k), -1), np.full((n, k), worst)
    for i in range(n):
        others = np.flatnonzero(nearest[i] != i)[:k]
        kept[i, : len(others)], close[i, : len(others)] = nearest[i, others], closeness[i, others]
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


def near_pairs(hashes: Neighbours | None, features: Neighbours | None) -> list[tuple[int, int]]:
    """Pairs of near-duplicates: by their hashes, or by their features."""
    pairs = []
    for found, is_near in ((hashes, lambda d: d <= HASH_DISTANCE), (features, lambda s: s >= SIMILARITY)):
        if found is not None:
            rows, columns = np.nonzero(is_near(found.closeness) & (found.nearest >= 0))
            pairs += list(zip(rows.tolist(), found.nearest[rows, columns].tolist(), strict=True))
    return pairs
