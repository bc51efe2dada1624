"""Scoring summaries against the known events of videos, beside segments at even distances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from vbcli import shards
from vbcli.errors import VbcliError
from vbcli.evaluation.captions import Evaluation
from vbcli.metrics.summaries import Event, Span, evenly_spaced, event_scores

GIVEN, EVEN = "summary", "even distances"
ROWS = (GIVEN, EVEN)
"""Rows of the table that do not come from `others`."""


Summaries = Mapping[str, Sequence[Span]]
"""The segments of each video."""


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


def evaluate_summaries(
    summaries: Summaries,
    events: Mapping[str, Sequence[Event]],
    *,
    reruns: Sequence[Summaries] = (),
    others: Mapping[str, Sequence[Summaries]] | None = None,
) -> Evaluation:
    """Scores the videos that have events, each row by means over them; gains are in `F1`.

    Args:
        events: video to captions of parts of it; parts of the same caption are one event that comes again.
        reruns: summaries by the same system, trained with other seeds.
        others: summaries of other systems by name, of each run of one, for rows of their own. All runs must have the same videos.

    Raises:
        VbcliError: no video has events, or a run lacks a video.
    """
    scored = [video for video in summaries if events.get(video)]
    if not scored:
        raise VbcliError("no summary is of a video whose events are known", hint="the references need captions with start_s and end_s")
    even = {v: evenly_spaced(summaries[v], max(end_s for _, _, end_s in events[v])) for v in scored}
    systems: dict[str, Sequence[Summaries]] = {GIVEN: [summaries, *reruns], **(others or {}), EVEN: [even]}
    evaluation, f1 = Evaluation({}), dict[str, list[np.ndarray]]()
    for name, runs in systems.items():
        missing = [v for run in runs for v in scored if v not in run]
        if missing:
            message = f"{name} has no summary of {len(missing)} of the {len(scored)} videos, first {missing[0]}"
            raise VbcliError(message, hint="summarize the same videos with each system")
        found = [[event_scores(run[v], events[v]) for v in scored] for run in runs]
        evaluation.add_system(name, [{k: float(np.mean([row[k] for row in rows])) for k in rows[0]} for rows in found])
        f1[name] = [np.array([row["F1"] for row in rows]) for rows in found]
    evaluation.add_gains(f1)
    n_segments, n_events = sum(len(summaries[v]) for v in scored), sum(len({e[0] for e in events[v]}) for v in scored)
    evaluation.notes.append(f"{len(scored)} videos, {n_segments} segments, {n_events} different events")
    return evaluation
