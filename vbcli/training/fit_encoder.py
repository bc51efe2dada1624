"""`vbcli train --task encoder`: from a frames dataset to a 3-D convolution encoder."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from vbcli import shards
from vbcli.config import Conv3dConfig, config_hash, load_preset, to_dict
from vbcli.encoderfolders import is_encoder
from vbcli.encoderspecs import trained_preprocessing
from vbcli.errors import VbcliError
from vbcli.files import check_free, not_written, read_json
from vbcli.models.conv3d import Conv3dClassifier
from vbcli.models.encoder_checkpoint import EncoderCheckpoint, save_encoder
from vbcli.training.clips import VideoFrames, read_frames
from vbcli.training.encoding import EncoderTask, choose_objective
from vbcli.training.options import FitOptions, train_config
from vbcli.training.runs import (
    FitReport,
    check_same_run,
    note_overfitting,
    open_accelerator,
    prepare_process,
    record_run,
    resolve_precision,
)
from vbcli.training.tasks import split_videos
from vbcli.training.trainer import Trainer, TrainProgress

# Norms undo the scale of the weights before them: the rate need not fall with the width.
DEFAULT_MODEL = "conv3d-tiny"
LEARNING_RATE = 1e-3
IDENTITY_OPTIONS = ("split", "max_steps", "batch_size", "learning_rate", "schedule", "ema_decay", "patience", "objective", "seed")


def fit_encoder(
    frames_dir: Path,
    checkpoint_dir: Path,
    options: FitOptions,
    *,
    on_note: Callable[[str], None],
    on_progress: Callable[[TrainProgress], None],
) -> FitReport:
    """Trains an encoder on the frames of a dataset, at the frames a second that it holds; an interrupted run goes on.

    Args:
        on_note: called with sentences for the user.

    Raises:
        VbcliError: the data does not fit, or the folder holds another run.
    """
    manifest = shards.read_manifest(frames_dir, "frames")
    fps = float(manifest.fact("fps"))
    config = _load_shape(options.model or DEFAULT_MODEL)
    identity = _identity(frames_dir, options, config)
    if is_encoder(checkpoint_dir):
        return check_same_run(read_json(checkpoint_dir / "config.json"), checkpoint_dir, options, identity)
    check_free(checkpoint_dir, ("_training", "metrics.jsonl", "tensorboard", "model.safetensors"))
    preprocessing = trained_preprocessing(config.size_px)
    with _scratch_file(checkpoint_dir) as scratch:
        videos, pixels = read_frames(frames_dir, preprocessing.geometry, scratch)
        train, validation, note = split_videos(videos, options.split)
        _check_length(train, config.n_frames, fps, frames_dir)
        objective = choose_objective(train, options.objective)
        prepare_process(options)
        model = Conv3dClassifier(config, len(objective.classes))
        accelerator = open_accelerator(options)
        model.to(accelerator.device)
        task = EncoderTask(model, objective, pixels, preprocessing, fps, train, validation, seed=options.seed)
        clip = f"clips of {config.n_frames} frames at {fps:g} a second, {config.n_frames / fps:g} s"
        for sentence in (objective.note, f"{task.n_train} {clip}", *([note] if note else []), *task.notes):
            on_note(sentence)
        settings = train_config(_with_rate(options), config.widths[-1], task.n_train)
        trainer = Trainer(task, settings, checkpoint_dir, identity, on_progress, accelerator)
        result = trainer.run()
    note_overfitting(result, on_note)
    trained_on = record_run(options, identity, manifest.facts, task, result, train, validation)
    trained_on |= {"objective": objective.name, "classes": list(objective.classes)}
    model.to("cpu")
    if accelerator.is_main_process:
        save_encoder(EncoderCheckpoint(model.encoder, fps, preprocessing.mean, preprocessing.std, trained_on), checkpoint_dir)
        trainer.finish()
    return FitReport(checkpoint_dir, result, trained_on)


def _load_shape(model: str) -> Conv3dConfig:
    if model.startswith(("bart-", "videobert-")):
        raise VbcliError(f"'{model}' is not a preset of a 3-D encoder", hint="leave --model out, or name a JSON file like conv3d-tiny's")
    return load_preset(model, Conv3dConfig)


def _with_rate(options: FitOptions) -> FitOptions:
    return replace(options, learning_rate=options.learning_rate or LEARNING_RATE)


def _scratch_file(folder: Path) -> Any:
    """A file without a name: whatever ends the run, nothing is left of it. Not in memory, as the system's folder for such files may be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=folder)
    except OSError as error:
        raise not_written(folder, error) from error


def _check_length(train: Sequence[VideoFrames], n_frames: int, fps: float, frames_dir: Path) -> None:
    """Refuses frames that are too sparse: a clip of one picture repeated shows no motion."""
    usual = median(len(video.pts_s) for video in train)
    if usual < n_frames:
        raise VbcliError(
            f"{frames_dir} holds {fps:g} frames a second, {usual:g} a video, and a clip of the encoder has {n_frames}",
            hint=f"extract with --fps {math.ceil(fps * n_frames / usual)} or more into another folder: vbcli extract VIDEOS_DIR FRAMES_DIR",
        )


def _identity(frames_dir: Path, options: FitOptions, config: Conv3dConfig) -> dict[str, Any]:
    """Hashes of what a run is made of; what other tasks are told changes nothing here."""
    told = {name: value for name, value in to_dict(options).items() if name in IDENTITY_OPTIONS}
    fixed = {**told, "model": to_dict(config), "precision": resolve_precision(options)}
    frames = [shards.read_footer(p)["content_sha256"] for p in shards.list_shards(frames_dir)]
    texts = [shards.input_digest(p, ["video_id", "labels", "captions", "split"]) for p in shards.list_shards(frames_dir / "videos")]
    return {"options": config_hash(fixed), "data": config_hash([frames, texts])}
