"""Subtitles and their alignment, against PyAV's demuxers, hand-written files and brute force over whole milliseconds."""

from __future__ import annotations

import html
import io
from pathlib import Path

import av
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vbcli.errors import VbcliError
from vbcli.text.speech import Repairs
from vbcli.text.subtitles import Cue, parse_cues
from vbcli.text.transcripts import (
    TranscriptSegment,
    assign_segments,
    best_spans,
    find_sidecar,
    find_sidecars,
    format_srt,
    format_vtt,
    read_transcript,
)

TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
    st.lists(
        st.sampled_from(["<i>", "</c>", "<00:01.000>", "<br>", "&amp;", "&lt", "{\\an8}", "a", "<", ">", "-->", "7", "00:01.000", " "]),
        max_size=6,
    ).map("".join),
).map(lambda text: " ".join(text.split()))
TIMES_MS = st.integers(0, 400_000_000)


@st.composite
def segment_lists(draw: st.DrawFn) -> list[TranscriptSegment]:
    cues = draw(st.lists(st.tuples(TIMES_MS, st.integers(0, 9999), TEXTS), min_size=1, max_size=8))
    return [TranscriptSegment(start / 1000, (start + length) / 1000, text) for start, length, text in cues]


def test_arrows_between_times_are_written_as_text() -> None:
    segments = [TranscriptSegment(1, 2, "first"), TranscriptSegment(3, 4, "00:05 -> 00:06 and 7 -> 8")]
    for text, is_vtt in ((format_srt(segments), False), (format_vtt(segments), True)):
        assert parse_cues(text, is_vtt) == [Cue(s.start_s, s.end_s, s.text) for s in segments]


@given(segment_lists())
def test_what_is_written_is_read_back(segments: list[TranscriptSegment]) -> None:
    expected = sorted((s for s in segments if s.text), key=lambda s: (s.start_s, s.end_s))
    for text, is_vtt in ((format_srt(segments), False), (format_vtt(segments), True)):
        assert parse_cues(text, is_vtt) == [Cue(s.start_s, s.end_s, s.text) for s in expected]


CUES = st.tuples(st.integers(0, 9_000_000), st.integers(1, 9999), st.text("ab <>&;-{}i1", max_size=9))


@settings(max_examples=50)
@given(st.lists(CUES, min_size=1, max_size=5, unique_by=lambda cue: cue[0]))  # FFmpeg shows equal cues once
def test_pyav_reads_the_same_cues(cues: list[tuple[int, int, str]]) -> None:
    segments = [TranscriptSegment(start / 1000, (start + length) / 1000, f"x{text}x") for start, length, text in cues]
    expected = sorted((s, s + n, " ".join(f"x{t}x".split())) for s, n, t in cues)
    for file_format, text in (("srt", format_srt(segments)), ("webvtt", format_vtt(segments))):
        with av.open(io.BytesIO(text.encode()), "r", format=file_format) as container:
            found = [(p.pts, p.pts + (p.duration or 0), html.unescape(bytes(p).decode())) for p in container.demux() if p.pts is not None]
        assert sorted(found) == expected


def test_written_files_look_as_the_formats_say() -> None:
    segments = [
        TranscriptSegment(3599.9996, 3725.0004, "salt & pepper"),
        TranscriptSegment(0.0014, 1, " two\nlines "),
        TranscriptSegment(1, 2, " "),
    ]
    assert format_srt(segments) == ("1\n00:00:00,001 --> 00:00:01,000\ntwo lines\n\n2\n01:00:00,000 --> 01:02:05,000\nsalt & pepper\n")
    assert format_vtt(segments) == (
        "WEBVTT\n\n00:00:00.001 --> 00:00:01.000\ntwo lines\n\n01:00:00.000 --> 01:02:05.000\nsalt &amp; pepper\n"
    )


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["clip.en.vtt", "clip.vtt", "clip.de.srt", "clip.srt"], "clip.srt"),
        (["clip.en.vtt", "clip.vtt", "clip.de.srt"], "clip.vtt"),
        (["clip.en.vtt", "clip.en.srt", "clip.de.srt"], "clip.de.srt"),
        (["clip.zh-Hans.vtt", "clip.de_AT.VTT"], "clip.de_AT.VTT"),
        (["clip.SRT"], "clip.SRT"),
        (["clip.3.srt", "clip.3.en.srt", "clip2.srt", "clip.txt", "Clip.srt", "clip"], None),
    ],
)
def test_sidecars(tmp_path: Path, names: list[str], expected: str | None) -> None:
    for name in (*names, "clip.mp4", "clip.3.mp4"):
        (tmp_path / name).touch()
    found = find_sidecar(tmp_path / "clip.mp4")
    assert found == (tmp_path / expected if expected else None)
    sidecars = find_sidecars(tmp_path / "clip.mp4")
    assert [sidecar.path for sidecar in sidecars[:1]] == ([found] if found else [])
    assert sidecars == find_sidecars(tmp_path / "clip.mp4", sorted(p.name for p in tmp_path.iterdir()))


