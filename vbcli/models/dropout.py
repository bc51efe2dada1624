"""Dropout that is drawn for each row of a batch by itself, so that what a row is batched with, or padded to, changes nothing.

Random numbers come from a counter: the bits at (row, place) are a hash of the row's key and the place's coordinates.

Source: Srivastava et al. 2014 (dropout); Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3" (counters); Steele et al. 2014
(SplitMix, which makes keys).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Odd numbers without structure, as signed 32-bit integers: one a dimension, and two of a finaliser that mixes all bits
# (Wellons 2018, "lowbias32").
_STRIDES = (0x1E3779B1, 0x05EBCA77, 0x42B2AE3D)
_MIX = (0x7FEB352D, 0x846CA68B - (1 << 32))


class RowDropout(nn.Module):
    """Sets elements to zero with probability `p` in training, and scales the others by 1 / (1 - p).

    Without keys (see `key_dropout`) it is torch's dropout.

    Args:
        p: in [0, 1).
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.keys: Tensor | None = None  # int32 (2, B)

    def forward(self, x: Tensor, taken: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Drops elements of x, float (B, ...) with up to three more dimensions.

        Args:
            taken: where x is float (R, D), tokens taken out of (B, S, D), their rows and places there, int64 (R,): the same are dropped.
        """
        if not self.training or self.p == 0:
            return x
        if self.keys is None:
            return F.dropout(x, self.p)
        if taken is None:
            kept = keep_mask(self.keys, x.shape, self.p)  # (B, ...)
        else:
            rows, places = taken
            kept = _keep(self.keys[:, rows], _along(places, 0)[:, None] + _along(torch.arange(x.shape[1], device=x.device), 1), self.p)
        return x * (kept * (1 / (1 - self.p))).to(x.dtype)


def keep_mask(keys: Tensor, shape: torch.Size, p: float) -> Tensor:
    """Which elements are kept: each with probability 1 - p, by its row's keys and its coordinates in the row.

    Args:
        keys: int32 (2, B), the first odd.
        shape: (B, ...), with up to three more dimensions.

    Returns:
        bool of `shape`.
    """
    place = torch.zeros((1,), dtype=torch.int32, device=keys.device)
    for dim, n in enumerate(shape[1:]):
        along = _along(torch.arange(n, device=keys.device), dim)  # (n,)
        place = place + along.view(-1, *[1] * (len(shape) - dim - 2))  # (..., n, 1, ...)
    return _keep(keys, place[None] if place.ndim < len(shape) else place, p)  # (B, ...)


def _along(places: Tensor, dim: int) -> Tensor:
    """What places along a dimension add to the counter: int64 (n,) to int32 (n,)."""
    return (places + 1).to(torch.int32) * _STRIDES[dim]


def _keep(keys: Tensor, place: Tensor, p: float) -> Tensor:
    """Which elements are kept, by keys int32 (2, B) and counters int32 (1 or B, ...): bool (B, ...)."""
    factor, offset = keys.view(2, -1, *[1] * (place.ndim - 1))  # (B, 1, ...)
    bits = torch.addcmul(offset, place, factor)  # (B, ...)
    for mix in _MIX:
        bits ^= bits >> 15
        bits *= mix
    return bits >= round(p * 2**32) - 2**31  # (B, ...)


def key_dropout(model: nn.Module, keys: np.ndarray | None) -> None:
    """Gives every `RowDropout` of a model the keys of the rows that come next.

    Args:
        keys: uint64 (B,), random, one a row; None goes back to torch's dropout.
    """
    device = next(model.parameters()).device
    for number, place in enumerate(m for m in model.modules() if isinstance(m, RowDropout)):
        place.keys = None if keys is None else torch.from_numpy(_place_keys(keys, number)).to(device)


def _place_keys(keys: np.ndarray, number: int) -> np.ndarray:
    """Keys for one place of a model, int32 (2, B), the first odd: another stream in each place, from the same key of the row."""
    mixed = keys + np.uint64((number + 1) * 0x9E3779B97F4A7C15 % 2**64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    factor, offset = (mixed & np.uint64(2**32 - 1)) | np.uint64(1), mixed >> np.uint64(32)
    return np.stack([factor, offset]).astype(np.uint32).view(np.int32)
