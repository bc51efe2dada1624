"""The projection against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA

from vbcli.vocab.projection import fit_projection

RNG = np.random.default_rng(0)


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
