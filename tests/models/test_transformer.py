"""The transformer block against hand calculation and `torch.nn.MultiheadAttention`."""

from __future__ import annotations

import math

import hypothesis
import pytest
import torch
from hypothesis import strategies as st

from vbcli.models.transformer import (
    FeedForward,
    LayerCache,
    MultiHeadAttention,
    TransformerBlock,
    causal_mask,
    init_weights,
    key_mask,
    shrink_and_perturb,
)

B, T, S, D, H = 3, 4, 5, 12, 3


def attention_pair() -> tuple[MultiHeadAttention, torch.nn.MultiheadAttention]:
    torch.manual_seed(0)
    ours = MultiHeadAttention(D, H, dropout=0.0).eval()
    theirs = torch.nn.MultiheadAttention(D, H, batch_first=True).eval()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.q.weight, ours.k.weight, ours.v.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.q.bias, ours.k.bias, ours.v.bias]))
        theirs.out_proj.load_state_dict(ours.out.state_dict())
    return ours, theirs


@hypothesis.settings(max_examples=20, deadline=None)
@hypothesis.given(st.lists(st.integers(1, S), min_size=B, max_size=B), st.integers(0, 99))
def test_cross_attention_equals_torch(lengths: list[int], seed: int) -> None:
    ours, theirs = attention_pair()
    torch.manual_seed(seed)
    query, source = torch.randn(B, T, D), torch.randn(B, S, D)
    mask = torch.arange(S) < torch.tensor(lengths)[:, None]
    expected = theirs(query, source, source, key_padding_mask=~mask, need_weights=False)[0]
    torch.testing.assert_close(ours(query, *ours.keys_values(source), key_mask(mask)), expected, rtol=1e-5, atol=1e-6)


