"""What survives quantisation: a linear probe of labels and of the words of captions, before and after.

A video is the vectors of its clips, averaged over stretches of equal length and put side by side. A logistic regression learns from the
training videos what is said of them, and is asked about the others. What it can tell from the centroids of the tokens, of what it can tell
from the features, survives.

Notation: V videos, N clips, C grid cells, D dimensions of a feature in a cell, P dimensions after the projection, F of what a video is.

Source: Alain and Bengio 2016, "Understanding intermediate layers using linear classifier probes".
"""

from __future__ import annotations

import itertools
import re
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score

from vbcli.vocab.artifact import Vocabulary
from vbcli.vocab.config import VocabConfig
from vbcli.vocab.tree import fit_tree, nearest

N_STRETCHES = 8
MAX_VIDEOS = 2000
"""Of more videos so many are probed, evenly spaced."""
MIN_VIDEOS = 40
MIN_HELD_OUT = 20
"""Where fewer videos are held out, folds of all take turns."""
N_FOLDS = 5
MIN_EXAMPLES = 5
"""Of a label or word among the videos that are learned from; rarer ones are left out."""
WORD_SHARES = (0.02, 0.5)
"""Of the videos: rarer words are not learned from so few, more frequent ones say nothing."""
MAX_WORDS = 60
PENALTY = 0.1
"""Of the squared weights, where videos have a mean squared length of 1."""
PAPER = VocabConfig(branching=12, levels=4, n_components=0, n_codebooks=1)
PAPER_MAX_CLIPS = 50_000
"""That the vocabulary of the paper is fitted on, evenly spaced in each video, where there are more."""

MAX_ITERATIONS = 200

Fold = tuple[np.ndarray, np.ndarray]
"""Numbers of the videos to learn from, and of those to ask about."""
Figure = Callable[[np.ndarray], float]


@dataclass(frozen=True)
class ProbeVideo:
    """What is said of a video.

    Args:
        is_held_out: it is not of the training split.
    """

    labels: Sequence[str]
    captions: Sequence[str]
    is_held_out: bool


def choose_videos(videos: Sequence[ProbeVideo]) -> list[int]:
    """Numbers of the videos to probe: those of which something is said, `MAX_VIDEOS` at most."""
    told = [i for i, video in enumerate(videos) if video.labels or video.captions]
    if len(told) <= MAX_VIDEOS:
        return told
    return [told[i] for i in np.linspace(0, len(told) - 1, MAX_VIDEOS).astype(int)]


def probe_report(vocabulary: Vocabulary, features: Sequence[np.ndarray], videos: Sequence[ProbeVideo]) -> dict[str, dict[str, Any]]:
    """Probes the projected features, what the tokens stand for, and beside them the vocabulary of the paper.

    Args:
        features: float (N, C * D) of each video.
        videos: what is said of each.

    Returns:
        For `labels` (accuracy, of videos with one label) and `words` (mean average precision, over words of captions): numbers of classes
        and videos, the figure of `features`, `tokens` and `paper`, and `share`, what survives of the first in the second; or why it is
        `skipped`.

    Source: of the paper's vocabulary, Sun et al. 2019 (VideoBERT), section 4.2: pooled over the frame, one codebook of 12^4.
    """
    if len(videos) < MIN_VIDEOS:
        reason = f"{len(videos)} videos have a label or caption, and a probe needs {MIN_VIDEOS}"
        return {"labels": {"skipped": reason}, "words": {"skipped": reason}}
    seen, stands_for = [], []
    for clips in features:
        projected = vocabulary.project(clips)
        seen.append(_stretches(projected))
        stands_for.append(_stretches(vocabulary.reconstruct(vocabulary.assign(projected))))
    paper = _paper_rows(features, videos, vocabulary.encoder.get("n_cells", 1))
    rows = {"features": np.stack(seen), "tokens": np.stack(stands_for), "paper": paper}  # (V, F) each
    return {"labels": _probe_labels(rows, videos), "words": _probe_words(rows, videos)}


def linear_probe(
    learned: Sequence[np.ndarray], answers: Sequence[Sequence[str]], asked: Sequence[np.ndarray]
) -> tuple[list[str], np.ndarray]:
    """What a logistic regression learns from the features of videos, and says of others; where one has several labels, one of each label.

    Args:
        learned: float (N, P) of each video to learn from.
        answers: the labels of each, at least one.
        asked: float (N, P) of each video to tell.

    Returns:
        The C labels in alphabetical order, and their probabilities float (V, C).
    """
    rows = np.stack([_stretches(clips) for clips in (*learned, *asked)])
    known, others = _scaled(rows, np.arange(len(learned)), np.arange(len(learned), len(rows)))
    names = sorted({name for labels in answers for name in labels})
    if all(len(labels) == 1 for labels in answers):
        return names, _fit(known, np.array([labels[0] for labels in answers])).predict_proba(others)
    has_label = np.array([[name in labels for labels in answers] for name in names])  # (C, N)
    # A label of every video cannot be learned, and needs not be.
    columns = [_fit(known, has).predict_proba(others)[:, 1] if not has.all() else np.ones(len(others)) for has in has_label]
    return names, np.stack(columns, 1)


