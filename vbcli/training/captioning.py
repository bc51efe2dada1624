"""Teaching a captioner: teacher forcing of the captions of videos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from vbcli.errors import VbcliError
from vbcli.models.bart import Captioner
from vbcli.textvocab import TextVocabulary
from vbcli.tokens import N_FRAMING_TOKENS, PackedSequence, pack
from vbcli.training.batches import VideoTokens, choose_clips
from vbcli.training.tasks import feature_noise
from vbcli.training.writing import WritingTask


class CaptionTask(WritingTask[list[int]]):
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
        parts = [[(v, text.encode(c)) for v in part for c in v.captions] for part in (train, validation)]
        if not parts[0]:
            raise VbcliError("no training video has a caption", hint="give the captions with: vbcli extract VIDEOS_DIR --captions FILE")
        super().__init__(model, text, parts, seed, label_smoothing)
        self.n_clips = n_clips
        self.feature_noise = feature_noise
        self.clip_drop = clip_drop
        self._need_validation("no validation video has a caption: the training captions validate")
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

    def _draw(
        self, video: VideoTokens, row: list[int], rng: np.random.Generator, *, is_disturbed: bool
    ) -> tuple[PackedSequence, list[int]]:
        packed = self._pack(video, rng)
        return self._disturb(packed, rng) if is_disturbed else packed, row

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
        noise = feature_noise(sequence.features.shape, self.feature_noise, rng)
        is_shown = sequence.feature_mask & (rng.random(len(sequence.feature_mask)) >= self.clip_drop)
        return replace(sequence, features=sequence.features + noise, feature_mask=is_shown)
