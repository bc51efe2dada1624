"""Scores of summaries, by hand."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbcli.metrics.summaries import evenly_spaced, event_scores

EVENTS = [("rain", 0.0, 4.0), ("sun", 4.0, 10.0), ("rain", 10.0, 12.0), ("night", 12.0, 20.0)]


@pytest.mark.parametrize(
    ("segments", "precision", "recall"),
    [
        ([(0, 2), (5, 7), (13, 15)], 1, 1),
        # The rain comes back: it need not be shown twice.
        ([(0, 2), (10, 12)], 1 / 2, 1 / 3),
        # The middle decides, and an end belongs to what follows.
        ([(3, 5)], 1, 1 / 3),
        ([(30, 31)], 0, 0),
        ([], 0, 0),
    ],
)
def test_events_are_shown_by_the_middles_of_segments(segments: list[tuple[float, float]], precision: float, recall: float) -> None:
    found = event_scores(segments, EVENTS)
    f1 = 2 * precision * recall / (precision + recall) if precision else 0
    assert (found["precision"], found["recall"], found["F1"]) == pytest.approx((precision, recall, f1))


def test_a_segment_that_shows_two_events_is_one() -> None:
    found = event_scores([(0, 1)], [("a", 0, 2), ("b", 0, 2)])
    assert found == {"precision": 1, "recall": 1, "F1": 1}


TIMES = st.tuples(st.integers(0, 8), st.integers(1, 6)).map(lambda at: (at[0], at[0] + at[1]))


@given(st.lists(TIMES, min_size=1, max_size=4), st.lists(st.tuples(st.sampled_from("abcde"), TIMES), min_size=1, max_size=6))
def test_precision_is_that_of_the_best_way_to_give_segments_events(segments: list, named: list) -> None:
    events = [(name, *times) for name, times in named]
    found = event_scores(segments, events)
    names = sorted({name for name, _, _ in events}) + [None] * len(segments)
    counts = [
        sum(any(n == name and a <= sum(segment) / 2 < b for n, a, b in events) for segment, name in zip(segments, given, strict=True))
        for given in itertools.permutations(names, len(segments))
    ]
    assert found["precision"] == pytest.approx(max(counts) / len(segments))
    assert all(0 <= value <= 1 for value in found.values())


def test_even_distances() -> None:
    assert evenly_spaced([(0, 1), (3, 6)], 20) == [(4, 6), (14, 16)]
