"""Scoring answers against those of people, beside what the question alone suggests."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vbcli import shards
from vbcli.errors import VbcliError
from vbcli.evaluation.captions import Evaluation, References
from vbcli.metrics.answers import exact_match, expected_scores, normalise, score_answers
from vbcli.runner import read_videos
from vbcli.training.answering import known_answers
from vbcli.training.batches import VideoTokens, read_tokens

GIVEN, QUESTION_ALONE, MOST_FREQUENT, CHANCE = "answers", "the question alone", "most frequent answer", "a random training answer"
ROWS = (GIVEN, QUESTION_ALONE, MOST_FREQUENT, CHANCE)
"""Rows of the table that do not come from `others`."""
Pair = tuple[str, str]
"""A video and a question."""


@dataclass
class AnswerEvaluation(Evaluation):
    """Scores by row of the table; gains are in `exact match`, over the questions.

    Args:
        kinds: scores of the questions that begin alike (their first two words), of the first run of the answers that were given.
    """

    kinds: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class GivenAnswers:
    """What an answers dataset holds.

    Args:
        answers: by video and question.
        video_ids: the videos that were asked.
        own: what the dataset asks of these videos, where they were asked that: what of it has no answer is wrong.
    """

    answers: dict[Pair, str]
    video_ids: list[str]
    own: frozenset[Pair] = frozenset()


def read_answers(answers_dir: Path) -> GivenAnswers:
    """Answers by video and question.

    Raises:
        VbcliError: it is no answers dataset, or empty.
    """
    manifest = shards.read_manifest(answers_dir, "answers")
    # Straight from videos, the stage is the last of a chain.
    config = manifest.config.get("answer", manifest.config)
    rows = shards.read_rows(answers_dir, ["video_id", "question", "answer"])
    found = {(row["video_id"], row["question"]): row["answer"] for row in rows}
    if not found:
        raise VbcliError(f"{answers_dir} holds no answers", hint="no video had a question, or all failed: see its folder _errors")
    if config["questions"]:
        return GivenAnswers(found, list(dict.fromkeys(video for video, _ in found)))
    videos = read_videos(answers_dir).select(["video_id", "split", "questions"]).to_pylist()
    asked = [v for v in videos if config["split"] in (None, v["split"])]
    own = frozenset((v["video_id"], q["question"]) for v in asked for q in v["questions"] or [])
    return GivenAnswers(found, [v["video_id"] for v in asked], own)


def evaluate_answers(
    given: GivenAnswers,
    references: References,
    scored: Sequence[str],
    tokens_dir: Path | None,
    *,
    reruns: Sequence[GivenAnswers] = (),
    others: Mapping[str, Sequence[GivenAnswers]] | None = None,
) -> AnswerEvaluation:
    """Scores answers and baselines.

    Args:
        references: with the questions of videos and their right answers.
        scored: the videos that count.
        tokens_dir: tokens dataset with the training videos, for the baselines.
        reruns: answers by the same system, trained with other seeds.
        others: answers of other systems by name, of each run of one, for rows of their own. All must have been asked the same.

    Raises:
        VbcliError: no question that was answered has a right answer, or a run was not asked one of them.
    """
    wanted = set(scored)
    known = {pair: truths for pair, truths in references.answers.items() if pair[0] in wanted and truths}
    truths = {pair: known[pair] for pair in given.answers if pair in known}
    if not truths:
        raise VbcliError(
            f"none of the {len(given.answers)} answers is to a question with a known answer", hint="both sides must ask the same"
        )
    silent = {pair: of for pair, of in known.items() if pair not in truths and pair in given.own}
    n_more = len(known) - len(truths) - len(silent)
    truths |= silent

    evaluation = AnswerEvaluation({})
    evaluation.notes.append(f"{len(truths)} questions about {len({video for video, _ in truths})} videos")
    if silent:
        evaluation.notes.append(f"{len(silent)} questions about these videos have no answer and count as wrong")
    if n_more:
        evaluation.notes.append(f"{n_more} more questions about these videos that the references ask were not asked")
    kinds: dict[str, dict[Pair, list[str]]] = defaultdict(dict)
    for pair, of_pair in truths.items():
        kinds[" ".join(pair[1].lower().split()[:2])][pair] = of_pair
    for kind, of_kind in sorted(kinds.items(), key=lambda item: -len(item[1])):
        evaluation.kinds[kind] = {"questions": len(of_kind), **_score(given.answers, of_kind)}
    systems = {GIVEN: [given, *reruns], **(others or {})}
    _check_asked(systems, list(truths))
    table = {name: [run.answers for run in runs] for name, runs in systems.items()}
    training = _training_videos(wanted, tokens_dir, evaluation.notes)
    table |= {name: [rows] for name, rows in _baselines(training, truths).items()}
    for name, runs in table.items():
        evaluation.add_system(name, [_score(rows, truths) for rows in runs])
    evaluation.add_gains({name: [_are_right(rows, truths) for rows in runs] for name, runs in table.items()})
    if training:
        evaluation.scores[CHANCE] = expected_scores(_drawn(training), list(truths.values()))
    return evaluation


def _check_asked(systems: Mapping[str, Sequence[GivenAnswers]], pairs: Sequence[Pair]) -> None:
    for name, run in ((name, run) for name, runs in systems.items() for run in runs):
        unasked = [pair for pair in pairs if pair not in run.answers and pair not in run.own]
        if unasked:
            message = f"{name} has no answer to {len(unasked)} of the {len(pairs)} questions, first '{unasked[0][1]}' of {unasked[0][0]}"
            raise VbcliError(message, hint="ask each system the same")


def _are_right(rows: Mapping[Pair, str], truths: Mapping[Pair, Sequence[str]]) -> np.ndarray:
    """Exact match of each question, float (Q,); 0 without an answer."""
    return np.array([exact_match(rows[pair], of) if pair in rows else 0.0 for pair, of in truths.items()])


def _score(rows: Mapping[Pair, str], truths: Mapping[Pair, Sequence[str]]) -> dict[str, float]:
    """Means over all questions; one without an answer adds nothing."""
    answered = [pair for pair in truths if pair in rows]
    scores = score_answers([rows[pair] for pair in answered], [truths[pair] for pair in answered])
    return {name: value * len(answered) / len(truths) for name, value in scores.items()}


def _training_videos(scored: set[str], tokens_dir: Path | None, notes: list[str]) -> list[VideoTokens]:
    """The training videos besides those scored; none, and a note, where they have no answered questions."""
    if tokens_dir is None:
        notes.append("no tokens dataset named (--baselines): no baselines from training questions")
        return []
    training = [v for v in read_tokens(tokens_dir) if v.split == "train" and v.video_id not in scored]
    if not _drawn(training):
        notes.append(f"{tokens_dir} has no training videos with answered questions besides those scored: no baselines")
        return []
    return training


def _drawn(training: Sequence[VideoTokens]) -> Counter[str]:
    """How often each answer is that of a training question."""
    return Counter(answer for video in training for question in video.questions for answer in question.answers)


def _baselines(training: Sequence[VideoTokens], truths: Mapping[Pair, Sequence[str]]) -> dict[str, dict[Pair, str]]:
    """What the training questions and their answers alone suggest, by row of the table; nothing without training videos."""
    if not training:
        return {}
    most_frequent = known_answers(training)[0]
    suggest = _suggested(training, most_frequent)
    return {QUESTION_ALONE: {pair: suggest(pair[1]) for pair in truths}, MOST_FREQUENT: dict.fromkeys(truths, most_frequent)}


def _suggested(training: Sequence[VideoTokens], most_frequent: str) -> Callable[[str], str]:
    """The most frequent training answer to the same question; to one that was never asked, to those that share most of its words."""
    by_question: dict[str, Counter[str]] = defaultdict(Counter)
    for question in (q for v in training for q in v.questions if q.answers):
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
