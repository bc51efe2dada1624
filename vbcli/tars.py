"""Videos in tar files, as WebDataset and img2dataset's family keep them: `KEY.mp4`, with `KEY.json`, `KEY.txt` or subtitles beside it.

The videos are read where they are: a member of a tar file is a part of it, from an offset on.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from vbcli.errors import VbcliError
from vbcli.media.formats import VIDEO_SUFFIXES
from vbcli.text.captionfiles import CaptionRow, build_row
from vbcli.text.speech import TranscriptSegment, repair_cues
from vbcli.text.subtitles import parse_cues

TEXT_SUFFIXES = (".json", ".txt", ".srt", ".vtt")
MAX_TEXT_BYTES = 16 << 20
"""A description is no longer than this."""


@dataclass(frozen=True)
class TarVideo:
    """A video in a tar file.

    Args:
        name: of the member.
        offset: of its first byte.
        size: in bytes.
        description: of `KEY.json`; None where there is none, or it is no object.
        text: of `KEY.txt`, a caption.
        subtitles: of `KEY.srt` or `KEY.vtt`.
    """

    name: str
    offset: int
    size: int
    description: dict[str, Any] | None = field(default=None, hash=False)
    text: str | None = None
    subtitles: str | None = None


def read_tar(path: Path) -> list[TarVideo]:
    """The videos of a tar file with what stands beside them, in their order.

    Raises:
        VbcliError: it cannot be read.
    """
    return list(_videos_in(path).values())


def find_in_tar(path: Path, offset: int) -> TarVideo | None:
    """The video of a tar file that begins at an offset."""
    return _videos_in(path).get(offset)


def _videos_in(path: Path) -> Mapping[int, TarVideo]:
    try:
        status = os.stat(path)
    except OSError as error:
        raise VbcliError(f"{path} cannot be read: {error.strerror}", hint="look at its permissions") from error
    return _read_tar(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _read_tar(path: Path, size: int, mtime_ns: int) -> Mapping[int, TarVideo]:
    """The videos by the offset at which they begin."""
    del size, mtime_ns
    videos: list[tarfile.TarInfo] = []
    beside: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                # Links and devices lead elsewhere: they are none of ours.
                if not member.isreg() or member.issparse():
                    continue
                stem, suffix = os.path.splitext(member.name)
                if suffix.lower() in VIDEO_SUFFIXES:
                    videos.append(member)
                elif suffix.lower() in TEXT_SUFFIXES and member.size <= MAX_TEXT_BYTES:
                    file = tar.extractfile(member)
                    assert file is not None
                    beside[stem + suffix.lower()] = file.read()
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise VbcliError(f"{path} cannot be read as a tar file: {error}", hint="it is damaged, or compressed: unpack it") from error
    return {member.offset_data: _tar_video(member, beside) for member in videos}


def _tar_video(member: tarfile.TarInfo, beside: dict[str, bytes]) -> TarVideo:
    stem = os.path.splitext(member.name)[0]
    folder, slash, base = stem.rpartition("/")
    # To WebDataset all before the first dot is the key; a file of the video's whole name is nearer to it.
    key = f"{folder}{slash}{base.partition('.')[0]}"

    def text(suffix: str) -> str | None:
        data = beside.get(stem + suffix, beside.get(key + suffix))
        return None if data is None else data.decode("utf-8", errors="replace")

    try:
        description = json.loads(text(".json") or "null")
    except (ValueError, RecursionError):
        description = None
    subtitles = text(".srt") or text(".vtt")
    kept = description if isinstance(description, dict) else None
    return TarVideo(member.name, member.offset_data, member.size, kept, (text(".txt") or "").strip() or None, subtitles)


def caption_rows(video: TarVideo, video_id: str, path: Path) -> Iterator[CaptionRow]:
    """What is said of a video, as rows of a caption file.

    Raises:
        VbcliError: a value is wrong; the message names the tar file, the video and the field.
    """
    said = video.description or {}
    whole = {"video": video_id, "split": said.get("split")}
    labels = said.get("labels") or [said[name] for name in ("label", "category") if said.get(name) is not None]
    captions: list[Any] = said.get("captions") or [said[name] for name in ("caption", "text") if isinstance(said.get(name), str)][:1]
    if not captions and video.text:
        captions = [video.text]
    rows: list[dict[str, Any]] = []
    for said_of in captions:
        span = {"start_s": said_of.get("start_s"), "end_s": said_of.get("end_s")} if isinstance(said_of, dict) else {}
        rows.append({"caption": said_of.get("text") if isinstance(said_of, dict) else said_of, **span})
    rows += [{"label": label} for label in labels]
    for asked in said.get("questions") or []:
        if isinstance(asked, dict):
            answers = asked.get("answers") or [None]
            rows += [{"question": asked.get("question"), "answer": a, "candidates": asked.get("candidates") or None} for a in answers]
    place = (path / video.name).with_suffix(".json")
    for row in rows or ([{}] if whole["split"] else []):
        yield build_row({**whole, **row}, place, 1)


def transcript_of(video: TarVideo) -> list[TranscriptSegment]:
    """What is said in a video: its subtitles, else the transcript of its description; empty where there is none."""
    if video.subtitles:
        return repair_cues(parse_cues(video.subtitles, is_vtt=video.subtitles.startswith("WEBVTT"))).segments
    cues = (video.description or {}).get("transcript")
    if not isinstance(cues, list):
        return []
    try:
        return [TranscriptSegment(float(c["start_s"]), float(c["end_s"]), str(c["text"])) for c in cues]
    except (KeyError, TypeError, ValueError):
        return []
