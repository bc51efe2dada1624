"""Scanning a folder of videos: which videos are in which shard, the text that belongs to each, and what probing says."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from vbcli import shards
from vbcli.digests import table_digest
from vbcli.errors import ItemFailure, MediaError, VbcliError
from vbcli.files import escape_name, read_json, write_json
from vbcli.media.containers import leads_out, member_path, open_path, split_member
from vbcli.media.decode import Decoder, MediaOptions
from vbcli.media.formats import VIDEO_SUFFIXES
from vbcli.runner import ShardInput
from vbcli.schemas import TEXT_FIELDS, VIDEOS
from vbcli.stage import Process, Rows, Stage
from vbcli.stages.walk import Passed, is_tar_name, is_text_name, is_video_name, walk
from vbcli.storage import as_path, is_remote, list_files
from vbcli.tars import TarVideo, caption_rows, find_in_tar, read_tar, transcript_of
from vbcli.text import captionfiles, transcripts
from vbcli.text.speech import Repairs

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
    """The planned videos as inputs of the `Probe` stage, what is worth saying about them, and which are gone from the folder."""

    inputs: list[ShardInput]
    notes: list[str]
    gone: frozenset[str]


def scan_folder(root: Path, *, follows_links: bool = False, passed: Passed | None = None) -> list[ScannedVideo]:
    """Finds the videos below a folder by suffix, sorted by `video_id`; hidden files and folders are passed over.

    Args:
        root: a folder, or one video.
        follows_links: look into linked folders, too; into each folder once, by its own name where it has one here.
        passed: what else is passed over is added to it.

    Raises:
        VbcliError: the folder does not exist, cannot be read or holds no video, or two names would be one `video_id`.
    """
    if not root.exists():
        raise VbcliError(f"{root} does not exist", hint="name a folder of videos, or one video")
    hint = f"files with these suffixes are videos: {' '.join(sorted(VIDEO_SUFFIXES))}"
    passed = passed or Passed()
    if is_remote(root):
        found = _scan_remote(root, passed)
    elif root.is_file() and root.suffix.lower() == ".tar":
        found = _scanned_at(os.fsencode(root.parent.resolve()), os.fsencode(root.name))
    elif root.is_file():
        if not is_video_name(os.fsencode(root.name)):
            raise VbcliError(f"{root} is no video by its name", hint=hint)
        # What is named itself is followed, wherever it leads.
        real = os.path.realpath(os.fsencode(root))
        found = [replace(_scanned(os.path.dirname(real), os.path.basename(real)), video_id=escape_name(os.fsencode(root.name)))]
    else:
        base = os.fsencode(root.resolve())
        found = []
        for path in walk(base, follows_links, passed):
            relative = os.path.relpath(path, base)
            if is_video_name(os.path.basename(path)) or is_tar_name(os.path.basename(path)):
                found += _scanned_at(base, relative)
            elif not is_text_name(path):
                passed.files.append(escape_name(relative))
    if not found:
        raise VbcliError(f"{root} holds no videos", hint=hint)
    found.sort(key=lambda v: v.video_id)
    for one, other in itertools.pairwise(found):
        if one.video_id == other.video_id:
            raise VbcliError(f"two files in {root} would both be called {one.video_id}", hint="rename the one whose name is not UTF-8")
    return found


def _scan_remote(root: Path, passed: Passed) -> list[ScannedVideo]:
    """The videos below an address of a store, or the one that is there."""
    paths = [root] if root.is_file() else list_files(root)
    base = root.parent if root.is_file() else root
    found = []
    for path in paths:
        relative = str(path).removeprefix(str(base)).lstrip("/")
        if _is_hidden(relative):
            continue
        if is_video_name(os.fsencode(path.name)):
            status = path.stat()
            found.append(ScannedVideo(relative, str(path), status.st_size, round(status.st_mtime * 1e9)))
        elif not is_text_name(os.fsencode(path.name)):
            passed.files.append(relative)
    return found


def _is_hidden(relative: str) -> bool:
    return any(part.startswith(".") for part in relative.split("/"))


def _scanned_at(base: bytes, relative: bytes) -> list[ScannedVideo]:
    """A video, or those of a tar file, whose name is then their folder."""
    if not is_tar_name(os.path.basename(relative)):
        return [_scanned(base, relative)]
    tar = _scanned(base, relative)
    folder = os.path.splitext(tar.video_id)[0]
    return [
        ScannedVideo(f"{folder}/{video.name}", member_path(tar.path, video.offset, video.size), video.size, tar.mtime_ns)
        for video in read_tar(Path(os.fsdecode(open_path(tar.path))))
    ]


def _tar_of(video: ScannedVideo) -> tuple[Path, TarVideo] | None:
    """The tar file that a video is in, and what it says of it; None of a file of its own."""
    member = split_member(video.path)
    if member is None:
        return None
    path = Path(os.fsdecode(open_path(video.path)))
    found = find_in_tar(path, member[1])
    return None if found is None else (path, found)


def _scanned(base: bytes, relative: bytes) -> ScannedVideo:
    path = os.path.join(base, relative)
    # A link to nothing stays a video, one that will fail: what it leads to may only not be fetched yet.
    status = os.stat(path) if os.path.exists(path) else os.lstat(path)
    return ScannedVideo(escape_name(relative), escape_name(path), status.st_size, status.st_mtime_ns)


# ---------------------------------------------------------------- plan


def update_plan(
    dataset_dir: Path, found: Sequence[ScannedVideo], *, limit: int | None = None, is_dry: bool = False
) -> tuple[list[list[ScannedVideo]], list[str]]:
    """Assigns videos to shards, once: plans that are there are never rewritten, new videos go to new shards.

    Args:
        limit: no more than so many videos are planned in all.
        is_dry: write nothing.

    Returns:
        The videos of each shard as they are on disk now, and notes on new, changed and removed videos.

    Raises:
        VbcliError: the plan is of other videos.
    """
    plan_dir = dataset_dir / "_plan"
    by_id = {v.video_id: v for v in found}
    # Numbered by what was read: a plan that another machine writes meanwhile is met under its name, and followed.
    paths = sorted(plan_dir.glob("*.json"))
    number = max((int(path.stem) + 1 for path in paths if path.stem.isdecimal()), default=0)
    plans = [shard for path in paths for shard in _read_plan(path)]
    if not plans:
        plans, number = _write_plan(plan_dir / f"{number:04d}.json", found[:limit], is_dry), number + 1
    if by_id.keys().isdisjoint(_planned(plans)):
        raise VbcliError(f"{dataset_dir} holds other videos than those of this folder", hint="name another output folder or --workspace")
    notes = []
    while new := _unplanned(found, plans, limit):
        added = _write_plan(plan_dir / f"{number:04d}.json", new, is_dry)
        plans, number = plans + added, number + 1
        notes.append(f"{len(_planned(added))} new videos go to new shards, first {new[0].video_id}")
    n_left = len(_unplanned(found, plans, None))
    if n_left:
        notes.append(f"{n_left} of {len(found)} videos are over the limit of {limit}, and are left for another run")
    planned = [ScannedVideo(**v) for shard in plans for v in shard]
    removed = [v.video_id for v in planned if v.video_id not in by_id]
    if removed:
        notes.append(f"{len(removed)} planned videos are gone from the folder, first {removed[0]}: what was made of them stays")
    # Where the folder lies is no change.
    changed = [v.video_id for v in planned if v.video_id in by_id and replace(by_id[v.video_id], path=v.path) != v]
    if changed:
        notes.append(f"{len(changed)} videos changed since they were planned, first {changed[0]}")
    return [[by_id.get(v["video_id"], ScannedVideo(**v)) for v in shard] for shard in plans], notes


def _planned(plans: list[list[dict[str, Any]]]) -> list[str]:
    return [v["video_id"] for shard in plans for v in shard]


def _unplanned(found: Sequence[ScannedVideo], plans: list[list[dict[str, Any]]], limit: int | None) -> list[ScannedVideo]:
    """The videos that are in no plan, as far as the limit lets them be planned."""
    known = set(_planned(plans))
    unplanned = [v for v in found if v.video_id not in known]
    return unplanned if limit is None else unplanned[: max(0, limit - len(known))]


def _write_plan(path: Path, found: Sequence[ScannedVideo], is_dry: bool) -> list[list[dict[str, Any]]]:
    """Writes a plan, unless another machine has; the plan that holds."""
    groups = [[vars(v) for v in found[i : i + VIDEOS_PER_SHARD]] for i in range(0, len(found), VIDEOS_PER_SHARD)]
    # Exclusive: of two machines that start at once, one writes the plan and both follow it.
    if is_dry or write_json(path, {"shards": groups}, is_exclusive=True):
        return groups
    return _read_plan(path)


def _read_plan(path: Path) -> list[list[dict[str, Any]]]:
    plan = read_json(path)
    groups = plan.get("shards") if isinstance(plan, dict) else None
    kinds = {"video_id": str, "path": str, "bytes": int, "mtime_ns": int}
    if not isinstance(groups, list) or not all(
        isinstance(shard, list)
        and all(isinstance(v, dict) and v.keys() == kinds.keys() and all(isinstance(v[k], kinds[k]) for k in kinds) for v in shard)
        for shard in groups
    ):
        raise VbcliError(f"{path} is not a plan of videos", hint="it is damaged: name another output folder")
    return groups


# ---------------------------------------------------------------- text


def scan_videos(
    root: Path,
    dataset_dir: Path,
    caption_files: Sequence[Path] = (),
    *,
    limit: int | None = None,
    is_dry: bool = False,
    follows_links: bool = False,
) -> Scan:
    """Plans the videos of a folder and joins their text: caption files and subtitles beside the videos.

    Args:
        root: folder of videos, or one video.
        dataset_dir: where the plan is kept.
        caption_files: none keeps what the videos dataset there says already.
        limit: plan no more than so many videos.
        is_dry: write nothing.
        follows_links: look into linked folders, and read subtitles that are links out of the folder, too.
    """
    passed = Passed()
    found = scan_folder(root, follows_links=follows_links, passed=passed)
    # Before the plan is written: a mistake in the command must not tie the folder to these videos.
    columns, text_notes = text_columns(root, found, dataset_dir, caption_files)
    planned, notes = update_plan(dataset_dir, found, limit=limit, is_dry=is_dry)
    notes += [*text_notes, *passed.notes()]
    gone = frozenset(v.video_id for shard in planned for v in shard) - {v.video_id for v in found}
    inputs = []
    no_text = captionfiles.VideoText().as_columns()
    sidecars = _Sidecars(follows_links)
    for index, shard in enumerate(planned):
        rows = [{**vars(v), "transcript": sidecars.read(v), **columns.get(v.video_id, no_text)} for v in shard]
        table = pa.Table.from_pylist(rows, schema=VIDEOS)
        # With the path: where a folder was moved, later stages must read the videos in their new place.
        inputs.append(ShardInput(index, table, table_digest(table), gone))
    return Scan(inputs, [*notes, *sidecars.all_notes()], gone)


def text_columns(
    root: Path, found: Sequence[ScannedVideo], dataset_dir: Path, caption_files: Sequence[Path]
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Captions, labels, questions and split by `video_id`, and notes."""
    in_tars = [(v.video_id, tar) for v in found if (tar := _tar_of(v))]
    own = captionfiles.match_rows(
        (row for video_id, (path, video) in in_tars for row in caption_rows(video, video_id, path)), [v for v, _ in in_tars], str(root)
    ).texts
    described = {video_id: text.as_columns() for video_id, text in own.items()}
    if not caption_files:
        # What was given before stays when the command is repeated without it, to retry what failed.
        names = [field.name for field in TEXT_FIELDS]
        shard_paths = shards.list_shards(dataset_dir / "videos")
        known = [row for path in shard_paths for row in shards.read_shard(path, ["video_id", *names]).to_pylist()]
        given = {row["video_id"]: {name: row[name] for name in names} for row in known if any(row[name] for name in names)}
        return {**described, **given}, []
    planned = [video_id for path in (dataset_dir / "_plan").glob("*.json") for video_id in _planned(_read_plan(path))]
    rows = [row for path in caption_files for row in captionfiles.read_caption_file(path)]
    sources = ", ".join(str(p) for p in caption_files)
    texts, unmatched = captionfiles.match_rows(rows, [*(v.video_id for v in found), *planned], sources)
    if not texts:
        message = f"{sources} names none of the {len(found)} videos in {root}"
        raise VbcliError(message, hint=f"a video here is called '{found[0].video_id}'")
    notes = [f"{sources} names {len(unmatched)} videos that are not in {root}, first '{unmatched[0]}'"] if unmatched else []
    return {**described, **{video_id: text.as_columns() for video_id, text in texts.items()}}, notes


