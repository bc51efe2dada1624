from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from vbcli.config import BartConfig, VideoBertConfig
from vbcli.models.bart import BartDecoder, Captioner
from vbcli.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from vbcli.models.decoding import DecodingConfig, generate
from vbcli.models.videobert import VideoBert
from vbcli.stages.caption import _windows, caption_videos
from vbcli.textvocab import train_text_vocabulary
from vbcli.training.batches import SegmentRow, VideoTokens, collate
from vbcli.vocab.artifact import save_vocabulary
from vbcli.vocab.build import fit_vocabulary
from vbcli.vocab.config import VocabConfig

RNG = np.random.default_rng(3)
TEXT = train_text_vocabulary(["a red ball falls", "the blue cube grows and then it shrinks"])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Checkpoint:
    vocab_dir = tmp_path_factory.mktemp("vocab")
    visual = fit_vocabulary(
        RNG.normal(size=(200, 12)).astype(np.float32), VocabConfig(branching=3, levels=2, n_components=6), {"name": "none"}
    )
    save_vocabulary(visual, vocab_dir, [])
    torch.manual_seed(1)
    shape = VideoBertConfig(
        2, 16, 2, 32, n_text_tokens=TEXT.n_tokens, n_visual_tokens=visual.n_tokens, feature_dim=6, max_positions=40, initializer_range=0.4
    )
    words = BartConfig(
        1, 1, 16, 2, 32, TEXT.n_tokens, initializer_range=0.4, pad_token_id=TEXT.pad_id,
        bos_token_id=TEXT.cls_id, eos_token_id=TEXT.sep_id, decoder_start_token_id=TEXT.cls_id,
    )  # fmt: skip
    model = Captioner(VideoBert(shape), BartDecoder(words)).eval()
    return Checkpoint("caption", model, TEXT, visual, vocab_dir, window_clips=12)


def video(name: str, n_clips: int) -> VideoTokens:
    tokens = RNG.integers(0, 3, n_clips).astype(np.int32)
    return VideoTokens(name, [SegmentRow(name, 0, n_clips / 2, tokens, RNG.normal(size=(n_clips, 6)).astype(np.float32), "")])


def test_a_short_video_is_one_window_decoded_as_is(checkpoint):
    short = video("a", 9)
    ((packed, part),) = _windows(short, checkpoint)
    assert part == slice(0, len(packed.input_ids))
    batch = collate([packed], 6, TEXT.pad_id)
    with torch.inference_mode():
        memory, mask = checkpoint.captioner.encode(**batch.arguments())
        expected = generate(checkpoint.captioner.decoder, memory, mask, DecodingConfig(max_length=8))[0][0]
    (found,) = caption_videos(checkpoint, [short], DecodingConfig(max_length=8))
    assert found.token_ids == expected.token_ids
    assert found.score == pytest.approx(expected.score, abs=1e-5)


@pytest.mark.parametrize("n_clips", [12, 13, 25, 100])
def test_windows_give_each_clip_one_place_in_the_memory(checkpoint, n_clips):
    long = video("long", n_clips)
    first_visual = checkpoint.encoder.config.first_visual_id
    memory_ids = np.concatenate([packed.input_ids[part] for packed, part in _windows(long, checkpoint)])
    assert memory_ids[0] == TEXT.cls_id
    assert memory_ids[1] == checkpoint.encoder.config.boundary_token_id
    assert memory_ids[-1] == TEXT.sep_id
    np.testing.assert_array_equal(memory_ids[2:-1] - first_visual, long.visual_tokens)
    assert all(len(packed.input_ids) <= 12 + 3 for packed, _ in _windows(long, checkpoint))


def test_a_caption_does_not_depend_on_the_other_videos(checkpoint):
    videos = [video(str(i), n) for i, n in enumerate((3, 30, 12, 7))]
    together = caption_videos(checkpoint, videos, DecodingConfig(max_length=10))
    for one, expected in zip(videos, together, strict=True):
        (alone,) = caption_videos(checkpoint, [one], DecodingConfig(max_length=10))
        assert alone.token_ids == expected.token_ids
        assert alone.score == pytest.approx(expected.score, abs=1e-4)


def test_a_saved_checkpoint_gives_the_same_captions(checkpoint, tmp_path: Path):
    save_checkpoint(checkpoint, tmp_path / "c")
    loaded = load_checkpoint(tmp_path / "c", "caption")
    videos = [video(str(i), 10) for i in range(3)]
    decoding = DecodingConfig(max_length=10)
    assert caption_videos(loaded, videos, decoding) == caption_videos(checkpoint, videos, decoding)
    assert (tmp_path / "c" / "vocab" / "vocabulary.safetensors").is_file()
