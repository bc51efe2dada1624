"""What a task is: rows to learn from, and the losses of a model on them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from torch import Tensor, nn

from vbcli.errors import VbcliError
from vbcli.tokens import TextVocabulary
from vbcli.training.batches import VideoTokens

IGNORED = -100
VALIDATION_NAMES = ("val", "valid", "validate", "validation", "dev")


@dataclass
class Loss:
    """One part of a loss: its sum over `count` predictions."""

    total: Tensor
    count: int


@dataclass
class StepResult:
    """Losses of some rows, by name, and the real (not padded) tokens that went through the model."""

    losses: dict[str, Loss]
    n_tokens: int


ModelT = TypeVar("ModelT", bound=nn.Module)
RowT = TypeVar("RowT")


class Task(ABC, Generic[ModelT, RowT]):
    """Rows to learn from and the losses of a model on them.

    Everything random about a row is drawn from (seed, epoch, row), never from its batch.

    Args:
        parts: the rows to learn from, and those to validate with.
    """

    name: str

    def __init__(self, model: ModelT, text: TextVocabulary, parts: list[list[RowT]], seed: int) -> None:
        self.model = model
        self.text = text
        self.parts = parts
        self.seed = seed
        self.notes: list[str] = []

    @property
    def n_train(self) -> int:
        """Rows to learn from."""
        return len(self.parts[0])

    @property
    def n_validation(self) -> int:
        """Rows to validate with."""
        return len(self.parts[1])

    @abstractmethod
    def step(self, rows: Sequence[int], epoch: int, *, is_validation: bool = False) -> StepResult:
        """Losses of the given rows of the training (or validation) part."""


def split_videos(videos: Sequence[VideoTokens], split: str) -> tuple[list[VideoTokens], list[VideoTokens], str | None]:
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
