"""Recall and ranks by hand, and against sorting."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbcli.metrics.retrieval import chance_scores, rank_of_right, score_ranks


def test_ranks_by_hand():
    scores = np.array([[0.9, 0.5, 0.1], [0.2, 0.2, 0.8], [0.3, 0.4, 0.1]])
    is_right = np.array([[True, False, False], [True, False, False], [True, False, True]])
    # The second: one is better, and an equal one counts as better, too. The third: the better of two right ones.
    assert rank_of_right(scores, is_right).tolist() == [1, 3, 2]
    assert score_ranks([1, 3, 2, 30]) == {"R@1": 0.25, "R@5": 0.75, "R@10": 0.75, "median rank": 2.5}


def test_a_score_that_is_no_number_wins_nothing():
    nan = np.nan
    scores = np.array([[nan, 1, 0.5], [0.7, nan, 0.5], [nan, nan, nan], [nan, 0.3, 0.5]])
    is_right = np.array([[1, 0, 0], [1, 0, 0], [1, 0, 0], [1, 1, 0]], bool)
    # All wrong ones are ahead; the one without a number is; all are; the other right one counts.
    assert rank_of_right(scores, is_right).tolist() == [3, 2, 3, 2]


@given(st.integers(0, 10_000))
def test_ranks_are_places_in_the_sorted_list(seed: int):
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(6, 9))
    right = rng.integers(0, 9, 6)
    ranks = rank_of_right(scores, np.arange(9) == right[:, None])
    order = np.argsort(-scores, axis=1)
    assert ranks.tolist() == [1 + row.tolist().index(r) for row, r in zip(order, right, strict=True)]
    assert score_ranks(ranks)["R@5"] == pytest.approx(np.mean(ranks <= 5))


def test_chance_is_the_mean_over_all_orders():
    is_right = np.array([[True, False, False, True, False, False], [False, False, True, False, False, False]])
    orders = [rank_of_right(np.array([order, order], float), is_right) for order in itertools.permutations(range(6))]
    found = chance_scores(is_right)
    for k in (1, 5):
        assert found[f"R@{k}"] == pytest.approx(np.mean([ranks <= k for ranks in orders]))
    assert found["R@10"] == 1
    assert found["median rank"] == pytest.approx(np.median(np.mean(orders, 0)))
