"""The one transformer block that VideoBERT, the BART encoder and the BART decoder are built from.

Notation, with shapes at line ends:

    B  batch (videos)        D  width
    T  query length          H  heads
    S  key length            E  width of a head, D / H
    N  beams of a video      P  decoded tokens in a cache, of all beams of a video
    R  real tokens of a batch

Masks are bool, True where a key may be read, and broadcast to (B, H, T, S).
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vbcli.models.dropout import RowDropout
from vbcli.models.linear import Linear


@dataclasses.dataclass(frozen=True)
class RealTokens:
    """Where the real tokens of padded sequences are: what looks at one position alone need not compute the others.

    Args:
        mask: bool (B, S), True on real tokens.
        rows: int64 (R,), the sequence of each real token.
        places: int64 (R,), its place in it.
    """

    mask: Tensor
    rows: Tensor
    places: Tensor

    @classmethod
    def of(cls, mask: Tensor) -> RealTokens:
        """Those of bool (B, S)."""
        rows, places = mask.nonzero(as_tuple=True)  # (R,), (R,)
        return cls(mask, rows, places)

    def take(self, x: Tensor) -> Tensor:
        """The real tokens one after the other: float (B, S, D) to float (R, D)."""
        return x.flatten(0, 1).index_select(0, self.rows * self.mask.shape[1] + self.places)  # (R, D)

    def put_back(self, x: Tensor) -> Tensor:
        """Each in its place, and zeros in the others: float (R, D) to float (B, S, D)."""
        padded = x.new_zeros(self.mask.numel(), x.shape[-1])  # (B * S, D)
        padded = padded.index_copy(0, self.rows * self.mask.shape[1] + self.places, x)  # (B * S, D)
        return padded.view(*self.mask.shape, -1)  # (B, S, D)


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention with H heads: self-attention, cross-attention, or attention to a cache.

    The caller projects keys and values once with `keys_values` and may keep them.

    Args:
        width: D.
        n_heads: H, a divisor of D.
        dropout: probability of dropping an attention weight in training, in [0, 1).

    Source: Vaswani et al. 2017, section 3.2.2.
    """

    def __init__(self, width: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.dropout = RowDropout(dropout)
        self.q = Linear(width, width)
        self.k = Linear(width, width)
        self.v = Linear(width, width)
        self.out = Linear(width, width)

    def keys_values(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """Projects what is attended to.

        Args:
            source: float (B, S, D).

        Returns:
            Keys and values, float (B, H, S, E) each.
        """
        return self._split(self.k(source)), self._split(self.v(source))  # (B, H, S, E) each

    def forward(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attends from each query position to the keys.

        Args:
            query: float (B, T, D), not yet projected.
            keys: float (B, H, S, E) of `keys_values`.
            values: float (B, H, S, E) of `keys_values`.
            mask: bool (B or 1, 1, T or 1, S), True where a key may be read; None means everywhere.

        Returns:
            float (B, T, D); exactly zero where a query may read no key at all.
        """
        q = self._split(self.q(query))  # (B, H, T, E)
        if mask is None:
            return self.out(self._merge(self._attend(q, keys, values, None)))  # (B, T, D)
        is_blind = ~mask.any(-1, keepdim=True)  # (B or 1, 1, T or 1, 1)
        # A softmax over no key is 0/0: blind rows read everything, and their result and gradient are then cut off.
        attended = self._attend(q, keys, values, mask | is_blind)  # (B, H, T, E)
        return self.out(self._merge(attended)).masked_fill(is_blind[:, 0], 0.0)  # (B, T, D)

    def read(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """Attention between what is projected already, before the last map.

        Args:
            query: float (B, S, D), as are `key` and `value`.
            mask: bool (B, 1, 1, S), with a key to read for each query that matters.

        Returns:
            float (B, S, D).
        """
        return self._merge(self._attend(self._split(query), self._split(key), self._split(value), mask))  # (B, S, D)

    def look(self, query: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        """Attends from a few positions of each sequence, without gradients: plain products are faster then than torch's fused function.

        Args:
            query: float (B, N, D), not yet projected.
            keys: float (B, H, E, S), those of `keys_values` transposed: as many beams of many lengths need them.
            values: float (B, H, S, E) of `keys_values`.
            bias: float32 (B, 1, N or 1, S), added to the scores: minus infinity where a key may not be read.

        Returns:
            float (B, N, D).
        """
        q = self._split(self.q(query) * (query.shape[-1] // self.n_heads) ** -0.5)  # (B, H, N, E)
        scores = (q @ keys).float() + bias  # (B, H, N, S)
        return self.out(self._merge(scores.softmax(-1).to(values.dtype) @ values))  # (B, N, D)

    def _attend(self, q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        if not (self.training and self.dropout.p):
            return F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)  # (B, H, T, E)
        # Torch's function cannot be told which weights to drop.
        scores = (q * q.shape[-1] ** -0.5) @ keys.transpose(-1, -2)  # (B, H, T, S)
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))  # (B, H, T, S)
        return self.dropout(scores.softmax(-1)) @ values  # (B, H, T, E)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)  # (B, S, D) -> (B, H, S, E)

    def _merge(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).flatten(2)  # (B, H, T, E) -> (B, T, D)


class FeedForward(nn.Module):
    """Two linear maps with an exact (erf) GELU between them.

    Args:
        width: D.
        intermediate: width between the two maps.
    """

    def __init__(self, width: int, intermediate: int) -> None:
        super().__init__()
        self.up = Linear(width, intermediate)
        self.down = Linear(intermediate, width)

    def forward(self, hidden: Tensor) -> Tensor:
        """Maps float (..., D) to float (..., D), each position by itself."""
        return self.down(F.gelu(self.up(hidden)))  # (..., D)


@dataclasses.dataclass
class LayerCache:
    """What one decoder block remembers between two steps.

    Attributes:
        keys: float (B, H, E, P), of the decoded tokens of all beams, the N newest last: a step fills these in.
        values: float (B, H, P, E), likewise.
        bias: float32 (B, 1, N, P), 0 where a beam may read a token (its own past), else minus infinity.
        memory_keys: float (B, H, E, S).
        memory_values: float (B, H, S, E).
        memory_bias: float32 (B, 1, 1, S), 0 on real tokens, else minus infinity.
    """

    keys: Tensor
    values: Tensor
    bias: Tensor
    memory_keys: Tensor
    memory_values: Tensor
    memory_bias: Tensor


class TransformerBlock(nn.Module):
    """Self-attention, optionally cross-attention, and feed-forward, each with residual and then layer norm.

    Args:
        width: D.
        n_heads: H.
        intermediate: width inside the feed-forward sublayer.
        dropout: probability on each sublayer's output.
        attention_dropout: probability on attention weights.
        layer_norm_eps: BERT has 1e-12, BART 1e-5.
        has_cross_attention: whether the block reads a memory.

    Source: Devlin et al. 2019 (BERT); Lewis et al. 2019, section 2.1 (BART).
    """

    def __init__(
        self,
        width: int,
        n_heads: int,
        intermediate: int,
        *,
        dropout: float,
        attention_dropout: float,
        layer_norm_eps: float,
        has_cross_attention: bool = False,
    ) -> None:
        super().__init__()
        self.self_attention = MultiHeadAttention(width, n_heads, attention_dropout)
        self.self_norm = nn.LayerNorm(width, eps=layer_norm_eps)
        if has_cross_attention:
            self.cross_attention = MultiHeadAttention(width, n_heads, attention_dropout)
            self.cross_norm = nn.LayerNorm(width, eps=layer_norm_eps)
        self.feed_forward = FeedForward(width, intermediate)
        self.feed_forward_norm = nn.LayerNorm(width, eps=layer_norm_eps)
        # One for each sublayer: each has its own stream of random numbers.
        self.self_dropout, self.cross_dropout, self.feed_dropout = RowDropout(dropout), RowDropout(dropout), RowDropout(dropout)

    def encode(self, hidden: Tensor, real: RealTokens) -> Tensor:
        """Runs a block without cross-attention over the real tokens of padded sequences, each of which reads those of its sequence.

        Args:
            hidden: float (R, D).

        Returns:
            float (R, D): what `forward` gives at their places.
        """
        attention, taken = self.self_attention, (real.rows, real.places)
        query, key, value = (real.put_back(project(hidden)) for project in (attention.q, attention.k, attention.v))  # (B, S, D) each
        attended = attention.out(real.take(attention.read(query, key, value, key_mask(real.mask))))  # (R, D)
        return self.feed(self.self_norm(hidden + self.self_dropout(attended, taken)), taken)  # (R, D)

    def forward(self, hidden: Tensor, mask: Tensor | None, memory: Tensor | None = None, memory_mask: Tensor | None = None) -> Tensor:
        """Runs the block over whole sequences.

        Args:
            hidden: float (B, T, D).
            mask: bool, broadcast to (B, 1, T, T), for self-attention.
            memory: float (B, S, D); given exactly when the block has cross-attention.
            memory_mask: bool, broadcast to (B, 1, T, S).

        Returns:
            float (B, T, D).
        """
        hidden = self.attend(hidden, mask)  # (B, T, D)
        if memory is not None:
            hidden = self.read(hidden, memory, memory_mask)  # (B, T, D)
        return self.feed(hidden)  # (B, T, D)

    def attend(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """The self-attention sublayer: float (B, T, D) to float (B, T, D)."""
        keys, values = self.self_attention.keys_values(hidden)  # (B, H, T, E)
        return self.self_norm(hidden + self.self_dropout(self.self_attention(hidden, keys, values, mask)))  # (B, T, D)

    def read(self, hidden: Tensor, memory: Tensor, memory_mask: Tensor | None) -> Tensor:
        """The cross-attention sublayer: float (B, T, D), reading memory float (B, S, D), to float (B, T, D).

        Where the mask leaves nothing to read, only the residual and its norm are left.
        """
        keys, values = self.cross_attention.keys_values(memory)  # (B, H, S, E)
        return self.cross_norm(hidden + self.cross_dropout(self.cross_attention(hidden, keys, values, memory_mask)))  # (B, T, D)

    def step(self, hidden: Tensor, cache: LayerCache) -> Tensor:
        """Runs the block over one new position of each beam, and puts its keys and values into the cache.

        Args:
            hidden: float (B, N, D).
            cache: of this block.

        Returns:
            float (B, N, D).
        """
        keys, values = self.self_attention.keys_values(hidden)  # (B, H, N, E) each
        cache.keys[..., -hidden.shape[1] :] = keys.transpose(-1, -2)
        cache.values[:, :, -hidden.shape[1] :] = values
        # The beams of a video are the query positions of one sequence here: none has a past, or a memory, of its own to be moved.
        hidden = self.self_norm(hidden + self.self_attention.look(hidden, cache.keys, cache.values, cache.bias))  # (B, N, D)
        read = self.cross_attention.look(hidden, cache.memory_keys, cache.memory_values, cache.memory_bias)  # (B, N, D)
        return self.feed(self.cross_norm(hidden + read))  # (B, N, D)

    def feed(self, hidden: Tensor, taken: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """The feed-forward sublayer: float (..., D) to float (..., D); `taken` as `RowDropout.forward` has it."""
        return self.feed_forward_norm(hidden + self.feed_dropout(self.feed_forward(hidden), taken))  # (..., D)


def key_mask(attention_mask: Tensor) -> Tensor:
    """Mask that lets every query read the real tokens: bool (B, S) to bool (B, 1, 1, S)."""
    return attention_mask[:, None, None, :]  # (B, 1, 1, S)


def causal_mask(length: int, device: torch.device) -> Tensor:
    """Mask that lets position t read positions 0 to t.

    Returns:
        bool (1, 1, length, length).
    """
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()[None, None]  # (1, 1, T, T)


def init_weights(model: nn.Module, std: float) -> None:
    """Draws every linear and embedding weight from normal(0, std); biases and padding rows become zero.

    Layer norms keep weight 1 and bias 0.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=std)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=std)
            if module.padding_idx is not None:
                nn.init.zeros_(module.weight[module.padding_idx])


@torch.no_grad()
def shrink_and_perturb(module: nn.Module, keep: float, std: float, generator: torch.Generator) -> None:
    """Brings trained weights nearer to a fresh start, in place: w becomes keep * w + normal(0, std); norms go back towards 1.

    A network that begins where another task ended keeps what it learned there, and generalises worse than a fresh one; shrunk, it keeps
    the directions and learns as a fresh one does.

    Args:
        keep: in [0, 1]; 1 with std 0 changes nothing.

    Source: Ash and Adams 2020, "On warm-starting neural network training", section 4.
    """
    for part in module.modules():
        is_norm = isinstance(part, nn.LayerNorm)
        for name, value in part.named_parameters(recurse=False):
            centre = 1.0 if is_norm and name == "weight" else 0.0
            value.mul_(keep).add_(centre * (1 - keep))
            if value.ndim > 1:
                value.add_(torch.randn(value.shape, generator=generator).to(value) * std)
