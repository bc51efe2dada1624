"""An instruction applied to videos: what is looked at, decided and written."""

from __future__ import annotations

import math
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vbcli.copying import copy_cuts
from vbcli.editing.grammar import Instruction
from vbcli.editing.ground import VideoParts, find_parts
from vbcli.editing.plan import EPSILON_S, Piece, plan_edit
from vbcli.errors import VbcliError
from vbcli.files import escape_name, not_written
from vbcli.inference import index_videos
from vbcli.media.formats import VIDEO_SUFFIXES
from vbcli.media.limits import Limits
from vbcli.media.probe import DEFAULT_LIMITS, frame_times
from vbcli.models.checkpoint import load_checkpoint
from vbcli.pipeline import RunOptions
from vbcli.rendering import Cut, cut_times, render_cuts, snap_cut
from vbcli.retrieval.index import Item, VideoIndex
from vbcli.segments import Segmentation, cut_segments
from vbcli.shards import read_failures
from vbcli.storage import fetch, is_remote
from vbcli.text.transcripts import find_sidecar
from vbcli.timelines import TimelineClip, write_edl, write_timeline
from vbcli.training.batches import SegmentRow, VideoTokens


@dataclass(frozen=True)
class Decision:
    """An entry of the decision list; its times are those of frames.

    Args:
        score: how likely it is that it shows what was asked for; None where nothing was.
    """

    cut: Cut
    score: float | None

    def as_row(self) -> dict[str, Any]:
        return {**vars(self.cut), "score": self.score}


