"""Scores of retrieval: recall at k and the median rank, in both directions.

Notation: Q queries, A candidates.

Source: Radford et al. 2021 (CLIP) and Bain et al. 2021 (Frozen in time), table 5, for the figures.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RECALLED = (1, 5, 10)


def rank_of_right(scores: np.ndarray, is_right: np.ndarray) -> np.ndarray:
    """Rank of the best right candidate of each query, int (Q,), the first is 1; of equal scores the wrong ones come first.

    A score that is no number is the best of a wrong candidate and the worst of a right one.

    Args:
        scores: float (Q, A).
        is_right: bool (Q, A), at least one a query.
    """
    best = np.where(is_right & ~np.isnan(scores), scores, -np.inf).max(1, keepdims=True)  # (Q, 1)
    # Not `scores >= best`, which nothing is that is no number.
    return 1 + (~(scores < best) & ~is_right).sum(1)


def score_ranks(ranks: Sequence[int] | np.ndarray) -> dict[str, float]:
    """`R@1`, `R@5`, `R@10` in [0, 1], and the `median rank`."""
    found = np.asarray(ranks)
    return {**{f"R@{k}": float((found <= k).mean()) for k in RECALLED}, "median rank": float(np.median(found))}


def chance_scores(is_right: np.ndarray) -> dict[str, float]:
    """What a random order of the candidates is expected to score; the median is over the queries' expected ranks.

    Args:
        is_right: bool (Q, A), at least one a query.
    """
    n, right = is_right.shape[1], is_right.sum(1)  # r right ones are all behind k places with probability C(n - r, k) / C(n, k)
    recalls = {}
    for k in RECALLED:
        places = np.arange(min(k, n))
        missed = np.clip((n - right[:, None] - places) / (n - places), 0, 1).prod(1)
        recalls[f"R@{k}"] = float((1 - missed).mean())
    return {**recalls, "median rank": float(np.median((n + 1) / (right + 1)))}
