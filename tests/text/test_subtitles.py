"""Files of subtitles and of speech recognition as they are found, to cues; expected values are written by hand."""

from __future__ import annotations

import json
import math
import tracemalloc
from pathlib import Path

import pytest

from vbcli.errors import VbcliError
from vbcli.text.subtitles import Cue, Word, read_cues
from vbcli.text.transcripts import read_transcript


def read(folder: Path, name: str, content: str | bytes) -> list[Cue]:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    found = read_cues(path)
    assert found is not None
    return found.cues


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
        (65.5, 67.25, "Second & last\nafter a gap"),
        (1.0, 2.0, "First\nline 3 < 4"),
        (3.0, 4.0, ""),
        (3723.0, 3724.001, "no final newline"),
    ]


def test_a_number_may_be_text_and_numbers_of_cues_are_not_text(tmp_path: Path) -> None:
    content = "1\n00:00:01,000 --> 00:00:02,000\n42\n\n2\n00:00:03,000 --> 00:00:04,000\nthen\n43\n3\n00:00:05,000 --> 00:00:06,000\nend\n"
    assert [s.text for s in read(tmp_path, "a.srt", content)] == ["42", "then\n43", "end"]


def test_vtt_with_header_notes_styles_and_settings(tmp_path: Path) -> None:
    content = (
        "WEBVTT - a title\nKind: captions\nLanguage: en\n\nSTYLE\n::cue { color: lime }\n\nNOTE\nnot text\n\n"
        "intro\n00:01.000 --> 00:02.500 align:start position:0% line:-1\n<v Ann>Hello <c.loud>there</c></v>\nworld&nbsp;&lt;3\n\n"
        "NOTE also not text\n\n100:00:00.000 --> 100:00:01.000\n- late\n"
    )
    assert rows(read(tmp_path, "a.vtt", content)) == [(1.0, 2.5, "Hello there\nworld <3"), (360000.0, 360001.0, "- late")]
    # The content tells WebVTT also where the name does not.
    assert len(read(tmp_path, "b.srt", content)) == 2
    assert "not text" not in " ".join(cue.text for cue in read(tmp_path, "b.srt", content))


def test_stamps_before_words_are_their_times(tmp_path: Path) -> None:
    content = (
        "WEBVTT\n\n00:00:00.080 --> 00:00:02.389 align:start\n \nhello<00:00:00.320><c> and</c><00:00:00.480><c> welcome</c>\n\n"
        "00:00:02.389 --> 00:00:02.399 align:start\nhello and welcome\n \n\n"
        "00:00:02.399 --> 00:00:04.000 align:start\nhello and welcome\nback<00:00:02.600><c> to</c>\n"
    )
    first, still, second = read(tmp_path, "a.vtt", content)
    assert first == (0.08, 2.389, "hello and welcome", (Word(0.08, None, "hello"), Word(0.32, None, "and"), Word(0.48, None, "welcome")))
    assert still == Cue(2.389, 2.399, "hello and welcome")
    assert second[:3] == (2.399, 4.0, "hello and welcome\nback to")
    assert [(word.start_s, word.text) for word in second.words[3:]] == [(2.399, "back"), (2.6, "to")]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    content = "1\n00:00:01,000 --> 00:00:02,000\nÇa coûte 5 € à Zoë\n"
    assert read(tmp_path, "a.srt", content.encode(encoding))[0].text == "Ça coûte 5 € à Zoë"


def test_bytes_that_windows_1252_lacks_are_taken_for_latin_1(tmp_path: Path) -> None:
    assert read(tmp_path, "a.srt", b"1\n00:00:01,000 --> 00:00:02,000\n\xe9t\xe9 \x81\n")[0].text == "été \x81"


def is_guessed(path: Path, content: bytes) -> bool:
    path.write_bytes(content)
    found = read_cues(path)
    assert found is not None
    return found.is_guessed


RUSSIAN = "1\n00:00:01,000 --> 00:00:02,000\nСегодня мы варим рис.\n"


