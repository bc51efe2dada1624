"""Heads against sums written out, reference libraries, finite differences, and what must not change a thing."""

from __future__ import annotations

import math
from typing import TypeVar

import hypothesis
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor

from vbcli.config import VideoBertConfig
from vbcli.models.dropout import key_dropout
from vbcli.models.heads import IGNORED, AnswerHead, ClassificationHead, ContrastiveHead, balanced_class_weights, balanced_positive_weights
from vbcli.models.videobert import VideoBert

D, P = 6, 4
seeds = st.integers(0, 10_000)


HeadT = TypeVar("HeadT", bound=torch.nn.Module)


def made(head: HeadT, seed: int = 0) -> HeadT:
    """In float64 and far from the start, where biases are zero and scores nearly alike."""
    torch.manual_seed(seed)
    head = head.double().eval()
    with torch.no_grad():
        for value in head.parameters():
            if value.ndim:
                value.normal_(std=0.7)
    return head


def answer_head(seed: int = 0) -> AnswerHead:
    return made(AnswerHead(D), seed)


def contrastive_head(seed: int = 0) -> ContrastiveHead:
    return made(ContrastiveHead(D, D + 1, P), seed)


def linear(layer: torch.nn.Linear, vector: Tensor) -> list[float]:
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    return [float(row @ vector.numpy() + b) for row, b in zip(weight, bias, strict=True)]


def units(n: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(n, P, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)), dim=-1)


# ---------------------------------------------------------------- classification


def test_one_class_a_row_with_weights() -> None:
    weights = torch.tensor([0.5, 2.0, 1.25], dtype=torch.float64)
    head = made(ClassificationHead(D, 3, class_weights=weights))
    pooled, labels = torch.randn(5, D, dtype=torch.float64), torch.tensor([2, 0, IGNORED, 1, 2])
    total = 0.0
    for row, label in zip(pooled, labels.tolist(), strict=True):
        scores = linear(head.output, row)
        if label != IGNORED:
            total -= float(weights[label]) * math.log(math.exp(scores[label]) / sum(map(math.exp, scores)))
    logits = head(pooled)
    assert head.loss(logits, labels).item() == pytest.approx(total, rel=1e-12)
    assert head.n_predictions(labels) == 4
    assert torch.allclose(head.probabilities(logits), logits.exp() / logits.exp().sum(1, keepdim=True))
    assert list(head.state_dict()) == ["output.weight", "output.bias"]


def test_any_number_of_classes_a_row() -> None:
    head = made(ClassificationHead(D, 4, is_multi_label=True))
    logits = head(torch.randn(3, D, dtype=torch.float64))
    labels = torch.tensor([[1, 0, 1, 1], [0, 0, 0, IGNORED], [IGNORED] * 4])
    p = 1 / (1 + np.exp(-logits.detach().numpy()))
    known = [(b, c) for b in range(3) for c in range(4) if labels[b, c] != IGNORED]
    expected = -sum(math.log(p[place]) if labels[place] else math.log(1 - p[place]) for place in known)
    assert head.loss(logits, labels).item() == pytest.approx(expected, rel=1e-12)
    assert head.n_predictions(labels) == len(known) == 7
    assert np.allclose(head.probabilities(logits).detach().numpy(), p)
    # With weights a class counts that much where a row has it.
    weights = torch.tensor([0.5, 2.0, 1.25, 3.0], dtype=torch.float64)
    weighted = ClassificationHead(D, 4, is_multi_label=True, class_weights=weights).double()
    expected = -sum(float(weights[b_c[1]]) * math.log(p[b_c]) if labels[b_c] else math.log(1 - p[b_c]) for b_c in known)
    assert weighted.loss(logits, labels).item() == pytest.approx(expected, rel=1e-12)
    assert list(weighted.state_dict()) == ["output.weight", "output.bias"]


@hypothesis.given(st.lists(st.integers(0, 5), min_size=1, max_size=40))
def test_balanced_weights_are_those_of_scikit_learn_with_mean_1(labels: list[int]) -> None:
    weights = balanced_class_weights(torch.bincount(torch.tensor(labels), minlength=6))
    present = np.unique(labels)
    assert np.allclose(weights[present], compute_class_weight("balanced", classes=present, y=np.array(labels)))
    assert float(weights[labels].mean()) == pytest.approx(1, rel=1e-5)
    assert all(weights[c] == 1 for c in range(6) if c not in labels)


