"""Which part of a video a sentence rests on: the shortest stretch that, shown alone, lets the model say it about as readily."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

from vbcli.segments import clip_spans
from vbcli.training.batches import VideoTokens, cut_video

N_PARTS = 8
"""Parts of a video, of which stretches are made."""
KEPT = 0.5
"""Of the likelihood that the sentence has where the whole video is shown."""

Likelihood = Callable[[Sequence[VideoTokens]], np.ndarray]
"""Log-likelihood of a sentence, float (N,), where each of N videos is shown."""


def evidence(video: VideoTokens, likelihood: Likelihood) -> dict[str, float]:
    """The columns of a row that say what `find_span` finds."""
    start_s, end_s = find_span(video, likelihood)
    return {"evidence_start_s": start_s, "evidence_end_s": end_s}


def find_span(video: VideoTokens, likelihood: Likelihood) -> tuple[float, float]:
    """The time (start_s, end_s) of a video that a sentence rests on.

    A stretch is enough where it keeps half of the likelihood that the sentence has of the whole video; of the shortest that are enough the
    likeliest is taken. Where every part is enough by itself, the sentence is of the whole video.

    This asks the model, as attention weights do not: Jain and Wallace 2019.
    """
    clips = clip_spans(video)
    if len(clips) < 2:
        return video.segments[0].start_s, video.segments[-1].end_s
    edges = np.linspace(0, len(clips), min(N_PARTS, len(clips)) + 1).round().astype(int).tolist()
    n = len(edges) - 1
    stretches = sorted(itertools.combinations(range(n + 1), 2), key=lambda pair: pair[1] - pair[0])
    spans = [(clips[edges[a]][0], clips[edges[b] - 1][1]) for a, b in stretches]
    parts = [cut_video(video, *span) for span in spans]
    scores = likelihood([part for part in parts if part is not None])
    assert len(scores) == len(spans)
    is_enough = scores >= scores[-1] + math.log(KEPT)
    if is_enough[:n].all():
        return spans[-1]
    lengths = np.array([b - a for a, b in stretches])
    shortest = lengths == lengths[is_enough].min()
    return spans[int(np.where(shortest & is_enough, scores, -np.inf).argmax())]
