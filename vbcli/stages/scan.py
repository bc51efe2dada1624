"""Scanning a folder of videos: which videos are in which shard, the text that belongs to each, and what probing says."""

from __future__ import annotations

import codecs
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from vbcli import captionfiles, shards, transcripts
from vbcli.errors import ItemFailure, MediaError, VbcliError
from vbcli.media import VIDEO_SUFFIXES, probe_video
from vbcli.runner import Process, Rows, ShardInput, Stage
from vbcli.schemas import VIDEOS

VIDEOS_PER_SHARD = 32


@dataclass(frozen=True)
class ScannedVideo:
    """A video file found in a folder."""

    video_id: str
    path: str
    bytes: int
    mtime_ns: int


@dataclass(frozen=True)
class Scan:
    """The planned videos as inputs of the `Probe` stage, and what is worth saying about them."""

    inputs: list[ShardInput]
    notes: list[str]


def escape_name(name: bytes) -> str:
    """A file name as text: bytes outside UTF-8 are percent-escaped, and then every other `%` is, too."""
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError:
        return name.replace(b"%", b"%25").decode("utf-8", errors="percent-escape")


codecs.register_error("percent-escape", lambda error: ("".join(f"%{b:02X}" for b in error.object[error.start : error.end]), error.end))  # type: ignore[union-attr]


def scan_folder(root: Path) -> list[ScannedVideo]:
    """Finds the videos below a folder by suffix, sorted by `video_id`; hidden files and folders are passed over.

    Raises:
        VbcliError: the folder does not exist or holds no video.
    """
    if not root.exists():
        raise VbcliError(f"folder {root} does not exist")
    if root.is_file():
        found = [_scanned(os.fsencode(root.parent.resolve()), os.fsencode(root.name))]
    else:
        base = os.fsencode(root.resolve())
        found = []
        for folder, folders, names in os.walk(base):
            folders[:] = sorted(f for f in folders if not f.startswith(b"."))
            for name in names:
                if not name.startswith(b".") and os.path.splitext(name)[1].decode("latin-1").lower() in VIDEO_SUFFIXES:
                    found.append(_scanned(base, os.path.relpath(os.path.join(folder, name), base)))
    if not found:
        raise VbcliError(f"{root} holds no videos", hint=f"files with these suffixes are videos: {' '.join(sorted(VIDEO_SUFFIXES))}")
    return sorted(found, key=lambda v: v.video_id)


def _scanned(base: bytes, relative: bytes) -> ScannedVideo:
    path = os.path.join(base, relative)
    status = os.stat(path)
    return ScannedVideo(escape_name(relative), escape_name(path), status.st_size, status.st_mtime_ns)


# ---------------------------------------------------------------- plan


def update_plan(dataset_dir: Path, found: Sequence[ScannedVideo]) -> tuple[list[list[ScannedVideo]], list[str]]:
    """Assigns videos to shards, once: plans that are there are never rewritten, new videos go to new shards.

    Returns:
        The videos of each shard as they are on disk now, and notes on new, changed and removed videos.

    Raises:
        VbcliError: the plan is of other videos.
    """
    plan_dir = dataset_dir / "_plan"
    by_id = {v.video_id: v for v in found}
    if not _read_plans(plan_dir):
        _write_plan(plan_dir / "0000.json", found)
    planned = [ScannedVideo(**v) for shard in _read_plans(plan_dir) for v in shard]
    known = {v.video_id for v in planned}
    if not known & set(by_id):
        raise VbcliError(f"{dataset_dir} holds other videos than those of this folder", hint="name another output folder or --workspace")
    notes = []
    new = [v for v in found if v.video_id not in known]
    if new:
        _write_plan(plan_dir / f"{len(list(plan_dir.glob('*.json'))):04d}.json", new)
        notes.append(f"{len(new)} new videos go to new shards, first {new[0].video_id}")
    removed = [v.video_id for v in planned if v.video_id not in by_id]
    if removed:
        notes.append(f"{len(removed)} planned videos are gone from the folder, first {removed[0]}: what was made of them stays")
    changed = [v.video_id for v in planned if v.video_id in by_id and by_id[v.video_id] != v]
    if changed:
        notes.append(f"{len(changed)} videos changed since they were planned, first {changed[0]}: their shards are made again")
    return [[by_id.get(v["video_id"], ScannedVideo(**v)) for v in shard] for shard in _read_plans(plan_dir)], notes


