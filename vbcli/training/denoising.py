"""Denoising pre-training of the encoder-decoder: write a text from a spoiled copy of it.

Source: Lewis et al. 2019 (BART), section 2.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np

from vbcli.errors import VbcliError
from vbcli.models.bart import Captioner
from vbcli.textvocab import TextVocabulary
from vbcli.tokens import N_FRAMING_TOKENS, PackedSequence, pack
from vbcli.training.batches import VideoTokens
from vbcli.training.noising import NoiseConfig, add_noise
from vbcli.training.writing import WritingTask

MAX_TOKENS = 256
"""Of a text; what is beyond is cut, and counted in `notes`."""


class DenoiseTask(WritingTask[list[list[int]]]):
    """Restoring texts: the transcript of each video (its segments are the sentences) and each caption is a row.

    Args:
        noise: how a text is spoiled.
        label_smoothing: share of the target spread over all tokens.
    """

    name = "denoise"

    def __init__(
        self,
        model: Captioner,
        text: TextVocabulary,
        train: Sequence[VideoTokens],
        validation: Sequence[VideoTokens],
        *,
        seed: int = 0,
        noise: NoiseConfig | None = None,
        label_smoothing: float = 0.1,
    ) -> None:
        documents = (_documents(part) for part in (train, validation))
        parts = [[(video, [text.encode(sentence) for sentence in document]) for video, document in part] for part in documents]
        if not parts[0]:
            raise VbcliError(
                "no training video has a transcript or a caption", hint="denoising learns from text: give it with --captions FILE"
            )
        super().__init__(model, text, parts, seed, label_smoothing)
        self.noise = noise or NoiseConfig()
        # Half of what the encoder can read: infilling may put in more masks than it takes tokens out.
        self.budget = min(MAX_TOKENS, model.encoder.config.max_positions // 2 - N_FRAMING_TOKENS, model.decoder.config.max_positions - 1)
        self._need_validation("no validation video has text: the training texts validate")
        n_long = sum(sum(map(len, sentences)) > self.budget for _, sentences in self.parts[0])
        if n_long:
            self.notes.append(f"{n_long} of {self.n_train} texts are cut to {self.budget} tokens")
        self.parts = [[(video, self._cut(sentences)) for video, sentences in part] for part in self.parts]

    def _draw(
        self, video: VideoTokens, row: list[list[int]], rng: np.random.Generator, *, is_disturbed: bool
    ) -> tuple[PackedSequence, list[int]]:
        config = self.model.encoder.config
        spoiled = add_noise(row, self.noise, self.text.mask_id, rng)
        no_clips = np.zeros(0, np.int64), np.zeros((0, config.feature_dim), np.float32)
        return pack(spoiled.tolist(), *no_clips, self.text, config), list(chain.from_iterable(row))

    def _cut(self, sentences: list[list[int]]) -> list[list[int]]:
        """The sentences, up to `budget` tokens together."""
        kept, room = [], self.budget
        for sentence in sentences:
            kept.append(sentence[:room])
            room -= len(kept[-1])
            if room <= 0:
                break
        return kept


def _documents(videos: Sequence[VideoTokens]) -> list[tuple[VideoTokens, list[str]]]:
    """Texts as lists of sentences."""
    transcripts = [(v, [s.text for s in v.segments if s.text]) for v in videos]
    captions = [(v, [c]) for v in videos for c in v.caption_texts]
    return [(video, document) for video, document in (*transcripts, *captions) if document]
