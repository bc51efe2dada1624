"""Hierarchical k-means and the assignment of vectors to its leaves; the only caller of FAISS's clustering.

Notation: N vectors, P dimensions, K visual tokens (leaves of the tree).

Source: Sun et al. 2019 (VideoBERT), section 4.2: hierarchical k-means with 4 levels of 12 clusters, 12^4 = 20,736 tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import faiss
import numpy as np

from vbcli.vocab.config import Assignment, VocabConfig


@dataclass(frozen=True)
class Tree:
    """A tree of centroids in depth-first order; a leaf's number among the leaves is its visual token.

    Args:
        centroids: float32 (n_nodes, P); node 0 is the root.
        first_child: int32 (n_nodes,), -1 on leaves; the children of a node follow each other in `children`.
        n_children: int32 (n_nodes,).
        children: int32, the nodes named by `first_child`.
        tokens: int32 (n_nodes,), -1 on inner nodes.
    """

    centroids: np.ndarray
    first_child: np.ndarray
    n_children: np.ndarray
    children: np.ndarray
    tokens: np.ndarray

    @property
    def n_tokens(self) -> int:
        """K."""
        return int(self.tokens.max()) + 1

    @property
    def leaf_centroids(self) -> np.ndarray:
        """float32 (K, P), in the order of the tokens."""
        leaves = np.nonzero(self.tokens >= 0)[0]
        return self.centroids[leaves[np.argsort(self.tokens[leaves])]]


def fit_tree(vectors: np.ndarray, config: VocabConfig) -> Tree:
    """Clusters vectors into a tree: k-means at the root, then in each cluster, down to `levels`.

    A cluster that no vector is nearest to is dropped, so every token is used by the data it was fitted on.

    Args:
        vectors: float32 (N, P).
    """
    vectors = np.ascontiguousarray(vectors, np.float32)
    nodes: list[tuple[np.ndarray, list[int]]] = []

    def grow(centroid: np.ndarray, members: np.ndarray, level: int) -> int:
        node = len(nodes)
        below: list[int] = []
        nodes.append((centroid, below))
        k = min(config.branching, len(members) // config.min_points) if level < config.levels else 0
        if k >= 2:
            subset = vectors[members]
            centroids = _kmeans(subset, k, config)
            child_of = nearest(subset, centroids)
            for child in range(k):
                mine = members[child_of == child]
                if len(mine):
                    below.append(grow(centroids[child], mine, level + 1))
        return node

    grow(vectors.mean(0), np.arange(len(vectors)), 0)
    return _pack_tree(nodes)


def _pack_tree(nodes: list[tuple[np.ndarray, list[int]]]) -> Tree:
    n_children = np.array([len(below) for _, below in nodes], np.int32)
    children = np.array([c for _, below in nodes for c in below], np.int32)
    first_child = np.where(n_children > 0, np.cumsum(n_children) - n_children, -1).astype(np.int32)
    is_leaf = n_children == 0
    tokens = np.where(is_leaf, np.cumsum(is_leaf) - 1, -1).astype(np.int32)
    return Tree(np.stack([c for c, _ in nodes]).astype(np.float32), first_child, n_children, children, tokens)


def _kmeans(vectors: np.ndarray, k: int, config: VocabConfig) -> np.ndarray:
    # FAISS trains on 256 vectors a centroid unless told otherwise, and warns below 39: every vector counts here.
    kmeans = faiss.Kmeans(
        vectors.shape[1],
        k,
        niter=config.n_iterations,
        seed=config.seed + 1,
        min_points_per_centroid=1,
        max_points_per_centroid=max(1, len(vectors)),
    )
    kmeans.train(vectors)
    assert kmeans.centroids is not None
    return kmeans.centroids


def nearest(vectors: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Index of the centroid nearest to each vector.

    Args:
        vectors: float32 (N, P).
        centroids: float32 (K, P).

    Returns:
        int64 (N,).
    """
    index = faiss.IndexFlatL2(centroids.shape[1])
    index.add(np.ascontiguousarray(centroids))
    return index.search(np.ascontiguousarray(vectors), 1)[1][:, 0]


def assign_tokens(tree: Tree, vectors: np.ndarray, assignment: Assignment) -> np.ndarray:
    """Visual tokens of vectors: the nearest of all leaves, or by descent.

    Args:
        vectors: float32 (N, P).

    Returns:
        int32 (N,), 0 <= token < K.
    """
    if assignment == "descent":
        return assign_descent(tree, vectors)
    return nearest(vectors, tree.leaf_centroids).astype(np.int32)


def assign_descent(tree: Tree, vectors: np.ndarray) -> np.ndarray:
    """Visual tokens by following the nearest child from the root to a leaf.

    Args:
        vectors: float32 (N, P).

    Returns:
        int32 (N,).
    """
    node = np.zeros(len(vectors), np.int64)
    while True:
        inner = np.nonzero(tree.first_child[node] >= 0)[0]
        if not len(inner):
            return tree.tokens[node]
        for parent in np.unique(node[inner]):
            members = inner[node[inner] == parent]
            start = tree.first_child[parent]
            below = tree.children[start : start + tree.n_children[parent]]
            node[members] = below[nearest(vectors[members], tree.centroids[below])]