@dataclass(frozen=True)
class Match:
    """A part of a video that a clause means by its description, and how likely it is that it shows that."""

    clause: str
    path: str
    start_s: float
    end_s: float
    score: float | None

    def as_row(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass(frozen=True)
class Decided:
    """A decision list, and what was found for the descriptions that it follows."""

    decisions: list[Decision]
    matches: list[Match]


def decide(
    videos: Sequence[Path],
    instruction: Instruction,
    checkpoint_dir: Path,
    segments: Segmentation,
    place: Path,
    *,
    threads: int = 1,
    options: RunOptions | None = None,
) -> Decided:
    """The decision list of an instruction, and what its descriptions mean.

    Args:
        segments: how videos are cut into the parts that a description may mean.
        place: an empty folder for what is looked up on the way.

    Raises:
        VbcliError: a description fits nothing, nothing is left, or no retriever is in `checkpoint_dir`.
        MediaError: a video cannot be read.
    """
    durations_s = [frame_times(str(video))[1] for video in videos]
    checkpoint = None
    parts: list[VideoParts] = []

    def ground(what: Any) -> Any:
        nonlocal checkpoint, parts
        # Only what is described has to be looked at.
        if checkpoint is None:
            checkpoint = load_checkpoint(checkpoint_dir, "retrieve")
            parts = _look_at(videos, checkpoint_dir, segments, place, threads, options)
        return find_parts(checkpoint, parts, what)

    plan = plan_edit(instruction, durations_s, ground)
    matches = [Match(clause, _located(videos[s.video]), s.start_s, s.end_s, s.score) for clause, s in plan.matches]
    return Decided(_at_frames(plan.pieces, videos, instruction.limit_s), matches)


def _at_frames(pieces: Sequence[Piece], videos: Sequence[Path], limit_s: float | None) -> list[Decision]:
    """Pieces with the times of frames, up to a length; of the last those frames are kept that still fit."""
    kept: list[Decision] = []
    left_s = math.inf if limit_s is None else limit_s
    for piece in pieces:
        # Snapped first: a piece may grow by nearly a frame.
        cut = snap_cut(Cut(_located(videos[piece.span.video]), piece.span.start_s, piece.span.end_s, piece.speed, piece.is_mute))
        if cut is None:
            continue
        fitting = _shortened(cut, left_s)
        if fitting is not None:
            kept.append(Decision(fitting, piece.span.score))
            left_s -= fitting.length_s
        elif not kept:
            raise VbcliError(f"no frame is as short as the limit of {limit_s:g} seconds", hint="allow more")
        if fitting != cut:
            break
    if not kept:
        raise VbcliError("no frame lies in what the instruction leaves", hint="keep more, or drop less")
    return kept


def _shortened(cut: Cut, limit_s: float) -> Cut | None:
    """The first frames of a cut that are played within a time; None where not even one is."""
    if cut.length_s <= limit_s + EPSILON_S:
        return cut
    times, _ = cut_times(cut.path)
    ends = times[(times > cut.start_s) & (times <= cut.start_s + (limit_s + EPSILON_S) * cut.speed)]
    return replace(cut, end_s=float(ends[-1])) if len(ends) else None


def _shown(path: Path) -> str:
    """A path as text that can be written anywhere; `open_path` finds the file by it."""
    return str(path) if is_remote(path) else escape_name(os.fsencode(path))


def _located(path: Path) -> str:
    """The same from the root, so that it is found from every folder."""
    return _shown(path if is_remote(path) else path.absolute())


def _look_at(
    videos: Sequence[Path], checkpoint_dir: Path, segments: Segmentation, place: Path, threads: int, options: RunOptions | None
) -> list[VideoParts]:
    """The parts of each video with their visual tokens and features."""
    folder = (place / "videos").resolve()
    linked = [_link(video, folder / f"{i:04d}") for i, video in enumerate(videos)]
    shown = {str(link.relative_to(folder)): _shown(path) for links in linked for link, path in links}

    def in_words_of_the_user(message: str) -> str:
        return re.sub(rf"(?:{re.escape(str(folder))}/)?(\d+/video\.\w+)", lambda found: shown.get(found[1], found[0]), message)

    options = options or RunOptions()
    # The links are our own.
    media = replace(options.media, follows_links=True)
    told = replace(options, media=media, on_note=lambda text: options.on_note(in_words_of_the_user(text)))
    report = index_videos(folder, place / "index", checkpoint_dir, threads=threads, options=told)
    if failures := read_failures(report.output_dir):
        raise VbcliError(in_words_of_the_user(failures[0].message), hint="nothing can be found in it: leave it out, or mend it")
    index = VideoIndex(place / "index")
    whole = {item.video_id: item for item in index.items("video")}
    found = []
    for (link, video), *_ in linked:
        name = str(link.relative_to(folder))
        of_video = [item for item in index.items("segment") if item.video_id == name]
        found.append(VideoParts(_shown(Path(video.name)), _parts(whole[name], of_video, segments)))
    return found


def _link(video: Path, folder: Path) -> list[tuple[Path, Path]]:
    """Links a video and its subtitles into a folder of their own, under names that a scan knows whatever theirs are.

    Returns:
        Links and what they lead to, the video first.
    """
    suffix = video.suffix.lower()
    links = [(folder / f"video{suffix if suffix in VIDEO_SUFFIXES else '.mp4'}", video)]
    sidecar = find_sidecar(video)
    if sidecar is not None:
        links.append((folder / f"video{sidecar.suffix.lower()}", sidecar))
    folder.mkdir(parents=True)
    for link, path in links:
        link.symlink_to(fetch(str(path)) if is_remote(path) else path.absolute())
    return links


def _parts(whole: Item, of_video: Sequence[Item], segments: Segmentation) -> list[Item]:
    rows = [SegmentRow(whole.video_id, i.start_s, i.end_s, i.visual_tokens, i.features, "") for i in of_video]
    parts = cut_segments(VideoTokens(whole.video_id, rows), segments)
    return [
        Item(whole.video_id, whole.path, i, p.segments[0].start_s, p.segments[-1].end_s, p.visual_tokens, p.features)
        for i, p in enumerate(parts)
    ]


def check_targets(out: Path) -> None:
    """Refuses a video that could not be written, or not with its timelines beside it.

    Raises:
        VbcliError: one of them is a folder, or the folder that they go into cannot be made or written.
    """
    for path in _targets(out):
        if os.path.isdir(path):
            raise VbcliError(f"{_shown(path)} is a folder, and would have to be written", hint="name another --out, or remove it")
    above = next(path for path in out.absolute().parents if os.path.exists(path))
    if not (os.path.isdir(above) and os.access(above, os.W_OK | os.X_OK)):
        raise VbcliError(f"{_shown(above)} is no folder that can be written into", hint="name another --out")


def _targets(out: Path) -> tuple[Path, Path, Path]:
    return out, out.with_suffix(".otio"), out.with_suffix(".edl")


def render_decisions(decisions: Sequence[Decision], out: Path, executable: str, limits: Limits = DEFAULT_LIMITS) -> bool:
    """Writes the video of a decision list, and its timelines beside it: all of them, or nothing.

    Returns:
        Whether it could be written without coding anything again.

    Raises:
        MediaError: a video cannot be decoded.
        VbcliError: something cannot be written.
    """
    check_targets(out)
    cuts = [decision.cut for decision in decisions]
    clips = [TimelineClip(cut, Path(cut.path).stem) for cut in cuts]
    _, *timelines = _targets(out)
    title = _shown(Path(out.stem))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        # Beside the video, so that what is finished need only be renamed.
        with tempfile.TemporaryDirectory(prefix=".edit-", dir=out.parent) as place:
            made = [Path(place) / path.name for path in timelines]
            write_timeline(made[0], title, clips)
            write_edl(made[1], title, clips)
            is_copied = copy_cuts(cuts, out, limits)
            if not is_copied:
                render_cuts(cuts, out, executable, limits)
            for path, timeline in zip(made, timelines, strict=True):
                os.replace(path, timeline)
    except OSError as error:
        raise not_written(out, error) from error
    return is_copied
