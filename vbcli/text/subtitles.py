"""What the files say in which people and machines keep the words of a video: SubRip, WebVTT, ASS, YouTube's JSON3, Whisper's JSON."""

from __future__ import annotations

import codecs
import html
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pysubs2

from vbcli.errors import VbcliError

SUBTITLE_SUFFIXES = (".srt", ".vtt", ".ass", ".ssa", ".json3", ".json")
"""In this order one is chosen where a video has several."""
REPLACEMENT = "\ufffd"
"""Stands for what is no character."""

_STAMP = r"(?:([0-9]+):)?([0-9]{1,2}):([0-9]{1,2})(?:[.,]([0-9]{1,9}))?"
_TIMING = re.compile(rf"\s*{_STAMP}\s*-+ ?-*>\s*{_STAMP}(?:\s.*)?")
# Arrows with one dash are found in texts, too.
_BROKEN_TIMING = re.compile(r"\s*-?[0-9](?:.*-->|[0-9]*:.*->\s*[0-9]+:)")
_WORD_STAMP = re.compile(r"<((?:[0-9]+:)?[0-9]{1,2}:[0-9]{1,2}\.[0-9]{1,9})>")
_LINE_BREAK_TAG = re.compile(r"<br\s*/?>", re.IGNORECASE)
_TAG = re.compile(
    r"</?(?:i|b|u|s|em|strong|font|span|c|v|lang|ruby|rt)(?:[.\s][^<>]*)?>|<[0-9]+:[0-9:.]+>|\{\\[^{}]*\}",
    re.IGNORECASE,
)
_SURROGATE = re.compile("[\ud800-\udfff]")


class Word(NamedTuple):
    """A word and when it is said, in seconds; the end is None where the file does not tell it."""

    start_s: float
    end_s: float | None
    text: str


class Cue(NamedTuple):
    """A cue as its file has it: neither its times nor its text need be of any use.

    Args:
        start_s: seconds; NaN where it cannot be read.
        end_s: seconds, as likely as not before the start.
        text: plain text, its lines as they are shown, with a line feed between them.
        words: of it, with their times; empty where the file has none.
    """

    start_s: float
    end_s: float
    text: str
    words: tuple[Word, ...] = ()


class Subtitles(NamedTuple):
    """The cues of a file in their order.

    Args:
        is_guessed: whether the file is in no Unicode encoding, and was taken for Windows-1252 or Latin-1.
    """

    cues: list[Cue]
    is_guessed: bool


_UNREADABLE = Cue(math.nan, math.nan, "")


def read_cues(path: Path) -> Subtitles | None:
    """Reads the cues of a file; None where it is JSON of something else, as many tools leave beside a video.

    Args:
        path: UTF-8 or UTF-16 with a byte order mark, UTF-8 without, else taken for Windows-1252 or Latin-1. What is damaged in
            UTF-8 is U+FFFD.

    Raises:
        VbcliError: it cannot be read.
    """
    try:
        text, is_guessed = _decode(path.read_bytes())
    except OSError as error:
        raise VbcliError(f"{path} cannot be read: {error.strerror}", hint="look at its permissions, or remove it") from error
    suffix = path.suffix.lower()
    if suffix in (".json3", ".json"):
        cues = _json_cues(text, path)
    elif suffix in (".ass", ".ssa"):
        cues = list(_ass_cues(text))
    else:
        cues = parse_cues(text, is_vtt=suffix == ".vtt" or text.startswith("WEBVTT"))
    return None if cues is None else Subtitles(cues, is_guessed)


# ---------------------------------------------------------------- SubRip and WebVTT


