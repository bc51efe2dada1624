"""A vocabulary's report by hand; saved and damaged folders."""

from __future__ import annotations

import json

import numpy as np
import pytest

from vbcli.errors import VbcliError
from vbcli.vocab.artifact import load_vocabulary, save_vocabulary
from vbcli.vocab.build import find_exemplars, fit_vocabulary
from vbcli.vocab.config import VocabConfig

RNG = np.random.default_rng(0)


CENTRES = RNG.normal(0, 10, (9, 6)).astype(np.float32)


def blobs(n=900):
    which = RNG.integers(0, 9, n)
    return (CENTRES[which] + RNG.normal(0, 0.2, (n, 6))).astype(np.float32), which


def brute_nearest(vectors, centroids):
    return ((vectors[:, None] - centroids[None]) ** 2).sum(2).argmin(1)


def test_exact_assignment_is_the_nearest_leaf():
    x, _ = blobs()
    vocabulary = fit_vocabulary(x, VocabConfig(branching=4, levels=3, n_components=0, min_points=5), {})
    probes = RNG.normal(0, 10, (50, 6)).astype(np.float32)
    np.testing.assert_array_equal(vocabulary.assign(probes)[:, 0], brute_nearest(probes, vocabulary.trees[0].leaf_centroids))


def test_report_by_hand():
    x = np.array([[0.0], [0.2], [10.0], [10.2]], np.float32)
    report = fit_vocabulary(x, VocabConfig(branching=2, levels=1, n_components=0, min_points=1), {}).report
    assert report["n_tokens"] == report["n_tokens_used"] == 2
    assert report["quantisation_error"] == pytest.approx(0.01, rel=1e-3)
    assert report["quantisation_error_share"] == pytest.approx(0.01 / x.var(), rel=1e-3)
    assert report["perplexity"] == pytest.approx(2.0)
    assert sorted(report["counts"][0]) == [2, 2]


def test_exemplars_are_nearest():
    x, _ = blobs()
    vocabulary = fit_vocabulary(x, VocabConfig(branching=3, levels=2, n_components=0), {})
    np.testing.assert_array_equal(find_exemplars(vocabulary, x)[0], brute_nearest(vocabulary.trees[0].leaf_centroids, x))


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
