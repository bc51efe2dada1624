"""The quality of videos, as numbers: nothing is left out here, that is for `filtering`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vbcli import shards
from vbcli.config import config_hash
from vbcli.duplicates import (
    HASH_DISTANCE,
    MIN_COMPARED,
    SIMILARITY,
    Neighbours,
    feature_neighbours,
    group_pairs,
    hash_neighbours,
    near_pairs,
)
from vbcli.encoderspecs import EncoderSpec
from vbcli.errors import VbcliError
from vbcli.files import write_json
from vbcli.pipeline import RunOptions, note_missing, parents_of, run_noted
from vbcli.retrieval.text_tower import TextTower
from vbcli.runner import RunReport, dataset_inputs, read_videos
from vbcli.stages.compare import Compare
from vbcli.stages.measure import Measure
from vbcli.vocab.build import feature_matrix

MEASURES, COMPARED = "_measures", "_compared.json"


def score_quality(
    frames_dir: Path,
    quality_dir: Path,
    features_dir: Path | None = None,
    options: RunOptions | None = None,
    *,
    hash_distance: float = HASH_DISTANCE,
    similarity: float = SIMILARITY,
) -> RunReport:
    """Measures the frames of each video, and compares all videos with each other.

    Args:
        features_dir: of the same videos, to compare them by what they show, too; captions are compared with those of open_clip.
        hash_distance: share of the bits of their hashes in which near-duplicates differ at most.
        similarity: cosine of the mean features that near-duplicates have at least.

    Raises:
        VbcliError: `frames_dir` holds no frames, `features_dir` no features of these videos, or `quality_dir` something else.
    """
    options = options or RunOptions()
    shards.read_manifest(frames_dir, "frames")
    encoder = None if features_dir is None else EncoderSpec.from_dict(shards.read_manifest(features_dir, "features").fact("encoder"))
    name = None if encoder is None else encoder.name
    stage = Compare(str(quality_dir / COMPARED), str(frames_dir / "videos"), name, hash_distance, similarity)
    shards.check_manifest(quality_dir, stage.name, stage.version, stage.identity())
    note_missing(frames_dir, options)
    measures_dir = quality_dir / MEASURES
    with options.open(Measure().modules()) as executor:
        inputs = dataset_inputs(frames_dir, Measure())
        run_noted(Measure(), inputs, measures_dir, executor, options, parents=parents_of(frames_dir), videos_dir=frames_dir / "videos")
        compared = compare_videos(stage, frames_dir, measures_dir, features_dir, encoder, options.on_note)
        write_json(quality_dir / COMPARED, compared)
        joined = [
            replace(shard, digest=config_hash([shard.digest, {v: compared[v] for v in _videos_in(shard.source)}]))
            for shard in dataset_inputs(measures_dir, stage)
        ]
        return run_noted(stage, joined, quality_dir, executor, options, parents=parents_of(measures_dir), videos_dir=frames_dir / "videos")


def _videos_in(shard: Any) -> list[str]:
    return shards.read_shard(shard, ["video_id"]).column("video_id").to_pylist()


def compare_videos(
    limits: Compare,
    frames_dir: Path,
    measures_dir: Path,
    features_dir: Path | None,
    encoder: EncoderSpec | None,
    on_note: Callable[[str], None],
) -> dict[str, dict[str, Any]]:
    """What comparing all videos finds, by video: the columns that `QUALITY` has beside the measures."""
    rows = shards.read_rows(measures_dir, ["video_id", "hashes"])
    if not rows:
        return {}
    video_ids = [row["video_id"] for row in rows]
    splits = {row["video_id"]: row["split"] for row in shards.read_rows(frames_dir / "videos", ["video_id", "split"])}
    codes = np.array([row["hashes"] for row in rows], np.uint64)
    hashes = hash_neighbours(codes)
    means = None if features_dir is None else _mean_features(features_dir, video_ids, on_note)
    features = None if means is None else feature_neighbours(means)
    # What shows nothing is like all that shows nothing, and is no duplicate of it.
    has_looks = (codes != 0).sum(1) >= MIN_COMPARED
    near = near_pairs(hashes, features, limits.hash_distance, limits.similarity)
    first = group_pairs(len(rows), [(a, b) for a, b in near if has_looks[a] and has_looks[b]])
    groups: dict[int, list[int]] = {}
    for i, leader in enumerate(first):
        groups.setdefault(leader, []).append(i)
    said = _caption_similarities(frames_dir, video_ids, means, encoder, on_note)
    found = {}
    for i, video_id in enumerate(video_ids):
        others = sorted({split for k in groups[first[i]] if (split := splits[video_ids[k]]) and split != splits[video_id]})
        found[video_id] = {
            **_nearest("hash", "distance", hashes, i, video_ids),
            **(_nearest("feature", "similarity", features, i, video_ids) if features else {}),
            "duplicate_of": None if first[i] == i else video_ids[first[i]],
            "leaks_into": ", ".join(others) if splits[video_id] and others else None,
            "caption_similarity": said.get(video_id),
        }
    return found


def _nearest(kind: str, measure: str, neighbours: Neighbours, i: int, video_ids: Sequence[str]) -> dict[str, Any]:
    if not neighbours.nearest.shape[1] or neighbours.nearest[i, 0] < 0:
        return {}
    return {f"{kind}_nearest": video_ids[neighbours.nearest[i, 0]], f"{kind}_{measure}": float(neighbours.closeness[i, 0])}


def _mean_features(features_dir: Path, video_ids: Sequence[str], on_note: Callable[[str], None]) -> np.ndarray:
    """The mean feature of each video, float32 (N, D); NaN of a video that has none.

    Raises:
        VbcliError: none of them has one.
    """
    means = {
        table.column("video_id")[0].as_py(): feature_matrix(table).mean(0, dtype=np.float32)
        for path in shards.list_shards(features_dir)
        for table in shards.iter_videos(path)
    }
    missing = [v for v in video_ids if v not in means]
    if len(missing) == len(video_ids):
        raise VbcliError(f"{features_dir} has no features of any of the {len(video_ids)} videos", hint="name features of these videos")
    if missing:
        on_note(
            f"{features_dir} has no features of {len(missing)} of the videos, first {missing[0]}: they are compared by their looks alone"
        )
    none = np.full_like(next(iter(means.values())), np.nan)
    return np.stack([means.get(v, none) for v in video_ids])


def _caption_similarities(
    frames_dir: Path, video_ids: Sequence[str], means: np.ndarray | None, encoder: EncoderSpec | None, on_note: Callable[[str], None]
) -> dict[str, float]:
    """Cosine of each video with its captions, the mean over them, where the encoder has a text tower."""
    if means is None or encoder is None or not encoder.name.startswith("open_clip:"):
        return {}
    captions = {row["video_id"]: [c["text"] for c in row["captions"] or []] for row in read_videos(frames_dir).to_pylist()}
    told = [(i, text) for i, v in enumerate(video_ids) for text in captions[v] if not np.isnan(means[i]).any()]
    if not told:
        return {}
    if encoder.pool != "mean":
        on_note(
            f"captions are not compared with features that are pooled by '{encoder.pool}': "
            "only whole frames lie where sentences do (encode with --pool mean)"
        )
        return {}
    vectors = TextTower(encoder).embed([text for _, text in told])
    unit = means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    cosines: dict[str, list[float]] = {}
    for (i, _), vector in zip(told, vectors, strict=True):
        cosines.setdefault(video_ids[i], []).append(float(unit[i] @ vector))
    return {video_id: float(np.mean(values)) for video_id, values in cosines.items()}
