"""Scores of summaries: which events they show, and how often they show the same again."""

from __future__ import annotations

from collections.abc import Sequence

Span = tuple[float, float]
"""Start and end in seconds."""
Event = tuple[str, float, float]
"""What happens, start and end in seconds; what happens again has the same name."""


def event_scores(segments: Sequence[Span], events: Sequence[Event]) -> dict[str, float]:
    """`precision`, `recall` and `F1` of the segments of one video, each in [0, 1].

    A segment shows the events in whose time its middle lies. Precision is the share of segments that can be given an event each that they
    show, no event to two of them; recall the share of different events that are shown.

    Args:
        segments: of the summary.
        events: at least one.
    """
    shows = [{name for name, start_s, end_s in events if start_s <= (a + b) / 2 < end_s} for a, b in segments]
    shown = set[str]().union(*shows)
    precision = _n_matched(shows) / len(segments) if segments else 0.0
    recall = len(shown) / len({name for name, _, _ in events})
    return {"precision": precision, "recall": recall, "F1": 2 * precision * recall / (precision + recall) if shown else 0.0}


def _n_matched(shows: Sequence[set[str]]) -> int:
    """How many segments can be given an event each that no other is given: a largest matching, by augmenting paths (Kuhn 1955).

    Args:
        shows: the events that each segment shows.
    """
    segment_of: dict[str, int] = {}

    def give(segment: int, tried: set[str]) -> bool:
        for name in shows[segment] - tried:
            tried.add(name)
            if name not in segment_of or give(segment_of[name], tried):
                segment_of[name] = segment
                return True
        return False

    return sum(give(segment, set()) for segment in range(len(shows)))


def evenly_spaced(segments: Sequence[Span], duration_s: float) -> list[Span]:
    """As many segments, as long as these on average, at even distances: what a summary must be better than."""
    n = len(segments)
    length_s = sum(b - a for a, b in segments) / n
    middles = [(i + 0.5) * duration_s / n for i in range(n)]
    return [(middle - length_s / 2, middle + length_s / 2) for middle in middles]
