"""Several visual tokens a clip: against a model of one codebook whose rows are the sums, against loops, and what one codebook keeps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vbcli.config import VideoBertConfig, from_dict, to_dict
from vbcli.errors import VbcliError
from vbcli.models.checkpoint import init_visual_rows
from vbcli.models.videobert import VideoBert, load_bert_state, to_bert_state

PAD = 0
CONFIG = VideoBertConfig(
    2, 16, 4, 24, n_text_tokens=20, n_visual_tokens=5, n_residual_tokens=(4, 3), feature_dim=6, max_positions=12, dropout=0.0,
    attention_dropout=0.0,
)  # fmt: skip
FIRST, SECOND, THIRD = 21, 26, 30


def build(config: VideoBertConfig = CONFIG, seed: int = 0) -> VideoBert:
    torch.manual_seed(seed)
    model = VideoBert(config).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.3 * torch.randn_like(value))
    return model


def test_the_id_space_by_hand():
    assert CONFIG.codebook_bounds == (FIRST, SECOND, THIRD, 33)
    assert (CONFIG.n_codebooks, CONFIG.n_tokens, CONFIG.first_visual_id, CONFIG.first_residual_id) == (3, 33, FIRST, SECOND)
    one = replace(CONFIG, n_residual_tokens=())
    assert (one.codebook_bounds, one.n_tokens) == ((FIRST, SECOND), SECOND)


@pytest.mark.parametrize(("visual_input", "fusion"), [("both", "joint"), ("tokens", "cross"), ("features", "joint")])
def test_rows_of_a_clip_are_summed(visual_input, fusion):
    """A model of one codebook, of which every token is a triple of ours and has the sum of its rows, says the same."""
    config = replace(CONFIG, visual_input=visual_input, fusion=fusion)
    ours = build(config)
    one = VideoBert(replace(config, n_visual_tokens=60, n_residual_tokens=())).eval()
    state = {k: v for k, v in ours.state_dict().items() if not k.startswith("residual_heads")}
    table = state["token_embedding.weight"]
    triples = [(i, j, k) for i in range(5) for j in range(4) for k in range(3)]
    sums = torch.stack([table[FIRST + i] + table[SECOND + j] + table[THIRD + k] for i, j, k in triples])
    state["token_embedding.weight"] = torch.cat([table[:FIRST], sums])
    state["masked_bias"] = torch.zeros(FIRST + 60)
    one.load_state_dict(state)

    rng = np.random.default_rng(0)
    chosen = torch.from_numpy(rng.integers(0, 60, (3, 4)))  # (B, V)
    text = torch.from_numpy(rng.integers(1, 20, (3, 4)))
    ids, residual = torch.full((3, 8), PAD), torch.full((3, 8, 2), PAD)
    ids[:, :4], ids[:, 7] = text, 5
    theirs = ids.clone()
    theirs[:, 4:7] = FIRST + chosen[:, :3]
    for b in range(3):
        for v in range(3):
            i, j, k = triples[int(chosen[b, v])]
            ids[b, 4 + v] = FIRST + i
            residual[b, 4 + v] = torch.tensor([SECOND + j, THIRD + k])
    types = (torch.arange(8) >= 4).long().expand(3, 8)
    mask = torch.ones(3, 8, dtype=torch.bool)
    features = torch.from_numpy(rng.normal(size=(3, 8, 6)).astype(np.float32))
    feature_mask = torch.zeros(3, 8, dtype=torch.bool)
    feature_mask[:, 4:6] = True  # the third clip's feature is hidden
    with torch.no_grad():
        expected = one(theirs, types, mask, features, feature_mask)
        found = ours(ids, types, mask, features, feature_mask, residual)
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
        # [PAD] stands for no token, though its row is not zero here.
        assert table[PAD].abs().max() > 0.1
        first_alone = VideoBert(replace(config, n_residual_tokens=())).eval()
        state["token_embedding.weight"], state["masked_bias"] = table[:SECOND], torch.zeros(SECOND)
        first_alone.load_state_dict(state)
        bare = first_alone(ids, types, mask, features, feature_mask)
        torch.testing.assert_close(ours(ids, types, mask, features, feature_mask, torch.full_like(residual, PAD)), bare, rtol=0, atol=1e-6)
        assert (bare - found).abs().max() > 0.01
        with pytest.raises(ValueError, match="of 3 codebooks need residual_ids"):
            ours(ids, types, mask, features, feature_mask)


def test_each_codebook_has_its_head():
    model = build()
    rows = torch.randn(7, 16)
    with torch.no_grad():
        assert model.masked_logits(rows).shape == (7, SECOND)
        second, third = model.residual_logits(rows)
        state = model.state_dict()
        for m, (logits, first, n) in enumerate([(second, SECOND, 4), (third, THIRD, 3)]):
            head = {k.removeprefix(f"residual_heads.{m}."): v for k, v in state.items()}
            for i, row in enumerate(rows):
                turned = F.gelu(head["dense.weight"] @ row + head["dense.bias"])
                normed = (turned - turned.mean()) / (turned.var(correction=0) + 1e-12).sqrt() * head["norm.weight"] + head["norm.bias"]
                for k in range(n):
                    expected = state["token_embedding.weight"][first + k] @ normed + head["bias"][k]
                    assert float(logits[i, k]) == pytest.approx(float(expected), abs=1e-4)
            assert logits.shape == (7, n)


def test_one_codebook_has_no_more_weights_than_before():
    names = set(VideoBert(replace(CONFIG, n_residual_tokens=())).state_dict())
    assert not [n for n in names if "residual" in n]
    assert set(VideoBert(CONFIG).state_dict()) - names == {
        f"residual_heads.{m}.{n}" for m in (0, 1) for n in ("dense.weight", "dense.bias", "norm.weight", "norm.bias", "bias")
    }
    assert VideoBert(replace(CONFIG, n_residual_tokens=())).residual_logits(torch.zeros(2, 16)) == []


def test_configurations_of_one_codebook_are_read_as_ever():
    values = to_dict(replace(CONFIG, n_residual_tokens=()))
    del values["n_residual_tokens"]
    assert from_dict(VideoBertConfig, values, "config.json").codebook_bounds == (FIRST, SECOND)
    assert from_dict(VideoBertConfig, {**values, "n_residual_tokens": [4, 3]}, "config.json") == CONFIG


def test_rows_of_a_clip_sum_to_a_projection_of_what_it_stands_for():
    """Sums of rows keep the distances of sums of centroids, up to one factor."""
    rng = np.random.default_rng(1)
    centroids = [torch.from_numpy(rng.normal(0, 1 / (m + 1), (n, 6)).astype(np.float32)) for m, n in enumerate((5, 4, 3))]
    model = VideoBert(CONFIG)
    init_visual_rows(model, centroids, seed=0)
    parts = model.token_embedding.weight.detach()[FIRST:].split((5, 4, 3))
    clips = [(i, j, k) for i in range(5) for j in range(4) for k in range(3)]
    sums, stands_for = (
        torch.stack([torch.stack([t[k] for t, k in zip(p, clip, strict=True)]).sum(0) for clip in clips]) for p in (parts, centroids)
    )
    ratio = torch.pdist(sums) / torch.pdist(stands_for)
    assert float(ratio.max() / ratio.min()) == pytest.approx(1.0, abs=1e-3)
    spread = sum(float(rows.var()) for rows in parts) ** 0.5
    assert spread == pytest.approx(CONFIG.initializer_range, rel=1e-3)


def test_visual_rows_of_every_codebook_are_frozen():
    model = build()
    model.freeze_visual_rows()
    rows = torch.randn(4, 16)
    torch.cat([model.masked_logits(rows), *model.residual_logits(rows)], 1).square().sum().backward()
    gradient = model.token_embedding.weight.grad
    assert gradient is not None
    assert (gradient[FIRST:] == 0).all()
    assert gradient[1:FIRST].abs().min() > 0


def test_a_bert_fills_all_but_the_residual_heads():
    bert = VideoBert(replace(CONFIG, n_special_tokens=0, n_visual_tokens=0, n_residual_tokens=()))
    model = build()
    missing = load_bert_state(model, to_bert_state(bert), "a BERT")
    assert {name.split(".")[0] for name in missing} == {"residual_heads", "feature_projection"}
    assert torch.equal(model.token_embedding.weight[:20], bert.token_embedding.weight)
    with pytest.raises(VbcliError, match="3 codebooks has no equal in transformers"):
        to_bert_state(model)
