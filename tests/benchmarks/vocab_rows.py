"""Rows of vocabularies, assignment and search, against flat k-means, flat search and numpy."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from harness import BYTES, ERROR, N_CORES, OURS, SECONDS, Prepared, Row, Run, Side, at_least, at_most, timed
from materials import Inputs
from media_rows import command_side
from vectors import features_dataset, mixture, real_vectors, unit_vectors, width

from vbcli.retrieval.index import VectorIndex
from vbcli.vocab.config import VocabConfig
from vbcli.vocab.growth import fit_tree_of_file
from vbcli.vocab.tree import assign_tokens, fit_tree
from vbcli.vocab.vectors import VectorFile

FLAT = "flat k-means"
N_TIMED_ITERATIONS = 3
MAX_DESCENT_ERROR = 1.35
"""Of the error of exact assignment: less than descent has been seen to lose."""
MIN_USED = 0.999
"""Of the leaves, by some vector whose nearest of all they are."""
MAX_BYTES = 4e9
N_NEAREST, MIN_RECALL = 10, 0.99


def vocab_rows(inputs: Inputs) -> list[Row]:
    """`build-vocab`, assignment and `search`."""
    fast = at_least(30.0, FLAT)
    real, made = partial(real_vectors, inputs), partial(mixture, inputs.size(200_000, 2_000), width(inputs), inputs.size(5000, 50))
    return [
        Row("vocabulary-real", (fast, at_most(1.15, FLAT, ERROR)), partial(_vocabulary, inputs, "real", real, 0)),
        Row("vocabulary-refined", (at_least(None, FLAT), at_most(1.03, FLAT, ERROR)), partial(_vocabulary, inputs, "real", real, 3)),
        Row("vocabulary-mixture", (fast, at_most(None, FLAT, ERROR)), partial(_vocabulary, inputs, "mixture", made, 0)),
        Row("vocabulary-disk", (at_most(1.0, "4 GB", BYTES), at_most(11.0, "a tenth of them")), partial(_from_disk, inputs), n_pairs=0),
        Row("assign-descent", (at_least(50.0, "IndexFlatL2"),), partial(_assign, inputs, real, is_descent=True)),
        Row("assign-exact", (at_least(1.0, "IndexFlatL2"),), partial(_assign, inputs, real, is_descent=False)),
        Row("search", (at_least(5.0, "numpy"),), partial(_search, inputs)),
    ]


# ---------------------------------------------------------------- vocabularies


def tree_config(inputs: Inputs, n_refinements: int) -> VocabConfig:
    """A full tree of 12^4 leaves of the vectors as they are."""
    refined: dict[str, Any] = {"n_refinements": n_refinements} if n_refinements else {}
    return VocabConfig(inputs.size(12, 4), 4, n_components=0, min_points=1, n_codebooks=1, **refined)


def quantisation_error(vectors: np.ndarray, centroids: np.ndarray) -> tuple[float, int]:
    """Mean squared distance to the nearest centroid, and how many centroids are the nearest to some vector."""
    index = faiss.IndexFlatL2(centroids.shape[1])
    index.add(np.ascontiguousarray(centroids))
    distances, found = index.search(vectors, 1)
    return float(distances.mean(dtype=np.float64)), len(np.unique(found))


def flat_kmeans(vectors: np.ndarray, k: int, n_iterations: int) -> np.ndarray:
    """Centroids of faiss.Kmeans of all vectors."""
    kmeans = faiss.Kmeans(vectors.shape[1], k, niter=n_iterations, min_points_per_centroid=1, max_points_per_centroid=len(vectors))
    kmeans.train(vectors)
    assert kmeans.centroids is not None
    return kmeans.centroids


def _vocabulary(inputs: Inputs, name: str, make: Callable[[], np.ndarray], n_refinements: int) -> Prepared:
    faiss.omp_set_num_threads(N_CORES)
    vectors, config = make(), tree_config(inputs, n_refinements)
    k = config.branching**config.levels

    def converged(place: Path) -> None:
        place.write_text(json.dumps(quantisation_error(vectors, flat_kmeans(vectors, k, config.n_iterations))[0]))

    file = VectorFile.create(len(vectors), vectors.shape[1], np.float32, None)
    file.write(0, vectors)
    flat_error = json.loads(inputs.made(f"flat-error-{name}.json", converged).read_text())
    judged: list[tuple[float, int]] = []

    def ours() -> Run:
        run = timed(partial(fit_tree_of_file, file, config))()
        # The same every time, and takes longer than the tree.
        if not judged:
            judged.append(quantisation_error(vectors, run.result.leaf_centroids))
        return Run({**run.quantities, ERROR: judged[0][0]}, run.result)

    def flat() -> Run:
        seconds = timed(partial(flat_kmeans, vectors, k, N_TIMED_ITERATIONS))().quantities[SECONDS]
        return Run({SECONDS: seconds * config.n_iterations / N_TIMED_ITERATIONS, ERROR: flat_error})

    def check(results: dict[str, Any]) -> str:
        n_tokens = results[OURS].n_tokens
        return "" if MIN_USED * n_tokens <= judged[0][1] <= n_tokens <= k else f"{judged[0][1]} of {n_tokens} leaves of {k} are used"

    return Prepared({OURS: ours, FLAT: flat}, check, len(vectors), "vectors")


def _from_disk(inputs: Inputs) -> Prepared:
    n = inputs.size(10_000_000, 10_000)
    command = ("build-vocab", "OUT", "--codebooks", "1", "--whiten", "0", "--branching", str(inputs.size(12, 4)), "--levels", "4")

    def side(n_vectors: int) -> Side:
        source = features_dataset(inputs, n_vectors, width(inputs))

        def read(vocab_dir: Path) -> int:
            return json.loads((vocab_dir / "report.json").read_text())["n_vectors"]

        return command_side(inputs, "vocab", command[0], source, *command[1:], read=read, watches_memory=True)

    sides: dict[str, Side] = {OURS: side(n), "a tenth of them": side(n // 10), "4 GB": lambda: Run({BYTES: MAX_BYTES})}

    def check(results: dict[str, Any]) -> str:
        return "" if results[OURS] == n else f"{results[OURS]} of {n} vectors are counted"

    return Prepared(sides, check, n, "vectors")


# ---------------------------------------------------------------- assignment and search


def _assign(inputs: Inputs, make: Callable[[], np.ndarray], *, is_descent: bool) -> Prepared:
    faiss.omp_set_num_threads(N_CORES)
    vectors = make()
    assignment = "descent" if is_descent else "exact"
    tree = fit_tree(vectors, replace(tree_config(inputs, 0), assignment=assignment))
    leaves = tree.leaf_centroids
    asked = vectors[:50_000]
    index = faiss.IndexFlatL2(leaves.shape[1])
    index.add(leaves)
    sides: dict[str, Side] = {
        OURS: timed(partial(assign_tokens, tree, asked, assignment)),
        "IndexFlatL2": timed(lambda: index.search(asked, 1)[1][:, 0]),
    }

    def check(results: dict[str, Any]) -> str:
        if not is_descent:
            n_other = int((results[OURS] != results["IndexFlatL2"]).sum())
            return f"{n_other} tokens differ" if n_other else ""
        ours, least = (float(((asked - leaves[found]) ** 2).sum(1).mean()) for found in results.values())
        return "" if ours <= MAX_DESCENT_ERROR * least else f"error {ours / least:.2f} times that of exact assignment"

    return Prepared(sides, check, len(asked), "vectors")


def _search(inputs: Inputs) -> Prepared:
    faiss.omp_set_num_threads(N_CORES)
    vectors = unit_vectors(inputs.size(1_000_000, 20_000), width(inputs))
    rng = np.random.default_rng(1)
    near = vectors[rng.integers(0, len(vectors), inputs.size(50, 10))]
    queries = near + 0.5 * rng.standard_normal(near.shape, np.float32) / np.float32(near.shape[1] ** 0.5)
    index = VectorIndex(vectors)

    def numpy_search() -> list[set[int]]:
        found = []
        for query in queries:
            similarities = vectors @ query
            found.append(set(np.argpartition(similarities, -N_NEAREST)[-N_NEAREST:].tolist()))
        return found

    def our_search() -> list[set[int]]:
        return [set(index.search(query[None], N_NEAREST)[1][0].tolist()) for query in queries]

    def check(results: dict[str, Any]) -> str:
        recall = np.mean([len(a & b) / N_NEAREST for a, b in zip(results[OURS], results["numpy"], strict=True)])
        return "" if recall >= MIN_RECALL else f"recall@{N_NEAREST} is {recall:.3f}"

    return Prepared({OURS: timed(our_search), "numpy": timed(numpy_search)}, check, len(queries), "queries")
