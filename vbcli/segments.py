"""Segments of a video for captions, cuts and summaries: of equal length, from shot to shot, or as people speak."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from vbcli.errors import UsageError
from vbcli.training.batches import VideoTokens, cut_video

SegmentKind = Literal["fixed", "shots", "transcript"]
MIN_SHOT_CLIPS = 2
CUT_DISTANCE, CUT_RATIO = 0.5, 2.0
"""A cut: the cosine distance of two clips in a row is at least this, and so many times the mean of those around."""
NEIGHBOURS = 2
"""Distances on each side that a cut is compared with."""


@dataclass(frozen=True)
class Segmentation:
    """How a video is cut.

    Args:
        kind: `fixed` (parts of equal length), `shots` (where the picture changes at once) or `transcript` (as `tokenize` cut it: what is
            said together, and at most 16 clips where nobody speaks).
        length_s: about how long the parts of `fixed` are; what is left over is shared out among them.

    Raises:
        UsageError: parts of no length.
    """

    kind: SegmentKind
    length_s: float = 10.0

    def __post_init__(self) -> None:
        if not 0 < self.length_s < math.inf:
            raise UsageError(f"--segment-seconds is {self.length_s:g}", hint="give how long a part is, above 0")


def cut_segments(video: VideoTokens, how: Segmentation) -> list[VideoTokens]:
    """The parts of a video in order; every clip is in one of them."""
    if how.kind == "transcript":
        spans = [(s.start_s, s.end_s) for s in video.segments if len(s.visual_tokens)]
    else:
        clips = clip_spans(video)
        n = max(1, round((clips[-1][1] - clips[0][0]) / how.length_s))
        return _cut_at(video, clips, _equal_parts(clips, n) if how.kind == "fixed" else shot_starts(video.features))
    return [part for part in (cut_video(video, *span) for span in spans) if part is not None]


def split_longer(part: VideoTokens, most_s: float) -> list[VideoTokens]:
    """The fewest about equal pieces of a part that are no longer than `most_s`; where there are none such, each clip for itself."""
    clips = clip_spans(part)
    length_s = clips[-1][1] - clips[0][0]
    for n in range(max(1, math.ceil(length_s / most_s - 1e-9)), len(clips)):
        pieces = _cut_at(part, clips, _equal_parts(clips, n))
        if all(seconds_of(piece) <= most_s + 1e-9 for piece in pieces):
            return pieces
    return _cut_at(part, clips, range(len(clips)))


def seconds_of(part: VideoTokens) -> float:
    """From the start of a part to its end."""
    return part.segments[-1].end_s - part.segments[0].start_s


def _cut_at(video: VideoTokens, clips: Sequence[tuple[float, float]], firsts: Sequence[int]) -> list[VideoTokens]:
    """Parts that begin with the clips of these numbers."""
    spans = [(clips[a][0], clips[b - 1][1]) for a, b in itertools.pairwise([*firsts, len(clips)])]
    return [part for part in (cut_video(video, *span) for span in spans) if part is not None]


def clip_spans(video: VideoTokens) -> list[tuple[float, float]]:
    """(start_s, end_s) of each clip of a video; those of a segment share its time evenly."""
    edges = [np.linspace(s.start_s, s.end_s, len(s.visual_tokens) + 1).tolist() for s in video.segments]
    return [pair for of_segment in edges for pair in itertools.pairwise(of_segment)]


def _equal_parts(clips: Sequence[tuple[float, float]], n: int) -> list[int]:
    """The first clip of each of n parts."""
    start_s, end_s = clips[0][0], clips[-1][1]
    middles = [(a + b) / 2 for a, b in clips]
    borders = np.searchsorted(middles, np.linspace(start_s, end_s, n + 1)[:-1])
    # Parts shorter than a clip have none of their own.
    return sorted({border for border in borders.tolist() if border < len(clips)})


def shot_starts(features: np.ndarray) -> list[int]:
    """The first clip of each shot, 0 included: where features change more than they do around, as in adaptive content detection.

    Cuts are found to the clip, so they are as exact as frames are dense.

    Args:
        features: float (V, P), of clips in order.
    """
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-9)
    distances = 1 - (unit[:-1] * unit[1:]).sum(1)  # (V - 1,)
    starts = [0]
    for i, distance in enumerate(distances):
        first = max(0, i - NEIGHBOURS)
        around = np.concatenate([distances[first:i], distances[i + 1 : i + 1 + NEIGHBOURS]])
        is_cut = distance >= CUT_DISTANCE and (not len(around) or distance >= CUT_RATIO * around.mean())
        if is_cut and i + 1 - starts[-1] >= MIN_SHOT_CLIPS and len(features) - (i + 1) >= MIN_SHOT_CLIPS:
            starts.append(i + 1)
    return starts


def as_paragraph(sentences: Sequence[str]) -> str:
    """Sentences in a row as one text: each ends with a stop, and one that is said again at once is said once."""
    kept = [text.strip() for text, _ in itertools.groupby(sentences)]
    return " ".join(text if text.endswith((".", "!", "?")) else f"{text}." for text in kept if text)
