"""summarize: what of a video is worth seeing."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vbcli.cli import console
from vbcli.cli.apply import SegmentName, ask
from vbcli.cli.options import (
    DEFAULT_WORKSPACE,
    LIMITS,
    AsJson,
    Device,
    DeviceName,
    Executor,
    ExecutorName,
    Ffmpeg,
    FollowLinks,
    MaxFrames,
    MaxPixels,
    MemoryMb,
    ModelThreads,
    RetryFailed,
    Source,
    Split,
    TimeoutS,
    Workers,
    Workspace,
)
from vbcli.cli.runs import finish_run, render_each, run_options
from vbcli.errors import ItemFailure, UsageError
from vbcli.media.limits import Limits
from vbcli.workspace import Workspace as Places

if TYPE_CHECKING:
    from vbcli.stages.summarize import Length

N_SHOWN = 20


def summarize(
    source: Source,
    summaries_dir: Annotated[Path | None, typer.Argument(help="Output; the workspace's summaries/<folder>-<key> if left out.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="A captioner; the workspace's checkpoints/caption if left out.")] = None,
    length: Annotated[str | None, typer.Option(help="How much is kept: a share such as 15%, or at most so long, such as 30s.")] = None,
    n_keyframes: Annotated[int | None, typer.Option(min=1, help="Keep so many moments instead, as pictures.")] = None,
    segments: Annotated[SegmentName, typer.Option(help="What is kept or left out as a whole.")] = SegmentName.fixed,
    segment_seconds: Annotated[float, typer.Option(help="Of --segments fixed, about how long a part is.")] = 2.0,
    render: Annotated[bool, typer.Option(help="Write pictures, storyboards, videos and timelines, too.")] = True,
    split: Split = None,
    executor: Executor = ExecutorName.processes,
    workers: Workers = 0,
    threads: ModelThreads = 0,
    device: Device = DeviceName.auto,
    retry_failed: RetryFailed = False,
    ffmpeg: Ffmpeg = "bundled",
    follow_links: FollowLinks = False,
    timeout_s: TimeoutS = LIMITS.timeout_s,
    memory_mb: MemoryMb = LIMITS.memory_mb,
    max_pixels: MaxPixels = LIMITS.max_pixels,
    max_frames: MaxFrames = LIMITS.max_frames,
    workspace: Workspace = DEFAULT_WORKSPACE,
    as_json: AsJson = False,
) -> None:
    """Summarise videos: the segments that cover them best without repeating each other, 15 % if nothing is said, each with a caption."""
    kept = _length(length, n_keyframes)
    from vbcli.config import DecodingConfig
    from vbcli.models.devices import resolve_device
    from vbcli.segments import Segmentation
    from vbcli.shards import read_rows
    from vbcli.stages.summarize import Summarize

    places = Places(workspace)
    limits = Limits(timeout_s, memory_mb, max_pixels, max_frames)
    model_dir = checkpoint or places.checkpoints_dir / "caption"
    cut = Segmentation(segments.value, segment_seconds)
    stage = Summarize(
        checkpoint_dir=str(model_dir),
        split=split,
        threads=threads,
        device=resolve_device(device.value),
        length=kept,
        segments=cut,
        decoding=DecodingConfig(n_beams=4),
    )
    target = summaries_dir or places.results_dir("summaries", source, stage.identity())
    with run_options("summarize", executor, workers, retry_failed, ffmpeg, follows_links=follow_links, limits=limits) as options:
        report = ask(source, target, stage, options)
    not_rendered = _render(target, ffmpeg, limits, is_video=kept.n_keyframes is None) if render else []
    rows = read_rows(target, ["video_id", "path", "start_s", "end_s", "keyframe_s", "rank", "gain", "caption"])
    if not as_json:
        _show(rows)
    finish_run(report, "segments kept", as_json, not_rendered, rows=rows)


def _length(length: str | None, n_keyframes: int | None) -> Length:
    from vbcli.stages.summarize import Length

    if n_keyframes is not None:
        if length is not None:
            raise UsageError("give --length or --n-keyframes, not both")
        return Length(n_keyframes=n_keyframes)
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(%|s)", (length or "15%").strip())
    if not found or float(found[1]) <= 0 or (found[2] == "%" and float(found[1]) > 100):
        raise UsageError(f"--length is '{length}'", hint="write a share such as 15%, or seconds such as 30s")
    return Length(share=float(found[1]) / 100) if found[2] == "%" else Length(seconds=float(found[1]))


def _render(target: Path, ffmpeg: str, limits: Limits, *, is_video: bool) -> list[ItemFailure]:
    """Writes the files of each summary that has none yet, or those of other rows or of another video."""
    from vbcli.media.program import find_ffmpeg
    from vbcli.storage import local_output
    from vbcli.storyboards import is_rendered, read_summaries, render_summary

    executable = find_ffmpeg(ffmpeg)
    with local_output(target / "rendered") as rendered:
        failures = render_each(
            (video_id, partial(render_summary, kept, rendered / video_id, executable, limits, is_video=is_video))
            for video_id, kept in read_summaries(target).items()
            if not is_rendered(kept, rendered / video_id)
        )
    console.note(f"summarize: key frames, storyboards{', videos and timelines' if is_video else ''} are in {target / 'rendered'}")
    return failures


def _show(rows: list[dict[str, Any]]) -> None:
    shown = console.shown(rows, N_SHOWN)
    table = [(row["video_id"], console.format_span(row["start_s"], row["end_s"]), row["caption"]) for row in shown]
    console.print_table("Summaries", ("video", "time", "caption"), table, f"{len(rows)} in all" if len(rows) > len(shown) else "")
