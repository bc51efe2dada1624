"""VideoBERT: one BERT over text tokens, special tokens and visual tokens, or two that read each other.

Notation, with shapes at line ends:

    B  batch              D  width
    T  text length        H  heads
    V  visual length      F  width of a continuous feature
    S  sequence length    M  codebooks
    K_m  visual tokens of codebook m
    R  rows of the embedding table: text tokens, special tokens, K_1 + ... + K_M visual tokens
    L  rows that the masked-token head scores: R without K_2 + ... + K_M

A sequence is `[CLS] text [>] video [SEP]`, so S = T + V + 3. `attention_mask` is True on real tokens. The M visual tokens of a clip are one
position: their rows are summed, and each codebook is predicted by a head of its own, the first by BERT's masked-token head.

Fusion `joint` is the paper's: every position attends to every other. Fusion `cross` has two streams, of the video (V positions)
and of all else (T + 3), each with its own weights; in each layer both first attend to themselves, giving V and T, and then read
each other:

    V~ = LN(V + MultiHead(Q = V, K = T, V = T))        T~ = LN(T + MultiHead(Q = T, K = V, V = V))

and go through a feed-forward sublayer each. Neither sees the other's update, and an empty stream leaves the other as it is.

Source: Sun et al. 2019, "VideoBERT", section 3; Devlin et al. 2019 for the network; Lu et al. 2019, "ViLBERT", for two streams.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vbcli.config import VideoBertConfig
from vbcli.errors import VbcliError
from vbcli.models.dropout import RowDropout
from vbcli.models.frozen import FrozenText
from vbcli.models.linear import Linear, linear
from vbcli.models.transformer import RealTokens, TransformerBlock, init_weights, key_mask

N_TOKEN_TYPES = 2


class VideoBert(nn.Module):
    """BERT over one sequence of text and video, with the masked-token head and the alignment head.

    Args:
        config: shape; the map of continuous features exists when `feature_dim` > 0 and `visual_input` is not `tokens`, the frozen BERT with
            its map when there is a `text_bert`.
    """

    def __init__(self, config: VideoBertConfig) -> None:
        super().__init__()
        self.config = config
        width, eps = config.hidden_size, config.layer_norm_eps
        self.token_embedding = nn.Embedding(config.n_tokens, width, padding_idx=config.pad_token_id)
        self.position_embedding = nn.Embedding(config.max_positions, width)
        self.type_embedding = nn.Embedding(N_TOKEN_TYPES, width)
        has_features = config.visual_input != "tokens" and config.feature_dim > 0
        self.feature_projection = Linear(config.feature_dim, width) if has_features else None
        self.frozen_text = None if config.text_bert is None else _build_frozen_text(config, config.text_bert)
        self.embedding_norm = nn.LayerNorm(width, eps=eps)
        self.dropout = RowDropout(config.dropout)
        build_layer = CrossLayer if config.fusion == "cross" else _build_block
        self.blocks = nn.ModuleList(build_layer(config) for _ in range(config.n_layers))
        self.pooler = Linear(width, width)
        self.masked_dense = Linear(width, width)
        self.masked_norm = nn.LayerNorm(width, eps=eps)
        self.masked_bias = nn.Parameter(torch.zeros(config.first_residual_id))
        self.alignment = nn.Linear(width, 2)
        self.residual_heads = nn.ModuleList(ResidualHead(config, n_tokens) for n_tokens in config.n_residual_tokens)
        init_weights(self, config.initializer_range)

    def freeze_visual_rows(self) -> None:
        """Keeps the rows of the visual tokens as they are in training, so that rare tokens cannot be learned by heart.

        Source: Sun et al. 2019 (VideoBERT), section 4.3: visual rows stay at their centroids.
        """
        first = self.config.first_visual_id

        def without_visual_rows(gradient: Tensor) -> Tensor:
            return torch.cat([gradient[:first], torch.zeros_like(gradient[first:])])

        self.token_embedding.weight.register_hook(without_visual_rows)

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor,
        attention_mask: Tensor,
        features: Tensor | None = None,
        feature_mask: Tensor | None = None,
        residual_ids: Tensor | None = None,
    ) -> Tensor:
        """Encodes text and video together: h = f(V, T).

        Args:
            input_ids: int64 (B, S), ids in [0, R); S at most `max_positions`.
            token_type_ids: int64 (B, S), 0 text, 1 visual.
            attention_mask: bool (B, S), True on real tokens.
            features: float (B, S, F), read where `feature_mask` is True; not read when `visual_input` is `tokens`.
            feature_mask: bool (B, S), True where a position has a feature; needed with `features`.
            residual_ids: int64 (B, S, M - 1), the ids of a clip's tokens of all codebooks but the first; `pad_token_id` adds nothing;
                needed where M > 1.

        Returns:
            float (B, S, D); rows of padding positions mean nothing.
        """
        hidden = self._embed(input_ids, token_type_ids, attention_mask, features, feature_mask, residual_ids)  # (B, S, D)
        if self.config.fusion == "cross":
            return self._fuse(hidden, token_type_ids, attention_mask)  # (B, S, D)
        return self._join(hidden, attention_mask)  # (B, S, D)

    def _join(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        """Runs the blocks of the one stream over its real tokens: float (B, S, D) to float (B, S, D)."""
        real = RealTokens.of(attention_mask)
        tokens = real.take(hidden)  # (N, D)
        for block in cast(list[TransformerBlock], list(self.blocks)):  # a ModuleList forgets what it holds
            tokens = block.encode(tokens, real)  # (N, D)
        return real.put_back(tokens)  # (B, S, D)

    def _fuse(self, hidden: Tensor, token_type_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Takes the streams apart, runs the layers, and puts every position back in its place."""
        is_visual, is_text = stream_masks(token_type_ids, attention_mask)  # (B, S), (B, S)
        text, text_mask = _take(hidden, is_text)  # (B, T + 3, D), (B, T + 3)
        visual, visual_mask = _take(hidden, is_visual)  # (B, V, D), (B, V)
        for layer in self.blocks:
            visual, text = layer(visual, text, visual_mask, text_mask)  # (B, V, D), (B, T + 3, D)
        place = torch.where(is_visual, text.shape[1] + is_visual.cumsum(1) - 1, is_text.cumsum(1) - 1).clamp_min(0)  # (B, S)
        return torch.cat([text, visual], 1).gather(1, place[..., None].expand_as(hidden))  # (B, S, D)

    def pool(self, hidden: Tensor) -> Tensor:
        """Summarises a sequence by its [CLS] position: float (B, S, D) to float (B, D), in (-1, 1)."""
        return torch.tanh(self.pooler(hidden[:, 0]))  # (B, D)

    def masked_logits(self, hidden_rows: Tensor) -> Tensor:
        """Scores every text token, special token and visual token of the first codebook at the given positions, against their rows.

        Args:
            hidden_rows: float (N, D), rows of `forward`'s result.

        Returns:
            float (N, L) logits; with one codebook L = R.
        """
        rows = self.masked_norm(F.gelu(self.masked_dense(hidden_rows)))  # (N, D)
        return linear(rows, self.token_embedding.weight[: self.config.first_residual_id], self.masked_bias)  # (N, L)

    def residual_logits(self, hidden_rows: Tensor) -> list[Tensor]:
        """Scores the visual tokens of each codebook but the first at the given positions.

        Args:
            hidden_rows: float (N, D), rows of `forward`'s result.

        Returns:
            float (N, K_m) logits for m = 2 ... M.
        """
        tables = self.token_embedding.weight[self.config.first_residual_id :].split(self.config.n_residual_tokens)  # (K_m, D) each
        return [head(hidden_rows, table) for head, table in zip(self.residual_heads, tables, strict=True)]  # (N, K_m) each

    def alignment_logits(self, hidden: Tensor) -> Tensor:
        """Scores whether text and video belong together.

        Args:
            hidden: float (B, S, D).

        Returns:
            float (B, 2) logits; index 0 is aligned, as in BERT's next-sentence head 0 is "is next".
        """
        return self.alignment(self.pool(hidden))  # (B, 2)

    def _embed(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor,
        attention_mask: Tensor,
        features: Tensor | None,
        feature_mask: Tensor | None,
        residual_ids: Tensor | None,
    ) -> Tensor:
        if input_ids.shape[1] > self.config.max_positions:
            raise ValueError(f"a sequence of {input_ids.shape[1]} tokens is longer than max_positions {self.config.max_positions}")
        tokens = self.token_embedding(input_ids)  # (B, S, D)
        if self.frozen_text is not None:
            tokens = self.frozen_text(tokens, input_ids, token_type_ids, attention_mask)  # (B, S, D)
        if self.config.n_codebooks > 1:
            if residual_ids is None:
                raise ValueError(f"visual tokens of {self.config.n_codebooks} codebooks need residual_ids")
            table, no_token = self.token_embedding.weight, self.config.pad_token_id
            summed = F.embedding_bag(residual_ids.flatten(0, 1), table, mode="sum", padding_idx=no_token)  # (B * S, D)
            tokens = tokens + summed.view_as(tokens)  # (B, S, D)
        if features is not None and self.feature_projection is not None:
            if feature_mask is None:
                raise ValueError("features need a feature_mask")
            is_visual = feature_mask[..., None]  # (B, S, 1)
            if self.config.visual_input == "features":
                tokens = tokens.masked_fill(is_visual, 0.0)  # (B, S, D)
            tokens = tokens + self.feature_projection(features.to(tokens.dtype)).masked_fill(~is_visual, 0.0)  # (B, S, D)
        positions = self.position_embedding.weight[: input_ids.shape[1]]  # (S, D)
        return self.dropout(self.embedding_norm(tokens + positions + self.type_embedding(token_type_ids)))  # (B, S, D)


