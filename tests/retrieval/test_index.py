"""Vectors found in an index, against comparing all of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vbcli.errors import VbcliError
from vbcli.retrieval import index as module
from vbcli.retrieval.index import VectorIndex, VideoIndex


def unit(n: int, width: int = 16, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(n, width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_few_vectors_are_all_compared():
    vectors, queries = unit(300), unit(20, seed=1)
    found = VectorIndex(vectors)
    assert found.kind == "Flat"
    similarities, rows = found.search(queries, 10)
    exact = queries @ vectors.T
    np.testing.assert_array_equal(rows, np.argsort(-exact, axis=1)[:, :10])
    np.testing.assert_allclose(similarities, -np.sort(-exact, axis=1)[:, :10], atol=1e-5)


@pytest.mark.parametrize(("noise", "kind"), [(0.05, "IVF"), (10, "PQ")], ids=["clusters", "no clusters"])
@pytest.mark.parametrize("width", [64, 63])
def test_many_vectors_are_searched_in_part_and_most_of_the_nearest_found(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], kind: str, noise: float, width: int
):
    monkeypatch.setattr(module, "MAX_FLAT", 1000)
    monkeypatch.setattr(module, "MAX_SEARCHED", 0.45)
    # Around 200 centres, or as good as anywhere.
    rng = np.random.default_rng(2)
    vectors = unit(200, width, seed=3)[rng.integers(0, 200, 6100)] + noise * rng.normal(size=(6100, width)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries, vectors = vectors[:100], vectors[100:]
    found = VectorIndex(vectors)
    assert found.kind.startswith(kind)
    _, rows = found.search(queries, 10)
    exact = np.argsort(-(queries @ vectors.T), axis=1)[:, :10]
    shared = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(rows.tolist(), exact.tolist(), strict=True)])
    assert shared >= 0.95
    # FAISS writes its warnings to the file itself.
    assert capfd.readouterr().err == ""


def test_tens_of_thousands_are_compared_with_without_a_warning(capfd: pytest.CaptureFixture[str]):
    vectors, queries = unit(20_001), unit(20, seed=1)
    _, rows = VectorIndex(vectors).search(queries, 10)
    np.testing.assert_array_equal(rows[:, 0], (queries @ vectors.T).argmax(1))
    assert capfd.readouterr().err == ""


def test_what_is_no_index_is_refused(tmp_path: Path):
    with pytest.raises(VbcliError, match="is not an index"):
        VideoIndex(tmp_path)
