"""Building a visual vocabulary from features, with a quality report.

Notation: N vectors, D dimensions of a feature, P dimensions after the projection, M codebooks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from vbcli import shards, storage
from vbcli.config import config_hash
from vbcli.encoderfolders import CARRIED_NAME, carried_encoder, carry_encoder
from vbcli.errors import VbcliError
from vbcli.files import check_free, read_json
from vbcli.splits import assign_splits
from vbcli.vocab import vectors as files
from vbcli.vocab.artifact import Vocabulary, load_vocabulary, save_vocabulary
from vbcli.vocab.codebooks import fit_codebooks
from vbcli.vocab.config import VocabConfig
from vbcli.vocab.projection import ROWS, fit_projection
from vbcli.vocab.vectors import VectorFile, even_blocks, even_numbers, n_rows_of, take_rows

MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
"""Of what a clip's tokens are made one number by, modulo 2^64, to count how many clips have the same."""
MAX_PROBE_BYTES = 256 << 20
"""Of the features of the videos that are probed; of more, clips are taken evenly spaced in each video."""


def fit_vocabulary(features: np.ndarray, config: VocabConfig, encoder: dict[str, Any]) -> Vocabulary:
    """Fits projection and trees, with a quality report.

    Args:
        features: float (N, D), one row a clip; of the training split.

    Raises:
        VbcliError: too few vectors.
    """
    return fit_streamed([features], len(features), config, encoder)[0]


def fit_streamed(
    blocks: Iterable[np.ndarray], n: int, config: VocabConfig, encoder: dict[str, Any], scratch_dir: Path | None = None
) -> tuple[Vocabulary, list[np.ndarray]]:
    """Fits projection and trees to features that come block by block, whatever number there is, with a quality report.

    Where the projected vectors take more than `vectors.MEMORY_BYTES`, they are in scratch files, as precise as the features.

    Args:
        blocks: float (n_i, D), of N rows in all; read twice.
        n: N.
        scratch_dir: where scratch files are; the system's folder for temporary files where it is None.

    Returns:
        The vocabulary; its report has numbers of vectors and tokens, mean squared error and its share of the variance, tokens used,
        perplexity of their use (in total, of what a clip has: one token of each codebook) and share of the variance kept by the projection;
        `codebooks` has the same of each codebook, errors being those of it and all before it, and `counts` is by codebook and token.
        And for each codebook m the exemplars of its tokens, int64 (K_m,): see `Codebook`.

    Raises:
        VbcliError: too few vectors, or the disk is full.
    """
    if n < 2 * config.min_points:
        raise VbcliError(
            f"{n} clips are not enough for a visual vocabulary: at least {2 * config.min_points} are needed",
            hint="encode more or longer videos, or lower --min-points",
        )
    block_dims = encoder.get("block_dims")
    width = next(iter(blocks)).shape[1]
    sample = take_rows(blocks, even_numbers(n, n_rows_of(files.MEMORY_BYTES, width)))
    projection = fit_projection(sample, config.n_components, config.whitening, config.seed, tuple(block_dims) if block_dims else None)
    dtype = np.float16 if sample.dtype == np.float16 else np.float32
    vectors = VectorFile.create(n, projection.components.shape[1], dtype, scratch_dir)
    del sample
    start, sums, squares = 0, np.zeros(vectors.width), np.zeros(vectors.width)
    for block in even_blocks(blocks, n, ROWS):
        projected = projection.apply(block)
        vectors.write(start, projected)
        start += len(block)
        sums += projected.sum(0, dtype=np.float64)
        squares += np.square(projected, dtype=np.float64).sum(0)
    variance = max(float((squares / n - (sums / n) ** 2).sum()), 1e-12)
    trees, codebooks, exemplars, counts = [], [], [], []
    combinations = np.zeros(n, np.uint64)
    for codebook in fit_codebooks(vectors, config, scratch_dir):
        trees.append(codebook.tree)
        exemplars.append(codebook.exemplars)
        counts.append(np.bincount(codebook.tokens, minlength=codebook.tree.n_tokens))
        codebooks.append(_codebook_report(codebook.error, counts[-1], variance))
        combinations = combinations * MULTIPLIER + codebook.tokens.astype(np.uint64)
    vocabulary = Vocabulary(config, projection, tuple(trees), encoder)
    vocabulary.report = {
        "n_vectors": n,
        "n_tokens": vocabulary.n_tokens,
        "n_tokens_full_tree": len(codebooks) * config.branching**config.levels,
        "n_tokens_used": sum(c["n_tokens_used"] for c in codebooks),
        "perplexity": _perplexity(np.unique(combinations, return_counts=True)[1]),
        "quantisation_error": codebooks[-1]["quantisation_error"],
        "quantisation_error_share": codebooks[-1]["quantisation_error_share"],
        "variance_kept": projection.kept,
        "codebooks": codebooks,
        "counts": [c.tolist() for c in counts],
    }
    return vocabulary, exemplars


def _codebook_report(error: float, counts: np.ndarray, variance: float) -> dict[str, Any]:
    return {
        "n_tokens": len(counts),
        "n_tokens_used": int((counts > 0).sum()),
        "perplexity": _perplexity(counts),
        "quantisation_error": error,
        "quantisation_error_share": error / variance,
    }