def test_causal_self_attention_equals_torch() -> None:
    ours, theirs = attention_pair()
    x = torch.randn(B, T, D)
    expected = theirs(x, x, x, attn_mask=torch.full((T, T), -torch.inf).triu(1), need_weights=False)[0]
    torch.testing.assert_close(ours(x, *ours.keys_values(x), causal_mask(T, x.device)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("is_training", [False, True])
def test_a_query_without_keys_gives_zero_and_zero_gradients(is_training: bool) -> None:
    torch.manual_seed(1)
    attention = MultiHeadAttention(D, H, dropout=0.5).train(is_training)
    query, source = torch.randn(2, T, D, requires_grad=True), torch.randn(2, S, D, requires_grad=True)
    mask = torch.tensor([[False] * S, [True] * S])
    result = attention(query, *attention.keys_values(source), key_mask(mask))
    assert torch.equal(result[0], torch.zeros(T, D))
    assert result[1].abs().min() > 0
    result.sum().backward()
    for tensor in (query, source):
        assert tensor.grad is not None
        assert torch.equal(tensor.grad[0], torch.zeros_like(tensor.grad[0]))
        assert tensor.grad[1].isfinite().all()
        assert tensor.grad[1].abs().max() > 0


def test_an_empty_memory_gives_zero() -> None:
    attention = MultiHeadAttention(D, H, dropout=0.0)
    memory, mask = torch.zeros(B, 0, D), torch.zeros(B, 0, dtype=torch.bool)
    assert torch.equal(attention(torch.randn(B, T, D), *attention.keys_values(memory), key_mask(mask)), torch.zeros(B, T, D))


def test_feed_forward_is_the_exact_gelu() -> None:
    torch.manual_seed(2)
    layer = FeedForward(D, 7)
    x = torch.randn(D)
    up = layer.up(x).tolist()
    inner = torch.tensor([v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in up])
    torch.testing.assert_close(layer(x), layer.down.weight @ inner + layer.down.bias, rtol=1e-6, atol=1e-6)


def decoder_block(dropout: float = 0.0) -> TransformerBlock:
    torch.manual_seed(3)
    return TransformerBlock(
        D, H, 20, dropout=dropout, attention_dropout=0.0, layer_norm_eps=1e-5, has_cross_attention=True
    )  # fmt: skip


def test_block_equals_torch_decoder_layer() -> None:
    block = decoder_block().eval()
    theirs = torch.nn.TransformerDecoderLayer(D, H, 20, dropout=0.0, activation="gelu", batch_first=True).eval()
    with torch.no_grad():
        for ours, layer in ((block.self_attention, theirs.self_attn), (block.cross_attention, theirs.multihead_attn)):
            layer.in_proj_weight.copy_(torch.cat([ours.q.weight, ours.k.weight, ours.v.weight]))
            layer.in_proj_bias.copy_(torch.cat([ours.q.bias, ours.k.bias, ours.v.bias]))
            layer.out_proj.load_state_dict(ours.out.state_dict())
        for ours, layer in ((block.self_norm, theirs.norm1), (block.cross_norm, theirs.norm2), (block.feed_forward_norm, theirs.norm3)):
            torch.nn.init.normal_(ours.weight)
            torch.nn.init.normal_(ours.bias)
            layer.load_state_dict(ours.state_dict())
        theirs.linear1.load_state_dict(block.feed_forward.up.state_dict())
        theirs.linear2.load_state_dict(block.feed_forward.down.state_dict())
    hidden, memory = torch.randn(B, T, D), torch.randn(B, S, D)
    mask = torch.arange(S) < torch.tensor([[5], [2], [1]])
    expected = theirs(hidden, memory, tgt_mask=torch.full((T, T), -torch.inf).triu(1), memory_key_padding_mask=~mask)
    result = block(hidden, causal_mask(T, hidden.device), memory, key_mask(mask))
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


def test_steps_equal_the_whole_sequence() -> None:
    n_beams = 2
    block = decoder_block().eval()
    hidden, memory = torch.randn(B * n_beams, T, D), torch.randn(B, S, D)
    mask = torch.arange(S) < torch.tensor([[5], [2], [1]])
    expected = block(
        hidden, causal_mask(T, hidden.device), memory.repeat_interleave(n_beams, 0), key_mask(mask.repeat_interleave(n_beams, 0))
    )
    memory_keys, memory_values = block.cross_attention.keys_values(memory)
    keys, values = torch.full((B, H, D // H, n_beams * T), torch.nan), torch.full((B, H, n_beams * T, D // H), torch.nan)
    of_beam = torch.arange(n_beams * T) % n_beams == torch.arange(n_beams)[:, None]  # (N, N * T), each beam reads its own tokens
    with torch.no_grad():
        for position in range(T):
            n = n_beams * (position + 1)
            own = torch.zeros(n_beams, n).masked_fill(~of_beam[:, :n], -torch.inf).expand(B, 1, -1, -1)
            memory_bias = torch.zeros(B, 1, 1, S).masked_fill(~key_mask(mask), -torch.inf)
            cache = LayerCache(keys[..., :n], values[:, :, :n], own, memory_keys.transpose(-1, -2), memory_values, memory_bias)
            step = block.step(hidden[:, position].view(B, n_beams, D), cache)
            torch.testing.assert_close(step.flatten(0, 1), expected[:, position], rtol=1e-5, atol=1e-6)


def test_dropout_acts_in_training_only() -> None:
    block = decoder_block(dropout=0.5)
    hidden, memory = torch.randn(B, T, D), torch.randn(B, S, D)
    assert not torch.equal(block(hidden, None, memory), block(hidden, None, memory))
    block.eval()
    assert torch.equal(block(hidden, None, memory), block(hidden, None, memory))


def test_attention_dropout_zeroes_weights_and_scales_the_rest() -> None:
    attention = MultiHeadAttention(1, 1, dropout=0.5)
    with torch.no_grad():
        for layer in (attention.q, attention.k, attention.v, attention.out):
            layer.weight.fill_(1.0)
            layer.bias.zero_()
    torch.manual_seed(0)
    # One key of value 1: its weight is 1, so each result is 0 (dropped) or 1 / (1 - 0.5).
    keys, values = attention.keys_values(torch.ones(4000, 1, 1))
    result = attention(torch.ones(4000, 1, 1), keys, values)
    assert set(result.flatten().tolist()) == {0.0, 2.0}
    assert result.mean().item() == pytest.approx(1.0, abs=0.1)


def test_initial_weights() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Embedding(500, 80, padding_idx=3), torch.nn.Linear(80, 300), torch.nn.LayerNorm(300))
    init_weights(model, 0.02)
    embedding, linear, norm = (dict(layer.named_parameters()) for layer in model)
    assert torch.equal(embedding["weight"][3], torch.zeros(80))
    for weight in (embedding["weight"], linear["weight"]):
        assert weight.std().item() == pytest.approx(0.02, rel=0.03)
        assert abs(weight.mean().item()) < 5e-4
    assert torch.equal(linear["bias"], torch.zeros(300))
    assert torch.equal(norm["weight"], torch.ones(300))


def test_shrunk_weights_keep_their_share_and_get_noise_of_the_stated_size() -> None:
    block = TransformerBlock(64, 2, 128, dropout=0.0, attention_dropout=0.0, layer_norm_eps=1e-12)
    torch.manual_seed(0)
    with torch.no_grad():
        for value in block.parameters():
            value.normal_(0.5, 1)
    before = {k: v.detach().clone() for k, v in block.state_dict().items()}
    shrink_and_perturb(block, 1.0, 0.0, torch.Generator())
    assert all(torch.equal(v, before[k]) for k, v in block.state_dict().items())
    shrink_and_perturb(block, 0.25, 0.1, torch.Generator().manual_seed(1))
    after = block.state_dict()
    assert torch.allclose(after["self_norm.weight"], 1 + 0.25 * (before["self_norm.weight"] - 1))
    assert torch.allclose(after["self_norm.bias"], 0.25 * before["self_norm.bias"])
    assert torch.allclose(after["feed_forward.up.bias"], 0.25 * before["feed_forward.up.bias"])
    noise = after["feed_forward.up.weight"] - 0.25 * before["feed_forward.up.weight"]
    assert float(noise.std()) == pytest.approx(0.1, rel=0.03)  # 8,192 draws
    assert abs(float(noise.mean())) < 0.004
