"""Scores of summaries, by hand."""

from __future__ import annotations

import pytest

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


def test_even_distances() -> None:
    assert evenly_spaced([(0, 1), (3, 6)], 20) == [(4, 6), (14, 16)]
