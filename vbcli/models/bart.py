"""BART: the decoder that writes sentences from a memory, its encoder, and the captioner with a VideoBERT encoder.

Notation, with shapes at line ends:

    B  batch (videos)                   D  width
    T  text length (decoder)            H  heads
    S  sequence length (memory)         E  width of a head, D / H
    V  visual length, a part of S       N  beams of a video
    K  visual tokens, in the encoder
    R  rows of the decoder's embedding table

`attention_mask` is True on real tokens.

Source: Lewis et al. 2019, "BART", section 2; the captioner is C = Encoder(X), P(Y|X) = Decoder(Y, C).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from vbcli.config import BartConfig
from vbcli.errors import VbcliError
from vbcli.models.bridge import SentenceBridge
from vbcli.models.cache import DecoderCache, mask_bias
from vbcli.models.dropout import RowDropout
from vbcli.models.linear import PackedLinear, can_pack, linear, pack_linears
from vbcli.models.transformer import TransformerBlock, causal_mask, init_weights, key_mask
from vbcli.models.videobert import VideoBert

POSITION_OFFSET = 2
"""BART's table of positions starts with two rows that no token uses."""
LAYER_NORM_EPS = 1e-5


def _blocks(config: BartConfig, n_layers: int, has_cross_attention: bool) -> nn.ModuleList:
    return nn.ModuleList(
        TransformerBlock(
            config.hidden_size,
            config.n_heads,
            config.intermediate_size,
            dropout=config.dropout,
            attention_dropout=config.attention_dropout,
            layer_norm_eps=LAYER_NORM_EPS,
            has_cross_attention=has_cross_attention,
        )
        for _ in range(n_layers)
    )


class _Embedder(nn.Module):
    """Adds positions to token embeddings, then layer norm and dropout; both halves of BART start with it."""

    def __init__(self, config: BartConfig) -> None:
        super().__init__()
        self.n_positions = config.max_positions
        self.position_embedding = nn.Embedding(config.max_positions + POSITION_OFFSET, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=LAYER_NORM_EPS)
        self.dropout = RowDropout(config.dropout)

    def forward(self, tokens: Tensor, first: int, length: int) -> Tensor:
        """Positions `first` to `first + length` are added; they broadcast over the batch."""
        if first + length > self.n_positions:
            raise ValueError(f"a sequence of {first + length} tokens is longer than max_positions {self.n_positions}")
        start = first + POSITION_OFFSET
        positions = self.position_embedding.weight[start : start + length]  # (T, D)
        return self.dropout(self.norm(tokens + positions))  # (B, T, D)