def test_utf_8_with_a_bad_byte_or_cut_in_a_character_stays_utf_8(tmp_path: Path) -> None:
    whole = RUSSIAN.encode()
    assert read(tmp_path, "a.srt", whole.replace("ы".encode(), b"\xff"))[0].text == "Сегодня м\ufffd варим рис."
    assert read(tmp_path, "a.srt", whole[:-3])[0].text == "Сегодня мы варим ри\ufffd"
    assert not is_guessed(tmp_path / "a.srt", whole[:-3])
    # What says in UTF-8 that something could not be read is UTF-8.
    assert read(tmp_path, "a.srt", "1\n00:00:01,000 --> 00:00:02,000\n\ufffd\ufffd?\n")[0].text == "\ufffd\ufffd?"


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1251", "Сегодня мы варим рис, и ёлка! Объём её."),
        ("koi8_r", "Сегодня мы варим рис, и ёлка! Объём её."),
        ("gb18030", "今天我们做饭。首先把米洗干净，然后加水煮熟。"),
        ("shift_jis", "今日はご飯を作ります。カレーライス、おいしいですね"),
        ("euc_kr", "오늘은 밥을 하겠습니다. 먼저 쌀을 씻으세요."),
        ("cp1252", "Ça coûte cher à Noël, déjà « été »"),
    ],
)
def test_files_that_are_not_utf_8_are_known_as_such(tmp_path: Path, encoding: str, text: str) -> None:
    content = "1\n00:00:01,000 --> 00:00:02,000\n" + text
    assert is_guessed(tmp_path / "a.srt", content.encode(encoding))
    for unicode in ("utf-8", "utf-8-sig", "utf-16"):
        assert not is_guessed(tmp_path / "a.srt", content.encode(unicode))


@pytest.mark.parametrize("arrow", ["->", " -> ", "--->", " - ->", "-->"])
def test_other_arrows_between_times_are_read(tmp_path: Path, arrow: str) -> None:
    content = f"1\n00:00:01,000{arrow}00:00:02,000\nHello 5 -> 6\n2\n00:00:03,000 --> 00:00:04,000\nthere\n"
    assert rows(read(tmp_path, "a.srt", content)) == [(1.0, 2.0, "Hello 5 -> 6"), (3.0, 4.0, "there")]


def test_a_broken_time_before_another_arrow_is_a_cue_of_its_own(tmp_path: Path) -> None:
    _, broken = read(tmp_path, "a.srt", "00:00:01,000 --> 00:00:02,000\nHello\n\n00:xx:03,000 -> 00:00:04,000\nlost\n")
    assert math.isnan(broken.start_s)
    assert broken.text == "lost"


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
    assert rows(read(tmp_path, "a.ass", content)) == [(1.5, 3.25, "Hello,\nthere, you"), (3600.0, 3600.5, "late")]


def test_a_bad_line_of_ass_costs_itself(tmp_path: Path) -> None:
    content = (
        "[V4+ Styles]\nFormat: Name, Fontname\nStyle: Default,Arial\n[Events]\n"
        "Dialogue: 0,0:00:01.00,0:00:02.00,Default,,0,0,0,,Before\n"
        "Dialogue: 0,0:00:xx.00,0:00:04.00,Default,,0,0,0,,Lost\n"
        "Dialogue: 0,0:00\n"
        "Dialogue: 0,0:00:05.00,0:00:06.00,Default,,0,0,0,,After, too\n"
    )
    before, lost, short, after = read(tmp_path, "a.ass", content)
    assert rows([before, after]) == [(1.0, 2.0, "Before"), (5.0, 6.0, "After, too")]
    assert (math.isnan(lost.start_s), math.isnan(short.end_s), lost.text) == (True, True, "Lost")


def test_the_format_line_of_ass_says_what_stands_where(tmp_path: Path) -> None:
    content = (
        "[V4+ Styles]\nFormat: Name, Fontname\n[Events]\nFormat: Start, End, Style, Text\n"
        "Dialogue: 0:00:01.00,0:00:02.00,Default,Hello, you\n"
        "Format: End, Start, Actor, Text\nDialogue: 0:00:04.00,-0:00:03.00,,there\n"
    )
    assert rows(read(tmp_path, "a.ass", content)) == [(1.0, 2.0, "Hello, you"), (-3.0, 4.0, "there")]


