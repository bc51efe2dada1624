"""Masked modelling: which tokens are hidden, and by what.

Source: Devlin et al. 2019 (BERT), section 3.1; Sun et al. 2019 (VideoBERT), section 3.2, for both modalities.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MASK_RATE = 0.15
SHARE_MASKED = 0.8
SHARE_RANDOM = 0.1


@dataclass(frozen=True)
class MaskedTokens:
    """Result of `mask_tokens`.

    Args:
        input_ids: int64 (S,), with the hidden tokens replaced.
        is_target: bool (S,), True where the model must say what was there.
        is_hidden: bool (S,), True where the token was replaced: a visual feature there must be hidden, too.
    """

    input_ids: np.ndarray
    is_target: np.ndarray
    is_hidden: np.ndarray


def mask_tokens(
    input_ids: np.ndarray, can_mask: np.ndarray, id_range: tuple[int, int], mask_id: int, rng: np.random.Generator, rate: float = MASK_RATE
) -> MaskedTokens:
    """Chooses each token with probability `rate`; of those 80 % become [MASK], 10 % a random token, 10 % stay.

    Args:
        input_ids: int64 (S,).
        can_mask: bool (S,), False on special tokens and on the other modality.
        id_range: random tokens are drawn from first <= id < last; it may be empty where nothing can be masked.
        mask_id: id of [MASK].
    """
    is_target = can_mask & (rng.random(len(input_ids)) < rate)
    fate = rng.random(len(input_ids))
    is_masked = is_target & (fate < SHARE_MASKED)
    is_random = is_target & (fate >= SHARE_MASKED) & (fate < SHARE_MASKED + SHARE_RANDOM)
    masked = np.where(is_masked, mask_id, input_ids)
    masked[is_random] = rng.integers(*id_range, size=int(is_random.sum()))
    return MaskedTokens(masked, is_target, is_masked | is_random)