class _Sidecars:
    """Reads the transcripts beside videos, and remembers what had to be mended."""

    def __init__(self, follows_links: bool) -> None:
        self.follows_links = follows_links
        self.names_in: dict[Path, list[str]] = {}
        self.notes: list[str] = []
        self.repaired: list[Path] = []
        self.repairs = Repairs()

    def read(self, video: ScannedVideo) -> list[dict[str, Any]]:
        """The transcript of a video, as a column of the videos dataset."""
        in_tar = _tar_of(video)
        if in_tar is not None:
            return [asdict(segment) for segment in transcript_of(in_tar[1])]
        path = as_path(video.path) if is_remote(video.path) else Path(os.fsdecode(open_path(video.path)))
        folder = path.parent
        if folder not in self.names_in:
            self.names_in[folder] = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
        try:
            sidecar = transcripts.find_sidecar(path, self.names_in[folder])
            if sidecar is not None and not self.follows_links and leads_out(str(sidecar), video.video_id):
                self.notes.append(f"{sidecar} is a link that leads out of its folder, and is not read; --follow-links reads it")
                return []
            transcript = None if sidecar is None else transcripts.read_transcript(sidecar)
        except VbcliError as error:
            # Subtitles that cannot be read cost the video its transcript, not its frames.
            self.notes.append(error.message)
            return []
        if sidecar is None or transcript is None:
            return []
        if transcript.repairs:
            self.repaired.append(sidecar)
            self.repairs += transcript.repairs
        return [asdict(segment) for segment in transcript.segments]

    def all_notes(self) -> list[str]:
        mended = [f"{len(self.repaired)} transcripts were mended, first {self.repaired[0]}: {self.repairs}"] if self.repaired else []
        return [*self.notes, *mended]


