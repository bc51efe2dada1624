"""Residual codebooks against loops, and against what they are of: one codebook is the tree alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vbcli.errors import VbcliError
from vbcli.vocab import codebooks
from vbcli.vocab.artifact import load_vocabulary, save_vocabulary
from vbcli.vocab.build import fit_streamed, fit_vocabulary
from vbcli.vocab.codebooks import fit_codebooks
from vbcli.vocab.config import VocabConfig
from vbcli.vocab.tree import fit_tree
from vbcli.vocab.vectors import VectorFile

RNG = np.random.default_rng(0)
VECTORS = RNG.normal(size=(600, 5)).astype(np.float32)
PROBES = RNG.normal(size=(60, 5)).astype(np.float32)
CONFIG = VocabConfig(branching=3, levels=2, n_components=0, n_codebooks=3)


def held(rows):
    file = VectorFile.create(len(rows), rows.shape[1], np.float32, None)
    file.write(0, rows)
    return file


def greedy(vector, tables):
    """Tokens of one vector, and what is left of it."""
    tokens = []
    for table in tables:
        tokens.append(min(range(len(table)), key=lambda k: float(((vector - table[k]) ** 2).sum())))
        vector = vector - table[tokens[-1]]
    return tokens, vector


def test_the_first_codebook_is_the_tree_and_each_other_a_tree_of_what_is_left():
    one, two, three = (codebook.tree for codebook in fit_codebooks(held(VECTORS), CONFIG))
    for name, value in vars(fit_tree(VECTORS, CONFIG)).items():
        np.testing.assert_array_equal(vars(one)[name], value)
    rest = np.stack([greedy(v, [one.leaf_centroids])[1] for v in VECTORS])
    expected = fit_tree(rest, VocabConfig(branching=3, levels=2, n_components=0, seed=1))
    np.testing.assert_allclose(two.leaf_centroids, expected.leaf_centroids, atol=1e-6)
    rest = np.stack([greedy(v, [one.leaf_centroids, two.leaf_centroids])[1] for v in VECTORS])
    expected = fit_tree(rest, VocabConfig(branching=3, levels=2, n_components=0, seed=2))
    np.testing.assert_allclose(three.leaf_centroids, expected.leaf_centroids, atol=1e-6)


@pytest.mark.parametrize("assignment", ["exact", "descent"])
def test_tokens_are_those_of_a_greedy_loop_and_stand_for_the_sum_of_their_centroids(assignment):
    # In a flat tree descent finds the nearest leaf, too.
    config = VocabConfig(branching=9, levels=1, n_components=0, n_codebooks=3, assignment=assignment)
    vocabulary = fit_vocabulary(VECTORS, config, {})
    tables = [tree.leaf_centroids for tree in vocabulary.trees]
    tokens = vocabulary.assign(PROBES)
    assert (tokens.shape, tokens.dtype) == ((60, 3), np.int32)
    reconstructed = vocabulary.reconstruct(tokens)
    for i, probe in enumerate(PROBES):
        expected, rest = greedy(probe, tables)
        assert tokens[i].tolist() == expected
        np.testing.assert_allclose(reconstructed[i], probe - rest, atol=1e-5)


def test_what_is_left_shrinks_with_each_codebook():
    errors = [c["quantisation_error"] for c in fit_vocabulary(VECTORS, CONFIG, {}).report["codebooks"]]
    assert errors[0] > 1.2 * errors[1] > 1.44 * errors[2] > 0
    one = fit_vocabulary(VECTORS, VocabConfig(branching=3, levels=2, n_components=0, n_codebooks=1), {}).report
    assert one["quantisation_error"] == errors[0]


def test_report_by_hand():
    # The first codebook finds 0.5 and 10.5, the second what is left: minus and plus a half.
    x = np.array([[0.0], [1.0], [10.0], [11.0]], np.float32)
    report = fit_vocabulary(x, VocabConfig(branching=2, levels=1, n_components=0, min_points=1, n_codebooks=2), {}).report
    assert [c["quantisation_error"] for c in report["codebooks"]] == pytest.approx([0.25, 0.0])
    assert [c["quantisation_error_share"] for c in report["codebooks"]] == pytest.approx([0.25 / x.var(), 0.0])
    assert [c["perplexity"] for c in report["codebooks"]] == pytest.approx([2.0, 2.0])
    assert report["perplexity"] == pytest.approx(4.0)
    assert report["n_tokens"] == report["n_tokens_used"] == report["n_tokens_full_tree"] == 4
    assert report["quantisation_error"] == pytest.approx(0.0)
    assert report["counts"] == [[2, 2], [2, 2]]


def test_exemplars_leave_what_is_nearest_to_the_centroid_of_those_that_have_the_token():
    vocabulary, exemplars = fit_streamed([VECTORS], len(VECTORS), CONFIG, {})
    tables = [tree.leaf_centroids for tree in vocabulary.trees]
    walks = [greedy(v, tables)[0] for v in VECTORS]
    for m, found in enumerate(exemplars):
        rests = [greedy(v, tables[:m])[1] for v in VECTORS]
        for k, row in enumerate(found):
            having = [i for i, tokens in enumerate(walks) if tokens[m] == k]
            assert row == min(having, key=lambda i: float(((tables[m][k] - rests[i]) ** 2).sum()))


def test_a_token_that_no_vector_has_is_shown_by_the_nearest_of_all(monkeypatch):
    # Two leaves of one place: the second is never the nearest.
    tree = fit_tree(np.array([[0.0], [4.0]], np.float32), VocabConfig(branching=2, levels=1, min_points=1))
    twins = replace(tree, centroids=np.array([[2.0], [4.0], [4.0]], np.float32))
    monkeypatch.setattr(codebooks, "fit_tree_of_file", lambda *_: twins)
    (codebook,) = fit_codebooks(held(np.array([[1.0], [9.0], [4.5]], np.float32)), VocabConfig(n_codebooks=1))
    assert codebook.tokens.tolist() == [0, 0, 0]
    assert codebook.exemplars.tolist() == [2, 2]


def test_a_saved_vocabulary_loads_with_all_its_codebooks(tmp_path):
    vocabulary = fit_vocabulary(VECTORS, CONFIG, {})
    save_vocabulary(vocabulary, tmp_path, [])
    loaded = load_vocabulary(tmp_path)
    assert loaded.codebook_sizes == vocabulary.codebook_sizes == (9, 9, 9)
    np.testing.assert_array_equal(loaded.assign(PROBES), vocabulary.assign(PROBES))


def test_numbers_of_codebooks_out_of_range_are_refused():
    with pytest.raises(VbcliError, match="--codebooks 0 is not between 1 and 64"):
        VocabConfig(n_codebooks=0)
    with pytest.raises(VbcliError, match="--refine -1 is below 0"):
        VocabConfig(n_refinements=-1)