def _read_plans(plan_dir: Path) -> list[list[dict[str, Any]]]:
    return [shard for path in sorted(plan_dir.glob("*.json")) for shard in shards.read_json(path)["shards"]]


def _write_plan(path: Path, found: Sequence[ScannedVideo]) -> None:
    groups = [found[i : i + VIDEOS_PER_SHARD] for i in range(0, len(found), VIDEOS_PER_SHARD)]
    # Exclusive: of two machines that start at once, one writes the plan and both follow it.
    shards.write_json(path, {"shards": [[vars(v) for v in group] for group in groups]}, is_exclusive=True)


# ---------------------------------------------------------------- text


def scan_videos(root: Path, dataset_dir: Path, caption_files: Sequence[Path] = ()) -> Scan:
    """Plans the videos of a folder and joins their text: caption files and subtitles beside the videos.

    Args:
        root: folder of videos, or one video.
        dataset_dir: where the plan is kept.
    """
    planned, notes = update_plan(dataset_dir, scan_folder(root))
    video_ids = [v.video_id for shard in planned for v in shard]
    texts: dict[str, captionfiles.VideoText] = {}
    if caption_files:
        rows = [row for path in caption_files for row in captionfiles.read_caption_file(path)]
        names = ", ".join(str(p) for p in caption_files)
        texts, unmatched = captionfiles.match_rows(rows, video_ids, names)
        if not texts:
            raise VbcliError(
                f"{names} names none of the {len(video_ids)} videos in {root}", hint=f"a video here is called '{video_ids[0]}'"
            )
        if unmatched:
            notes.append(f"{names} names {len(unmatched)} videos that are not in {root}, first '{unmatched[0]}'")
    inputs = []
    for index, shard in enumerate(planned):
        table = pa.Table.from_pylist([_planned_row(v, texts.get(v.video_id), notes) for v in shard], schema=VIDEOS)
        # The absolute path is no part of a video's identity: a moved folder does not redo anything.
        inputs.append(ShardInput(index, table, shards.table_digest(table.drop_columns(["path"]))))
    return Scan(inputs, notes)


def _planned_row(video: ScannedVideo, text: captionfiles.VideoText | None, notes: list[str]) -> dict[str, Any]:
    text = text or captionfiles.VideoText()
    return {
        **vars(video),
        "transcript": _read_sidecar(video, notes),
        **text.as_columns(),
    }


def _read_sidecar(video: ScannedVideo, notes: list[str]) -> list[dict[str, Any]]:
    path = Path(video.path)
    sidecar = transcripts.find_sidecar(path) if path.parent.is_dir() else None
    if sidecar is None:
        return []
    try:
        segments = transcripts.read_subtitles(sidecar)
    except VbcliError as error:
        # Subtitles that cannot be read cost the video its transcript, not its frames.
        notes.append(error.message)
        return []
    return [{"start_s": s.start_s, "end_s": s.end_s, "text": s.text} for s in segments]


# ---------------------------------------------------------------- probing


@dataclass(frozen=True)
class Probe(Stage):
    """Fills in what a container says of its video. A video that cannot be opened keeps its row, with no codec."""

    name: ClassVar[str] = "probe"
    version: ClassVar[int] = 1
    output_kind: ClassVar[str] = "videos"

    def output_schema(self) -> pa.Schema:
        return VIDEOS

    def open(self) -> Process:
        return _probe_rows


def _probe_rows(rows: Rows) -> Rows:
    for table in rows:
        if isinstance(table, ItemFailure):
            yield table
            continue
        (row,) = table.to_pylist()
        try:
            info = probe_video(row["path"])
        except MediaError:
            yield table
            continue
        values = {"duration_s": info.duration_s, "width_px": info.width_px, "height_px": info.height_px, "fps": info.fps}
        yield pa.Table.from_pylist([{**row, **values, "codec": info.codec, "has_audio": info.has_audio}], schema=VIDEOS)
