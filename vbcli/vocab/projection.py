"""Principal components of features, scaled.

Notation: N vectors, D dimensions of a feature, P dimensions after the projection.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vbcli.errors import VbcliError

ROWS = 8192
"""That are multiplied at once."""


@dataclass(frozen=True)
class Projection:
    """Principal components, scaled: `apply` maps (N, D) to (N, P).

    Args:
        mean: float32 (D,).
        components: float32 (D, P): the scale of each dimension, the principal axes, and the scale of each axis, multiplied.
        kept: share of the variance that the components keep.
    """

    mean: np.ndarray
    components: np.ndarray
    kept: float

    def apply(self, features: np.ndarray) -> np.ndarray:
        """Projects float (N, D) to float32 (N, P)."""
        return (features.astype(np.float32) - self.mean) @ self.components


def fit_projection(
    features: np.ndarray, n_components: int, whitening: float, seed: int = 0, block_dims: tuple[int, ...] | None = None
) -> Projection:
    """Principal components of the features by a singular value decomposition: a randomised one where few of the axes are wanted.

    Blocks (what different stages of an encoder say) are first scaled to equal variance in all, so that none drowns the others; the
    result is scaled to a mean squared length of 1, the size that a model's embeddings begin with.

    Args:
        features: float (N, D).
        n_components: P; no more than N - 1 and D are used. 0 keeps the features as they are.
        whitening: 0 (rotation only) to 1 (equal variance on each axis).
        block_dims: dimensions of each block within a grid cell; None is one block.

    Source: Halko, Martinsson, Tropp 2011, algorithm 5.1, by `torch.svd_lowrank`.
    """
    n, d = features.shape
    if n_components == 0:
        return Projection(np.zeros(d, np.float32), np.eye(d, dtype=np.float32), 1.0)
    rank = min(n_components, n - 1, d)
    if rank < 1:
        raise VbcliError("one feature vector is not enough for a visual vocabulary", hint="encode more or longer videos")
    rows = features.astype(np.float32)
    mean = rows.mean(0)
    rows -= mean
    scale = _block_scale(rows, block_dims or (d,))
    rows *= scale
    centred = torch.from_numpy(rows)
    singular, axes = _leading_axes(centred, rank, seed)
    # The sign of a singular vector is arbitrary: its largest entry is made positive.
    axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    std = (singular / math.sqrt(n)).clamp_min(float(singular[0]) * 1e-6 + 1e-12)
    components = torch.from_numpy(scale)[:, None] * axes / std**whitening
    components = components / (std ** (1 - whitening)).square().sum().sqrt()
    kept = float((singular**2).sum() / max(float((centred**2).sum()), 1e-12))
    return Projection(mean, components.numpy(), kept)


def _leading_axes(centred: Tensor, rank: int, seed: int) -> tuple[Tensor, Tensor]:
    """Singular values (P,) and right singular vectors (D, P) of float32 (N, D), the largest first."""
    n, d = centred.shape
    q = min(rank + 16, n, d)
    if n >= d < 4 * q:
        # To multiply by as many random directions takes longer than all second moments.
        moments = torch.zeros(d, d, dtype=torch.float64)
        for block in centred.split(ROWS):
            moments += block.T @ block
        values, axes = torch.linalg.eigh(moments)
        return values.flip(0)[:rank].clamp_min(0).sqrt().float(), axes.flip(1)[:, :rank].float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _, singular, axes = torch.svd_lowrank(centred, q=q, niter=4)
    return singular[:rank], axes[:, :rank]


def _block_scale(centred: np.ndarray, block_dims: tuple[int, ...]) -> np.ndarray:
    """float32 (D,): one over the root of the variance of the block that each dimension belongs to."""
    block = np.tile(np.repeat(np.arange(len(block_dims)), block_dims), centred.shape[1] // sum(block_dims))
    variance = np.bincount(block, weights=centred.var(0))
    return (1 / np.sqrt(np.maximum(variance, 1e-12)))[block].astype(np.float32)
