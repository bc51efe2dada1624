"""`vbcli train`: from a tokens dataset to a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vbcli import shards
from vbcli.checkpointfiles import read_checkpoint_config
from vbcli.config import config_hash, to_dict
from vbcli.digests import file_sha256
from vbcli.errors import VbcliError
from vbcli.files import check_free
from vbcli.models.checkpoint import WINDOWED, Checkpoint, save_checkpoint
from vbcli.models.classifier import VideoClassifier
from vbcli.models.retriever import VideoRetriever
from vbcli.models.sentences import load_sentence_encoder, minilm_dir
from vbcli.models.videobert import VideoBert
from vbcli.storage import as_path
from vbcli.training.answering import AnswerTask, words_of_questions
from vbcli.training.batches import SegmentRow, VideoTokens, read_texts, read_tokens
from vbcli.training.build import build_checkpoint, find_init, init_digest
from vbcli.training.captioning import CaptionTask
from vbcli.training.classifying import ClassifyTask
from vbcli.training.denoising import DenoiseTask
from vbcli.training.from_text import SENTENCE_NOISE, teach_from_text
from vbcli.training.masking import MASK_RATE
from vbcli.training.options import FitOptions, max_steps, train_config
from vbcli.training.pretrain import PretrainTask
from vbcli.training.retrieving import RetrieveTask
from vbcli.training.runs import (
    FitReport,
    check_same_run,
    note_overfitting,
    open_accelerator,
    prepare_process,
    record_run,
    resolve_precision,
)
from vbcli.training.showing import Showing
from vbcli.training.tasks import Task, split_videos
from vbcli.training.trainer import Trainer, TrainProgress
from vbcli.vocab.artifact import load_vocabulary


def fit(
    tokens_dir: Path,
    checkpoint_dir: Path,
    options: FitOptions,
    *,
    on_note: Callable[[str], None],
    on_progress: Callable[[TrainProgress], None],
) -> FitReport:
    """Trains a task on a tokens dataset and saves a self-contained checkpoint; an interrupted run goes on.

    Args:
        on_note: called with sentences for the user.

    Raises:
        VbcliError: the data does not fit the task, or the folder holds another run.
    """
    manifest = shards.read_manifest(tokens_dir, "tokens")
    init = find_init(options, on_note)
    identity = _identity(tokens_dir, options, init)
    if (checkpoint_dir / "config.json").is_file():
        return check_same_run(read_checkpoint_config(checkpoint_dir), checkpoint_dir, options, identity)
    check_free(checkpoint_dir, ("_training", "metrics.jsonl", "tensorboard", "model.safetensors", "tokenizer.json", "vocab"))
    videos = read_tokens(tokens_dir)
    train, validation, note = split_videos(videos, options.split)
    if note:
        on_note(note)
    _check_told(tokens_dir, options, train)
    shown, checked = _fill_text(train, validation, on_note) if options.task == "pretrain" else (train, validation)
    texts = [text for path in options.texts for text in read_texts(as_path(path), manifest.fact("feature_dim"))]
    prepare_process(options)
    visual = load_vocabulary(tokens_dir / "vocab")
    checkpoint = build_checkpoint(options, init, visual, tokens_dir / "vocab", shown + texts, on_note)
    if options.learns_from_text:
        sentences = load_sentence_encoder(minilm_dir())
        n_shown = max_steps(options) * options.batch_size
        shown, checked = teach_from_text(checkpoint, train, validation, texts, sentences, n_shown, on_note)
    else:
        shown = shown + texts
    accelerator = open_accelerator(options)
    checkpoint.model.to(accelerator.device)
    checkpoint.encoder.freeze_visual_rows()
    task = _build_task(checkpoint, shown, checked, options)
    for sentence in task.notes:
        on_note(sentence)
    config = train_config(options, checkpoint.encoder.config.hidden_size, task.n_train)
    trainer = Trainer(task, config, checkpoint_dir, identity, on_progress, accelerator)
    result = trainer.run()
    note_overfitting(result, on_note)
    if isinstance(task, CaptionTask | ClassifyTask | RetrieveTask | AnswerTask):
        checkpoint.window_clips, checkpoint.window_text = task.shown.longest_clips, task.shown.longest_text
    if isinstance(task, AnswerTask):
        checkpoint.question_words = words_of_questions(train)
    checkpoint.trained_on = record_run(options, identity, manifest.facts, task, result, train, validation)
    checkpoint.model.to("cpu")
    if accelerator.is_main_process:
        save_checkpoint(checkpoint, checkpoint_dir)
        trainer.finish()
    return FitReport(checkpoint_dir, result, checkpoint.trained_on)


def _check_told(tokens_dir: Path, options: FitOptions, train: Sequence[VideoTokens]) -> None:
    """Refuses training videos without what the task learns to say or is shown."""
    if options.task == "caption" and not options.texts and not any(v.caption_texts for v in train):
        raise VbcliError(
            f"{tokens_dir} has no captions in the split '{options.split}'",
            hint="give them with: vbcli tokenize --captions FILE, or vbcli extract VIDEOS_DIR --captions FILE",
        )
    # Of pre-training, too: the captioner that comes after it would be refused when most of the work is done.
    if options.transcript and not any(s.text for v in train for s in v.segments):
        raise VbcliError(
            f"{tokens_dir} has no transcripts in the split '{options.split}'",
            hint="subtitles (.srt, .vtt) beside a video are its transcript: extract or encode again with them",
        )


def _identity(tokens_dir: Path, options: FitOptions, init: Path | None) -> dict[str, Any]:
    """Hashes of what a run is made of; threads and device may change, which is said in the record only."""
    data = config_hash([shards.read_footer(p)["content_sha256"] for p in shards.list_shards(tokens_dir)])
    fixed = replace(options, threads=0, device="cpu", init=None, texts=(), accumulation=1, precision=resolve_precision(options))
    # What other tasks are told changes nothing here.
    if options.task not in WINDOWED:
        fixed = replace(fixed, transcript=False)
    if options.task == "pretrain":
        fixed = replace(fixed, keep_init=0.0, n_clips=None)
    else:
        fixed = replace(fixed, regime_weights=(1, 0, 0), mask_rate=MASK_RATE)
    if options.task in ("pretrain", "classify"):
        fixed = replace(fixed, label_smoothing=0.0)
    texts = [file_sha256(as_path(path)) for path in options.texts]
    start = None if init is None else init_digest(init)
    return {"options": config_hash(to_dict(fixed)), "init": start, "data": config_hash([data, texts]) if texts else data}


def _fill_text(
    train: list[VideoTokens], validation: list[VideoTokens], on_note: Callable[[str], None]
) -> tuple[list[VideoTokens], list[VideoTokens]]:
    """Where no video has a transcript, the captions take its place; where there are none either, video alone is learned."""
    if any(s.text for v in train for s in v.segments):
        return train, validation
    if not any(v.caption_texts for v in train):
        on_note("no transcript and no captions: VideoBERT learns from video alone")
        return train, validation
    on_note("no transcript: VideoBERT learns with the training captions as text")
    return [told for v in train for told in _told(v)], [told for v in validation for told in _told(v)]


def _told(video: VideoTokens) -> list[VideoTokens]:
    """A video as often as its segments have captions at most, each time with another as the text of each segment."""
    texts = [_captions_of(video, segment) or [""] for segment in video.segments]
    return [
        replace(
            video, segments=[replace(s, text=of[(i + k) % len(of)]) for i, (s, of) in enumerate(zip(video.segments, texts, strict=True))]
        )
        for k in range(max(map(len, texts)))
    ]


def _captions_of(video: VideoTokens, segment: SegmentRow) -> list[str]:
    """Captions of the segment's time, else of the whole video."""
    timed = [text for text, start_s, end_s in video.timed_captions if start_s < segment.end_s and end_s > segment.start_s]
    return [" ".join(timed)] if timed else video.captions


