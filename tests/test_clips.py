"""Clips by each rule, by hand; the fixed ones against brute force are in tests/stages/test_encode.py."""

from __future__ import annotations

import numpy as np
import pytest

from vbcli.clips import Clip, ClipRule, gather_clips
from vbcli.encoderspecs import EncoderSpec, Preprocessing
from vbcli.media.filters import Geometry


def spec_of(fps: float, n_frames: int) -> EncoderSpec:
    return EncoderSpec("none", "", Preprocessing(Geometry(2, 2), (0.5,) * 3, (0.5,) * 3), fps, n_frames, "mean", 1, (1,), "float32")


def gathered(times: list[float], rule: ClipRule, cuts: list[float], spec: EncoderSpec, end_s: float = np.inf) -> list[Clip]:
    """Frame i of value i."""
    return list(gather_clips(((t, np.full((2, 2, 3), i, np.uint8)) for i, t in enumerate(times)), spec, rule, cuts, end_s))


def rows(clips: list[Clip]) -> list[tuple[int, float, float, int, list[int]]]:
    return [(c.index, c.start_s, c.end_s, c.shot_index, c.pixels[:, 0, 0, 0].tolist()) for c in clips]


TIMES = [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5]


def test_fixed_clips_may_lie_across_a_cut() -> None:
    assert rows(gathered(TIMES, "fixed", [1.5, 3.0], spec_of(2, 2))) == [
        (0, 0, 1, 0, [0, 1]),
        (1, 1, 2, 0, [2, 3]),
        (2, 2, 3, 1, [4, 5]),
        (3, 3, 4, 2, [6, 7]),
    ]


def test_no_clip_lies_across_a_cut_that_is_respected() -> None:
    found = gathered(TIMES, "respect-shots", [1.5, 3.0], spec_of(2, 2))
    assert rows(found) == [
        (0, 0, 1, 0, [0, 1]),
        (1, 1, 1.5, 0, [2, 2]),  # half filled
        (2, 1.5, 2.5, 1, [3, 4]),
        (3, 2.5, 3.0, 1, [5, 5]),
        (4, 3, 4, 2, [6, 7]),
    ]
    # Less than half of a clip at the end of a shot is left out, but not all of a short shot.
    short = gathered(TIMES, "respect-shots", [1.5, 2.0], spec_of(2, 4))
    assert rows(short) == [(0, 0, 1.5, 0, [0, 1, 2, 2]), (1, 1.5, 2.0, 1, [3, 3, 3, 3]), (2, 2.0, 4.0, 2, [4, 5, 6, 7])]


def test_a_slide_that_is_a_shot_is_shown_to_its_end() -> None:
    found = gathered([0.0, 2.1, 2.5], "respect-shots", [2.1], spec_of(2, 1))
    assert [(c.start_s, c.shot_index, int(c.pixels[0, 0, 0, 0])) for c in found] == [
        *[(t, 0, 0) for t in (0, 0.5, 1, 1.5)],
        (pytest.approx(2.1), 1, 1),
    ]


def test_a_shot_is_a_clip() -> None:
    assert rows(gathered([0.5, 2.0, 2.5, 3.5], "shots", [1.5, 3.0], spec_of(2, 4), 4.0)) == [
        (0, 0, 1.5, 0, [0, 0, 0, 0]),
        (1, 1.5, 3.0, 1, [1, 1, 2, 2]),
        (2, 3.0, 4.0, 2, [3, 3, 3, 3]),
    ]


def test_a_stored_frame_is_a_clip() -> None:
    assert rows(gathered([0.3, 2.0, 7.5], "frames", [2.0], spec_of(2, 1))) == [
        (0, 0.3, 2.0, 0, [0]),
        (1, 2.0, 7.5, 1, [1]),
        (2, 7.5, 8.0, 1, [2]),
    ]
    assert gathered([], "frames", [], spec_of(2, 1)) == []
