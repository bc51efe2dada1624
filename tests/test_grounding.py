from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbcli.grounding import find_span
from vbcli.training.batches import SegmentRow, VideoTokens

N_CLIPS = 8


def video(n_clips: int = N_CLIPS) -> VideoTokens:
    """Each clip is half a second long and shows its number."""
    numbers = np.arange(n_clips)
    half = n_clips // 2
    parts = [
        SegmentRow("v", a / 2, b / 2, numbers[a:b].astype(np.int32), numbers[a:b, None].astype("f4"), "")
        for a, b in ((0, half), (half, n_clips))
    ]
    return VideoTokens("v", [part for part in parts if len(part.visual_tokens)], [])


def shown(one: VideoTokens) -> set[int]:
    return set(one.features[:, 0].astype(int).tolist())


def needs(clips: set[int], *, loss: float = 5.0):
    """A sentence that is unlikely where one of some clips is not shown."""

    def likelihood(videos: Sequence[VideoTokens]) -> np.ndarray:
        return np.array([-1.0 - loss * len(clips - shown(v)) for v in videos])

    return likelihood


@pytest.mark.parametrize(
    ("clips", "span"),
    [({3}, (1.5, 2.0)), ({2, 5}, (1.0, 3.0)), ({0}, (0.0, 0.5)), ({7}, (3.5, 4.0)), ({0, 7}, (0.0, 4.0))],
    ids=["one clip", "between two, over a border of segments", "the first", "the last", "all"],
)
def test_the_shortest_stretch_that_is_enough(clips: set[int], span: tuple[float, float]):
    assert find_span(video(), needs(clips)) == pytest.approx(span)


def test_what_every_part_shows_is_of_the_whole():
    assert find_span(video(), needs(set())) == (0.0, 4.0)


def test_of_two_that_are_enough_the_likelier():
    def likelihood(videos: Sequence[VideoTokens]) -> np.ndarray:
        return np.array([0.0 if 6 in shown(v) else -0.5 if 1 in shown(v) else -9.0 for v in videos])

    assert find_span(video(), likelihood) == (3.0, 3.5)
    # Half of the likelihood is just enough.
    assert find_span(video(), needs({2}, loss=math.log(2) - 0.01)) == (0.0, 4.0)
    assert find_span(video(), needs({2}, loss=math.log(2) + 0.01)) == (1.0, 1.5)


def test_longer_videos_have_eight_parts_and_one_clip_is_a_whole():
    assert find_span(video(80), needs({41})) == (20.0, 25.0)
    assert find_span(video(1), needs({0})) == (0.0, 0.5)


@given(st.lists(st.floats(-20, 0), min_size=N_CLIPS, max_size=N_CLIPS))
def test_no_shorter_stretch_is_enough(worth: list[float]):
    def likelihood(videos: Sequence[VideoTokens]) -> np.ndarray:
        return np.array([math.log(sum(math.exp(worth[i]) for i in shown(v))) for v in videos])

    found = find_span(video(), likelihood)

    def of(a: int, b: int) -> float:
        return math.log(sum(map(math.exp, worth[a:b])))

    enough = [(a, b) for a, b in itertools.combinations(range(N_CLIPS + 1), 2) if of(a, b) >= of(0, N_CLIPS) + math.log(0.5)]
    if all((a, a + 1) in enough for a in range(N_CLIPS)):
        assert found == (0.0, 4.0)
        return
    length = min(b - a for a, b in enough)
    best = max(of(a, b) for a, b in enough if b - a == length)
    a, b = round(2 * found[0]), round(2 * found[1])
    assert b - a == length
    assert of(a, b) == pytest.approx(best)
