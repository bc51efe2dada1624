"""Scores of answers: exact match and F1 of words, after what does not matter is taken off.

Source: Rajpurkar et al. 2016 (SQuAD), section 6.1 and its evaluation script, for the normalisation and both scores.
"""

from __future__ import annotations

import re
import string
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(answer: str) -> str:
    """Lower case, without punctuation, articles and superfluous space."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, truths: Sequence[str]) -> float:
    """1 if the answer is one of the right ones, else 0."""
    return float(normalise(answer) in {normalise(truth) for truth in truths})


def word_f1(answer: str, truths: Sequence[str]) -> float:
    """The best F1 of the words of the answer and of a right one, in [0, 1]."""
    return max((_f1(normalise(answer).split(), normalise(truth).split()) for truth in truths), default=0.0)


def _f1(said: list[str], wanted: list[str]) -> float:
    if not said or not wanted:
        return float(said == wanted)
    shared = sum((Counter(said) & Counter(wanted)).values())
    return 2 * shared / (len(said) + len(wanted))


def score_answers(answers: Sequence[str], truths: Sequence[Sequence[str]]) -> dict[str, float]:
    """Means over questions: `exact match` and `F1`."""
    n = max(1, len(answers))
    return {
        "exact match": sum(map(exact_match, answers, truths)) / n,
        "F1": sum(map(word_f1, answers, truths)) / n,
    }


def expected_scores(drawn: Mapping[str, int], truths: Sequence[Sequence[str]]) -> dict[str, float]:
    """What `score_answers` gives in the mean where each answer is drawn from others, exactly.

    Args:
        drawn: how often each answer occurs among those that are drawn from.
        truths: right answers of each question.
    """
    counts: Counter[str] = Counter()
    for answer, n in drawn.items():
        counts[normalise(answer)] += n
    # An answer without a word of the truth has an F1 of 0: few pairs are left where there are many answers.
    with_word: dict[str, set[str]] = defaultdict(set)
    for answer in counts:
        for word in answer.split() or [""]:
            with_word[word].add(answer)
    questions, total = Counter(frozenset(map(normalise, of)) for of in truths), counts.total() * max(1, len(truths))
    exact = f1 = 0.0
    for wanted, n in questions.items():
        exact += n * sum(counts[truth] for truth in wanted)
        near = {answer for truth in wanted for word in truth.split() or [""] for answer in with_word.get(word, ())}
        f1 += n * sum(counts[answer] * max(_f1(answer.split(), truth.split()) for truth in wanted) for answer in near)
    return {"exact match": exact / total, "F1": f1 / total}
