"""Teaching a 3-D encoder: clips as they are encoded, what is asked of them, and motion that no single frame shows."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

from vbcli.clips import gather_clips
from vbcli.config import Conv3dConfig
from vbcli.encoders import normalise
from vbcli.encoderspecs import EncoderSpec, trained_preprocessing
from vbcli.errors import VbcliError
from vbcli.media.filters import Geometry
from vbcli.models.conv3d import Conv3dClassifier
from vbcli.pipeline import RunOptions, extract_videos
from vbcli.stages.extract import Extract
from vbcli.training.clips import VideoFrames, clip_frames, clip_starts, read_frames
from vbcli.training.encoding import EncoderTask, Objective, choose_objective, move_and_light, shuffled
from vbcli.training.options import ObjectiveChoice
from vbcli.training.tasks import TRAINING, VALIDATION
from vbcli.training.trainer import TrainConfig, Trainer

SIDE, FPS = 16, 4.0
SHAPE = Conv3dConfig(n_frames=4, size_px=SIDE, widths=(8, 16), time_strides=(1, 1), dropout=0.1)
SETTINGS = TrainConfig(max_steps=12, batch_size=6, warmup_steps=2, eval_every=4, learning_rate=3e-3)


def video(name: str, first: int, n_frames: int = 4, labels: Sequence[str] = (), captions: Sequence[str] = ()) -> VideoFrames:
    texts = [{"text": text, "start_s": None, "end_s": None} for text in captions]
    return VideoFrames(name, None, list(labels), texts, first, np.arange(n_frames) / FPS, "shard")


def moving_spots(n_pairs: int, seed: int) -> tuple[list[VideoFrames], np.ndarray]:
    """Pairs of videos of the same frames in opposite orders: a spot goes right, and goes left."""
    rng = np.random.default_rng(seed)
    videos, frames = [], []
    for i in range(n_pairs):
        row, colour = rng.integers(2, SIDE - 5), rng.integers(100, 256, 3)
        clip = np.tile(rng.integers(0, 60, (1, SIDE, SIDE, 3)), (4, 1, 1, 1)).astype(np.uint8)
        start = int(rng.integers(0, 3))
        for k in range(4):
            left = start + 3 * k
            clip[k, row : row + 4, left : left + 4] = colour
        for label, order in (("right", clip), ("left", clip[::-1])):
            videos.append(video(f"{i}-{label}", 4 * len(videos), labels=[label]))
            frames.append(order)
    return videos, np.concatenate(frames)


def task_of(videos: list[VideoFrames], pixels: np.ndarray, n_train: int, choice: ObjectiveChoice = "auto", seed: int = 0) -> EncoderTask:
    objective = choose_objective(videos[:n_train], choice)
    torch.manual_seed(seed)
    model = Conv3dClassifier(SHAPE, len(objective.classes))
    return EncoderTask(model, objective, pixels, trained_preprocessing(SIDE), FPS, videos[:n_train], videos[n_train:], seed=seed)


# ---------------------------------------------------------------- clips


@given(st.sampled_from([(2.0, 8), (4.0, 8), (8.0, 16), (7.5, 3)]), st.integers(1, 50))
def test_clips_are_trained_on_as_they_are_encoded(rate: tuple[float, int], n: int) -> None:
    fps, n_frames = rate
    pts_s = np.arange(n) / fps
    spec = EncoderSpec("none", "", trained_preprocessing(8), fps, n_frames, "mean", 1, (1,), "float32")
    frames = ((float(t), np.full((1, 1, 3), i, np.uint8)) for i, t in enumerate(pts_s))
    expected = {clip.start_s: clip.pixels[:, 0, 0, 0].tolist() for clip in gather_clips(frames, spec, "fixed")}
    found = {start_s: clip_frames(pts_s, start_s, n_frames, fps).tolist() for start_s in clip_starts(pts_s, n_frames, fps)}
    assert found == expected


def test_frames_are_read_into_a_file(video_folder: Path, tmp_path: Path) -> None:
    """Against the pictures, decoded by hand."""
    from PIL import Image

    from vbcli import shards

    frames_dir = tmp_path / "frames"
    extract_videos(video_folder, frames_dir, Extract(fps=4, size_px=48), [video_folder / "captions.csv"], RunOptions("serial"))
    with (tmp_path / "store").open("w+b") as scratch:
        videos, pixels = read_frames(frames_dir, Geometry((32, 32), 32), scratch)
    table = shards.read_shard(frames_dir / "shard-00000.parquet").to_pylist()
    assert pixels.shape == (len(table), 32, 32, 3)
    for row, stored in zip(table, pixels, strict=True):
        picture = Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB").resize((32, 32), Image.Resampling.BICUBIC)
        assert np.array_equal(np.asarray(picture), stored)
    assert [v.video_id for v in videos] == ["a.mp4", "b.mkv", "c.mp4", "more/d.mp4"]
    assert [v.split for v in videos] == ["train", "val", None, "train"]
    assert [len(v.pts_s) for v in videos] == [sum(row["video_id"] == v.video_id for row in table) for v in videos]
    assert [v.first for v in videos] == [next(i for i, row in enumerate(table) if row["video_id"] == v.video_id) for v in videos]
    assert videos[0].captions[0]["text"] == "A picture of bars."


# ---------------------------------------------------------------- what is asked


def test_labels_come_before_words_and_words_before_order() -> None:
    # Of 10 videos: "the" in all, "ball" in five, "red" in two, "odd" in one.
    texts = ["The ball!", "the ball", "the ball rolls", "the red ball", "the Red, ball", "the odd", "the", "the", "the", "the"]
    captioned = [video(str(i), 0, captions=[text]) for i, text in enumerate(texts)]
    assert choose_objective(captioned, "auto") == Objective("words", ("ball", "red"))
    labelled = [*captioned, video("x", 0, labels=["a"]), video("y", 0, labels=["b"])]
    assert choose_objective(labelled, "auto") == Objective("labels", ("a", "b"), is_exclusive=True)
    assert choose_objective([*labelled, video("z", 0, labels=["a", "b"])], "auto") == Objective("labels", ("a", "b"))
    assert choose_objective(labelled, "words").name == "words"
    assert choose_objective(labelled, "order").name == choose_objective([video("x", 0)], "auto").name == "order"
    with pytest.raises(VbcliError, match="have 0 labels: at least 2 are needed"):
        choose_objective(captioned, "labels")
    with pytest.raises(VbcliError, match="no word is in the captions of 2% to 50%"):
        choose_objective([video("x", 0, labels=["a"])], "words")


def test_words_are_those_of_captions_of_the_clip() -> None:
    long = video("long", 0, n_frames=8)
    long.captions = [{"text": "red", "start_s": 0.0, "end_s": 0.9}, {"text": "blue", "start_s": 1.1, "end_s": 2.0}]
    quiet = video("quiet", 0, n_frames=4)
    pixels = np.zeros((8, SIDE, SIDE, 3), np.uint8)
    made = EncoderTask(
        Conv3dClassifier(SHAPE, 2), Objective("words", ("blue", "red")), pixels, trained_preprocessing(SIDE), FPS, [long, quiet], [long]
    )
    # What is said of no clip is no lack of words.
    assert [(source.video_id, row.classes) for source, row in made.parts[TRAINING]] == [("long", (1,)), ("long", (0,))]


@given(st.integers(3, 9), st.integers(0, 1000))
def test_a_wrong_order_is_not_the_true_one_backwards(n: int, seed: int) -> None:
    order = shuffled(n, np.random.default_rng(seed)).tolist()
    assert sorted(order) == list(range(n))
    assert order not in (list(range(n)), list(range(n))[::-1])


def test_a_clip_moves_as_a_whole() -> None:
    """A frame of a ramp shows where it was moved to; all frames must agree, and none may be mirrored."""
    across, down = np.meshgrid(np.arange(40), np.arange(40))
    clip = np.tile(np.stack([across, down, np.full_like(across, 30)], -1).astype(np.uint8), (3, 1, 1, 1))
    shifts = set()
    for seed in range(60):
        moved = move_and_light(clip, np.random.default_rng(seed)).astype(float)
        assert np.array_equal(moved[0], moved[2])
        light = moved[0, 0, 0, 2] / 30
        assert 0.8 < light < 1.2
        middle = moved[0, 10:30, 10:30] / light
        dx, dy = (middle[..., 0] - across[10:30, 10:30]).mean(), (middle[..., 1] - down[10:30, 10:30]).mean()
        assert np.diff(middle[..., 0], axis=1).mean() == pytest.approx(1, abs=0.2)
        shifts.add((round(dx), round(dy)))
    assert min(min(s) for s in shifts) <= -3
    assert max(max(s) for s in shifts) >= 3
    assert max(abs(v) for s in shifts for v in s) <= 5


def test_a_row_is_the_same_in_every_batch() -> None:
    made = task_of(*moving_spots(6, 0), n_train=8)
    one = made.draw(TRAINING, [5], 2, is_disturbed=True)
    many = made.draw(TRAINING, [1, 5, 3], 2, is_disturbed=True)
    assert torch.equal(one.batch.frames[0], many.batch.frames[1])
    assert torch.equal(one.wanted["classes"][0], many.wanted["classes"][1])
    assert one.keys[0] == many.keys[1]
    assert not torch.equal(one.batch.frames, made.draw(TRAINING, [5], 3, is_disturbed=True).batch.frames)
    still = made.draw(VALIDATION, [0], 0, is_disturbed=False)
    assert torch.equal(still.batch.frames[0], torch.from_numpy(made.pixels[32:36]))


def test_losses_are_those_written_out() -> None:
    videos, pixels = moving_spots(4, 0)
    exclusive = task_of(videos, pixels, n_train=6)
    videos[0].labels = ["left", "right"]
    several = task_of(videos, pixels, n_train=6)
    for made in (exclusive, several):
        made.model.eval()
        drawn = made.draw(TRAINING, [0, 1, 2], 0, is_disturbed=False)
        x = torch.from_numpy(np.moveaxis((pixels[:12].reshape(3, 4, SIDE, SIDE, 3) / 255 - 0.45) / 0.225, -1, 1)).float()
        p = made.model(x).double()
        if made is exclusive:
            expected = -F.log_softmax(p, 1)[range(3), [1, 0, 1]].sum()
        else:
            wanted = torch.tensor([[1, 1], [1, 0], [0, 1]])
            expected = -(torch.where(wanted == 1, torch.sigmoid(p), 1 - torch.sigmoid(p))).log().sum()
        assert float(made.losses(drawn)["labels"].detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
        assert drawn.counts == {"labels": 3 if made is exclusive else 6}


# ---------------------------------------------------------------- learning


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_interrupted_training_resumes_to_the_same_weights(tmp_path: Path, ema_decay: float) -> None:
    settings = TrainConfig(**{**vars(SETTINGS), "ema_decay": ema_decay})
    videos, pixels = moving_spots(8, 0)
    whole = task_of(videos, pixels, 12)
    Trainer(whole, settings, tmp_path / "whole", {}, lambda now: None).run()

    class Stop(Exception):
        pass

    def stop_at(now):
        if now.step == 7:
            raise Stop

    with pytest.raises(Stop):
        Trainer(task_of(videos, pixels, 12), settings, tmp_path / "broken", {}, stop_at).run()
    resumed = task_of(videos, pixels, 12)
    Trainer(resumed, settings, tmp_path / "broken", {}, lambda now: None).run()
    curves = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "broken")]
    assert curves[0] == curves[1]
    assert len(json.loads("[" + ",".join(curves[0].splitlines()) + "]")) == 12
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_pieces_of_a_step_change_nothing(tmp_path: Path) -> None:
    videos, pixels = moving_spots(8, 0)
    states = []
    for accumulation in (1, 3):
        made = task_of(videos, pixels, 12)
        settings = TrainConfig(**{**vars(SETTINGS), "accumulation": accumulation})
        Trainer(made, settings, tmp_path / str(accumulation), {}, lambda now: None).run()
        states.append(made.model.state_dict())
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], atol=1e-3, rtol=1e-2)


def test_motion_is_learned_that_no_frame_shows(tmp_path: Path) -> None:
    """Both classes are made of the same frames: the mean of their frames says nothing, and their order everything."""
    videos, pixels = moving_spots(60, 1)
    n_train = 80
    made = task_of(videos, pixels, n_train)
    settings = TrainConfig(max_steps=120, batch_size=16, learning_rate=5e-3, warmup_steps=10, eval_every=40)
    Trainer(made, settings, tmp_path, {}, lambda now: None).run()
    drawn = made.draw(VALIDATION, range(made.n_validation), 0, is_disturbed=False)
    with torch.inference_mode():
        frames = normalise(drawn.batch.frames, made.preprocessing)
        learned = (made.model(frames).argmax(1) == drawn.wanted["classes"].argmax(1)).float().mean()
    # 40 held-out videos: a coin has 0.85 or more right once in a million times.
    assert learned >= 0.85
    means = pixels.reshape(len(videos), 4, -1).mean(1)
    labels = [v.labels[0] for v in videos]
    blind = LogisticRegression(max_iter=200).fit(means[:n_train], labels[:n_train]).score(means[n_train:], labels[n_train:])
    # Of two videos with one mean exactly one is right.
    assert blind == 0.5


def test_the_order_of_frames_is_learned_without_any_label(tmp_path: Path) -> None:
    videos, pixels = moving_spots(60, 1)
    made = task_of(videos, pixels, 80, "order")
    settings = TrainConfig(max_steps=150, batch_size=16, learning_rate=5e-3, warmup_steps=10, eval_every=50)
    result = Trainer(made, settings, tmp_path, {}, lambda now: None).run()
    # Guessing costs log(2) = 0.69.
    assert result.best_loss < 0.5
