"""What a captioner is shown of a video and its transcript, and a world in which only the transcript knows the caption."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vbcli.config import BartConfig, VideoBertConfig
from vbcli.models.bart import BartDecoder, Captioner
from vbcli.models.checkpoint import Checkpoint
from vbcli.models.decoding import DecodingConfig
from vbcli.models.dropout import key_dropout
from vbcli.models.videobert import VideoBert
from vbcli.stages.caption import caption_videos
from vbcli.textvocab import train_text_vocabulary
from vbcli.training.batches import SegmentRow, VideoTokens
from vbcli.training.captioning import CaptionTask
from vbcli.training.showing import Showing
from vbcli.training.tasks import TRAINING
from vbcli.training.trainer import TrainConfig, Trainer
from vbcli.vocab.artifact import Vocabulary
from vbcli.vocab.build import fit_vocabulary
from vbcli.vocab.config import VocabConfig

COLOURS = ["red", "green", "blue", "white"]
NAMES = ["anna", "bert", "cora", "dora"]
TEXT = train_text_vocabulary([f"{name} has a {colour} thing and now we see it" for name in NAMES for colour in COLOURS])
N_DIMS = 4


def video(i: int, *, is_silent: bool = False) -> VideoTokens:
    """The colour is seen, who has the thing is only said (and the colour, too), half-way through a video of which both ends are silent."""
    rng = np.random.default_rng(i)
    colour, name = rng.integers(0, 4, 2)
    segments = []
    for k, n_clips in enumerate((2, 3, 1)):
        features = np.eye(N_DIMS, dtype=np.float32)[np.full(n_clips, colour)] + 0.1 * rng.normal(size=(n_clips, N_DIMS)).astype("f4")
        text = f"now we see {NAMES[name]} {COLOURS[colour]}" if k == 1 and not is_silent else ""
        segments.append(SegmentRow(f"{i}.mp4", 3.0 * k, 3.0 * k + 3, np.full(n_clips, colour, np.int32), features, text))
    return VideoTokens(f"{i}.mp4", segments, [f"{NAMES[name]} has a {COLOURS[colour]} thing"], "train")


def captioner(max_positions: int = 32, dropout: float = 0.0) -> Captioner:
    torch.manual_seed(0)
    shape = VideoBertConfig(
        1, 32, 2, 64, n_text_tokens=TEXT.n_tokens, n_visual_tokens=4, feature_dim=N_DIMS, max_positions=max_positions,
        dropout=dropout, attention_dropout=dropout,
    )  # fmt: skip
    words = BartConfig(
        1, 1, 32, 2, 64, TEXT.n_tokens, dropout=dropout, attention_dropout=dropout, pad_token_id=TEXT.pad_id,
        bos_token_id=TEXT.cls_id, eos_token_id=TEXT.sep_id, decoder_start_token_id=TEXT.cls_id,
    )  # fmt: skip
    return Captioner(VideoBert(shape), BartDecoder(words))


def task(videos: list[VideoTokens], max_positions: int = 32, dropout: float = 0.0, **changes: Any) -> CaptionTask:
    showing = Showing(feature_noise=0.1, clip_drop=0.0, **changes)
    return CaptionTask(captioner(max_positions, dropout), TEXT, videos, videos[:4], showing=showing)


VIDEOS = [video(i) for i in range(8)]


def test_what_is_said_stands_before_what_is_shown():
    made = task(VIDEOS, has_transcript=True)
    packed = made.shown.pack(VIDEOS[0], np.random.default_rng(0), is_disturbed=False)
    config = made.model.encoder.config
    said = TEXT.encode(VIDEOS[0].segments[1].text)
    shown = [config.n_text_tokens + 1 + int(t) for t in VIDEOS[0].visual_tokens]
    assert packed.input_ids.tolist() == [TEXT.cls_id, *said, config.n_text_tokens, *shown, TEXT.sep_id]
    assert (packed.features == VIDEOS[0].features).all()
    assert made.notes == []
    assert (made.shown.longest_clips, made.shown.longest_text) == (6, len(said))


def test_without_transcripts_nothing_of_them_is_shown_or_drawn():
    plain = task(VIDEOS)
    assert plain.shown.longest_text is None
    silent = task([video(i, is_silent=True) for i in range(8)])
    for row in range(8):
        one, other = (made.draw(TRAINING, [row], 2, is_disturbed=True) for made in (plain, silent))
        for name, value in one.batch.arguments().items():
            assert torch.equal(value, getattr(other.batch, name)), name


def test_three_transcripts_in_ten_are_hidden_in_training_and_none_elsewhere():
    made = task(VIDEOS, has_transcript=True)
    n_rows, n_hidden = 4000, 0
    for draw in range(n_rows // 8):
        for row in range(8):
            packed, _ = made._draw(*made.parts[0][row], np.random.default_rng([draw, row]), is_disturbed=True)
            n_text = int((packed.token_type_ids == 0).sum()) - 2
            assert n_text in (0, len(TEXT.encode("now we see anna red")))
            n_hidden += n_text == 0
            assert int(packed.token_type_ids.sum()) == 6 + 1
    assert abs(n_hidden / n_rows - 0.3) < 3 * (0.3 * 0.7 / n_rows) ** 0.5
    for draw in range(100):
        packed, _ = made._draw(*made.parts[0][0], np.random.default_rng(draw), is_disturbed=False)
        assert int((packed.token_type_ids == 0).sum()) > 2


def test_of_a_video_that_is_too_long_a_window_of_time_is_shown():
    """Ten words over clips 3 to 5 and 15 clips: twenty-five in all, of which ten fit."""
    long = video(0)
    long.segments = [
        replace(long.segments[0], visual_tokens=np.full(n, 1, np.int32), features=np.full((n, N_DIMS), 0, "f4"), text=text)
        for n, text in ((3, ""), (3, "anna bert cora dora red green blue white now we"), (9, ""))
    ]
    for i, s in enumerate(long.segments):
        s.features[:] = np.arange(len(s.features))[:, None] + (0, 3, 6)[i]
    made = task([long, video(1, is_silent=True)], max_positions=13, has_transcript=True)
    silent, windowed = made.notes
    assert silent == "1 of 2 videos have no transcript"
    assert windowed == "1 of 2 videos have more than 10 clips and text tokens: a random window of each is used"
    words = TEXT.encode(long.segments[1].text)
    assert len(words) == 10
    moments = sorted([(3 + 3 * (i + 0.5) / 10, "word", i) for i in range(10)] + [(i + 0.5, "clip", i) for i in range(15)])
    possible = [sorted((kind, i) for _, kind, i in moments[start : start + 10]) for start in range(16)]
    seen = set()
    for draw in range(400):
        packed = made.shown.pack(long, np.random.default_rng(draw), is_disturbed=False)
        n_text = int((packed.token_type_ids == 0).sum()) - 2
        text = packed.input_ids[1 : 1 + n_text].tolist()
        clips = packed.features[:, 0].astype(int).tolist()
        found = sorted([("word", words.index(i)) for i in text] + [("clip", i) for i in clips])
        assert [words.index(i) for i in text] == sorted(words.index(i) for i in text)
        seen.add(possible.index(found))
    assert seen == set(range(16))
    assert (made.shown.longest_clips, made.shown.longest_text) == (10, 10)


def test_videos_without_a_transcript_are_counted():
    made = task([*VIDEOS, video(30, is_silent=True)], has_transcript=True)
    assert made.notes == ["1 of 9 videos have no transcript"]


def test_clips_may_be_left_out_and_the_transcript_alone_be_shown():
    made = task(VIDEOS, has_transcript=True, n_clips=0)
    packed = made.shown.pack(VIDEOS[3], np.random.default_rng(0), is_disturbed=False)
    said = TEXT.encode(VIDEOS[3].segments[1].text)
    assert packed.input_ids.tolist() == [TEXT.cls_id, *said, TEXT.n_tokens, TEXT.sep_id]
    assert (made.shown.longest_clips, made.shown.longest_text) == (0, len(said))


def test_rows_with_transcripts_do_not_depend_on_their_batch(losses_of):
    made = task(VIDEOS, dropout=0.2, has_transcript=True)
    made.model.train()

    def losses(rows: list[int]) -> dict[str, tuple[float, int]]:
        key_dropout(made.model, made.draw(TRAINING, rows, 3, is_disturbed=True).keys)
        return losses_of(made, rows, 3)

    together, apart = losses(list(range(8)))["caption"], [losses([row])["caption"] for row in range(8)]
    assert together[0] == pytest.approx(sum(total for total, _ in apart), rel=1e-4)


# ---------------------------------------------------------------- a world of which the half is said


@pytest.fixture(scope="module")
def visual() -> Vocabulary:
    return fit_vocabulary(
        np.eye(N_DIMS, dtype=np.float32), VocabConfig(N_DIMS, 1, 0, min_points=1, n_codebooks=1), {"block_dims": [N_DIMS]}
    )


def trained(folder: Path, visual: Vocabulary, *, has_transcript: bool) -> tuple[Checkpoint, float]:
    train, validation = [video(i) for i in range(64)], [video(i) for i in range(100, 116)]
    made = CaptionTask(captioner(), TEXT, train, validation, showing=Showing(has_transcript, feature_noise=0.1, clip_drop=0.0))
    settings = TrainConfig(max_steps=200, batch_size=16, learning_rate=5e-3, warmup_steps=20, eval_every=50, patience=9)
    result = Trainer(made, settings, folder, {}, lambda now: None).run()
    windows = {"window_clips": made.shown.longest_clips, "window_text": made.shown.longest_text}
    return Checkpoint("caption", made.model.eval(), TEXT, visual, Path("vocab"), **windows), result.best_loss


def captions(checkpoint: Checkpoint, videos: list[VideoTokens]) -> list[str]:
    return [checkpoint.text.decode(h.token_ids) for h in caption_videos(checkpoint, videos, DecodingConfig(max_length=10))]


def test_what_only_the_transcript_knows_is_learned_with_it_and_not_without(visual: Vocabulary, tmp_path: Path):
    unseen = [video(i) for i in range(200, 230)]
    silent = [video(i, is_silent=True) for i in range(200, 230)]
    truths = [v.captions[0].split() for v in unseen]
    # Five words and an end, of which one is one of four names: log(4) / 6 = 0.23 at best; smoothed targets leave about 0.1.
    blind, blind_loss = trained(tmp_path / "blind", visual, has_transcript=False)
    assert blind_loss > 0.25
    said, said_loss = trained(tmp_path / "said", visual, has_transcript=True)
    assert said_loss < 0.18
    found = [c.split() for c in captions(said, unseen)]
    assert found == truths
    # Where nothing is said, what is seen is still told, and the name is guessed.
    for caption, truth in zip(captions(said, silent), truths, strict=True):
        name, *rest = caption.split()
        assert rest == truth[1:]
        assert name in NAMES
    n_right = sum(c.split()[0] == truth[0] for c, truth in zip(captions(blind, unseen), truths, strict=True))
    assert n_right < 20


def test_a_timed_caption_is_learned_from_the_clips_of_its_time():
    """Clips of `video(0)` begin at 0 and 1.5, 3, 4 and 5, and 6 s."""
    whole = video(0)
    timed = replace(whole, timed_captions=[("we see red", 1.6, 4.0), ("now green", 6.5, 7.0), ("too late", 9.0, 12.0)])
    made = task([timed], has_transcript=True)
    shown = [
        (TEXT.decode(ids), [(s.start_s, s.end_s, len(s.visual_tokens), s.text) for s in v.segments]) for v, ids in made.parts[TRAINING]
    ]
    said = whole.segments[1].text
    assert shown == [
        (whole.captions[0], [(0, 3, 2, ""), (3, 6, 3, said), (6, 9, 1, "")]),
        ("we see red", [(1.5, 3, 1, ""), (3, 4, 1, said)]),
        ("now green", [(6, 9, 1, "")]),
    ]
    part = made.parts[TRAINING][1][0]
    assert np.array_equal(part.features, whole.features[1:3])
    assert timed.caption_texts == [whole.captions[0], "we see red", "now green", "too late"]
