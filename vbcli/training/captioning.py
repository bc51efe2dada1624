"""Teaching a captioner: teacher forcing of the captions of videos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

import numpy as np

from vbcli.errors import VbcliError
from vbcli.models.bart import Captioner
from vbcli.textvocab import TextVocabulary
from vbcli.tokens import N_FRAMING_TOKENS, PackedSequence, pack
from vbcli.training.batches import VideoTokens, caption_targets, choose_clips, video_timeline
from vbcli.training.tasks import feature_noise
from vbcli.training.writing import WritingTask


class CaptionTask(WritingTask[list[int]]):
    """Teacher forcing of captions: every (video, caption) pair is a row.

    With transcripts the encoder is shown `[CLS] what is said [>] video [SEP]`. In training the transcript of three rows in ten is hidden
    (`transcript_drop`), so that a video without one is still captioned from what it shows.

    Args:
        has_transcript: show the encoder the transcripts, too.
        n_clips: clips of a video that the model is shown; None means all.
        label_smoothing: share of the target spread over all tokens.
        feature_noise: length of the random vector added to each feature in training; features have a mean squared length of 1.
        clip_drop: share of the clips whose feature is hidden in training.
        transcript_drop: share of the rows whose transcript is hidden in training.
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
        has_transcript: bool = False,
        n_clips: int | None = None,
        label_smoothing: float = 0.1,
        feature_noise: float = 0.5,
        clip_drop: float = 0.1,
        transcript_drop: float = 0.3,
        max_caption_tokens: int = 62,
    ) -> None:
        # A caption of a part of a video is learned from the clips of its time.
        parts = [[(shown, text.encode(c)) for v in part for shown, c in caption_targets(v)] for part in (train, validation)]
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
        self.has_transcript = has_transcript
        self.transcript_drop = transcript_drop
        self.transcripts = {id(v): [text.encode(s.text if has_transcript else "") for s in v.segments] for part in parts for v, _ in part}
        self._note_lengths(list({id(v): v for v, _ in self.parts[0]}.values()))

    def _note_lengths(self, train: Sequence[VideoTokens]) -> None:
        """Tells how many videos, or parts of videos with captions of their own, have no transcript, and how many are too long."""
        n_silent = sum(not any(self.transcripts[id(v)]) for v in train)
        if self.has_transcript and n_silent:
            self.notes.append(f"{n_silent} of {len(train)} videos have no transcript")
        n_windowed = sum(video_timeline(v, self.transcripts[id(v)], self._clips(v)).n_tokens > self.budget for v in train)
        if n_windowed:
            unit = "clips and text tokens" if self.has_transcript else "clips"
            self.notes.append(f"{n_windowed} of {len(train)} videos have more than {self.budget} {unit}: a random window of each is used")

    @property
    def longest_clips(self) -> int:
        """Most clips that training shows the encoder in one sequence."""
        return min(self.budget, max(len(self._clips(v)) for v, _ in self.parts[0]))

    @property
    def longest_text(self) -> int | None:
        """Most text tokens that training shows the encoder in one sequence; None without transcripts."""
        longest = max(sum(map(len, self.transcripts[id(v)])) for v, _ in self.parts[0])
        return min(self.budget, longest) if self.has_transcript else None

    def _clips(self, video: VideoTokens) -> np.ndarray:
        return choose_clips(len(video.visual_tokens), self.n_clips)

    def _draw(
        self, video: VideoTokens, row: list[int], rng: np.random.Generator, *, is_disturbed: bool
    ) -> tuple[PackedSequence, list[int]]:
        is_silent = self.has_transcript and is_disturbed and rng.random() < self.transcript_drop
        packed = self._pack(video, rng, is_silent=is_silent)
        return self._disturb(packed, rng) if is_disturbed else packed, row

    def _pack(self, video: VideoTokens, rng: np.random.Generator, *, is_silent: bool = False) -> PackedSequence:
        """A video, or a random window of one that is too long."""
        text_ids = [[] for _ in video.segments] if is_silent else self.transcripts[id(video)]
        chosen = self._clips(video)
        timeline = video_timeline(video, text_ids, chosen)
        start = int(rng.integers(0, timeline.n_tokens - self.budget + 1)) if timeline.n_tokens > self.budget else 0
        said, shown = timeline.stretch(start, min(start + self.budget, timeline.n_tokens))
        clips = chosen[shown]
        config = self.model.encoder.config
        return pack(
            list(chain.from_iterable(text_ids))[said],
            video.visual_tokens[clips],
            video.features[clips, : config.feature_dim],
            self.text,
            config,
        )

    def _disturb(self, sequence: PackedSequence, rng: np.random.Generator) -> PackedSequence:
        """Adds noise to features and hides some: a few hundred videos would otherwise be learned by heart."""
        noise = feature_noise(sequence.features.shape, self.feature_noise, rng)
        is_shown = sequence.feature_mask & (rng.random(len(sequence.feature_mask)) >= self.clip_drop)
        return replace(sequence, features=sequence.features + noise, feature_mask=is_shown)
