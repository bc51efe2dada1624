from __future__ import annotations

import json
from collections import Counter

import faiss
import numpy as np
import pytest
from sklearn.decomposition import PCA

from vbcli.errors import VbcliError
from vbcli.vocab import (
    VocabConfig,
    assign_descent,
    find_exemplars,
    fit_projection,
    fit_tree,
    fit_vocabulary,
    load_vocabulary,
    save_vocabulary,
)

RNG = np.random.default_rng(0)
CENTRES = RNG.normal(0, 10, (9, 6)).astype(np.float32)


def blobs(n=900):
    which = RNG.integers(0, 9, n)
    return (CENTRES[which] + RNG.normal(0, 0.2, (n, 6))).astype(np.float32), which


def brute_nearest(vectors, centroids):
    return ((vectors[:, None] - centroids[None]) ** 2).sum(2).argmin(1)


@pytest.mark.parametrize("whitening", [0.0, 0.5, 1.0])
def test_projection_equals_sklearn(whitening):
    x = (RNG.normal(size=(300, 20)) * np.geomspace(10, 0.1, 20)).astype(np.float32)
    projection = fit_projection(x, 5, whitening)
    reference = PCA(5, svd_solver="full").fit(x)
    expected = reference.transform(x) / np.sqrt(reference.explained_variance_ * 299 / 300) ** whitening
    expected /= np.sqrt((expected**2).sum(1).mean())
    ours = projection.apply(x)
    signs = np.sign((ours * expected).sum(0))
    np.testing.assert_allclose(ours * signs, expected, atol=2e-3 * np.abs(expected).max())
    assert projection.kept == pytest.approx(reference.explained_variance_ratio_.sum(), abs=1e-4)


def test_blocks_weigh_the_same():
    # Two cells of a loud block of two dimensions and a faint one of three.
    loud, faint = RNG.normal(0, 100, (400, 2, 2)), RNG.normal(0, 0.01, (400, 2, 3))
    x = np.concatenate([loud, faint], 2).reshape(400, 10).astype(np.float32)
    scale = np.concatenate([np.full((2, 2), 1 / np.sqrt(loud.var(0).sum())), np.full((2, 3), 1 / np.sqrt(faint.var(0).sum()))], 1).ravel()
    reference = PCA(4, svd_solver="full").fit_transform(x * scale)
    reference /= np.sqrt((reference**2).sum(1).mean())
    ours = fit_projection(x, 4, 0.0, block_dims=(2, 3)).apply(x)
    np.testing.assert_allclose(np.abs(ours), np.abs(reference), atol=5e-3)


def test_no_components_keep_features_as_they_are():
    x = RNG.normal(size=(10, 4)).astype(np.float32)
    np.testing.assert_array_equal(fit_projection(x, 0, 0.5).apply(x), x)


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


def test_exact_assignment_is_the_nearest_leaf():
    x, _ = blobs()
    vocabulary = fit_vocabulary(x, VocabConfig(branching=4, levels=3, n_components=0, min_points=5), {})
    probes = RNG.normal(0, 10, (50, 6)).astype(np.float32)
    np.testing.assert_array_equal(vocabulary.assign(probes), brute_nearest(probes, vocabulary.tree.leaf_centroids))


def test_flat_vocabulary_is_faiss_kmeans():
    x, _ = blobs()
    vocabulary = fit_vocabulary(x, VocabConfig(branching=9, levels=1, n_components=0, min_points=1), {})
    kmeans = faiss.Kmeans(6, 9, niter=20, seed=1, min_points_per_centroid=1, max_points_per_centroid=900)
    kmeans.train(x)
    assert kmeans.centroids is not None
    np.testing.assert_allclose(vocabulary.tree.leaf_centroids, kmeans.centroids, rtol=1e-5)


def test_a_node_sees_all_of_its_vectors_not_256_a_centroid():
    # 12,000 vectors for two centroids: a sample of 512 would put the means visibly elsewhere.
    x = np.concatenate([RNG.normal(0, 1, (6000, 2)), RNG.normal(50, 1, (6000, 2))]).astype(np.float32)
    tree = fit_tree(x, VocabConfig(branching=2, levels=1, min_points=1))
    expected = np.stack([x[:6000].mean(0), x[6000:].mean(0)])
    found = tree.leaf_centroids[np.argsort(tree.leaf_centroids[:, 0])]
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_small_and_constant_data_give_a_smaller_tree():
    x = np.ones((40, 3), np.float32)
    vocabulary = fit_vocabulary(x, VocabConfig(min_points=5, n_components=0), {})
    assert vocabulary.n_tokens == 1
    assert vocabulary.report["quantisation_error"] < 1e-5
    with pytest.raises(VbcliError, match="3 clips are not enough"):
        fit_vocabulary(x[:3], VocabConfig(), {})


def test_report_by_hand():
    x = np.array([[0.0], [0.2], [10.0], [10.2]], np.float32)
    report = fit_vocabulary(x, VocabConfig(branching=2, levels=1, n_components=0, min_points=1), {}).report
    assert report["n_tokens"] == report["n_tokens_used"] == 2
    assert report["quantisation_error"] == pytest.approx(0.01, rel=1e-3)
    assert report["quantisation_error_share"] == pytest.approx(0.01 / x.var(), rel=1e-3)
    assert report["perplexity"] == pytest.approx(2.0)
    assert sorted(report["counts"]) == [2, 2]


def test_exemplars_are_nearest():
    x, _ = blobs()
    vocabulary = fit_vocabulary(x, VocabConfig(branching=3, levels=2, n_components=0), {})
    np.testing.assert_array_equal(find_exemplars(vocabulary, x), brute_nearest(vocabulary.tree.leaf_centroids, x))


def test_same_seed_same_vocabulary_and_saved_one_loads(tmp_path):
    x, _ = blobs()
    a, b = (fit_vocabulary(x, VocabConfig(branching=3, levels=2, n_components=4), {"name": "e"}) for _ in range(2))
    save_vocabulary(a, tmp_path, [])
    loaded = load_vocabulary(tmp_path)
    projected = b.project(x)
    np.testing.assert_array_equal(loaded.assign(loaded.project(x)), b.assign(projected))
    assert loaded.encoder == {"name": "e"}


def test_damage_is_noticed(tmp_path):
    x, _ = blobs()
    save_vocabulary(fit_vocabulary(x, VocabConfig(branching=3, levels=1, n_components=0), {}), tmp_path, [])
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "sha256": "0"}))
    with pytest.raises(VbcliError, match=r"vocabulary\.safetensors is not the file"):
        load_vocabulary(tmp_path)
    with pytest.raises(VbcliError, match="is not a visual vocabulary"):
        load_vocabulary(tmp_path / "nowhere")