def _build_task(
    checkpoint: Checkpoint, train: list[VideoTokens], validation: list[VideoTokens], options: FitOptions
) -> Task[Any, Any, Any, Any]:
    if isinstance(checkpoint.model, VideoBert):
        return PretrainTask(
            checkpoint.model,
            checkpoint.text,
            train,
            validation,
            seed=options.seed,
            regime_weights=options.regime_weights,
            mask_rate=options.mask_rate,
        )
    if options.task == "denoise":
        return DenoiseTask(
            checkpoint.captioner, checkpoint.text, train, validation, seed=options.seed, label_smoothing=options.label_smoothing
        )
    showing = Showing(options.transcript, options.n_clips)
    if options.learns_from_text:
        showing = Showing(feature_noise=SENTENCE_NOISE, clip_drop=0.0)
    if isinstance(checkpoint.model, VideoClassifier):
        return ClassifyTask(checkpoint.model, checkpoint.text, train, validation, seed=options.seed, showing=showing)
    if options.task == "answer":
        return AnswerTask(
            checkpoint.captioner,
            checkpoint.text,
            train,
            validation,
            seed=options.seed,
            showing=showing,
            label_smoothing=options.label_smoothing,
        )
    if isinstance(checkpoint.model, VideoRetriever):
        return RetrieveTask(checkpoint.model, checkpoint.text, train, validation, seed=options.seed, showing=showing)
    return CaptionTask(
        checkpoint.captioner,
        checkpoint.text,
        train,
        validation,
        seed=options.seed,
        showing=showing,
        label_smoothing=options.label_smoothing,
    )
