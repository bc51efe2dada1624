"""Segments: every clip in one of them, cuts where the picture changes at once."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbcli.segments import Segmentation, as_paragraph, clip_spans, cut_segments, shot_starts, split_longer
from vbcli.training.batches import SegmentRow, VideoTokens


def video_of(counts: list[int], clip_s: float = 0.5) -> VideoTokens:
    """A video whose clips' features are their own numbers, in segments of so many clips."""
    firsts = [0, *itertools.accumulate(counts)]
    rows = [
        SegmentRow(
            "v", a * clip_s, b * clip_s, np.arange(a, b, dtype=np.int32)[:, None], np.arange(a, b, dtype=np.float32)[:, None], f"said {a}"
        )
        for a, b in itertools.pairwise(firsts)
    ]
    return VideoTokens("v", rows)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.floats(0.1, 30))
def test_every_clip_is_in_one_part_and_parts_follow_each_other(counts: list[int], length_s: float) -> None:
    video = video_of(counts)
    for kind in ("fixed", "shots", "transcript"):
        parts = cut_segments(video, Segmentation(kind, length_s))
        assert np.concatenate([part.features[:, 0] for part in parts]).tolist() == list(range(sum(counts)))
        assert [a.segments[-1].end_s for a in parts[:-1]] == pytest.approx([b.segments[0].start_s for b in parts[1:]])
    assert len(cut_segments(video, Segmentation("transcript"))) == len(counts)


def test_parts_of_equal_length_share_out_what_is_left_over() -> None:
    # 11 seconds in parts of about 4: three of them, of 3.67 s, borders at the clips whose middles lie behind 3.67 and 7.33.
    parts = cut_segments(video_of([22]), Segmentation("fixed", 4))
    assert [(p.segments[0].start_s, p.segments[-1].end_s) for p in parts] == [(0, 3.5), (3.5, 7.5), (7.5, 11)]
    assert len(cut_segments(video_of([3]), Segmentation("fixed", 60))) == 1


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.floats(0.5, 20))
def test_pieces_of_a_part_are_no_longer_than_they_may_be(counts: list[int], most_s: float) -> None:
    pieces = split_longer(video_of(counts), most_s)
    assert np.concatenate([piece.features[:, 0] for piece in pieces]).tolist() == list(range(sum(counts)))
    assert all(len(piece.features) * 0.5 <= most_s + 1e-9 for piece in pieces)
    # With clips of half a second in each, no fewer would do.
    assert len(pieces) == math.ceil(sum(counts) / math.floor(2 * most_s + 1e-9))


def test_clips_of_a_segment_share_its_time() -> None:
    assert clip_spans(video_of([2, 1])) == [(0, 0.5), (0.5, 1), (1, 1.5)]


def test_shots_begin_where_the_picture_changes_at_once() -> None:
    rng = np.random.default_rng(0)
    scenes = rng.normal(size=(4, 64))
    lengths = [6, 2, 9, 5]
    still = np.concatenate([np.repeat(scene[None], n, 0) for scene, n in zip(scenes, lengths, strict=True)])
    assert shot_starts(still + 0.1 * rng.normal(size=still.shape)) == [0, 6, 8, 17]
    # A pan changes as much at each step: none of them is a cut.
    angles = np.linspace(0, 2 * np.pi, 8)
    assert shot_starts(np.stack([np.cos(angles), np.sin(angles)], 1)) == [0]
    # One odd clip is a flash, not two shots.
    flash = np.repeat(scenes[:1], 7, 0)
    flash[3] = scenes[1]
    assert shot_starts(flash) in ([0], [0, 3], [0, 4])


def test_a_paragraph_says_nothing_twice_in_a_row() -> None:
    assert as_paragraph(["a man runs", "a man runs", "he stops.", "a man runs", " "]) == "a man runs. he stops. a man runs."
