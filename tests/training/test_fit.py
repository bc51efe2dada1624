"""What pre-training reads where nothing is said in the videos."""

from __future__ import annotations

import itertools

import numpy as np

from vbcli.training.batches import SegmentRow, VideoTokens
from vbcli.training.fit import _fill_text


def segment(start_s: float, text: str = "") -> SegmentRow:
    return SegmentRow("v", start_s, start_s + 1, np.zeros((1, 1), np.int32), np.zeros((1, 2), np.float32), text)


def test_every_caption_is_the_text_of_every_segment_once():
    several = VideoTokens("a", [segment(0), segment(1)], ["one", "two", "three"])
    silent = VideoTokens("b", [segment(0)], [])
    timed = VideoTokens("c", [segment(0), segment(1)], ["all"], timed_captions=[("first", 0.0, 1.0)])
    notes: list[str] = []
    train, validation = _fill_text([several, silent, timed], [silent], notes.append)
    assert len(notes) == 1
    found = [[s.text for s in v.segments] for v in train]
    assert {(i, text) for texts in found[:3] for i, text in enumerate(texts)} == set(itertools.product((0, 1), ("one", "two", "three")))
    assert found[3:] == [[""], ["first", "all"]]
    assert [s.text for v in (several, silent, timed) for s in v.segments] == [""] * 5
    assert [s.text for s in validation[0].segments] == [""]


def test_what_is_said_is_read_where_anything_is():
    spoken, silent = VideoTokens("a", [segment(0, "said")], ["caption"]), VideoTokens("b", [segment(0)], ["caption"])
    train, _ = _fill_text([spoken, silent], [], lambda note: None)
    assert [v.segments[0].text for v in train] == ["said", ""]
