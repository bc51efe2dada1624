"""Subtitles (SRT and WebVTT) to timed transcript segments and back, and their alignment with spans of a video."""

from __future__ import annotations

import codecs
import html
import logging
import math
import os
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from vbcli.errors import VbcliError

SUBTITLE_SUFFIXES = (".srt", ".vtt")

_TIE_S = 1e-6
_STAMP = r"(?:([0-9]+):)?([0-9]{1,2}):([0-9]{1,2})(?:[.,]([0-9]{1,9}))?"
_TIMING = re.compile(rf"\s*{_STAMP}\s*-->\s*{_STAMP}(?:\s.*)?")
_BROKEN_TIMING = re.compile(r"\s*-?[0-9].*-->")
_WORD_STAMP = re.compile(r"<[0-9]+:[0-9:.]+>")
_LINE_BREAK_TAG = re.compile(r"<br\s*/?>", re.IGNORECASE)
_TAG = re.compile(
    r"</?(?:i|b|u|s|em|strong|font|span|c|v|lang|ruby|rt)(?:[.\s][^<>]*)?>|<[0-9]+:[0-9:.]+>|\{\\[^{}]*\}",
    re.IGNORECASE,
)
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]{2,8})*")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TranscriptSegment:
    """Words said (or shown) during a part of a video.

    Args:
        start_s: first moment in seconds, 0 or more.
        end_s: moment after the last, in seconds, `start_s` or later.
        text: one line of plain text.

    Raises:
        ValueError: the times are negative, not finite or in the wrong order.
    """

    start_s: float
    end_s: float
    text: str

    def __post_init__(self) -> None:
        if not 0 <= self.start_s <= self.end_s < math.inf:
            raise ValueError(f"not a time span: {self.start_s} s to {self.end_s} s")


@dataclass(frozen=True)
class ParsedSubtitles:
    """What a subtitle text holds: its segments in order of time, and how many cues could not be used.

    Args:
        segments: sorted by start, then end; none without text.
        n_dropped: cues that end before they start, or whose time cannot be read.
    """

    segments: list[TranscriptSegment]
    n_dropped: int


def read_subtitles(path: Path) -> list[TranscriptSegment]:
    """Reads an `.srt` or `.vtt` file; cues that cannot be used are left out and their number is logged as a warning.

    Args:
        path: UTF-8 or UTF-16 with a byte order mark, UTF-8 without, else taken for Windows-1252 or Latin-1.

    Returns:
        The segments, sorted by start, then end.

    Raises:
        VbcliError: the file cannot be read, or no cue in it can.
    """
    try:
        text = _decode(path.read_bytes())
    except OSError as error:
        raise VbcliError(f"{path} cannot be read: {error.strerror}") from None
    parsed = parse_subtitles(text, is_vtt=path.suffix.lower() == ".vtt" or text.startswith("WEBVTT"))
    if not parsed.segments:
        raise VbcliError(
            f"{path} holds no readable subtitle",
            hint="a cue is a line such as 00:00:01,000 --> 00:00:02,500 with its text below; remove the file to go on without it",
        )
    if parsed.n_dropped:
        _log.warning("%s: %d of its cues have an unusable time and were left out", path, parsed.n_dropped)
    return parsed.segments


def parse_subtitles(text: str, is_vtt: bool) -> ParsedSubtitles:
    """Finds the cues of a subtitle text.

    In WebVTT an empty line ends a cue, and what stands outside the cues (header, notes, styles) is not text. In SRT the text goes
    on to the next cue, because many files have empty lines inside their cues. Rolling captions, as YouTube writes them with a
    stamp before each word, show every line in two or three cues in a row; a line that only stays on the screen is not repeated.

    Source: WebVTT, W3C, sections 4 (syntax) and 6 (parsing).
    """
    is_rolling = is_vtt and _WORD_STAMP.search(text) is not None
    segments: list[TranscriptSegment] = []
    n_dropped = 0
    shown = ""
    for start_s, end_s, raw_lines in _cues(text, is_vtt):
        lines = [line for line in map(_plain, raw_lines) if line]
        if is_rolling and lines:
            stays = lines[0] == shown
            shown = lines[-1]
            lines = lines[1:] if stays else lines
        if not lines:
            continue
        if end_s < start_s:
            n_dropped += 1
        else:
            segments.append(TranscriptSegment(start_s, end_s, " ".join(lines)))
    segments.sort(key=lambda s: (s.start_s, s.end_s))
    return ParsedSubtitles(segments, n_dropped)


def _cues(text: str, is_vtt: bool) -> Iterable[tuple[float, float, list[str]]]:
    """Yields start, end and raw lines of each cue; a cue whose time cannot be read runs from 0 s to -1 s."""
    current: tuple[float, float, list[str]] | None = None
    for line in re.split(r"\r\n|\r|\n", text):
        timing = _TIMING.fullmatch(line)
        if timing or _BROKEN_TIMING.match(line):
            if current:
                if current[2] and current[2][-1].strip().isdigit():
                    current[2].pop()  # the number of the cue that begins here
                yield current
            current = (_seconds(timing, 1), _seconds(timing, 5), []) if timing else (0.0, -1.0, [])
        elif current and is_vtt and not line:
            yield current
            current = None
        elif current:
            current[2].append(line)
    if current:
        yield current


def _seconds(timing: re.Match[str], first_group: int) -> float:
    hours, minutes, seconds, fraction = timing.groups("")[first_group - 1 : first_group + 3]
    # One correctly rounded division, so that 1.001 is read as the float nearest to 1.001.
    whole = (int(hours or 0) * 60 + int(minutes)) * 60 + int(seconds)
    return int(f"{whole}{fraction}") / 10 ** len(fraction)


