"""Denoising pre-training of the encoder-decoder: write a text from a spoiled copy of it.

Source: Lewis et al. 2019 (BART), section 2.2.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vbcli.errors import VbcliError
from vbcli.models.bart import Captioner
from vbcli.tokens import N_FRAMING_TOKENS, TextVocabulary, pack
from vbcli.training.batches import VideoTokens, collate
from vbcli.training.captioning import decoder_rows, teacher_forcing_loss
from vbcli.training.noising import NoiseConfig, add_noise
from vbcli.training.tasks import StepResult, Task, row_rng

MAX_TOKENS = 256
"""Of a text; what is beyond is cut, and counted in `notes`."""


class DenoiseTask(Task[Captioner]):
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
        self.model = model
        self.text = text
        self.seed = seed
        self.noise = noise or NoiseConfig()
        self.label_smoothing = label_smoothing
        self.notes = []
        self.budget = min(MAX_TOKENS, model.encoder.config.max_positions // 2 - N_FRAMING_TOKENS, model.decoder.config.max_positions - 1)
        documents = (_documents(part) for part in (train, validation))
        self.parts = [[[text.encode(sentence) for sentence in document] for document in part] for part in documents]
        if not self.parts[0]:
            raise VbcliError(
                "no training video has a transcript or a caption", hint="denoising learns from text: give it with --captions FILE"
            )
        if not self.parts[1]:
            self.notes.append("no validation video has text: the training texts validate")
            self.parts[1] = self.parts[0]
        self.n_train, self.n_validation = (len(p) for p in self.parts)
        n_long = sum(sum(map(len, sentences)) > self.budget for sentences in self.parts[0])
        if n_long:
            self.notes.append(f"{n_long} of {self.n_train} texts are cut to {self.budget} tokens")

    def step(self, rows: Sequence[int], epoch: int, *, is_validation: bool = False) -> StepResult:
        config = self.model.encoder.config
        device = next(self.model.parameters()).device
        # Validation rows are drawn alike in every epoch.
        rngs = [row_rng(self.seed, 0 if is_validation else epoch, row) for row in rows]
        texts = [self._cut(self.parts[is_validation][row]) for row in rows]
        spoiled = [add_noise(sentences, self.noise, self.text.mask_id, rng) for sentences, rng in zip(texts, rngs, strict=True)]
        nothing = np.zeros((0, config.feature_dim), np.float32)
        # Infilling puts in more masks than it takes tokens out, once in a while: never beyond what the encoder can read.
        room = config.max_positions - N_FRAMING_TOKENS
        packed = [pack(ids[:room].tolist(), np.zeros(0, np.int64), nothing, self.text, config) for ids in spoiled]
        batch = collate(packed, config.feature_dim, self.text.pad_id).to(device)
        whole = [[i for sentence in sentences for i in sentence] for sentences in texts]
        inputs, targets = decoder_rows(whole, self.model.decoder.config, device)
        logits = self.model(**batch.arguments(), decoder_input_ids=inputs)  # (B, T, R)
        loss = teacher_forcing_loss(logits, targets, 0.0 if is_validation else self.label_smoothing)
        return StepResult({"denoise": loss}, int(batch.attention_mask.sum()) + loss.count)

    def _cut(self, sentences: list[list[int]]) -> list[list[int]]:
        """The sentences, up to `budget` tokens together."""
        kept, room = [], self.budget
        for sentence in sentences:
            kept.append(sentence[:room])
            room -= len(kept[-1])
            if room <= 0:
                break
        return kept


def _documents(videos: Sequence[VideoTokens]) -> list[list[str]]:
    """Texts as lists of sentences."""
    transcripts = [[s.text for s in v.segments if s.text] for v in videos]
    captions = [[c] for v in videos for c in v.captions]
    return [document for document in (*transcripts, *captions) if document]
