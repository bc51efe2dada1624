"""From cues to transcript segments: by hand, by invariants, and by the share of words that reach the clip in which they are said."""

from __future__ import annotations

import itertools
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbcli.text.speech import Repairs, TranscriptSegment, is_unpunctuated, repair_cues
from vbcli.text.subtitles import Cue, Word
from vbcli.text.transcripts import assign_segments, read_transcript


@pytest.mark.parametrize(("start_s", "end_s"), [(-1.0, 1.0), (2.0, 1.0), (0.0, float("inf")), (float("nan"), 1.0)])
def test_segments_are_spans_of_time(start_s: float, end_s: float) -> None:
    with pytest.raises(ValueError, match="not a time span"):
        TranscriptSegment(start_s, end_s, "x")


def rows(cues: list[Cue]) -> list[tuple[float, float, str]]:
    return [(s.start_s, s.end_s, s.text) for s in repair_cues(cues).segments]


def test_what_is_mended_is_counted() -> None:
    cues = [
        Cue(5, 4, "backwards"),
        Cue(math.nan, 3, "broken"),
        Cue(-2, -1, "before the video"),
        Cue(6, 9, "long"),
        Cue(1, 2, "came late"),
        Cue(7, 8, "within"),
        Cue(7, 7.5, "beside it"),
        Cue(10, 11, ""),
        Cue(-0.5, 0.5, "from before"),
        Cue(12, 12, "an instant"),
    ]
    assert rows(cues) == [
        (0, 0.5, "from before"),
        (1, 2, "came late"),
        (6, 7, "long"),
        (7, 8, "beside it within"),
        (12, 12, "an instant"),
    ]
    repairs = repair_cues(cues).repairs
    assert repairs == Repairs(n_empty=1, n_unusable=3, n_disordered=2, n_overlapping=2)
    assert str(repairs).startswith("1 empty cues left out, 3 cues with unusable times left out, 2 cues put in order, 2 overlapping cues")
    assert repairs + repairs == Repairs(2, 6, 4, 4)
    assert not Repairs()


CUES = st.lists(
    st.builds(
        Cue,
        st.one_of(st.floats(-5, 60), st.just(math.nan)),
        st.floats(-5, 70),
        st.lists(st.sampled_from(["a", "bb", "stop.", "ccc"]), max_size=6).map(" ".join),
    ),
    max_size=20,
)


@given(CUES)
def test_segments_are_in_order_apart_and_hold_every_word_of_the_usable_cues(cues: list[Cue]) -> None:
    segments, repairs = repair_cues(cues)
    for one, other in itertools.pairwise(segments):
        assert one.start_s <= one.end_s <= other.start_s <= other.end_s
    said = sorted(word for segment in segments for word in segment.text.split())
    usable = [c for c in cues if c.text and not math.isnan(c.start_s) and max(c.start_s, 0) <= c.end_s]
    written = sorted(word for cue in usable for word in cue.text.split())
    assert len(cues) - len(usable) == repairs.n_empty + repairs.n_unusable
    # Cues of one beginning and the same text say it once.
    assert set(said) == set(written)
    if len({cue.start_s for cue in usable}) == len(usable) and min((c.start_s for c in usable), default=0) >= 0:
        assert said == written


def test_speech_without_punctuation_is_cut_at_silences() -> None:
    spoken = [("so", 1.0), ("today", 1.3), ("we", 1.6), ("cook", 1.8), ("rice", 3.5), ("take", 3.9), ("a", 4.2), ("pot", 4.4)]
    words = [Word(at_s, None, text) for text, at_s in spoken * 1]
    filler = [Word(10 + i * 0.3, 10.25 + i * 0.3, f"w{i}") for i in range(30)]
    # The longest silence of the long stretch.
    filler[12:] = [w._replace(start_s=w.start_s + 0.2, end_s=(w.end_s or 0) + 0.2) for w in filler[12:]]
    cues = [
        Cue(1.0, 5.0, " ".join(w.text for w in words), tuple(words)),
        Cue(10, 19.5, " ".join(w.text for w in filler), tuple(filler)),
    ]
    assert rows(cues) == [
        (1.0, pytest.approx(2.4), "so today we cook"),
        (3.5, pytest.approx(5.0), "rice take a pot"),
        (10, pytest.approx(13.55), " ".join(f"w{i}" for i in range(12))),
        (pytest.approx(13.8), pytest.approx(19.15), " ".join(f"w{i}" for i in range(12, 30))),
    ]
    assert repair_cues(cues).repairs == Repairs(n_sentences=4)


def test_where_only_cues_have_times_speech_is_cut_between_them() -> None:
    cues = [Cue(i * 3, i * 3 + 3, " ".join(f"c{i}w{j}" for j in range(9))) for i in range(4)]
    assert rows(cues) == [(0, 6, f"{cues[0].text} {cues[1].text}"), (6, 12, f"{cues[2].text} {cues[3].text}")]


def test_what_has_punctuation_stays_as_it_is() -> None:
    cues = [Cue(i, i + 1, "One two three four five six. " + "Again!") for i in range(5)]
    assert len(rows(cues)) == 5
    assert not is_unpunctuated(["a few words", "without a stop"])
    assert is_unpunctuated(["so many words follow"] * 6)
    assert not is_unpunctuated(["\u4eca\u5929\u6211\u4eec\u505a\u996d\u3002 " * 10, "word " * 30])


def test_words_reach_the_clip_in_which_they_are_said(tmp_path: Path) -> None:
    """Five minutes of speech in YouTube's form, whose cues stay on the screen for long, to clips of ten seconds."""
    rng = np.random.default_rng(0)
    at_s, said = 0.0, []
    while at_s < 300:
        said.append(at_s)
        at_s += 0.3 + (rng.uniform(0.6, 2.0) if rng.random() < 0.12 else 0.0)
    events = []
    for i in range(0, len(said), 8):
        segs = [{"utf8": f" word{k}", "tOffsetMs": round((said[k] - said[i]) * 1000)} for k in range(i, min(i + 8, len(said)))]
        events.append({"tStartMs": round(said[i] * 1000), "dDurationMs": 9000, "segs": segs})
    (tmp_path / "a.json3").write_text(json.dumps({"events": events}))
    transcript = read_transcript(tmp_path / "a.json3")
    assert transcript is not None
    spans = [(start, start + 10.0) for start in range(0, 310, 10)]
    texts = assign_segments(transcript.segments, spans)
    right = sum(f"word{k}" in texts[int(time_s // 10)].split() for k, time_s in enumerate(said))
    # Cues as they are, for comparison: each lasts nine seconds, into those of later words.
    cues = [TranscriptSegment(e["tStartMs"] / 1000, e["tStartMs"] / 1000 + 9, "".join(s["utf8"] for s in e["segs"])) for e in events]
    as_they_are = assign_segments(cues, spans)
    right_before = sum(f"word{k}" in as_they_are[int(time_s // 10)].split() for k, time_s in enumerate(said))
    sys.stdout.write(f"of {len(said)} words {right / len(said):.3f} reach their clip, of cues as they are {right_before / len(said):.3f}\n")
    assert right >= 0.9 * len(said)
    assert right > right_before
