"""Subtitles and their alignment, against PyAV's demuxers, hand-written files and brute force over whole milliseconds."""

from __future__ import annotations

import html
import io
import logging
from pathlib import Path

import av
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vbcli.errors import VbcliError
from vbcli.transcripts import (
    TranscriptSegment,
    assign_segments,
    best_spans,
    find_sidecar,
    format_srt,
    format_vtt,
    parse_subtitles,
    read_subtitles,
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


def read(folder: Path, name: str, content: str | bytes) -> list[TranscriptSegment]:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_subtitles(path)


def rows(segments: list[TranscriptSegment]) -> list[tuple[float, float, str]]:
    return [(s.start_s, s.end_s, s.text) for s in segments]


@given(segment_lists())
def test_what_is_written_is_read_back(segments: list[TranscriptSegment]) -> None:
    expected = sorted((s for s in segments if s.text), key=lambda s: (s.start_s, s.end_s))
    for text, is_vtt in ((format_srt(segments), False), (format_vtt(segments), True)):
        parsed = parse_subtitles(text, is_vtt)
        assert parsed.segments == expected
        assert parsed.n_dropped == 0


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


def test_srt_as_found_in_the_wild(tmp_path: Path) -> None:
    content = (
        '\ufeff2\r\n00:01:05,5 --> 00:01:07.250\r\n<i>Second</i> &amp; <font color="#fff">last</font>\r\n\r\nafter a gap\r\n'
        "1\r\n0:00:01,000 --> 00:00:02,000  X1:40 X2:600\r\n{\\an8}First\r\nline 3 < 4\r\n\r\n"
        "3\r\n00:00:03,000 --> 00:00:04,000\r\n\r\n"
        "4\r\n01:02:03 --> 01:02:04,001\r\nno final newline"
    )
    assert rows(read(tmp_path, "a.srt", content)) == [
        (1.0, 2.0, "First line 3 < 4"),
        (65.5, 67.25, "Second & last after a gap"),
        (3723.0, 3724.001, "no final newline"),
    ]


def test_a_number_may_be_text_and_numbers_of_cues_are_not_text(tmp_path: Path) -> None:
    content = "1\n00:00:01,000 --> 00:00:02,000\n42\n\n2\n00:00:03,000 --> 00:00:04,000\nthen\n43\n3\n00:00:05,000 --> 00:00:06,000\nend\n"
    assert [s.text for s in read(tmp_path, "a.srt", content)] == ["42", "then 43", "end"]


def test_vtt_with_header_notes_styles_and_settings(tmp_path: Path) -> None:
    content = (
        "WEBVTT - a title\nKind: captions\nLanguage: en\n\nSTYLE\n::cue { color: lime }\n\nNOTE\nnot text\n\n"
        "intro\n00:01.000 --> 00:02.500 align:start position:0% line:-1\n<v Ann>Hello <c.loud>there</c></v>\nworld&nbsp;&lt;3\n\n"
        "NOTE also not text\n\n100:00:00.000 --> 100:00:01.000\n- late\n"
    )
    assert rows(read(tmp_path, "a.vtt", content)) == [(1.0, 2.5, "Hello there world <3"), (360000.0, 360001.0, "- late")]
    # The content tells WebVTT also where the name does not.
    assert len(read(tmp_path, "b.srt", content)) == 2
    assert "not text" not in " ".join(s.text for s in read_subtitles(tmp_path / "b.srt"))


def test_rolling_captions_say_each_line_once(tmp_path: Path) -> None:
    content = (
        "WEBVTT\n\n00:00:00.080 --> 00:00:02.389 align:start\n \nhello<00:00:00.320><c> and</c><00:00:00.480><c> welcome</c>\n\n"
        "00:00:02.389 --> 00:00:02.399 align:start\nhello and welcome\n \n\n"
        "00:00:02.399 --> 00:00:04.000 align:start\nhello and welcome\nback<00:00:02.600><c> to</c>\n\n"
        "00:00:04.000 --> 00:00:04.010 align:start\nback to\n \n"
    )
    assert rows(read(tmp_path, "a.vtt", content)) == [(0.08, 2.389, "hello and welcome"), (2.399, 4.0, "back to")]
    # Without stamps on the words a line said twice was said twice.
    spoken_twice = "WEBVTT\n\n00:01.000 --> 00:02.000\nNo.\n\n00:02.000 --> 00:03.000\nNo.\n"
    assert [s.text for s in read(tmp_path, "b.vtt", spoken_twice)] == ["No.", "No."]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    content = "1\n00:00:01,000 --> 00:00:02,000\nÇa coûte 5 € à Zoë\n"
    assert read(tmp_path, "a.srt", content.encode(encoding))[0].text == "Ça coûte 5 € à Zoë"


def test_bytes_that_windows_1252_lacks_are_taken_for_latin_1(tmp_path: Path) -> None:
    assert read(tmp_path, "a.srt", b"1\n00:00:01,000 --> 00:00:02,000\n\xe9t\xe9 \x81\n")[0].text == "été \x81"


def test_unusable_cues_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = (
        "1\n00:00:05,000 --> 00:00:04,000\nbackwards\n\n2\n00:00:06,000 --> 00:00:06,000\nan instant\n\n"
        "3\n00:00:xx,000 --> 00:00:08,000\nbroken start\n\n4\n-00:00:01,000 --> 00:00:01,000\nbefore zero\n"
    )
    with caplog.at_level(logging.WARNING):
        segments = read(tmp_path, "a.srt", content)
    assert rows(segments) == [(6.0, 6.0, "an instant")]
    assert parse_subtitles(content, is_vtt=False).n_dropped == 3
    assert "a.srt: 3 of its cues" in caplog.text


@pytest.mark.parametrize("content", ["", "WEBVTT\n", "just words\n", "1\n00:00:02,000 --> 00:00:01,000\nbackwards\n"])
def test_a_file_without_readable_cue_is_an_error(tmp_path: Path, content: str) -> None:
    with pytest.raises(VbcliError, match=r"empty\.srt holds no readable subtitle"):
        read(tmp_path, "empty.srt", content)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(VbcliError, match=r"none\.srt cannot be read: No such file"):
        read_subtitles(tmp_path / "none.srt")


@pytest.mark.parametrize(("start_s", "end_s"), [(-1.0, 1.0), (2.0, 1.0), (0.0, float("inf")), (float("nan"), 1.0)])
def test_segments_are_spans_of_time(start_s: float, end_s: float) -> None:
    with pytest.raises(ValueError, match="not a time span"):
        TranscriptSegment(start_s, end_s, "x")


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
    assert found == find_sidecar(tmp_path / "clip.mp4", sorted(p.name for p in tmp_path.iterdir()))


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
