"""A classifier in a checkpoint, and what it says of long videos."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vbcli.config import VideoBertConfig
from vbcli.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from vbcli.models.classifier import VideoClassifier
from vbcli.models.videobert import VideoBert
from vbcli.stages.classify import class_probabilities, class_row
from vbcli.stages.model import video_windows
from vbcli.textvocab import train_text_vocabulary
from vbcli.tokens import pack
from vbcli.training.batches import SegmentRow, VideoTokens, collate
from vbcli.vocab.artifact import Vocabulary, save_vocabulary
from vbcli.vocab.build import fit_vocabulary
from vbcli.vocab.config import VocabConfig

N_DIMS = 4
TEXT = train_text_vocabulary(["a red thing", "a blue thing"])
CLASSES = ("fall", "left", "rise")


def video(n_clips: int, seed: int = 0) -> VideoTokens:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n_clips, N_DIMS)).astype(np.float32)
    return VideoTokens(f"{seed}.mp4", [SegmentRow(f"{seed}.mp4", 0.0, n_clips / 2, rng.integers(0, 4, n_clips).astype("i4"), features, "")])


@pytest.fixture(scope="module")
def visual() -> Vocabulary:
    config = VocabConfig(N_DIMS, 1, 0, min_points=1, n_codebooks=1)
    return fit_vocabulary(np.eye(N_DIMS, dtype=np.float32), config, {"block_dims": [N_DIMS]})


def checkpoint(visual: Vocabulary, vocab_dir: Path, *, is_multi_label: bool = False) -> Checkpoint:
    torch.manual_seed(0)
    shape = VideoBertConfig(1, 16, 2, 32, n_text_tokens=TEXT.n_tokens, n_visual_tokens=4, feature_dim=N_DIMS, max_positions=64)
    model = VideoClassifier(VideoBert(shape), CLASSES, is_multi_label=is_multi_label).eval()
    with torch.no_grad():
        # Far from the start, where all classes are alike.
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return Checkpoint("classify", model, TEXT, visual, vocab_dir, window_clips=8)


@pytest.mark.parametrize("is_multi_label", [False, True])
def test_a_classifier_comes_back_from_its_folder(visual: Vocabulary, tmp_path: Path, is_multi_label: bool):
    save_vocabulary(visual, tmp_path / "vocab", [])
    made = checkpoint(visual, tmp_path / "vocab", is_multi_label=is_multi_label)
    save_checkpoint(made, tmp_path / "model")
    read = load_checkpoint(tmp_path / "model", "classify")
    assert (read.classifier.classes, read.classifier.head.is_multi_label, read.window_clips) == (CLASSES, is_multi_label, 8)
    videos = [video(5, 1), video(7, 2)]
    assert np.array_equal(class_probabilities(read, videos), class_probabilities(made, videos))


def test_a_long_video_is_read_in_windows_and_its_probabilities_are_their_mean(visual: Vocabulary, tmp_path: Path):
    made = checkpoint(visual, tmp_path)
    long = video(20, 3)
    windows = video_windows(long, made)
    shown = [w.packed.features for w in windows]
    assert len(shown) > 1
    assert max(map(len, shown)) == 8
    assert np.array_equal(np.unique(np.concatenate(shown), axis=0), np.unique(long.features, axis=0))
    expected = []
    for window in windows:
        with torch.no_grad():
            logits = made.classifier(**collate([window.packed], N_DIMS, TEXT.pad_id).arguments())[0].double()
        expected.append(torch.softmax(logits, -1).numpy())
    # Beside a shorter video, whose padding must change nothing.
    found = class_probabilities(made, [long, video(3, 4)])
    assert found[0] == pytest.approx(np.mean(expected, 0), abs=1e-6)
    assert found.sum(1) == pytest.approx([1, 1])


def test_transcripts_are_shown_to_a_classifier_that_learned_with_them(visual: Vocabulary, tmp_path: Path):
    said = video(4, 5)
    said.segments = [replace(said.segments[0], text="a red thing")]
    made = checkpoint(visual, tmp_path)
    silent = video_windows(said, made)[0].packed
    assert silent.input_ids.tolist() == pack([], said.visual_tokens, said.features, TEXT, made.encoder.config).input_ids.tolist()
    made.window_text = 5
    told = video_windows(said, made)[0].packed
    assert told.input_ids[1:4].tolist() == TEXT.encode("a red thing")


@pytest.mark.parametrize(
    ("is_multi_label", "probabilities", "labels"),
    [(False, (0.2, 0.3, 0.5), ["rise"]), (True, (0.6, 0.1, 0.7), ["rise", "fall"]), (True, (0.4, 0.1, 0.3), [])],
)
def test_the_row_of_a_video(is_multi_label: bool, probabilities: tuple[float, ...], labels: list[str]):
    row = class_row(np.array(probabilities), CLASSES, is_multi_label)
    assert row["labels"] == labels
    assert [s["probability"] for s in row["scores"]] == sorted(probabilities, reverse=True)
    assert {s["label"]: s["probability"] for s in row["scores"]} == dict(zip(CLASSES, probabilities, strict=True))
