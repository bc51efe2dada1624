"""Zero-shot classification: how well the sentence of each class fits a video, by a model that has learned no classes.

A pre-trained VideoBERT is shown the sentence with the class's words hidden, and asked how likely they are (cloze); a captioner is asked how
likely it would write the sentence, from where those of the classes differ. Either way the mean log-probability a token counts, so that long
names can win. What the sentences share is left out: it tells no class, and would be a smaller part of the mean of a long name.

Source: Sun et al. 2019 (VideoBERT), section 4.4, for the cloze.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa

from vbcli.cloze import answer_log_probs
from vbcli.errors import VbcliError
from vbcli.models.checkpoint import Checkpoint
from vbcli.schemas import CLASSES
from vbcli.stages.caption import encode_videos, sentence_log_probs
from vbcli.stages.classify import class_row
from vbcli.stages.model import ModelStage
from vbcli.training.batches import VideoTokens

MASK = "[MASK]"


class NamedClass(NamedTuple):
    """A class and the words that stand for it in a sentence."""

    name: str
    words: str


@dataclass(frozen=True, kw_only=True)
class ZeroShot(ModelStage):
    """The likeliest of some classes for each video, with the probability of every class.

    Args:
        classes: at least two.
        template: a sentence with one [MASK], where the words of a class belong.
    """

    classes: tuple[NamedClass, ...]
    template: str = MASK

    name: ClassVar[str] = "zero-shot"
    version: ClassVar[int] = 3
    output_kind: ClassVar[str] = "classes"
    tasks: ClassVar[tuple[str, ...]] = ("caption", "pretrain")

    def output_schema(self) -> pa.Schema:
        return CLASSES

    def check(self, checkpoint: Checkpoint) -> None:
        if self.template.count(MASK) != 1:
            raise VbcliError(f"the template '{self.template}' has {self.template.count(MASK)} times {MASK}", hint="it must have one")
        for name, words in self.classes:
            ids = checkpoint.text.encode(words)
            if not ids or checkpoint.text.unk_id in ids:
                raise VbcliError(f"the text vocabulary does not know '{words}', the words of class '{name}'", hint="give it others")

    def answer(self, checkpoint: Checkpoint, videos: Sequence[VideoTokens]) -> list[list[dict[str, Any]]]:
        ask = cloze_log_probs if checkpoint.task == "pretrain" else caption_log_probs
        scores = ask(checkpoint, videos, self.template, [words for _, words in self.classes])  # (V, C)
        odds = np.exp(scores - scores.max(1, keepdims=True))
        names = [name for name, _ in self.classes]
        return [[class_row(row, names, is_multi_label=False)] for row in odds / odds.sum(1, keepdims=True)]


def cloze_log_probs(checkpoint: Checkpoint, videos: Sequence[VideoTokens], template: str, answers: Sequence[str]) -> np.ndarray:
    """Mean log-probabilities of the tokens of each answer at the [MASK] of a sentence about each video, float64 (V, C)."""
    text_ids = checkpoint.text.encode(template)
    place = text_ids.index(checkpoint.text.mask_id)
    return np.stack([answer_log_probs(checkpoint, text_ids, place, answers, video) for video in videos])


def caption_log_probs(checkpoint: Checkpoint, videos: Sequence[VideoTokens], template: str, answers: Sequence[str]) -> np.ndarray:
    """Mean log-probabilities of the tokens, from where the sentences with each answer differ to the end, as captions, float64 (V, C)."""
    import torch

    with torch.inference_mode():
        memory, mask = encode_videos(checkpoint, videos)  # (V, S, D), (V, S)
    return sentence_log_probs(checkpoint, memory, mask, [template.replace(MASK, answer) for answer in answers], is_shared_counted=False)
