"""Fusion `cross` against the equations written out with loops, one row and one position at a time."""

from __future__ import annotations

import math

import hypothesis
import pytest
import torch
from hypothesis import strategies as st

from vbcli.config import VideoBertConfig
from vbcli.errors import VbcliError
from vbcli.models.videobert import VideoBert, to_bert_state

D, H = 8, 2
CONFIG = VideoBertConfig(2, D, H, 12, n_text_tokens=20, n_visual_tokens=9, feature_dim=3, fusion="cross", max_positions=16)


def model(dtype=torch.float64) -> VideoBert:
    torch.manual_seed(0)
    made = VideoBert(CONFIG).eval().to(dtype)
    with torch.no_grad():
        for value in made.parameters():
            value.add_(0.3 * torch.randn_like(value))
    return made


def norm(x: torch.Tensor, layer: torch.nn.LayerNorm) -> torch.Tensor:
    centred = x - x.mean()
    return centred / torch.sqrt((centred**2).mean() + layer.eps) * layer.weight + layer.bias


def multi_head(attention, query: torch.Tensor, sources: list[torch.Tensor]) -> torch.Tensor:
    """One query vector (D,) reads a list of vectors; nothing to read gives zero."""
    if not sources:
        return torch.zeros_like(query)
    q, width = attention.q(query), D // H
    heads = []
    for h in range(H):
        part = slice(h * width, (h + 1) * width)
        scores = [float(q[part] @ attention.k(s)[part]) / math.sqrt(width) for s in sources]
        total = sum(math.exp(s - max(scores)) for s in scores)
        heads.append(sum(math.exp(s - max(scores)) / total * attention.v(x)[part] for s, x in zip(scores, sources, strict=True)))
    return attention.out(torch.cat(heads))


def feed(block, x: torch.Tensor) -> torch.Tensor:
    up = block.feed_forward.up(x)
    gelu = torch.stack([u * 0.5 * (1 + math.erf(float(u) / math.sqrt(2))) for u in up])
    return norm(x + block.feed_forward.down(gelu), block.feed_forward_norm)


def loop_layer(layer, visual: list[torch.Tensor], text: list[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    v = [norm(x + multi_head(layer.visual.self_attention, x, visual), layer.visual.self_norm) for x in visual]
    t = [norm(x + multi_head(layer.text.self_attention, x, text), layer.text.self_norm) for x in text]
    seen = [norm(x + multi_head(layer.visual.cross_attention, x, t), layer.visual.cross_norm) for x in v]
    said = [norm(x + multi_head(layer.text.cross_attention, x, v), layer.text.cross_norm) for x in t]
    return [feed(layer.visual, x) for x in seen], [feed(layer.text, x) for x in said]


def batch(lengths: list[tuple[int, int]], seed: int) -> dict[str, torch.Tensor]:
    """Rows of (text, video) lengths, packed as `[CLS] text [>] video [SEP]`, padded."""
    torch.manual_seed(seed)
    width = max(t + v for t, v in lengths) + 3
    ids, types = torch.zeros(len(lengths), width, dtype=torch.long), torch.zeros(len(lengths), width, dtype=torch.long)
    mask, shown = torch.zeros(len(lengths), width, dtype=torch.bool), torch.zeros(len(lengths), width, dtype=torch.bool)
    for row, (t, v) in enumerate(lengths):
        n = t + v + 3
        ids[row, :n] = torch.randint(1, CONFIG.n_tokens, (n,))
        types[row, t + 2 : n] = 1
        mask[row, :n] = True
        shown[row, t + 2 : t + 2 + v] = torch.rand(v) < 0.7
    features = torch.randn(len(lengths), width, CONFIG.feature_dim, dtype=torch.float64)
    return {"input_ids": ids, "token_type_ids": types, "attention_mask": mask, "features": features, "feature_mask": shown}


pairs = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=4)


@hypothesis.given(pairs, st.integers(0, 1000))
@hypothesis.settings(max_examples=25)
def test_equals_the_equations(lengths: list[tuple[int, int]], seed: int) -> None:
    made, inputs = model(), batch(lengths, seed)
    with torch.no_grad():
        result = made(**inputs)
        ids, types, mask = inputs["input_ids"], inputs["token_type_ids"], inputs["attention_mask"]
        embedded = made._embed(ids, types, mask, inputs["features"], inputs["feature_mask"], None)
        for row, (t, v) in enumerate(lengths):
            is_visual = [t + 2 <= i < t + 2 + v for i in range(t + v + 3)]
            visual = [x for x, seen in zip(embedded[row], is_visual, strict=False) if seen]
            text = [x for x, seen in zip(embedded[row], is_visual, strict=False) if not seen]
            for layer in made.blocks:
                visual, text = loop_layer(layer, visual, text)
            streams = {True: iter(visual), False: iter(text)}
            for i, seen in enumerate(is_visual):
                assert torch.allclose(result[row, i], next(streams[seen]), atol=1e-10), (row, i)


def test_an_empty_stream_leaves_the_other_as_it_is() -> None:
    """Without video the text is what it is with the visual weights replaced by anything, and gradients are finite."""
    made, other, inputs = model(), model(), batch([(3, 0), (2, 0)], 1)
    with torch.no_grad():
        for layer in other.blocks:
            for name, value in layer.named_parameters():
                if name.startswith("visual.") or ("cross_attention" in name):
                    value.normal_(std=9)
    real = inputs["attention_mask"]
    result = made(**inputs)
    assert torch.equal(result[real], other(**inputs)[real])
    result[real].sum().backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in made.parameters())


def test_padding_changes_nothing() -> None:
    made = model()
    inputs = batch([(3, 2), (1, 4), (4, 4)], 2)
    with torch.no_grad():
        together = made(**inputs)
        for row, (t, v) in enumerate([(3, 2), (1, 4), (4, 4)]):
            alone = made(**{k: x[row : row + 1, : t + v + 3] for k, x in inputs.items()})
            assert torch.allclose(alone[0], together[row, : t + v + 3], atol=1e-12)


def test_it_is_not_exported_as_a_bert() -> None:
    with pytest.raises(VbcliError, match="fusion 'cross' has no equal"):
        to_bert_state(model())
