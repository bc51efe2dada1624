"""extract, encode, build-vocab, tokenize, demo-data: from videos to tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vbcli.cli import console
from vbcli.cli.options import (
    DEFAULT_WORKSPACE,
    LIMITS,
    AsJson,
    Captions,
    DetectorName,
    DetectShots,
    Device,
    DeviceName,
    DryRun,
    Executor,
    ExecutorName,
    Ffmpeg,
    Fit,
    FollowLinks,
    Language,
    Limit,
    MaxFrames,
    MaxPixels,
    MemoryMb,
    Part,
    Pool,
    Precision,
    RetryFailed,
    Seed,
    Threads,
    TimeoutS,
    Workers,
    Workspace,
)
from vbcli.cli.runs import check_language, finish_dry_run, finish_run, parse_part, run_options, show_run
from vbcli.errors import UsageError, VbcliError
from vbcli.media.limits import Limits
from vbcli.workspace import Workspace as Places

if TYPE_CHECKING:
    from vbcli.config import Precision as SpecPrecision
    from vbcli.encoderspecs import Pool as SpecPool
    from vbcli.models.devices import Device as SpecDevice
    from vbcli.pipeline import RunOptions
    from vbcli.runner import RunReport
    from vbcli.shots import Detector
    from vbcli.stages.extract import Mode


def extract(
    videos_dir: Annotated[Path, typer.Argument(help="Folder of videos, searched recursively, or one video.")],
    frames_dir: Annotated[Path | None, typer.Argument(help="Output; the workspace's frames/ if left out.")] = None,
    captions: Captions = None,
    fps: Annotated[
        float | None, typer.Option(help="Frames a second: for k = 0, 1, 2, ... the first frame at or after k/fps; 2 if nothing is said.")
    ] = None,
    keyframes: Annotated[bool, typer.Option("--keyframes", help="Instead, the frames that are coded without any other.")] = False,
    n_frames: Annotated[int | None, typer.Option(min=1, help="Instead, so many, in the middles of as many equal parts.")] = None,
    shots: Annotated[bool, typer.Option("--shots", help="Instead, the frame in the middle of each shot.")] = False,
    detect_shots: DetectShots = None,
    size: Annotated[int, typer.Option(help="Short side in pixels, or both sides with --fit crop.")] = 224,
    fit: Annotated[Fit, typer.Option(help="Keep the whole frame, or its central square.")] = Fit.short,
    quality: Annotated[int, typer.Option(help="JPEG quality, 2 (best) to 31.")] = 3,
    executor: Executor = ExecutorName.processes,
    workers: Workers = 0,
    retry_failed: RetryFailed = False,
    ffmpeg: Ffmpeg = "bundled",
    follow_links: FollowLinks = False,
    timeout_s: TimeoutS = LIMITS.timeout_s,
    memory_mb: MemoryMb = LIMITS.memory_mb,
    max_pixels: MaxPixels = LIMITS.max_pixels,
    max_frames: MaxFrames = LIMITS.max_frames,
    part: Part = "1/1",
    limit: Limit = None,
    language: Language = None,
    dry_run: DryRun = False,
    workspace: Workspace = DEFAULT_WORKSPACE,
    as_json: AsJson = False,
) -> None:
    """Extract frames with their true presentation times.

    Subtitles (.srt, .vtt) beside a video become its transcript. A video that cannot be decoded is recorded in _errors/ with its reason,
    and the run goes on. The same command again does only what is missing.
    """
    chosen: dict[Mode, object] = {"fps": fps, "keyframes": keyframes, "n-frames": n_frames, "shots": shots}
    modes: list[Mode] = [mode for mode, value in chosen.items() if value is not None and value is not False]
    if len(modes) > 1:
        raise UsageError(f"--{modes[0]} and --{modes[1]} both say which frames are taken", hint="give one of them")
    from vbcli.media.decode import MediaOptions
    from vbcli.pipeline import extract_videos
    from vbcli.stages.extract import Extract

    target = frames_dir or Places(workspace).frames_dir
    limits = Limits(timeout_s, memory_mb, max_pixels, max_frames)
    stage = Extract(
        2.0 if fps is None else fps,
        size,
        fit.value,
        quality,
        modes[0] if modes else "fps",
        n_frames or 0,
        _detector(detect_shots, shots),
        MediaOptions(ffmpeg, limits, follow_links),
    )
    chosen_part = parse_part(part)
    check_language(language)
    with run_options("extract", executor, workers, retry_failed, ffmpeg, follows_links=follow_links, limits=limits) as options:
        options = replace(options, part=chosen_part, limit=limit, language=language, is_dry=dry_run)
        report = extract_videos(videos_dir, target, stage, captions or (), options)
    if dry_run:
        finish_dry_run(report, as_json)
    else:
        finish_run(report, "frames", as_json)


def _detector(named: DetectorName | None, is_needed: bool) -> Detector | None:
    return named.value if named else "content" if is_needed else None


def encode(
    context: typer.Context,
    source_dir: Annotated[
        Path | None,
        typer.Argument(
            metavar="FRAMES_OR_VIDEOS_OR_TOKENS_DIR", help="The workspace's frames/, or tokens/ with --checkpoint, if left out."
        ),
    ] = None,
    out_dir: Annotated[Path | None, typer.Argument(help="Output; the workspace's features/, or fused/ of tokens, if left out.")] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="Of tokens, a VideoBERT or a captioner that fuses text and video; the workspace's checkpoints/pretrain if left out."
        ),
    ] = None,
    encoder: Annotated[
        str, typer.Option(help="timm:ARCH, open_clip:ARCH/TAG_OR_PATH, torchvision:ARCH/TAG_OR_PATH, or the folder of a trained encoder.")
    ] = "timm:tf_efficientnet_lite0",
    clip_s: Annotated[float | None, typer.Option(help="Seconds of a clip; what the encoder declares if left out.")] = None,
    pool: Annotated[
        Pool, typer.Option(help="Average over the frame, or a 2x2 or 3x3 grid; names: the average, and the names of what is found.")
    ] = Pool.grid3,
    respect_shots: Annotated[bool, typer.Option("--respect-shots", help="Begin clips anew in each shot: none lies across a cut.")] = False,
    shots: Annotated[bool, typer.Option("--shots", help="One clip a shot, however long it is.")] = False,
    detect_shots: DetectShots = None,
    precision: Annotated[Precision, typer.Option(help="auto is bfloat16 where the hardware computes with it.")] = Precision.auto,
    captions: Captions = None,
    executor: Executor = ExecutorName.processes,
    workers: Workers = 0,
    threads: Threads = 1,
    device: Device = DeviceName.auto,
    retry_failed: RetryFailed = False,
    ffmpeg: Ffmpeg = "bundled",
    follow_links: FollowLinks = False,
    timeout_s: TimeoutS = LIMITS.timeout_s,
    memory_mb: MemoryMb = LIMITS.memory_mb,
    max_pixels: MaxPixels = LIMITS.max_pixels,
    max_frames: MaxFrames = LIMITS.max_frames,
    part: Part = "1/1",
    limit: Limit = None,
    language: Language = None,
    dry_run: DryRun = False,
    workspace: Workspace = DEFAULT_WORKSPACE,
    as_json: AsJson = False,
) -> None:
    """Encode frames, or videos directly, into features: one a clip. Encode tokens with a trained model: the fused representation."""
    from vbcli.pipeline import dataset_kind

    places = Places(workspace)
    source = source_dir or (places.frames_dir if checkpoint is None else places.tokens_dir)
    kind = dataset_kind(source)
    if checkpoint is not None or kind == "tokens":
        sentence = "is for frames and videos: tokens are encoded by a trained model"
        _refuse(context, FRAMES_OPTIONS, sentence, "leave it out, or leave --checkpoint out and name frames or videos")
        model_dir, target = checkpoint or places.checkpoints_dir / "pretrain", out_dir or places.fused_dir
        _fuse(source, target, model_dir, executor, workers, threads, device, retry_failed, as_json)
        return
    if kind == "frames":
        _refuse(context, VIDEO_OPTIONS, "is for videos: frames were taken before", "leave it out, or name the videos")
    if not source.exists():
        raise VbcliError(f"{source} does not exist", hint="make frames with: vbcli extract VIDEOS_DIR")
    check_language(language)
    if respect_shots and shots:
        raise UsageError("--respect-shots and --shots both say what a clip is", hint="give one of them")
    clips = "shots" if shots else "respect-shots" if respect_shots else "fixed"
    limits, chosen_part = Limits(timeout_s, memory_mb, max_pixels, max_frames), parse_part(part)
    with run_options("encode", executor, workers, retry_failed, ffmpeg, follows_links=follow_links, limits=limits) as options:
        report = _encode(
            source,
            out_dir or places.features_dir,
            (encoder, pool.value, precision.value, clip_s, device.value),
            replace(options, part=chosen_part, limit=limit, language=language, is_dry=dry_run),
            caption_files=captions or (),
            threads=threads,
            clips=clips,
            detect_shots=_detector(detect_shots, kind is None and (shots or respect_shots)),
        )
    if dry_run:
        finish_dry_run(report, as_json)
    else:
        finish_run(report, "features", as_json)


def _encode(
    source: Path, target: Path, encoder: tuple[str, SpecPool, SpecPrecision, float | None, SpecDevice], options: RunOptions, **how: Any
) -> RunReport:
    """Encodes a dataset. What the encoder is a worker tells: this process need not load it.

    Args:
        encoder: arguments of `describe_encoder`.
        how: further arguments of `encode_dataset`.
    """
    from vbcli.pipeline import encode_dataset
    from vbcli.stages.encode import describe_encoder, encoder_modules

    with options.open((describe_encoder.__module__, *encoder_modules(encoder[0]))) as opened:
        found = opened.call(describe_encoder, *encoder)
        options = replace(options, executor=opened)
        return encode_dataset(source, target, found.spec, encoder_dir=found.folder, device=found.device, options=options, **how)


VIDEO_OPTIONS = ("ffmpeg", "detect_shots", "follow_links", "timeout_s", "memory_mb", "max_pixels", "max_frames", "limit", "language")
"""What `encode` is told of videos alone."""
FRAMES_OPTIONS = (*VIDEO_OPTIONS, "encoder", "clip_s", "pool", "precision", "captions", "shots", "respect_shots", "part", "dry_run")
"""What it is told of frames and videos alone."""


def _refuse(context: typer.Context, names: Sequence[str], sentence: str, hint: str) -> None:
    """Refuses options that mean nothing to what is encoded."""
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise UsageError(f"--{name.replace('_', '-')} {sentence}", hint=hint)


def _fuse(
    tokens_dir: Path,
    out_dir: Path,
    model_dir: Path,
    executor: ExecutorName,
    workers: int,
    threads: int,
    device: DeviceName,
    is_retry: bool,
    as_json: bool,
) -> None:
    from vbcli.inference import fuse_dataset
    from vbcli.models.devices import resolve_device

    with run_options("encode", executor, workers, is_retry, "bundled") as options:
        report = fuse_dataset(tokens_dir, out_dir, model_dir, device=resolve_device(device.value), threads=threads, options=options)
    finish_run(report, "segments", as_json)


def build_vocab(
    source_dir: Annotated[
        Path | None, typer.Argument(metavar="FRAMES_OR_FEATURES_DIR", help="The workspace's features/ if left out.")
    ] = None,
    vocab_dir: Annotated[Path | None, typer.Argument(help="Output; the workspace's vocab/ if left out.")] = None,
    branching: Annotated[int, typer.Option(help="Children of a node of the tree.")] = 12,
    levels: Annotated[int, typer.Option(help="Depth of the tree; 1 is flat k-means.")] = 2,
    codebooks: Annotated[
        int, typer.Option(min=1, help="Visual tokens of a clip: each codebook but the first is of what those before it leave over.")
    ] = 16,
    whiten: Annotated[
        int, typer.Option(metavar="DIM", min=0, help="Principal components to reduce features to; 0 clusters them as they are.")
    ] = 64,
    whiten_power: Annotated[
        float, typer.Option(help="Each component is divided by its standard deviation to this power: 0 no whitening, 1 full.")
    ] = 0.5,
    min_points: Annotated[int, typer.Option(min=1, help="Least features a token, on average, when a node is split.")] = 8,
    refine: Annotated[
        int, typer.Option(min=0, help="Iterations of k-means over all visual tokens of a tree at once, from those of the tree.")
    ] = 0,
    seed: Seed = 0,
    workspace: Workspace = DEFAULT_WORKSPACE,
    as_json: AsJson = False,
) -> None:
    """Build a visual vocabulary by hierarchical k-means; frames that are not encoded yet are encoded first."""
    from vbcli.pipeline import dataset_kind

    places = Places(workspace)
    target = vocab_dir or places.vocab_dir
    source = source_dir or _workspace_source(places)
    if dataset_kind(source) == "frames":
        _encode_frames(source, places.features_dir)
        source = places.features_dir
    from vbcli.vocab.build import build_vocabulary
    from vbcli.vocab.config import VocabConfig

    config = VocabConfig(branching, levels, whiten, whiten_power, min_points, seed=seed, n_codebooks=codebooks, n_refinements=refine)
    report = build_vocabulary(source, target, config).report
    _show_vocabulary(report, target, as_json)


def _workspace_source(places: Places) -> Path:
    """The workspace's frames, so that what was extracted since is encoded; its features where they were made without frames."""
    from vbcli.pipeline import dataset_kind
    from vbcli.shards import read_manifest

    if dataset_kind(places.features_dir) and (
        dataset_kind(places.frames_dir) is None or read_manifest(places.features_dir, "features").config["source"] == "videos"
    ):
        return places.features_dir
    return places.frames_dir


