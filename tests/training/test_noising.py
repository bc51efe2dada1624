"""Noising: rates against the paper's definitions over many draws, and what must hold for every text."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbcli.errors import VbcliError
from vbcli.training.noising import (
    NoiseConfig,
    add_noise,
    delete_tokens,
    infill_text,
    mask_text,
    permute_sentences,
    rotate_document,
)

MASK = 4
texts = st.lists(st.integers(10, 99), max_size=60).map(lambda ids: np.array(ids, np.int64))
seeds = st.integers(0, 2**32 - 1)


def within_three_errors(found: float, expected: float, variance: float, n: int, n_errors: float = 3) -> bool:
    return abs(found - expected) <= n_errors * math.sqrt(variance / n)


def test_masked_and_deleted_shares():
    rng, ids, n = np.random.default_rng(1), np.arange(10, 60), 2000
    masked = np.concatenate([mask_text(ids, 0.3, MASK, rng) == MASK for _ in range(n)])
    assert within_three_errors(float(masked.mean()), 0.3, 0.21, masked.size)
    left = sum(len(delete_tokens(ids, 0.2, rng)) for _ in range(n)) / (n * len(ids))
    assert within_three_errors(left, 0.8, 0.16, n * len(ids))


def test_infilled_spans_are_poisson_and_cover_the_rate():
    rng, ids, n = np.random.default_rng(2), np.arange(10, 100), 12_000
    drawn = [infill_text(ids, 0.3, MASK, rng) for _ in range(n)]
    lengths = np.array([len(span) for d in drawn for span in d.spans])
    assert len(lengths) > 100_000
    for k in range(9):
        p = math.exp(-3) * 3**k / math.factorial(k)
        assert within_three_errors(float((lengths == k).mean()), p, p * (1 - p), len(lengths)), k
    covered = np.array([sum(map(len, d.spans)) / len(ids) for d in drawn])
    assert within_three_errors(float(covered.mean()), 0.3, float(covered.var()), n)


def test_the_number_of_spans_is_right_on_average_where_it_is_no_whole_number():
    rng, ids, n = np.random.default_rng(3), np.arange(10, 25), 20_000  # 0.3 * 15 / 3 = 1.5 spans
    counts = Counter(len(infill_text(ids, 0.3, MASK, rng).spans) for _ in range(n))
    assert set(counts) == {1, 2}
    assert within_three_errors(counts[2] / n, 0.5, 0.25, n)


def test_spans_lie_anywhere_alike():
    """Every token is hidden as often as every other: no edge is favoured by more than the definition implies."""
    rng, ids, n = np.random.default_rng(4), np.arange(6), 60_000
    starts = Counter()
    for _ in range(n):
        found = infill_text(ids, 0.5, MASK, rng)  # one span
        starts[(len(found.spans[0]), int(np.argmax(found.is_mask)))] += 1
    for length in range(5):
        by_place = [starts[(length, place)] for place in range(6 - length + 1)]
        total, p = sum(by_place), 1 / len(by_place)
        # 25 shares are looked at, hence the wider bound.
        assert all(within_three_errors(count / total, p, p * (1 - p), total, 4) for count in by_place), (length, by_place)


def test_every_order_and_every_rotation_comes_as_often():
    rng, n = np.random.default_rng(5), 30_000
    sentences = [[1], [2, 2], [3]]
    orders = Counter(tuple(map(tuple, permute_sentences(sentences, rng))) for _ in range(n))
    assert set(orders) == set(itertools.permutations(map(tuple, sentences)))
    assert all(within_three_errors(count / n, 1 / 6, 5 / 36, n) for count in orders.values())
    rotated = Counter(tuple(rotate_document(np.arange(4), rng)) for _ in range(n))
    assert set(rotated) == {(0, 1, 2, 3), (1, 2, 3, 0), (2, 3, 0, 1), (3, 0, 1, 2)}
    assert all(within_three_errors(count / n, 1 / 4, 3 / 16, n) for count in rotated.values())


@given(texts, st.floats(0, 0.9), seeds)
def test_infilling_restores(ids: np.ndarray, rate: float, seed: int):
    found = infill_text(ids, rate, MASK, np.random.default_rng(seed))
    assert found.restore().tolist() == ids.tolist()
    assert (found.input_ids == MASK).tolist() == found.is_mask.tolist()
    assert len(found.spans) == found.is_mask.sum()


@given(texts, st.floats(0, 0.9), seeds)
def test_lengths_and_order(ids: np.ndarray, rate: float, seed: int):
    rng = np.random.default_rng(seed)
    masked = mask_text(ids, rate, MASK, rng)
    assert len(masked) == len(ids)
    assert ((masked == ids) | (masked == MASK)).all()
    left = iter(ids.tolist())
    assert all(any(token == other for other in left) for token in delete_tokens(ids, rate, rng))  # a subsequence
    rotated = rotate_document(ids, rng).tolist()
    assert rotated in [ids.tolist()[i:] + ids.tolist()[:i] for i in range(max(1, len(ids)))]


@given(st.lists(st.lists(st.integers(10, 99), min_size=1, max_size=8), max_size=6), seeds)
def test_noise_is_a_function_of_the_generator(sentences: list[list[int]], seed: int):
    config = NoiseConfig(mask_rate=0.1, delete_rate=0.1, rotate=True)
    one, other = (add_noise(sentences, config, MASK, np.random.default_rng(seed)) for _ in range(2))
    assert one.tolist() == other.tolist()
    assert set(one.tolist()) <= {MASK, *itertools.chain(*sentences)}


def test_without_noise_a_text_stays():
    config = NoiseConfig(permute_sentences=False, infill_rate=0)
    assert add_noise([[11, 12], [13]], config, MASK, np.random.default_rng(0)).tolist() == [11, 12, 13]


def test_rates_out_of_range_are_refused():
    with pytest.raises(VbcliError, match="infill_rate 1 is not in"):
        NoiseConfig(infill_rate=1.0)