def _perplexity(counts: np.ndarray) -> float:
    share = counts[counts > 0] / counts.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def feature_matrix(table: pa.Table) -> np.ndarray:
    """The feature column of a table as an array.

    Returns:
        float16 or float32 (N, C * D).
    """
    column = table.column("feature").combine_chunks()
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)


@dataclass(frozen=True)
class _Clips:
    """The clips of a features dataset, video by video, kept in memory where they are few."""

    paths: Sequence[Path]
    kept: Sequence[pa.Table] | None = None

    @classmethod
    def open(cls, features_dir: Path) -> _Clips:
        clips = cls(shards.list_shards(features_dir))
        first = next(iter(clips), None)
        n_rows = sum(shards.read_footer(path)["n_rows"] for path in clips.paths)
        if first is None or n_rows * feature_matrix(first[:1]).nbytes > files.MEMORY_BYTES:
            return clips
        return cls(clips.paths, list(clips))

    def __iter__(self) -> Iterator[pa.Table]:
        return self.tables()

    def tables(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        if self.kept is not None:
            return iter(self.kept)
        return (table for path in self.paths for table in shards.iter_videos(path, columns))


@dataclass(frozen=True)
class _VideoFeatures:
    """Features of some of the videos, bool (V,), to be gone through several times."""

    clips: _Clips
    is_fitted: np.ndarray

    def __iter__(self) -> Iterator[np.ndarray]:
        for table, is_one in zip(self.clips.tables(["video_id", "feature"]), self.is_fitted, strict=True):
            if is_one:
                yield feature_matrix(table)


def _probe(vocabulary: Vocabulary, clips: _Clips, texts: Sequence[dict[str, Any]], splits: Sequence[str]) -> dict[str, dict[str, Any]]:
    # Workers that only tokenise need no scikit-learn, which takes a second to load.
    from vbcli.vocab.probe import MIN_VIDEOS, ProbeVideo, choose_videos, probe_report

    videos = [
        ProbeVideo(row.get("labels") or [], [c["text"] for c in row.get("captions") or []], split != "train")
        for row, split in zip(texts, splits, strict=True)
    ]
    chosen = choose_videos(videos)
    features: list[np.ndarray] = []
    if len(chosen) >= MIN_VIDEOS:
        is_chosen = np.zeros(len(videos), bool)
        is_chosen[chosen] = True
        n_most = max(1, MAX_PROBE_BYTES // (4 * len(vocabulary.projection.mean) * len(chosen)))
        features = [clip[even_numbers(len(clip), n_most)] for clip in _VideoFeatures(clips, is_chosen)]
    return probe_report(vocabulary, features, [videos[i] for i in chosen])


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
    clips = _Clips.open(features_dir)
    columns = ["video_id", "split", "labels", "captions"]
    rows = pa.concat_tables(shards.read_shard(p, columns=columns) for p in shards.list_shards(features_dir / "videos"))
    by_id = {row["video_id"]: row for row in rows.to_pylist()}
    video_ids, starts = [], []
    for table in clips.tables(["video_id", "start_s"]):
        video_ids.append(table.column("video_id")[0].as_py())
        starts.append(table.column("start_s").to_numpy())
    if not video_ids:
        raise VbcliError(f"the features dataset {features_dir} holds no features", hint="see its _errors folder")
    texts = [by_id.get(v, {}) for v in video_ids]
    given = [row.get("split") for row in texts]
    everything = np.ones(len(video_ids), bool)
    # Splits of the data's own need no look at the features.
    means = np.zeros((0, 0)) if any(given) else np.stack([f.mean(0, dtype=np.float32) for f in _VideoFeatures(clips, everything)])
    splits = assign_splits(video_ids, given, means, config.seed)
    is_training = np.array(splits) == "train"
    is_fitted = is_training if is_training.any() else everything
    n_clips = np.array([len(s) for s in starts]) * is_fitted
    scratch_dir = None if storage.is_remote(vocab_dir) else vocab_dir.absolute().parent
    features = _VideoFeatures(clips, is_fitted)
    vocabulary, found = fit_streamed(features, int(n_clips.sum()), config, manifest.fact("encoder"), scratch_dir)
    vocabulary.source = source
    vocabulary.splits = {} if any(given) else dict(zip(video_ids, splits, strict=True))
    vocabulary.report["is_of_training_split"] = bool(is_training.any())
    vocabulary.report["probe"] = _probe(vocabulary, clips, texts, splits)
    edges = np.cumsum(n_clips)
    exemplars = []
    for m, rows in enumerate(found):
        places = np.searchsorted(edges, rows, side="right")
        for k, (video, row) in enumerate(zip(places.tolist(), rows.tolist(), strict=True)):
            start_s = float(starts[video][row - edges[video]])  # from the end
            exemplars.append({"codebook": m, "token": k, "video_id": video_ids[video], "start_s": start_s})
    carry_encoder(carried_encoder(features_dir), vocab_dir)
    save_vocabulary(vocabulary, vocab_dir, exemplars)
    return vocabulary
