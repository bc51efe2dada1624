"""The map that puts videos among the vectors of sentences.

A captioner of few videos learns its language from text: it is taught to write a sentence from the sentence's own vector
(`training/from_text.py`). A linear map from what videos show to the vectors of their captions, for which a hundred videos are enough, then
lets it write of videos.

Notation: N videos, P features of a video, D dimensions of a sentence's vector.

Source: Li et al. 2023 (DeCap) and Nukrai et al. 2022 (CapDec), for writing from such vectors.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

PENALTIES = 10.0 ** np.arange(-3, 2.01, 0.5)
"""Of the map's squared weights, where videos have a mean squared length of 1; the one that tells left-out videos best is taken."""


class SentenceBridge(nn.Module):
    """A linear map from videos to the vectors of sentences about them.

    Args:
        video_dim: P.
        sentence_dim: D.
    """

    weight: Tensor
    video_mean: Tensor
    sentence_mean: Tensor
    spread: Tensor

    def __init__(self, video_dim: int, sentence_dim: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(video_dim, sentence_dim))
        self.register_buffer("video_mean", torch.zeros(video_dim))
        self.register_buffer("sentence_mean", torch.zeros(sentence_dim))
        self.register_buffer("spread", torch.zeros(()))

    @property
    def is_fitted(self) -> bool:
        """Whether it has seen videos with captions."""
        return bool(self.spread > 0)

    def fit(self, videos: np.ndarray, sentences: np.ndarray) -> float:
        """Ridge regression; the penalty is chosen by leaving each video out in turn, which needs no second regression.

        Args:
            videos: float (N, P), N at least 3.
            sentences: float (N, D), of length 1.

        Returns:
            The share of the sentences' variance that is told of left-out videos.
        """
        x, y = videos.astype(np.float64), sentences.astype(np.float64)
        video_mean, sentence_mean = x.mean(0), y.mean(0)
        x, y = x - video_mean, y - sentence_mean
        values, vectors = np.linalg.eigh(x @ x.T)  # (N,), (N, N)
        unit = (x**2).sum() / len(x)
        best = None
        for penalty in PENALTIES * unit:
            inverse = vectors / (values.clip(0) + penalty) @ vectors.T  # (N, N)
            hat = x @ x.T @ inverse + 1 / len(x)  # of the mean, too
            left_out = (y - (hat @ y)) / (1 - np.diag(hat))[:, None]
            told = 1 - (left_out**2).sum() / (y**2).sum()
            if best is None or told > best[0]:
                best = told, x.T @ inverse @ y
        assert best is not None
        told, weight = best
        for buffer, value in (
            (self.weight, weight),
            (self.video_mean, video_mean),
            (self.sentence_mean, sentence_mean),
            (self.spread, np.linalg.norm(y, axis=1).mean()),
        ):
            buffer.copy_(torch.as_tensor(value))
        return float(told)

    def forward(self, videos: Tensor) -> Tensor:
        """Float (N, P) to float (N, D), of length 1 and as far from the mean sentence as sentences are: regression shrinks."""
        away = (videos - self.video_mean) @ self.weight  # (N, D)
        return F.normalize(self.sentence_mean + self.spread * F.normalize(away, dim=-1), dim=-1)
