"""transcribe: subtitles of what is said in videos."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from vbcli.cli import console
from vbcli.cli.options import (
    LIMITS,
    AsJson,
    Ffmpeg,
    FollowLinks,
    MaxFrames,
    MaxPixels,
    MemoryMb,
    Threads,
    TimeoutS,
)
from vbcli.media.limits import Limits


def transcribe(
    videos_dir: Annotated[Path, typer.Argument(help="Folder of videos, searched recursively, or one video.")],
    model: Annotated[str, typer.Option(help="A Whisper model of CTranslate2: a folder, or a name to download, such as small.")] = "small",
    language: Annotated[str | None, typer.Option(help="Such as en; recognised if left out.")] = None,
    threads: Threads = 1,
    ffmpeg: Ffmpeg = "bundled",
    follow_links: FollowLinks = False,
    timeout_s: TimeoutS = LIMITS.timeout_s,
    memory_mb: MemoryMb = LIMITS.memory_mb,
    max_pixels: MaxPixels = LIMITS.max_pixels,
    max_frames: MaxFrames = LIMITS.max_frames,
    as_json: AsJson = False,
) -> None:
    """Write subtitles (<video>.<language>.vtt) beside each video that has none, by faster-whisper. Other commands read them from there."""
    from vbcli.curation.transcription import load_recogniser, transcribe_folder
    from vbcli.media.decode import MediaOptions

    decoder = MediaOptions(ffmpeg, Limits(timeout_s, memory_mb, max_pixels, max_frames), follow_links).open()
    recogniser = load_recogniser(model, threads)
    with console.progress_bar("transcribe", "videos") as progress:
        bar = progress.task_ids[0]

        def on_progress(done: int, total: int, text: str) -> None:
            progress.update(bar, completed=done, total=total, text=text)

        def on_note(text: str) -> None:
            console.note(f"transcribe: {text}")

        report = transcribe_folder(videos_dir, recogniser, decoder, language=language, on_note=on_note, on_progress=on_progress)
    if as_json:
        console.print_json({**asdict(report), "failures": [failure.as_row() for failure in report.failures]})
    else:
        for failure in report.failures:
            console.warn(f"{failure.video_id}: {failure.message}")
        counts = f"{len(report.written)} written, {report.n_there} there already, {len(report.silent)} videos without speech"
        console.note(f"{videos_dir}: subtitles: {counts}")
    if report.failures:
        raise typer.Exit(3)
