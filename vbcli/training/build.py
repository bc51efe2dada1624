"""What training starts from: a fresh model, a checkpoint of ours, or a published BERT or BART."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vbcli.config import BartConfig, VideoBertConfig, config_hash, load_preset, preset_names
from vbcli.digests import file_sha256
from vbcli.errors import VbcliError
from vbcli.files import read_json
from vbcli.models.bart import Bart, BartDecoder, Captioner
from vbcli.models.bridge import SentenceBridge
from vbcli.models.checkpoint import Checkpoint, init_visual_rows, load_checkpoint
from vbcli.models.classifier import VideoClassifier
from vbcli.models.heads import balanced_class_weights, balanced_positive_weights
from vbcli.models.published import (
    VOCABULARY_NAMES,
    captioner_from_bart,
    encoder_from_bert,
    find_published,
    import_published,
    is_published,
    shape_of,
)
from vbcli.models.retriever import VideoRetriever
from vbcli.models.sentences import minilm_dir
from vbcli.models.transformer import shrink_and_perturb
from vbcli.models.videobert import VideoBert
from vbcli.models.weights import weight_files
from vbcli.storage import as_path, is_remote
from vbcli.textvocab import TextVocabulary, train_text_vocabulary
from vbcli.training.batches import VideoTokens
from vbcli.training.classifying import ClassSet, fit_probe
from vbcli.training.options import FitOptions
from vbcli.vocab.artifact import Vocabulary

DEFAULT_MODEL = "videobert-tiny"
# A captioner's norm: BERT's 1e-12 becomes BART's 1e-5 when it is initialised, before it is fine-tuned.
BART_LAYER_NORM_EPS = 1e-5
PERTURBATION = 0.01
SPACE = 256
"""Most dimensions of the space that text and video share."""
SENTENCE_DIM = 384
"""Of MiniLM's vectors, which a captioner learns to write from."""


def find_init(options: FitOptions, on_note: Callable[[str], None]) -> Path | None:
    """The folder that training starts from; None where it starts fresh.

    Args:
        on_note: called with sentences for the user.

    Raises:
        VbcliError: what `options.init` names is not there, or nothing to start from.
    """
    if options.init is None and options.text_input == "features":
        raise VbcliError(
            "--text-input features needs --init: the BERT whose features they are",
            hint="name a folder with a Hugging Face BERT, a model of the hub, a checkpoint that vbcli import made, or minilm",
        )
    if options.init is None:
        return _minilm_or_hint(on_note) if options.model == "videobert-mini" else None
    there = as_path(options.init)
    if options.init == "minilm":
        init = minilm_dir()
    else:
        init = there if is_remote(there) and _is_checkpoint(there) else find_published(options.init)
    if not _is_checkpoint(init) and not is_published(init):
        raise VbcliError(
            f"--init {init} is neither a checkpoint nor a BERT or BART in Hugging Face's format",
            hint="name a checkpoint, a folder with config.json, weights and a tokenizer, a model of the hub, or minilm",
        )
    return init


def init_digest(init: Path) -> str:
    """What is in the folder `init`: equal for equal weights, wherever they lie."""
    if _is_checkpoint(init):
        return str(read_json(init / "config.json")["model_sha256"])
    names = [path for path in (init / name for name in VOCABULARY_NAMES) if path.is_file()]
    return config_hash([file_sha256(path) for path in (*weight_files(init), *names)])


def _is_checkpoint(path: Path) -> bool:
    config = path / "config.json"
    return config.is_file() and read_json(config).get("kind") == "checkpoint"


