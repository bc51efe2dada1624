"""How a model is shown whole videos in training: which clips, what is said beside them, which window of a long one, and with what noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np

from vbcli.config import VideoBertConfig
from vbcli.textvocab import TextVocabulary
from vbcli.tokens import N_FRAMING_TOKENS, PackedSequence, pack
from vbcli.training.batches import VideoTokens, choose_clips, video_timeline
from vbcli.training.tasks import feature_noise


@dataclass(frozen=True)
class Showing:
    """How videos are shown.

    With transcripts the encoder is shown `[CLS] what is said [>] video [SEP]`. In training the transcript of three rows in ten is hidden
    (`transcript_drop`), so that a video without one is still understood from what it shows.

    Args:
        has_transcript: show the transcripts, too.
        n_clips: clips of a video that are shown; None means all.
        feature_noise: length of the random vector added to each feature in training; features have a mean squared length of 1.
        clip_drop: share of the clips whose feature is hidden in training.
        transcript_drop: share of the rows whose transcript is hidden in training.
    """

    has_transcript: bool = False
    n_clips: int | None = None
    feature_noise: float = 0.5
    clip_drop: float = 0.1
    transcript_drop: float = 0.3


class ShownVideos:
    """Videos as an encoder is shown them.

    Args:
        train: videos to learn from; a video may be in it several times.
        others: all else that `pack` will be asked for.

    Attributes:
        longest_clips: most clips that training shows in one sequence.
        longest_text: most text tokens that training shows in one sequence; None without transcripts.
        notes: sentences on videos without transcripts, and on those that are too long.
    """

    def __init__(
        self, train: Sequence[VideoTokens], others: Sequence[VideoTokens], text: TextVocabulary, config: VideoBertConfig, showing: Showing
    ) -> None:
        self.text = text
        self.config = config
        self.showing = showing
        self.budget = config.max_positions - N_FRAMING_TOKENS
        self._text_ids = {id(v): [text.encode(s.text if showing.has_transcript else "") for s in v.segments] for v in (*train, *others)}
        learned = list({id(v): v for v in train}.values())
        self.longest_clips = min(self.budget, max(len(self._clips(v)) for v in learned))
        longest_text = min(self.budget, max(sum(map(len, self._text_ids[id(v)])) for v in learned))
        self.longest_text = longest_text if showing.has_transcript else None
        self.notes = self._count(learned)

    def _count(self, videos: Sequence[VideoTokens]) -> list[str]:
        """Tells how many videos, or parts of videos with captions of their own, have no transcript, and how many are too long."""
        found = []
        n_silent = sum(not any(self._text_ids[id(v)]) for v in videos)
        if self.showing.has_transcript and n_silent:
            found.append(f"{n_silent} of {len(videos)} videos have no transcript")
        n_windowed = sum(video_timeline(v, self._text_ids[id(v)], self._clips(v)).n_tokens > self.budget for v in videos)
        if n_windowed:
            unit = "clips and text tokens" if self.showing.has_transcript else "clips"
            found.append(f"{n_windowed} of {len(videos)} videos have more than {self.budget} {unit}: a random window of each is used")
        return found

    def pack(self, video: VideoTokens, rng: np.random.Generator, *, is_disturbed: bool) -> PackedSequence:
        """A video, or a random window of one that is too long.

        Args:
            is_disturbed: with the noise that makes learning by heart hard.
        """
        is_silent = self.showing.has_transcript and is_disturbed and rng.random() < self.showing.transcript_drop
        text_ids = [[] for _ in video.segments] if is_silent else self._text_ids[id(video)]
        chosen = self._clips(video)
        timeline = video_timeline(video, text_ids, chosen)
        start = int(rng.integers(0, timeline.n_tokens - self.budget + 1)) if timeline.n_tokens > self.budget else 0
        said, shown = timeline.stretch(start, min(start + self.budget, timeline.n_tokens))
        clips = chosen[shown]
        features = video.features[clips, : self.config.feature_dim]
        packed = pack(list(chain.from_iterable(text_ids))[said], video.visual_tokens[clips], features, self.text, self.config)
        return self._disturb(packed, rng) if is_disturbed else packed

    def _clips(self, video: VideoTokens) -> np.ndarray:
        return choose_clips(len(video.visual_tokens), self.showing.n_clips)

    def _disturb(self, sequence: PackedSequence, rng: np.random.Generator) -> PackedSequence:
        """Adds noise to features and hides some: a few hundred videos would otherwise be learned by heart."""
        noise = feature_noise(sequence.features.shape, self.showing.feature_noise, rng)
        is_shown = sequence.feature_mask & (rng.random(len(sequence.feature_mask)) >= self.showing.clip_drop)
        return replace(sequence, features=sequence.features + noise, feature_mask=is_shown)
