"""predict: what a pre-trained model says of masked words and of masked or future clips."""

from __future__ import annotations

import tempfile
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
    Split,
    Threads,
    TimeoutS,
    Workers,
    Workspace,
)
from vbcli.cli.runs import run_options
from vbcli.errors import UsageError, VbcliError
from vbcli.files import read_lines
from vbcli.media.limits import Limits
from vbcli.workspace import Workspace as Places

if TYPE_CHECKING:
    from vbcli.cloze import Guess
    from vbcli.models.checkpoint import Checkpoint
    from vbcli.training.batches import VideoTokens

Answers = list[list[str] | None]


def predict(
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="FOLDER_OR_TOKENS_DIR",
            help="Folder of videos, one video, or a tokens dataset; the workspace's tokens/ if left out.",
        ),
    ] = None,
    text: Annotated[
        str | None, typer.Option(help="Sentence with [MASK]s; if left out: now let me show you how to [MASK] the [MASK].")
    ] = None,
    verbs: Annotated[Path | None, typer.Option(help="Possible words of the first mask, one a line; any word if left out.")] = None,
    objects: Annotated[Path | None, typer.Option(help="Possible words of the second mask, one a line; any word if left out.")] = None,
    mask_clips: Annotated[list[int] | None, typer.Option(help="Guess this clip (from 0) from the others. May be repeated.")] = None,
    future: Annotated[int | None, typer.Option(min=1, max=512, help="Guess so many clips after the end of each video.")] = None,
    n_best: Annotated[int, typer.Option(min=1, help="Guesses a mask.")] = 5,
    page: Annotated[Path | None, typer.Option(help="Of clips: also write the guesses as pictures, into this HTML file.")] = None,
    split: Split = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="A pre-trained VideoBERT; the workspace's checkpoints/pretrain if left out.")
    ] = None,
    executor: Executor = ExecutorName.processes,
    workers: Workers = 0,
    threads: Threads = 1,
    ffmpeg: Ffmpeg = "bundled",
    follow_links: FollowLinks = False,
    timeout_s: TimeoutS = LIMITS.timeout_s,
    memory_mb: MemoryMb = LIMITS.memory_mb,
    max_pixels: MaxPixels = LIMITS.max_pixels,
    max_frames: MaxFrames = LIMITS.max_frames,
    workspace: Workspace = DEFAULT_WORKSPACE,
    as_json: AsJson = False,
) -> None:
    """Fill masked words or clips, or forecast clips; beside each guess, what the model says without the video.

    With --verbs or --objects and labelled videos, the share of videos whose label is the best guess is printed, too.
    """
    from vbcli.cloze import TEMPLATE, label_shares
    from vbcli.inference import find_tokens
    from vbcli.models.checkpoint import load_checkpoint
    from vbcli.shards import read_failures

    places, limits = Places(workspace), Limits(timeout_s, memory_mb, max_pixels, max_frames)
    model_dir, asked = checkpoint or places.checkpoints_dir / "pretrain", source or places.tokens_dir
    _check_question(asked, text, bool(verbs or objects), mask_clips, future, page, split)
    template, is_visual = text or TEMPLATE, bool(future or mask_clips)
    answers = _answers(template, verbs, objects)
    model = load_checkpoint(model_dir, "pretrain")
    with tempfile.TemporaryDirectory() as place:
        with run_options("predict", executor, workers, False, ffmpeg, follows_links=follow_links, limits=limits) as options:
            tokens_dir = find_tokens(asked, model, Path(place) / "tokens", threads=threads, options=options)
        failures = read_failures(tokens_dir) if tokens_dir != asked else []
        videos = _videos(tokens_dir, split)
        guesses = _guess(model, videos, template, answers, mask_clips, future)
        shown = [[mask[:n_best] for mask in found] for found in guesses]
        if page is not None:
            _write_page(page, videos, shown, model_dir, tokens_dir, ffmpeg, limits)
    shares = label_shares([g[0] for g in guesses], [v.labels for v in videos]) if verbs else {}
    if as_json:
        pairs = zip(videos, shown, strict=True)
        rows = [{"video_id": video.video_id, "masks": [[vars(g) for g in mask] for mask in found]} for video, found in pairs]
        told = {"text": None if is_visual else template, "videos": rows, **shares}
        console.print_json({**told, "failures": [failure.as_row() for failure in failures]})
    else:
        _show(videos, shown, _exemplars(model_dir) if is_visual else {})
        _note_words(None if is_visual else template, shares)
    for failure in failures:
        console.warn(f"{failure.video_id}: {failure.message}")
    if failures:
        raise typer.Exit(3)


