"""Captions as files that other programs read: JSONL, CSV, SRT and VTT."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path, PurePosixPath
from typing import Any

from vbcli import shards
from vbcli.files import write_atomic
from vbcli.transcripts import TranscriptSegment, format_srt, format_vtt


def export_captions(captions_dir: Path, file_format: str) -> Path:
    """Writes the captions of a dataset beside it.

    Args:
        file_format: `jsonl` or `csv` (one file), `srt` or `vtt` (one file a video, in a folder of that name).

    Returns:
        The file or folder written.
    """
    rows = [row for path in shards.list_shards(captions_dir) for row in shards.read_shard(path).to_pylist()]
    # `video` is what caption files call it: a table can be read back as captions or references.
    named = [{"video": row["video_id"], **{k: v for k, v in row.items() if k != "video_id"}} for row in rows]
    if file_format in ("srt", "vtt"):
        return _write_subtitles(captions_dir / file_format, rows, file_format)
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


def _write_subtitles(folder: Path, rows: list[dict[str, Any]], file_format: str) -> Path:
    by_video: dict[str, list[TranscriptSegment]] = {}
    for row in rows:
        by_video.setdefault(row["video_id"], []).append(TranscriptSegment(row["start_s"], row["end_s"], row["caption"]))
    for video_id, segments in by_video.items():
        # The suffix stays in the name: a.mp4 and a.mkv may lie side by side.
        path = folder / PurePosixPath(f"{video_id}.{file_format}")
        write_atomic(path, (format_srt if file_format == "srt" else format_vtt)(segments).encode())
    folder.mkdir(exist_ok=True)
    return folder
