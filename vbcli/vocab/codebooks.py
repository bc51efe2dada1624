"""Residual vector quantisation: codebooks in a row, each a tree of what those before it leave over.

Notation: N vectors, P dimensions, M codebooks.

Source: Juang and Gray 1982, "Multiple stage vector quantization for speech coding"; Zeghidour et al. 2021 (SoundStream), section III-C.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from vbcli.vocab.config import Assignment, VocabConfig
from vbcli.vocab.tree import Tree, assign_tokens, fit_tree


def fit_codebooks(vectors: np.ndarray, config: VocabConfig) -> tuple[Tree, ...]:
    """Fits the first tree to the vectors, and each other to what is left of them when the centroids of those before are taken away.

    Args:
        vectors: float32 (N, P).

    Returns:
        M trees.
    """
    trees: list[Tree] = []
    for m in range(config.n_codebooks):
        # With the same seed k-means would start from the same vectors, of which little is left.
        trees.append(fit_tree(vectors, replace(config, seed=config.seed + m)))
        if m + 1 < config.n_codebooks:
            ((_, vectors),) = quantise(vectors, trees[-1:], config.assignment)
    return tuple(trees)


def quantise(vectors: np.ndarray, trees: Sequence[Tree], assignment: Assignment) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Assigns tokens greedily, codebook by codebook.

    Args:
        vectors: float32 (N, P).

    Yields:
        For each codebook the tokens, int32 (N,), and what is left of the vectors after it, float32 (N, P).
    """
    for tree in trees:
        tokens = assign_tokens(tree, vectors, assignment)
        vectors = vectors - tree.leaf_centroids[tokens]
        yield tokens, vectors
