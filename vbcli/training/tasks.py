"""What a task is: rows to learn from, and the losses of a model on them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Generic, Protocol, Self, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from vbcli.errors import VbcliError
from vbcli.textvocab import TextVocabulary
from vbcli.training.batches import Batch, VideoTokens

IGNORED = -100
TRAINING, VALIDATION = 0, 1
"""The two parts of a task's rows."""
VALIDATION_NAMES = ("val", "valid", "validate", "validation", "dev")


class Shown(Protocol):
    """What a model is shown of some rows."""

    def to(self, device: torch.device) -> Self: ...


class Source(Protocol):
    """A video that rows come from, and the shard that it was read from."""

    video_id: str
    split: str | None
    shard: str


ShownT = TypeVar("ShownT", bound=Shown)
ModelT = TypeVar("ModelT", bound=nn.Module)
SourceT = TypeVar("SourceT", bound=Source)
RowT = TypeVar("RowT")


@dataclass
class DrawnRows(Generic[ShownT]):
    """Rows as the model sees them in one step.

    Args:
        batch: what it is shown.
        wanted: what it must say, by name, as the task's `losses` reads it.
        counts: predictions that are asked for, by the name of their loss.
        n_tokens: real (not padded) tokens that go through the model.
        keys: uint64 (B,), of the rows' dropout.
    """

    batch: ShownT
    wanted: dict[str, Tensor]
    counts: dict[str, int]
    n_tokens: int
    keys: np.ndarray

    def to(self, device: torch.device) -> DrawnRows[ShownT]:
        """The same, with its tensors on a device."""
        return replace(self, batch=self.batch.to(device), wanted={name: tensor.to(device) for name, tensor in self.wanted.items()})


class Task(ABC, Generic[ModelT, SourceT, RowT, ShownT]):
    """Rows to learn from and the losses of a model on them.

    Everything random about a row is drawn from (seed, epoch, row), never from its batch. Losses are sums over predictions, to be divided by
    the number of them in the whole step, so that cutting a step into pieces, on one machine or several, changes nothing.

    Args:
        parts: the rows to learn from, and those to validate with; each begins with the video that it comes from.
    """

    name: str
    loss_names: tuple[str, ...]

    def __init__(self, model: ModelT, parts: list[list[tuple[SourceT, RowT]]], seed: int) -> None:
        self.model = model
        self.parts = parts
        self.seed = seed
        self.notes: list[str] = []

    @property
    def n_train(self) -> int:
        """Rows to learn from."""
        return len(self.parts[TRAINING])

    @property
    def n_validation(self) -> int:
        """Rows to validate with."""
        return len(self.parts[VALIDATION])

    @abstractmethod
    def draw(self, part: int, rows: Sequence[int], epoch: int, *, is_disturbed: bool) -> DrawnRows[ShownT]:
        """Draws rows.

        Args:
            part: `TRAINING` or `VALIDATION`.
            is_disturbed: with the noise that makes learning by heart hard.
        """

    @abstractmethod
    def losses(self, drawn: DrawnRows[ShownT]) -> dict[str, Tensor]:
        """Sum of the loss over the predictions of each name; zero where there are none."""

    def row_keys(self, rows: Sequence[int], epoch: int) -> np.ndarray:
        """Keys of the rows' dropout, uint64 (B,)."""
        return np.array([np.random.SeedSequence([self.seed, epoch, row, 1]).generate_state(1, np.uint64)[0] for row in rows])


class TokensTask(Task[ModelT, VideoTokens, RowT, Batch]):
    """A task on the tokens of videos.

    Args:
        text: the vocabulary of their text.
    """

    def __init__(self, model: ModelT, text: TextVocabulary, parts: list[list[tuple[VideoTokens, RowT]]], seed: int) -> None:
        super().__init__(model, parts, seed)
        self.text = text

    def _need_validation(self, note: str) -> None:
        """Where nothing is there to validate with, the training rows do it, and `note` says so."""
        if not self.parts[VALIDATION]:
            self.notes.append(note)
            self.parts[VALIDATION] = self.parts[TRAINING]


def split_videos(videos: Sequence[SourceT], split: str) -> tuple[list[SourceT], list[SourceT], str | None]:
    """Training and validation videos.

    The validation part is the split called val (or valid, validation, dev). Where there is none, every tenth training
    video by position validates.

    Returns:
        Training videos, validation videos, and a note on where the validation part came from.

    Raises:
        VbcliError: no video is in `split`.
    """
    train = [v for v in videos if (v.split or "train") == split]
    if not train:
        known = sorted({v.split or "train" for v in videos})
        raise VbcliError(f"no video is in the split '{split}'", hint=f"there is: {', '.join(known)}")
    validation = [v for v in videos if v.split in VALIDATION_NAMES and v.split != split]
    if validation:
        return train, validation, None
    if len(train) < 2:
        return train, train, "one video only: it is also the validation part"
    held_out = set(range(0, len(train), 10))
    note = f"no validation split: {len(held_out)} of the {len(train)} training videos validate"
    return [v for i, v in enumerate(train) if i not in held_out], [train[i] for i in sorted(held_out)], note


def row_rng(seed: int, epoch: int, row: int) -> np.random.Generator:
    """What is random about a row: the same in every batch, process and run."""
    return np.random.default_rng([seed, epoch, row])


def feature_noise(shape: tuple[int, ...], length: float, rng: np.random.Generator) -> np.ndarray:
    """Random vectors, float32, of a root-mean-square length `length` along the last axis of `shape`."""
    return rng.normal(0, length / max(1, shape[-1]) ** 0.5, shape).astype(np.float32)
