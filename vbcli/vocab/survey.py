"""What the leaves of a tree hold: one pass over vectors.

Notation: N vectors, P dimensions, K leaves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vbcli.vocab.tree import Tree
from vbcli.vocab.vectors import VectorFile


@dataclass(frozen=True)
class Survey:
    """What the leaves of a tree hold.

    Args:
        tokens: int32 (N,), of each vector.
        counts: int64 (K,), vectors of each leaf.
        sums: float64 (K, P), of the vectors of each leaf; zeros where they were not asked for.
        error: mean squared distance of a vector from the centroid of its leaf.
        closest: int64 (K,), the vector of each leaf that is nearest to its centroid; -1 of a leaf that holds none.
    """

    tokens: np.ndarray
    counts: np.ndarray
    sums: np.ndarray
    error: float
    closest: np.ndarray


def survey_leaves(tree: Tree, vectors: VectorFile, assign: Callable[[Tree, np.ndarray], np.ndarray], *, has_sums: bool = False) -> Survey:
    """Assigns vectors to leaves, and sums up what each holds.

    Args:
        assign: a tree and float32 (n, P) to tokens int32 (n,).
        has_sums: sum up the vectors of each leaf, for `recentre`.
    """
    centroids = tree.leaf_centroids
    n_leaves = len(centroids)
    tokens = np.empty(vectors.n, np.int32)
    counts, sums = np.zeros(n_leaves, np.int64), np.zeros((n_leaves, vectors.width))
    closest, least = np.full(n_leaves, -1), np.full(n_leaves, np.inf, np.float32)
    total = 0.0
    for start, block in vectors.blocks():
        block_tokens = assign(tree, block)
        tokens[start : start + len(block)] = block_tokens
        rest = block - centroids[block_tokens]
        distance = np.einsum("np,np->n", rest, rest)
        total += float(distance.sum(dtype=np.float64))
        order = np.lexsort((distance, block_tokens))
        held, first = np.unique(block_tokens[order], return_index=True)
        if has_sums:
            sums[held] += np.add.reduceat(block[order], first, axis=0, dtype=np.float64)
        nearest = order[first]
        is_less = distance[nearest] < least[held]
        closest[held[is_less]] = start + nearest[is_less]
        least[held[is_less]] = distance[nearest[is_less]]
        counts += np.bincount(block_tokens, minlength=n_leaves)
    return Survey(tokens, counts, sums, total / vectors.n, closest)


def recentre(tree: Tree, survey: Survey) -> Tree:
    """Moves every leaf that holds vectors to their mean, and every node above to the mean of all below it; the survey is one with sums."""
    sums = np.zeros(tree.centroids.shape)
    counts = np.zeros(len(sums), np.int64)
    leaves = np.nonzero(tree.tokens >= 0)[0]
    sums[leaves], counts[leaves] = survey.sums[tree.tokens[leaves]], survey.counts[tree.tokens[leaves]]
    # Children come after their parent.
    for node in np.nonzero(tree.first_child >= 0)[0][::-1]:
        below = tree.children[tree.first_child[node] :][: tree.n_children[node]]
        sums[node], counts[node] = sums[below].sum(0), counts[below].sum()
    centroids = tree.centroids.copy()
    held = counts > 0
    centroids[held] = sums[held] / counts[held, None]
    return Tree(centroids, tree.first_child, tree.n_children, tree.children, tree.tokens)
