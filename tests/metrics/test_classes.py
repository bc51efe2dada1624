"""Scores of classification by hand and by scikit-learn."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score, multilabel_confusion_matrix, top_k_accuracy_score
from sklearn.preprocessing import MultiLabelBinarizer

from vbcli.metrics.classes import confusions, gather_guesses, one_against_rest, reliability, score_classes

SCORES = {
    "1.mp4": {"cat": 0.9, "dog": 0.1},
    "2.mp4": {"cat": 0.6, "dog": 0.4},
    "3.mp4": {"cat": 0.3, "dog": 0.7},
    "4.mp4": {"cat": 0.8, "dog": 0.2},
    "5.mp4": {"cat": 0.5, "dog": 0.5},
}
LABELS = {video: [max(found, key=lambda name: found[name])] for video, found in SCORES.items()}
TRUTHS = {"1.mp4": ["cat"], "2.mp4": ["dog"], "3.mp4": ["dog"], "4.mp4": ["fox"]}


def test_one_class_a_video_by_hand():
    """Four videos count: the first and third are right. F1 of cat 2 * 1 / (3 + 1), of dog 2 * 1 / (1 + 2), of the unknown fox 0."""
    guesses = gather_guesses(SCORES, LABELS, TRUTHS)
    assert guesses.classes == ("cat", "dog", "fox")
    scores = score_classes(guesses)
    assert scores["accuracy"] == 0.5
    assert scores["macro F1"] == pytest.approx((0.5 + 2 / 3 + 0) / 3)
    # By tenths: 0.6 and 0.7 and 0.8 and 0.9, each alone: |0 - 0.6|, |1 - 0.7|, |0 - 0.8|, |1 - 0.9|.
    assert scores["calibration error"] == pytest.approx((0.6 + 0.3 + 0.8 + 0.1) / 4)
    assert confusions(guesses).tolist() == [[1, 0, 0], [1, 1, 0], [1, 0, 0]]
    assert [(b.n_guesses, b.accuracy) for b in reliability(guesses)] == [(1, 0.0), (1, 1.0), (1, 0.0), (1, 1.0)]


def test_any_number_of_classes_by_hand():
    scores = {"1": {"a": 0.9, "b": 0.8}, "2": {"a": 0.2, "b": 0.6}, "3": {"a": 0.7, "b": 0.1}}
    labels = {"1": ["a", "b"], "2": ["b"], "3": ["a"]}
    truths = {"1": ["a", "b"], "2": ["a"], "3": ["a"]}
    found = score_classes(gather_guesses(scores, labels, truths))
    # Exact: the first and the third. F1: a 2 * 2 / (2 + 3), b 2 * 1 / (2 + 1). Precision: a always 1; b is first of three: 1.
    assert {k: v for k, v in found.items() if k != "calibration error"} == pytest.approx(
        {"exact match": 2 / 3, "macro F1": (0.8 + 2 / 3) / 2, "mean average precision": 1.0}
    )


def test_one_class_chosen_of_any_number_is_not_one_class_a_video():
    """Where videos may have any number of classes, the scores are of that even if none has two here."""
    guesses = gather_guesses(SCORES, LABELS, TRUTHS, is_single_label=False)
    assert score_classes(guesses).keys() == {"exact match", "macro F1", "mean average precision", "calibration error"}


def test_calibration_of_several_classes_is_over_all_classes_of_all_videos():
    scores = {"1": {"a": 0.95, "b": 0.05}, "2": {"a": 0.25, "b": 0.96}, "3": {"a": 0.22, "b": 0.97}}
    truths = {"1": ["a", "b"], "2": ["b"], "3": ["a"]}
    guesses = gather_guesses(scores, {"1": ["a"], "2": ["b"], "3": ["b"]}, truths)
    found = reliability(guesses)
    assert [(b.low, b.n_guesses) for b in found] == [(0, 1), (0.2, 2), (0.9, 3)]
    assert [b.confidence for b in found] == pytest.approx([0.05, 0.235, 0.96])
    assert [b.accuracy for b in found] == pytest.approx([1, 1 / 2, 2 / 3])
    expected = (1 * (1 - 0.05) + 2 * (0.5 - 0.235) + 3 * (0.96 - 2 / 3)) / 6
    assert score_classes(guesses)["calibration error"] == pytest.approx(expected)


@given(st.integers(0, 10_000))
def test_counts_of_each_class_are_those_of_scikit_learn(seed: int):
    rng = np.random.default_rng(seed)
    names = [f"c{i}" for i in range(4)]
    truths, labels = ({str(v): rng.choice(names, int(rng.integers(n, 4)), replace=False).tolist() for v in range(9)} for n in (1, 0))
    scores = {v: dict.fromkeys(names, 0.5) for v in truths}
    found = one_against_rest(gather_guesses(scores, labels, truths, is_single_label=False))
    rows = MultiLabelBinarizer(classes=names).fit([])
    expected = multilabel_confusion_matrix(rows.transform(truths.values()), rows.transform(labels.values()))
    assert [c.name for c in found] == names
    assert [[[c.true_negatives, c.false_positives], [c.false_negatives, c.true_positives]] for c in found] == expected.tolist()


def test_classes_that_no_video_has_do_not_count():
    """A perfect classifier of ten classes, on videos of two."""
    truths = {str(v): ["c0" if v % 2 else "c1"] for v in range(6)}
    for is_single_label in (True, False):
        scores = {v: {f"c{i}": float(f"c{i}" in of) for i in range(10)} for v, of in truths.items()}
        assert score_classes(gather_guesses(scores, truths, truths, is_single_label=is_single_label))["macro F1"] == 1


@given(st.integers(0, 10_000), st.booleans())
def test_macro_f1_is_that_of_scikit_learn(seed: int, is_single_label: bool):
    rng = np.random.default_rng(seed)
    names = [f"c{i}" for i in range(8)]
    size = (lambda least: 1) if is_single_label else (lambda least: int(rng.integers(least, 4)))
    truths, labels = ({str(v): rng.choice(names, size(least), replace=False).tolist() for v in range(5)} for least in (1, 0))
    scores = {v: dict(zip(names, rng.random(8).tolist(), strict=True)) for v in truths}
    found = score_classes(gather_guesses(scores, labels, truths, is_single_label=is_single_label))["macro F1"]
    macro = partial(f1_score, average="macro", zero_division=0)  # pyright: ignore[reportArgumentType]
    if is_single_label:
        expected = macro([of[0] for of in truths.values()], [of[0] for of in labels.values()])
    else:
        rows = MultiLabelBinarizer().fit([*truths.values(), *labels.values()])
        expected = macro(rows.transform(truths.values()), rows.transform(labels.values()))
    assert found == pytest.approx(expected)


@given(st.integers(0, 10_000))
def test_the_right_class_among_the_first_five_as_in_scikit_learn(seed: int):
    rng = np.random.default_rng(seed)
    names = [f"c{i}" for i in range(8)]
    probabilities = rng.dirichlet(np.ones(8), 30)
    truths = rng.integers(0, 8, 30)
    scores = {str(v): dict(zip(names, row, strict=True)) for v, row in enumerate(probabilities.tolist())}
    labels = {str(v): [names[i]] for v, i in enumerate(probabilities.argmax(1))}
    found = score_classes(gather_guesses(scores, labels, {str(v): [names[i]] for v, i in enumerate(truths)}))
    assert found["accuracy of 5"] == pytest.approx(top_k_accuracy_score(truths, probabilities, k=5, labels=range(8)))
    assert found["accuracy"] == pytest.approx((probabilities.argmax(1) == truths).mean())
    assert 0 <= found["calibration error"] <= 1


def test_probabilities_that_are_right_as_often_as_they_say_have_no_error():
    """Of ten videos at 0.7 seven are right."""
    scores = {str(v): {"a": 0.7, "b": 0.3} for v in range(10)}
    labels = {str(v): ["a"] for v in range(10)}
    truths = {str(v): ["a" if v < 7 else "b"] for v in range(10)}
    assert score_classes(gather_guesses(scores, labels, truths))["calibration error"] == pytest.approx(0, abs=1e-12)
