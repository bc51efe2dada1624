"""Teaching a captioner: teacher forcing of the captions of videos."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vbcli.errors import VbcliError
from vbcli.models.bart import Captioner
from vbcli.textvocab import TextVocabulary
from vbcli.tokens import PackedSequence
from vbcli.training.batches import VideoTokens, caption_targets
from vbcli.training.showing import Showing, ShownVideos
from vbcli.training.writing import WritingTask


class CaptionTask(WritingTask[list[int]]):
    """Teacher forcing of captions: every (video, caption) pair is a row.

    Args:
        showing: how videos are shown.
        label_smoothing: share of the target spread over all tokens.
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
        showing: Showing | None = None,
        label_smoothing: float = 0.1,
        max_caption_tokens: int = 62,
    ) -> None:
        # A caption of a part of a video is learned from the clips of its time.
        parts = [[(shown, text.encode(c)) for v in part for shown, c in caption_targets(v)] for part in (train, validation)]
        if not parts[0]:
            raise VbcliError("no training video has a caption", hint="give the captions with: vbcli extract VIDEOS_DIR --captions FILE")
        super().__init__(model, text, parts, seed, label_smoothing)
        self._need_validation("no validation video has a caption: the training captions validate")
        n_long = sum(len(ids) > max_caption_tokens for _, ids in self.parts[0])
        if n_long:
            self.notes.append(f"{n_long} of {self.n_train} captions are cut to {max_caption_tokens} tokens")
        self.parts = [[(v, ids[:max_caption_tokens]) for v, ids in part] for part in self.parts]
        learned, validating = ([v for v, _ in part] for part in self.parts)
        self.shown = ShownVideos(learned, validating, text, model.encoder.config, showing or Showing())
        self.notes += self.shown.notes

    def _draw(
        self, video: VideoTokens, row: list[int], rng: np.random.Generator, *, is_disturbed: bool
    ) -> tuple[PackedSequence, list[int]]:
        return self.shown.pack(video, rng, is_disturbed=is_disturbed), row
