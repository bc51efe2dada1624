"""Teaching answers: the encoder reads a question beside a video, and the decoder writes the answer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from vbcli.errors import VbcliError
from vbcli.models.bart import Captioner
from vbcli.textvocab import TextVocabulary
from vbcli.tokens import PackedSequence, beside
from vbcli.training.batches import VideoTokens
from vbcli.training.showing import Showing, ShownVideos
from vbcli.training.writing import WritingTask

MAX_QUESTION_TOKENS, MAX_ANSWER_TOKENS = 62, 62
_FUNCTION_WORDS = (
    "a about an and any are as at be been being by can could did do does for from had has have he her his how i if in into is it its many "
    "me much my no not of on or our s she should some t than that the their them there these they this those to us was we were what when "
    "where which who whom whose why will with would you your"
)
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())
"""Words that say nothing of what a question is about: that training had none of them is no reason to doubt its answer."""


@dataclass(frozen=True)
class Asked:
    """Token ids of a question and of an answer."""

    question: list[int]
    answer: list[int]


class AnswerTask(WritingTask[Asked]):
    """Teacher forcing of answers: every (video, question, answer) is a row.

    Args:
        showing: how videos are shown; without transcripts, as the question stands in the place of text.
        label_smoothing: share of the target spread over all tokens.
    """

    name = "answer"

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
    ) -> None:
        def rows(part: Sequence[VideoTokens]) -> list[tuple[VideoTokens, Asked]]:
            return [
                (v, Asked(text.encode(q.text)[:MAX_QUESTION_TOKENS], text.encode(answer)[:MAX_ANSWER_TOKENS]))
                for v in part
                for q in v.questions
                for answer in q.answers
            ]

        parts = [rows(part) for part in (train, validation)]
        if not parts[0]:
            raise VbcliError(
                "no training video has a question with an answer", hint="give them with: vbcli tokenize --captions FILE (question, answer)"
            )
        super().__init__(model, text, parts, seed, label_smoothing)
        self._need_validation("no validation video has a question: the training questions validate")
        learned, validating = ([v for v, _ in part] for part in self.parts)
        self.shown = ShownVideos(learned, validating, text, model.encoder.config, showing or Showing())
        self.notes += self.shown.notes
        self.longest_question = max(len(row.question) for _, row in self.parts[0])

    def _draw(self, video: VideoTokens, row: Asked, rng: np.random.Generator, *, is_disturbed: bool) -> tuple[PackedSequence, list[int]]:
        shown = self.shown.pack(video, rng, is_disturbed=is_disturbed)
        return beside(row.question, shown, self.text, self.model.encoder.config.max_positions), row.answer


def content_words(question: str) -> set[str]:
    """The words of a question, runs of letters and digits in lower case, without function words."""
    return set(re.findall(r"[^\W_]+", question.lower())) - FUNCTION_WORDS


def words_of_questions(train: Iterable[VideoTokens]) -> frozenset[str]:
    """The content words of the questions that training videos have answers to."""
    return frozenset(word for v in train for q in v.questions if q.answers for word in content_words(q.text))


def known_answers(train: Sequence[VideoTokens]) -> list[str]:
    """The answers of training videos, the most frequent first."""
    counts: dict[str, int] = {}
    for answer in (a for v in train for q in v.questions for a in q.answers):
        counts[answer] = counts.get(answer, 0) + 1
    return sorted(counts, key=lambda answer: (-counts[answer], answer))
