"""Scanning a folder of videos: which videos are in which shard, with the text that belongs to each, and what probing says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from vbcli import shards
from vbcli.digests import table_digest
from vbcli.errors import ItemFailure, MediaError, VbcliError
from vbcli.files import read_json, write_json
from vbcli.listing import ScannedVideo, list_videos
from vbcli.media.decode import Decoder, MediaOptions
from vbcli.runner import ShardInput
from vbcli.schemas import VIDEOS
from vbcli.stage import Process, Rows, Stage
from vbcli.videotext import Sidecars, gather_text, keep_given

VIDEOS_PER_SHARD = 32


@dataclass(frozen=True)
class Scan:
    """The planned videos as inputs of the `Probe` stage, what is worth saying about them, and which are gone from the folder."""

    inputs: list[ShardInput]
    notes: list[str]
    gone: frozenset[str]


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


# ---------------------------------------------------------------- scanning


def scan_videos(
    root: Path,
    dataset_dir: Path,
    caption_files: Sequence[Path] = (),
    *,
    limit: int | None = None,
    is_dry: bool = False,
    follows_links: bool = False,
    language: str | None = None,
) -> Scan:
    """Plans the videos of a folder and joins their text: caption files, what tar files say, and subtitles beside the videos.

    Args:
        root: folder of videos, or one video or tar file.
        dataset_dir: where the plan is kept.
        caption_files: none keeps what was given before.
        limit: plan no more than so many videos.
        is_dry: write nothing.
        follows_links: read subtitles and tar files that are links out of the folder, too.
        language: of the subtitles, such as `en`; None takes the first.
    """
    found, notes = list_videos(root, follows_links=follows_links)
    # Before the plan is written: a mistake in the command must not tie the folder to these videos.
    text = gather_text(root, found, dataset_dir, caption_files)
    planned, plan_notes = update_plan(dataset_dir, found, limit=limit, is_dry=is_dry)
    if caption_files and not is_dry:
        keep_given(dataset_dir, text)
    gone = frozenset(v.video_id for shard in planned for v in shard) - {v.video_id for v in found}
    inputs = []
    sidecars = Sidecars(follows_links, language)
    for index, shard in enumerate(planned):
        rows = [{**vars(v), "transcript": sidecars.read(v), **text.of(v.video_id)} for v in shard]
        table = pa.Table.from_pylist(rows, schema=VIDEOS)
        # With the path: where a folder was moved, later stages must read the videos in their new place.
        inputs.append(ShardInput(index, table, table_digest(table), gone))
    return Scan(inputs, [*notes, *plan_notes, *text.notes, *sidecars.all_notes()], gone)


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
