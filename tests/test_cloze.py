"""Cloze tests on a model that learned a world small enough to know the answers: the text says the colour, and all clips show it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from vbcli.cloze import Guess, fill_clips, fill_text, forecast, label_shares
from vbcli.config import VideoBertConfig
from vbcli.errors import VbcliError
from vbcli.models.checkpoint import Checkpoint
from vbcli.models.videobert import VideoBert
from vbcli.stages.zero_shot import NamedClass, ZeroShot
from vbcli.textvocab import train_text_vocabulary
from vbcli.tokens import pack
from vbcli.training.batches import SegmentRow, VideoTokens, collate
from vbcli.training.pretrain import PretrainTask
from vbcli.training.trainer import TrainConfig, Trainer
from vbcli.vocab.build import fit_vocabulary
from vbcli.vocab.config import VocabConfig

COLOURS = ["red", "green", "blue", "white"]
N_TOKENS = 8
TEXT = train_text_vocabulary([f"here is a {c} ball that unrolls" for c in COLOURS])


def video(i: int, n_clips: int = 7) -> VideoTokens:
    """The clips show the colour, of which the text speaks, again and again."""
    tokens = np.full(n_clips, 2 * (i % 4), np.int32)
    text = f"here is a {COLOURS[i % 4]} ball"
    features = np.eye(N_TOKENS, dtype=np.float32)[tokens]
    return VideoTokens(f"{i}.mp4", [SegmentRow(f"{i}.mp4", 0, n_clips / 2, tokens[:, None], features, text)], labels=[COLOURS[i % 4]])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    torch.manual_seed(0)
    config = VideoBertConfig(
        2, 32, 2, 64, n_text_tokens=TEXT.n_tokens, n_visual_tokens=N_TOKENS, feature_dim=N_TOKENS, max_positions=24,
        visual_input="tokens", dropout=0.0, attention_dropout=0.0,
    )  # fmt: skip
    model = VideoBert(config)
    videos = [video(i, 4 + i % 5) for i in range(40)]
    settings = TrainConfig(max_steps=400, batch_size=16, learning_rate=4e-3, warmup_steps=20, eval_every=200)
    task = PretrainTask(model, TEXT, videos, videos[:8], regime_weights=(0.8, 0.1, 0.1))
    Trainer(task, settings, tmp_path_factory.mktemp("run"), {}, lambda now: None).run()
    visual = fit_vocabulary(
        np.eye(N_TOKENS, dtype=np.float32), VocabConfig(N_TOKENS, 1, 0, min_points=1, n_codebooks=1), {"block_dims": [N_TOKENS]}
    )
    return Checkpoint("pretrain", model, TEXT, visual, Path("vocab"))


def test_the_video_tells_what_its_text_says(trained: Checkpoint):
    for i in range(4):
        (colours,) = fill_text(trained, video(i), "here is a [MASK] ball", [COLOURS])
        assert colours[0].answer == COLOURS[i]
        assert colours[0].probability > colours[0].prior + 0.2
        assert sum(g.probability for g in colours) == pytest.approx(1)
        assert sum(g.prior for g in colours) == pytest.approx(1)


def test_classes_that_nothing_was_trained_for_by_cloze(trained: Checkpoint):
    stage = ZeroShot(checkpoint_dir="none", classes=tuple(NamedClass(c.upper(), c) for c in COLOURS), template="here is a [MASK] ball")
    videos = [video(i) for i in range(8)]
    for i, (row,) in enumerate(stage.answer(trained, videos)):
        assert row["labels"] == [COLOURS[i % 4].upper()]
        (guesses,) = fill_text(trained, videos[i], "here is a [MASK] ball", [COLOURS])
        expected = {guess.answer.upper(): guess.probability for guess in guesses}
        assert {s["label"]: s["probability"] for s in row["scores"]} == pytest.approx(expected, abs=1e-6)


def test_probabilities_are_the_model_s(trained: Checkpoint):
    """Against logits of the bare model at the mask, its answers alone."""
    (found,) = fill_text(trained, video(1), "here is a [MASK] ball", [None])
    ids = TEXT.encode("here is a [MASK] ball")
    for shown, name in ((video(1), "probability"), (None, "prior")):
        clips = (shown.visual_tokens, shown.features) if shown else (np.zeros(0, int), np.zeros((0, N_TOKENS)))
        batch = collate([pack(ids, *clips, TEXT, trained.encoder.config)], N_TOKENS, TEXT.pad_id)
        logits = trained.encoder.masked_logits(trained.encoder(**batch.arguments()))[0, 4]
        words = [g.answer for g in found]
        assert "red" in words
        assert not [w for w in words if w.startswith(("[", "##"))]
        expected = logits[[TEXT.tokenizer.token_to_id(w) for w in words]].softmax(0)
        assert [getattr(g, name) for g in found] == pytest.approx(expected.tolist(), abs=1e-5)


def test_a_word_of_several_pieces_is_judged_by_their_mean(trained: Checkpoint):
    pieces = TEXT.encode("reds")
    assert len(pieces) == 2
    (found,) = fill_text(trained, video(0), "here is a [MASK] ball", [["reds", "blue"]])
    config = trained.encoder.config

    def log_probs(ids: list[int]) -> torch.Tensor:
        batch = collate([pack(ids, video(0).visual_tokens, video(0).features, TEXT, config)], N_TOKENS, TEXT.pad_id)
        logits = trained.encoder.masked_logits(trained.encoder(**batch.arguments()))[0]
        return logits[:, : TEXT.n_tokens].log_softmax(-1)

    mask, before, after = [TEXT.mask_id], TEXT.encode("here is a"), TEXT.encode("ball")
    one, two = log_probs([*before, *mask, *after]), log_probs([*before, *mask, *mask, *after])
    scores = torch.stack([(two[4, pieces[0]] + two[5, pieces[1]]) / 2, one[4, TEXT.encode("blue")[0]]])
    expected = dict(zip(("reds", "blue"), scores.softmax(0).tolist(), strict=True))
    assert {g.answer: g.probability for g in found} == pytest.approx(expected, abs=1e-5)


def test_what_was_seen_goes_on(trained: Checkpoint):
    for i in range(4):
        tokens = video(i, 5).visual_tokens[:, 0]
        found = forecast(trained, video(i, 5), 3)
        assert [int(guesses[0].answer) for guesses in found] == tokens[:3].tolist()
        assert found[0][0].probability > 0.9
        assert sum(g.prior for g in found[0]) == pytest.approx(1)
        (middle,) = fill_clips(trained, video(i, 5), [2])
        assert int(middle[0].answer) == tokens[2]


def test_a_long_video_is_read_in_windows(trained: Checkpoint):
    """Forty clips do not fit into 24 positions; the last of them decide what comes next."""
    long = video(1, 40)
    long.segments[0].visual_tokens[20:] = 6
    assert int(forecast(trained, long, 1)[0][0].answer) == 6
    assert [int(guesses[0].answer) for guesses in fill_clips(trained, long, [3, 36])] == [2, 6]
    (found,) = fill_text(trained, long, "here is a [MASK] ball", [COLOURS])
    assert sum(g.probability for g in found) == pytest.approx(1)


def test_forecast_of_several_codebooks_by_hand():
    """Each clip from the bare model: the likeliest token of every codebook goes on, with the sum of their centroids."""
    rng = np.random.default_rng(0)
    visual = fit_vocabulary(rng.normal(size=(80, 6)).astype(np.float32), VocabConfig(5, 1, 0, min_points=2, n_codebooks=3), {})
    assert visual.codebook_sizes == (5, 5, 5)
    config = VideoBertConfig(
        1, 16, 2, 32, n_text_tokens=TEXT.n_tokens, n_visual_tokens=5, n_residual_tokens=(5, 5), feature_dim=6, max_positions=24,
        initializer_range=0.5,
    )  # fmt: skip
    torch.manual_seed(3)
    model = VideoBert(config).eval()
    checkpoint = Checkpoint("pretrain", model, TEXT, visual, Path("vocab"))
    features = rng.normal(size=(4, 6)).astype(np.float32)
    tokens = visual.assign(features)
    shown = VideoTokens("v.mp4", [SegmentRow("v.mp4", 0, 2, tokens, features, "")])
    found = forecast(checkpoint, shown, 3)
    assert len({tuple(g.answer for g in guesses) for guesses in found}) > 1
    first = TEXT.n_tokens + 1
    with torch.no_grad():
        for guesses in found:
            ids = torch.tensor([[TEXT.cls_id, first - 1, *(first + tokens[:, 0]), TEXT.mask_id, TEXT.sep_id]])
            residual = torch.full((1, ids.shape[1], 2), TEXT.pad_id)
            residual[0, 2:-2] = torch.from_numpy(tokens[:, 1:] + [first + 5, first + 10])
            values = torch.zeros(1, ids.shape[1], 6)
            values[0, 2:-2] = torch.from_numpy(features)
            is_shown = torch.zeros(ids.shape, dtype=torch.bool)
            is_shown[0, 2:-2] = True
            types = (torch.arange(ids.shape[1])[None] > 1).long()
            row = model(ids, types, torch.ones_like(is_shown), values, is_shown, residual)[0, -2]
            heads = [model.masked_logits(row)[first:], *model.residual_logits(row)]
            best = [int(logits.argmax()) for logits in heads]
            assert [g.probability for g in guesses] == pytest.approx(sorted(heads[0].softmax(0).tolist(), reverse=True), abs=1e-5)
            assert int(guesses[0].answer) == best[0]
            tokens = np.concatenate([tokens, [best]])
            centroids = [tree.leaf_centroids[k] for tree, k in zip(visual.trees, best, strict=True)]
            features = np.concatenate([features, np.sum(centroids, axis=0, keepdims=True)])


def test_what_cannot_be_asked_is_said(trained: Checkpoint):
    with pytest.raises(VbcliError, match=r"has 1 times \[MASK\], and answers are given for 2"):
        fill_text(trained, video(0), "a [MASK] ball", [COLOURS, COLOURS])
    with pytest.raises(VbcliError, match="does not know '8'"):
        fill_text(trained, video(0), "a [MASK] ball", [["red", "8"]])
    with pytest.raises(VbcliError, match="has 7 clips, and none with the number 7"):
        fill_clips(trained, video(0), [7])
    with pytest.raises(VbcliError, match="leaves no room for the video"):
        fill_text(trained, video(0), "here is a [MASK] ball " * 4, [None] * 4)


def test_label_shares_by_hand():
    guesses = [
        [Guess("red", 0.7, 0.2), Guess("blue", 0.3, 0.8)],
        [Guess("red", 0.6, 0.2), Guess("blue", 0.4, 0.8)],
        [Guess("red", 0.6, 0.2), Guess("blue", 0.4, 0.8)],
    ]
    assert label_shares(guesses, [["red"], ["blue", "x"], ["green"]]) == {"top1": 0.5, "prior_top1": 0.5, "n_videos": 2}
    assert label_shares(guesses, [[], [], ["green"]]) == {}
