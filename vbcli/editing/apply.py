"""An instruction applied to videos: what is looked at, decided and written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vbcli.copying import copy_cuts
from vbcli.editing.grammar import Instruction
from vbcli.editing.ground import VideoParts, find_parts
from vbcli.editing.plan import Piece, plan_edit
from vbcli.errors import VbcliError
from vbcli.inference import index_videos
from vbcli.media import frame_times
from vbcli.models.checkpoint import load_checkpoint
from vbcli.pipeline import RunOptions
from vbcli.rendering import Cut, render_cuts, snap_cut
from vbcli.retrieval.index import Item, VideoIndex
from vbcli.segments import Segmentation, cut_segments
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


def decide(
    videos: Sequence[Path],
    instruction: Instruction,
    checkpoint_dir: Path,
    segments: Segmentation,
    place: Path,
    *,
    threads: int = 1,
    options: RunOptions | None = None,
) -> list[Decision]:
    """The decision list of an instruction.

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

    pieces = plan_edit(instruction, durations_s, ground)
    decisions = [_decision(piece, videos) for piece in pieces]
    kept = [decision for decision in decisions if decision is not None]
    if not kept:
        raise VbcliError("no frame lies in what the instruction leaves", hint="keep more, or drop less")
    return kept


def _decision(piece: Piece, videos: Sequence[Path]) -> Decision | None:
    path = str(videos[piece.span.video].absolute())
    cut = snap_cut(Cut(path, piece.span.start_s, piece.span.end_s, piece.speed, piece.is_mute))
    return None if cut is None else Decision(cut, piece.span.score)


def _look_at(
    videos: Sequence[Path], checkpoint_dir: Path, segments: Segmentation, place: Path, threads: int, options: RunOptions | None
) -> list[VideoParts]:
    """The parts of each video with their visual tokens and features."""
    folder = place / "videos"
    names = []
    for i, video in enumerate(videos):
        # Names may come twice: each has a folder of its own.
        link = folder / f"{i:04d}" / video.name
        link.parent.mkdir(parents=True)
        link.symlink_to(video.absolute())
        names.append(f"{i:04d}/{video.name}")
    report = index_videos(folder, place / "index", checkpoint_dir, threads=threads, options=options)
    if report.n_failed:
        raise VbcliError("a video cannot be decoded, and nothing can be found in it", hint="leave it out, or mend it")
    index = VideoIndex(place / "index")
    whole = {item.video_id: item for item in index.items("video")}
    found = []
    for name, video in zip(names, videos, strict=True):
        of_video = [item for item in index.items("segment") if item.video_id == name]
        found.append(VideoParts(video.name, _parts(whole[name], of_video, segments)))
    return found


def _parts(whole: Item, of_video: Sequence[Item], segments: Segmentation) -> list[Item]:
    rows = [SegmentRow(whole.video_id, i.start_s, i.end_s, i.visual_tokens, i.features, "") for i in of_video]
    parts = cut_segments(VideoTokens(whole.video_id, rows), segments)
    return [
        Item(whole.video_id, whole.path, i, p.segments[0].start_s, p.segments[-1].end_s, p.visual_tokens, p.features)
        for i, p in enumerate(parts)
    ]


def render_decisions(decisions: Sequence[Decision], out: Path, executable: str) -> bool:
    """Writes the video of a decision list, and its timelines beside it.

    Returns:
        Whether it could be written without coding anything again.

    Raises:
        MediaError: a video cannot be decoded.
        VbcliError: something cannot be written.
    """
    cuts = [decision.cut for decision in decisions]
    is_copied = copy_cuts(cuts, out)
    if not is_copied:
        render_cuts(cuts, out, executable)
    clips = [TimelineClip(cut, Path(cut.path).stem) for cut in cuts]
    write_timeline(out.with_suffix(".otio"), out.stem, clips)
    write_edl(out.with_suffix(".edl"), out.stem, clips)
    return is_copied
