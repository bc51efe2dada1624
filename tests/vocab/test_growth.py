"""Trees of vectors in a scratch file against those in memory, and their refinement against FAISS's flat k-means."""

from __future__ import annotations

from dataclasses import replace

import faiss
import numpy as np
import pytest

from vbcli.vocab import tree as trees
from vbcli.vocab import vectors as files
from vbcli.vocab.config import VocabConfig
from vbcli.vocab.growth import fit_tree_of_file, refine_tree
from vbcli.vocab.tree import assign_descent, fit_tree, nearest
from vbcli.vocab.vectors import VectorFile

RNG = np.random.default_rng(0)
CENTRES = np.array([[0, 0, 0], [0, 5, 0], [40, 0, 0], [40, 0, 6]])


def clusters(n=9000):
    """Two pairs of clusters: of two k-means finds both from anywhere."""
    return (CENTRES[RNG.integers(0, 4, n)] + RNG.normal(0, 0.1, (n, 3))).astype(np.float32)


def held(rows, monkeypatch=None, n_rows=0):
    """Vectors in a file; in one on disk with room for `n_rows` in memory."""
    if monkeypatch is not None:
        monkeypatch.setattr(files, "MEMORY_BYTES", 4 * n_rows * rows.shape[1])
        monkeypatch.setattr(files, "BLOCK_BYTES", 1)
        monkeypatch.setattr(files, "ROW_UNIT", 512)
    file = VectorFile.create(len(rows), rows.shape[1], rows.dtype, None)
    file.write(0, rows)
    return file


def mean_error(rows, centroids):
    return ((rows - centroids[nearest(rows, centroids)]) ** 2).sum(1).mean()


def test_vectors_that_fit_in_memory_give_the_tree_of_an_array():
    x, config = clusters(), VocabConfig(branching=3, levels=3, min_points=5)
    for ours, expected in zip(vars(fit_tree_of_file(held(x), config)).values(), vars(fit_tree(x, config)).values(), strict=True):
        np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("n_rows", [4000, 400], ids=["one level of files", "two levels of files"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_vectors_on_disk_give_the_clusters_that_those_in_memory_do(monkeypatch, n_rows, dtype):
    x = clusters().astype(dtype)
    config = VocabConfig(branching=2, levels=2, min_points=5)
    expected = fit_tree(x.astype(np.float32), config)
    file = held(x, monkeypatch, n_rows)
    assert not file.fits
    found = fit_tree_of_file(file, config)
    assert found.n_tokens == expected.n_tokens == 4
    # Every vector counts: leaves are the means of all that is nearest to them, wherever k-means began.
    pairs = nearest(found.leaf_centroids, expected.leaf_centroids)
    assert sorted(pairs) == list(range(4))
    np.testing.assert_allclose(found.leaf_centroids, expected.leaf_centroids[pairs], atol=1e-3)
    tokens = assign_descent(found, x.astype(np.float32))
    means = np.stack([x[tokens == k].mean(0, dtype=np.float64) for k in range(4)])
    np.testing.assert_allclose(found.leaf_centroids, means, atol=1e-3)


def test_on_disk_depth_and_branching_are_those_of_the_options_and_no_leaf_is_empty(monkeypatch):
    x = RNG.normal(size=(20_000, 4)).astype(np.float32)
    config = VocabConfig(branching=4, levels=4, min_points=5)
    tree = fit_tree_of_file(held(x, monkeypatch, 1000), config)
    assert tree.n_children.max() == 4
    depth = np.zeros(len(tree.centroids), int)
    for node in np.nonzero(tree.first_child >= 0)[0]:
        depth[tree.children[tree.first_child[node] :][: tree.n_children[node]]] = depth[node] + 1
    assert depth[tree.tokens >= 0].max() == 4
    assert len(np.unique(assign_descent(tree, x))) == tree.n_tokens > 0.9 * 256
    # As good as in memory, though of other starting points.
    assert mean_error(x, tree.leaf_centroids) == pytest.approx(mean_error(x, fit_tree(x, config).leaf_centroids), rel=0.03)


def test_equal_vectors_on_disk_give_one_leaf(monkeypatch):
    tree = fit_tree_of_file(held(np.ones((5000, 3), np.float32), monkeypatch, 100), VocabConfig(branching=3, levels=3))
    assert tree.n_tokens == 1
    np.testing.assert_array_equal(tree.leaf_centroids, np.ones((1, 3)))


def test_a_step_of_refinement_is_lloyds(monkeypatch):
    x = RNG.normal(size=(3000, 4)).astype(np.float32)
    tree = fit_tree(x, VocabConfig(branching=4, levels=3, min_points=5))
    assigned = ((x[:, None] - tree.leaf_centroids) ** 2).sum(2).argmin(1)
    refined = refine_tree(tree, held(x), 1)
    expected = np.stack([x[assigned == k].mean(0) for k in np.unique(assigned)])
    np.testing.assert_allclose(refined.leaf_centroids, expected, atol=1e-5)
    np.testing.assert_allclose(refined.centroids[0], x.mean(0), atol=1e-5)


@pytest.mark.parametrize("n_compared", [4096, 10], ids=["all leaves are compared", "near leaves are compared"])
def test_a_refined_tree_is_as_good_as_flat_kmeans_and_uses_every_token(monkeypatch, n_compared):
    monkeypatch.setattr(trees, "MAX_EXACT", n_compared)
    x = RNG.normal(size=(8000, 8)).astype(np.float32)
    config = VocabConfig(branching=6, levels=3, min_points=2)
    tree = fit_tree(x, config)
    refined = fit_tree_of_file(held(x), VocabConfig(branching=6, levels=3, min_points=2, n_refinements=8))
    flat = faiss.Kmeans(8, tree.n_tokens, niter=20, seed=1, min_points_per_centroid=1, max_points_per_centroid=10**6)
    flat.train(x)
    limit = mean_error(x, flat.centroids)
    assert mean_error(x, tree.leaf_centroids) > 1.03 * limit
    assert mean_error(x, refined.leaf_centroids) < 1.03 * limit
    assert len(np.unique(nearest(x, refined.leaf_centroids))) == refined.n_tokens


def test_leaves_that_lose_all_they_hold_are_dropped():
    # Of two leaves at one place the second is never the nearest.
    tree = fit_tree(np.array([[0.0], [4.0], [9.0]], np.float32), VocabConfig(branching=3, levels=1, min_points=1))
    tree.centroids[1:, 0] = [0.0, 9.0, 9.0]
    refined = refine_tree(tree, held(np.array([[1.0], [8.0], [10.0]], np.float32)), 2)
    np.testing.assert_array_equal(refined.leaf_centroids, [[1.0], [9.0]])
    assert refined.n_children.tolist() == [2, 0, 0]


def test_a_node_of_wide_members_has_more_leaves_in_a_refined_tree():
    rng = np.random.default_rng(0)
    narrow, wide = rng.normal(0, 1, (2000, 3)), rng.normal(100, 3, (2000, 3))
    x = np.concatenate([narrow, wide]).astype(np.float32)
    config = VocabConfig(branching=2, levels=2, n_components=0, min_points=1, n_codebooks=1)
    # Two nodes share four leaves: nine tenths of the squared distance lie within the second, but each has one leaf at least.
    for n_refinements, expected in ((0, [2, 2]), (1, [1, 3])):
        tree = fit_tree_of_file(held(x), replace(config, n_refinements=n_refinements))
        near_wide = tree.leaf_centroids.mean(1) > 50
        assert [int((~near_wide).sum()), int(near_wide.sum())] == expected
