"""What a score must be read beside: captions of other videos, of the nearest training video, and one caption for all."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vbcli.errors import VbcliError
from vbcli.metrics.captions import CIDER_ORDERS, CIDER_SIGMA, tokenised_references
from vbcli.ptb import caption_tokens


@dataclass(frozen=True)
class PermutationScores:
    """Scores of captions handed to the wrong videos: `mean` and sample standard deviation `std` over the permutations, by score name."""

    mean: dict[str, float]
    std: dict[str, float]
    n_permutations: int


def permutation_scores(
    hypotheses: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    score_fn: Callable[[Mapping[str, str], Mapping[str, Sequence[str]]], Mapping[str, float]],
    n_permutations: int = 20,
    seed: int = 0,
) -> PermutationScores:
    """Score the same captions with the videos exchanged: what captions get for their style alone.

    Each permutation is one random cycle through all videos, so no video keeps its own caption.

    Args:
        hypotheses: video id to caption, two videos or more.
        references: the same video ids to captions.
        score_fn: hypotheses and references to scores by name.
        n_permutations: two or more, for the standard deviation.
        seed: of the permutations.

    Raises:
        VbcliError: fewer than two videos or two permutations.
    """
    if len(hypotheses) < 2 or n_permutations < 2:
        raise VbcliError(f"cannot permute {len(hypotheses)} captions {n_permutations} times: two of each are needed")
    random = np.random.default_rng(seed)
    video_ids = list(hypotheses)
    rows = []
    for _ in range(n_permutations):
        cycle = random.permutation(len(video_ids))
        giver = dict(zip(cycle.tolist(), np.roll(cycle, 1).tolist(), strict=True))
        exchanged = {video_id: hypotheses[video_ids[giver[place]]] for place, video_id in enumerate(video_ids)}
        rows.append(score_fn(exchanged, references))
    columns = {name: np.array([row[name] for row in rows], dtype=np.float64) for name in rows[0]}
    return PermutationScores(
        mean={name: float(column.mean()) for name, column in columns.items()},
        std={name: float(column.std(ddof=1)) for name, column in columns.items()},
        n_permutations=n_permutations,
    )


def nearest_captions(
    test_features: np.ndarray, train_features: np.ndarray, train_captions: Sequence[Sequence[str]], block_size: int = 1024
) -> list[Sequence[str]]:
    """Give each test video the captions of the training video that looks most like it.

    Args:
        test_features: float32 (M, D), the mean feature of each test video.
        train_features: float32 (N, D), of each training video, from the same encoder.
        train_captions: N sequences of captions.
        block_size: test videos compared at a time, which bounds memory.

    Returns:
        M sequences of captions, those of the training video with the highest cosine (the first of equals). A feature of zeros has cosine 0.

    Raises:
        VbcliError: no training videos, or counts or dimensions that do not agree.
    """
    if len(train_features) == 0 or len(train_features) != len(train_captions):
        raise VbcliError(f"{len(train_features)} training features do not go with the captions of {len(train_captions)} training videos")
    if test_features.shape[1:] != train_features.shape[1:]:
        raise VbcliError(f"test features of shape {test_features.shape} do not compare with training features of {train_features.shape}")
    unit = _unit_rows(train_features)
    nearest: list[Sequence[str]] = []
    for start in range(0, len(test_features), block_size):
        cosines = _unit_rows(test_features[start : start + block_size]) @ unit.T
        places: list[int] = cosines.argmax(axis=1).tolist()
        nearest += [train_captions[place] for place in places]
    return nearest


def _unit_rows(features: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(norms > 0, norms, 1)


def best_constant_caption(train_references: Mapping[str, Sequence[str]], n_candidates: int = 500, seed: int = 0) -> tuple[str, float]:
    """Find the one training caption that, given to every training video, has the best CIDEr.

    Only training captions are looked at, so the caption is a fair baseline on other videos.

    Args:
        train_references: training video id to its captions.
        n_candidates: distinct captions tried at most, drawn at random where there are more; each costs milliseconds.
        seed: of the draw.

    Returns:
        The caption as it is written, and its CIDEr on the training references, which contain it.

    Raises:
        VbcliError: no training captions, or a video without one.
    """
    if not train_references:
        raise VbcliError("there are no training captions to choose from")
    table = _CiderTable({video_id: tokenised_references(video_id, captions) for video_id, captions in train_references.items()})
    by_tokens = {" ".join(caption_tokens(caption)): caption for captions in train_references.values() for caption in captions}
    by_tokens.pop("", None)
    candidates = sorted(by_tokens)
    if len(candidates) > n_candidates:
        chosen = np.random.default_rng(seed).choice(len(candidates), size=n_candidates, replace=False)
        candidates = [candidates[place] for place in sorted(chosen)]
    scores = [table.mean_score(candidate) for candidate in candidates]
    best = int(np.argmax(scores))
    return by_tokens[candidates[best]], scores[best]


def _counts(caption: str) -> Counter[tuple[str, ...]]:
    """N-grams of orders 1 to 4, counted."""
    words = caption.split()
    return Counter(tuple(words[start : start + n]) for n in range(1, CIDER_ORDERS + 1) for start in range(len(words) - n + 1))


class _CiderTable:
    """All references by n-gram, so that one caption is compared with every video at once.

    Source: Vedantam et al. 2015, section 5 (CIDEr-D): clipped tf-idf cosines of orders 1 to 4, times a Gaussian of the length difference.
    """

    def __init__(self, references: Mapping[str, Sequence[str]]) -> None:
        counts = [[_counts(caption) for caption in captions] for captions in references.values()]
        frequency = Counter(ngram for video in counts for ngram in set().union(*video))
        self._idf = {ngram: math.log(len(counts) / n_videos) for ngram, n_videos in frequency.items()}
        # A reference weighs 1 / (videos x references of its video) in the mean.
        self._shares = np.array([1 / (len(counts) * len(video)) for video in counts for _ in video])
        self._n_bigrams = np.array([_n_bigrams(caption) for video in counts for caption in video])
        rows: dict[tuple[str, ...], list[int]] = defaultdict(list)
        weights: dict[tuple[str, ...], list[float]] = defaultdict(list)
        norms = np.zeros((CIDER_ORDERS, len(self._shares)))
        for row, caption in enumerate(caption for video in counts for caption in video):
            for ngram, count in caption.items():
                weight = count * self._idf[ngram]
                if weight > 0:
                    rows[ngram].append(row)
                    weights[ngram].append(weight)
                    norms[len(ngram) - 1, row] += weight**2
        self._rows = {ngram: np.array(places) for ngram, places in rows.items()}
        self._weights = {ngram: np.array(values) for ngram, values in weights.items()}
        self._norms = np.sqrt(norms)

    def mean_score(self, caption: str) -> float:
        """CIDEr of a tokenised caption, one of the references, given to all videos."""
        counts = _counts(caption)
        products = np.zeros_like(self._norms)
        squares = np.zeros(CIDER_ORDERS)
        for ngram, count in counts.items():
            weight = count * self._idf[ngram]
            squares[len(ngram) - 1] += weight**2
            if weight > 0:
                theirs = self._weights[ngram]
                products[len(ngram) - 1, self._rows[ngram]] += np.minimum(weight, theirs) * theirs
        lengths = self._norms * np.sqrt(squares)[:, None]
        cosines = np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)
        penalty = np.exp(-((_n_bigrams(counts) - self._n_bigrams) ** 2) / (2 * CIDER_SIGMA**2))
        return float(10 * (cosines.mean(axis=0) * penalty * self._shares).sum())


def _n_bigrams(counts: Counter[tuple[str, ...]]) -> int:
    """What the reference implementation takes for the length of a caption."""
    return sum(count for ngram, count in counts.items() if len(ngram) == 2)
