"""The visual vocabulary: hierarchical k-means over projected features, assignment and a quality report.

Notation: N vectors, D dimensions of a feature, P dimensions after the projection, K visual tokens (leaves of the tree).

Source: Sun et al. 2019 (VideoBERT), section 4.2: hierarchical k-means with 4 levels of 12 clusters, 12^4 = 20,736 tokens.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import faiss
import numpy as np
import pyarrow as pa
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from vbcli import shards
from vbcli.config import config_hash, from_dict
from vbcli.errors import VbcliError
from vbcli.shards import read_json, write_atomic, write_json
from vbcli.splits import assign_splits

# The projection is fitted on an even sample that stays below this.
SAMPLE_BYTES = 1 << 30
MAX_LEVELS = 16


@dataclass(frozen=True)
class VocabConfig:
    """How a vocabulary is built.

    Args:
        branching: children of a node.
        levels: depth of the tree; 1 is flat k-means with `branching` clusters.
        n_components: principal components that features are reduced to before clustering; 0 clusters them as they are.
        whitening: each component is divided by its standard deviation to this power: 0 no, 1 full whitening.
        min_points: a node gets at most (its vectors / min_points) children, so that small data gives a smaller tree.
        n_iterations: of each k-means.
        assignment: `exact` is the nearest of all leaves, `descent` follows the tree.
        seed: of the k-means and of the projection.
    """

    branching: int = 12
    levels: int = 4
    n_components: int = 128
    whitening: float = 0.5
    min_points: int = 8
    n_iterations: int = 20
    assignment: Literal["exact", "descent"] = "exact"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.branching < 2:
            raise VbcliError(f"--branching {self.branching} is below 2")
        if not 1 <= self.levels <= MAX_LEVELS:
            raise VbcliError(f"--levels {self.levels} is not between 1 and {MAX_LEVELS}")
        if not 0 <= self.whitening <= 1:
            raise VbcliError(f"--whitening {self.whitening:g} is not between 0 and 1")


@dataclass(frozen=True)
class Projection:
    """Principal components, scaled: `apply` maps (N, D) to (N, P).

    Args:
        mean: float32 (D,).
        components: float32 (D, P): the scale of each dimension, the principal axes, and the scale of each axis, multiplied.
        kept: share of the variance that the components keep.
    """

    mean: np.ndarray
    components: np.ndarray
    kept: float

    def apply(self, features: np.ndarray) -> np.ndarray:
        """Projects float (N, D) to float32 (N, P)."""
        return (features.astype(np.float32) - self.mean) @ self.components


def fit_projection(
    features: np.ndarray, n_components: int, whitening: float, seed: int = 0, block_dims: tuple[int, ...] | None = None
) -> Projection:
    """Principal components of the features by a randomised singular value decomposition.

    Blocks (what different stages of an encoder say) are first scaled to equal variance in all, so that none drowns the others; the
    result is scaled to a mean squared length of 1, the size that a model's embeddings begin with.

    Args:
        features: float (N, D).
        n_components: P; no more than N - 1 and D are used. 0 keeps the features as they are.
        whitening: 0 (rotation only) to 1 (equal variance on each axis).
        block_dims: dimensions of each block within a grid cell; None is one block.

    Source: Halko, Martinsson, Tropp 2011, algorithm 5.1, by `torch.svd_lowrank`.
    """
    d = features.shape[1]
    if n_components == 0:
        return Projection(np.zeros(d, np.float32), np.eye(d, dtype=np.float32), 1.0)
    sample = _even_sample(features, max(1, SAMPLE_BYTES // (4 * d))).astype(np.float32)
    mean = sample.mean(0)
    scale = _block_scale(sample - mean, block_dims or (d,))
    centred = torch.from_numpy((sample - mean) * scale)
    rank = min(n_components, len(sample) - 1, d)
    if rank < 1:
        raise VbcliError("one feature vector is not enough for a visual vocabulary", hint="encode more or longer videos")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _, singular, axes = torch.svd_lowrank(centred, q=min(rank + 16, *centred.shape), niter=4)
    singular, axes = singular[:rank], axes[:, :rank]
    # The sign of a singular vector is arbitrary: its largest entry is made positive.
    axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    std = (singular / math.sqrt(len(sample))).clamp_min(float(singular[0]) * 1e-6 + 1e-12)
    components = torch.from_numpy(scale)[:, None] * axes / std**whitening
    components = components / (std ** (1 - whitening)).square().sum().sqrt()
    kept = float((singular**2).sum() / max(float((centred**2).sum()), 1e-12))
    return Projection(mean, components.numpy(), kept)


def _block_scale(centred: np.ndarray, block_dims: tuple[int, ...]) -> np.ndarray:
    """float32 (D,): one over the root of the variance of the block that each dimension belongs to."""
    block = np.tile(np.repeat(np.arange(len(block_dims)), block_dims), centred.shape[1] // sum(block_dims))
    variance = np.bincount(block, weights=centred.var(0))
    return (1 / np.sqrt(np.maximum(variance, 1e-12)))[block].astype(np.float32)


def _even_sample(features: np.ndarray, n: int) -> np.ndarray:
    return features if len(features) <= n else features[np.linspace(0, len(features) - 1, n).astype(np.int64)]


# ---------------------------------------------------------------- the tree


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
            nearest = _nearest(subset, centroids)
            for child in range(k):
                mine = members[nearest == child]
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


def _nearest(vectors: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    index = faiss.IndexFlatL2(centroids.shape[1])
    index.add(np.ascontiguousarray(centroids))
    return index.search(np.ascontiguousarray(vectors), 1)[1][:, 0]


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
            node[members] = below[_nearest(vectors[members], tree.centroids[below])]


# ---------------------------------------------------------------- the artifact


@dataclass
class Vocabulary:
    """A visual vocabulary: projection, tree and where it comes from.

    `encoder` is the specification of the encoder whose features it was fitted on; `sha256` the hash of the tensors; `source` that of the
    features and splits; `splits` says where each video went when the data did not.
    """

    config: VocabConfig
    projection: Projection
    tree: Tree
    encoder: dict[str, Any]
    sha256: str = ""
    report: dict[str, Any] = field(default_factory=dict)
    splits: dict[str, str] = field(default_factory=dict)
    source: str = ""

    @property
    def n_tokens(self) -> int:
        return self.tree.n_tokens

    @property
    def feature_dim(self) -> int:
        """P."""
        return self.projection.components.shape[1]

    def project(self, features: np.ndarray) -> np.ndarray:
        """float (N, D) to float32 (N, P)."""
        return self.projection.apply(features)

    def assign(self, projected: np.ndarray) -> np.ndarray:
        """Visual tokens of projected features.

        Args:
            projected: float32 (N, P).

        Returns:
            int32 (N,), 0 <= token < K.
        """
        if self.config.assignment == "descent":
            return assign_descent(self.tree, projected)
        return _nearest(projected, self.tree.leaf_centroids).astype(np.int32)


def fit_vocabulary(features: np.ndarray, config: VocabConfig, encoder: dict[str, Any]) -> Vocabulary:
    """Fits projection and tree.

    Args:
        features: float (N, D), one row a clip; of the training split.

    Raises:
        VbcliError: too few vectors.
    """
    if len(features) < 2 * config.min_points:
        raise VbcliError(
            f"{len(features)} clips are not enough for a visual vocabulary: at least {2 * config.min_points} are needed",
            hint="encode more or longer videos, or lower --min-points",
        )
    blocks = encoder.get("block_dims")
    projection = fit_projection(features, config.n_components, config.whitening, config.seed, tuple(blocks) if blocks else None)
    projected = np.concatenate([projection.apply(block) for block in np.array_split(features, max(1, len(features) // 8192))])
    vocabulary = Vocabulary(config, projection, fit_tree(projected, config), encoder)
    vocabulary.report = quality_report(vocabulary, projected)
    return vocabulary


def quality_report(vocabulary: Vocabulary, projected: np.ndarray) -> dict[str, Any]:
    """How well the tokens stand for the vectors.

    Args:
        projected: float32 (N, P).

    Returns:
        Numbers of vectors and tokens, mean squared error and its share of the variance, tokens used, perplexity of their
        use, share of the variance kept by the projection, and counts by token.
    """
    tokens = vocabulary.assign(projected)
    counts = np.bincount(tokens, minlength=vocabulary.n_tokens)
    error = float(((projected - vocabulary.tree.leaf_centroids[tokens]) ** 2).sum(1).mean())
    variance = float(projected.var(0).sum())
    share = counts[counts > 0] / counts.sum()
    return {
        "n_vectors": len(projected),
        "n_tokens": vocabulary.n_tokens,
        "n_tokens_full_tree": vocabulary.config.branching**vocabulary.config.levels,
        "n_tokens_used": int((counts > 0).sum()),
        "perplexity": float(np.exp(-(share * np.log(share)).sum())),
        "quantisation_error": error,
        "quantisation_error_share": error / max(variance, 1e-12),
        "variance_kept": vocabulary.projection.kept,
        "counts": counts.tolist(),
    }


def find_exemplars(vocabulary: Vocabulary, projected: np.ndarray) -> np.ndarray:
    """Index of the vector nearest to each centroid.

    Args:
        projected: float32 (N, P).

    Returns:
        int64 (K,).
    """
    return _nearest(vocabulary.tree.leaf_centroids, projected)


def feature_matrix(table: pa.Table) -> np.ndarray:
    """The feature column of a table as an array.

    Returns:
        float16 or float32 (N, C * D).
    """
    column = table.column("feature").combine_chunks()
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)


def build_vocabulary(features_dir: Path, vocab_dir: Path, config: VocabConfig) -> Vocabulary:
    """Fits a vocabulary on the training videos of a features dataset and saves it with its exemplars.

    A vocabulary that is there already is loaded. Where the dataset names no split, one is assigned and stored with the vocabulary, so that
    later stages use the same.

    Raises:
        VbcliError: the dataset holds no features, or too few, or the folder a vocabulary of other options or features.
    """
    manifest = shards.read_manifest(features_dir, "features")
    digests = [shards.input_digest(p, None) for p in shards.list_shards(features_dir)]
    named_splits = [shards.input_digest(p, ["video_id", "split"]) for p in shards.list_shards(features_dir / "videos")]
    source = config_hash([digests, named_splits])
    if (vocab_dir / "config.json").is_file():
        found = load_vocabulary(vocab_dir)
        if found.config != config or found.source != source:
            differs = "options" if found.config != config else "features"
            raise VbcliError(
                f"{vocab_dir} holds a visual vocabulary built with other {differs}",
                hint="name another vocabulary folder, or remove this one",
            )
        found.report = shards.read_json(vocab_dir / "report.json")
        return found
    shards.check_free(vocab_dir, ("vocabulary.safetensors", "report.json", "exemplars.json"))
    tables = [table for path in shards.list_shards(features_dir) for table in shards.iter_videos(path)]
    if not tables:
        raise VbcliError(f"the features dataset {features_dir} holds no features", hint="see its _errors folder")
    video_ids = [table.column("video_id")[0].as_py() for table in tables]
    rows = pa.concat_tables(shards.read_shard(p, columns=["video_id", "split"]) for p in shards.list_shards(features_dir / "videos"))
    named = dict(zip(rows.column("video_id").to_pylist(), rows.column("split").to_pylist(), strict=True))
    given = [named.get(v) for v in video_ids]
    means = np.stack([feature_matrix(t).mean(0, dtype=np.float32) for t in tables])
    splits = assign_splits(video_ids, given, means, config.seed)
    training = [t for t, split in zip(tables, splits, strict=True) if split == "train"] or tables
    features = np.concatenate([feature_matrix(t) for t in training])
    vocabulary = fit_vocabulary(features, config, manifest.facts["encoder"])
    vocabulary.source = source
    vocabulary.splits = {} if any(given) else dict(zip(video_ids, splits, strict=True))
    projected = vocabulary.project(features)
    origin = [(v, s) for t in training for v, s in zip(t.column("video_id").to_pylist(), t.column("start_s").to_pylist(), strict=True)]
    exemplars = [
        {"token": k, "video_id": origin[i][0], "start_s": origin[i][1]} for k, i in enumerate(find_exemplars(vocabulary, projected))
    ]
    save_vocabulary(vocabulary, vocab_dir, exemplars)
    return vocabulary


def save_vocabulary(vocabulary: Vocabulary, vocab_dir: Path, exemplars: list[dict[str, Any]]) -> None:
    """Writes `vocabulary.safetensors`, `report.json`, `exemplars.json` and, last, `config.json`, which makes it whole."""
    tensors = {"projection.mean": vocabulary.projection.mean, "projection.components": vocabulary.projection.components}
    tensors |= {f"tree.{k}": v for k, v in vars(vocabulary.tree).items()}
    data = save({k: np.ascontiguousarray(v) for k, v in tensors.items()})
    vocabulary.sha256 = _hash(data)
    write_atomic(vocab_dir / "vocabulary.safetensors", data)
    write_json(vocab_dir / "report.json", vocabulary.report)
    write_atomic(vocab_dir / "exemplars.json", json.dumps(exemplars, ensure_ascii=False).encode())
    write_json(
        vocab_dir / "config.json",
        {
            "kind": "vocabulary",
            "config": asdict(vocabulary.config),
            "encoder": vocabulary.encoder,
            "sha256": vocabulary.sha256,
            "variance_kept": vocabulary.projection.kept,
            "splits": vocabulary.splits,
            "source": vocabulary.source,
        },
    )


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def load_vocabulary(vocab_dir: Path) -> Vocabulary:
    """Reads a vocabulary folder.

    Raises:
        VbcliError: it is missing, incomplete or damaged.
    """
    path = vocab_dir / "config.json"
    if not path.is_file():
        raise VbcliError(f"{vocab_dir} is not a visual vocabulary: it has no config.json", hint="build one with: vbcli build-vocab")
    values = read_json(path)
    if values.get("kind") != "vocabulary":
        raise VbcliError(f"{vocab_dir} is not a visual vocabulary", hint="build one with: vbcli build-vocab")
    weights = vocab_dir / "vocabulary.safetensors"
    try:
        data = weights.read_bytes()
        tensors = load_file(weights)
    except (OSError, SafetensorError) as error:
        raise VbcliError(f"{weights} cannot be read: {error}") from error
    if _hash(data) != values["sha256"]:
        raise VbcliError(f"{weights} is not the file that {path} describes", hint="build the vocabulary again")
    projection = Projection(tensors["projection.mean"], tensors["projection.components"], values["variance_kept"])
    tree = Tree(*(tensors[f"tree.{k}"] for k in ("centroids", "first_child", "n_children", "children", "tokens")))
    config = from_dict(VocabConfig, values["config"], str(path))
    return Vocabulary(config, projection, tree, values["encoder"], values["sha256"], splits=values["splits"], source=values["source"])
