"""What the tasks of the encoder-decoder share: it is shown a sequence and taught to write a text (teacher forcing)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vbcli.config import BartConfig
from vbcli.models.bart import Captioner
from vbcli.textvocab import TextVocabulary
from vbcli.tokens import PackedSequence
from vbcli.training.batches import Batch, VideoTokens, collate
from vbcli.training.tasks import IGNORED, DrawnRows, TokensTask, row_rng

RowT = TypeVar("RowT")


class WritingTask(TokensTask[Captioner, RowT]):
    """A task of the encoder-decoder.

    Args:
        label_smoothing: share of the target spread over all tokens, in training.
    """

    def __init__(
        self, model: Captioner, text: TextVocabulary, parts: list[list[tuple[VideoTokens, RowT]]], seed: int, label_smoothing: float
    ) -> None:
        super().__init__(model, text, parts, seed)
        self.loss_names = (self.name,)
        self.label_smoothing = label_smoothing

    @abstractmethod
    def _draw(self, video: VideoTokens, row: RowT, rng: np.random.Generator, *, is_disturbed: bool) -> tuple[PackedSequence, Sequence[int]]:
        """What the encoder is shown of a row, and the token ids that the decoder must write."""

    def draw(self, part: int, rows: Sequence[int], epoch: int, *, is_disturbed: bool) -> DrawnRows[Batch]:
        rngs = [row_rng(self.seed, epoch, row) for row in rows]
        drawn = [self._draw(*self.parts[part][row], rng, is_disturbed=is_disturbed) for row, rng in zip(rows, rngs, strict=True)]
        batch = collate([packed for packed, _ in drawn], self.model.encoder.config.feature_dim, self.text.pad_id)
        inputs, targets = decoder_rows([ids for _, ids in drawn], self.model.decoder.config)
        n_targets = int((targets != IGNORED).sum())
        n_tokens = int(batch.attention_mask.sum()) + n_targets
        return DrawnRows(batch, {"inputs": inputs, "targets": targets}, {self.name: n_targets}, n_tokens, self.row_keys(rows, epoch))

    def losses(self, drawn: DrawnRows[Batch]) -> dict[str, Tensor]:
        logits = self.model(**drawn.batch.arguments(), decoder_input_ids=drawn.wanted["inputs"])  # (B, T, R)
        # Smoothed targets are a means of training; what is validated is the likelihood.
        smoothing = self.label_smoothing if self.model.training else 0.0
        targets = drawn.wanted["targets"].flatten()  # (B * T,)
        total = F.cross_entropy(logits.flatten(0, 1), targets, ignore_index=IGNORED, label_smoothing=smoothing, reduction="sum")
        return {self.name: total}


def decoder_rows(sentences: Sequence[Sequence[int]], config: BartConfig) -> tuple[Tensor, Tensor]:
    """What a decoder reads and what it must say next, for sentences of token ids.

    Published BARTs start from the end token and write the begin token themselves; ours start from the begin token.

    Returns:
        int64 (B, T) each: the start token and the sentence; the sentence and the end token, `IGNORED` beyond it.
    """
    begin = [] if config.decoder_start_token_id == config.bos_token_id else [config.bos_token_id]
    sentences = [[*begin, *ids] for ids in sentences]
    length = max(len(ids) for ids in sentences) + 1
    inputs = np.full((len(sentences), length), config.pad_token_id, np.int64)
    targets = np.full((len(sentences), length), IGNORED, np.int64)
    for i, ids in enumerate(sentences):
        inputs[i, : len(ids) + 1] = [config.decoder_start_token_id, *ids]
        targets[i, : len(ids) + 1] = [*ids, config.eos_token_id]
    return torch.from_numpy(inputs), torch.from_numpy(targets)
