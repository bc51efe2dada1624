"""A retriever in a world in which the clips show the colour that the captions name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from vbcli.config import VideoBertConfig
from vbcli.editing import ground
from vbcli.editing.grammar import Description
from vbcli.editing.ground import VideoParts
from vbcli.errors import VbcliError
from vbcli.models.checkpoint import Checkpoint
from vbcli.models.retriever import VideoRetriever
from vbcli.models.videobert import VideoBert
from vbcli.retrieval.index import Item
from vbcli.retrieval.search import alignment_logits
from vbcli.stages.embed import embed_texts, embed_videos
from vbcli.textvocab import train_text_vocabulary
from vbcli.tokens import beside, pack
from vbcli.training.batches import SegmentRow, VideoTokens, collate
from vbcli.training.retrieving import RetrieveTask
from vbcli.training.showing import Showing
from vbcli.training.trainer import TrainConfig, Trainer
from vbcli.vocab.build import fit_vocabulary
from vbcli.vocab.config import VocabConfig

COLOURS = ["red", "green", "blue", "white", "black", "pink"]
SHAPES = ["ball", "cube", "ring", "star"]
N_DIMS = len(COLOURS) + len(SHAPES)
TEXT = train_text_vocabulary([f"a {c} {s} is here" for c in COLOURS for s in SHAPES])
WORLD = [(c, s) for c in range(len(COLOURS)) for s in range(len(SHAPES))]


def caption(number: int) -> str:
    colour, shape = WORLD[number % len(WORLD)]
    return f"a {COLOURS[colour]} {SHAPES[shape]} is here"


def video(number: int) -> VideoTokens:
    colour, shape = WORLD[number % len(WORLD)]
    rng = np.random.default_rng(number)
    shown = np.eye(N_DIMS, dtype=np.float32)[[colour, len(COLOURS) + shape]].sum(0)
    features = (shown + 0.1 * rng.normal(size=(3, N_DIMS))).astype(np.float32)
    segment = SegmentRow(f"{number}.mp4", 0.0, 1.5, np.zeros((3, 1), np.int32), features, "")
    return VideoTokens(f"{number}.mp4", [segment], [caption(number)], "train")


def retriever() -> VideoRetriever:
    torch.manual_seed(0)
    config = VideoBertConfig(
        1, 64, 2, 128, n_text_tokens=TEXT.n_tokens, n_visual_tokens=1, feature_dim=N_DIMS, max_positions=24,
        dropout=0.0, attention_dropout=0.0,
    )  # fmt: skip
    return VideoRetriever(VideoBert(config), 32)


@pytest.fixture(scope="module")
def retrieving(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A retriever that has seen 72 videos, three of each kind."""
    model = retriever()
    task = RetrieveTask(model, TEXT, [video(i) for i in range(72)], [video(i) for i in range(72, 96)], showing=Showing(feature_noise=0.2))
    settings = TrainConfig(max_steps=200, batch_size=24, learning_rate=2e-3, warmup_steps=20, eval_every=100)
    Trainer(task, settings, tmp_path_factory.mktemp("retrieving"), {}, lambda now: None).run()
    visual = fit_vocabulary(
        np.eye(N_DIMS, dtype=np.float32), VocabConfig(N_DIMS, 1, 0, min_points=1, n_codebooks=1), {"block_dims": [N_DIMS]}
    )
    return Checkpoint("retrieve", model.eval(), TEXT, visual, Path("vocab"), window_clips=3)


def test_videos_never_seen_are_found_by_their_captions(retrieving: Checkpoint):
    made, model, held_out = retrieving, retrieving.retriever, [video(i) for i in range(72, 96)]
    videos, texts = embed_videos(made, held_out), embed_texts(made, [v.captions[0] for v in held_out])
    np.testing.assert_allclose(np.linalg.norm(videos, axis=1), 1, atol=1e-5)
    assert (texts @ videos.T).argmax(1).tolist() == list(range(24))
    assert (texts @ videos.T).argmax(0).tolist() == list(range(24))
    # Read together: each pair by itself says what it says among many.
    items = [Item(v.video_id, "", -1, 0.0, 1.5, v.visual_tokens, v.features) for v in held_out]
    found = alignment_logits(made, held_out[5].captions[0], items)
    for row, shown in zip(found, held_out, strict=True):
        ids = TEXT.encode(held_out[5].captions[0])
        alone = collate([pack(ids, shown.visual_tokens, shown.features, TEXT, model.encoder.config)], N_DIMS, TEXT.pad_id)
        torch.testing.assert_close(row, model.alignment_logits(**alone.arguments())[0], atol=1e-5, rtol=0)


def test_a_description_means_the_parts_that_show_it(retrieving: Checkpoint, monkeypatch: pytest.MonkeyPatch):
    shown = [video(i) for i in (96, 97, 98, 97, 99)]
    items = [Item("v", "", i, 2.0 * i, 2.0 * i + 2, v.visual_tokens, v.features) for i, v in enumerate(shown)]
    parts = [VideoParts("one.mp4", items[:3]), VideoParts("two.mp4", items[3:])]
    wanted = Description(shown[1].captions[0])
    # What is read together has learned nothing in so few steps.
    monkeypatch.setattr(ground, "FITS", 0.0)
    assert [(s.video, s.start_s, s.end_s) for s in ground.find_parts(retrieving, parts, wanted)] == [(0, 2, 4), (1, 6, 8)]
    monkeypatch.setattr(ground, "FITS", 1.1)
    with pytest.raises(VbcliError, match="no part of the videos shows 'a green ball is here'") as caught:
        ground.find_parts(retrieving, parts, Description("a green ball is here"))
    assert "fits with probability 0." in str(caught.value.hint)


def test_text_beside_a_video_is_the_two_packed_together():
    config = retriever().encoder.config
    shown = video(3)
    alone = pack([], shown.visual_tokens, shown.features, TEXT, config)
    ids = TEXT.encode("a red ball")
    found, expected = beside(ids, alone, TEXT, config.max_positions), pack(ids, shown.visual_tokens, shown.features, TEXT, config)
    for name, value in vars(expected).items():
        np.testing.assert_array_equal(getattr(found, name), value)
    # Where there is no room, clips at the end give way.
    short = beside(ids, alone, TEXT, 3 + len(ids) + 2)
    np.testing.assert_array_equal(short.features, shown.features[:2])
    assert short.input_ids[-1] == TEXT.sep_id


def test_half_of_the_pairs_are_read_with_the_caption_of_another_video():
    task = RetrieveTask(retriever(), TEXT, [video(i) for i in range(24)], [])
    drawn = task.draw(0, list(range(24)), 0, is_disturbed=False)
    for epoch in range(1, 20):
        more = task.draw(0, list(range(24)), epoch, is_disturbed=False).wanted["alignment"]
        drawn.wanted["alignment"] = torch.cat([drawn.wanted["alignment"], more])
    share = float(drawn.wanted["alignment"].float().mean())
    # Three standard errors of 480 draws.
    assert abs(share - 0.5) < 3 * (0.25 / 480) ** 0.5
    assert drawn.batch.text.input_ids.shape[0] == drawn.batch.video.input_ids.shape[0] == drawn.batch.together.input_ids.shape[0] == 24
