"""Denoising: the five ways in which BART spoils a text that it must then restore.

Each function is pure: token ids in, spoiled ids out, everything random drawn from the given generator.

Source: Lewis et al. 2019 (BART), section 2.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vbcli.errors import VbcliError

MEAN_SPAN = 3.0
"""Tokens of an infilled span on average (Poisson)."""


@dataclass(frozen=True)
class NoiseConfig:
    """Which noise a text gets, applied in this order. The defaults are what the paper trains its large model with.

    Args:
        permute_sentences: sentences come in random order.
        infill_rate: expected share of tokens in the spans that one [MASK] each replaces.
        mask_rate: share of tokens replaced by [MASK].
        delete_rate: share of tokens left out.
        rotate: the text begins at a random token.
    """

    permute_sentences: bool = True
    infill_rate: float = 0.3
    mask_rate: float = 0.0
    delete_rate: float = 0.0
    rotate: bool = False

    def __post_init__(self) -> None:
        for name in ("infill_rate", "mask_rate", "delete_rate"):
            if not 0 <= getattr(self, name) < 1:
                raise VbcliError(f"{name} {getattr(self, name):g} is not in [0, 1)")


def add_noise(sentences: Sequence[Sequence[int]], config: NoiseConfig, mask_id: int, rng: np.random.Generator) -> np.ndarray:
    """Spoils a text.

    Args:
        sentences: token ids of each sentence, without special tokens.

    Returns:
        int64 (T,), the spoiled text; it may be empty.
    """
    if config.permute_sentences:
        sentences = permute_sentences(sentences, rng)
    ids = np.concatenate([np.asarray(s, np.int64) for s in sentences]) if sentences else np.zeros(0, np.int64)
    if config.infill_rate:
        ids = infill_text(ids, config.infill_rate, mask_id, rng).input_ids
    if config.mask_rate:
        ids = mask_text(ids, config.mask_rate, mask_id, rng)
    if config.delete_rate:
        ids = delete_tokens(ids, config.delete_rate, rng)
    return rotate_document(ids, rng) if config.rotate else ids


def mask_text(ids: np.ndarray, rate: float, mask_id: int, rng: np.random.Generator) -> np.ndarray:
    """Token masking: each token becomes [MASK] with probability `rate`. int64 (T,) to int64 (T,)."""
    return np.where(rng.random(len(ids)) < rate, mask_id, ids)


def delete_tokens(ids: np.ndarray, rate: float, rng: np.random.Generator) -> np.ndarray:
    """Token deletion: each token is left out with probability `rate`; which ones, the model must find. int64 (T,) to int64 (T',)."""
    return ids[rng.random(len(ids)) >= rate]


@dataclass(frozen=True)
class Infilled:
    """Result of `infill_text`.

    Args:
        input_ids: int64 (T',), one [MASK] for each span.
        spans: what each [MASK] stands for, in order; an empty one stands for nothing.
        is_mask: bool (T',), True where a [MASK] was put.
    """

    input_ids: np.ndarray
    spans: tuple[np.ndarray, ...]
    is_mask: np.ndarray

    def restore(self) -> np.ndarray:
        """The text before, int64 (T,)."""
        spans = iter(self.spans)
        parts = [next(spans) if masked else self.input_ids[i : i + 1] for i, masked in enumerate(self.is_mask)]
        return np.concatenate([np.zeros(0, np.int64), *parts])


def infill_text(ids: np.ndarray, rate: float, mask_id: int, rng: np.random.Generator) -> Infilled:
    """Text infilling: spans of Poisson(3) tokens are replaced by one [MASK] each; an empty span puts a [MASK] between tokens.

    The number of spans is `rate * T / 3`, rounded up or down at random so that this is its mean: then spans keep their
    distribution, and the expected share of tokens in them is `rate`. Every arrangement of spans is equally likely. Spans that
    have more tokens than the text together are drawn again.

    Args:
        ids: int64 (T,).
        rate: in [0, 1).
    """
    n = len(ids)
    wanted = rate * n / MEAN_SPAN
    n_spans = int(wanted) + int(rng.random() < wanted - int(wanted))
    lengths = rng.poisson(MEAN_SPAN, n_spans)
    while lengths.sum() > n:
        lengths = rng.poisson(MEAN_SPAN, n_spans)
    # The spans and the tokens that stay are put in a row; which places are spans is uniform.
    n_places = n - int(lengths.sum()) + n_spans
    is_mask = np.zeros(n_places, bool)
    is_mask[rng.permutation(n_places)[:n_spans]] = True
    widths = np.ones(n_places, np.int64)
    widths[is_mask] = lengths
    starts = np.cumsum(widths) - widths
    input_ids = np.full(n_places, mask_id, np.int64)
    input_ids[~is_mask] = ids[starts[~is_mask]]
    spans = tuple(ids[start : start + length] for start, length in zip(starts[is_mask], lengths, strict=True))
    return Infilled(input_ids, spans, is_mask)


def permute_sentences(sentences: Sequence[Sequence[int]], rng: np.random.Generator) -> list[Sequence[int]]:
    """Sentence permutation: the sentences in random order, every order equally likely."""
    return [sentences[i] for i in rng.permutation(len(sentences))]


def rotate_document(ids: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Document rotation: the text begins at a token chosen uniformly, and what was before it comes last. int64 (T,) to int64 (T,)."""
    return np.roll(ids, -int(rng.integers(len(ids)))) if len(ids) else ids
