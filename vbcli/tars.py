"""Videos in tar files, as WebDataset and img2dataset's family keep them: `KEY.mp4`, with `KEY.json`, `KEY.txt` or subtitles beside it.

The videos are read where they are: a member of a tar file is a part of it, from an offset on.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from vbcli.errors import VbcliError
from vbcli.media.formats import VIDEO_SUFFIXES
from vbcli.text.captionfiles import CaptionRow, build_row
from vbcli.text.speech import TranscriptSegment, repair_cues
from vbcli.text.subtitles import parse_cues

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


def read_tar(path: Path) -> Sequence[TarVideo]:
    """The videos of a tar file with what stands beside them, in their order.

    Raises:
        VbcliError: it cannot be read.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise VbcliError(f"{path} cannot be read: {error.strerror}", hint="look at its permissions") from error
    return _read_tar(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _read_tar(path: Path, size: int, mtime_ns: int) -> Sequence[TarVideo]:
    del size, mtime_ns
    videos: dict[str, tarfile.TarInfo] = {}
    beside: dict[tuple[str, str], bytes] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                # Links and devices lead elsewhere: they are none of ours.
                if not member.isreg() or member.issparse():
                    continue
                key, suffix = _split(member.name)
                if suffix in VIDEO_SUFFIXES:
                    videos.setdefault(key, member)
                elif suffix in (".json", ".txt", ".srt", ".vtt") and member.size <= MAX_TEXT_BYTES:
                    file = tar.extractfile(member)
                    assert file is not None
                    beside[key, suffix] = file.read()
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise VbcliError(f"{path} cannot be read as a tar file: {error}", hint="it is damaged, or compressed: unpack it") from error
    return tuple(_tar_video(key, member, beside) for key, member in videos.items())


def _split(name: str) -> tuple[str, str]:
    """Key and suffix, as WebDataset takes them: the first dot of the last part divides them."""
    folder, slash, base = name.rpartition("/")
    key, dot, suffix = base.partition(".")
    # `KEY.0000.jpg` is a frame; of a video the last suffix counts, wherever the first dot is.
    if os.path.splitext(base)[1].lower() in VIDEO_SUFFIXES:
        key, suffix = os.path.splitext(base)[0].split(".")[0], os.path.splitext(base)[1][1:]
    return f"{folder}{slash}{key}", f"{dot}{suffix}".lower()


def _tar_video(key: str, member: tarfile.TarInfo, beside: dict[tuple[str, str], bytes]) -> TarVideo:
    def text(suffix: str) -> str | None:
        data = beside.get((key, suffix))
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
