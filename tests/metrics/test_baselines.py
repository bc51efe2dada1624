"""Baselines against brute force and the reference scorer."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocoevalcap.cider.cider import Cider

from vbcli.errors import VbcliError
from vbcli.metrics import baselines
from vbcli.metrics.baselines import best_constant_caption, nearest_captions, permutation_scores


@given(st.integers(2, 7), st.integers(0, 100))
def test_permutations_move_every_caption(n_videos: int, seed: int) -> None:
    hypotheses = {f"v{place}": f"caption {place}" for place in range(n_videos)}
    seen = []

    def watch(exchanged: object, references: object) -> dict[str, float]:
        assert isinstance(exchanged, dict)
        assert list(exchanged) == list(hypotheses)
        assert Counter(exchanged.values()) == Counter(hypotheses.values())
        assert all(exchanged[video_id] != hypotheses[video_id] for video_id in hypotheses)
        seen.append(float(len(seen)))
        return {"turn": seen[-1]}

    scores = permutation_scores(hypotheses, {}, watch, n_permutations=4, seed=seed)
    assert scores.mean == {"turn": 1.5}
    assert scores.std["turn"] == pytest.approx(np.sqrt(5 / 3))


def test_permutations_are_random_and_repeatable() -> None:
    hypotheses = {f"v{place}": str(place) for place in range(8)}

    def position(exchanged: object, references: object) -> dict[str, float]:
        assert isinstance(exchanged, dict)
        return {"first": float(exchanged["v0"])}

    first = permutation_scores(hypotheses, {}, position, n_permutations=300)
    assert first == permutation_scores(hypotheses, {}, position, n_permutations=300)
    # Uniform over 1 to 7: mean 4, standard deviation 2.
    assert first.mean["first"] == pytest.approx(4, abs=0.5)
    assert first.std["first"] == pytest.approx(2, abs=0.3)


@pytest.mark.parametrize(("n_videos", "n_permutations"), [(1, 20), (3, 1)])
def test_too_few_to_permute(n_videos: int, n_permutations: int) -> None:
    with pytest.raises(VbcliError, match="permute"):
        permutation_scores({str(place): "x" for place in range(n_videos)}, {}, lambda h, r: {}, n_permutations)


def test_nearest_captions_against_brute_force() -> None:
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(20, 5)).astype(np.float32), rng.normal(size=(9, 5)).astype(np.float32)
    train *= rng.uniform(0.1, 10, size=(20, 1)).astype(np.float32)
    train[3] = 0
    captions = [[f"caption {place}"] for place in range(20)]

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-30))

    expected = [captions[max(range(20), key=lambda place: cosine(row, train[place]))] for row in test]
    assert nearest_captions(test, train, captions, block_size=4) == expected


def test_features_that_do_not_compare() -> None:
    with pytest.raises(VbcliError, match="captions of 1"):
        nearest_captions(np.ones((2, 3), np.float32), np.ones((2, 3), np.float32), [["x"]])
    with pytest.raises(VbcliError, match="do not compare"):
        nearest_captions(np.ones((2, 4), np.float32), np.ones((1, 3), np.float32), [["x"]])


def test_best_constant_caption_against_the_reference_scorer() -> None:
    rng = np.random.default_rng(1)
    words = ["a", "man", "woman", "dog", "is", "eating", "running", "rice", "the", "park", "red"]
    train = {f"v{video}": [" ".join(rng.choice(words, size=rng.integers(1, 9))) for _ in range(1 + video % 3)] for video in range(15)}
    reference = {
        caption: Cider().compute_score(train, {video_id: [caption] for video_id in train})[0]
        for captions in train.values()
        for caption in captions
    }
    caption, score = best_constant_caption(train)
    assert caption == max(reference, key=lambda candidate: reference[candidate])
    assert score == pytest.approx(reference[caption])
    table = baselines._CiderTable(train)
    assert {candidate: table.mean_score(candidate) for candidate in reference} == pytest.approx(reference)
    assert best_constant_caption(train, n_candidates=1)[1] <= score


def test_best_constant_caption_keeps_its_spelling() -> None:
    train = {"a": ["A man eats."], "b": ["A man eats!", "A man runs."], "c": ["Two dogs."]}
    assert best_constant_caption(train)[0] in {"A man eats.", "A man eats!", "A man runs.", "Two dogs."}
    with pytest.raises(VbcliError, match="no training captions"):
        best_constant_caption({})
