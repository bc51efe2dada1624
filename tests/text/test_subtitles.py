"""Files of subtitles and of speech recognition as they are found, to cues; expected values are written by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from vbcli.errors import VbcliError
from vbcli.text.subtitles import Cue, Word, read_cues


def read(folder: Path, name: str, content: str | bytes) -> list[Cue]:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    cues = read_cues(path)
    assert cues is not None
    return cues


def rows(cues: list[Cue]) -> list[tuple[float, float, str]]:
    return [cue[:3] for cue in cues]


def test_srt_as_found_in_the_wild(tmp_path: Path) -> None:
    content = (
        '\ufeff2\r\n00:01:05,5 --> 00:01:07.250\r\n<i>Second</i> &amp; <font color="#fff">last</font>\r\n\r\nafter a gap\r\n'
        "1\r\n0:00:01,000 --> 00:00:02,000  X1:40 X2:600\r\n{\\an8}First\r\nline 3 < 4\r\n\r\n"
        "3\r\n00:00:03,000 --> 00:00:04,000\r\n\r\n"
        "4\r\n01:02:03 --> 01:02:04,001\r\nno final newline"
    )
    assert rows(read(tmp_path, "a.srt", content)) == [
        (65.5, 67.25, "Second & last after a gap"),
        (1.0, 2.0, "First line 3 < 4"),
        (3.0, 4.0, ""),
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
    assert "not text" not in " ".join(cue.text for cue in read(tmp_path, "b.srt", content))


def test_rolling_captions_say_each_line_once(tmp_path: Path) -> None:
    content = (
        "WEBVTT\n\n00:00:00.080 --> 00:00:02.389 align:start\n \nhello<00:00:00.320><c> and</c><00:00:00.480><c> welcome</c>\n\n"
        "00:00:02.389 --> 00:00:02.399 align:start\nhello and welcome\n \n\n"
        "00:00:02.399 --> 00:00:04.000 align:start\nhello and welcome\nback<00:00:02.600><c> to</c>\n\n"
        "00:00:04.000 --> 00:00:04.010 align:start\nback to\n \n"
    )
    first, second = read(tmp_path, "a.vtt", content)
    assert rows([first, second]) == [(0.08, 2.389, "hello and welcome"), (2.399, 4.0, "back to")]
    assert first.words == (Word(0.08, None, "hello"), Word(0.32, None, "and"), Word(0.48, None, "welcome"))
    assert second.words == (Word(2.399, None, "back"), Word(2.6, None, "to"))
    # Without stamps on the words a line said twice was said twice.
    spoken_twice = "WEBVTT\n\n00:01.000 --> 00:02.000\nNo.\n\n00:02.000 --> 00:03.000\nNo.\n"
    assert [s.text for s in read(tmp_path, "b.vtt", spoken_twice)] == ["No.", "No."]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    content = "1\n00:00:01,000 --> 00:00:02,000\nÇa coûte 5 € à Zoë\n"
    assert read(tmp_path, "a.srt", content.encode(encoding))[0].text == "Ça coûte 5 € à Zoë"


def test_bytes_that_windows_1252_lacks_are_taken_for_latin_1(tmp_path: Path) -> None:
    assert read(tmp_path, "a.srt", b"1\n00:00:01,000 --> 00:00:02,000\n\xe9t\xe9 \x81\n")[0].text == "été \x81"


def test_times_that_cannot_be_read_are_none(tmp_path: Path) -> None:
    content = "1\n00:00:05,000 --> 00:00:04,000\nbackwards\n\n2\n00:00:xx,000 --> 00:00:08,000\nbroken start\n"
    backwards, broken = read(tmp_path, "a.srt", content)
    assert backwards == Cue(5.0, 4.0, "backwards")
    assert math.isnan(broken.start_s)
    assert broken.text == "broken start"


def test_ass(tmp_path: Path) -> None:
    content = (
        "[Script Info]\nScriptType: v4.00+\n\n[V4+ Styles]\nFormat: Name, Fontname, Fontsize\nStyle: Default,Arial,20\n\n[Events]\n"
        "Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\n"
        "Comment: 0,0:00:00.00,0:00:01.00,Default,,0,0,0,,a note\n"
        "Dialogue: 0,0:00:01.50,0:00:03.25,Default,Ann,0,0,0,,{\\i1}Hello,{\\i0}\\Nthere, you\n"
        "Dialogue: 0,0:00:04.00,0:00:05.00,Default,,0,0,0,,{\\p1}m 0 0 l 10 10{\\p0}\n"
        "Dialogue: 0,1:00:00.00,1:00:00.50,Default,,0,0,0,,late\n"
    )
    assert rows(read(tmp_path, "a.ass", content)) == [(1.5, 3.25, "Hello, there, you"), (3600.0, 3600.5, "late")]


def test_json3_of_youtube(tmp_path: Path) -> None:
    events = [
        {"tStartMs": 0, "dDurationMs": 99000, "id": 1, "wpWinPosId": 1},
        {"tStartMs": 1200, "dDurationMs": 4000, "segs": [{"utf8": "so"}, {"utf8": " today", "tOffsetMs": 300}, {"utf8": " we"}]},
        {"tStartMs": 3000, "dDurationMs": 2000, "aAppend": 1, "segs": [{"utf8": "\n"}]},
        {"tStartMs": 6000, "dDurationMs": 500, "segs": [{"utf8": "written\nby hand"}]},
    ]
    spoken, written = read(tmp_path, "a.en.json3", json.dumps({"wireMagic": "pb3", "events": events}))
    assert spoken[:3] == (1.2, 5.2, "so today we")
    assert [(word.start_s, word.text) for word in spoken.words] == [(1.2, "so"), (1.5, "today"), (1.2, "we")]
    assert written == Cue(6.0, 6.5, "written by hand")


def test_json_of_whisper(tmp_path: Path) -> None:
    words = [{"word": " Cut", "start": 0.5, "end": 0.8, "probability": 1}, {"word": " it", "start": 0.9, "end": 1.0}]
    segments = [
        {"id": 0, "start": 0.5, "end": 1.2, "text": " Cut it", "words": words},
        {"id": 1, "start": 2, "end": 3, "text": " in 2", "words": [{"word": "in", "start": 2.0, "end": 2.2}, {"word": "2"}]},
        {"id": 2, "start": 4, "end": 5.5, "text": " Done."},
    ]
    found = read(tmp_path, "a.json", json.dumps({"text": "", "segments": segments, "language": "en"}))
    assert found == [
        Cue(0.5, 1.2, "Cut it", (Word(0.5, 0.8, "Cut"), Word(0.9, 1.0, "it"))),
        Cue(2.0, 3.0, "in 2"),
        Cue(4.0, 5.5, "Done."),
    ]
    other = {"transcription": [{"offsets": {"from": 1500, "to": 2250}, "text": " whisper.cpp "}]}
    assert read(tmp_path, "b.json", json.dumps(other)) == [Cue(1.5, 2.25, "whisper.cpp")]


@pytest.mark.parametrize(
    "content", ["[1, 2]", '{"segments": [3]}', '{"title": "a video", "duration": 3}', "no JSON", "1" * 5000, "[" * 100_000]
)
def test_json_of_something_else_is_no_transcript(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    assert read_cues(tmp_path / "a.json") is None


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json3", "no JSON"),
        ("a.json3", '{"events": [{"segs": [{"utf8": "without a time"}]}]}'),
        ("a.json", '{"segments": [{"text": "without a time"}]}'),
        ("a.json", '{"segments": [{"start": 1, "end": 2, "text": 3}]}'),
        ("a.json", '{"segments": [{"start": "x", "end": 1, "text": "a"}]}'),
        ("a.json", '{"transcription": [{"text": "without offsets"}]}'),
        ("a.ass", "[Events]\nFormat: Layer, Start\nDialogue: 0,x\n"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, content: str) -> None:
    with pytest.raises(VbcliError, match=rf"{name} ") as caught:
        read(tmp_path, name, content)
    assert caught.value.hint


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(VbcliError, match=r"none\.srt cannot be read: No such file"):
        read_cues(tmp_path / "none.srt")
