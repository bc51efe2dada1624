"""train: from tokens (or frames) to models."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vbcli.cli import console
from vbcli.cli.options import (
    DEFAULT_WORKSPACE,
    AsJson,
    ExecutorName,
    Precision,
    Seed,
    Workspace,
)
from vbcli.cli.runs import run_options
from vbcli.errors import UsageError, VbcliError
from vbcli.workspace import Workspace as Places

if TYPE_CHECKING:
    from vbcli.training.options import FitOptions
    from vbcli.training.runs import FitReport
    from vbcli.training.trainer import TrainProgress

ESTIMATE_AFTER_STEPS = 10


class TaskName(StrEnum):
    """What to train."""

    pretrain = "pretrain"
    denoise = "denoise"
    caption = "caption"
    classify = "classify"
    retrieve = "retrieve"
    answer = "answer"
    encoder = "encoder"


class Objective(StrEnum):
    """What an encoder learns of a clip."""

    auto = "auto"
    labels = "labels"
    words = "words"
    order = "order"


class VisualInput(StrEnum):
    """What the model sees of a clip."""

    tokens = "tokens"
    features = "features"
    both = "both"


class TextInput(StrEnum):
    """What the model sees of text."""

    tokens = "tokens"
    features = "features"


class Fusion(StrEnum):
    """How text and video meet."""

    joint = "joint"
    cross = "cross"


class Schedule(StrEnum):
    """How the learning rate falls."""

    cosine = "cosine"
    linear = "linear"


def train(
    tokens_dir: Annotated[
        Path | None,
        typer.Argument(
            metavar="TOKENS_OR_FRAMES_DIR",
            help="Tokens dataset; the workspace's tokens/ if left out, made first where needed. For an encoder, a frames dataset.",
        ),
    ] = None,
    checkpoint_dir: Annotated[Path | None, typer.Argument(help="Output; the workspace's checkpoints/<task> if left out.")] = None,
    task: Annotated[TaskName | None, typer.Option(help="What to train; without it pretrain, then caption from it.")] = None,
    model: Annotated[
        str | None, typer.Option(help="The preset: videobert-tiny (the default), -mini, -base or -large; with --init the shape of that.")
    ] = None,
    init: Annotated[
        str | None, typer.Option(help="Start from a checkpoint, a Hugging Face BERT or BART (folder or hub name), or 'minilm'.")
    ] = None,
    split: Annotated[str, typer.Option(help="Learn from the videos of this split.")] = "train",
    text: Annotated[
        list[Path] | None,
        typer.Option(
            help="Text to learn from, too: a caption file, or a text a line. May be repeated. A captioner of few videos learns to write."
        ),
    ] = None,
    visual_input: Annotated[VisualInput, typer.Option(help="What the model sees of a clip.")] = VisualInput.both,
    text_input: Annotated[
        TextInput, typer.Option(help="What the model sees of text: tokens, or features of a frozen BERT, which --init names.")
    ] = TextInput.tokens,
    fusion: Annotated[
        Fusion, typer.Option(help="One stream of text and video, or two that read each other in every layer.")
    ] = Fusion.joint,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Most steps; early stopping may end before.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows a step.")] = 32,
    accumulation: Annotated[int, typer.Option(min=1, help="Pieces that a step is cut into, to need less memory.")] = 1,
    learning_rate: Annotated[float | None, typer.Option(help="Highest learning rate; falls with the model's width if left out.")] = None,
    schedule: Annotated[Schedule, typer.Option(help="How the learning rate falls after the warm-up.")] = Schedule.cosine,
    ema_decay: Annotated[
        float | None, typer.Option(help="Of the running mean of the weights; 0 keeps none. Captioners have one if left out.")
    ] = None,
    patience: Annotated[int, typer.Option(min=1, help="Validations without a gain before training stops.")] = 5,
    label_smoothing: Annotated[float, typer.Option(help="Of the captioner's targets.")] = 0.1,
    keep_init: Annotated[
        float, typer.Option(min=0, max=1, help="Share of pre-trained weights that a captioner starts from; the rest starts fresh.")
    ] = 0.4,
    regime_weights: Annotated[
        tuple[float, float, float], typer.Option(help="How often pre-training shows video and text, text alone, video alone.")
    ] = (0.6, 0.2, 0.2),
    mask_rate: Annotated[float, typer.Option(help="Share of the tokens that pre-training hides and asks for.")] = 0.15,
    transcript: Annotated[
        bool, typer.Option("--transcript", help="Show a captioner or classifier what is said in a video beside what it shows.")
    ] = False,
    n_clips: Annotated[
        int | None,
        typer.Option(min=0, help="Show the model so many clips a video (1: the middle one; 0: none), for comparison."),
    ] = None,
    balance: Annotated[bool, typer.Option("--balance", help="Count every class of a classifier as much as another.")] = False,
    objective: Annotated[
        Objective, typer.Option(help="What an encoder learns of a clip; auto: labels, else words of captions, else the order of frames.")
    ] = Objective.auto,
    seed: Seed = 0,
    precision: Annotated[Precision, typer.Option(help="auto is bfloat16 on a GPU that has it.")] = Precision.auto,
    threads: Annotated[int, typer.Option(min=0, help="Threads; 0 leaves it to the library.")] = 0,
    workspace: Workspace = DEFAULT_WORKSPACE,
    as_json: AsJson = False,
) -> None:
    """Train VideoBERT and the captioner, a classifier, or a 3-D encoder.

    Interrupted training goes on where it was; a checkpoint holds all that captioning needs.
    """
    from vbcli.training.options import FitOptions

    options = FitOptions(
        task=(task or TaskName.pretrain).value,
        model=model,
        init=init,
        split=split,
        texts=tuple(str(path) for path in text or ()),
        visual_input=visual_input.value,
        text_input=text_input.value,
        fusion=fusion.value,
        max_steps=max_steps,
        batch_size=batch_size,
        accumulation=accumulation,
        learning_rate=learning_rate,
        schedule=schedule.value,
        ema_decay=ema_decay,
        patience=patience,
        regime_weights=regime_weights,
        mask_rate=mask_rate,
        label_smoothing=label_smoothing,
        keep_init=keep_init,
        transcript=transcript,
        n_clips=n_clips,
        balance=balance,
        objective=objective.value,
        seed=seed,
        precision=precision.value,
        threads=threads,
    )
    _refuse_what_has_no_effect(task, options)
    places = Places(workspace)
    source = tokens_dir or (places.frames_dir if task is TaskName.encoder else _workspace_tokens(places))
    if task is not None:
        reports = [_fit(source, checkpoint_dir or places.checkpoints_dir / task.value, options)]
    else:
        base = checkpoint_dir or places.checkpoints_dir
        reports = [_fit(source, base / "pretrain", options)]
        if _has_captions(source, split):
            after = replace(options, task=TaskName.caption.value, init=str(base / "pretrain"), texts=())
            reports.append(_fit(source, base / "caption", after))
        else:
            console.note("train: no captions, so no captioner: give them with vbcli tokenize --captions FILE")
    if as_json:
        rows = [{"checkpoint_dir": str(r.checkpoint_dir), "is_new": r.result is not None, "trained_on": r.trained_on} for r in reports]
        console.print_json({"checkpoints": rows})


def _refuse_what_has_no_effect(task: TaskName | None, options: FitOptions) -> None:
    """Options that a task would pass over are the user's mistake.

    Args:
        task: what was asked for; None is pretrain and caption.
    """
    from vbcli.storage import as_path

    if options.n_clips is not None and task not in (TaskName.caption, TaskName.classify):
        raise UsageError("--n-clips is for --task caption and --task classify")
    if options.transcript and task not in (None, TaskName.caption, TaskName.classify):
        raise UsageError("--transcript is for --task caption and --task classify")
    if options.balance and task is not TaskName.classify:
        raise UsageError("--balance is for --task classify")
    if options.objective != Objective.auto and task is not TaskName.encoder:
        raise UsageError("--objective is for --task encoder")
    if options.texts and task in (TaskName.classify, TaskName.encoder):
        raise UsageError(f"--text is not for --task {options.task}", hint="it is learned in pretrain, denoise and caption")
    shown_otherwise = options.transcript or options.n_clips is not None or options.visual_input != VisualInput.both
    if options.texts and task is TaskName.caption and shown_otherwise:
        raise UsageError("with --text a captioner is shown where a video lies among sentences, and nothing else of it")
    for path in options.texts:
        if not as_path(path).is_file():
            raise VbcliError(f"{path} does not exist", hint="--text takes a caption file, or a file with a text on each line")
    if options.text_input == TextInput.features and task is TaskName.encoder:
        raise UsageError("--text-input is not for --task encoder: it reads no text")
    if options.text_input == TextInput.features and options.init is None:
        raise UsageError("--text-input features needs --init: the BERT whose features they are", hint="such as --init minilm")
    if options.init is not None and task is TaskName.encoder:
        raise UsageError("--init is not for --task encoder: it starts fresh")


def _workspace_tokens(places: Places) -> Path:
    """The workspace's tokens, brought up to date with its features and vocabulary."""
    from vbcli.pipeline import dataset_kind, refresh_text, tokenize_dataset

    if dataset_kind(places.features_dir) is None:
        if dataset_kind(places.tokens_dir) is None:
            raise VbcliError(
                f"the workspace {places.root} has no features and no tokens", hint="run vbcli extract VIDEOS_DIR, then vbcli build-vocab"
            )
        return places.tokens_dir
    refresh_text(places.frames_dir, places.features_dir)
    with run_options("tokenize", ExecutorName.serial, 1, False, "bundled") as options:
        tokenize_dataset(places.features_dir, places.tokens_dir, places.vocab_dir, options=options)
    return places.tokens_dir


