"""Teaching a 3-D encoder: labels, words of captions, or the order of frames.

Notation: B batch, F frames, S side of a frame in pixels, K classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from tokenizers import normalizers, pre_tokenizers
from torch import Tensor
from torch.nn import functional as F

from vbcli.encoders import normalise
from vbcli.encoderspecs import Preprocessing
from vbcli.errors import VbcliError
from vbcli.models.conv3d import Conv3dClassifier
from vbcli.stages.tokenize import captions_within
from vbcli.training.clips import ClipBatch, VideoFrames, clip_frames, clip_starts
from vbcli.training.options import ObjectiveChoice
from vbcli.training.tasks import TRAINING, VALIDATION, DrawnRows, Task, row_rng

WORD_SHARES = (0.02, 0.5)
"""Of the training videos: rarer words are not learned from so few, more frequent ones say nothing."""
MAX_SHIFT = 0.1
"""Of a frame's side, that a whole clip is moved by in training."""
MAX_LIGHT = 0.15
"""Share by which a whole clip is made brighter or darker in training."""


@dataclass(frozen=True)
class Objective:
    """What is asked of a clip.

    Args:
        classes: what can be said; for `order` the only answer is yes or no.
        is_exclusive: a clip is of exactly one class.
    """

    name: Literal["labels", "words", "order"]
    classes: tuple[str, ...]
    is_exclusive: bool = False

    @property
    def note(self) -> str:
        """A sentence for the user."""
        if self.name == "labels":
            return f"the encoder learns which of {len(self.classes)} labels a clip has"
        if self.name == "words":
            return f"the encoder learns which of {len(self.classes)} words the captions of a clip hold"
        return "the encoder learns whether the frames of a clip are in order"


def choose_objective(train: Sequence[VideoFrames], choice: ObjectiveChoice) -> Objective:
    """Labels, else words of captions, else the order of frames; or what is asked for.

    Raises:
        VbcliError: the videos do not have what is asked for.
    """
    labels = sorted({label for video in train for label in video.labels})
    if choice in ("auto", "labels") and len(labels) > 1:
        return Objective("labels", tuple(labels), all(len(set(video.labels)) <= 1 for video in train))
    if choice == "labels":
        raise VbcliError(f"the training videos have {len(labels)} labels: at least 2 are needed", hint="give them with --captions FILE")
    words = _frequent_words(train)
    if choice in ("auto", "words") and words:
        return Objective("words", words)
    if choice == "words":
        low, high = (f"{share:.0%}" for share in WORD_SHARES)
        raise VbcliError(f"no word is in the captions of {low} to {high} of the training videos", hint="give captions with --captions FILE")
    return Objective("order", ("in order",))


def _frequent_words(train: Sequence[VideoFrames]) -> tuple[str, ...]:
    counts = Counter(word for video in train for word in _words(video.captions))
    low, high = (share * len(train) for share in WORD_SHARES)
    return tuple(sorted(word for word, n in counts.items() if max(2, low) <= n <= high))


def _words(captions: Sequence[dict[str, Any]]) -> set[str]:
    """Words as BERT parts them, in lower case; signs of punctuation are none."""
    normalised = (normalizers.BertNormalizer().normalize_str(caption["text"]) for caption in captions)
    parts = (pre_tokenizers.BertPreTokenizer().pre_tokenize_str(text) for text in normalised)
    return {word for found in parts for word, _ in found if word.isalnum()}


@dataclass(frozen=True)
class ClipRow:
    """A clip and the numbers of its classes."""

    start_s: float
    classes: tuple[int, ...]


