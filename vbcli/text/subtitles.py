"""What the files say in which people and machines keep the words of a video: SubRip, WebVTT, ASS, YouTube's JSON3, Whisper's JSON."""

from __future__ import annotations

import codecs
import html
import json
import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pysubs2

from vbcli.errors import VbcliError

SUBTITLE_SUFFIXES = (".srt", ".vtt", ".ass", ".ssa", ".json3", ".json")
"""In this order one is chosen where a video has several."""

_STAMP = r"(?:([0-9]+):)?([0-9]{1,2}):([0-9]{1,2})(?:[.,]([0-9]{1,9}))?"
_TIMING = re.compile(rf"\s*{_STAMP}\s*-->\s*{_STAMP}(?:\s.*)?")
_BROKEN_TIMING = re.compile(r"\s*-?[0-9].*-->")
_WORD_STAMP = re.compile(r"<((?:[0-9]+:)?[0-9]{1,2}:[0-9]{1,2}\.[0-9]{1,9})>")
_LINE_BREAK_TAG = re.compile(r"<br\s*/?>", re.IGNORECASE)
_TAG = re.compile(
    r"</?(?:i|b|u|s|em|strong|font|span|c|v|lang|ruby|rt)(?:[.\s][^<>]*)?>|<[0-9]+:[0-9:.]+>|\{\\[^{}]*\}",
    re.IGNORECASE,
)


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
        text: one line of plain text.
        words: of it, with their times; empty where the file has none.
    """

    start_s: float
    end_s: float
    text: str
    words: tuple[Word, ...] = ()


def read_cues(path: Path) -> list[Cue] | None:
    """The cues of a file in their order; None where it is JSON of something else, as many tools leave beside a video.

    Args:
        path: UTF-8 or UTF-16 with a byte order mark, UTF-8 without, else taken for Windows-1252 or Latin-1.

    Raises:
        VbcliError: it cannot be read.
    """
    try:
        text = _decode(path.read_bytes())
    except OSError as error:
        raise VbcliError(f"{path} cannot be read: {error.strerror}", hint="look at its permissions, or remove it") from error
    suffix = path.suffix.lower()
    if suffix in (".json3", ".json"):
        return _json_cues(text, path)
    if suffix in (".ass", ".ssa"):
        return _ass_cues(text, path)
    return parse_cues(text, is_vtt=suffix == ".vtt" or text.startswith("WEBVTT"))


# ---------------------------------------------------------------- SubRip and WebVTT


def parse_cues(text: str, is_vtt: bool) -> list[Cue]:
    """Finds the cues of a SubRip or WebVTT text.

    In WebVTT an empty line ends a cue, and what stands outside the cues (header, notes, styles) is not text. In SRT the text goes
    on to the next cue, because many files have empty lines inside their cues. Rolling captions, as YouTube writes them with a
    stamp before each word, show every line in two or three cues in a row; a line that only stays on the screen is not repeated.

    Source: WebVTT, W3C, sections 4 (syntax) and 6 (parsing).
    """
    is_rolling = is_vtt and _WORD_STAMP.search(text) is not None
    cues: list[Cue] = []
    shown = ""
    for start_s, end_s, raw_lines in _raw_cues(text, is_vtt):
        lines = [(line, raw) for raw in raw_lines if (line := plain_text(raw))]
        if is_rolling and lines:
            stays = lines[0][0] == shown
            shown = lines[-1][0]
            lines = lines[1:] if stays else lines
            if not lines:
                continue
        words = tuple(word for _, raw in lines for word in _stamped_words(raw, start_s)) if is_rolling else ()
        cues.append(Cue(start_s, end_s, " ".join(line for line, _ in lines), words))
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
            current = (_seconds(timing, 1), _seconds(timing, 5), []) if timing else (float("nan"), float("nan"), [])
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


def _decode(data: bytes) -> str:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors="replace")
    for encoding in ("utf-8-sig", "cp1252"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    return data.decode("latin-1")


# ---------------------------------------------------------------- ASS and JSON


def _ass_cues(text: str, path: Path) -> list[Cue]:
    try:
        with warnings.catch_warnings():
            # What it cannot read of an event's place on the screen is none of our business.
            warnings.simplefilter("ignore", RuntimeWarning)
            subtitles = pysubs2.SSAFile.from_string(text, format_="ass")
    except (pysubs2.exceptions.Pysubs2Error, ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        raise VbcliError(f"{path} is not readable as ASS: {error}", hint="remove the file to go on without it") from error
    return [Cue(e.start / 1000, e.end / 1000, " ".join(e.plaintext.split())) for e in subtitles if not (e.is_comment or e.is_drawing)]


def _json_cues(text: str, path: Path) -> list[Cue] | None:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:  # also of numbers with thousands of digits
        if path.suffix.lower() == ".json":
            return None  # whatever it was
        raise VbcliError(f"{path} is not valid JSON: {error}", hint="remove the file to go on without it") from error
    if not isinstance(data, dict):
        return None
    try:
        if isinstance(data.get("events"), list):
            return list(_json3_cues(data["events"]))
        if isinstance(data.get("segments"), list) and all(isinstance(s, dict) and "text" in s for s in data["segments"]):
            return list(_whisper_cues(data["segments"]))
        if isinstance(data.get("transcription"), list):
            return [Cue(e["offsets"]["from"] / 1000, e["offsets"]["to"] / 1000, _one_line(e["text"])) for e in data["transcription"]]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise VbcliError(
            f"{path} is neither YouTube's JSON3 nor Whisper's JSON: {error!r}", hint="remove the file to go on without it"
        ) from error
    return None


def _json3_cues(events: list[dict[str, Any]]) -> Iterator[Cue]:
    """YouTube's JSON3: `tStartMs`, `dDurationMs` and `segs` of words with offsets; events without words are windows of the player."""
    for event in events:
        if "segs" not in event or event.get("aAppend"):
            continue
        start_s = event["tStartMs"] / 1000
        segs = [(s.get("tOffsetMs"), s.get("utf8", "")) for s in event["segs"]]
        has_times = any(offset is not None for offset, _ in segs)
        words = [Word(start_s + (offset or 0) / 1000, None, word) for offset, text in segs for word in text.split()] if has_times else []
        yield Cue(start_s, start_s + event.get("dDurationMs", 0) / 1000, _one_line("".join(text for _, text in segs)), tuple(words))


def _whisper_cues(segments: list[dict[str, Any]]) -> Iterator[Cue]:
    """What openai-whisper, faster-whisper and whisperX write: segments in seconds, words in them where they were asked for."""
    for segment in segments:
        timed = [w for w in segment.get("words") or [] if w.get("start") is not None]
        words = tuple(
            Word(float(w["start"]), None if w.get("end") is None else float(w["end"]), part) for w in timed for part in w["word"].split()
        )
        # Not all have times: those of numbers are often missing. Then the times of none are used.
        is_whole = len(timed) == len(segment.get("words") or [])
        yield Cue(float(segment["start"]), float(segment["end"]), _one_line(segment["text"]), words if is_whole else ())


def _one_line(text: str) -> str:
    return " ".join(text.split())
