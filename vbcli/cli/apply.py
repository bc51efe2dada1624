"""caption and classify: trained models over a folder of videos, one video, or a tokens dataset."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vbcli.cli import console
from vbcli.cli.options import (
    DEFAULT_WORKSPACE,
    LIMITS,
    AsJson,
    Device,
    DeviceName,
    Evidence,
    Executor,
    ExecutorName,
    Ffmpeg,
    FollowLinks,
    MaxFrames,
    MaxPixels,
    MemoryMb,
    ModelThreads,
    Precision,
    RetryFailed,
    Seed,
    Source,
    Split,
    TimeoutS,
    Workers,
    Workspace,
)
from vbcli.cli.runs import finish_run, render_each, run_options
from vbcli.errors import ItemFailure, UsageError, VbcliError
from vbcli.files import read_lines
from vbcli.media.limits import Limits
from vbcli.workspace import Workspace as Places

if TYPE_CHECKING:
    from vbcli.config import DecodingConfig
    from vbcli.pipeline import RunOptions
    from vbcli.runner import RunReport
    from vbcli.stages.model import ModelStage
    from vbcli.stages.teach import TeacherCaption
    from vbcli.stages.zero_shot import NamedClass

N_SHOWN = 10
TEACHER = "hf:"
"""What the names of published captioners begin with."""


class CaptionFormat(StrEnum):
    """Files written beside the Parquet dataset."""

    parquet = "parquet"
    jsonl = "jsonl"
    csv = "csv"
    srt = "srt"
    vtt = "vtt"


class SegmentName(StrEnum):
    """How a video is cut into what is captioned."""

    fixed = "fixed"
    shots = "shots"
    transcript = "transcript"


def caption(
    source: Source,
    captions_dir: Annotated[Path | None, typer.Argument(help="Output; the workspace's captions/<folder>-<key> if left out.")] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="A captioner; the workspace's checkpoints/caption if left out. hf:FOLDER_OR_NAME is one of transformers."
        ),
    ] = None,
    file_format: Annotated[CaptionFormat, typer.Option("--format", help="Also write the captions in this format.")] = CaptionFormat.parquet,
    split: Split = None,
    segments: Annotated[
        SegmentName | None,
        typer.Option(help="A caption for each part of a video: of equal length, from shot to shot, or as people speak (subtitles)."),
    ] = None,
    segment_seconds: Annotated[float, typer.Option(help="Of --segments fixed, about how long a part is.")] = 10.0,
    evidence: Evidence = False,
    burn_in: Annotated[
        Path | None, typer.Option(help="Also write copies of the videos that show their captions, into this folder.")
    ] = None,
    beams: Annotated[int, typer.Option(help="Beams of the search; 1 is greedy.")] = 4,
    max_length: Annotated[int, typer.Option(help="Most tokens of a caption.")] = 64,
    min_length: Annotated[int, typer.Option(help="Least tokens of a caption.")] = 0,
    length_penalty: Annotated[float, typer.Option(help="Power of the length that a score is divided by.")] = 1.0,
    no_repeat_ngram: Annotated[int, typer.Option(help="No sequence of so many tokens twice; 0 allows all.")] = 3,
    sample: Annotated[bool, typer.Option("--sample", help="Draw tokens instead of searching.")] = False,
    temperature: Annotated[float, typer.Option(help="Of sampling.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="Sample among so many tokens; 0 is all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Sample among the tokens that make up this probability.")] = 1.0,
    seed: Seed = 0,
    precision: Annotated[
        Precision, typer.Option(help="auto is bfloat16 where the hardware computes with it: faster, and a few captions differ.")
    ] = Precision.float32,
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
    """Caption a folder of videos, straight from video to sentence, or a tokens dataset."""
    from vbcli.config import DecodingConfig
    from vbcli.models.devices import resolve_device
    from vbcli.segments import Segmentation
    from vbcli.stages.caption import Caption

    places = Places(workspace)
    limits = Limits(timeout_s, memory_mb, max_pixels, max_frames)
    cut = None if segments is None else Segmentation(segments.value, segment_seconds)
    decoding = DecodingConfig(beams, max_length, min_length, length_penalty, no_repeat_ngram, temperature, top_k, top_p, sample, seed)
    if checkpoint is not None and str(checkpoint).startswith(TEACHER):
        if segments is not None or split is not None or evidence or precision is not Precision.float32:
            hint = "leave --segments, --split, --evidence and --precision out"
            raise UsageError("a published captioner captions whole videos of a folder, in float32", hint=hint)
        stage = _teacher_stage(str(checkpoint).removeprefix(TEACHER), decoding, threads, device, ffmpeg, limits, follow_links)
    else:
        model_dir = checkpoint or places.checkpoints_dir / "caption"
        stage = Caption(
            checkpoint_dir=str(model_dir),
            split=split,
            threads=threads,
            decoding=decoding,
            segments=cut,
            is_grounded=evidence,
            device=resolve_device(device.value),
            precision=precision.value,
        )
    if burn_in is not None and source.is_dir() and str(burn_in.resolve()).startswith(f"{source.resolve()}/"):
        raise UsageError(f"--burn-in {burn_in} is among the videos, and its copies would be captioned next", hint="name another folder")
    target = captions_dir or places.results_dir("captions", source, stage.identity())
    with run_options("caption", executor, workers, retry_failed, ffmpeg, follows_links=follow_links, limits=limits) as options:
        report = ask(source, target, stage, options) if isinstance(stage, Caption) else _ask_teacher(source, target, stage, options)
    rows = _after_captioning(target, file_format, is_dense=segments is not None, has_evidence=evidence)
    if not as_json:
        _show_captions(rows, is_dense=segments is not None, has_evidence=evidence)
    not_rendered = [] if burn_in is None else _burn_in(target, burn_in, ffmpeg, limits)
    finish_run(report, "captions", as_json, not_rendered, rows=rows)


def _teacher_stage(
    source: str, decoding: DecodingConfig, threads: int, device: DeviceName, ffmpeg: str, limits: Limits, follow_links: bool
) -> TeacherCaption:
    from vbcli.media.decode import MediaOptions
    from vbcli.models.devices import resolve_device
    from vbcli.models.teachers import find_teacher
    from vbcli.stages.teach import TeacherCaption

    media = MediaOptions(ffmpeg, limits, follow_links)
    return TeacherCaption(
        teacher=find_teacher(source), decoding=decoding, device=resolve_device(device.value), threads=threads, media=media
    )


def _ask_teacher(source: Path, target: Path, stage: TeacherCaption, options: RunOptions) -> RunReport:
    from vbcli.inference import ask_teacher

    return ask_teacher(source, target, stage, options)


def _after_captioning(target: Path, file_format: CaptionFormat, *, is_dense: bool, has_evidence: bool) -> list[dict[str, Any]]:
    """Writes captions in other formats and warns of odd ones; their rows."""
    from vbcli.exports import export_captions, write_paragraphs
    from vbcli.metrics.captions import caption_alarms
    from vbcli.shards import read_rows

    if is_dense:
        console.note(f"caption: wrote {write_paragraphs(target)}")
    if file_format is not CaptionFormat.parquet:
        console.note(f"caption: wrote {export_captions(target, file_format.value)}")
    evidence = ["evidence_start_s", "evidence_end_s"] if has_evidence else []
    rows = read_rows(target, ["video_id", "path", "start_s", "end_s", "caption", "score", *evidence])
    for sentence in caption_alarms([row["caption"] for row in rows]):
        console.warn(sentence)
    return rows


def _show_captions(rows: list[dict[str, Any]], *, is_dense: bool, has_evidence: bool) -> None:
    shown = console.shown(rows, N_SHOWN)
    columns = {"video": [row["video_id"] for row in shown]}
    if is_dense:
        columns["time"] = [console.format_span(row["start_s"], row["end_s"]) for row in shown]
    columns["caption"] = [row["caption"] for row in shown]
    if has_evidence:
        columns["rests on"] = [console.format_span(row["evidence_start_s"], row["evidence_end_s"]) for row in shown]
    table = list(zip(*columns.values(), strict=True))
    console.print_table("Captions", list(columns), table, f"{len(rows)} in all" if len(rows) > len(shown) else "")


def _burn_in(target: Path, folder: Path, ffmpeg: str, limits: Limits) -> list[ItemFailure]:
    """Writes the videos with their captions, where they are not there yet."""
    from vbcli.exports import burn_captions
    from vbcli.media.program import find_ffmpeg
    from vbcli.storage import local_output

    with local_output(folder) as local:
        failures = render_each(burn_captions(target, local, find_ffmpeg(ffmpeg), limits))
    console.note(f"caption: the videos with their captions are in {folder}")
    return failures


def classify(
    source: Source,
    classes_dir: Annotated[Path | None, typer.Argument(help="Output; the workspace's classes/<folder>-<key> if left out.")] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="A classifier; the workspace's checkpoints/classify if left out. With --classes, a VideoBERT or a captioner."),
    ] = None,
    classes: Annotated[
        Path | None,
        typer.Option(help="Classes that nothing was trained for, one a line; the words to look for after a tab, if they are not the name."),
    ] = None,
    template: Annotated[str, typer.Option(help="With --classes, the sentence that the words belong in, at [MASK].")] = "[MASK]",
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
    """Tell the classes of a folder of videos, straight from video to class, or of a tokens dataset.

    With --classes nothing need have been trained for them: they are told by how well a sentence with each fits the video, which a
    pre-trained VideoBERT (masked words) or a captioner (the captions it would write) says.
    """
    from vbcli.models.devices import resolve_device
    from vbcli.shards import read_rows
    from vbcli.stages.classify import Classify
    from vbcli.stages.zero_shot import MASK, ZeroShot

    if classes is None and template != MASK:
        raise UsageError("--template goes with --classes")
    places, found = Places(workspace), resolve_device(device.value)
    limits = Limits(timeout_s, memory_mb, max_pixels, max_frames)
    if classes is None:
        model_dir = checkpoint or places.checkpoints_dir / "classify"
        stage = Classify(checkpoint_dir=str(model_dir), split=split, threads=threads, device=found)
    else:
        model_dir = checkpoint or places.checkpoints_dir / "caption"
        stage = ZeroShot(
            checkpoint_dir=str(model_dir),
            split=split,
            threads=threads,
            device=found,
            classes=_read_classes(classes),
            template=template,
        )
    target = classes_dir or places.results_dir("classes", source, stage.identity())
    with run_options("classify", executor, workers, retry_failed, ffmpeg, follows_links=follow_links, limits=limits) as options:
        report = ask(source, target, stage, options)
    rows = read_rows(target, ["video_id", "path", "labels", "scores"])
    if not as_json:
        _show_classes(rows, target)
    finish_run(report, "classified videos", as_json, rows=rows)


def _read_classes(path: Path) -> tuple[NamedClass, ...]:
    from vbcli.stages.zero_shot import NamedClass

    parts = [[part.strip() for part in line.split("\t")] for line in read_lines(path, "class")]
    too_many = next((row for row in parts if len(row) > 2), None)
    if too_many:
        raise VbcliError(f"{path} has a line of {len(too_many)} columns: {too_many[0]}", hint="write the class, a tab, and its words")
    found = tuple(NamedClass(row[0], row[-1]) for row in parts)
    if len({name for name, _ in found}) < max(2, len(found)):
        raise VbcliError(f"{path} must name two classes or more, each once", hint="write one class on each line")
    return found


def _show_classes(rows: list[dict[str, Any]], target: Path) -> None:
    shown = console.shown(rows, N_SHOWN)
    table = [(row["video_id"], ", ".join(row["labels"]) or "-", f"{row['scores'][0]['probability']:.2f}") for row in shown]
    caption = f"{len(rows)} in all: {target}" if len(rows) > len(shown) else str(target)
    console.print_table("Classes", ("video", "classes", "probability of the first"), table, caption)


def ask(source: Path, target: Path, stage: ModelStage, options: RunOptions) -> RunReport:
    """Runs a model's stage; `--split` wants tokens."""
    from vbcli.inference import ask_model
    from vbcli.pipeline import dataset_kind

    if stage.split is not None and source.exists() and dataset_kind(source) != "tokens":
        raise UsageError("--split is for a tokens dataset")
    return ask_model(source, target, stage, options)
