"""A captioner that learns its language from text, in a world in which few videos have captions."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from vbcli.config import BartConfig, VideoBertConfig
from vbcli.models.bart import BartDecoder, Captioner
from vbcli.models.bridge import SentenceBridge
from vbcli.models.checkpoint import Checkpoint
from vbcli.models.decoding import DecodingConfig
from vbcli.models.sentences import SentenceEncoder, load_sentence_encoder, minilm_dir
from vbcli.models.videobert import VideoBert
from vbcli.stages.caption import caption_videos
from vbcli.textvocab import train_text_vocabulary
from vbcli.training.batches import SegmentRow, VideoTokens, read_texts
from vbcli.training.captioning import CaptionTask
from vbcli.training.from_text import CAPTION_SHOWN, SENTENCE_NOISE, bridge_video, teach_from_text
from vbcli.training.showing import Showing
from vbcli.training.trainer import TrainConfig, Trainer
from vbcli.vocab.build import fit_vocabulary
from vbcli.vocab.config import VocabConfig

THINGS = ["dog", "cat", "horse", "car", "train", "boat", "guitar", "piano"]
DEEDS = ["is in the water", "is on a street", "is in a kitchen", "is on a stage"]
WORLD = list(itertools.product(range(len(THINGS)), range(len(DEEDS))))
N_DIMS = len(THINGS) + len(DEEDS)


def sentence(thing: int, deed: int) -> str:
    return f"a {THINGS[thing]} {DEEDS[deed]}"


def video(number: int, captions: list[str] | None = None) -> VideoTokens:
    """Its clips show a thing and what it does."""
    thing, deed = WORLD[number % len(WORLD)]
    rng = np.random.default_rng(number)
    shown = np.eye(N_DIMS, dtype=np.float32)[[thing, len(THINGS) + deed]].sum(0)
    features = (shown + 0.1 * rng.normal(size=(3, N_DIMS))).astype(np.float32)
    segment = SegmentRow(f"{number}.mp4", 0.0, 1.5, np.zeros((3, 1), np.int32), features, "")
    return VideoTokens(f"{number}.mp4", [segment], [sentence(thing, deed)] if captions is None else captions, "train")


@pytest.fixture(scope="module")
def encoder() -> SentenceEncoder:
    return load_sentence_encoder(minilm_dir())


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> list[VideoTokens]:
    path = tmp_path_factory.mktemp("text") / "sentences.txt"
    path.write_text("\n".join(sentence(*pair) for pair in WORLD) + "\n")
    return read_texts(path, N_DIMS)


def checkpoint(text_of: list[VideoTokens]) -> Checkpoint:
    text = train_text_vocabulary(v.segments[0].text for v in text_of)
    torch.manual_seed(0)
    shape = VideoBertConfig(
        1, 64, 2, 128, n_text_tokens=text.n_tokens, n_visual_tokens=1, feature_dim=384, visual_input="features", max_positions=8,
        dropout=0.0, attention_dropout=0.0,
    )  # fmt: skip
    words = BartConfig(
        1, 1, 64, 2, 128, text.n_tokens, dropout=0.0, attention_dropout=0.0, pad_token_id=text.pad_id, bos_token_id=text.cls_id,
        eos_token_id=text.sep_id, decoder_start_token_id=text.cls_id,
    )  # fmt: skip
    model = Captioner(VideoBert(shape), BartDecoder(words), SentenceBridge(N_DIMS, 384))
    visual = fit_vocabulary(
        np.eye(N_DIMS, dtype=np.float32), VocabConfig(N_DIMS, 1, 0, min_points=1, n_codebooks=1), {"block_dims": [N_DIMS]}
    )
    return Checkpoint("caption", model, text, visual, Path("vocab"), window_clips=1)


def test_held_out_videos_are_described_by_sentences_that_no_video_had(encoder: SentenceEncoder, texts: list[VideoTokens], tmp_path: Path):
    """Of 32 things that can be said every fourth has no video to learn from: the bridge puts its videos there, and the text is known."""
    learned = [video(i) for i in range(64) if i % 4 != WORLD[i % 32][0] % 4]
    held_out = [video(i) for i in range(64, 96) if i % 4 == WORLD[i % 32][0] % 4]
    assert not {v.captions[0] for v in learned} & {v.captions[0] for v in held_out}
    made, notes = checkpoint(texts), []
    train, validation = teach_from_text(made, learned, held_out, texts, encoder, 500 * 32, notes.append)
    assert notes[0] == f"learning to write from 32 sentences and {len(learned)} captions"
    assert made.captioner.bridge is not None
    # A sentence is its own vector; a held-out video is where the bridge puts it.
    np.testing.assert_allclose(validation[0].features, bridge_video(held_out[0], made.captioner.bridge).features)
    np.testing.assert_allclose(train[3].features[0], encoder.encode(train[3].captions)[0], atol=1e-5)
    task = CaptionTask(made.captioner, made.text, train, validation, showing=Showing(feature_noise=SENTENCE_NOISE, clip_drop=0.0))
    settings = TrainConfig(max_steps=500, batch_size=32, learning_rate=2e-3, warmup_steps=20, eval_every=200)
    Trainer(task, settings, tmp_path, {}, lambda now: None).run()
    written = [made.text.decode(h.token_ids) for h in caption_videos(made, held_out, DecodingConfig(n_beams=4, max_length=16))]
    truths = [v.captions[0] for v in held_out]
    things = sum(w.split()[1] == t.split()[1] for w, t in zip(written, truths, strict=True))
    deeds = sum(w.split()[2:] == t.split()[2:] for w, t in zip(written, truths, strict=True))
    # Chance is an eighth and a quarter.
    assert things >= 0.75 * len(held_out)
    assert deeds >= 0.75 * len(held_out)


@pytest.mark.parametrize("n_steps", [120, 500])
def test_captions_are_shown_as_often_however_long_the_training(encoder: SentenceEncoder, tmp_path: Path, n_steps: int):
    (tmp_path / "text.txt").write_text("".join(f"sentence {i}\n" for i in range(400)))
    texts = read_texts(tmp_path / "text.txt", N_DIMS)
    learned = [video(i, [f"caption {i}"]) for i in range(12)]
    train, validation = teach_from_text(checkpoint(texts), learned, [], texts, encoder, n_steps * 16, lambda note: None)
    counts = Counter(v.captions[0] for v in train)
    epochs = n_steps * 16 / len(train)
    assert epochs * counts["caption 3"] == pytest.approx(CAPTION_SHOWN, rel=0.1)
    assert counts["sentence 0"] == 1
    assert validation == []


def test_without_captions_language_alone_is_learned(encoder: SentenceEncoder, texts: list[VideoTokens]):
    made, notes = checkpoint(texts), []
    train, validation = teach_from_text(made, [video(i, []) for i in range(20)], [], texts, encoder, 1000, notes.append)
    assert made.captioner.bridge is not None
    assert not made.captioner.bridge.is_fitted
    assert "only language is learned" in notes[-1]
    assert sorted(v.captions[0] for v in (*train, *validation)) == sorted(sentence(*pair) for pair in WORLD)
    assert validation
