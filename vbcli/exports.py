"""Captions as files that other programs read: JSONL, CSV, SRT and VTT, and copies of the videos that show them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from vbcli import shards
from vbcli.files import not_written, write_atomic, write_json
from vbcli.media.limits import Limits
from vbcli.media.probe import DEFAULT_LIMITS
from vbcli.rendering import burn_subtitles, is_made_from, made_from
from vbcli.segments import as_paragraph
from vbcli.text.transcripts import TranscriptSegment, format_srt, format_vtt

RECORDS = "_made-from"
"""Folder beside burnt-in copies that tells what each was made from."""


def export_captions(captions_dir: Path, file_format: str) -> Path:
    """Writes the captions of a dataset beside it.

    Args:
        file_format: `jsonl` or `csv` (one file), `srt` or `vtt` (one file a video, in a folder of that name).

    Returns:
        The file or folder written.
    """
    rows = shards.read_rows(captions_dir)
    # `video` is what caption files call it: a table can be read back as captions or references.
    named = [{"video": row["video_id"], **{k: v for k, v in row.items() if k != "video_id"}} for row in rows]
    if file_format in ("srt", "vtt"):
        return _write_subtitles(captions_dir, file_format)
    target = captions_dir / f"captions.{file_format}"
    if file_format == "jsonl":
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in named)
    else:
        buffer = io.StringIO(newline="")
        writer = csv.DictWriter(buffer, list(named[0]) if named else ["video"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(named)
        text = buffer.getvalue()
    write_atomic(target, text.encode())
    return target


def timed_captions(captions_dir: Path) -> dict[tuple[str, str], list[TranscriptSegment]]:
    """The captions of each video by its id and path, in order."""
    found: dict[tuple[str, str], list[TranscriptSegment]] = {}
    for row in shards.read_rows(captions_dir, ["video_id", "path", "start_s", "end_s", "caption"]):
        segment = TranscriptSegment(row["start_s"], row["end_s"], row["caption"])
        found.setdefault((row["video_id"], row["path"]), []).append(segment)
    return found


def paragraphs(captions_dir: Path) -> dict[str, str]:
    """The captions of each video as one text; where a video has one, that caption as it is."""
    return {
        video_id: segments[0].text if len(segments) == 1 else as_paragraph([s.text for s in segments])
        for (video_id, _), segments in timed_captions(captions_dir).items()
    }


def write_paragraphs(captions_dir: Path) -> Path:
    """Writes a paragraph a video beside the captions of its segments: `paragraphs.jsonl`."""
    target = captions_dir / "paragraphs.jsonl"
    rows = [{"video": video_id, "caption": text} for video_id, text in paragraphs(captions_dir).items()]
    write_atomic(target, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
    return target


def burn_captions(
    captions_dir: Path, folder: Path, executable: str, limits: Limits = DEFAULT_LIMITS
) -> Iterator[tuple[str, Callable[[], None]]]:
    """Jobs that write `<video>.mp4`, copies of the videos that show their captions: (video_id, job) of each that is not there yet, or
    was made from other captions or from another video.

    Args:
        executable: from `find_ffmpeg`.
    """
    for (video_id, path), sentences in timed_captions(captions_dir).items():
        target, record = folder / f"{video_id}.mp4", folder / RECORDS / f"{video_id}.json"
        origin = made_from(path, sentences)
        if not (target.exists() and is_made_from(record, origin)):
            yield video_id, partial(_burn, path, sentences, target, record, origin, executable, limits)


def _burn(
    path: str, sentences: Sequence[TranscriptSegment], target: Path, record: Path, origin: dict[str, Any], executable: str, limits: Limits
) -> None:
    try:
        # It is of the copy that is replaced.
        record.unlink(missing_ok=True)
    except OSError as error:
        raise not_written(record, error) from error
    burn_subtitles(path, sentences, target, executable, limits)
    write_json(record, origin)


def _write_subtitles(captions_dir: Path, file_format: str) -> Path:
    folder = captions_dir / file_format
    for (video_id, _), segments in timed_captions(captions_dir).items():
        # The suffix stays in the name: a.mp4 and a.mkv may lie side by side.
        path = folder / PurePosixPath(f"{video_id}.{file_format}")
        write_atomic(path, (format_srt if file_format == "srt" else format_vtt)(segments).encode())
    folder.mkdir(exist_ok=True)
    return folder
