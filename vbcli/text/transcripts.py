"""Transcripts: the subtitle file beside a video, subtitles that are written, and the alignment of segments with spans of a video."""

from __future__ import annotations

import html
import math
import os
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from vbcli.errors import VbcliError
from vbcli.text.speech import Transcript, TranscriptSegment, repair_cues
from vbcli.text.subtitles import SUBTITLE_SUFFIXES, plain_text, read_cues

_TIE_S = 1e-6
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]{2,8})*")


def read_transcript(path: Path) -> Transcript | None:
    """Reads a file of subtitles or of speech recognition; None where it is JSON of something else.

    Raises:
        VbcliError: the file cannot be read, or no cue in it can.
    """
    found = read_cues(path)
    if found is None:
        return None
    transcript = repair_cues(found.cues)
    if not transcript.segments:
        raise VbcliError(
            f"{path} holds no readable subtitle",
            hint="a cue is a line such as 00:00:01,000 --> 00:00:02,500 with its text below; remove the file to go on without it",
        )
    return transcript._replace(repairs=replace(transcript.repairs, n_guessed=int(found.is_guessed)))


class Sidecar(NamedTuple):
    """A subtitle file beside a video, and the language in its name; empty where there is none."""

    path: Path
    language: str


def find_sidecars(video_path: Path, names: Sequence[str] | None = None, language: str | None = None) -> list[Sidecar]:
    """Finds the subtitle files that lie beside a video, those that are to be read before others first.

    For `clip.mp4`: `clip.srt`, `clip.vtt` and so on as in `SUBTITLE_SUFFIXES`, then with a language (`clip.en.srt`, `clip.pt-BR.srt`)
    all `.srt` before all `.vtt` and so on, each in alphabetical order. What a `.json` holds is not looked at.

    Args:
        video_path: the video.
        names: the sorted names in its folder, where the caller has them: a folder of many videos is then listed once only.
        language: files of this language (`pt` is `pt-BR`, too) come first, and those of others are left out.
    """
    folder, prefix = video_path.parent, f"{video_path.stem}."
    if names is None:
        names = sorted(path.name for path in folder.iterdir())
    found: list[tuple[bool, int, str, str]] = []
    for i in range(bisect_left(names, prefix), len(names)):
        name = names[i]
        if not name.startswith(prefix):
            break
        code, suffix = os.path.splitext(name[len(prefix) - 1 :])
        if not suffix:  # `.srt` alone is a name without suffix
            code, suffix = "", code
        is_wanted = not code or (is_language(code[1:]) and (language is None or _is_of_language(code[1:], language)))
        if suffix.lower() in SUBTITLE_SUFFIXES and is_wanted and (folder / name).is_file():
            comes_later = bool(code) if language is None else not code
            found.append((comes_later, SUBTITLE_SUFFIXES.index(suffix.lower()), name, code[1:]))
    return [Sidecar(folder / name, code) for _, _, name, code in sorted(found)]


def is_language(code: str) -> bool:
    """Whether a text is a code of a language, such as `en`, `pt-BR` or `zh_Hans`."""
    return _LANGUAGE.fullmatch(code) is not None


def _is_of_language(code: str, language: str) -> bool:
    code, language = (text.lower().replace("_", "-") for text in (code, language))
    return code == language or code.startswith(f"{language}-")


def find_sidecar(video_path: Path) -> Path | None:
    """The first subtitle file that lies beside a video; JSON of something else is passed over."""
    for path, _ in find_sidecars(video_path):
        if path.suffix.lower() != ".json" or read_cues(path) is not None:
            return path
    return None


def format_srt(segments: Iterable[TranscriptSegment]) -> str:
    """Writes segments as SRT, in order of time, times rounded to milliseconds; segments without text are left out.

    SRT has no escapes and players show entities as they stand, so they are used only where the text would be read as markup.
    """
    blocks = []
    for number, (start, end, text) in enumerate(_rounded(segments), start=1):
        safe = text if plain_text(text) == text and "->" not in text else _escape(text).replace("{", "&#123;")
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