def _plain(line: str) -> str:
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


def find_sidecar(video_path: Path, names: Sequence[str] | None = None) -> Path | None:
    """Finds the subtitle file that lies beside a video.

    For `clip.mp4` the first of: `clip.srt`, `clip.vtt`, then with a language (`clip.en.srt`, `clip.pt-BR.srt`) all `.srt` before all
    `.vtt`, each in alphabetical order.

    Args:
        video_path: the video.
        names: the sorted names in its folder, where the caller has them: a folder of many videos is then listed once only.

    Returns:
        The path of the subtitle file, or None.
    """
    folder, prefix = video_path.parent, f"{video_path.stem}."
    if names is None:
        names = sorted(os.listdir(folder))
    found: list[tuple[bool, int, str]] = []
    for i in range(bisect_left(names, prefix), len(names)):
        name = names[i]
        if not name.startswith(prefix):
            break
        language, suffix = os.path.splitext(name[len(prefix) - 1 :])
        if not suffix:  # `.srt` alone is a name without suffix
            language, suffix = "", language
        is_language = _LANGUAGE.fullmatch(language[1:]) is not None
        if suffix.lower() in SUBTITLE_SUFFIXES and (not language or is_language) and (folder / name).is_file():
            found.append((is_language, SUBTITLE_SUFFIXES.index(suffix.lower()), name))
    return folder / min(found)[2] if found else None


def format_srt(segments: Iterable[TranscriptSegment]) -> str:
    """Writes segments as SRT, in order of time, times rounded to milliseconds; segments without text are left out.

    SRT has no escapes and players show entities as they stand, so they are used only where the text would be read as markup.
    """
    blocks = []
    for number, (start, end, text) in enumerate(_rounded(segments), start=1):
        safe = text if _plain(text) == text and "-->" not in text else _escape(text).replace("{", "&#123;")
        blocks.append(f"{number}\n{_stamp(start, ',')} --> {_stamp(end, ',')}\n{safe}\n")
    return "\n".join(blocks)


def format_vtt(segments: Iterable[TranscriptSegment]) -> str:
    """Writes segments as WebVTT, in order of time, times rounded to milliseconds; segments without text are left out."""
    cues = [
        f"{_stamp(start, '.')} --> {_stamp(end, '.')}\n{_escape(text).replace('{', '&#123;')}\n" for start, end, text in _rounded(segments)
    ]
    return "\n".join(["WEBVTT\n", *cues])


def _rounded(segments: Iterable[TranscriptSegment]) -> list[tuple[int, int, str]]:
    """(start in ms, end in ms, text on one line) of the segments that have text, sorted by time."""
    cues = ((round(s.start_s * 1000), round(s.end_s * 1000), " ".join(s.text.split())) for s in segments)
    return sorted((cue for cue in cues if cue[2]), key=lambda cue: cue[:2])


def _escape(text: str) -> str:
    return html.escape(text, quote=False)


def _stamp(time_ms: int, decimal_mark: str) -> str:
    seconds, milliseconds = divmod(time_ms, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}{decimal_mark}{milliseconds:03d}"


def assign_segments(segments: Sequence[TranscriptSegment], spans: Sequence[tuple[float, float]]) -> list[str]:
    """Gives the text of every segment to exactly one span, so that no words are repeated in a tokenised video.

    Args:
        segments: in the order in which their texts are joined.
        spans: (start_s, end_s) of each span, end not included, in any order.

    Returns:
        The joined text of each span, empty where no segment belongs to it. Segments outside all spans are left out;
        `best_spans` tells which.
    """
    texts: list[list[str]] = [[] for _ in spans]
    for segment, owner in zip(segments, best_spans(segments, spans), strict=True):
        if owner is not None:
            texts[owner].append(segment.text)
    return [" ".join(parts) for parts in texts]


def best_spans(segments: Sequence[TranscriptSegment], spans: Sequence[tuple[float, float]]) -> list[int | None]:
    """Finds for each segment the span it overlaps most; on ties the span that starts earlier.

    Args:
        segments: in any order. One of no length belongs to the first span that holds its moment.
        spans: (start_s, end_s) of each span, end not included, in any order.

    Returns:
        For each segment the index of its span, or None where it overlaps none; `.count(None)` is the number left out.
    """
    order = sorted(range(len(spans)), key=lambda i: spans[i][0])
    starts = [spans[i][0] for i in order]
    # The latest end so far never falls, so a search in it finds the first span that may reach a segment.
    latest_ends = list(accumulate((spans[i][1] for i in order), max))
    owners: list[int | None] = []
    for segment in segments:
        owner, most = None, -math.inf
        for i in order[bisect_right(latest_ends, segment.start_s) : bisect_right(starts, segment.end_s)]:
            overlap = _overlap_s(segment, *spans[i])
            # A later span must win clearly: equal parts of a segment may differ in their last bits.
            if overlap is not None and overlap > most + _TIE_S:
                owner, most = i, overlap
        owners.append(owner)
    return owners


def _overlap_s(segment: TranscriptSegment, start_s: float, end_s: float) -> float | None:
    """Seconds that a segment shares with [start_s, end_s), 0 for a segment of no length inside it, None for nothing."""
    if segment.start_s == segment.end_s:
        return 0.0 if start_s <= segment.start_s < end_s else None
    overlap = min(segment.end_s, end_s) - max(segment.start_s, start_s)
    return overlap if overlap > 0 else None