def test_balanced_weights_of_any_number_of_classes_a_row_are_in_the_ratio_of_scikit_learn() -> None:
    has = np.array([[1, 1, 1, 0], [1, 0, 1, 0], [0, 0, 1, 0], [0, 0, 1, 0], [1, 0, 1, 0]])
    found = balanced_positive_weights(torch.from_numpy(has.sum(0)), len(has))
    for c in (0, 1):
        absent, present = compute_class_weight("balanced", classes=np.array([0, 1]), y=has[:, c])
        assert float(found[c]) == pytest.approx(present / absent)
    # What all have, or none has, is weighed against nothing.
    assert found[2:].tolist() == [1, 1]


@pytest.mark.parametrize("is_multi_label", [False, True])
def test_pieces_of_a_step_change_nothing_with_dropout(is_multi_label: bool) -> None:
    head = ClassificationHead(D, 3, is_multi_label=is_multi_label, dropout=0.5).train()
    pooled, keys = torch.randn(7, D), np.arange(7, dtype=np.uint64) * 977
    labels = torch.randint(0, 2, (7, 3) if is_multi_label else (7,))

    def total(rows: slice) -> Tensor:
        key_dropout(head, keys[rows])
        return head.loss(head(pooled[rows]), labels[rows])

    whole = total(slice(None))
    assert whole.item() == pytest.approx((total(slice(0, 3)) + total(slice(3, 7))).item(), rel=1e-5)
    key_dropout(head, None)
    assert whole.item() != pytest.approx(head.eval().loss(head(pooled), labels).item(), rel=1e-3)


# ---------------------------------------------------------------- answers


