"""What is trained: the rows, the losses and the model of each task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vbcli.errors import VbcliError
from vbcli.models.bart import Captioner
from vbcli.models.videobert import VideoBert
from vbcli.tokens import N_FRAMING_TOKENS, PackedSequence, TextVocabulary, pack
from vbcli.training.batches import SegmentRow, VideoTokens, choose_clips, collate
from vbcli.training.masking import mask_tokens

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


class Task(ABC, Generic[ModelT]):
    """Rows to learn from and the losses of a model on them.

    Everything random about a row is drawn from (seed, epoch, row), never from its batch.
    """

    name: str
    model: ModelT
    n_train: int
    n_validation: int
    notes: list[str]

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


def _rng(seed: int, epoch: int, row: int) -> np.random.Generator:
    return np.random.default_rng([seed, epoch, row])


# ---------------------------------------------------------------- pretrain


class PretrainTask(Task[VideoBert]):
    """Masked modelling of text and visual tokens, and alignment of the two.

    Each row is a segment. By its draw it is shown as text and video (with the text of another segment in half of these:
    alignment), as text only or as video only.

    Args:
        train: videos to learn from; `SegmentRow.text` is their text.
        regime_weights: of video-text, text-only and video-only.

    Source: Sun et al. 2019 (VideoBERT), sections 3.2 and 4.3.
    """

    name = "pretrain"

    def __init__(
        self,
        model: VideoBert,
        text: TextVocabulary,
        train: Sequence[VideoTokens],
        validation: Sequence[VideoTokens],
        *,
        seed: int = 0,
        regime_weights: tuple[float, float, float] = (0.6, 0.2, 0.2),
    ) -> None:
        self.model = model
        self.text = text
        self.seed = seed
        self.notes = []
        self.regimes = np.array(regime_weights) / sum(regime_weights)
        self.parts = [[s for v in part for s in v.segments] for part in (train, validation)]
        self.n_train, self.n_validation = (len(p) for p in self.parts)
        self.text_ids = {id(s): text.encode(s.text) for part in self.parts for s in part}
        budget = model.config.max_positions - N_FRAMING_TOKENS
        n_cut = sum(len(self.text_ids[id(s)]) + len(s.visual_tokens) > budget for s in self.parts[0])
        if n_cut:
            self.notes.append(f"{n_cut} of {self.n_train} segments are longer than {budget} positions: a random window of each is used")

    def step(self, rows: Sequence[int], epoch: int, *, is_validation: bool = False) -> StepResult:
        part = self.parts[is_validation]
        # Validation rows are drawn alike in every epoch.
        drawn = [self._draw(part, row, 0 if is_validation else epoch) for row in rows]
        config = self.model.config
        device = next(self.model.parameters()).device
        batch = collate([d[0] for d in drawn], config.feature_dim, self.text.pad_id).to(device)
        length = batch.input_ids.shape[1]
        targets = np.full((len(drawn), length), IGNORED, np.int64)
        for i, (packed, wanted, _) in enumerate(drawn):
            targets[i, : len(packed.input_ids)] = wanted
        hidden = self.model(**batch.arguments())  # (B, S, D)
        losses = self._masked_losses(hidden, torch.from_numpy(targets).to(device), batch.token_type_ids)
        aligned = torch.tensor([d[2] for d in drawn], device=device)
        known = aligned != IGNORED
        if known.any():
            logits = self.model.alignment_logits(hidden[known])
            losses["alignment"] = Loss(F.cross_entropy(logits, aligned[known], reduction="sum"), int(known.sum()))
        return StepResult(losses, int(batch.attention_mask.sum()))

    def _masked_losses(self, hidden: Tensor, targets: Tensor, types: Tensor) -> dict[str, Loss]:
        chosen = targets != IGNORED
        # Only the rows that must be predicted go through the wide output layer.
        logits = self.model.masked_logits(hidden[chosen])
        each = F.cross_entropy(logits, targets[chosen], reduction="none")
        is_visual = types[chosen] == 1
        parts = {"text": each[~is_visual], "visual": each[is_visual]}
        return {name: Loss(values.sum(), values.numel()) for name, values in parts.items() if values.numel()}

    def _draw(self, part: list[SegmentRow], row: int, epoch: int) -> tuple[PackedSequence, np.ndarray, int]:
        """One row as the model sees it, what it must say at each position, and its alignment class."""
        rng = _rng(self.seed, epoch, row)
        segment, aligned = part[row], IGNORED
        text_ids, config = self.text_ids[id(segment)], self.model.config
        has_text, has_video = len(text_ids) > 0, len(segment.visual_tokens) > 0
        if has_text and has_video:
            regime = rng.choice(3, p=self.regimes)
            if regime == 0:
                aligned = int(rng.random() < 0.5 and len(part) > 1)
                if aligned:
                    other = part[(row + int(rng.integers(1, len(part)))) % len(part)]
                    if other.text == segment.text:
                        aligned = 0
                    else:
                        text_ids = self.text_ids[id(other)]
            has_text, has_video = regime != 2, regime != 1
        visual, features = segment.visual_tokens, segment.features
        if not has_text:
            text_ids = []
        if not has_video:
            visual, features = visual[:0], features[:0]
        text_ids, visual, features = self._window(text_ids, visual, features, rng)
        packed = pack(text_ids, visual, features[:, : config.feature_dim], self.text, config)
        return (*self._mask(packed, rng), aligned)

    def _window(
        self, text_ids: list[int], visual: np.ndarray, features: np.ndarray, rng: np.random.Generator
    ) -> tuple[list[int], np.ndarray, np.ndarray]:
        budget = self.model.config.max_positions - N_FRAMING_TOKENS
        text_ids = text_ids[: budget // 2] if len(visual) else text_ids[:budget]
        room = budget - len(text_ids)
        start = int(rng.integers(0, max(1, len(visual) - room + 1)))
        return text_ids, visual[start : start + room], features[start : start + room]

    def _mask(self, packed: PackedSequence, rng: np.random.Generator) -> tuple[PackedSequence, np.ndarray]:
        config = self.model.config
        ids = packed.input_ids
        is_text = (packed.token_type_ids == 0) & ~np.isin(ids, [*self.text.special_ids, config.boundary_token_id])
        text = mask_tokens(ids, is_text, (len(self.text.special_ids), config.n_text_tokens), self.text.mask_id, rng)
        visual = mask_tokens(
            ids, packed.feature_mask, (config.first_visual_id, max(config.n_tokens, config.first_visual_id + 1)), self.text.mask_id, rng
        )
        hidden_ids = np.where(packed.feature_mask, visual.input_ids, text.input_ids)
        targets = np.where(text.is_target | visual.is_target, ids, IGNORED)
        masked = PackedSequence(hidden_ids, packed.token_type_ids, packed.feature_mask & ~visual.is_hidden, packed.features)
        return masked, targets


# ---------------------------------------------------------------- caption


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
        rngs = [_rng(self.seed, 0 if is_validation else epoch, row) for row in rows]
        config = self.model.encoder.config
        device = next(self.model.parameters()).device
        packed = [self._pack(video, rng) for (video, _), rng in zip(pairs, rngs, strict=True)]
        if not is_validation:
            packed = [self._disturb(sequence, rng) for sequence, rng in zip(packed, rngs, strict=True)]
        batch = collate(packed, config.feature_dim, self.text.pad_id).to(device)
        inputs, targets = self._decoder_rows([ids for _, ids in pairs], device)
        logits = self.model(**batch.arguments(), decoder_input_ids=inputs)  # (B, T, R)
        smoothing = 0.0 if is_validation else self.label_smoothing
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, label_smoothing=smoothing, reduction="sum")
        n_targets = int((targets != IGNORED).sum())
        return StepResult({"caption": Loss(loss, n_targets)}, int(batch.attention_mask.sum()) + n_targets)

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

    def _decoder_rows(self, captions: list[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
        config = self.model.decoder.config
        length = max(len(ids) for ids in captions) + 1
        inputs = np.full((len(captions), length), config.pad_token_id, np.int64)
        targets = np.full((len(captions), length), IGNORED, np.int64)
        for i, ids in enumerate(captions):
            inputs[i, : len(ids) + 1] = [config.decoder_start_token_id, *ids]
            targets[i, : len(ids) + 1] = [*ids, config.eos_token_id]
        return torch.from_numpy(inputs).to(device), torch.from_numpy(targets).to(device)