def build_checkpoint(
    options: FitOptions,
    init: Path | None,
    visual: Vocabulary,
    vocab_dir: Path,
    train: list[VideoTokens],
    on_note: Callable[[str], None],
) -> Checkpoint:
    """The model that training starts from, with its vocabularies.

    Args:
        init: from `find_init`.
        visual: of the dataset, in `vocab_dir`.
        train: its text makes the text vocabulary of a model that starts fresh.
        on_note: called with sentences for the user.

    Raises:
        VbcliError: `init` does not fit the dataset or the other options.
    """

    def finish(encoder: VideoBert, text: TextVocabulary) -> Checkpoint:
        model = _with_head(encoder, text, visual, classes, options)
        if isinstance(model, VideoClassifier):
            fit_probe(model, train)
        return Checkpoint(options.task, model, text, visual, vocab_dir, n_clips=options.n_clips)

    classes = ClassSet.of(train) if options.task == "classify" else None
    if init is None:
        text = train_text_vocabulary(t for v in train for t in (*v.caption_texts, *(s.text for s in v.segments)))
        encoder = _with_centroids(VideoBert(_encoder_config(options, visual, text)), visual, options)
        return finish(encoder, text)
    # A frozen BERT's heads are not used: that some are missing is no news.
    note = on_note if options.text_input == "tokens" else lambda text: None
    source = load_checkpoint(init) if _is_checkpoint(init) else import_published(init, note)
    if options.text_input == "features" and source.vocabulary is None:
        encoder = _with_centroids(_encoder_of_features(options, init, source, visual), visual, options)
        return finish(encoder, source.text)
    _check_shape(options, init, source)
    if isinstance(source.model, Bart):
        return _start_from_bart(options, init, source, visual, vocab_dir)
    if source.vocabulary is None:
        config = _encoder_config(options, visual, source.text, shape_of(source))
        encoder = _with_centroids(encoder_from_bert(source.encoder, config), visual, options)
        return finish(encoder, source.text)
    _check_start(options, init, source, visual)
    if _goes_on(options, source, classes):
        if options.learns_from_text and isinstance(source.model, Captioner):
            source.model.bridge = SentenceBridge(visual.feature_dim, SENTENCE_DIM)
        if classes and isinstance(source.model, VideoClassifier):
            source.model.head.class_weights = _class_weights(classes, options)
        return Checkpoint(options.task, source.model.train(), source.text, visual, vocab_dir, n_clips=options.n_clips)
    if options.task != "pretrain":
        _shrink(source.encoder, options)
    return finish(source.encoder, source.text)


def _goes_on(options: FitOptions, source: Checkpoint, classes: ClassSet | None) -> bool:
    """Whether the whole model of a checkpoint is what the task trains; else only its encoder is."""
    if options.task in ("caption", "denoise", "answer"):
        return isinstance(source.model, Captioner)
    if options.task == "retrieve":
        return isinstance(source.model, VideoRetriever)
    if classes is None or not isinstance(source.model, VideoClassifier):
        return False
    return (source.model.classes, source.model.head.is_multi_label) == (classes.names, classes.is_multi_label)


def _with_head(encoder: VideoBert, text: TextVocabulary, visual: Vocabulary, classes: ClassSet | None, options: FitOptions) -> nn.Module:
    """The encoder with what its task needs beside it, fresh."""
    if options.task == "pretrain":
        return encoder
    if options.task == "retrieve":
        return VideoRetriever(encoder, min(SPACE, encoder.config.hidden_size))
    if classes:
        weights = _class_weights(classes, options)
        return VideoClassifier(encoder, classes.names, is_multi_label=classes.is_multi_label, class_weights=weights)
    return _build_captioner(encoder, text, SentenceBridge(visual.feature_dim, SENTENCE_DIM) if options.learns_from_text else None, options)


def _class_weights(classes: ClassSet, options: FitOptions) -> Tensor | None:
    if not options.balance:
        return None
    counts = torch.tensor(classes.counts)
    return balanced_positive_weights(counts, classes.n_videos) if classes.is_multi_label else balanced_class_weights(counts)


def _start_from_bart(options: FitOptions, init: Path, source: Checkpoint, visual: Vocabulary, vocab_dir: Path) -> Checkpoint:
    assert isinstance(source.model, Bart)
    if options.task not in ("denoise", "caption"):
        raise VbcliError(
            f"{init} is an encoder-decoder, which --task {options.task} cannot start from", hint="use --task denoise or --task caption"
        )
    captioner = captioner_from_bart(source.model, _encoder_config(options, visual, source.text, shape_of(source)))
    _with_centroids(captioner.encoder, visual, options)
    return Checkpoint(options.task, captioner, source.text, visual, vocab_dir, n_clips=options.n_clips)


def _encoder_of_features(options: FitOptions, init: Path, source: Checkpoint, visual: Vocabulary) -> VideoBert:
    """A fresh VideoBERT whose text enters as the features of a BERT."""
    if isinstance(source.model, Bart):
        raise VbcliError(f"{init} is a BART, and --text-input features wants a BERT", hint="name a BERT with --init, or minilm")
    bert = source.encoder
    fresh = _encoder_config(options, visual, source.text)
    # As much text as the BERT can read.
    n_positions = min(fresh.max_positions, bert.config.max_positions)
    encoder = VideoBert(replace(fresh, max_positions=n_positions, text_bert=bert.config))
    assert encoder.frozen_text is not None
    encoder.frozen_text.bert.load_state_dict(bert.state_dict())
    return encoder


def _with_centroids(encoder: VideoBert, visual: Vocabulary, options: FitOptions) -> VideoBert:
    if not options.learns_from_text:
        init_visual_rows(encoder, [torch.from_numpy(tree.leaf_centroids) for tree in visual.trees], options.seed)
    return encoder