def parse_cues(text: str, is_vtt: bool) -> list[Cue]:
    """Finds the cues of a SubRip or WebVTT text.

    In WebVTT an empty line ends a cue, and what stands outside the cues (header, notes, styles) is not text. In SRT the text goes
    on to the next cue, because many files have empty lines inside their cues. Words have times where stamps stand before them, as
    in the captions of YouTube.

    Source: WebVTT, W3C, sections 4 (syntax) and 6 (parsing).
    """
    cues: list[Cue] = []
    for start_s, end_s, raw_lines in _raw_cues(text, is_vtt):
        lines = [(line, raw) for raw in raw_lines if (line := plain_text(raw))]
        has_stamps = is_vtt and any(_WORD_STAMP.search(raw) for _, raw in lines)
        words = tuple(word for _, raw in lines for word in _stamped_words(raw, start_s)) if has_stamps else ()
        cues.append(Cue(start_s, end_s, "\n".join(line for line, _ in lines), words))
    return cues


def _raw_cues(text: str, is_vtt: bool) -> Iterable[tuple[float, float, list[str]]]:
    """Yields start, end and raw lines of each cue."""
    current: tuple[float, float, list[str]] | None = None
    for line in re.split(r"\r\n|\r|\n", text):
        timing = _TIMING.fullmatch(line)
        if timing or _BROKEN_TIMING.match(line):
            if current:
                if current[2] and current[2][-1].strip().isdigit():
                    current[2].pop()  # the number of the cue that begins here
                yield current
            current = (_seconds(timing, 1), _seconds(timing, 5), []) if timing else (math.nan, math.nan, [])
        elif current and is_vtt and not line:
            yield current
            current = None
        elif current:
            current[2].append(line)
    if current:
        yield current


def _stamped_words(raw: str, start_s: float) -> Iterator[Word]:
    """The words of a line in which each but the first has its time before it."""
    parts = _WORD_STAMP.split(raw)
    for stamp, part in zip(["", *parts[1::2]], parts[::2], strict=True):
        timing = _STAMP_ONLY.fullmatch(stamp)
        at_s = _seconds(timing, 1) if timing else start_s
        for word in plain_text(part).split():
            yield Word(at_s, None, word)


_STAMP_ONLY = re.compile(_STAMP)


def _seconds(timing: re.Match[str], first_group: int) -> float:
    hours, minutes, seconds, fraction = timing.groups("")[first_group - 1 : first_group + 3]
    # One correctly rounded division, so that 1.001 is read as the float nearest to 1.001.
    whole = (int(hours or 0) * 60 + int(minutes)) * 60 + int(seconds)
    return int(f"{whole}{fraction}") / 10 ** len(fraction)


def plain_text(line: str) -> str:
    """Text of a cue line without markup, entities decoded, white space collapsed."""
    return " ".join(html.unescape(_TAG.sub("", _LINE_BREAK_TAG.sub(" ", line))).split())