def _paper_rows(features: Sequence[np.ndarray], videos: Sequence[ProbeVideo], n_cells: int) -> np.ndarray:
    """What videos are by the centroids of pooled features, of a tree of the training videos' clips: float32 (V, F)."""

    def pooled(clips: np.ndarray) -> np.ndarray:
        return clips.reshape(len(clips), n_cells, -1).mean(1, dtype=np.float32)

    training = [clips for clips, video in zip(features, videos, strict=True) if not video.is_held_out] or features
    n_each = max(1, PAPER_MAX_CLIPS // len(training))
    sample = np.concatenate([pooled(clips[np.linspace(0, len(clips) - 1, min(len(clips), n_each)).astype(int)]) for clips in training])
    centroids = fit_tree(sample, PAPER).leaf_centroids
    return np.stack([_stretches(centroids[nearest(pooled(clips), centroids)]) for clips in features])


def _stretches(vectors: np.ndarray) -> np.ndarray:
    """Float (N, P) to the means of `N_STRETCHES` stretches side by side; of fewer clips some are in several."""
    edges = np.linspace(0, len(vectors), N_STRETCHES + 1).astype(int)
    return np.concatenate([vectors[a : max(a + 1, b)].mean(0) for a, b in itertools.pairwise(edges)])


def _probe_labels(rows: dict[str, np.ndarray], videos: Sequence[ProbeVideo]) -> dict[str, Any]:
    answers = np.array([video.labels[0] if len(video.labels) == 1 else "" for video in videos])
    folds = _folds(np.nonzero(answers != "")[0], videos)
    known = [name for name in sorted(set(answers) - {""}) if _can_learn(np.equal(answers, name), folds)]
    folds = [(learned[np.isin(answers[learned], known)], asked[np.isin(answers[asked], known)]) for learned, asked in folds]
    if len(known) < 2:
        return {"skipped": f"fewer than two labels are those of {MIN_EXAMPLES} videos to learn from and of one to ask about"}

    def accuracy(view: np.ndarray) -> float:
        right = 0
        for learned, asked in folds:
            known_rows, asked_rows = _scaled(view, learned, asked)
            right += np.count_nonzero(_fit(known_rows, answers[learned]).predict(asked_rows) == answers[asked])
        return right / sum(len(asked) for _, asked in folds)

    return {"measure": "accuracy", "n_classes": len(known), **_figures(rows, folds, accuracy)}


def _probe_words(rows: dict[str, np.ndarray], videos: Sequence[ProbeVideo]) -> dict[str, Any]:
    said = [set(re.findall(r"\w+", " ".join(video.captions).lower())) for video in videos]
    folds = _folds(np.array([i for i, video in enumerate(videos) if video.captions], int), videos)
    n_captioned = sum(bool(video.captions) for video in videos)
    counts = Counter(word for words in said for word in words)
    low, high = (share * n_captioned for share in WORD_SHARES)
    frequent = sorted((w for w, n in counts.items() if low <= n <= high), key=lambda w: (-counts[w], w))
    is_said = [truth for truth in (np.array([w in words for words in said]) for w in frequent) if _can_learn(truth, folds)][:MAX_WORDS]
    if not is_said:
        return {
            "skipped": f"no word is in the captions of {WORD_SHARES[0]:.0%} to {WORD_SHARES[1]:.0%} of the videos, and of enough of them"
        }

    def mean_average_precision(view: np.ndarray) -> float:
        scores = np.zeros((len(is_said), len(view)))
        for learned, asked in folds:
            known_rows, asked_rows = _scaled(view, learned, asked)
            for i, truth in enumerate(is_said):
                scores[i, asked] = _fit(known_rows, truth[learned]).decision_function(asked_rows)
        places = np.concatenate([asked for _, asked in folds])
        return float(np.mean([average_precision_score(t[places], s[places]) for t, s in zip(is_said, scores, strict=True)]))

    return {"measure": "mean average precision", "n_classes": len(is_said), **_figures(rows, folds, mean_average_precision)}


def _folds(told: np.ndarray, videos: Sequence[ProbeVideo]) -> list[Fold]:
    """What is held out, where it is enough; else a fifth of all at a time."""
    is_held_out = np.array([videos[i].is_held_out for i in told], bool)
    if is_held_out.sum() >= MIN_HELD_OUT and (~is_held_out).sum() >= MIN_HELD_OUT:
        return [(told[~is_held_out], told[is_held_out])]
    mixed = np.random.default_rng(0).permutation(told)
    return [(np.delete(mixed, np.s_[k::N_FOLDS]), mixed[k::N_FOLDS]) for k in range(N_FOLDS)]


def _can_learn(truth: np.ndarray, folds: Sequence[Fold]) -> bool:
    """Whether there are examples and counterexamples to learn from in every fold, and one to ask about in any."""
    counts = [int(truth[learned].sum()) for learned, _ in folds]
    can_learn = all(min(n, len(learned) - n) >= MIN_EXAMPLES for n, (learned, _) in zip(counts, folds, strict=True))
    return can_learn and any(truth[asked].any() for _, asked in folds)


def _scaled(view: np.ndarray, learned: np.ndarray, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows to learn from with a mean of zero and a mean squared length of 1, and those to ask about on the same scale."""
    mean = view[learned].mean(0)
    length = np.sqrt(((view[learned] - mean) ** 2).sum(1).mean()) + 1e-12
    return (view[learned] - mean) / length, (view[asked] - mean) / length


def _fit(rows: np.ndarray, answers: np.ndarray) -> LogisticRegression:
    with warnings.catch_warnings():
        # Of so many steps none changes the figures.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(C=1 / PENALTY, max_iter=MAX_ITERATIONS).fit(rows, answers)


def _figures(rows: dict[str, np.ndarray], folds: Sequence[Fold], figure: Figure) -> dict[str, Any]:
    found = {name: figure(view) for name, view in rows.items()}
    return {
        "n_learned": len(folds[0][0]),
        "n_asked": sum(len(asked) for _, asked in folds),
        "n_folds": len(folds),
        **found,
        "share": found["tokens"] / max(found["features"], 1e-12),
    }
