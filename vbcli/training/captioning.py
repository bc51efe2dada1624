"""Teaching a captioner: teacher forcing of the captions of videos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vbcli.config import BartConfig
from vbcli.errors import VbcliError
from vbcli.models.bart import Captioner
from vbcli.tokens import N_FRAMING_TOKENS, PackedSequence, TextVocabulary, pack
from vbcli.training.batches import VideoTokens, choose_clips, collate
from vbcli.training.tasks import IGNORED, Loss, StepResult, Task, row_rng


class CaptionTask(Task[Captioner]):
    """Teacher forcing of captions: every (video, caption) pair is a row.

    Args:
        n_clips: clips of a video that the model is shown; None means all.
        label_smoothing: share of the target spread over all tokens.
        feature_noise: length of the random vector added to each feature in training; features have a mean squared length of 1.
        clip_drop: share of the clips whose feature is hidden in training.
        max_caption_tokens: longer captions are cut, and counted in `notes`.
    """

    name = "caption"

    def __init__(
        self,
        model: Captioner,
        text: TextVocabulary,
        train: Sequence[VideoTokens],
        validation: Sequence[VideoTokens],
        *,
        seed: int = 0,
        n_clips: int | None = None,
        label_smoothing: float = 0.1,
        feature_noise: float = 0.5,
        clip_drop: float = 0.1,
        max_caption_tokens: int = 62,
    ) -> None:
        self.model = model
        self.text = text
        self.seed = seed
        self.n_clips = n_clips
        self.label_smoothing = label_smoothing
        self.feature_noise = feature_noise
        self.clip_drop = clip_drop
        self.notes = []
        self.parts = [[(v, text.encode(c)) for v in part for c in v.captions] for part in (train, validation)]
        if not self.parts[0]:
            raise VbcliError("no training video has a caption", hint="give the captions with: vbcli extract VIDEOS_DIR --captions FILE")
        if not self.parts[1]:
            self.notes.append("no validation video has a caption: the training captions validate")
            self.parts[1] = self.parts[0]
        self.n_train, self.n_validation = (len(p) for p in self.parts)
        n_long = sum(len(ids) > max_caption_tokens for _, ids in self.parts[0])
        if n_long:
            self.notes.append(f"{n_long} of {self.n_train} captions are cut to {max_caption_tokens} tokens")
        self.parts = [[(v, ids[:max_caption_tokens]) for v, ids in part] for part in self.parts]
        self.budget = model.encoder.config.max_positions - N_FRAMING_TOKENS
        n_windowed = sum(len(v.visual_tokens) > self.budget for v in train)
        if n_windowed and n_clips is None:
            self.notes.append(f"{n_windowed} of {len(train)} videos have more than {self.budget} clips: a random window of each is used")

    @property
    def longest_clips(self) -> int:
        """Clips of the longest sequence that training shows the encoder."""
        counts = [len(choose_clips(len(v.visual_tokens), self.n_clips)) for v, _ in self.parts[0]]
        return min(self.budget, max(counts))

    def step(self, rows: Sequence[int], epoch: int, *, is_validation: bool = False) -> StepResult:
        pairs = [self.parts[is_validation][row] for row in rows]
        # Validation rows are drawn alike in every epoch.
        rngs = [row_rng(self.seed, 0 if is_validation else epoch, row) for row in rows]
        config = self.model.encoder.config
        device = next(self.model.parameters()).device
        packed = [self._pack(video, rng) for (video, _), rng in zip(pairs, rngs, strict=True)]
        if not is_validation:
            packed = [self._disturb(sequence, rng) for sequence, rng in zip(packed, rngs, strict=True)]
        batch = collate(packed, config.feature_dim, self.text.pad_id).to(device)
        inputs, targets = decoder_rows([ids for _, ids in pairs], self.model.decoder.config, device)
        logits = self.model(**batch.arguments(), decoder_input_ids=inputs)  # (B, T, R)
        loss = teacher_forcing_loss(logits, targets, 0.0 if is_validation else self.label_smoothing)
        return StepResult({"caption": loss}, int(batch.attention_mask.sum()) + loss.count)

    def _pack(self, video: VideoTokens, rng: np.random.Generator) -> PackedSequence:
        tokens, features = video.visual_tokens, video.features
        chosen = choose_clips(len(tokens), self.n_clips)
        if len(chosen) > self.budget:
            start = int(rng.integers(0, len(chosen) - self.budget + 1))
            chosen = chosen[start : start + self.budget]
        config = self.model.encoder.config
        return pack([], tokens[chosen], features[chosen, : config.feature_dim], self.text, config)

    def _disturb(self, sequence: PackedSequence, rng: np.random.Generator) -> PackedSequence:
        """Adds noise to features and hides some: a few hundred videos would otherwise be learned by heart."""
        noise = rng.normal(0, self.feature_noise / max(1, sequence.features.shape[1]) ** 0.5, sequence.features.shape)
        is_shown = sequence.feature_mask & (rng.random(len(sequence.feature_mask)) >= self.clip_drop)
        return replace(sequence, features=sequence.features + noise.astype(np.float32), feature_mask=is_shown)


def decoder_rows(sentences: Sequence[Sequence[int]], config: BartConfig, device: torch.device) -> tuple[Tensor, Tensor]:
    """What a decoder reads and what it must say next, for sentences of token ids.

    Returns:
        int64 (B, T) each: the start token and the sentence; the sentence and the end token, `IGNORED` beyond it.
    """
    length = max(len(ids) for ids in sentences) + 1
    inputs = np.full((len(sentences), length), config.pad_token_id, np.int64)
    targets = np.full((len(sentences), length), IGNORED, np.int64)
    for i, ids in enumerate(sentences):
        inputs[i, : len(ids) + 1] = [config.decoder_start_token_id, *ids]
        targets[i, : len(ids) + 1] = [*ids, config.eos_token_id]
    return torch.from_numpy(inputs).to(device), torch.from_numpy(targets).to(device)


def teacher_forcing_loss(logits: Tensor, targets: Tensor, label_smoothing: float) -> Loss:
    """Cross-entropy of logits float (B, T, R) against targets int64 (B, T), summed over those that are not `IGNORED`."""
    total = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, label_smoothing=label_smoothing, reduction="sum")
    return Loss(total, int((targets != IGNORED).sum()))
