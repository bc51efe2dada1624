"""From cues to transcript segments: by hand, by invariants, and by the share of words that reach the clip in which they are said."""

from __future__ import annotations

import itertools
import json
import math
import sys
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbcli.text.speech import BLINK_S, Repairs, TranscriptSegment, is_unpunctuated, repair_cues
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
        Cue(math.nan, math.nan, ""),
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
    assert repairs == Repairs(n_empty=1, n_unusable=4, n_disordered=2, n_overlapping=2)
    assert str(repairs).startswith("1 empty cues left out, 4 cues with unusable times left out, 2 cues put in order, 2 overlapping cues")
    assert repairs + repairs == Repairs(2, 8, 4, 4)
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
    # Cues of one beginning and the same text say it once, and so do those that are gone in a blink.
    assert set(said) == set(written)
    has_own_starts = len({cue.start_s for cue in usable}) == len(usable) and min((c.start_s for c in usable), default=0) >= 0
    if has_own_starts:
        in_order = sorted(usable, key=lambda c: (c.start_s, c.end_s))
        repeats = [c for before, c in itertools.pairwise(in_order) if c.text == before.text and c.start_s <= before.end_s + BLINK_S]
        assert repairs.n_repeated <= len(repeats)
        left_out = Counter(written) - Counter(said)
        assert left_out <= Counter(word for cue in repeats for word in cue.text.split())
        assert bool(left_out) == bool(repairs.n_repeated)
        assert not Counter(said) - Counter(written)


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


HAN = "今天我们做一顿饭吧"
THAI = "วันนี้เราจะทำข้าวผัดกุ้งกัน"


@pytest.mark.parametrize(("text", "n_words"), [(HAN, 4.5), (THAI, 7), ("今日はごはんを作る", 4.5)])
def test_speech_in_scripts_without_spaces_is_cut_into_sentences_of_the_same_length(text: str, n_words: float) -> None:
    cues = [Cue(i * 3, i * 3 + 3, text) for i in range(40)]
    segments, repairs = repair_cues(cues)
    assert repairs == Repairs(n_sentences=len(segments))
    lengths = [len(segment.text.split()) for segment in segments]
    # As English, whose words are counted: no more than 20 to a sentence, and about half of that, as what is longer is halved.
    assert all(10 - n_words < n_words * length <= 20 for length in lengths)
    assert sum(lengths) == 40
    assert [s.start_s for s in segments] == [3 * sum(lengths[:i]) for i in range(len(segments))]
    assert [s.text for s in segments] == [" ".join([text] * length) for length in lengths]


def test_a_cue_without_spaces_and_times_is_not_cut() -> None:
    assert rows([Cue(0, 30, HAN * 6), Cue(30, 31, HAN)]) == [(0, 30, HAN * 6), (30, 31, HAN)]


@pytest.mark.parametrize("joiner", ["", " "])
def test_words_are_joined_as_their_cue_has_them(tmp_path: Path, joiner: str) -> None:
    """A letter every quarter of a second, in YouTube's and in Whisper's form, with a silence in the middle."""
    letters = "今天我们做一顿饭吧" * 5
    at_s = [i * 0.25 + (1.0 if i >= 25 else 0.0) for i in range(len(letters))]
    expected = [(0, 25), (25, 45)]
    events, segments = [], []
    for a, b in ((0, 15), (15, 25), (25, 45)):
        segs = [{"utf8": (joiner if i > a else "") + letters[i], "tOffsetMs": round((at_s[i] - at_s[a]) * 1000)} for i in range(a, b)]
        events.append({"tStartMs": round(at_s[a] * 1000), "dDurationMs": round((at_s[b - 1] - at_s[a]) * 1000) + 250, "segs": segs})
        words = [{"word": joiner + letters[i], "start": at_s[i], "end": at_s[i] + 0.25} for i in range(a, b)]
        segments.append({"start": at_s[a], "end": at_s[b - 1] + 0.25, "text": joiner + joiner.join(letters[a:b]), "words": words})
    for name, content in (("a.json3", {"events": events}), ("a.json", {"segments": segments})):
        (tmp_path / name).write_text(json.dumps(content))
        transcript = read_transcript(tmp_path / name)
        assert transcript is not None
        assert [(s.start_s, s.text.replace(" ", "")) for s in transcript.segments] == [(at_s[a], letters[a:b]) for a, b in expected]
        # Cues are told apart by a space.
        assert transcript.segments[0].text == f"{joiner.join(letters[:15])} {joiner.join(letters[15:25])}"


@pytest.mark.parametrize(
    "sentence",
    [
        "ماذا نطبخ اليوم؟",
        "آج ہم چاول پکاتے ہیں۔",
        "आज हम चावल पकाते हैं।",
        "今天我们做饭。今天我们做饭。好吗？",
        "今日はご飯を作ります！",
        "Այսօր մենք բրինձ ենք եփում։",
        "ዛሬ ሩዝ እናበስላለን።",
        "ဒီနေ့ ထမင်းချက်မယ်။",
        "ថ្ងៃនេះយើងធ្វើម្ហូប។",
        "Er sagt: »Heute kochen wir Reis.«",
    ],
)
def test_sentences_end_with_the_marks_of_their_script(sentence: str) -> None:
    assert not is_unpunctuated([sentence] * 30)
    bare = "".join(character for character in sentence if character.isalnum() or character.isspace() or unicodedata.combining(character))
    assert is_unpunctuated([bare] * 30)