def _check_question(
    source: Path,
    text: str | None,
    has_words: bool,
    mask_clips: list[int] | None,
    future: int | None,
    page: Path | None,
    split: str | None,
) -> None:
    """Refuses options that do not go together."""
    from vbcli.pipeline import dataset_kind

    if sum(bool(given) for given in (mask_clips, future, text or has_words)) > 1:
        raise UsageError("words, --mask-clips and --future are three questions: ask one at a time")
    if page is not None and not (mask_clips or future):
        raise UsageError("--page is for guesses of clips", hint="add --future N or --mask-clips N")
    if text is not None and "[MASK]" not in text:
        raise UsageError(f"--text '{text}' has no [MASK] to fill", hint="write [MASK] where a word is to be guessed")
    if split is not None and source.exists() and dataset_kind(source) != "tokens":
        raise UsageError("--split is for a tokens dataset")


def _guess(
    model: Checkpoint, videos: list[VideoTokens], template: str, answers: Answers, mask_clips: list[int] | None, future: int | None
) -> list[list[list[Guess]]]:
    from vbcli.cloze import fill_clips, fill_text, forecast

    if future:
        return [forecast(model, video, future) for video in videos]
    if mask_clips:
        return [fill_clips(model, video, mask_clips) for video in videos]
    return [fill_text(model, video, template, answers) for video in videos]


def _note_words(template: str | None, shares: dict[str, float]) -> None:
    """The sentence that words were guessed in, and how often the label was the best guess."""
    if template is not None:
        console.note(f"predict: {template}")
    if shares:
        figures = f"{shares['top1']:.3f} of {shares['n_videos']} videos, and {shares['prior_top1']:.3f} without the video"
        console.note(f"predict: the label is the best guess for {figures}")


def _show(videos: list[VideoTokens], guesses: list[list[list[Guess]]], exemplars: dict[str, str]) -> None:
    rows = [
        (video.video_id, str(i + 1), exemplars.get(guess.answer, guess.answer), f"{guess.probability:.3f}", f"{guess.prior:.3f}")
        for video, found in zip(videos, guesses, strict=True)
        for i, mask in enumerate(found)
        for guess in mask
    ]
    console.print_table("Guesses", ("video", "mask", "guess", "probability", "without the video"), rows)


def _videos(tokens_dir: Path, split: str | None) -> list[VideoTokens]:
    from vbcli.training.batches import read_tokens

    videos = [v for v in read_tokens(tokens_dir) if split in (None, v.split)]
    if not videos:
        raise VbcliError(f"no video of {tokens_dir} is in the split '{split}'", hint="leave --split out for all videos")
    return videos


def _answers(template: str, verbs: Path | None, objects: Path | None) -> Answers:
    n_masks = template.count("[MASK]")
    files = [verbs, objects]
    if any(files[n_masks:]):
        raise UsageError(f"'{template}' has {n_masks} times [MASK]: there is no place for the words of {files[-1]}")
    return [read_lines(path, "word") if path else None for path in (*files, *[None] * n_masks)[:n_masks]]


def _exemplars(model_dir: Path) -> dict[str, str]:
    """What stands for each visual token of the first codebook: video and time."""
    from vbcli.forecasts import read_exemplars

    return {token: f"{token}, as {video_id} at {start_s:.1f} s" for token, (video_id, start_s) in read_exemplars(model_dir).items()}


def _write_page(
    page: Path, videos: list[VideoTokens], shown: list[list[list[Guess]]], model_dir: Path, tokens_dir: Path, ffmpeg: str, limits: Limits
) -> None:
    from vbcli.files import write_atomic
    from vbcli.forecasts import guess_page, read_exemplars
    from vbcli.media.program import find_ffmpeg

    write_atomic(page, guess_page(videos, shown, read_exemplars(model_dir), tokens_dir, find_ffmpeg(ffmpeg), limits).encode())
    console.note(f"predict: wrote {page}")
