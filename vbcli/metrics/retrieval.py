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

    Args:
        scores: float (Q, A).
        is_right: bool (Q, A), at least one a query.
    """
    best = np.where(is_right, scores, -np.inf).max(1, keepdims=True)  # (Q, 1)
    return 1 + ((scores >= best) & ~is_right).sum(1)


def score_ranks(ranks: Sequence[int] | np.ndarray) -> dict[str, float]:
    """`R@1`, `R@5`, `R@10` in [0, 1], and the `median rank`."""
    found = np.asarray(ranks)
    return {**{f"R@{k}": float((found <= k).mean()) for k in RECALLED}, "median rank": float(np.median(found))}
