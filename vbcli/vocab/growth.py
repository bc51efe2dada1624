"""Trees of vectors that need not fit in memory, and their refinement.

Notation: N vectors, P dimensions, K leaves.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from vbcli.vocab import vectors as files
from vbcli.vocab.config import VocabConfig
from vbcli.vocab.survey import recentre, survey_leaves
from vbcli.vocab.tree import Node, Tree, assign_descent, assign_near, grow, nearest, pack_tree, unpack_tree
from vbcli.vocab.vectors import VectorFile, even_numbers, n_rows_of, partition

ENOUGH = 256
"""Vectors a centroid of which k-means of a part is that of all, but for one more step: FAISS's own bound."""


def fit_tree_of_file(vectors: VectorFile, config: VocabConfig, scratch_dir: Path | None = None) -> Tree:
    """Clusters vectors into a tree, as `fit_tree` does where they fit in memory.

    Of more, the top of the tree is fitted on vectors evenly spaced among them; all of them then move its centroids to their means. They are
    copied into a scratch file leaf by leaf, and below each leaf a tree is fitted on what it holds.
    """
    if vectors.fits:
        rows = vectors.read()
        root = grow(rows, rows.mean(0), config.levels, config)
    else:
        total = sum(block.sum(0, dtype=np.float64) for _, block in vectors.blocks())
        root = _grow_file(vectors, np.asarray(total / vectors.n, np.float32), config.levels, config, scratch_dir)
    tree = pack_tree(root)
    return refine_tree(tree, vectors, config.n_refinements) if config.n_refinements else tree


def _grow_file(vectors: VectorFile, centroid: np.ndarray, levels: int, config: VocabConfig, scratch_dir: Path | None) -> Node:
    if levels == 0:
        return Node(centroid)
    if vectors.fits:
        return grow(vectors.read(), centroid, levels, config)
    n_rows = n_rows_of(files.MEMORY_BYTES // 2, vectors.width)
    sample = vectors.take(even_numbers(vectors.n, n_rows))
    n_levels = 1
    while n_levels < levels and vectors.n > n_rows * config.branching**n_levels:
        n_levels += 1
    min_points = max(1, config.min_points * len(sample) // vectors.n)
    tree = pack_tree(grow(sample, centroid, n_levels, replace(config, min_points=min_points)))
    if tree.n_tokens == 1:
        return Node(centroid)
    n_steps = 1 if len(sample) >= ENOUGH * tree.n_tokens else config.n_iterations
    del sample
    survey = survey_leaves(tree, vectors, assign_descent, has_sums=True)
    for _ in range(n_steps - 1):
        tree = recentre(tree, survey)
        survey = survey_leaves(tree, vectors, assign_descent, has_sums=True)
    tree = recentre(tree, survey)
    parts = [part for part in partition(vectors, survey.tokens, tree.n_tokens, scratch_dir) if part.n]
    tree = _without(tree, survey.counts == 0)
    nodes = unpack_tree(tree)
    for node, token, depth in zip(nodes, tree.tokens, _depths(tree), strict=True):
        if token >= 0:
            node.below = _grow_file(parts[token], node.centroid, levels - depth, config, scratch_dir).below
    return nodes[0]


def _depths(tree: Tree) -> list[int]:
    depth = np.zeros(len(tree.centroids), np.int64)
    for node in np.nonzero(tree.first_child >= 0)[0]:
        depth[tree.children[tree.first_child[node] :][: tree.n_children[node]]] = depth[node] + 1
    return depth.tolist()


def refine_tree(tree: Tree, vectors: VectorFile, n_refinements: int) -> Tree:
    """Lloyd's iterations of k-means over all leaves at once, from the tree's; nodes above become the means of the vectors below them.

    A vector's nearest leaf may lie below any node then. Descent misses it more often than in a tree as it was grown: a refined tree is for
    `exact` assignment. Iterations look for the nearest leaf as `assign_near` does. Leaves that no vector is nearest to are dropped, so that
    every token is used by the data that it was fitted on, by exact assignment.

    Source: Lloyd 1982, "Least squares quantization in PCM"; the search among near leaves, Agustsson et al. 2017 (k2-means).
    """
    for _ in range(n_refinements):
        survey = survey_leaves(tree, vectors, assign_near, has_sums=True)
        tree = _without(recentre(tree, survey), survey.counts == 0)
    # Whether the vector that is nearest to a leaf is of it tells whether any is.
    closest = survey_leaves(tree, vectors, assign_near).closest
    tree = _without(tree, closest < 0)
    closest = closest[closest >= 0]
    order = np.argsort(closest)
    is_used = np.zeros(tree.n_tokens, bool)
    is_used[order] = nearest(vectors.take(closest[order]), tree.leaf_centroids) == order
    return _without(tree, ~is_used)


def _without(tree: Tree, is_dropped: np.ndarray) -> Tree:
    """The tree without some leaves, bool (K,), and without the nodes that are above no others."""
    if not is_dropped.any():
        return tree
    nodes = unpack_tree(tree)
    is_kept = np.ones(len(nodes), bool)
    # Children come after their parent.
    for number in range(len(nodes) - 1, -1, -1):
        node, first = nodes[number], tree.first_child[number]
        if first < 0:
            is_kept[number] = not is_dropped[tree.tokens[number]]
            continue
        below = tree.children[first : first + tree.n_children[number]]
        node.below = [nodes[child] for child in below if is_kept[child]]
        is_kept[number] = bool(node.below)
    return pack_tree(nodes[0])
