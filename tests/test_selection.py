"""Selection against brute force over all sets."""

from __future__ import annotations

import itertools
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbcli.selection import Coverage, choose_some, choose_within


def coverage_of(seed: int, n_clips: int, n_candidates: int) -> Coverage:
    rng = np.random.default_rng(seed)
    # A few scenes that come back, so that candidates repeat each other.
    scenes = rng.normal(size=(3, 8))
    features = scenes[rng.integers(3, size=n_clips)] + 0.3 * rng.normal(size=(n_clips, 8))
    tokens = rng.integers(6, size=(n_clips, 2))
    candidates = [rng.choice(n_clips, size=rng.integers(1, 3), replace=False) for _ in range(n_candidates)]
    return Coverage(features, tokens, candidates)


def best_of(coverage: Coverage, sets: list[tuple[int, ...]]) -> float:
    return max(coverage.value(chosen) for chosen in sets)


@given(st.integers(0, 10_000), st.integers(3, 9), st.integers(1, 7), st.integers(1, 4))
def test_greedy_choices_reach_their_share_of_the_best(seed: int, n_clips: int, n: int, k: int) -> None:
    coverage = coverage_of(seed, n_clips, n)
    found = choose_some(coverage, k)
    assert len({c.index for c in found}) == len(found) == min(n, k)
    assert sum(c.gain for c in found) == pytest.approx(coverage.value([c.index for c in found]))
    assert coverage.value([c.index for c in found]) >= (1 - 1 / math.e) * best_of(
        coverage, list(itertools.combinations(range(n), min(n, k)))
    )


@given(st.integers(0, 10_000), st.integers(3, 9), st.integers(1, 7), st.floats(0.2, 6))
def test_choices_within_a_budget_keep_it_and_reach_their_share(seed: int, n_clips: int, n: int, budget: float) -> None:
    coverage = coverage_of(seed, n_clips, n)
    costs = np.random.default_rng(seed).uniform(0.2, 2, size=n)
    found = [c.index for c in choose_within(coverage, costs, budget)]
    assert costs[found].sum() <= budget + 1e-6
    allowed = [s for k in range(n + 1) for s in itertools.combinations(range(n), k) if costs[list(s)].sum() <= budget]
    assert coverage.value(found) >= 0.5 * (1 - 1 / math.e) * best_of(coverage, allowed)


@given(st.integers(0, 10_000), st.integers(2, 7))
def test_a_candidate_adds_less_to_more(seed: int, n: int) -> None:
    coverage = coverage_of(seed, 6, n)
    small, large = [0], list(range(n - 1))
    assert (coverage.gains(large) <= coverage.gains(small) + 1e-12).all()
    assert coverage.gains(small) == pytest.approx([coverage.value([*small, i]) - coverage.value(small) for i in range(n)])


def test_what_repeats_is_chosen_last() -> None:
    # Two scenes; the first three candidates show one of them.
    features = np.array([[1, 0], [1, 0], [1, 0], [0, 1]], float)
    tokens = np.array([[0], [0], [0], [1]])
    found = choose_some(Coverage(features, tokens, [np.array([i]) for i in range(4)]), 2)
    assert {c.index for c in found} == {0, 3}
    # Covered by hand: similarities 1, 1, 1 and 1/2, tokens 3 of 4; then the rest.
    assert [c.gain for c in found] == pytest.approx([(3.5 / 4 + 3 / 4) / 2, (0.5 / 4 + 1 / 4) / 2])


def test_a_long_video_takes_memory_in_proportion_to_its_clips() -> None:
    rng = np.random.default_rng(0)
    # Five scenes one after the other, the third shorter than the others.
    lengths = [1500, 1500, 300, 1300, 1400]
    scenes = np.repeat(np.arange(5), lengths)
    features = np.eye(5)[scenes] + 0.05 * rng.normal(size=(6000, 5))
    tracemalloc.start()
    try:
        coverage = Coverage(features, np.stack([scenes, np.arange(6000)], 1), [np.array([i]) for i in range(6000)])
        found = [c.index for c in choose_some(coverage, 5)]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Of 6000 by 6000 clips, or clips and tokens, one table alone would have 288 MB.
    assert peak < 250e6
    assert sorted(scenes[found].tolist()) == [0, 1, 2, 3, 4]
    # By brute force over every third clip.
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    nearest = [max((1 + unit[i] @ unit[k]) / 2 for k in found) for i in range(0, 6000, 3)]
    # All tokens of the first kind, and one of 6000 for each choice.
    assert coverage.value(found) == pytest.approx((np.mean(nearest) + (6000 + 5) / 12000) / 2)
    assert coverage.value(found[:2]) < coverage.value(found)
