"""Which videos are for training: the split that the data names, or a seeded one that keeps near-duplicates together."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

VALIDATION_SHARE = 0.1
DUPLICATE_COSINE = 0.995


def assign_splits(video_ids: Sequence[str], given: Sequence[str | None], features: np.ndarray, seed: int = 0) -> list[str]:
    """Names a split for every video.

    Where the data names any split, videos without one are for training. Where it names none, each group of
    near-duplicates goes to `val` with probability `VALIDATION_SHARE` by a hash of its first name, else to `train`.

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
    chosen = {group: _is_validation(video_id, seed) for group, video_id in first.items()}
    if len(set(chosen.values())) == 1:
        # A handful of videos may all fall on one side: the one whose hash is smallest validates, unless it is the only one.
        chosen = dict.fromkeys(chosen, False)
        chosen[min(first, key=lambda g: _hash(first[g], seed))] = len(first) > 1
    return ["val" if chosen[g] else "train" for g in groups]


def _hash(video_id: str, seed: int) -> float:
    digest = hashlib.sha256(f"{seed}/{video_id}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8]) / 2**64


def _is_validation(video_id: str, seed: int) -> bool:
    return _hash(video_id, seed) < VALIDATION_SHARE


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
