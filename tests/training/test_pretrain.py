"""The rows of pre-training: stretches of neighbouring segments, and what is asked of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vbcli.config import VideoBertConfig
from vbcli.models.videobert import VideoBert
from vbcli.textvocab import train_text_vocabulary
from vbcli.training.batches import SegmentRow, VideoTokens, collate
from vbcli.training.pretrain import MAX_JOINED, MAX_STRIDE, MIN_STRIDED, PretrainTask
from vbcli.training.tasks import IGNORED

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def talk(n_segments: int, n_clips: int, name: str = "v.mp4") -> VideoTokens:
    """Segment i says its number, and its clips have tokens 10 i, 10 i + 1 ... and features equal to them."""
    segments = []
    for i in range(n_segments):
        tokens = np.arange(10 * i, 10 * i + n_clips, dtype=np.int32)
        features = np.repeat(tokens[:, None], 2, 1).astype(np.float32)
        segments.append(SegmentRow(name, i, i + 1, tokens, features, WORDS[i]))
    return VideoTokens(name, segments, [], "train")


TEXT = train_text_vocabulary([" ".join(WORDS), "yes no"])
NUMBER = {tuple(TEXT.encode(word)): i for i, word in enumerate(WORDS)}


def task(videos: list[VideoTokens], **changes) -> PretrainTask:
    torch.manual_seed(0)
    config = VideoBertConfig(1, 16, 2, 32, n_text_tokens=TEXT.n_tokens, n_visual_tokens=100, feature_dim=2)
    return PretrainTask(VideoBert(config), TEXT, videos, videos, feature_noise=0.0, **changes)


def test_a_stretch_is_of_neighbours_and_holds_its_row():
    video = talk(10, 3)
    made = task([video])
    lengths, offsets = set(), set()
    for draw in range(600):
        row = draw % 10
        rng = np.random.default_rng(draw)
        n_joined = int(rng.integers(1, MAX_JOINED + 1))
        ids, visual, features = made._stretch((video, row), n_joined, rng)
        said = [NUMBER[tuple(TEXT.encode(word))] for word in TEXT.decode(ids).split()]
        assert said == list(range(said[0], said[0] + len(said)))
        assert row in said
        assert len(said) <= n_joined
        whole = np.concatenate([video.segments[i].visual_tokens for i in said])
        strides = [k for k in range(1, MAX_STRIDE + 1) if whole[::k].tolist() == visual.tolist()]
        assert strides
        assert len(visual) >= min(len(whole), MIN_STRIDED)
        assert (features[:, 0] == visual).all()
        lengths.add(len(said))
        offsets.add(row - said[0])
    assert lengths == set(range(1, MAX_JOINED + 1))
    assert offsets == set(range(MAX_JOINED))


def test_every_stride_is_drawn_on_a_long_stretch_and_none_on_a_short_one():
    long, short = talk(10, 10), talk(1, 5)
    made = task([long, short])
    steps = {int(np.diff(made._stretch((long, 4), MAX_JOINED, np.random.default_rng(i))[1][:2])[0]) for i in range(100)}
    assert steps == set(range(1, MAX_STRIDE + 1))
    assert all(len(made._stretch((short, 0), 3, np.random.default_rng(i))[1]) == 5 for i in range(50))


def test_the_text_of_another_is_not_asked_for():
    made = task([talk(10, 3, f"{i}.mp4") for i in range(3)], regime_weights=(1, 0, 0))
    n_misaligned = n_masked = n_visual = n_text = 0
    for row in range(30):
        packed, targets, aligned = made._draw(made.parts[0], row, 0, True)
        is_text = packed.token_type_ids == 0
        n_visual += int((targets[~is_text] != IGNORED).sum())
        if aligned == 1:
            n_misaligned += 1
            assert (targets[is_text] == IGNORED).all()
            n_masked += int((packed.input_ids[is_text] == made.text.mask_id).sum())
        elif aligned == 0:
            n_text += int((targets[is_text] != IGNORED).sum())
    assert min(n_visual, n_text) > 0
    assert 5 < n_misaligned < 25
    # Another's text is masked like one's own: whether it is another's cannot be read off its masks.
    assert n_masked > 0


@pytest.mark.parametrize(("weights", "has_text", "has_video"), [((0, 1, 0), True, False), ((0, 0, 1), False, True)])
def test_regimes_show_one_modality(weights, has_text, has_video):
    made = task([talk(10, 3)], regime_weights=weights)
    for row in range(10):
        packed, _, aligned = made._draw(made.parts[0], row, 0, True)
        n_text = int((packed.token_type_ids == 0).sum()) - 2
        assert (n_text > 0, bool((packed.token_type_ids[:-1] == 1).any()), aligned) == (has_text, has_video, IGNORED)


def test_all_tokens_of_a_clip_are_hidden_at_once_and_asked_for(losses_of):
    """Codebooks of 100, 6 and 4: of 600 rows the rates, the ranges of what takes a clip's place, and the loss of some by hand."""
    sizes, rng = (100, 6, 4), np.random.default_rng(0)
    video = talk(10, 10)
    for segment in video.segments:
        segment.visual_tokens = np.stack([segment.visual_tokens, *(rng.integers(0, n, 10) for n in sizes[1:])], 1)
    torch.manual_seed(0)
    config = VideoBertConfig(1, 16, 2, 32, n_text_tokens=TEXT.n_tokens, n_visual_tokens=100, n_residual_tokens=(6, 4), feature_dim=2)
    made = PretrainTask(VideoBert(config).eval(), TEXT, [video], [video], regime_weights=(0, 0, 1), feature_noise=0.0)
    starts = [TEXT.n_tokens + 1, TEXT.n_tokens + 101, TEXT.n_tokens + 107]
    truth = {int(tokens[0]): tokens for segment in video.segments for tokens in segment.visual_tokens}
    fates = {"mask": 0, "random": 0, "kept": 0}
    drawn = set()
    for epoch in range(60):
        for row in range(10):
            packed, targets, _ = made._draw(made.parts[0], row, epoch, True)
            asked = targets[:, 0] != IGNORED
            assert ((targets[:, 1:] != IGNORED) == asked[:, None]).all()
            assert (packed.residual_ids[~packed.feature_mask & ~asked] == TEXT.pad_id).all()
            for place in np.nonzero(asked)[0]:
                wanted = truth[targets[place, 0] - starts[0]]
                assert targets[place, 1:].tolist() == wanted[1:].tolist()
                shown = packed.input_ids[place], *packed.residual_ids[place]
                if shown[0] == TEXT.mask_id:
                    assert shown[1:] == (TEXT.pad_id, TEXT.pad_id)
                    fates["mask"] += 1
                elif packed.feature_mask[place]:
                    assert [a - b for a, b in zip(shown, starts, strict=True)] == wanted.tolist()
                    fates["kept"] += 1
                else:
                    fates["random"] += 1
                    drawn.add(tuple(a - b for a, b in zip(shown, starts, strict=True)))
    n = sum(fates.values())
    for fate, share in (("mask", 0.8), ("random", 0.1), ("kept", 0.1)):
        assert abs(fates[fate] / n - share) < 3 * (share * (1 - share) / n) ** 0.5
    assert [{token[m] for token in drawn} for m in (1, 2)] == [set(range(6)), set(range(4))]
    assert {token[0] for token in drawn} <= set(range(100))

    epoch = next(e for e in range(20) if (made._draw(made.parts[0], 0, e, True)[1][:, 0] != IGNORED).sum() > 1)
    packed, targets, _ = made._draw(made.parts[0], 0, epoch, True)
    hidden = made.model(**collate([packed], 2, TEXT.pad_id).arguments())[0]
    expected = 0.0
    for place in np.nonzero(targets[:, 0] != IGNORED)[0]:
        logits = made.model.masked_logits(hidden[place]), *made.model.residual_logits(hidden[place])
        expected -= sum(float(each.detach().log_softmax(-1)[k]) for each, k in zip(logits, targets[place], strict=True)) / 3
    total, count = losses_of(made, [0], epoch)["visual"]
    assert (total, count) == (pytest.approx(expected, rel=1e-4), int((targets[:, 0] != IGNORED).sum()))


def test_video_without_any_text_is_learned_from(losses_of):
    """Its vocabulary has no words: there is nothing that a masked word could be replaced by."""
    text = train_text_vocabulary([])
    video = talk(3, 5)
    for segment in video.segments:
        segment.text = ""
    config = VideoBertConfig(1, 16, 2, 32, n_text_tokens=text.n_tokens, n_visual_tokens=100, feature_dim=2)
    made = PretrainTask(VideoBert(config), text, [video], [video])
    losses = losses_of(made, [0, 1, 2])
    assert {name: count > 0 for name, (_, count) in losses.items()} == {"text": False, "visual": True, "alignment": False}
    assert losses["visual"][0] > 0
