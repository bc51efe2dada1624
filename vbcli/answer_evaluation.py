"""Scoring answers against those of people, beside what the question alone suggests."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vbcli import shards
from vbcli.errors import VbcliError
from vbcli.evaluation import References
from vbcli.metrics.answers import normalise, score_answers
from vbcli.training.answering import known_answers
from vbcli.training.batches import VideoTokens, read_tokens

GIVEN, QUESTION_ALONE, MOST_FREQUENT = "answers", "the question alone", "most frequent answer"
Pair = tuple[str, str]
"""A video and a question."""


@dataclass
class AnswerEvaluation:
    """Scores by row of the table.

    Args:
        scores: row name to score name to value; the first row is the answers that were given.
        kinds: the same of the questions that begin alike (their first two words), of the answers that were given.
        notes: sentences on what was scored.
    """

    scores: dict[str, dict[str, float]]
    kinds: dict[str, dict[str, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_answers(answers_dir: Path) -> dict[Pair, str]:
    """Answers by video and question.

    Raises:
        VbcliError: it is no answers dataset, or empty.
    """
    shards.read_manifest(answers_dir, "answers")
    rows = shards.read_rows(answers_dir, ["video_id", "question", "answer"])
    found = {(row["video_id"], row["question"]): row["answer"] for row in rows}
    if not found:
        raise VbcliError(f"{answers_dir} holds no answers")
    return found


def evaluate_answers(given: Mapping[Pair, str], references: References, scored: Sequence[str], tokens_dir: Path | None) -> AnswerEvaluation:
    """Scores answers and baselines.

    Args:
        references: with the questions of videos and their right answers.
        scored: the videos that count.
        tokens_dir: tokens dataset with the training videos, for the baselines.

    Raises:
        VbcliError: no question that was answered has a right answer.
    """
    wanted = set(scored)
    truths = {pair: references.answers[pair] for pair in given if pair[0] in wanted and references.answers.get(pair)}
    if not truths:
        raise VbcliError(f"none of the {len(given)} answers is to a question with a known answer", hint="both sides must ask the same")

    def score(rows: Mapping[Pair, str]) -> dict[str, float]:
        return score_answers([rows[pair] for pair in truths], list(truths.values()))

    evaluation = AnswerEvaluation({GIVEN: score(given)})
    evaluation.notes.append(f"{len(truths)} questions about {len({video for video, _ in truths})} videos")
    kinds: dict[str, list[Pair]] = defaultdict(list)
    for pair in truths:
        kinds[" ".join(pair[1].lower().split()[:2])].append(pair)
    for kind, pairs in sorted(kinds.items(), key=lambda item: -len(item[1])):
        evaluation.kinds[kind] = {"questions": len(pairs), **score_answers([given[p] for p in pairs], [truths[p] for p in pairs])}
    if tokens_dir is None:
        evaluation.notes.append("no tokens dataset named (--baselines): no baselines from training questions")
        return evaluation
    training = [v for v in read_tokens(tokens_dir) if v.split == "train" and v.questions and v.video_id not in wanted]
    if not training:
        evaluation.notes.append(f"{tokens_dir} has no training videos with questions besides those scored: no baselines")
        return evaluation
    most_frequent = known_answers(training)[0]
    suggest = _suggested(training, most_frequent)
    evaluation.scores[QUESTION_ALONE] = score({pair: suggest(pair[1]) for pair in truths})
    evaluation.scores[MOST_FREQUENT] = score(dict.fromkeys(truths, most_frequent))
    return evaluation


def _suggested(training: Sequence[VideoTokens], most_frequent: str) -> Callable[[str], str]:
    """The most frequent training answer to the same question; to one that was never asked, to those that share most of its words."""
    by_question: dict[str, Counter[str]] = defaultdict(Counter)
    for question in (q for v in training for q in v.questions):
        by_question[normalise(question.text)].update(question.answers)

    def suggest(question: str) -> str:
        asked = normalise(question)
        if asked in by_question:
            return by_question[asked].most_common(1)[0][0]
        words = set(asked.split())
        overlap = {known: len(words & set(known.split())) / len(words | set(known.split())) for known in by_question}
        best = max(overlap.values())
        if best == 0:
            return most_frequent
        votes: Counter[str] = Counter()
        for known, share in overlap.items():
            if share == best:
                votes.update(by_question[known])
        return votes.most_common(1)[0][0]

    return suggest