def test_a_line_of_many_tags_takes_little_memory(tmp_path: Path) -> None:
    tracemalloc.start()
    content = "Dialogue: 0,0:00:01.00,0:00:02.00,Default,,0,0,0,," + "{\\k10}la " * 5000
    (cue,) = read(tmp_path, "a.ass", content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert cue.text == " ".join(["la"] * 5000)
    assert peak < 10 << 20


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
    assert written == Cue(6.0, 6.5, "written\nby hand")


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
    ("form", "whole", "bad"),
    [
        ("segments", {"start": 1, "end": 2, "text": "said"}, {"start": 3, "end": None, "text": "x"}),
        ("segments", {"start": 1, "end": 2, "text": "said"}, {"start": "x", "end": 4, "text": "x"}),
        ("segments", {"start": 1, "end": 2, "text": "said"}, {"start": 3, "end": 4, "text": None}),
        ("segments", {"start": 1, "end": 2, "text": "said"}, {"start": 3, "end": 10**400, "text": "x"}),
        ("segments", {"start": 1, "end": 2, "text": "said"}, "x"),
        ("transcription", {"offsets": {"from": 1000, "to": 2000}, "text": "said"}, {"text": "x"}),
        ("events", {"tStartMs": 1000, "dDurationMs": 1000, "segs": [{"utf8": "said"}]}, {"segs": [{"utf8": "x"}]}),
        ("events", {"tStartMs": 1000, "dDurationMs": 1000, "segs": [{"utf8": "said"}]}, {"tStartMs": 1, "segs": 7}),
        ("events", {"tStartMs": 1000, "dDurationMs": 1000, "segs": [{"utf8": "said"}]}, None),
    ],
)
def test_a_bad_entry_of_json_costs_itself(tmp_path: Path, form: str, whole: object, bad: object) -> None:
    before, lost, after = read(tmp_path, "a.json", json.dumps({form: [whole, bad, whole]}))
    assert before == after == Cue(1.0, 2.0, "said")
    assert math.isnan(lost.start_s)


def test_halves_of_characters_are_replaced(tmp_path: Path) -> None:
    words = [{"word": " so", "start": 1, "end": 2}, {"word": " \ud83d", "start": 2, "end": 3}]
    contents = {
        "a.json": {"segments": [{"start": 1, "end": 3, "text": " so \ud83d", "words": words}]},
        "b.json": {"transcription": [{"offsets": {"from": 1000, "to": 3000}, "text": "so \ud83d"}]},
        "c.json3": {"events": [{"tStartMs": 1000, "dDurationMs": 2000, "segs": [{"utf8": "so"}, {"utf8": " \ud83d", "tOffsetMs": 1000}]}]},
    }
    for name, content in contents.items():
        (cue,) = read(tmp_path, name, json.dumps(content))
        assert cue[:3] == (1.0, 3.0, "so \ufffd")
        assert [word.text for word in cue.words] in ([], ["so", "\ufffd"])
    assert read(tmp_path, "a.json", json.dumps({"segments": [{"start": 1, "end": 3, "text": "so \U0001f600"}]}))[0].text == "so \U0001f600"


@pytest.mark.parametrize(
    "content",
    [
        "[1, 2]",
        '{"segments": [3]}',
        '{"segments": []}',
        '{"events": []}',
        '{"events": [{"type": "click"}]}',
        '{"title": "a video", "duration": 3}',
        "no JSON",
        "1" * 5000,
        "[" * 100_000,
    ],
)
def test_json_of_something_else_is_no_transcript(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    assert read_cues(tmp_path / "a.json") is None


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json3", "no JSON"),
        ("a.json3", "[1, 2]"),
        ("a.json3", '{"events": []}'),
        ("a.json3", '{"events": [{"segs": [{"utf8": "without a time"}]}]}'),
        ("a.json", '{"segments": [{"text": "without a time"}]}'),
        ("a.json", '{"segments": [{"start": 1, "end": 2, "text": 3}]}'),
        ("a.json", '{"segments": [{"start": "x", "end": 1, "text": "a"}]}'),
        ("a.json", '{"transcription": [{"text": "without offsets"}]}'),
        ("a.ass", "[Events]\nFormat: Layer, Start\nDialogue: 0,x\n"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(VbcliError, match=rf"{name} ") as caught:
        read_transcript(tmp_path / name)
    assert caught.value.hint


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(VbcliError, match=r"none\.srt cannot be read: No such file"):
        read_cues(tmp_path / "none.srt")
