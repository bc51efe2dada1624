"""Options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from vbcli.media.limits import Limits


class ExecutorName(StrEnum):
    """Where stages run."""

    serial = "serial"
    processes = "processes"


class Fit(StrEnum):
    """How a frame is fitted to its size."""

    short = "short"
    crop = "crop"


class Pool(StrEnum):
    """Cells that a frame's features are pooled into."""

    mean = "mean"
    grid2 = "grid2"
    grid3 = "grid3"
    names = "names"


class Precision(StrEnum):
    """Arithmetic of a model."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


class DeviceName(StrEnum):
    """Where a model runs."""

    auto = "auto"
    cuda = "cuda"
    mps = "mps"
    cpu = "cpu"


class DetectorName(StrEnum):
    """What finds shots."""

    content = "content"
    adaptive = "adaptive"
    transnet = "transnet"


Source = Annotated[Path, typer.Argument(metavar="FOLDER_OR_TOKENS_DIR", help="Folder of videos, one video, or a tokens dataset.")]
Split = Annotated[str | None, typer.Option(help="Of a tokens dataset, the videos of this split only.")]
Evidence = Annotated[bool, typer.Option("--evidence", help="Also tell which part of the video each rests on.")]
Workspace = Annotated[Path, typer.Option("--workspace", envvar="VBCLI_WORKSPACE", help="Folder for everything that is not named.")]
DEFAULT_WORKSPACE = Path("vbcli-work")
Executor = Annotated[ExecutorName, typer.Option(help="Run in this process or in worker processes.")]
Workers = Annotated[int, typer.Option(min=0, help="Worker processes; 0 means one a core.")]
Captions = Annotated[
    list[Path] | None,
    typer.Option("--captions", help="Captions, labels, questions and splits: CSV, JSONL, Parquet or JSON. May be repeated."),
]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Also redo the videos that failed before.")]
Ffmpeg = Annotated[str, typer.Option(help="'bundled', 'system' or the path of an ffmpeg.")]
DetectShots = Annotated[
    DetectorName | None,
    typer.Option(help="Find the shots: by their colours (content), also where the camera moves (adaptive), by a network (transnet)."),
]
FollowLinks = Annotated[bool, typer.Option("--follow-links", help="Also take videos and subtitles that are links out of the folder.")]
TimeoutS = Annotated[float, typer.Option("--timeout-s", help="Give up a video that ffmpeg works on for so many seconds.")]
MemoryMb = Annotated[int, typer.Option("--memory-mb", help="Give up a video that takes more memory to decode (Linux).")]
MaxPixels = Annotated[int, typer.Option(help="Give up a video whose frames have more pixels.")]
MaxFrames = Annotated[int, typer.Option(help="Give up a video that more frames would be taken of.")]
LIMITS = Limits()
"""The defaults of these."""
Part = Annotated[str, typer.Option(metavar="I/N", help="Make part I of N of the shards; the others are for other machines.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Plan no more than so many videos of the folder.")]
Language = Annotated[
    str | None,
    typer.Option(metavar="CODE", help="Read the subtitles of this language where videos have several, such as en of clip.en.srt."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and write nothing.")]
Device = Annotated[DeviceName, typer.Option(help="Where the model runs; auto is a GPU where there is one.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads of a worker; a part of what makes results equal to the last bit.")]


def _model_threads(threads: int) -> int:
    """Workers of two threads are as fast with a model as twice as many of one, and take half the memory."""
    from vbcli.workers import count_cores

    return threads or min(2, count_cores())


ModelThreads = Annotated[
    int,
    typer.Option(
        min=0,
        callback=_model_threads,
        help="Threads of a worker, a part of what makes results equal to the last bit; 0 is two, or one of one core.",
    ),
]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of everything random.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
