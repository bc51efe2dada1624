"""Which videos are for training: the split that the data names, or a seeded one that keeps near-duplicates together."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np

VALIDATION_SHARE = 0.1
MAX_VALIDATION_SHARE = 0.2
DUPLICATE_COSINE = 0.995


def assign_splits(video_ids: Sequence[str], given: Sequence[str | None], features: np.ndarray, seed: int = 0) -> list[str]:
    """Names a split for every video.

    Where the data names any split, videos without one are for training. Where it names none, each group of
    near-duplicates goes to `val` with probability `VALIDATION_SHARE` by a hash of its first name, else to `train`. Of a
    handful of videos no more than `MAX_VALIDATION_SHARE` validate, and at least one group, unless it is the only one.

    Args:
        given: the split that the data names, or None, by video.
        features: float32 (N, D), the mean feature of each video.
        seed: enters the hash.

    Returns:
        One split a video.
    """
    if any(given):
        return [s or "train" for s in given]
    groups = group_duplicates(features)
    first: dict[int, str] = {}
    for group, video_id in sorted(zip(groups, video_ids, strict=True), key=lambda pair: pair[1]):
        first.setdefault(group, video_id)
    hashes = {group: _hash(video_id, seed) for group, video_id in first.items()}
    chosen = _choose_validation(hashes, Counter(groups))
    return ["val" if g in chosen else "train" for g in groups]


def _choose_validation(hashes: dict[int, float], sizes: Counter[int]) -> set[int]:
    if len(hashes) == 1:
        return set()
    limit = max(1, int(MAX_VALIDATION_SHARE * sizes.total()))
    chosen: set[int] = set()
    for group in sorted(hashes, key=lambda g: hashes[g]):
        if hashes[group] >= VALIDATION_SHARE and chosen:
            break
        if sum(sizes[g] for g in chosen) + sizes[group] <= limit:
            chosen.add(group)
    return chosen or {min(hashes, key=lambda g: (sizes[g], hashes[g]))}


def _hash(video_id: str, seed: int) -> float:
    digest = hashlib.sha256(f"{seed}/{video_id}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8]) / 2**64


def group_duplicates(features: np.ndarray, cosine: float = DUPLICATE_COSINE, block: int = 1024) -> list[int]:
    """Groups rows joined by chains of near-equal direction.

    Args:
        features: float32 (N, D).
        cosine: two rows at or above this are near-duplicates.

    Returns:
        The number of its group for each row; groups are numbered by their first row.
    """
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    groups = np.arange(len(unit))
    for start in range(0, len(unit), block):
        for similar in unit[start : start + block] @ unit.T >= cosine:
            joined = np.unique(groups[similar])
            if len(joined) > 1:
                groups[np.isin(groups, joined)] = joined[0]
    return groups.tolist()
