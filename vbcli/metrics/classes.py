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


def are_right(guesses: ClassGuesses) -> np.ndarray:
    """Whether each video is said to have its class, or of any number exactly its classes: bool (V,)."""
    if guesses.is_single_label:
        return np.asarray((guesses.truths & guesses.chosen).any(1))
    return np.asarray((guesses.truths == guesses.chosen).all(1))


def score_classes(guesses: ClassGuesses) -> dict[str, float]:
    """Scores in [0, 1] by name.

    `macro F1` is the mean over the classes that occur in the truths or are chosen, as in scikit-learn: a class that is chosen without
    occurring counts as 0, and one that only has probabilities counts in no row of a table, however many classes its system knows.

    Of one class a video: `accuracy`; `accuracy of 5`, where there are more classes than five: the right one is among the first five
    guesses; `macro F1`; `calibration error`. Of any number: `exact match` of the whole set; `macro F1`; `mean average precision` over the
    classes that occur; `calibration error` over the probabilities of all classes of all videos.
    """
    counted = guesses.truths.any(0) | guesses.chosen.any(0)
    # A class that is never guessed has no precision: it counts as 0.
    macro = f1_score(guesses.truths[:, counted], guesses.chosen[:, counted], average="macro", zero_division=0)  # pyright: ignore[reportArgumentType]
    if not guesses.is_single_label:
        occurs = guesses.truths.any(0)
        precisions = [average_precision_score(guesses.truths[:, i], guesses.probabilities[:, i]) for i in np.nonzero(occurs)[0].tolist()]
        return {
            "exact match": float(are_right(guesses).mean()),
            "macro F1": float(macro),
            "mean average precision": float(np.mean(precisions)) if precisions else 0.0,
            "calibration error": _calibration_error(guesses),
        }
    scores = {"accuracy": float(are_right(guesses).mean())}
    if len(guesses.classes) > TOP_K:
        first = np.argsort(-guesses.probabilities, axis=1, kind="stable")[:, :TOP_K]
        scores[f"accuracy of {TOP_K}"] = float(np.take_along_axis(guesses.truths, first, 1).any(1).mean())
    return {**scores, "macro F1": float(macro), "calibration error": _calibration_error(guesses)}


def _calibration_error(guesses: ClassGuesses) -> float:
    bins = reliability(guesses)
    return sum(b.n_guesses * abs(b.accuracy - b.confidence) for b in bins) / sum(b.n_guesses for b in bins)


@dataclass(frozen=True)
class ReliabilityBin:
    """Guesses with a probability in [low, high).

    Args:
        confidence: their mean probability.
        accuracy: share of them that are right.
    """

    low: float
    high: float
    n_guesses: int
    confidence: float
    accuracy: float


def reliability(guesses: ClassGuesses) -> list[ReliabilityBin]:
    """How often guesses are right, by their probability; bins without guesses are left out.

    Of one class a video the first guess of each video counts, of any number every class of every video.
    """
    confidence, is_right = guesses.probabilities.ravel(), guesses.truths.ravel()
    if guesses.is_single_label:
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


AGAINST_REST = ("true positives", "false negatives", "false positives", "true negatives")
"""The counts of a class, in words."""


@dataclass(frozen=True)
class ClassCounts:
    """Videos by whether they have a class and whether they are said to."""

    name: str
    true_positives: int
    false_negatives: int
    false_positives: int
    true_negatives: int

    def as_row(self) -> tuple[int, int, int, int]:
        """In the order of `AGAINST_REST`."""
        return self.true_positives, self.false_negatives, self.false_positives, self.true_negatives


def one_against_rest(guesses: ClassGuesses) -> list[ClassCounts]:
    """The counts of each class, of any number of classes a video."""
    truths, chosen = guesses.truths, guesses.chosen
    counts = [(of & said).sum(0) for of, said in ((truths, chosen), (truths, ~chosen), (~truths, chosen), (~truths, ~chosen))]  # (C,) each
    return [ClassCounts(name, *map(int, of_class)) for name, *of_class in zip(guesses.classes, *counts, strict=True)]