def _encode_frames(frames_dir: Path, features_dir: Path) -> None:
    """As `vbcli encode` does it with the options that the features there were made with, or with none."""
    from vbcli.encoderfolders import carried_encoder
    from vbcli.encoderspecs import DEFAULT_ENCODER, EncoderSpec
    from vbcli.pipeline import dataset_kind, encode_dataset
    from vbcli.shards import read_manifest

    with run_options("encode", ExecutorName.processes, 0, False, "bundled") as options:
        if dataset_kind(features_dir):
            manifest = read_manifest(features_dir, "features")
            spec, threads, folder = (
                EncoderSpec.from_dict(manifest.fact("encoder")),
                manifest.config["threads"],
                carried_encoder(features_dir),
            )
            report = encode_dataset(frames_dir, features_dir, spec, threads=threads, encoder_dir=folder, options=options)
        else:
            report = _encode(frames_dir, features_dir, (DEFAULT_ENCODER, "grid3", "auto", None, "auto"), options, threads=1)
    # What could not be encoded is told, and the others make a vocabulary.
    show_run(report, "features")


def _show_vocabulary(report: dict[str, Any], target: Path, as_json: bool) -> None:
    if as_json:
        console.print_json({"vocab_dir": str(target), **{k: v for k, v in report.items() if k != "counts"}})
        return
    if not report.get("is_of_training_split", True):
        console.note("build-vocab: no video is in the split 'train': the vocabulary is made of all of them")
    if report["n_tokens"] < report["n_tokens_full_tree"]:
        given, full = f"{report['n_vectors']} clips give {report['n_tokens']} visual tokens", report["n_tokens_full_tree"]
        console.note(f"build-vocab: {given}; a full tree would have {full}")
    rows = [
        ("clips", f"{report['n_vectors']}"),
        ("visual tokens", f"{report['n_tokens']}"),
        ("tokens used", f"{report['n_tokens_used']}"),
        ("perplexity of their use", f"{report['perplexity']:.1f}"),
        ("quantisation error / variance", f"{report['quantisation_error_share']:.3f}"),
        ("variance kept by the projection", f"{report['variance_kept']:.3f}"),
    ]
    console.print_table(f"Visual vocabulary in {target}", ("", "value"), rows)
    if len(report.get("codebooks", [])) > 1:
        codebooks = [
            (f"{m}", f"{c['n_tokens']}", f"{c['n_tokens_used']}", f"{c['perplexity']:.1f}", f"{c['quantisation_error_share']:.3f}")
            for m, c in enumerate(report["codebooks"], 1)
        ]
        columns = ("codebook", "visual tokens", "tokens used", "perplexity of their use", "quantisation error / variance")
        console.print_table("Its codebooks; errors are of all up to it", columns, codebooks)
    _show_probe(report.get("probe", {}))


