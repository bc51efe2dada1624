"""Checkpoints as folders of the transformers library: `BertForPreTraining` for a VideoBERT, `BartForConditionalGeneration` for a captioner.

What can be written exactly is fusion `joint`, of a VideoBERT with one codebook: BERT has no heads for others. Continuous features, and a
captioner's tokens of several codebooks, have no place in these classes: they enter through `inputs_embeds`, and the folder then holds
`video_inputs.py`, which builds them, with the map of features.

Source: the weights' names are those of transformers' models; how a BERT encoder becomes a BART encoder is told at `_fold`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from vbcli.config import BartConfig
from vbcli.files import check_free, write_atomic, write_json
from vbcli.models.bart import POSITION_OFFSET, Bart, Captioner, bart_block_name, decoder_to_bart_state, to_bart_state
from vbcli.models.checkpoint import Checkpoint, refuse_bridge
from vbcli.models.videobert import VideoBert, check_embeds_text, check_has_one_stream, to_bert_state
from vbcli.textvocab import SPECIAL_TOKENS, TextVocabulary

BLOCKED = float("-inf")


def export_transformers(checkpoint: Checkpoint, out_dir: Path) -> str:
    """Writes `config.json`, `model.safetensors`, the tokenizer and, with features or several codebooks, what builds the inputs.

    Args:
        out_dir: a new or empty folder.

    Returns:
        Name of the class of transformers that reads the folder.

    Raises:
        VbcliError: the model has no equal in transformers, or the folder is not empty.
    """
    check_free(out_dir)
    refuse_bridge(checkpoint)
    model, text = checkpoint.model, checkpoint.text
    if isinstance(model, Bart):
        state, config = to_bart_state(model), _published_bart_config(model.decoder.config)
    elif isinstance(model, Captioner):
        state, config = _bart_state(model, text), _bart_config(model)
    else:
        state, config = to_bert_state(checkpoint.encoder), _bert_config(checkpoint.encoder)
    if config["is_encoder_decoder"]:
        write_json(out_dir / "generation_config.json", _generation_config(config))
    write_atomic(out_dir / "model.safetensors", save({k: v.contiguous().clone() for k, v in state.items()}, {"format": "pt"}))
    write_atomic(out_dir / "tokenizer.json", text.to_json().encode())
    roles = ("pad", "unk", *(("cls", "sep") if text.special_tokens == SPECIAL_TOKENS else ("bos", "eos")), "mask")
    names = {f"{role}_token": token for role, token in zip(roles, text.special_tokens, strict=True)}
    write_json(
        out_dir / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": config["max_position_embeddings"], **names},
    )
    if not isinstance(model, Bart):
        _write_video_inputs(checkpoint, out_dir)
    # Last: a folder with it is whole.
    write_json(out_dir / "config.json", config)
    return config["architectures"][0]


def _bert_config(model: VideoBert) -> dict[str, Any]:
    config = model.config
    return {
        "architectures": ["BertForPreTraining"],
        "model_type": "bert",
        "is_encoder_decoder": False,
        "vocab_size": config.n_tokens,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "intermediate_size": config.intermediate_size,
        "hidden_act": "gelu",
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attention_dropout,
        "max_position_embeddings": config.max_positions,
        "type_vocab_size": 2,
        "initializer_range": config.initializer_range,
        "layer_norm_eps": config.layer_norm_eps,
        "pad_token_id": config.pad_token_id,
        "vbcli": _facts(model),
    }


def _bart_config(model: Captioner) -> dict[str, Any]:
    encoder, decoder = model.encoder.config, model.decoder.config
    return {
        **_published_bart_config(decoder),
        "vocab_size": encoder.n_tokens,
        "encoder_layers": encoder.n_layers,
        "encoder_attention_heads": encoder.n_heads,
        "encoder_ffn_dim": encoder.intermediate_size,
        "max_position_embeddings": max(encoder.max_positions, decoder.max_positions),
        "tie_word_embeddings": False,
        "vbcli": _facts(model.encoder),
    }


def _published_bart_config(config: BartConfig) -> dict[str, Any]:
    return {
        "architectures": ["BartForConditionalGeneration"],
        "model_type": "bart",
        "vocab_size": config.n_tokens,
        "d_model": config.hidden_size,
        "encoder_layers": config.n_encoder_layers,
        "decoder_layers": config.n_decoder_layers,
        "encoder_attention_heads": config.n_heads,
        "decoder_attention_heads": config.n_heads,
        "encoder_ffn_dim": config.intermediate_size,
        "decoder_ffn_dim": config.intermediate_size,
        "activation_function": "gelu",
        "dropout": config.dropout,
        "attention_dropout": config.attention_dropout,
        "activation_dropout": 0.0,
        "max_position_embeddings": config.max_positions,
        "init_std": config.initializer_range,
        "scale_embedding": False,
        "tie_word_embeddings": True,
        "is_encoder_decoder": True,
        "forced_eos_token_id": None,
        "pad_token_id": config.pad_token_id,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "decoder_start_token_id": config.decoder_start_token_id,
    }


def _generation_config(config: dict[str, Any]) -> dict[str, Any]:
    ids = {name: config[name] for name in ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")}
    return {**ids, "forced_eos_token_id": None, "num_beams": 4, "max_new_tokens": 64, "no_repeat_ngram_size": 3}


def _facts(model: VideoBert) -> dict[str, Any]:
    """What transformers does not ask for, and whoever builds inputs must know."""
    config = model.config
    return {
        "n_text_tokens": config.n_text_tokens,
        "boundary_token_id": config.boundary_token_id if config.n_special_tokens else None,
        "first_visual_id": config.first_visual_id if config.n_visual_tokens else None,
        "n_visual_tokens": config.n_visual_tokens,
        "n_residual_tokens": config.n_residual_tokens,
        "visual_input": config.visual_input,
        "feature_dim": config.feature_dim,
    }


def _fold(encoder: VideoBert, text: TextVocabulary) -> Tensor:
    """The rows of a BART encoder's table, float (R, D): BART has no token types, so the row of each token's type is added to it.

    Visual tokens and [SEP], which ends a sequence, are of type 1; all else is of type 0. The tokens of a clip are summed, and its type
    is in the row of the first codebook alone.
    """
    config = encoder.config
    types = torch.zeros(config.first_residual_id, dtype=torch.long)
    types[config.first_visual_id :] = 1
    types[text.sep_id] = 1
    table = encoder.token_embedding.weight
    return torch.cat([table[: len(types)] + encoder.type_embedding.weight[types], table[len(types) :]])


def _bart_state(model: Captioner, text: TextVocabulary) -> dict[str, Tensor]:
    encoder, decoder = model.encoder, model.decoder
    check_has_one_stream(encoder)
    check_embeds_text(encoder)
    n_positions = max(encoder.config.max_positions, decoder.config.max_positions)
    with torch.no_grad():
        table = _fold(encoder, text)
        state = {
            "model.shared.weight": table,
            "model.encoder.embed_tokens.weight": table,
            "model.encoder.embed_positions.weight": _positions(encoder.position_embedding.weight, 0, n_positions),
            "model.encoder.layernorm_embedding.weight": encoder.embedding_norm.weight,
            "model.encoder.layernorm_embedding.bias": encoder.embedding_norm.bias,
        }
        for name, value in encoder.blocks.state_dict().items():
            state[bart_block_name("encoder", name)] = value
        state |= decoder_to_bart_state(decoder)
        state["model.decoder.embed_positions.weight"] = _positions(decoder.embedder.position_embedding.weight, POSITION_OFFSET, n_positions)
        # The decoder writes text alone: its table gets empty rows for video, which a bias keeps from being written.
        n_visual = len(table) - decoder.config.n_tokens
        words = torch.cat([decoder.token_embedding.weight, table.new_zeros(n_visual, table.shape[1])])
        state["model.decoder.embed_tokens.weight"] = state["lm_head.weight"] = words
        state["final_logits_bias"] = torch.cat([decoder.final_logits_bias, table.new_full((1, n_visual), BLOCKED)], 1)
    return state


def _positions(rows: Tensor, n_unused: int, n_positions: int) -> Tensor:
    """A table of BART's: `POSITION_OFFSET` rows that no token uses, then the positions, then zeros up to `n_positions`."""
    used = rows[n_unused:]
    table = rows.new_zeros(n_positions + POSITION_OFFSET, rows.shape[1])
    table[POSITION_OFFSET : POSITION_OFFSET + len(used)] = used
    return table


