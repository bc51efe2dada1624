"""Answers: tokens of a video and a question to words, free or of a closed set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa

from vbcli.checkpointfiles import read_checkpoint_config
from vbcli.config import DecodingConfig, config_hash
from vbcli.grounding import evidence
from vbcli.schemas import ANSWERS
from vbcli.stages.caption import sentence_log_probs
from vbcli.stages.model import BATCH_SIZE, ModelStage, VideoWindow, run_windows, video_windows
from vbcli.storage import as_path
from vbcli.tokens import beside
from vbcli.training.batches import Question, VideoTokens

if TYPE_CHECKING:
    from torch import Tensor

    from vbcli.models.checkpoint import Checkpoint

UNSURE = 0.3
"""An answer whose tokens are less likely than this, in the geometric mean, is a guess; so is one less likely than this among its set."""


class AskedQuestion(NamedTuple):
    """A question of one video, by its name in a table, or of all (None), and the closed set of its answers, if it has one."""

    name: str | None
    question: str
    candidates: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Answer(ModelStage):
    """An answer to each question of each video.

    Args:
        questions: what is asked; none asks what the dataset asks of its videos.
        decoding: how free answers are written.
        is_grounded: also tell which part of the video each answer rests on.
        video_ids: the videos that the names in `questions` are of; no part of the identity, as videos come and go.
    """

    questions: tuple[AskedQuestion, ...] = ()
    video_ids: tuple[tuple[str, str], ...] = ()
    decoding: DecodingConfig
    is_grounded: bool = False

    name: ClassVar[str] = "answer"
    version: ClassVar[int] = 4
    output_kind: ClassVar[str] = "answers"
    tasks: ClassVar[tuple[str, ...]] = ("answer",)

    def output_schema(self) -> pa.Schema:
        return ANSWERS

    def identity(self) -> dict[str, Any]:
        # Beside the weights in the checkpoint, and part of what `is_sure` says.
        words = read_checkpoint_config(as_path(self.checkpoint_dir)).get("question_words")
        kept = {k: v for k, v in super().identity().items() if k != "video_ids"}
        return {**kept, "question_words_sha256": config_hash(words)}

    def check(self, checkpoint: Checkpoint) -> None:
        from vbcli.models.decoding import check_decoding

        check_decoding(checkpoint.captioner.decoder.config, self.decoding)

    def answer(self, checkpoint: Checkpoint, videos: Sequence[VideoTokens]) -> list[list[dict[str, Any]]]:
        return [self._rows(checkpoint, video) for video in videos]

    def _rows(self, checkpoint: Checkpoint, video: VideoTokens) -> list[dict[str, Any]]:
        rows = answer_questions(checkpoint, video, self._asked(video), self.decoding)
        if not self.is_grounded:
            return rows
        return [
            {**row, **evidence(video, partial(_log_likelihood, checkpoint, question=row["question"], answer=row["answer"]))} for row in rows
        ]

    def _asked(self, video: VideoTokens) -> list[Question]:
        if not self.questions:
            return video.questions
        ids = dict(self.video_ids)
        asked = [q for q in self.questions if q.name is None or ids.get(q.name) == video.video_id]
        return [Question(q.question, candidates=q.candidates) for q in asked]


def answer_questions(
    checkpoint: Checkpoint, video: VideoTokens, questions: Sequence[Question], decoding: DecodingConfig
) -> list[dict[str, Any]]:
    """Rows of answers: `question`, `answer`, `probability`, `is_sure`, `unknown_words`, and `candidates` with the probability of each.

    The probability of a free answer is the geometric mean of its tokens'; that of one of a closed set is among the set. An answer is sure
    that is likely, to a question with content words, and without unknown ones: those that no training question had. One of a closed set
    must be likely by its tokens, too: of two answers that are both nonsense, one is always likely among them.
    """
    import torch

    from vbcli.models.decoding import generate
    from vbcli.training.answering import content_words

    text, decoder = checkpoint.text, checkpoint.captioner.decoder
    windows = video_windows(video, checkpoint) if questions else []
    found = []
    for start in range(0, len(questions), BATCH_SIZE):
        batch = questions[start : start + BATCH_SIZE]
        with torch.inference_mode():
            memory, mask = _encode_asked(checkpoint, [(question.text, windows) for question in batch])
            written = generate(decoder, memory, mask, decoding)
        for i, question in enumerate(batch):
            unknown = _unknown_words(checkpoint, question.text)
            if question.candidates:
                candidates, by_tokens = _rank(checkpoint, memory[i : i + 1], mask[i : i + 1], question.candidates)
                best = candidates[0]
            else:
                candidates, by_tokens = [], _mean_probability(written[i][0], decoding)
                best = {"answer": text.decode(written[i][0].token_ids), "probability": by_tokens}
            is_sure = min(best["probability"], by_tokens) >= UNSURE and not unknown and bool(content_words(question.text))
            found.append({"question": question.text, **best, "is_sure": is_sure, "unknown_words": unknown, "candidates": candidates})
    return found


def _rank(checkpoint: Checkpoint, memory: Tensor, mask: Tensor, candidates: Sequence[str]) -> tuple[list[dict[str, Any]], float]:
    """Answers of a closed set with the probability of each among them, the likeliest first, and the probability of its tokens.

    Of those that read alike the first counts.

    Args:
        memory: float (1, S, D), of one question, and its `mask` bool (1, S).
    """
    candidates = [alike[0] for alike in checkpoint.text.group_alike(candidates)]
    batches = [candidates[start : start + BATCH_SIZE] for start in range(0, len(candidates), BATCH_SIZE)]
    scores = np.concatenate([sentence_log_probs(checkpoint, memory, mask, batch)[0] for batch in batches])
    odds = np.exp(scores - scores.max())
    probabilities = odds / odds.sum()
    order: list[int] = np.argsort(-probabilities, kind="stable").tolist()
    return [{"answer": candidates[k], "probability": float(probabilities[k])} for k in order], float(np.exp(scores.max()))


def _unknown_words(checkpoint: Checkpoint, question: str) -> list[str]:
    """Content words of a question that no training question had; none where the checkpoint does not say which there were."""
    from vbcli.training.answering import content_words

    return [] if checkpoint.question_words is None else sorted(content_words(question) - checkpoint.question_words)


def _encode_asked(checkpoint: Checkpoint, asked: Sequence[tuple[str, Sequence[VideoWindow]]]) -> tuple[Tensor, Tensor]:
    """What the decoder attends to of questions, each with the windows of its video: memory float (Q, S, D) and its mask bool (Q, S)."""
    import torch

    from vbcli.training.answering import MAX_QUESTION_TOKENS

    ids = [(checkpoint.text.encode(question)[:MAX_QUESTION_TOKENS], windows) for question, windows in asked]
    read = [_asked_windows(question, windows, checkpoint) for question, windows in ids]
    encoded = run_windows(checkpoint, [window for of_question in read for window in of_question], checkpoint.captioner.encoder)
    rows = [torch.cat([next(encoded)[window.kept] for window in of_question]) for of_question in read]
    memory = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)  # (Q, S, D)
    lengths = torch.tensor([len(r) for r in rows], device=memory.device)
    return memory, torch.arange(memory.shape[1], device=memory.device) < lengths[:, None]


def _log_likelihood(checkpoint: Checkpoint, videos: Sequence[VideoTokens], *, question: str, answer: str) -> np.ndarray:
    """Of an answer, float64 (N,), where the question is asked of each of N videos."""
    import torch

    found = []
    with torch.inference_mode():
        for start in range(0, len(videos), BATCH_SIZE):
            asked = [(question, video_windows(video, checkpoint)) for video in videos[start : start + BATCH_SIZE]]
            found.append(sentence_log_probs(checkpoint, *_encode_asked(checkpoint, asked), [answer])[:, 0])
    return np.concatenate(found) * (len(checkpoint.text.encode(answer)) + 1)


def _mean_probability(hypothesis: Any, decoding: DecodingConfig) -> float:
    length = len(hypothesis.token_ids) + 1
    return float(np.exp(hypothesis.score * length**decoding.length_penalty / length))


def _asked_windows(question: list[int], windows: Sequence[VideoWindow], checkpoint: Checkpoint) -> list[VideoWindow]:
    """The windows of a video with a question before each; its positions are kept of the first."""
    n = len(question)
    found = []
    for window in windows:
        packed = beside(question, window.packed, checkpoint.text, checkpoint.encoder.config.max_positions)
        kept = [place if place == 0 else place + n for place in window.kept if place == 0 or place + n < len(packed.input_ids)]
        found.append(VideoWindow(packed, [0, *range(1, n + 1), *kept[1:]] if window is windows[0] else kept))
    return found
