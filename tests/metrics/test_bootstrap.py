"""Intervals of gains, against the formula for many videos and by what must hold."""

from __future__ import annotations

import numpy as np
import pytest

from vbcli.metrics.bootstrap import paired_gain


def test_with_many_videos_the_interval_is_that_of_the_normal_distribution():
    rng = np.random.default_rng(1)
    others = rng.normal(size=2000)
    scores = others + rng.normal(0.1, 0.5, size=2000)
    found = paired_gain(scores, others)
    gains = scores - others
    error = gains.std(ddof=1) / 2000**0.5
    assert found.mean == pytest.approx(gains.mean())
    assert (found.low, found.high) == pytest.approx((gains.mean() - 1.96 * error, gains.mean() + 1.96 * error), abs=0.1 * error)


def test_pairs_count_not_how_much_videos_differ():
    others = np.random.default_rng(2).normal(0, 100, size=50)
    found = paired_gain(others + 1, others)
    assert (found.mean, found.low, found.high) == pytest.approx((1, 1, 1))