def _decode(data: bytes) -> tuple[str, bool]:
    """The text of a file, and whether its encoding was guessed."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors="replace"), False
    try:
        return data.decode("utf-8-sig"), False
    except UnicodeDecodeError:
        text = data.decode("utf-8-sig", errors="replace")
    # Few characters of other encodings look like UTF-8: a file most of whose characters do is UTF-8, and damaged.
    n_beyond_ascii = len(text) - len(text.encode("ascii", errors="ignore"))
    if 2 * text.count(REPLACEMENT) < n_beyond_ascii:
        return text, False
    try:
        return data.decode("cp1252"), True
    except UnicodeDecodeError:
        return data.decode("latin-1"), True


# ---------------------------------------------------------------- ASS and JSON

_EVENT_FIELDS = ("layer", "start", "end", "style", "name", "marginl", "marginr", "marginv", "effect", "text")
# pysubs2 finds drawings, too, but takes memory by the square of the tags of a line.
_DRAWING = re.compile(r"\{[^{}]*\\p[1-9][^{}]*\}")


def _ass_cues(text: str) -> Iterator[Cue]:
    """What is said in the events of a SubStation file, their fields in the order of its Format line."""
    fields: Sequence[str] = _EVENT_FIELDS
    for line in re.split(r"\r\n|\r|\n", text):
        kind, _, rest = line.strip().partition(":")
        if kind == "Format":
            named = [name.strip().lower() for name in rest.split(",")]
            # Styles have a Format line of their own.
            fields = named if {"start", "end", "text"} <= set(named) else fields
        elif kind == "Dialogue":
            event = dict(zip(fields, rest.strip().split(",", len(fields) - 1), strict=False))
            said = event.get("text", "")
            if not _DRAWING.search(said):
                yield Cue(_ass_time(event.get("start", "")), _ass_time(event.get("end", "")), _lines(pysubs2.SSAEvent(text=said).plaintext))


def _ass_time(stamp: str) -> float:
    timing = _STAMP_ONLY.fullmatch(stamp.strip().removeprefix("-"))
    return math.nan if timing is None else _seconds(timing, 1) * (-1 if stamp.strip().startswith("-") else 1)


def _json_cues(text: str, path: Path) -> list[Cue] | None:
    is_of_anything = path.suffix.lower() == ".json"
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:  # also of numbers with thousands of digits
        if is_of_anything:
            return None
        raise VbcliError(f"{path} is not valid JSON: {error}", hint="remove the file to go on without it") from error
    for name, mark, build in _JSON_FORMS:
        entries = data.get(name) if isinstance(data, dict) else None
        if isinstance(entries, list) and any(isinstance(entry, dict) and mark in entry for entry in entries):
            return [cue for entry in entries if (cue := _read_entry(entry, build)) is not None]
    return None if is_of_anything else []


def _read_entry(entry: Any, build: Callable[[Mapping[str, Any]], Cue | None]) -> Cue | None:
    """A cue, without times where the entry is damaged, None where it is none."""
    if not isinstance(entry, dict):
        return _UNREADABLE
    try:
        return build(entry)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return _UNREADABLE


def _json3_cue(event: Mapping[str, Any]) -> Cue | None:
    """YouTube's JSON3: `tStartMs`, `dDurationMs` and `segs` of words with offsets; events without words are windows of the player."""
    if "segs" not in event or event.get("aAppend"):
        return None
    start_s = event["tStartMs"] / 1000
    segs = [(s.get("tOffsetMs"), without_surrogates(s.get("utf8", ""))) for s in event["segs"]]
    has_times = any(offset is not None for offset, _ in segs)
    words = [Word(start_s + (offset or 0) / 1000, None, word) for offset, text in segs for word in text.split()] if has_times else []
    return Cue(start_s, start_s + event.get("dDurationMs", 0) / 1000, _lines("".join(text for _, text in segs)), tuple(words))


def _whisper_cue(segment: Mapping[str, Any]) -> Cue:
    """What openai-whisper, faster-whisper and whisperX write: segments in seconds, words in them where they were asked for."""
    timed = [w for w in segment.get("words") or [] if w.get("start") is not None]
    words = tuple(
        Word(float(w["start"]), None if w.get("end") is None else float(w["end"]), part)
        for w in timed
        for part in without_surrogates(w["word"]).split()
    )
    # Not all have times: those of numbers are often missing. Then the times of none are used.
    is_whole = len(timed) == len(segment.get("words") or [])
    text = _lines(without_surrogates(segment["text"]))
    return Cue(float(segment["start"]), float(segment["end"]), text, words if is_whole else ())


def _whisper_cpp_cue(entry: Mapping[str, Any]) -> Cue:
    offsets = entry["offsets"]
    return Cue(offsets["from"] / 1000, offsets["to"] / 1000, _lines(without_surrogates(entry["text"])))


_JSON_FORMS = (("events", "segs", _json3_cue), ("segments", "text", _whisper_cue), ("transcription", "text", _whisper_cpp_cue))
"""The list that holds the cues, a field by which its entries are known, and what makes a cue of one."""


def _lines(text: str) -> str:
    return "\n".join(line for raw in text.split("\n") if (line := " ".join(raw.split())))


def without_surrogates(text: str) -> str:
    """Text that can be written: halves of characters, which JSON may hold, are U+FFFD."""
    return text if text.isascii() else _SURROGATE.sub(REPLACEMENT, text)