def answers(seed: int, n_rows: int, n_candidates: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Vectors of questions and candidates, at least one real candidate a row, and at least one right one among them."""
    rng = torch.Generator().manual_seed(seed)
    pooled = torch.randn(n_rows, D, dtype=torch.float64, generator=rng)
    candidates = torch.randn(n_rows, n_candidates, D, dtype=torch.float64, generator=rng)
    mask = torch.rand(n_rows, n_candidates, generator=rng) < 0.7
    mask[:, int(torch.randint(n_candidates, (1,), generator=rng))] = True
    is_right = mask & (torch.rand(n_rows, n_candidates, generator=rng) < 0.4)
    is_right |= F.one_hot(mask.int().argmax(1), n_candidates).bool() & ~is_right.any(1, keepdim=True)
    return pooled, candidates, mask, is_right


def test_scores_and_loss_written_out() -> None:
    head = answer_head()
    pooled, candidates, mask, is_right = answers(3, 4, 5)
    scores, total = head(pooled, candidates, mask), 0.0
    for b in range(4):
        asked = linear(head.question, pooled[b])
        row = {}
        for a in range(5):
            if mask[b, a]:
                offered = linear(head.candidate, candidates[b, a])
                row[a] = sum(x * y for x, y in zip(asked, offered, strict=True)) / math.sqrt(D)
                assert scores[b, a].item() == pytest.approx(row[a], rel=1e-10)
            else:
                assert scores[b, a] == -math.inf
        chances = {a: math.exp(s) / sum(map(math.exp, row.values())) for a, s in row.items()}
        total -= math.log(sum(chances[a] for a in row if is_right[b, a]))
    assert head.loss(scores, is_right).item() == pytest.approx(total, rel=1e-10)


def test_one_right_candidate_is_softmax_cross_entropy() -> None:
    pooled, candidates, mask, _ = answers(8, 6, 7)
    head, target = answer_head(), mask.int().argmax(1)
    scores = head(pooled, candidates, mask)
    expected = F.cross_entropy(scores, target, reduction="sum")
    assert torch.allclose(head.loss(scores, F.one_hot(target, 7).bool()), expected, rtol=1e-12)


@hypothesis.given(seeds, st.integers(1, 4), st.integers(1, 6), st.randoms())
@hypothesis.settings(max_examples=50)
def test_the_order_of_the_candidates_changes_nothing(seed: int, n_rows: int, n_candidates: int, random) -> None:
    head = answer_head()
    pooled, candidates, mask, is_right = answers(seed, n_rows, n_candidates)
    order = list(range(n_candidates))
    random.shuffle(order)
    scores = head(pooled, candidates, mask)
    turned = head(pooled, candidates[:, order], mask[:, order])
    assert torch.allclose(turned, scores[:, order], rtol=1e-12)
    assert torch.allclose(head.loss(turned, is_right[:, order]), head.loss(scores, is_right), rtol=1e-12)


@hypothesis.given(seeds, st.integers(1, 4), st.integers(1, 5), st.integers(1, 3))
@hypothesis.settings(max_examples=50)
def test_padding_candidates_change_nothing(seed: int, n_rows: int, n_candidates: int, n_padding: int) -> None:
    pooled, candidates, mask, is_right = answers(seed, n_rows, n_candidates)
    no = torch.zeros(n_rows, n_padding, dtype=torch.bool)
    wide = torch.cat([candidates, 1e3 * torch.randn(n_rows, n_padding, D, dtype=torch.float64)], 1)
    results = []
    for given_candidates, real, right in ((candidates, mask, is_right), (wide, torch.cat([mask, no], 1), torch.cat([is_right, no], 1))):
        head = answer_head()
        shown = given_candidates.clone().requires_grad_()
        scores = head(pooled, shown, real)
        loss = head.loss(scores, right)
        loss.backward()
        assert shown.grad is not None
        assert torch.equal(shown.grad[~real], torch.zeros_like(shown.grad[~real]))
        results.append([scores[:, :n_candidates], loss, shown.grad[:, :n_candidates], *(p.grad for p in head.parameters())])
    assert all(torch.allclose(one, two, rtol=1e-9, atol=1e-12) for one, two in zip(*results, strict=True))


def test_all_rows_may_choose_from_the_same_candidates() -> None:
    head = answer_head()
    pooled, candidates, mask, _ = answers(1, 5, 4)
    shared = head(pooled, candidates[:1], mask[:1])
    assert torch.allclose(shared, head(pooled, candidates[:1].expand(5, -1, -1), mask[:1].expand(5, -1)), rtol=1e-12)


def test_a_row_that_is_not_asked_is_no_prediction_and_has_no_gradient() -> None:
    """One has candidates of which none is right, one has no candidate at all."""
    head = answer_head()
    pooled, candidates, mask, is_right = answers(2, 4, 3)
    is_right[1] = False
    mask[2], is_right[2] = False, False
    shown = pooled.clone().requires_grad_()
    loss = head.loss(head(shown, candidates, mask), is_right)
    asked = [0, 3]
    assert torch.allclose(loss, head.loss(head(pooled[asked], candidates[asked], mask[asked]), is_right[asked]))
    loss.backward()
    assert shown.grad is not None
    assert head.n_predictions(is_right) == 2
    assert torch.equal(shown.grad[[1, 2]], torch.zeros(2, D, dtype=torch.float64))
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in head.parameters())


# ---------------------------------------------------------------- retrieval


def brute_force(text: Tensor, video: Tensor, ids: list[int], scale: float) -> float:
    """InfoNCE of both directions, row by row and pair by pair."""
    total = 0.0
    for i in range(len(ids)):
        for one, others in ((text[i], video), (video[i], text)):
            terms = {j: math.exp(scale * float(one @ others[j])) for j in range(len(ids)) if j == i or ids[j] != ids[i]}
            total -= math.log(terms[i] / sum(terms.values())) / 2
    return total


@hypothesis.given(seeds, st.lists(st.integers(0, 3), min_size=1, max_size=7))
@hypothesis.settings(max_examples=50)
def test_contrastive_loss_pair_by_pair(seed: int, ids: list[int]) -> None:
    head, text, video = contrastive_head(), units(len(ids), seed), units(len(ids), seed + 1)
    expected = brute_force(text, video, ids, 1 / 0.07)
    assert head.loss(text, video, torch.tensor(ids)).item() == pytest.approx(expected, rel=1e-6, abs=1e-9)


def clip() -> transformers.CLIPModel:
    shape = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "projection_dim": P}
    text = {**shape, "hidden_size": D, "vocab_size": 20, "max_position_embeddings": 9, "eos_token_id": 19, "bos_token_id": 18}
    torch.manual_seed(4)
    return transformers.CLIPModel(
        transformers.CLIPConfig(text_config=text, vision_config={**shape, "image_size": 8, "patch_size": 4}, projection_dim=P)
    ).eval()


def test_loss_and_gradients_are_those_of_clip() -> None:
    theirs, n = clip(), 5
    ids, pixels = torch.randint(0, 19, (n, 6)), torch.randn(n, 3, 8, 8)
    expected = theirs(input_ids=ids, pixel_values=pixels, return_loss=True)
    expected.loss.backward()
    head = ContrastiveHead(D, 8, P)
    with torch.no_grad():
        head.text.weight.copy_(theirs.text_projection.weight)
        head.video.weight.copy_(theirs.visual_projection.weight)
        head.log_scale.copy_(theirs.logit_scale)
    text = head.project_text(theirs.text_model(input_ids=ids).pooler_output.detach())
    video = head.project_video(theirs.vision_model(pixel_values=pixels).pooler_output.detach())
    assert torch.allclose(text, expected.text_embeds, atol=1e-6)
    assert torch.allclose(video, expected.image_embeds, atol=1e-6)
    loss = head.loss(text, video, torch.arange(n)) / n
    loss.backward()
    assert loss.item() == pytest.approx(expected.loss.item(), rel=1e-5)
    pairs = [
        (head.text.weight, theirs.text_projection.weight),
        (head.video.weight, theirs.visual_projection.weight),
        (head.log_scale, theirs.logit_scale),
    ]
    for ours, other in pairs:
        assert torch.allclose(ours.grad, other.grad, rtol=1e-4, atol=1e-6)
        assert float(other.grad.abs().max()) > 1e-4


@hypothesis.given(seeds, st.floats(1e-3, 1e3))
@hypothesis.settings(max_examples=50)
def test_the_length_of_a_vector_does_not_matter(seed: int, factor: float) -> None:
    head = contrastive_head()
    pooled = torch.randn(3, D + 1, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    assert torch.allclose(head.project_video(factor * pooled), head.project_video(pooled), rtol=1e-9)
    assert torch.allclose(head.project_video(pooled).norm(dim=1), torch.ones(3, dtype=torch.float64))
    assert torch.allclose(head.project_text(-factor * pooled[:, :D]), -head.project_text(pooled[:, :D]), rtol=1e-9)


@hypothesis.given(seeds, st.lists(st.integers(0, 3), min_size=2, max_size=7), st.randoms())
@hypothesis.settings(max_examples=50)
def test_the_order_of_the_rows_does_not_matter_and_fewer_rows_are_easier(seed: int, ids: list[int], random) -> None:
    head, text, video, n = contrastive_head(), units(len(ids), seed), units(len(ids), seed + 1), len(ids)
    order = list(range(n))
    random.shuffle(order)
    whole = head.loss(text, video, torch.tensor(ids))
    assert torch.allclose(head.loss(text[order], video[order], torch.tensor(ids)[order]), whole, rtol=1e-9)
    pieces = torch.stack([head.loss(text[rows], video[rows], torch.tensor(ids)[rows]) for rows in (slice(0, 1), slice(1, n))]).sum()
    has_others = any(i != ids[0] for i in ids[1:])
    assert pieces.item() < whole.item() if has_others else torch.allclose(pieces, whole)


def test_rows_that_say_nothing_are_at_chance_and_one_video_has_nothing_to_learn() -> None:
    head, alike = contrastive_head(), units(1, 0).expand(6, -1)
    assert head.loss(alike, alike, torch.arange(6)).item() / 6 == pytest.approx(math.log(6))
    text = units(4, 1).requires_grad_()
    loss = head.loss(text, units(4, 2), torch.zeros(4, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0
    assert text.grad is not None
    assert torch.equal(text.grad, torch.zeros_like(text))


def test_the_scale_stays_below_100_and_can_come_back() -> None:
    head = ContrastiveHead(D, D, P)
    assert head.scale().item() == pytest.approx(1 / 0.07)
    optimizer = torch.optim.SGD([head.log_scale], lr=1.0)
    right, wrong = torch.eye(P), torch.eye(P).roll(1, 0)
    with torch.no_grad():
        head.log_scale.fill_(9.0)
    for text in (right, wrong):
        optimizer.zero_grad()
        head.loss(text, torch.eye(P), torch.arange(P)).backward()
        assert head.scale().item() == pytest.approx(100)
        optimizer.step()
    # Wrong pairs with cosine 0 beside others of cosine 1 cost about 100 each: the step goes down by as much.
    assert head.log_scale.item() == pytest.approx(math.log(100) - 400, rel=1e-5)
    with torch.inference_mode():
        head.scale()


def test_reranking_keeps_what_both_judges_estimate() -> None:
    """With the best possible judges of a known distribution, scores differ within a query as log p(t, v) / (p(t) p(v)) does."""
    rng = np.random.default_rng(0)
    joint = rng.random((3, 5)) ** 3
    joint /= joint.sum()
    information = np.log(joint / (joint.sum(1, keepdims=True) * joint.sum(0)))
    head = contrastive_head()
    with torch.no_grad():
        scale = head.scale().item()
    similarities = torch.from_numpy((information + rng.normal(size=(3, 1))) / scale)
    # Pairs come from the joint distribution or from its margins, half and half.
    aligned = joint / (joint + joint.sum(1, keepdims=True) * joint.sum(0))
    logits = torch.from_numpy(np.log(np.stack([aligned, 1 - aligned], -1)) + rng.normal(size=(3, 5, 1)))
    for weight in (0.0, 0.3, 1.0):
        scores = head.rerank(similarities, logits, weight).detach().numpy()
        assert np.allclose(scores - scores[:, :1], information - information[:, :1], atol=1e-6)


def test_reranking_reads_the_alignment_head_of_a_videobert() -> None:
    """A head that calls every pair aligned by another margin decides the order at weight 1, and not at 0."""
    torch.manual_seed(0)
    encoder = VideoBert(VideoBertConfig(1, D, 2, 8, n_text_tokens=20, n_visual_tokens=9, visual_input="tokens", max_positions=8)).eval()
    ids = torch.randint(1, 30, (6, 5))
    with torch.no_grad():
        encoder.alignment.weight.normal_(std=3)
        logits = encoder.alignment_logits(encoder(ids, torch.zeros_like(ids), torch.ones_like(ids).bool())).view(2, 3, 2)
        head, similarities = ContrastiveHead(D, D, P), torch.tensor([[0.9, 0.1, 0.5], [0.2, 0.3, 0.1]])
        chances = logits.softmax(-1)[..., 0]
        assert torch.equal(head.rerank(similarities, logits, 1.0).argsort(), chances.argsort())
        assert torch.equal(head.rerank(similarities, logits, 0.0).argsort(), similarities.argsort())


# ---------------------------------------------------------------- gradients


def test_gradients_by_finite_differences() -> None:
    torch.manual_seed(3)
    logits = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    weights = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)
    single, multi = ClassificationHead(D, 3, class_weights=weights), ClassificationHead(D, 3, is_multi_label=True)
    assert torch.autograd.gradcheck(lambda x: single.loss(x, torch.tensor([0, IGNORED, 2, 1])), (logits,))
    labels = torch.tensor([[1, 0, 1], [IGNORED, 1, 0], [0, 0, 0], [1, IGNORED, IGNORED]])
    assert torch.autograd.gradcheck(lambda x: multi.loss(x, labels), (logits,))
    ranking = answer_head()
    pooled, candidates, mask, is_right = answers(5, 3, 4)
    assert torch.autograd.gradcheck(
        lambda h, a: ranking.loss(ranking(h, a, mask), is_right), (pooled.requires_grad_(), candidates.requires_grad_())
    )
    head, ids = contrastive_head(), torch.tensor([0, 1, 0, 2])
    given = [torch.randn(4, n, dtype=torch.float64, requires_grad=True) for n in (D, D + 1)]
    assert torch.autograd.gradcheck(lambda t, v: head.loss(head.project_text(t), head.project_video(v), ids), given)
