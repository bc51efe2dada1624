"""The map from videos to the vectors of sentences, against scikit-learn's ridge regression and left-out videos one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from vbcli.models.bridge import PENALTIES, SentenceBridge

N, P, D = 30, 8, 5


def pairs(noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Videos, and sentences that are a linear map of them but for noise; of length 1."""
    rng = np.random.default_rng(4)
    videos = rng.normal(2, 1, (N, P))
    sentences = (videos - 2) @ rng.normal(0, 1, (P, D)) + 3 + noise * rng.normal(size=(N, D))
    return videos, sentences / np.linalg.norm(sentences, axis=1, keepdims=True)


def left_out(videos: np.ndarray, sentences: np.ndarray, penalty: float) -> float:
    """Share of the variance that is told of each video by a regression on the others."""
    errors = []
    for i in range(N):
        others = np.arange(N) != i
        found = Ridge(alpha=penalty).fit(videos[others], sentences[others]).predict(videos[i : i + 1])[0]
        # The mean of all is known, as in the share.
        errors.append(((sentences[i] - found) ** 2).sum())
    return 1 - sum(errors) / ((sentences - sentences.mean(0)) ** 2).sum()


@pytest.mark.parametrize("noise", [0.1, 5.0])
def test_the_regression_and_its_penalty_are_those_of_leaving_each_video_out(noise: float):
    videos, sentences = pairs(noise)
    bridge = SentenceBridge(P, D)
    assert not bridge.is_fitted
    told = bridge.fit(videos, sentences)
    assert bridge.is_fitted
    unit = ((videos - videos.mean(0)) ** 2).sum() / N
    shares = [left_out(videos, sentences, penalty) for penalty in PENALTIES * unit]
    assert told == pytest.approx(max(shares), abs=1e-9)
    best = Ridge(alpha=PENALTIES[int(np.argmax(shares))] * unit).fit(videos, sentences)
    np.testing.assert_allclose(bridge.weight.numpy(), best.coef_.T, atol=1e-6)
    if noise > 1:
        assert told < 0.3
    else:
        assert told > 0.7


def test_videos_lie_as_far_from_the_mean_sentence_as_sentences_do():
    """A regression shrinks towards the mean; what it says of the direction is kept."""
    videos, sentences = pairs(5.0)
    bridge = SentenceBridge(P, D)
    bridge.fit(videos, sentences)
    with torch.no_grad():
        found = bridge(torch.from_numpy(videos).float()).numpy()
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    mean = sentences.mean(0)
    away = (videos - videos.mean(0)) @ bridge.weight.double().numpy()
    expected = mean + away / np.linalg.norm(away, axis=1, keepdims=True) * np.linalg.norm(sentences - mean, axis=1).mean()
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-5)
