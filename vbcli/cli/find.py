"""index and search: videos and segments by a sentence, or by another video."""

from __future__ import annotations

import os
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vbcli.cli import console
from vbcli.cli.options import (
    DEFAULT_WORKSPACE,
    LIMITS,
    AsJson,
    Executor,
    ExecutorName,
    Ffmpeg,
    FollowLinks,
    MaxFrames,
    MaxPixels,
    MemoryMb,
    RetryFailed,
    Threads,
    TimeoutS,
    Workers,
    Workspace,
)
from vbcli.cli.runs import finish_run, run_options
from vbcli.errors import UsageError, VbcliError
from vbcli.media.limits import Limits
from vbcli.workspace import Workspace as Places

if TYPE_CHECKING:
    from vbcli.encoderspecs import EncoderSpec
    from vbcli.retrieval.index import VideoIndex
    from vbcli.retrieval.search import Match

THUMBNAIL_PX = 320


class LevelName(StrEnum):
    """What is found."""

    video = "video"
    segment = "segment"


def index(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="Folder of videos, one video, a tokens dataset, or features of open_clip.")
    ],
    index_dir: Annotated[Path, typer.Argument(help="Output; an index that is there is brought up to date.")],
    checkpoint: Annotated[Path | None, typer.Option(help="A retriever; the workspace's checkpoints/retrieve if left out.")] = None,
    encoder: Annotated[
        str | None, typer.Option(help="Instead of a retriever: open_clip:ARCH/TAG_OR_PATH, whose text tower reads what is looked for.")
    ] = None,
    executor: Executor = ExecutorName.processes,
    workers: Workers = 0,
    threads: Threads = 1,
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
    """Make an index of videos and their segments, to search in. Videos that came or went since are added or removed."""
    from vbcli.inference import index_frames, index_videos
    from vbcli.pipeline import dataset_kind

    if encoder is not None and checkpoint is not None:
        raise UsageError("give --checkpoint or --encoder, not both")
    if not source.exists():
        raise VbcliError(f"{source} does not exist", hint="name a folder of videos, a video, or a dataset")
    limits = Limits(timeout_s, memory_mb, max_pixels, max_frames)
    is_of_encoder = encoder is not None or (checkpoint is None and dataset_kind(source) == "features")
    spec = None if encoder is None else _find_encoder(encoder)
    model_dir = checkpoint or Places(workspace).checkpoints_dir / "retrieve"
    with run_options("index", executor, workers, retry_failed, ffmpeg, follows_links=follow_links, limits=limits) as options:
        if is_of_encoder:
            report = index_frames(source, index_dir, spec, threads=threads, options=options)
        else:
            report = index_videos(source, index_dir, model_dir, threads=threads, options=options)
    finish_run(report, "videos and segments", as_json)


def _find_encoder(name: str) -> EncoderSpec:
    from vbcli.encoders import load_encoder

    return load_encoder(name, pool="mean").spec


def search(
    index_dir: Annotated[Path, typer.Argument(help="That vbcli index made.")],
    text: Annotated[str | None, typer.Argument(help="What to look for.")] = None,
    video: Annotated[Path | None, typer.Option(help="Look for what is like this video.")] = None,
    level: Annotated[LevelName, typer.Option(help="Whole videos, or segments with their times.")] = LevelName.video,
    n: Annotated[int, typer.Option("--n", min=1, help="How many to show.")] = 10,
    rerank: Annotated[
        int, typer.Option(min=0, help="Candidates that are read together with the text; 0 takes the order of the vectors.")
    ] = 50,
    page: Annotated[Path | None, typer.Option(help="Also write what is found as pictures, into this HTML file.")] = None,
    threads: Threads = 1,
    ffmpeg: Ffmpeg = "bundled",
    timeout_s: TimeoutS = LIMITS.timeout_s,
    memory_mb: MemoryMb = LIMITS.memory_mb,
    max_pixels: MaxPixels = LIMITS.max_pixels,
    max_frames: MaxFrames = LIMITS.max_frames,
    as_json: AsJson = False,
) -> None:
    """Search an index by a sentence, or by a video."""
    if (text is None) == (video is None):
        raise UsageError("name what to look for: a sentence, or --video FILE")
    if text is not None and not text.strip():
        raise UsageError("there is nothing to look for in an empty sentence")
    if video is not None and video.is_dir():
        raise UsageError(f"--video is {video}, a folder", hint="name one video")
    limits = Limits(timeout_s, memory_mb, max_pixels, max_frames)
    from vbcli.files import escape_name
    from vbcli.retrieval.index import VideoIndex
    from vbcli.retrieval.search import open_reader, search_text

    opened = VideoIndex(index_dir)
    if text is not None:
        found = search_text(opened, open_reader(opened), text, n, level=level.value, n_reranked=rerank)
    else:
        assert video is not None
        found = _like(opened, video, n, level, threads, ffmpeg, limits)
    if page is not None:
        _write_page(page, text or escape_name(os.fsencode(str(video))), found, ffmpeg, limits)
    _show(found, index_dir, as_json)


def _like(opened: VideoIndex, video: Path, n: int, level: LevelName, threads: int, ffmpeg: str, limits: Limits) -> list[Match]:
    """What is most like a video: it becomes an index of its own for a moment."""
    from vbcli.inference import index_frames, index_videos
    from vbcli.retrieval.index import VideoIndex
    from vbcli.retrieval.search import search_vector
    from vbcli.shards import read_failures

    with tempfile.TemporaryDirectory() as place, run_options("search", ExecutorName.serial, 1, False, ffmpeg, limits=limits) as options:
        if opened.encoder is not None:
            report = index_frames(video, Path(place) / "query", opened.encoder, threads=threads, options=options)
        else:
            report = index_videos(video, Path(place) / "query", opened.checkpoint_dir, threads=threads, options=options)
        if failures := read_failures(report.output_dir):
            raise VbcliError(failures[0].message, hint="name another video, or mend it")
        return search_vector(opened, VideoIndex(Path(place) / "query").vectors("video")[0], n, level=level.value)


def _write_page(page: Path, asked: str, found: list[Match], ffmpeg: str, limits: Limits) -> None:
    from vbcli.files import write_atomic
    from vbcli.media.program import find_ffmpeg
    from vbcli.storyboards import Picture, picture_page, thumbnail

    executable, pictures = find_ffmpeg(ffmpeg), []
    for match in found:
        item = match.item
        picture = thumbnail(item.path, (item.start_s + item.end_s) / 2, executable, limits, width_px=THUMBNAIL_PX)
        pictures.append(Picture(picture, item.video_id, f"{console.format_span(item.start_s, item.end_s)}, score {match.score:.2f}"))
    write_atomic(page, picture_page(asked, [("", pictures)]).encode())
    console.note(f"search: wrote {page}")


def _show(found: list[Match], index_dir: Path, as_json: bool) -> None:
    rows = [
        {
            "video_id": match.item.video_id,
            "path": match.item.path,
            "segment_index": match.item.segment_index,
            "start_s": match.item.start_s,
            "end_s": match.item.end_s,
            "similarity": match.similarity,
            "score": match.score,
        }
        for match in found
    ]
    if as_json:
        console.print_json({"index": str(index_dir), "found": rows})
        return
    table = [
        (str(r["video_id"]), console.format_span(r["start_s"], r["end_s"]), f"{r['similarity']:.3f}", f"{r['score']:.2f}") for r in rows
    ]
    console.print_table("Found", ("video", "time", "similarity", "score"), table, str(index_dir))
