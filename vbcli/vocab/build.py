"""Building a visual vocabulary from features, with a quality report.

Notation: N vectors, D dimensions of a feature, P dimensions after the projection, M codebooks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from vbcli import shards
from vbcli.config import config_hash
from vbcli.encoderfolders import CARRIED_NAME, carried_encoder, carry_encoder
from vbcli.errors import VbcliError
from vbcli.files import check_free, read_json
from vbcli.splits import assign_splits
from vbcli.vocab.artifact import Vocabulary, load_vocabulary, save_vocabulary
from vbcli.vocab.codebooks import fit_codebooks, quantise
from vbcli.vocab.config import VocabConfig
from vbcli.vocab.projection import fit_projection
from vbcli.vocab.tree import nearest


def fit_vocabulary(features: np.ndarray, config: VocabConfig, encoder: dict[str, Any]) -> Vocabulary:
    """Fits projection and trees.

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
    vocabulary = Vocabulary(config, projection, fit_codebooks(projected, config), encoder)
    vocabulary.report = quality_report(vocabulary, projected)
    return vocabulary


def quality_report(vocabulary: Vocabulary, projected: np.ndarray) -> dict[str, Any]:
    """How well the tokens stand for the vectors.

    Args:
        projected: float32 (N, P).

    Returns:
        Numbers of vectors and tokens, mean squared error and its share of the variance, tokens used, perplexity of their use (in total, of
        what a clip has: one token of each codebook) and share of the variance kept by the projection. `codebooks` has the same of each
        codebook, errors being those of it and all before it; `counts` is by codebook and token.
    """
    variance = max(float(projected.var(0).sum()), 1e-12)
    codebooks, columns, counts = [], [], []
    for tree, (tokens, rest) in zip(vocabulary.trees, quantise(projected, vocabulary.trees, vocabulary.config.assignment), strict=True):
        error = float((rest**2).sum(1).mean())
        columns.append(tokens)
        counts.append(np.bincount(tokens, minlength=tree.n_tokens))
        codebooks.append(
            {
                "n_tokens": tree.n_tokens,
                "n_tokens_used": int((counts[-1] > 0).sum()),
                "perplexity": _perplexity(counts[-1]),
                "quantisation_error": error,
                "quantisation_error_share": error / variance,
            }
        )
    return {
        "n_vectors": len(projected),
        "n_tokens": vocabulary.n_tokens,
        "n_tokens_full_tree": len(codebooks) * vocabulary.config.branching**vocabulary.config.levels,
        "n_tokens_used": sum(c["n_tokens_used"] for c in codebooks),
        "perplexity": _perplexity(np.unique(np.stack(columns, 1), axis=0, return_counts=True)[1]),
        "quantisation_error": codebooks[-1]["quantisation_error"],
        "quantisation_error_share": codebooks[-1]["quantisation_error_share"],
        "variance_kept": vocabulary.projection.kept,
        "codebooks": codebooks,
        "counts": [c.tolist() for c in counts],
    }


def _perplexity(counts: np.ndarray) -> float:
    share = counts[counts > 0] / counts.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def find_exemplars(vocabulary: Vocabulary, projected: np.ndarray) -> list[np.ndarray]:
    """Index of the vector nearest to each centroid; where others came before, of the vector of which they leave what is nearest to it.

    Args:
        projected: float32 (N, P).

    Returns:
        int64 (K_m,) for each codebook m.
    """
    found, rest = [], projected
    for tree, (_, after) in zip(vocabulary.trees, quantise(projected, vocabulary.trees, vocabulary.config.assignment), strict=True):
        found.append(nearest(tree.leaf_centroids, rest))
        rest = after
    return found


def feature_matrix(table: pa.Table) -> np.ndarray:
    """The feature column of a table as an array.

    Returns:
        float16 or float32 (N, C * D).
    """
    column = table.column("feature").combine_chunks()
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)


def _probe(
    vocabulary: Vocabulary, tables: Sequence[pa.Table], texts: Sequence[dict[str, Any]], splits: Sequence[str]
) -> dict[str, dict[str, Any]]:
    # Workers that only tokenise need no scikit-learn, which takes a second to load.
    from vbcli.vocab.probe import ProbeVideo, choose_videos, probe_report

    videos = [
        ProbeVideo(row.get("labels") or [], [c["text"] for c in row.get("captions") or []], split != "train")
        for row, split in zip(texts, splits, strict=True)
    ]
    chosen = choose_videos(videos)
    return probe_report(vocabulary, [feature_matrix(tables[i]) for i in chosen], [videos[i] for i in chosen])


def build_vocabulary(features_dir: Path, vocab_dir: Path, config: VocabConfig) -> Vocabulary:
    """Fits a vocabulary on the training videos of a features dataset and saves it with its exemplars.

    A vocabulary that is there already is loaded. Where the dataset names no split, one is assigned and stored with the vocabulary, so that
    later stages use the same; where it names others and none is called train, all videos count, and the report says so.

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
            changed = [f.name for f in fields(config) if getattr(config, f.name) != getattr(found.config, f.name)]
            differs = f"options ({', '.join(changed)})" if changed else "features"
            raise VbcliError(
                f"{vocab_dir} holds a visual vocabulary built with other {differs}",
                hint="name another vocabulary folder, or remove this one with the tokens and checkpoints that were made with it",
            )
        found.report = read_json(vocab_dir / "report.json")
        return found
    check_free(vocab_dir, ("vocabulary.safetensors", "report.json", "exemplars.json", CARRIED_NAME))
    tables = [table for path in shards.list_shards(features_dir) for table in shards.iter_videos(path)]
    if not tables:
        raise VbcliError(f"the features dataset {features_dir} holds no features", hint="see its _errors folder")
    video_ids = [table.column("video_id")[0].as_py() for table in tables]
    columns = ["video_id", "split", "labels", "captions"]
    rows = pa.concat_tables(shards.read_shard(p, columns=columns) for p in shards.list_shards(features_dir / "videos"))
    by_id = {row["video_id"]: row for row in rows.to_pylist()}
    texts = [by_id.get(v, {}) for v in video_ids]
    given = [row.get("split") for row in texts]
    means = np.stack([feature_matrix(t).mean(0, dtype=np.float32) for t in tables])
    splits = assign_splits(video_ids, given, means, config.seed)
    training = [t for t, split in zip(tables, splits, strict=True) if split == "train"]
    fitted = training or tables
    features = np.concatenate([feature_matrix(t) for t in fitted])
    vocabulary = fit_vocabulary(features, config, manifest.fact("encoder"))
    vocabulary.source = source
    vocabulary.splits = {} if any(given) else dict(zip(video_ids, splits, strict=True))
    vocabulary.report["is_of_training_split"] = bool(training)
    vocabulary.report["probe"] = _probe(vocabulary, tables, texts, splits)
    projected = vocabulary.project(features)
    origin = [(v, s) for t in fitted for v, s in zip(t.column("video_id").to_pylist(), t.column("start_s").to_pylist(), strict=True)]
    exemplars = [
        {"codebook": m, "token": k, "video_id": origin[i][0], "start_s": origin[i][1]}
        for m, found in enumerate(find_exemplars(vocabulary, projected))
        for k, i in enumerate(found)
    ]
    carry_encoder(carried_encoder(features_dir), vocab_dir)
    save_vocabulary(vocabulary, vocab_dir, exemplars)
    return vocabulary
