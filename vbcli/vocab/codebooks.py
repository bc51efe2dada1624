"""Residual vector quantisation: codebooks in a row, each a tree of what those before it leave over.

Notation: N vectors, P dimensions, M codebooks.

Source: Juang and Gray 1982, "Multiple stage vector quantization for speech coding"; Zeghidour et al. 2021 (SoundStream), section III-C.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import faiss
import numpy as np

from vbcli.vocab.config import Assignment, VocabConfig
from vbcli.vocab.growth import fit_tree_of_file
from vbcli.vocab.survey import survey_leaves
from vbcli.vocab.tree import Tree, assign_descent, assign_near, assign_tokens
from vbcli.vocab.vectors import VectorFile


@dataclass(frozen=True)
class Codebook:
    """A tree, and how what it was fitted on is quantised by it.

    Args:
        tokens: int32 (N,).
        error: mean squared length of what is left of the vectors.
        exemplars: int64 (K,), for each token the vector that is nearest to its centroid: of those that have the token, where any has it.
    """

    tree: Tree
    tokens: np.ndarray
    error: float
    exemplars: np.ndarray


def fit_codebooks(vectors: VectorFile, config: VocabConfig, scratch_dir: Path | None = None) -> Iterator[Codebook]:
    """Fits the first tree to the vectors, and each other to what is left of them when the centroids of those before are taken away.

    Tokens are those of `config.assignment`; for `exact`, of large trees, as `assign_near` finds them.

    Args:
        vectors: what is left of them is written over them.

    Yields:
        M codebooks.
    """
    assign = assign_descent if config.assignment == "descent" else assign_near
    for m in range(config.n_codebooks):
        # With the same seed k-means would start from the same vectors, of which little is left.
        tree = fit_tree_of_file(vectors, replace(config, seed=config.seed + m), scratch_dir)
        survey = survey_leaves(tree, vectors, assign)
        exemplars = np.where(survey.closest < 0, _nearest_vectors(tree, vectors, survey.closest < 0), survey.closest)
        yield Codebook(tree, survey.tokens, survey.error, exemplars)
        if m + 1 < config.n_codebooks:
            centroids = tree.leaf_centroids
            for start, block in vectors.blocks():
                vectors.write(start, block - centroids[survey.tokens[start : start + len(block)]])


def _nearest_vectors(tree: Tree, vectors: VectorFile, is_asked: np.ndarray) -> np.ndarray:
    """Numbers of the vectors nearest to the centroids of some leaves, bool (K,): int64 (K,), -1 of the others."""
    found = np.full(tree.n_tokens, -1)
    if not is_asked.any():
        return found
    least = np.full(is_asked.sum(), np.inf, np.float32)
    nearest = np.zeros(len(least), np.int64)
    for start, block in vectors.blocks():
        distances, rows = faiss.knn(tree.leaf_centroids[is_asked], block, 1)
        is_less = distances[:, 0] < least
        nearest[is_less], least[is_less] = start + rows[is_less, 0], distances[is_less, 0]
    found[is_asked] = nearest
    return found


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