# ---------------------------------------------------------------- what ids alone do not say

VIDEO_INPUTS = '''"""Inputs of the exported model: token ids with the further tokens and the continuous features of the clips.

    from video_inputs import inputs_embeds
    embeds = inputs_embeds(model, input_ids, features, feature_mask, residual_ids)
    model(inputs_embeds=embeds, attention_mask=attention_mask, ...)

A sequence is `[CLS] text [>] video [SEP]`; config.json, entry "vbcli", has the id of `[>]` and of the first visual token. A clip's id
there is its token of the first codebook; `residual_ids` are its ids of the other codebooks, whose rows follow those of the first
(n_visual_tokens), codebook by codebook (n_residual_tokens). Features are projected as the vocabulary in vocab/ of the vbcli checkpoint
does it.
"""

from pathlib import Path

from safetensors.torch import load_file

FOLDER = Path(__file__).parent


def inputs_embeds(model, input_ids, features=None, feature_mask=None, residual_ids=None):
    """What stands for token embeddings: float (B, S, D).

    Args:
        input_ids: int64 (B, S).
        features: float (B, S, P), read where feature_mask is True; None for a model that sees tokens only.
        feature_mask: bool (B, S), True on clips with a feature.
        residual_ids: int64 (B, S, M - 1), [PAD] where a position has no such token; None for one codebook.
    """
    bare = getattr(model, "bert", None) or model.get_encoder()
    table = bare.embed_tokens if hasattr(bare, "embed_tokens") else bare.embeddings.word_embeddings
    tokens = table(input_ids)
    if residual_ids is not None:
        is_there = (residual_ids != model.config.pad_token_id)[..., None]
        tokens = tokens + (table(residual_ids) * is_there).sum(2)
    if features is None:
        return tokens
    weights, shown = load_file(FOLDER / "feature_projection.safetensors"), feature_mask[..., None]
    if "type_row" in weights:  # visual_input "features": the token itself is not seen, only that it is visual
        tokens = tokens.where(~shown, weights["type_row"])
    projected = features @ weights["weight"].T + weights["bias"]
    return tokens + projected.masked_fill(~shown, 0.0)
'''


def _write_video_inputs(checkpoint: Checkpoint, out_dir: Path) -> None:
    """Writes what builds the inputs, where ids alone do not say them."""
    encoder = checkpoint.encoder
    if encoder.feature_projection is None and encoder.config.n_codebooks == 1:
        return
    write_atomic(out_dir / "video_inputs.py", VIDEO_INPUTS.encode())
    if encoder.feature_projection is None:
        return
    weights = {k: v.detach().contiguous() for k, v in encoder.feature_projection.state_dict().items()}
    if encoder.config.visual_input == "features":
        # A BERT adds the type's row by itself; a folded BART has it in the token's row, which is not seen.
        is_folded = isinstance(checkpoint.model, Captioner)
        weights["type_row"] = (encoder.type_embedding.weight[1] * float(is_folded)).detach().clone()
    write_atomic(out_dir / "feature_projection.safetensors", save(weights))