class EncoderTask(Task[Conv3dClassifier, VideoFrames, ClipRow, ClipBatch]):
    """Saying what is in a clip; every clip of every video is a row.

    In training a clip begins up to half its length earlier or later, is moved and lit as a whole. Nothing is mirrored or played at another
    speed: that would change what happens in it.

    Args:
        pixels: the store that the videos' frames are in, uint8 (frames, S, S, 3).
        fps: frames a second of a clip.
    """

    name = "encoder"

    def __init__(
        self,
        model: Conv3dClassifier,
        objective: Objective,
        pixels: np.ndarray,
        preprocessing: Preprocessing,
        fps: float,
        train: Sequence[VideoFrames],
        validation: Sequence[VideoFrames],
        *,
        seed: int = 0,
    ) -> None:
        self.objective, self.pixels, self.preprocessing, self.fps = objective, pixels, preprocessing, fps
        self.n_frames = model.encoder.config.n_frames
        super().__init__(model, [[row for video in part for row in self._rows(video)] for part in (train, validation)], seed)
        self.loss_names = (objective.name,)
        if not self.parts[VALIDATION]:
            self.notes.append(f"no validation video has {objective.name}: the training videos validate")
            self.parts[VALIDATION] = self.parts[TRAINING]

    def _rows(self, video: VideoFrames) -> list[tuple[VideoFrames, ClipRow]]:
        """The clips of a video; those that say nothing of the objective are left out."""
        rows = []
        for start_s in clip_starts(video.pts_s, self.n_frames, self.fps):
            captions = captions_within(video.captions, start_s, start_s + self.n_frames / self.fps)
            found = {"labels": set(video.labels), "words": _words(captions), "order": set()}[self.objective.name]
            classes = tuple(i for i, name in enumerate(self.objective.classes) if name in found)
            is_known = {"labels": bool(classes), "words": bool(captions), "order": True}[self.objective.name]
            if is_known:
                rows.append((video, ClipRow(start_s, classes)))
        return rows

    def draw(self, part: int, rows: Sequence[int], epoch: int, *, is_disturbed: bool) -> DrawnRows[ClipBatch]:
        n_classes = len(self.objective.classes)
        drawn = [self._draw(*self.parts[part][row], row_rng(self.seed, epoch, row), is_disturbed) for row in rows]
        wanted = np.zeros((len(rows), n_classes), np.float32)
        for i, (_, classes) in enumerate(drawn):
            wanted[i, list(classes)] = 1
        frames = torch.from_numpy(np.stack([clip for clip, _ in drawn]))  # (B, F, S, S, 3)
        n_asked = len(rows) * (1 if self.objective.is_exclusive else n_classes)
        n_frames = len(rows) * self.n_frames
        return DrawnRows(
            ClipBatch(frames), {"classes": torch.from_numpy(wanted)}, {self.objective.name: n_asked}, n_frames, self.row_keys(rows, epoch)
        )

    def losses(self, drawn: DrawnRows[ClipBatch]) -> dict[str, Tensor]:
        logits = self.model(normalise(drawn.batch.frames, self.preprocessing)).float()  # (B, K)
        wanted = drawn.wanted["classes"]  # (B, K)
        if self.objective.is_exclusive:
            return {self.objective.name: F.cross_entropy(logits, wanted, reduction="sum")}
        return {self.objective.name: F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum")}

    def _draw(self, video: VideoFrames, row: ClipRow, rng: np.random.Generator, is_disturbed: bool) -> tuple[np.ndarray, tuple[int, ...]]:
        """A clip, uint8 (F, S, S, 3), and its classes."""
        clip_s, start_s, classes = self.n_frames / self.fps, row.start_s, row.classes
        if is_disturbed:
            latest_s = max(0.0, float(video.pts_s[-1]) - clip_s + 1 / self.fps)
            start_s = min(max(0.0, start_s + clip_s * rng.uniform(-0.5, 0.5)), max(latest_s, row.start_s))
        slots = clip_frames(video.pts_s, start_s, self.n_frames, self.fps)
        if self.objective.name == "order":
            is_ordered = rng.random() < 0.5
            classes = (0,) if is_ordered else ()
            slots = slots if is_ordered else slots[shuffled(self.n_frames, rng)]
        clip = self.pixels[video.first + slots]  # (F, S, S, 3)
        return move_and_light(clip, rng) if is_disturbed else clip, classes


def shuffled(n_frames: int, rng: np.random.Generator) -> np.ndarray:
    """An order of frames, int64 (F,), that is neither the true one nor that backwards: many motions can be played backwards.

    Source: Misra et al. 2016, "Shuffle and learn", section 3.
    """
    true = np.arange(n_frames)
    if n_frames < 3:
        return true[::-1]
    while True:
        order = rng.permutation(n_frames)
        if not (np.array_equal(order, true) or np.array_equal(order, true[::-1])):
            return order


def move_and_light(clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Moves all frames of a clip, uint8 (F, S, S, 3), by the same way, repeating its edge, and makes them brighter or darker alike."""
    side = clip.shape[1]
    reach = int(MAX_SHIFT * side)
    down, right = rng.integers(-reach, reach + 1, size=2)
    place = np.arange(side)
    moved = clip[:, np.clip(place + down, 0, side - 1)][:, :, np.clip(place + right, 0, side - 1)]
    return np.clip(moved * np.float32(rng.uniform(1 - MAX_LIGHT, 1 + MAX_LIGHT)), 0, 255).astype(np.uint8)