@pytest.mark.parametrize(
    ("language", "expected"),
    [
        (None, ["clip.srt", "clip.vtt", "clip.de.srt", "clip.pt-BR.srt", "clip.pt_PT.vtt"]),
        ("de", ["clip.de.srt", "clip.srt", "clip.vtt"]),
        ("pt", ["clip.pt-BR.srt", "clip.pt_PT.vtt", "clip.srt", "clip.vtt"]),
        ("PT-pt", ["clip.pt_PT.vtt", "clip.srt", "clip.vtt"]),
        ("p", ["clip.srt", "clip.vtt"]),
    ],
)
def test_sidecars_of_a_language_come_first_and_those_of_others_not(tmp_path: Path, language: str | None, expected: list[str]) -> None:
    for name in ("clip.mp4", "clip.de.srt", "clip.pt-BR.srt", "clip.pt_PT.vtt", "clip.srt", "clip.vtt"):
        (tmp_path / name).touch()
    found = find_sidecars(tmp_path / "clip.mp4", language=language)
    assert [sidecar.path.name for sidecar in found] == expected
    assert [sidecar.language for sidecar in found] == [name.split(".")[1] if name.count(".") == 2 else "" for name in expected]


@pytest.mark.parametrize("content", ["", "WEBVTT\n", "just words\n", "1\n00:00:02,000 --> 00:00:01,000\nbackwards\n"])
def test_a_file_without_readable_cue_is_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "empty.srt").write_text(content)
    with pytest.raises(VbcliError, match=r"empty\.srt holds no readable subtitle"):
        read_transcript(tmp_path / "empty.srt")


def test_json_beside_a_video_need_not_be_its_transcript(tmp_path: Path) -> None:
    (tmp_path / "clip.json").write_text('{"title": "a clip"}')
    assert find_sidecar(tmp_path / "clip.mp4") is None
    (tmp_path / "clip.en.json").write_text('{"segments": [{"start": 0, "end": 1, "text": " Hello."}]}')
    found = find_sidecar(tmp_path / "clip.mp4")
    assert found == tmp_path / "clip.en.json"
    assert read_transcript(tmp_path / "clip.en.json") == ([TranscriptSegment(0, 1, "Hello.")], Repairs())
    assert read_transcript(tmp_path / "clip.json") is None


def test_a_folder_is_no_sidecar(tmp_path: Path) -> None:
    (tmp_path / "a [1].srt").mkdir()
    assert find_sidecar(tmp_path / "a [1].mp4") is None
    (tmp_path / "a [1].vtt").touch()
    assert find_sidecar(tmp_path / "a [1].mp4") == tmp_path / "a [1].vtt"


SPANS_MS = st.one_of(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 30)).map(lambda s: (s[0] * 100, (s[0] + s[1]) * 100)), max_size=8),
    st.tuples(st.integers(1, 15), st.integers(0, 12)).map(lambda t: [(k * t[0] * 100, (k + 1) * t[0] * 100) for k in range(t[1])]),
)
CUES_MS = st.lists(st.tuples(st.integers(0, 70), st.integers(0, 30)).map(lambda s: (s[0] * 100, (s[0] + s[1]) * 100)), max_size=10)


def shared_ms(cue: tuple[int, int], span: tuple[int, int]) -> int:
    """Twice the ticks of 100 ms in both; an instant counts as one half of the tick that begins there."""
    ticks = range(cue[0] * 2 // 100, max(cue[1] * 2 // 100, cue[0] * 2 // 100 + 1))
    return sum(span[0] * 2 // 100 <= tick < span[1] * 2 // 100 for tick in ticks)


@settings(max_examples=300)
@given(CUES_MS, SPANS_MS)
def test_segments_go_to_the_span_with_most_overlap(cues: list[tuple[int, int]], spans: list[tuple[int, int]]) -> None:
    expected: list[int | None] = []
    for cue in cues:
        shared = [shared_ms(cue, span) for span in spans]
        most = max(shared, default=0)
        winners = [i for i, n in enumerate(shared) if n == most]
        expected.append(min(winners, key=lambda i: spans[i][0]) if most else None)
    segments = [TranscriptSegment(start / 1000, end / 1000, f"w{i}") for i, (start, end) in enumerate(cues)]
    spans_s = [(start / 1000, end / 1000) for start, end in spans]
    assert best_spans(segments, spans_s) == expected
    texts = assign_segments(segments, spans_s)
    assert texts == [" ".join(f"w{i}" for i, owner in enumerate(expected) if owner == k) for k in range(len(spans))]


def test_spans_that_tile_the_time_take_every_word_once() -> None:
    segments = [TranscriptSegment(0.05, 0.15, "tie"), TranscriptSegment(0.29, 0.55, "long"), TranscriptSegment(0.4, 0.4, "instant")]
    spans = [(k / 10, (k + 1) / 10) for k in range(6)]
    assert assign_segments(segments, spans) == ["tie", "", "", "long", "instant", ""]
    assert best_spans([TranscriptSegment(0.6, 0.7, "after"), TranscriptSegment(0.5, 0.6, "in")], spans) == [None, 5]