ROLLING_SRT = (
    "1\n00:00:00,080 --> 00:00:02,389\n\nhello and welcome\n\n2\n00:00:02,389 --> 00:00:02,399\nhello and welcome\n\n"
    "3\n00:00:02,399 --> 00:00:04,000\nhello and welcome\nback to\n\n4\n00:00:04,000 --> 00:00:04,010\nback to\n\n"
    "5\n00:00:04,010 --> 00:00:06,000\nback to\nmy channel\n"
)
SPOKEN = [(0.08, 2.389, "hello and welcome"), (2.399, 4.0, "back to"), (4.01, 6.0, "my channel")]


def without_blinks(srt: str) -> str:
    blocks = srt.split("\n\n")
    return "\n\n".join(block for i, block in enumerate(blocks) if not (",389 -->" in block or ",000 --> 00:00:04,010" in block))


@pytest.mark.parametrize(
    ("name", "content", "n_repeated"),
    [
        ("a.srt", ROLLING_SRT, 4),
        ("a.vtt", "WEBVTT\n\n" + ROLLING_SRT.replace("\n\nhello", "\nhello").replace(",", "."), 4),
        ("b.vtt", "WEBVTT\n\n" + ROLLING_SRT.replace("\n\nhello", "\nhello").replace(",", ".").replace("my ch", "my<00:00:05.000> ch"), 4),
        ("a.srt", without_blinks(ROLLING_SRT), 2),
        (
            "a.ass",
            "Dialogue: 0,0:00:00.08,0:00:02.389,,,0,0,0,,hello and welcome\nDialogue: 0,0:00:02.399,0:00:04.00,,,0,0,0,,hello and welcome"
            "\\Nback to\nDialogue: 0,0:00:04.01,0:00:06.00,,,0,0,0,,back to\\Nmy channel\n",
            2,
        ),
    ],
)
def test_captions_that_roll_say_each_line_once(tmp_path: Path, name: str, content: str, n_repeated: int) -> None:
    (tmp_path / name).write_text(content)
    transcript = read_transcript(tmp_path / name)
    assert transcript is not None
    assert [(s.start_s, s.end_s, s.text) for s in transcript.segments] == SPOKEN
    assert transcript.repairs == Repairs(n_repeated=n_repeated)
    assert str(transcript.repairs) == f"{n_repeated} lines that stayed on the screen left out"


@given(st.lists(st.text("abc", min_size=1, max_size=3), min_size=2, max_size=30, unique=True), st.integers(2, 4))
def test_what_rolls_in_several_lines_is_said_once(lines: list[str], n_shown: int) -> None:
    cues = [Cue(i, i + 1, "\n".join(lines[max(0, i + 1 - n_shown) : i + 1])) for i in range(len(lines))]
    segments, repairs = repair_cues(cues)
    assert " ".join(s.text for s in segments) == " ".join(lines)
    assert repairs.n_repeated == sum(min(i, n_shown - 1) for i in range(len(lines)))


def test_words_of_lines_that_stay_are_not_said_again() -> None:
    said = [f"w{i}" for i in range(30)]
    cues = []
    for i in range(0, 30, 5):
        words = [Word(i + k / 2, None, said[i + k]) for k in range(5)]
        still = [Word(float(i), None, word) for word in said[max(0, i - 5) : i]]
        lines = [" ".join(w.text for w in part) for part in (still, words) if part]
        cues += [Cue(i, i + 4.99, "\n".join(lines), (*still, *words)), Cue(i + 4.99, i + 5, lines[-1])]
    assert rows(cues) == [(i, pytest.approx(i + 2.6), " ".join(said[i : i + 5])) for i in range(0, 30, 5)]


def test_what_is_said_twice_is_kept() -> None:
    assert rows([Cue(1, 2, "No."), Cue(2, 3, "No.")]) == [(1, 2, "No."), (2, 3, "No.")]
    # The line was gone before it came again.
    assert rows([Cue(1, 2, "No."), Cue(2.2, 3, "No.\nNever.")]) == [(1, 2, "No."), (2.2, 3, "No. Never.")]
    # Where captions roll, it is still there.
    rolling = [Cue(1, 2, "a"), Cue(2, 3, "a\nb"), Cue(3, 5, "b"), Cue(5, 6, "b\nc")]
    assert rows(rolling) == [(1, 2, "a"), (2, 3, "b"), (5, 6, "c")]


def test_damaged_characters_and_guessed_encodings_are_counted(tmp_path: Path) -> None:
    whole = "1\n00:00:01,000 --> 00:00:02,000\nСегодня варим.\n\n2\n00:00:03,000 --> 00:00:04,000\nРис.\n"
    for content, expected in (
        (whole.encode(), Repairs()),
        (whole.encode().replace("м".encode(), b"\xff"), Repairs(n_damaged=1)),
        (whole.encode("cp1251"), Repairs(n_guessed=1)),
    ):
        (tmp_path / "a.srt").write_bytes(content)
        transcript = read_transcript(tmp_path / "a.srt")
        assert transcript is not None
        assert transcript.repairs == expected
    assert str(Repairs(n_guessed=1)).startswith("1 files read as Windows-1252 as they are not UTF-8")


def test_words_of_cues_that_begin_at_once_stay_in_order() -> None:
    said = [tuple(Word(i / 2, None, f"{name}{i}") for i in range(25)) for name in "ab"]
    segments = repair_cues([Cue(0, 13 + i, " ".join(w.text for w in words), words) for i, words in enumerate(said)]).segments
    assert " ".join(s.text for s in segments) == " ".join(w.text for words in said for w in words)
    assert all(one.end_s <= other.start_s for one, other in itertools.pairwise(segments))


def test_words_with_impossible_times_have_none() -> None:
    words = tuple(Word(math.nan if i == 3 else i, None, f"w{i}") for i in range(30))
    text = " ".join(word.text for word in words)
    assert repair_cues([Cue(0, 30, text, words)]) == repair_cues([Cue(0, 30, text)])


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
