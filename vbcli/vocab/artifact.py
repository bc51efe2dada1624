"""The visual vocabulary as a folder: projection, trees and where they come from.

Notation: N vectors, D dimensions of a feature, P dimensions after the projection, M codebooks, K_m visual tokens of codebook m.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from vbcli.config import from_dict
from vbcli.errors import VbcliError
from vbcli.files import read_json, write_atomic, write_json
from vbcli.vocab.codebooks import quantise
from vbcli.vocab.config import VocabConfig
from vbcli.vocab.projection import Projection
from vbcli.vocab.tree import Tree


@dataclass
class Vocabulary:
    """A visual vocabulary: projection, trees and where it comes from.

    Each tree is a codebook: the first of the projected features, each other of what those before it leave over. A clip has one token of
    each, and they stand for the sum of their centroids.

    `encoder` is the specification of the encoder whose features it was fitted on; `sha256` the hash of the tensors; `source` that of the
    features and splits; `splits` says where each video went when the data did not.
    """

    config: VocabConfig
    projection: Projection
    trees: tuple[Tree, ...]
    encoder: dict[str, Any]
    sha256: str = ""
    report: dict[str, Any] = field(default_factory=dict)
    splits: dict[str, str] = field(default_factory=dict)
    source: str = ""

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """(K_1, ..., K_M)."""
        return tuple(tree.n_tokens for tree in self.trees)

    @property
    def n_tokens(self) -> int:
        """K_1 + ... + K_M."""
        return sum(self.codebook_sizes)

    @property
    def feature_dim(self) -> int:
        """P."""
        return self.projection.components.shape[1]

    def project(self, features: np.ndarray) -> np.ndarray:
        """float (N, D) to float32 (N, P)."""
        return self.projection.apply(features)

    def assign(self, projected: np.ndarray) -> np.ndarray:
        """Visual tokens of projected features, codebook by codebook: each takes the best token for what is left over.

        Args:
            projected: float32 (N, P).

        Returns:
            int32 (N, M), 0 <= token of codebook m < K_m.
        """
        return np.stack([tokens for tokens, _ in quantise(projected, self.trees, self.config.assignment)], 1)

    def reconstruct(self, tokens: np.ndarray) -> np.ndarray:
        """What tokens stand for: the sum of their centroids.

        Args:
            tokens: int (N, M).

        Returns:
            float32 (N, P).
        """
        return np.sum([tree.leaf_centroids[column] for tree, column in zip(self.trees, tokens.T, strict=True)], axis=0)


def save_vocabulary(vocabulary: Vocabulary, vocab_dir: Path, exemplars: list[dict[str, Any]]) -> None:
    """Writes `vocabulary.safetensors`, `report.json`, `exemplars.json` and, last, `config.json`, which makes it whole."""
    tensors = {"projection.mean": vocabulary.projection.mean, "projection.components": vocabulary.projection.components}
    for name, tree in zip(_tree_names(len(vocabulary.trees)), vocabulary.trees, strict=True):
        tensors |= {f"{name}.{k}": v for k, v in vars(tree).items()}
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


def _tree_names(n_codebooks: int) -> list[str]:
    return ["tree", *(f"tree.{m}" for m in range(2, n_codebooks + 1))]


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
        tensors = load(data)
    except (OSError, SafetensorError) as error:
        raise VbcliError(
            f"{weights} cannot be read: {error}", hint="it is damaged: copy it again, or build the vocabulary again"
        ) from error
    if _hash(data) != values["sha256"]:
        raise VbcliError(f"{weights} is not the file that {path} describes", hint="build the vocabulary again")
    projection = Projection(tensors["projection.mean"], tensors["projection.components"], values["variance_kept"])
    config = from_dict(VocabConfig, values["config"], str(path))
    trees = tuple(
        Tree(*(tensors[f"{name}.{k}"] for k in ("centroids", "first_child", "n_children", "children", "tokens")))
        for name in _tree_names(config.n_codebooks)
    )
    return Vocabulary(config, projection, trees, values["encoder"], values["sha256"], splits=values["splits"], source=values["source"])
