"""Scores of classification: accuracy, balanced over classes, among the first k guesses, and how far probabilities can be believed.

Notation: V videos, C classes.

Source: Guo et al. 2017, "On calibration of modern neural networks", section 2, for the expected calibration error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import average_precision_score, confusion_matrix, f1_score

TOP_K = 5
N_BINS = 10


@dataclass(frozen=True)
class ClassGuesses:
    """What is said of the classes of some videos.

    Args:
        classes: names of the C classes.
        truths: bool (V, C).
        probabilities: float (V, C).
        chosen: bool (V, C), the classes that a video is said to have.
        is_single_label: whether every video has one class and is said to have one.
    """

    classes: tuple[str, ...]
    truths: np.ndarray
    probabilities: np.ndarray
    chosen: np.ndarray
    is_single_label: bool


def gather_guesses(
    scores: Mapping[str, Mapping[str, float]],
    labels: Mapping[str, Sequence[str]],
    truths: Mapping[str, Sequence[str]],
    *,
    is_single_label: bool | None = None,
) -> ClassGuesses:
    """Guesses and truths of the same videos as arrays; classes that only the truths know get a probability of 0.

    Args:
        scores: video to class to probability.
        labels: video to the classes that it is said to have.
        truths: video to the classes that it has; its videos are those that count.
        is_single_label: whether a video has one class; None looks at `labels` and `truths`.
    """
    names = {name for video in truths for name in (*scores[video], *truths[video])}
    classes = tuple(sorted(names))

    def table(of: Mapping[str, Sequence[str]]) -> np.ndarray:
        return np.array([[name in of[video] for name in classes] for video in truths], bool).reshape(len(truths), len(classes))

    probabilities = np.array([[scores[video].get(name, 0.0) for name in classes] for video in truths]).reshape(len(truths), len(classes))
    if is_single_label is None:
        is_single_label = all(len(labels[video]) == len(truths[video]) == 1 for video in truths)
    return ClassGuesses(classes, table(truths), probabilities, table(labels), is_single_label)


def score_classes(guesses: ClassGuesses) -> dict[str, float]:
    """Scores in [0, 1] by name.

    `macro F1` is the mean over the classes that occur in the truths or are chosen, as in scikit-learn: a class that is chosen without
    occurring counts as 0, and one that only has probabilities counts in no row of a table, however many classes its system knows.

    Of one class a video: `accuracy`; `accuracy of 5`, where there are more classes than five: the right one is among the first five
    guesses; `macro F1`; `calibration error`. Of any number: `exact match` of the whole set; `macro F1`; `mean average precision` over the
    classes that occur.
    """
    counted = guesses.truths.any(0) | guesses.chosen.any(0)
    # A class that is never guessed has no precision: it counts as 0.
    macro = f1_score(guesses.truths[:, counted], guesses.chosen[:, counted], average="macro", zero_division=0)  # pyright: ignore[reportArgumentType]
    if not guesses.is_single_label:
        occurs = guesses.truths.any(0)
        precisions = [average_precision_score(guesses.truths[:, i], guesses.probabilities[:, i]) for i in np.nonzero(occurs)[0].tolist()]
        return {
            "exact match": float((guesses.truths == guesses.chosen).all(1).mean()),
            "macro F1": float(macro),
            "mean average precision": float(np.mean(precisions)) if precisions else 0.0,
        }
    scores = {"accuracy": float((guesses.truths & guesses.chosen).any(1).mean())}
    if len(guesses.classes) > TOP_K:
        first = np.argsort(-guesses.probabilities, axis=1, kind="stable")[:, :TOP_K]
        scores[f"accuracy of {TOP_K}"] = float(np.take_along_axis(guesses.truths, first, 1).any(1).mean())
    bins = reliability(guesses)
    n = sum(b.n_videos for b in bins)
    error = sum(b.n_videos * abs(b.accuracy - b.confidence) for b in bins) / n
    return {**scores, "macro F1": float(macro), "calibration error": error}


@dataclass(frozen=True)
class ReliabilityBin:
    """Videos whose first guess has a probability in [low, high).

    Args:
        confidence: mean probability of their first guesses.
        accuracy: share of their first guesses that are right.
    """

    low: float
    high: float
    n_videos: int
    confidence: float
    accuracy: float


def reliability(guesses: ClassGuesses) -> list[ReliabilityBin]:
    """How often first guesses are right, by their probability; bins without videos are left out."""
    first = guesses.probabilities.argmax(1)
    rows = np.arange(len(first))
    confidence, is_right = guesses.probabilities[rows, first], guesses.truths[rows, first]
    number = np.minimum((confidence * N_BINS).astype(int), N_BINS - 1)
    found = []
    for i in range(N_BINS):
        inside = number == i
        if inside.any():
            means = float(confidence[inside].mean()), float(is_right[inside].mean())
            found.append(ReliabilityBin(i / N_BINS, (i + 1) / N_BINS, int(inside.sum()), *means))
    return found


def confusions(guesses: ClassGuesses) -> np.ndarray:
    """Videos by true class (rows) and first guess (columns), int (C, C); of one class a video."""
    numbers = np.arange(len(guesses.classes))
    return confusion_matrix(guesses.truths.argmax(1), guesses.probabilities.argmax(1), labels=numbers)