class ResidualHead(nn.Module):
    """Predicts the tokens of one codebook, against their rows of the embedding table.

    Args:
        config: shape.
        n_tokens: K_m.
    """

    def __init__(self, config: VideoBertConfig, n_tokens: int) -> None:
        super().__init__()
        self.dense = Linear(config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(n_tokens))

    def forward(self, hidden_rows: Tensor, table: Tensor) -> Tensor:
        """Scores float (N, D) against the rows float (K_m, D): float (N, K_m) logits."""
        return linear(self.norm(F.gelu(self.dense(hidden_rows))), table, self.bias)  # (N, K_m)


class CrossLayer(nn.Module):
    """A layer of fusion `cross`: two blocks, one a stream, that read each other.

    Args:
        config: shape.
    """

    def __init__(self, config: VideoBertConfig) -> None:
        super().__init__()
        self.visual = _build_block(config, has_cross_attention=True)
        self.text = _build_block(config, has_cross_attention=True)

    def forward(self, visual: Tensor, text: Tensor, visual_mask: Tensor, text_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Runs both streams through the layer.

        Args:
            visual: float (B, V, D).
            text: float (B, T, D).
            visual_mask: bool (B, V), True on real positions; so is `text_mask`.

        Returns:
            float (B, V, D) and float (B, T, D).
        """
        visual_keys, text_keys = key_mask(visual_mask), key_mask(text_mask)  # (B, 1, 1, V), (B, 1, 1, T)
        visual, text = self.visual.attend(visual, visual_keys), self.text.attend(text, text_keys)  # (B, V, D), (B, T, D)
        seen, said = self.visual.read(visual, text, text_keys), self.text.read(text, visual, visual_keys)  # (B, V, D), (B, T, D)
        return self.visual.feed(seen), self.text.feed(said)  # (B, V, D), (B, T, D)


def _build_block(config: VideoBertConfig, has_cross_attention: bool = False) -> TransformerBlock:
    return TransformerBlock(
        config.hidden_size,
        config.n_heads,
        config.intermediate_size,
        dropout=config.dropout,
        attention_dropout=config.attention_dropout,
        layer_norm_eps=config.layer_norm_eps,
        has_cross_attention=has_cross_attention,
    )


def stream_masks(token_type_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Which positions are the video's stream, and which the stream of all else: bool (B, S) each, False on padding."""
    follows = F.pad(attention_mask[:, 1:], (0, 1))  # (B, S), whether a real token follows
    is_visual = (token_type_ids == 1) & attention_mask & follows  # (B, S), [SEP] is the last real token
    return is_visual, attention_mask & ~is_visual  # (B, S), (B, S)


def _build_frozen_text(config: VideoBertConfig, bert: VideoBertConfig) -> FrozenText:
    return FrozenText(VideoBert(bert), bert.hidden_size, config.hidden_size, boundary_id=config.boundary_token_id, pad_id=bert.pad_token_id)


def _take(hidden: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The chosen positions of each row, in order, padded to the longest (at least one).

    Args:
        hidden: float (B, S, D).
        mask: bool (B, S).

    Returns:
        float (B, L, D) and bool (B, L), True where a position was chosen.
    """
    counts = mask.sum(1)  # (B,)
    length = max(1, int(counts.max()))
    index = mask.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :length]  # (B, L)
    is_real = torch.arange(length, device=mask.device) < counts[:, None]  # (B, L)
    return hidden.gather(1, index[..., None].expand(-1, -1, hidden.shape[2])), is_real  # (B, L, D), (B, L)


_BERT_BLOCK = {
    "self_attention.q": "attention.self.query",
    "self_attention.k": "attention.self.key",
    "self_attention.v": "attention.self.value",
    "self_attention.out": "attention.output.dense",
    "self_norm": "attention.output.LayerNorm",
    "feed_forward.up": "intermediate.dense",
    "feed_forward.down": "output.dense",
    "feed_forward_norm": "output.LayerNorm",
}
_BERT_MODULES = {
    "token_embedding": "bert.embeddings.word_embeddings",
    "position_embedding": "bert.embeddings.position_embeddings",
    "type_embedding": "bert.embeddings.token_type_embeddings",
    "embedding_norm": "bert.embeddings.LayerNorm",
    "pooler": "bert.pooler.dense",
    "masked_dense": "cls.predictions.transform.dense",
    "masked_norm": "cls.predictions.transform.LayerNorm",
    "alignment": "cls.seq_relationship",
}


def check_has_one_stream(model: VideoBert) -> None:
    """Refuses fusion `cross`, which the published architectures do not have.

    Raises:
        VbcliError: the model has two streams.
    """
    if model.config.fusion == "cross":
        raise VbcliError("a model with fusion 'cross' has no equal in transformers", hint="train one with --fusion joint")


def check_has_one_codebook(model: VideoBert) -> None:
    """Refuses several codebooks, whose heads and summed rows the published architectures do not have.

    Raises:
        VbcliError: a clip has several tokens.
    """
    if model.config.n_codebooks > 1:
        raise VbcliError(
            f"a model of visual tokens of {model.config.n_codebooks} codebooks has no equal in transformers",
            hint="train one on the tokens of a vocabulary made with: vbcli build-vocab --codebooks 1",
        )


def check_embeds_text(model: VideoBert) -> None:
    """Refuses text that enters as another BERT's features, which the published architectures do not have.

    Raises:
        VbcliError: the model has a frozen BERT.
    """
    if model.config.text_input == "features":
        raise VbcliError("a model with text input 'features' has no equal in transformers", hint="train one with --text-input tokens")


def to_bert_state(model: VideoBert) -> dict[str, Tensor]:
    """Renames the weights to those of `transformers.BertForPreTraining` with R rows.

    Returns:
        Tensors by name, sharing memory with the model. The map of continuous features has no place in BERT and is left out.

    Raises:
        VbcliError: the model has two streams, several codebooks, or a frozen BERT before it, which BERT has not.
    """
    check_has_one_stream(model)
    check_has_one_codebook(model)
    check_embeds_text(model)
    state = {_bert_name(name): tensor for name, tensor in model.state_dict().items() if _bert_name(name)}
    state["cls.predictions.decoder.weight"] = state["bert.embeddings.word_embeddings.weight"]
    state["cls.predictions.decoder.bias"] = state["cls.predictions.bias"]
    return state


def load_bert_state(model: VideoBert, state: Mapping[str, Tensor], source: str) -> list[str]:
    """Fills the model from the weights of a BERT, in place.

    A checkpoint with the text rows only fills those rows; the special and visual rows stay as they are. A bare `BertModel`
    (no heads, no `bert.` prefix) is read, too, and so are its first `max_positions` positions if it has more. With fusion `cross` it fills
    the text's stream.

    Args:
        model: its rows are R, of which the first `n_text_tokens` are text.
        state: tensors by name, R rows or `n_text_tokens` rows of words.
        source: the file, named in errors.

    Returns:
        Names of the model's tensors that the checkpoint does not have.

    Raises:
        VbcliError: a tensor has a shape that does not fit, or nothing in the checkpoint is BERT's.
    """
    found = {_published_name(name): tensor for name, tensor in state.items()}
    missing = []
    fitting: list[tuple[Tensor, Tensor]] = []
    for name, target in model.state_dict().items():
        tensor = found.get(_bert_name(name))
        if tensor is None:
            missing.append(name)
            continue
        if name == "position_embedding.weight":
            tensor = tensor[: len(target)]
        elif name in ("token_embedding.weight", "masked_bias") and len(tensor) == model.config.n_text_tokens:
            target = target[: len(tensor)]
        if tensor.shape != target.shape:
            raise VbcliError(
                f"{source}: {_bert_name(name)} has shape {tuple(tensor.shape)}, and this model needs {tuple(target.shape)}",
                hint="choose the model preset of the checkpoint's shape",
            )
        fitting.append((target, tensor))
    if not fitting:
        raise VbcliError(f"{source} holds no weights of a BERT")
    with torch.no_grad():
        for target, tensor in fitting:
            target.copy_(tensor)
    return missing


def _bert_name(name: str) -> str:
    """BERT's name of one of our tensors; empty where BERT has none. Of two streams, the text's is BERT."""
    if name == "masked_bias":
        return "cls.predictions.bias"
    module, leaf = name.rsplit(".", 1)
    if module.startswith("blocks."):
        _, index, part = module.split(".", 2)
        part = _BERT_BLOCK.get(part.removeprefix("text."))
        return f"bert.encoder.layer.{index}.{part}.{leaf}" if part else ""
    return f"{_BERT_MODULES[module]}.{leaf}" if module in _BERT_MODULES else ""


def _published_name(name: str) -> str:
    """Today's name of a tensor in a published checkpoint, which may have a bare BertModel's or the first release's."""
    name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
    return name if name.startswith(("bert.", "cls.")) else f"bert.{name}"