def _has_captions(tokens_dir: Path, split: str) -> bool:
    from vbcli.shards import list_shards, read_shard

    tables = (read_shard(path, columns=["captions", "split"]) for path in list_shards(tokens_dir))
    return any(row["captions"] for table in tables for row in table.to_pylist() if (row["split"] or "train") == split)


def _fit(source_dir: Path, checkpoint_dir: Path, options: FitOptions) -> FitReport:
    from vbcli.storage import local_output

    if options.task == "encoder":
        from vbcli.training.fit_encoder import fit_encoder as run
    else:
        from vbcli.training.fit import fit as run
    unit = "frames" if options.task == "encoder" else "tokens"

    with console.progress_bar(f"train {options.task}", "steps") as progress:
        bar = progress.task_ids[0]
        seconds: list[float] = []

        def on_progress(now: TrainProgress) -> None:
            seconds.append(now.seconds_a_step)
            if len(seconds) == ESTIMATE_AFTER_STEPS:
                left = (now.max_steps - now.step) * sorted(seconds)[len(seconds) // 2]
                console.note(f"train {options.task}: at most {now.max_steps} steps, about {_duration(left)}; early stopping may end before")
            text = f"loss {now.loss:.3f}, validation {now.validation_loss:.3f}, {now.tokens_per_s:,.0f} {unit}/s"
            progress.update(bar, completed=now.step, total=now.max_steps, text=text)

        with local_output(checkpoint_dir) as local:
            report = run(
                source_dir, local, options, on_note=lambda text: console.note(f"train {options.task}: {text}"), on_progress=on_progress
            )
        report = replace(report, checkpoint_dir=checkpoint_dir)
    if report.result is None:
        console.note(f"{checkpoint_dir}: trained already with these options and data")
    else:
        found = report.result
        console.note(f"{checkpoint_dir}: {found.n_steps} steps, best validation loss {found.best_loss:.4f} at step {found.best_step}")
    return report


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"
