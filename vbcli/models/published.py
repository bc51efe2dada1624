"""Published models: folders of Hugging Face's format, read as checkpoints.

A BERT becomes a VideoBERT without visual rows, and a BART a `Bart`; both are exported again bit for bit (`exchange.py`), and training
starts from them with `--init`. What a published configuration asks for and ours do not have is refused, never ignored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vbcli.config import BartConfig, VideoBertConfig
from vbcli.errors import VbcliError
from vbcli.files import read_json
from vbcli.models.bart import LAYER_NORM_EPS, POSITION_OFFSET, Bart, BartDecoder, Captioner, load_bart_state
from vbcli.models.checkpoint import IMPORTED, Checkpoint
from vbcli.models.videobert import N_TOKEN_TYPES, VideoBert, check_has_one_stream, load_bert_state, to_bert_state
from vbcli.models.weights import WEIGHT_NAMES, read_folder_weights
from vbcli.storage import as_path, fetch_folder, is_remote
from vbcli.textvocab import TextVocabulary, read_published_vocabulary

VOCABULARY_NAMES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "merges.txt")


def find_published(source: str, more: tuple[str, ...] = ()) -> Path:
    """The folder of a published model on this machine: a path, an address of a store, or a name on the Hugging Face hub, which is
    downloaded unless it was before.

    Args:
        more: names of further files that are wanted.

    Raises:
        VbcliError: it is neither.
    """
    path = as_path(source)
    if is_remote(path):
        return fetch_folder(path)
    if path.exists():
        return path
    # A name on the hub is one word, or an owner and a word.
    if source.startswith((".", "/", "~")) or source.endswith("/") or source.count("/") > 1:
        raise VbcliError(f"{source} does not exist", hint="name a folder with config.json, weights and a tokenizer, or a model of the hub")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, allow_patterns=["config.json", "*.safetensors*", *VOCABULARY_NAMES, *WEIGHT_NAMES, *more]))
    except (OSError, ValueError) as error:
        raise VbcliError(
            f"{source} is no folder, and cannot be had from the hub: {str(error).splitlines()[0].rstrip('.')}",
            hint="name a folder with config.json, weights and a tokenizer, or a model of the hub while there is a network",
        ) from error


def is_published(folder: Path) -> bool:
    """Whether a folder has the configuration of a published model."""
    path = folder / "config.json"
    values = read_json(path) if path.is_file() else None
    return isinstance(values, dict) and "model_type" in values


def import_published(folder: Path, on_note: Callable[[str], None]) -> Checkpoint:
    """Reads a BERT or BART folder.

    Args:
        on_note: called with sentences for the user, such as which heads the folder lacks.

    Raises:
        VbcliError: it is of another kind, asks for what ours do not have, or is damaged.
    """
    if not is_published(folder):
        raise VbcliError(
            f"{folder} is not a model in Hugging Face's format",
            hint="it needs config.json (model_type bert or bart), weights and a tokenizer",
        )
    values = read_json(folder / "config.json")
    text = read_published_vocabulary(folder)
    if values["model_type"] == "bert":
        return Checkpoint(IMPORTED, _read_bert(folder, values, text, on_note), text, None, Path())
    if values["model_type"] == "bart":
        return Checkpoint(IMPORTED, _read_bart(folder, values, text), text, None, Path())
    raise VbcliError(f"{folder} holds a model of type '{values['model_type']}'", hint="bert and bart can be read")


def _read_bert(folder: Path, values: dict[str, Any], text: TextVocabulary, on_note: Callable[[str], None]) -> VideoBert:
    _refuse_other(folder, values, hidden_act="gelu", position_embedding_type="absolute", type_vocab_size=N_TOKEN_TYPES, is_decoder=False)
    try:
        config = VideoBertConfig(
            n_layers=values["num_hidden_layers"],
            hidden_size=values["hidden_size"],
            n_heads=values["num_attention_heads"],
            intermediate_size=values["intermediate_size"],
            n_text_tokens=values["vocab_size"],
            n_special_tokens=0,
            visual_input="tokens",
            max_positions=values["max_position_embeddings"],
            dropout=values.get("hidden_dropout_prob", 0.1),
            attention_dropout=values.get("attention_probs_dropout_prob", 0.1),
            layer_norm_eps=values.get("layer_norm_eps", 1e-12),
            initializer_range=values.get("initializer_range", 0.02),
            pad_token_id=text.pad_id,
        )
    except KeyError as error:
        raise VbcliError(f"{folder / 'config.json'} has no {error}") from error
    _check_rows(folder, text, config.n_text_tokens)
    # Heads that the folder lacks are alike at each import, whatever the seed of what is trained from it, which stays as it is.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = VideoBert(config)
    missing = load_bert_state(model, read_folder_weights(folder), str(folder))
    heads = sorted({name.split(".")[0] for name in missing})
    if set(heads) & {"blocks", "token_embedding", "position_embedding", "type_embedding", "embedding_norm"}:
        raise VbcliError(f"{folder} lacks weights of {missing[0]}", hint="its config.json describes another model, or a file is missing")
    if heads:
        on_note(f"{folder} lacks {', '.join(heads)}: they start fresh")
    return model.eval()


def _read_bart(folder: Path, values: dict[str, Any], text: TextVocabulary) -> Bart:
    _refuse_other(folder, values, activation_function="gelu", scale_embedding=False, normalize_before=False, tie_word_embeddings=True)
    for name in ("attention_heads", "ffn_dim"):
        if values.get(f"encoder_{name}") != values.get(f"decoder_{name}"):
            raise VbcliError(f"{folder}: encoder_{name} and decoder_{name} differ, which cannot be read")
    try:
        config = BartConfig(
            n_encoder_layers=values["encoder_layers"],
            n_decoder_layers=values["decoder_layers"],
            hidden_size=values["d_model"],
            n_heads=values["encoder_attention_heads"],
            intermediate_size=values["encoder_ffn_dim"],
            n_tokens=values["vocab_size"],
            max_positions=values["max_position_embeddings"],
            dropout=values.get("dropout", 0.1),
            attention_dropout=values.get("attention_dropout", 0.0),
            initializer_range=values.get("init_std", 0.02),
            pad_token_id=text.pad_id,
            bos_token_id=text.cls_id,
            eos_token_id=text.sep_id,
            decoder_start_token_id=values.get("decoder_start_token_id", text.sep_id),
        )
    except KeyError as error:
        raise VbcliError(f"{folder / 'config.json'} has no {error}") from error
    _check_rows(folder, text, config.n_tokens)
    model = Bart(config)
    load_bart_state(model, read_folder_weights(folder), str(folder))
    return model.eval()


def _refuse_other(folder: Path, values: dict[str, Any], **supported: Any) -> None:
    for name, value in supported.items():
        if values.get(name, value) != value:
            raise VbcliError(f"{folder}: {name} is {values[name]!r}, and only {value!r} can be read")


def _check_rows(folder: Path, text: TextVocabulary, n_rows: int) -> None:
    if text.n_tokens > n_rows:
        raise VbcliError(f"{folder}: the tokenizer has {text.n_tokens} tokens, and the model {n_rows} rows")


# ---------------------------------------------------------------- models that see video


def encoder_from_bert(bert: VideoBert, config: VideoBertConfig) -> VideoBert:
    """A VideoBERT that starts as a BERT: special and visual rows, and the map of features, start fresh.

    Args:
        config: the BERT's shape with other rows and inputs.
    """
    encoder = VideoBert(config)
    load_bert_state(encoder, to_bert_state(bert), "the BERT")
    return encoder


def captioner_from_bart(bart: Bart, config: VideoBertConfig) -> Captioner:
    """A captioner that starts as a BART.

    BART's encoder is a VideoBERT without token types whose positions begin after two rows that no token uses, so their rows start at zero.

    Args:
        config: of `encoder_config_of_bart`, with the visual rows and inputs.

    Raises:
        VbcliError: two streams are asked for, which BART has not.
    """
    encoder = VideoBert(config)
    check_has_one_stream(encoder)
    table = bart.decoder.token_embedding.weight
    embedder = bart.encoder.embedder
    with torch.no_grad():
        encoder.token_embedding.weight[: len(table)] = table
        encoder.type_embedding.weight.zero_()
        encoder.position_embedding.weight.copy_(embedder.position_embedding.weight[POSITION_OFFSET:])
    encoder.embedding_norm.load_state_dict(embedder.norm.state_dict())
    encoder.blocks.load_state_dict(bart.encoder.blocks.state_dict())
    decoder = BartDecoder(bart.decoder.config)
    decoder.load_state_dict(bart.decoder.state_dict())
    return Captioner(encoder, decoder)


def encoder_config_of_bart(bart: Bart) -> VideoBertConfig:
    """The shape of a BART's encoder as a VideoBERT's."""
    config = bart.decoder.config
    return VideoBertConfig(
        n_layers=config.n_encoder_layers,
        hidden_size=config.hidden_size,
        n_heads=config.n_heads,
        intermediate_size=config.intermediate_size,
        n_text_tokens=config.n_tokens,
        max_positions=config.max_positions,
        dropout=config.dropout,
        attention_dropout=config.attention_dropout,
        layer_norm_eps=LAYER_NORM_EPS,
        initializer_range=config.initializer_range,
        pad_token_id=config.pad_token_id,
    )


def shape_of(checkpoint: Checkpoint) -> VideoBertConfig:
    """The shape that an encoder has which starts from a checkpoint."""
    if isinstance(checkpoint.model, Bart):
        return encoder_config_of_bart(checkpoint.model)
    return replace(checkpoint.encoder.config, n_special_tokens=1)