def _show_probe(probe: dict[str, dict[str, Any]]) -> None:
    for name, found in probe.items():
        if "skipped" in found:
            console.note(f"build-vocab: what of the {name} survives is not measured: {found['skipped']}")
    rows = [
        (f"{found['measure']} of {found['n_classes']} {name}", *(f"{found[k]:.3f}" for k in ("features", "tokens", "share", "paper")))
        for name, found in probe.items()
        if "skipped" not in found
    ]
    if rows:
        columns = ("linear probe", "features", "tokens", "share that survives", "paper's vocabulary")
        console.print_table("What survives quantisation", columns, rows)


def tokenize(
    features_dir: Annotated[Path | None, typer.Argument(help="The workspace's features/ if left out.")] = None,
    tokens_dir: Annotated[Path | None, typer.Argument(help="Output; the workspace's tokens/ if left out.")] = None,
    vocab: Annotated[Path | None, typer.Option(help="Visual vocabulary; the workspace's vocab/ if left out.")] = None,
    captions: Captions = None,
    executor: Executor = ExecutorName.serial,
    workers: Workers = 0,
    retry_failed: RetryFailed = False,
    workspace: Workspace = DEFAULT_WORKSPACE,
    as_json: AsJson = False,
) -> None:
    """Turn features into visual tokens, joined with the text of the same time span."""
    from vbcli.pipeline import tokenize_dataset

    places = Places(workspace)
    with run_options("tokenize", executor, workers, retry_failed, "bundled") as options:
        report = tokenize_dataset(
            features_dir or places.features_dir,
            tokens_dir or places.tokens_dir,
            vocab or places.vocab_dir,
            caption_files=captions or (),
            options=options,
        )
    finish_run(report, "segments", as_json)


def demo_data(
    out_dir: Annotated[Path, typer.Argument(help="Folder to make.")],
    n_videos: Annotated[int, typer.Option(min=1, help="Videos to make.")] = 400,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Make a small narrated video world: clips, captions, subtitles, labels, questions and answers."""
    from vbcli.demo import write_demo_data
    from vbcli.files import check_free
    from vbcli.storage import local_file

    check_free(out_dir)
    with local_file(out_dir) as local:
        summary = write_demo_data(local, n_videos, seed)
    if as_json:
        console.print_json(vars(summary))
    else:
        console.print_lines([f"{key}\t{value}" for key, value in vars(summary).items()])
