"""Dropout by row: its rate, its independence, and what it must not depend on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vbcli.models.dropout import RowDropout, keep_mask, key_dropout
from vbcli.models.transformer import RealTokens, TransformerBlock


def keys(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**64, n, dtype=np.uint64)


def keyed(p: float, row_keys: np.ndarray) -> RowDropout:
    layer = RowDropout(p).train()
    holder = torch.nn.Sequential(torch.nn.Linear(1, 1), layer)
    key_dropout(holder, row_keys)
    return layer


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(200, 50, 10), (50, 4, 25, 20), (100, 1000)])
def test_the_rate_is_that_which_was_asked_for(p, shape):
    dropped = keyed(p, keys(shape[0]))(torch.ones(shape))
    share = float((dropped == 0).float().mean())
    assert abs(share - p) < 3 * (p * (1 - p) / dropped.numel()) ** 0.5
    assert torch.allclose(dropped[dropped != 0], torch.tensor(1 / (1 - p)))


def test_elements_rows_and_places_are_independent():
    """Correlations of 100,000 pairs have a standard deviation of 0.003; the largest of 30 is held below four of them."""
    holder = torch.nn.Sequential(torch.nn.Linear(1, 1), RowDropout(0.5), RowDropout(0.5)).train()
    key_dropout(holder, keys(400))
    drawn = [part.keys for part in holder if isinstance(part, RowDropout) and part.keys is not None]
    one, other = (2 * keep_mask(of_layer, torch.Size((400, 25, 10)), 0.5).float() - 1 for of_layer in drawn)
    pairs = [(one, other), (one[1:], one[:-1]), (one[2:], one[:-2])]
    pairs += [(one[:, lag:], one[:, :-lag]) for lag in range(1, 10)]
    pairs += [(one[:, :, lag:], one[:, :, :-lag]) for lag in range(1, 9)]
    pairs += [(one[:, lag:, lag:], one[:, :-lag, :-lag]) for lag in range(1, 9)]
    for a, b in pairs:
        assert abs(float((a * b).mean())) < 4 / a.numel() ** 0.5
    for mean in (one.mean(0), one.mean((1, 2))):
        n = one.numel() / mean.numel()
        assert float((mean**2).mean()) * n == pytest.approx(1, abs=0.35)


def test_neighbours_and_padding_change_nothing():
    x = torch.randn(6, 9, 8)
    all_keys = keys(6)
    together = keyed(0.3, all_keys)(x)
    for row in range(6):
        assert torch.equal(keyed(0.3, all_keys[row : row + 1])(x[row : row + 1]), together[row : row + 1])
    assert torch.equal(keyed(0.3, all_keys)(x[:, :5]), together[:, :5])


def test_a_block_drops_alike_whatever_its_row_is_batched_with():
    """Attention weights, too: padding makes more of them."""
    torch.manual_seed(0)
    block = TransformerBlock(8, 2, 16, dropout=0.3, attention_dropout=0.3, layer_norm_eps=1e-5).train()
    x = torch.randn(3, 7, 8)
    mask = (torch.arange(7) < torch.tensor([7, 4, 5])[:, None])[:, None, None]
    key_dropout(block, keys(3))
    together = block(x, mask)
    key_dropout(block, keys(3)[1:2])
    torch.testing.assert_close(block(x[1:2, :4], None), together[1:2, :4])
    key_dropout(block, keys(3, seed=1))
    assert not torch.allclose(block(x, mask), together)


def test_without_keys_it_is_torch_s_and_in_evaluation_nothing():
    layer = RowDropout(0.4).train()
    x = torch.randn(5, 6)
    torch.manual_seed(3)
    ours = layer(x)
    torch.manual_seed(3)
    assert torch.equal(ours, torch.nn.functional.dropout(x, 0.4))
    assert torch.equal(layer.eval()(x), x)
    assert torch.equal(keyed(0.4, keys(5)).eval()(x), x)


@pytest.mark.parametrize("attention_dropout", [0.0, 0.3])
def test_real_tokens_alone_are_what_they_are_among_padding(attention_dropout):
    """The same is dropped, and weights get the same gradients."""
    torch.manual_seed(0)
    block = TransformerBlock(8, 2, 16, dropout=0.3, attention_dropout=attention_dropout, layer_norm_eps=1e-5).train().double()
    x = torch.randn(4, 7, 8, dtype=torch.float64)
    mask = torch.arange(7) < torch.tensor([7, 4, 1, 5])[:, None]
    weights = torch.randn(int(mask.sum()), 8, dtype=torch.float64)
    gradients = []
    for is_padded in (True, False):
        key_dropout(block, keys(4))
        block.zero_grad()
        inputs = x.clone().requires_grad_()
        real = RealTokens.of(mask)
        found = block(inputs, mask[:, None, None])[mask] if is_padded else block.encode(real.take(inputs), real)
        (found * weights).sum().backward()
        gradients.append([found, inputs.grad, *(p.grad for p in block.parameters())])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    assert torch.equal(real.put_back(real.take(x)), x * mask[..., None])
