"""edit: cuts by instruction."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vbcli.cli import console
from vbcli.cli.apply import SegmentName
from vbcli.cli.options import (
    DEFAULT_WORKSPACE,
    LIMITS,
    AsJson,
    Executor,
    ExecutorName,
    Ffmpeg,
    MaxFrames,
    MaxPixels,
    MemoryMb,
    Threads,
    TimeoutS,
    Workspace,
)
from vbcli.cli.runs import run_options
from vbcli.errors import UsageError, VbcliError
from vbcli.media.limits import Limits
from vbcli.workspace import Workspace as Places

if TYPE_CHECKING:
    from vbcli.editing.apply import Decision, Match


def edit(
    videos: Annotated[list[Path], typer.Argument(help="Videos, in the order in which they are played.")],
    instruction: Annotated[str, typer.Option(help="Such as: keep the parts where a red ball falls, at most 20 seconds")],
    out: Annotated[Path, typer.Option(help="The video to write; its timelines (.otio, .edl) go beside it.")] = Path("edited.mp4"),
    checkpoint: Annotated[Path | None, typer.Option(help="A retriever; the workspace's checkpoints/retrieve if left out.")] = None,
    segments: Annotated[SegmentName, typer.Option(help="The parts that a description may mean.")] = SegmentName.shots,
    segment_seconds: Annotated[float, typer.Option(help="Of --segments fixed, about how long a part is.")] = 4.0,
    dry_run: Annotated[bool, typer.Option(help="Print the decision list and write nothing.")] = False,
    threads: Threads = 1,
    executor: Executor = ExecutorName.processes,
    ffmpeg: Ffmpeg = "bundled",
    timeout_s: TimeoutS = LIMITS.timeout_s,
    memory_mb: MemoryMb = LIMITS.memory_mb,
    max_pixels: MaxPixels = LIMITS.max_pixels,
    max_frames: MaxFrames = LIMITS.max_frames,
    workspace: Workspace = DEFAULT_WORKSPACE,
    as_json: AsJson = False,
) -> None:
    """Cut and join videos as an instruction says.

    Clauses, separated by commas: keep WHAT, drop (or trim) WHAT, put WHAT first or last, order by time or score, mute [WHAT], speed up or
    slow down [WHAT] Nx, at most (or no longer than, trim to) N seconds, join. WHAT is a description of what is to be seen, without words
    of time; or the first or last N seconds, from M:SS (or the start) to M:SS (or the end), between N and N seconds, several of these
    joined by and; or everything.
    """
    from vbcli.editing.grammar import parse_instruction

    parsed = parse_instruction(instruction)
    limits = Limits(timeout_s, memory_mb, max_pixels, max_frames)
    if out.suffix.lower() != ".mp4":
        raise UsageError(f"--out is {out}", hint="the video is written as .mp4")
    missing = next((video for video in videos if not video.is_file()), None)
    if missing is not None:
        raise VbcliError(f"{missing} {'is a folder' if missing.is_dir() else 'does not exist'}", hint="name the videos one by one")
    if any(out.exists() and out.resolve() == video.resolve() for video in videos):
        raise UsageError(f"--out {out} is one of the videos")
    from vbcli.editing.apply import check_targets, decide, render_decisions
    from vbcli.files import escape_name
    from vbcli.media.program import find_ffmpeg
    from vbcli.segments import Segmentation
    from vbcli.storage import is_remote, local_file

    if not dry_run and not is_remote(out):
        check_targets(out)
    model_dir = checkpoint or Places(workspace).checkpoints_dir / "retrieve"
    executable = find_ffmpeg(ffmpeg)
    with tempfile.TemporaryDirectory() as place, run_options("edit", executor, 0, False, ffmpeg, limits=limits) as options:
        cut = Segmentation(segments.value, segment_seconds)
        decided = decide(videos, parsed, model_dir, cut, Path(place), threads=threads, options=options)
    written = str(out) if is_remote(out) else escape_name(os.fsencode(out))
    if not as_json:
        _show_matches(decided.matches)
        _show_decisions(decided.decisions)
    if not dry_run:
        with local_file(out) as local:
            is_copied = render_decisions(decided.decisions, local, executable, limits)
        how = "without coding anything again" if is_copied else "coded again, as cuts are not at key frames or are played otherwise"
        console.note(f"edit: wrote {written} ({how}), and beside it its timelines, .otio and .edl")
    if as_json:
        rows = {"decisions": [d.as_row() for d in decided.decisions], "matches": [m.as_row() for m in decided.matches]}
        console.print_json({"out": None if dry_run else written, **rows})


def _show_matches(matches: list[Match]) -> None:
    rows = [(m.clause, m.path, f"{m.start_s:.2f} to {m.end_s:.2f} s", _score(m.score)) for m in matches]
    if rows:
        console.print_table("Matches", ("clause", "video", "part", "fits"), rows)


def _score(score: float | None) -> str:
    return "-" if score is None else f"{score:.2f}"


def _show_decisions(decisions: list[Decision]) -> None:
    rows = []
    played_s = 0.0
    for i, decision in enumerate(decisions):
        cut = decision.cut
        how = " ".join([*([f"{cut.speed:g}x"] if cut.speed != 1 else []), *(["mute"] if cut.is_mute else [])])
        rows.append(
            (str(i + 1), cut.path, f"{cut.start_s:.2f} to {cut.end_s:.2f} s", f"{played_s:.2f} s", how or "-", _score(decision.score))
        )
        played_s += cut.length_s
    console.print_table("Decisions", ("", "video", "part", "played at", "how", "fits"), rows, f"{played_s:.2f} s in all")
