"""What is kept of a video, whatever its parts cost."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vbcli.segments import Segmentation, SegmentKind
from vbcli.stages.summarize import Length, summarize_video
from vbcli.training.batches import SegmentRow, VideoTokens

CLIP_S = 0.5


def still(n_clips: int) -> VideoTokens:
    """A video of one shot, in one segment of its transcript."""
    tokens, features = np.zeros((n_clips, 1), np.int32), np.ones((n_clips, 4), np.float32)
    return VideoTokens("v", [SegmentRow("v", 0, n_clips * CLIP_S, tokens, features, "all that is said")])


@pytest.mark.parametrize("kind", ["fixed", "shots", "transcript"])
@pytest.mark.parametrize(
    ("length", "budget_s"), [(Length(share=0.15), 3.0), (Length(seconds=7), 7.0), (Length(seconds=0.1), CLIP_S), (Length(share=0.4), 8.0)]
)
def test_a_video_of_one_shot_has_a_summary(kind: SegmentKind, length: Length, budget_s: float) -> None:
    kept = summarize_video(still(40), length, Segmentation(kind, 60.0))
    seconds = [part.segments[-1].end_s - part.segments[0].start_s for _, _, part in kept]
    assert kept
    assert sum(seconds) <= budget_s + 1e-9
    # The fewest pieces that fit, to the clip: of 20 seconds, or of each of the two parts of 10 that are nearest to 8 seconds.
    part_s = 10 if kind == "fixed" and budget_s == 8 else 20
    piece_s = part_s / math.ceil(part_s / budget_s)
    assert all(abs(s - piece_s) <= CLIP_S for s in seconds)


def test_parts_that_fit_stay_whole() -> None:
    features = np.repeat(np.eye(4, dtype=np.float32)[:2], [4, 36], 0)  # 2 and 18 seconds
    video = VideoTokens("v", [SegmentRow("v", 0, 20, np.zeros((40, 1), np.int32), features, "")])
    spans = {
        (part.segments[0].start_s, part.segments[-1].end_s)
        for _, _, part in summarize_video(video, Length(share=0.5), Segmentation("shots"))
    }
    # The first shot, and one half of the second, which is longer than the ten seconds.
    assert spans in ({(0, 2)}, {(0, 2), (11, 20)}, {(2, 11)}, {(11, 20)})