# ---------------------------------------------------------------- probing


@dataclass(frozen=True)
class Probe(Stage):
    """Fills in what a container says of its video. A video that cannot be opened keeps its row, with no codec."""

    media: MediaOptions = field(default_factory=MediaOptions)

    name: ClassVar[str] = "probe"
    version: ClassVar[int] = 1
    output_kind: ClassVar[str] = "videos"

    def output_schema(self) -> pa.Schema:
        return VIDEOS

    def identity(self) -> dict[str, Any]:
        return {}

    def failed_in(self, shard: Path) -> frozenset[str]:
        rows = shards.read_shard(shard, ["video_id", "codec"]).to_pylist()
        return super().failed_in(shard) | {row["video_id"] for row in rows if row["codec"] is None}

    def open(self) -> Process:
        return partial(_probe_rows, self.media.open())


def _probe_rows(decoder: Decoder, rows: Rows) -> Rows:
    for table in rows:
        if isinstance(table, ItemFailure):
            yield table
            continue
        (row,) = table.to_pylist()
        try:
            decoder.check_link(row["video_id"], row["path"])
            info = decoder.probe(row["path"])
        except MediaError:
            yield table
            continue
        values = {"duration_s": info.duration_s, "width_px": info.width_px, "height_px": info.height_px, "fps": info.fps}
        yield pa.Table.from_pylist([{**row, **values, "codec": info.codec, "has_audio": info.has_audio}], schema=VIDEOS)