class BartDecoder(nn.Module):
    """BART's decoder: causal self-attention, cross-attention to a memory, and a head tied to its embedding.

    Args:
        config: shape; `n_encoder_layers` is not used.
    """

    final_logits_bias: Tensor

    def __init__(self, config: BartConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.n_tokens, config.hidden_size, padding_idx=config.pad_token_id)
        self.embedder = _Embedder(config)
        self.blocks = _blocks(config, config.n_decoder_layers, has_cross_attention=True)
        self.register_buffer("final_logits_bias", torch.zeros(1, config.n_tokens))
        self.packed_output: PackedLinear | None = None
        init_weights(self, config.initializer_range)

    def forward(self, input_ids: Tensor, memory: Tensor, memory_mask: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Scores the next token at every position (teacher forcing).

        Args:
            input_ids: int64 (B, T), ids in [0, R), beginning with the decoder's start token; T at most `max_positions`.
            memory: float (B, S, D), the encoder's output.
            memory_mask: bool (B, S), True on real tokens.
            attention_mask: bool (B, T), True on real tokens; None means all.

        Returns:
            float (B, T, R) logits.
        """
        length = input_ids.shape[1]
        hidden = self.embedder(self.token_embedding(input_ids), 0, length)  # (B, T, D)
        mask = causal_mask(length, input_ids.device)  # (1, 1, T, T)
        if attention_mask is not None:
            mask = mask & key_mask(attention_mask)  # (B, 1, T, T)
        for block in self.blocks:
            hidden = block(hidden, mask, memory, key_mask(memory_mask))  # (B, T, D)
        return self._logits(hidden)  # (B, T, R)

    @torch.no_grad()
    def start(self, memory: Tensor, memory_mask: Tensor, n_beams: int) -> DecoderCache:
        """Prepares incremental decoding: projects the memory once per video.

        Args:
            memory: float (B, S, D).
            memory_mask: bool (B, S), True on real tokens, of which each video has one or more.
            n_beams: N, sequences decoded per video.

        Returns:
            An empty cache for `step`.
        """
        projected = [block.cross_attention.keys_values(memory) for block in self._layers()]  # (B, H, S, E) pairs
        memory_keys = torch.stack([keys.transpose(2, 3) for keys, _ in projected])  # (layers, B, H, E, S)
        memory_values = torch.stack([values for _, values in projected])  # (layers, B, H, S, E)
        no_keys, no_values = memory_keys[..., :0], memory_values[..., :0, :]  # (layers, B, H, E, 0), (layers, B, H, 0, E)
        is_past = memory_mask.new_zeros(len(memory), n_beams, 0)  # (B, N, 0)
        return DecoderCache(no_keys, no_values, is_past, memory_keys, memory_values, mask_bias(key_mask(memory_mask)))

    @torch.no_grad()
    def step(self, token_ids: Tensor, cache: DecoderCache) -> Tensor:
        """Scores the next token of every beam after one more token each.

        Args:
            token_ids: int64 (B, N), the newest token of each beam.
            cache: advanced by one position.

        Returns:
            float (B, N, R) logits.
        """
        hidden = self.embedder(self.token_embedding(token_ids), cache.length, 1)  # (B, N, D)
        for block, part in zip(self._layers(), cache.grow(), strict=True):
            hidden = block.step(hidden, part)  # (B, N, D)
        return self._logits(hidden)  # (B, N, R)

    def pack_output(self) -> None:
        """Lays the output layer out for inference, from the embedding's weights as they are now."""
        if can_pack(self.token_embedding.weight):
            self.packed_output = PackedLinear(self.token_embedding.weight, self.final_logits_bias[0])

    def _layers(self) -> list[TransformerBlock]:
        return cast(list[TransformerBlock], list(self.blocks))  # a ModuleList forgets what it holds

    def _logits(self, hidden: Tensor) -> Tensor:
        if self.packed_output is not None:
            return self.packed_output(hidden)  # (B, T, R)
        return linear(hidden, self.token_embedding.weight, self.final_logits_bias[0])  # (B, T, R)


class Captioner(nn.Module):
    """A VideoBERT encoder and a BART decoder.

    Args:
        encoder: VideoBERT of width D.
        decoder: BART decoder of the same width D.
        bridge: where it learned to write from the vectors of sentences, what makes such vectors of videos, for the encoder.

    Raises:
        VbcliError: the widths differ.
    """

    def __init__(self, encoder: VideoBert, decoder: BartDecoder, bridge: SentenceBridge | None = None) -> None:
        super().__init__()
        if encoder.config.hidden_size != decoder.config.hidden_size:
            raise VbcliError(
                f"the encoder's hidden_size {encoder.config.hidden_size} is not the decoder's {decoder.config.hidden_size}",
                hint="choose presets of the same size, such as videobert-mini and bart-mini",
            )
        self.encoder = encoder
        self.decoder = decoder
        self.bridge = bridge

    def encode(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor,
        attention_mask: Tensor,
        features: Tensor | None = None,
        feature_mask: Tensor | None = None,
        residual_ids: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Encodes text and video; arguments as `VideoBert.forward`.

        Returns:
            memory float (B, S, D) and its mask bool (B, S).
        """
        hidden = self.encoder(input_ids, token_type_ids, attention_mask, features, feature_mask, residual_ids)  # (B, S, D)
        return hidden, attention_mask

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor,
        attention_mask: Tensor,
        features: Tensor | None = None,
        feature_mask: Tensor | None = None,
        residual_ids: Tensor | None = None,
        *,
        decoder_input_ids: Tensor,
        decoder_attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Scores the next caption token at every position; arguments as `VideoBert.forward` and `BartDecoder.forward`.

        Returns:
            float (B, T, R) logits.
        """
        memory, memory_mask = self.encode(
            input_ids, token_type_ids, attention_mask, features, feature_mask, residual_ids
        )  # (B, S, D), (B, S)
        return self.decoder(decoder_input_ids, memory, memory_mask, decoder_attention_mask)  # (B, T, R)


def pack_model(model: nn.Module) -> None:
    """Lays the weights of a trained model out for inference on a processor, after which they cannot be trained, saved or moved."""
    for module in model.modules():
        if isinstance(module, BartDecoder):
            module.pack_output()
    pack_linears(model)


class BartEncoder(nn.Module):
    """BART's encoder over embedded tokens (the embedding table is the decoder's).

    Args:
        config: shape; `n_decoder_layers` is not used.
    """

    def __init__(self, config: BartConfig) -> None:
        super().__init__()
        self.embedder = _Embedder(config)
        self.blocks = _blocks(config, config.n_encoder_layers, has_cross_attention=False)
        init_weights(self, config.initializer_range)

    def forward(self, tokens: Tensor, attention_mask: Tensor) -> Tensor:
        """Encodes token embeddings float (B, S, D) with mask bool (B, S) to float (B, S, D)."""
        hidden = self.embedder(tokens, 0, tokens.shape[1])  # (B, S, D)
        for block in self.blocks:
            hidden = block(hidden, key_mask(attention_mask))  # (B, S, D)
        return hidden


class Bart(nn.Module):
    """BART, encoder and decoder with one embedding table.

    Args:
        config: shape.
    """

    def __init__(self, config: BartConfig) -> None:
        super().__init__()
        self.encoder = BartEncoder(config)
        self.decoder = BartDecoder(config)

    def encode(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Encodes int64 (B, S) ids with mask bool (B, S).

        Returns:
            memory float (B, S, D) and its mask bool (B, S).
        """
        return self.encoder(self.decoder.token_embedding(input_ids), attention_mask), attention_mask  # (B, S, D), (B, S)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, *, decoder_input_ids: Tensor, decoder_attention_mask: Tensor | None = None
    ) -> Tensor:
        """Scores the next token at every position of `decoder_input_ids`: float (B, T, R) logits."""
        memory, memory_mask = self.encode(input_ids, attention_mask)  # (B, S, D), (B, S)
        return self.decoder(decoder_input_ids, memory, memory_mask, decoder_attention_mask)  # (B, T, R)


_BART_MODULES = {
    "token_embedding": "embed_tokens",
    "embedder.position_embedding": "embed_positions",
    "embedder.norm": "layernorm_embedding",
    "self_attention.q": "self_attn.q_proj",
    "self_attention.k": "self_attn.k_proj",
    "self_attention.v": "self_attn.v_proj",
    "self_attention.out": "self_attn.out_proj",
    "self_norm": "self_attn_layer_norm",
    "cross_attention.q": "encoder_attn.q_proj",
    "cross_attention.k": "encoder_attn.k_proj",
    "cross_attention.v": "encoder_attn.v_proj",
    "cross_attention.out": "encoder_attn.out_proj",
    "cross_norm": "encoder_attn_layer_norm",
    "feed_forward.up": "fc1",
    "feed_forward.down": "fc2",
    "feed_forward_norm": "final_layer_norm",
}


def to_bart_state(model: Bart) -> dict[str, Tensor]:
    """Renames the weights to those of `transformers.BartForConditionalGeneration`; tensors share memory with the model."""
    state = {_bart_name(name): tensor for name, tensor in model.state_dict().items()}
    table = state["model.shared.weight"]
    return state | {"model.encoder.embed_tokens.weight": table, "model.decoder.embed_tokens.weight": table, "lm_head.weight": table}


def decoder_to_bart_state(decoder: BartDecoder) -> dict[str, Tensor]:
    """Renames a decoder's weights, but for its table of tokens, to those of `transformers.BartForConditionalGeneration`."""
    return {_bart_name(f"decoder.{n}"): tensor for n, tensor in decoder.state_dict().items() if n != "token_embedding.weight"}


def bart_block_name(half: str, name: str) -> str:
    """BART's name of a block's tensor.

    Args:
        half: `encoder` or `decoder`.
        name: within the list of blocks, such as `0.self_attention.q.weight`.
    """
    return _bart_name(f"{half}.blocks.{name}")


def load_bart_state(model: Bart, state: Mapping[str, Tensor], source: str) -> None:
    """Fills the model from the weights of a BART, in place; a bare `BartModel` (no `model.` prefix) is read, too.

    Args:
        model: same shape as the checkpoint.
        state: tensors by name; without `final_logits_bias` the model's own stays.
        source: the file, named in errors.

    Raises:
        VbcliError: a tensor is missing or has another shape.
    """
    found = {name if name.startswith(("model.", "lm_head.", "final_")) else f"model.{name}": tensor for name, tensor in state.items()}
    fitting: list[tuple[Tensor, Tensor]] = []
    for name, target in model.state_dict().items():
        tensor = found.get(_bart_name(name))
        if tensor is None and name == "decoder.final_logits_bias":
            continue
        if tensor is None:
            raise VbcliError(f"{source} lacks {_bart_name(name)}", hint="is it a BART checkpoint with as many layers?")
        if tensor.shape != target.shape:
            raise VbcliError(
                f"{source}: {_bart_name(name)} has shape {tuple(tensor.shape)}, and this model needs {tuple(target.shape)}",
                hint="choose the model preset of the checkpoint's shape",
            )
        fitting.append((target, tensor))
    with torch.no_grad():
        for target, tensor in fitting:
            target.copy_(tensor)


def _bart_name(name: str) -> str:
    """BART's name of one of our tensors."""
    if name == "decoder.final_logits_bias":
        return "final_logits_bias"
    if name == "decoder.token_embedding.weight":
        return "model.shared.weight"
    module, leaf = name.rsplit(".", 1)
    half, part = module.split(".", 1)
    if part.startswith("blocks."):
        _, index, part = part.split(".", 2)
        return f"model.{half}.layers.{index}.{_BART_MODULES[part]}.{leaf}"
    return f"model.{half}.{_BART_MODULES[part]}.{leaf}"
