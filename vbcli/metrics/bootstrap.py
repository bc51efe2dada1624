"""How sure a difference between two systems is that were asked about the same videos."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

N_RESAMPLED = 10_000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Gain:
    """A mean difference and the interval that holds it with 95 % confidence."""

    mean: float
    low: float
    high: float


def paired_gain(scores: np.ndarray, others: np.ndarray, seed: int = 0) -> Gain:
    """The mean of what one system scores above another, video by video, by the percentile bootstrap over videos.

    Args:
        scores: float (N,), a score a video.
        others: float (N,), of the other system, of the same videos.

    Source: Efron and Tibshirani 1993, chapter 13; Koehn 2004 for pairs.
    """
    gains = np.asarray(scores, float) - np.asarray(others, float)
    rng = np.random.default_rng(seed)
    means = np.array([gains[rng.integers(0, len(gains), len(gains))].mean() for _ in range(N_RESAMPLED)])
    low, high = np.quantile(means, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return Gain(float(gains.mean()), float(low), float(high))
