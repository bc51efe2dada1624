"""Scoring summaries against the known events of videos, beside segments at even distances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vbcli import shards
from vbcli.errors import VbcliError
from vbcli.metrics.summaries import Event, Span, evenly_spaced, event_scores

GIVEN, EVEN = "summary", "even distances"


@dataclass
class SummaryEvaluation:
    """Scores by row of the table, means over the videos.

    Args:
        scores: row name to score name to value.
        notes: sentences on what was scored.
    """

    scores: dict[str, dict[str, float]]
    notes: list[str] = field(default_factory=list)


def read_segments(summaries_dir: Path) -> dict[str, list[Span]]:
    """The segments of each video's summary.

    Raises:
        VbcliError: it is no summaries dataset, or empty.
    """
    shards.read_manifest(summaries_dir, "summaries")
    found: dict[str, list[Span]] = {}
    for row in shards.read_rows(summaries_dir, ["video_id", "start_s", "end_s"]):
        found.setdefault(row["video_id"], []).append((row["start_s"], row["end_s"]))
    if not found:
        raise VbcliError(f"{summaries_dir} holds no summaries", hint="all of its videos failed: see its folder _errors")
    return found


def evaluate_summaries(summaries: Mapping[str, Sequence[Span]], events: Mapping[str, Sequence[Event]]) -> SummaryEvaluation:
    """Scores the videos that have events.

    Args:
        events: video to captions of parts of it; parts of the same caption are one event that comes again.

    Raises:
        VbcliError: no video has events.
    """
    scored = [video for video in summaries if events.get(video)]
    if not scored:
        raise VbcliError("no summary is of a video whose events are known", hint="the references need captions with start_s and end_s")
    given = [event_scores(summaries[v], events[v]) for v in scored]
    even = [event_scores(evenly_spaced(summaries[v], max(end_s for _, _, end_s in events[v])), events[v]) for v in scored]
    scores = {name: {k: float(np.mean([row[k] for row in rows])) for k in rows[0]} for name, rows in ((GIVEN, given), (EVEN, even))}
    n_segments, n_events = sum(len(summaries[v]) for v in scored), sum(len({e[0] for e in events[v]}) for v in scored)
    return SummaryEvaluation(scores, [f"{len(scored)} videos, {n_segments} segments, {n_events} different events"])
