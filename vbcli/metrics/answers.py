"""Scores of answers: exact match and F1 of words, after what does not matter is taken off.

Source: Rajpurkar et al. 2016 (SQuAD), section 6.1 and its evaluation script, for the normalisation and both scores.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

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
