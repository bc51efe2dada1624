"""The tree against FAISS's k-means and walks by hand."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import faiss
import numpy as np
import pytest

from vbcli.errors import VbcliError
from vbcli.vocab import tree as trees
from vbcli.vocab.build import fit_vocabulary
from vbcli.vocab.config import VocabConfig
from vbcli.vocab.tree import Tree, assign_descent, fit_tree, follow, nearest

RNG = np.random.default_rng(0)


CENTRES = RNG.normal(0, 10, (9, 6)).astype(np.float32)


def blobs(n=900):
    which = RNG.integers(0, 9, n)
    return (CENTRES[which] + RNG.normal(0, 0.2, (n, 6))).astype(np.float32), which


def children_of(tree: Tree, node: int) -> np.ndarray:
    return tree.children[tree.first_child[node] :][: tree.n_children[node]]


def brute_nearest(vectors, centroids):
    return ((vectors[:, None] - centroids[None]) ** 2).sum(2).argmin(1)


def test_tree_finds_the_blobs_and_leaves_are_used():
    x, which = blobs()
    tree = fit_tree(x, VocabConfig(branching=3, levels=2, min_points=5))
    tokens = assign_descent(tree, x)
    assert tree.n_tokens == 9
    assert set(tokens) == set(range(9))
    # A token holds what its centroid is nearest to among its sisters: hardly any blob is cut in two.
    pairs = Counter((int(t), int(w)) for t, w in zip(tokens, which, strict=True))
    assert sum(n for _, n in pairs.most_common(9)) > 0.6 * len(x)


def test_descent_equals_a_walk_by_hand():
    x, _ = blobs()
    tree = fit_tree(x, VocabConfig(branching=4, levels=3, min_points=5))
    probes = RNG.normal(0, 10, (50, 6)).astype(np.float32)
    for probe, token in zip(probes, assign_descent(tree, probes), strict=True):
        node = 0
        while tree.first_child[node] >= 0:
            start = tree.first_child[node]
            below = tree.children[start : start + tree.n_children[node]]
            node = below[((tree.centroids[below] - probe) ** 2).sum(1).argmin()]
        assert tree.tokens[node] == token


def test_following_several_nodes_finds_the_nearest_leaf_more_often_than_one_and_all_of_them_always():
    x = RNG.normal(size=(4000, 6)).astype(np.float32)
    tree = fit_tree(x, VocabConfig(branching=4, levels=4, min_points=5))
    expected = brute_nearest(x[:500], tree.leaf_centroids)
    found = [np.mean(follow(tree, x[:500], n_kept) == expected) for n_kept in (1, 4, tree.n_tokens)]
    assert found[0] < 0.95 < found[1] <= found[2] == 1


def test_small_nodes_that_are_clustered_side_by_side_give_the_tree_of_one_after_another(monkeypatch):
    x = RNG.normal(size=(3000, 4)).astype(np.float32)
    config = VocabConfig(branching=4, levels=3, min_points=5)
    expected = vars(fit_tree(x, config)).values()
    monkeypatch.setattr(trees, "FEW", 1)
    for ours, theirs in zip(vars(fit_tree(x, config)).values(), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_flat_vocabulary_is_faiss_kmeans():
    x, _ = blobs()
    vocabulary = fit_vocabulary(x, VocabConfig(branching=9, levels=1, n_components=0, min_points=1), {})
    kmeans = faiss.Kmeans(6, 9, niter=20, seed=1, min_points_per_centroid=1, max_points_per_centroid=900)
    kmeans.train(x)
    assert kmeans.centroids is not None
    np.testing.assert_allclose(vocabulary.trees[0].leaf_centroids, kmeans.centroids, rtol=1e-5)


def test_a_node_sees_all_of_its_vectors_not_256_a_centroid():
    # 12,000 vectors for two centroids: a sample of 512 would put the means visibly elsewhere.
    x = np.concatenate([RNG.normal(0, 1, (6000, 2)), RNG.normal(50, 1, (6000, 2))]).astype(np.float32)
    tree = fit_tree(x, VocabConfig(branching=2, levels=1, min_points=1))
    expected = np.stack([x[:6000].mean(0), x[6000:].mean(0)])
    found = tree.leaf_centroids[np.argsort(tree.leaf_centroids[:, 0])]
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_small_and_constant_data_give_a_smaller_tree():
    x = np.ones((40, 3), np.float32)
    vocabulary = fit_vocabulary(x, VocabConfig(min_points=5, n_components=0, n_codebooks=1), {})
    assert vocabulary.n_tokens == 1
    assert vocabulary.report["quantisation_error"] < 1e-5
    with pytest.raises(VbcliError, match="3 clips are not enough"):
        fit_vocabulary(x[:3], VocabConfig(), {})


@pytest.mark.gpu
def test_a_gpu_finds_what_the_processor_finds() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(64, 16)).astype(np.float32) * 10
    vectors = (centres[rng.integers(64, size=20_000)] + rng.normal(size=(20_000, 16))).astype(np.float32)
    tree = fit_tree(vectors, VocabConfig(branching=8, levels=2, n_components=0))
    assert trees.has_gpu()
    distances = ((vectors[:200, None] - tree.leaf_centroids) ** 2).sum(-1)
    assert (nearest(vectors[:200], tree.leaf_centroids) == distances.argmin(1)).mean() > 0.99


def test_descent_ends_at_leaves_of_any_depth():
    # Clusters of few members are leaves, beside sisters that have children; of nobody asked for, nothing is found.
    x = np.concatenate([RNG.normal(0, 1, (400, 5)), RNG.normal(40, 1, (4, 5))]).astype(np.float32)
    tree = fit_tree(x, VocabConfig(branching=3, levels=3, min_points=5))
    depth = {0: 0}
    for node in np.nonzero(tree.n_children)[0].tolist():
        depth |= {int(child): depth[node] + 1 for child in children_of(tree, node)}
    assert len({depth[node] for node in np.nonzero(tree.tokens >= 0)[0].tolist()}) > 1
    probes = RNG.normal(20, 20, (300, 5)).astype(np.float32)
    np.testing.assert_array_equal(assign_descent(tree, probes), follow(tree, probes, 1))
    assert assign_descent(tree, probes[:0]).shape == (0,)
    alone = fit_tree(x[:6], VocabConfig(branching=3, levels=3, min_points=5))
    assert alone.n_tokens == 1
    assert assign_descent(alone, probes).tolist() == [0] * 300


def test_the_members_of_an_inner_node_are_the_vectors_that_are_nearest_to_it_of_its_level():
    x = RNG.normal(size=(4000, 5)).astype(np.float32)
    config = VocabConfig(branching=4, levels=3, min_points=5)
    top = fit_tree(x, replace(config, levels=2))
    members = brute_nearest(x, top.leaf_centroids)
    tree = fit_tree(x, config)
    inner = [node for node in np.nonzero(tree.n_children)[0].tolist() if (tree.tokens[children_of(tree, node)] >= 0).all()]
    np.testing.assert_allclose(tree.centroids[inner], top.leaf_centroids, rtol=1e-6)
    for number, node in enumerate(inner):
        # The members of its leaves are all of its own: their mean is that of the k-means of these alone.
        kmeans = faiss.Kmeans(5, 4, niter=20, seed=1, min_points_per_centroid=1, max_points_per_centroid=len(x))
        kmeans.train(np.ascontiguousarray(x[members == number]))
        assert kmeans.centroids is not None
        np.testing.assert_allclose(tree.centroids[children_of(tree, node)], kmeans.centroids, rtol=1e-5)
    # Whoever descends stays below the nearest node of each level, and nothing is settled.
    descending = fit_tree(x, replace(config, assignment="descent"))
    assert set(assign_descent(descending, x)) == set(range(descending.n_tokens))