def _check_shape(options: FitOptions, init: Path, source: Checkpoint) -> None:
    """The preset that was asked for, if any was, must be of the shape that is there."""
    if options.model is None:
        return
    wanted, found = load_preset(options.model, VideoBertConfig), shape_of(source)
    for name in ("n_layers", "hidden_size", "n_heads", "intermediate_size"):
        if getattr(wanted, name) != getattr(found, name):
            raise VbcliError(
                f"{init} has {name} {getattr(found, name)}, and --model {options.model} {getattr(wanted, name)}",
                hint="leave --model out to take the shape of what --init names",
            )


def _check_start(options: FitOptions, init: Path, source: Checkpoint, visual: Vocabulary) -> None:
    """A checkpoint of ours to start from must be of the dataset's vocabulary and of the inputs that were asked for, if any were."""
    is_of_text = isinstance(source.model, Captioner) and source.model.bridge is not None
    if is_of_text != options.learns_from_text:
        what, hint = ("learned", "give it --task caption and --text") if is_of_text else ("did not learn", "leave --text or --init out")
        raise VbcliError(f"the checkpoint {init} {what} to write from text", hint=hint)
    if is_of_text:
        return
    if source.visual.sha256 != visual.sha256:
        raise VbcliError(
            f"the checkpoint {init} was trained with another visual vocabulary than the dataset", hint="tokenize with its vocab folder"
        )
    for name in ("visual_input", "text_input", "fusion"):
        wanted, found = getattr(options, name), getattr(source.encoder.config, name)
        if wanted not in (found, getattr(FitOptions, name)):
            raise VbcliError(
                f"the checkpoint {init} has {name} '{found}', not '{wanted}'", hint=f"leave --{name.replace('_', '-')} out to go on with it"
            )


def _shrink(encoder: VideoBert, options: FitOptions) -> None:
    if options.keep_init < 1:
        generator = torch.Generator().manual_seed(options.seed)
        for part in (encoder.blocks, encoder.feature_projection):
            if part is not None:
                shrink_and_perturb(part, options.keep_init, PERTURBATION, generator)


def _encoder_config(options: FitOptions, visual: Vocabulary, text: TextVocabulary, shape: VideoBertConfig | None = None) -> VideoBertConfig:
    """The configuration of an encoder: of a shape that is there, or else of the preset."""
    model = options.model or DEFAULT_MODEL
    if model.startswith("bart-"):
        raise VbcliError(f"'{model}' is not a preset of an encoder", hint="choose videobert-tiny, -mini, -base or -large")
    return replace(
        shape or load_preset(model, VideoBertConfig, n_text_tokens=text.n_tokens, pad_token_id=text.pad_id),
        **_visual_shape(options, visual),
        fusion=options.fusion,
    )


def _visual_shape(options: FitOptions, visual: Vocabulary) -> dict[str, Any]:
    if options.learns_from_text:
        # A video is one clip that shows a sentence's vector; the one visual token says nothing.
        return {"n_visual_tokens": 1, "n_residual_tokens": (), "feature_dim": SENTENCE_DIM, "visual_input": "features"}
    return {
        "n_visual_tokens": visual.codebook_sizes[0],
        "n_residual_tokens": visual.codebook_sizes[1:],
        "feature_dim": visual.feature_dim if options.visual_input != "tokens" else 0,
        "visual_input": options.visual_input,
    }


def _build_captioner(encoder: VideoBert, text: TextVocabulary, bridge: SentenceBridge | None, options: FitOptions) -> Captioner:
    config = replace(encoder.config, layer_norm_eps=BART_LAYER_NORM_EPS)
    captioner_encoder = VideoBert(config)
    captioner_encoder.load_state_dict(encoder.state_dict())
    decoder_config = load_preset(
        _decoder_preset(options.model, config.hidden_size),
        BartConfig,
        n_tokens=config.n_text_tokens,
        hidden_size=config.hidden_size,
        n_heads=config.n_heads,
        pad_token_id=text.pad_id,
        bos_token_id=text.cls_id,
        eos_token_id=text.sep_id,
        decoder_start_token_id=text.cls_id,
    )
    decoder = BartDecoder(decoder_config)
    with torch.no_grad():
        decoder.token_embedding.weight.copy_(encoder.token_embedding.weight[: config.n_text_tokens])
    return Captioner(captioner_encoder, decoder, bridge)


def _decoder_preset(model: str | None, hidden_size: int) -> str:
    """The BART preset of the encoder's size: of the same name, or, where the encoder came from elsewhere, of the same width."""
    same_name = (model or DEFAULT_MODEL).replace("videobert-", "bart-")
    names = sorted((n for n in preset_names() if n.startswith("bart-")), key=lambda n: n != same_name)
    return next((n for n in names if load_preset(n, BartConfig).hidden_size == hidden_size), names[0])


def _minilm_or_hint(on_note: Callable[[str], None]) -> Path | None:
    try:
        return minilm_dir()
    except VbcliError as error:
        on_note(f"{error.message}: the text rows start fresh ({error.hint})")
        return None
