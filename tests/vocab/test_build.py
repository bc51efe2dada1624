"""A vocabulary's report by hand; saved and damaged folders."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from vbcli import shards
from vbcli.errors import VbcliError
from vbcli.schemas import VIDEOS, features_schema
from vbcli.vocab import build
from vbcli.vocab import vectors as files
from vbcli.vocab.artifact import load_vocabulary, save_vocabulary
from vbcli.vocab.build import build_vocabulary, feature_matrix, fit_streamed, fit_vocabulary
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
    report = fit_vocabulary(x, VocabConfig(branching=2, levels=1, n_components=0, min_points=1, n_codebooks=1), {}).report
    assert report["n_tokens"] == report["n_tokens_used"] == 2
    assert report["quantisation_error"] == pytest.approx(0.01, rel=1e-3)
    assert report["quantisation_error_share"] == pytest.approx(0.01 / x.var(), rel=1e-3)
    assert report["perplexity"] == pytest.approx(2.0)
    assert sorted(report["counts"][0]) == [2, 2]


def test_exemplars_are_nearest():
    x, _ = blobs()
    vocabulary, (found,) = fit_streamed([x], len(x), VocabConfig(branching=3, levels=2, n_components=0, n_codebooks=1), {})
    np.testing.assert_array_equal(found, brute_nearest(vocabulary.trees[0].leaf_centroids, x))


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


@pytest.fixture
def features_dir(tmp_path: Path) -> Path:
    return write_features(tmp_path / "features", "train")


def write_features(folder: Path, other_split: str) -> Path:
    """Eighty videos of five clips, every fourth for testing, that tell their label by the first of four dimensions."""
    encoder = {"name": "none", "n_cells": 2, "block_dims": [2]}
    shards.claim_manifest(folder, shards.Manifest("features", "encode", 1, {}, {"encoder": encoder}, []))
    rows, videos = [], []
    rng = np.random.default_rng(5)
    for i in range(80):
        video_id, label = f"{i:02d}.mp4", "up" if i % 3 else "down"
        split = "test" if i % 4 == 0 else other_split
        captions = [{"text": f"it goes {label}", "start_s": None, "end_s": None}]
        videos.append({"video_id": video_id, "path": video_id, "labels": [label], "captions": captions, "split": split})
        for k in range(5):
            feature = rng.normal([4 * (i % 3 > 0), 0, 0, 0])
            rows.append(
                {
                    "video_id": video_id,
                    "clip_index": k,
                    "start_s": k / 2,
                    "end_s": k / 2 + 0.5,
                    "shot_index": 0,
                    "n_frames": 1,
                    "feature": feature,
                }
            )
    for path, table in (
        (folder / shards.shard_name(0), pa.Table.from_pylist(rows, schema=features_schema(4, pa.float32()))),
        (folder / "videos" / shards.shard_name(0), pa.Table.from_pylist(videos, schema=VIDEOS)),
    ):
        with shards.ShardWriter(path, table.schema) as writer:
            writer.write(table)
            writer.close({"stage": "encode", "version": 1, "config": {}, "key": "", "n_items": 0, "failed": []})
    return folder


def test_a_built_vocabulary_reports_what_survives_and_names_exemplars_of_every_codebook(features_dir: Path, tmp_path: Path):
    config = VocabConfig(branching=3, levels=1, n_components=0, n_codebooks=2)
    built = build_vocabulary(features_dir, tmp_path / "vocab", config)
    report = json.loads((tmp_path / "vocab" / "report.json").read_text())
    assert report == built.report == build_vocabulary(features_dir, tmp_path / "vocab", config).report
    for name in ("labels", "words"):
        found = report["probe"][name]
        assert (found["n_learned"], found["n_asked"], found["n_folds"]) == (60, 20, 1)
        assert found["features"] > 0.9
    exemplars = json.loads((tmp_path / "vocab" / "exemplars.json").read_text())
    assert [(e["codebook"], e["token"]) for e in exemplars] == [(m, k) for m in (0, 1) for k in range(3)]
    # Clips of the training videos alone are exemplars, and they are of their token.
    table = shards.read_shard(features_dir / shards.shard_name(0))
    tokens = built.assign(built.project(feature_matrix(table)))
    places = list(zip(table.column("video_id").to_pylist(), table.column("start_s").to_pylist(), strict=True))
    for e in exemplars:
        assert int(e["video_id"][:2]) % 4 != 0
        if e["codebook"] == 0:
            assert tokens[places.index((e["video_id"], e["start_s"])), 0] == e["token"]


def test_a_vocabulary_of_videos_none_of_which_is_for_training_says_so(features_dir: Path, tmp_path: Path) -> None:
    config = VocabConfig(branching=3, levels=1, n_components=0)
    assert build_vocabulary(features_dir, tmp_path / "vocab", config).report["is_of_training_split"]
    other = build_vocabulary(write_features(tmp_path / "other", "val"), tmp_path / "other-vocab", config).report
    assert (other["is_of_training_split"], other["n_vectors"]) == (False, 400)


def test_features_that_do_not_fit_in_memory_give_a_vocabulary_as_good_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    n, d, n_bytes = 120_000, 32, 2 << 20
    mixing = RNG.normal(size=(d, d)).astype(np.float32)

    class Stream:
        def __iter__(self):
            for seed in range(120):
                yield np.random.default_rng(seed).normal(size=(n // 120, d)).astype(np.float32) @ mixing

    config = VocabConfig(branching=6, levels=3, n_components=d, n_codebooks=2)
    whole = fit_vocabulary(np.concatenate(list(Stream())), config, {})
    monkeypatch.setattr(files, "MEMORY_BYTES", n_bytes)
    monkeypatch.setattr(files, "BLOCK_BYTES", n_bytes // 4)
    tracemalloc.start()
    vocabulary, exemplars = fit_streamed(Stream(), n, config, {})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # The tokens and what they are counted by are in memory, 16 bytes a vector; the vectors, of 128 bytes each, are not.
    assert peak < 6 * n_bytes + 32 * n < 4 * n * d * 1.1
    ours, theirs = vocabulary.report, whole.report
    assert ours["n_vectors"] == n
    assert ours["n_tokens"] == ours["n_tokens_full_tree"] == 2 * 216
    for name in ("quantisation_error_share", "perplexity", "variance_kept"):
        assert ours[name] == pytest.approx(theirs[name], rel=0.03)
    # What the report says of a stream is what its vocabulary does.
    projected = np.concatenate([vocabulary.project(block) for block in Stream()])
    tokens = vocabulary.assign(projected)
    error = ((projected - vocabulary.reconstruct(tokens)) ** 2).sum(1).mean()
    assert ours["quantisation_error"] == pytest.approx(error, rel=1e-4)
    assert ours["counts"] == [np.bincount(column, minlength=216).tolist() for column in tokens.T]
    for column, found in zip(tokens.T, exemplars, strict=True):
        np.testing.assert_array_equal(column[found], np.arange(216))


def test_a_dataset_read_in_passes_gives_the_vocabulary_of_one_in_memory(
    features_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = VocabConfig(branching=2, levels=2, n_components=0, n_codebooks=1, n_refinements=2)
    whole = build_vocabulary(features_dir, tmp_path / "whole", config)
    # Features are read again and again, and vectors still fit.
    monkeypatch.setattr(build._Clips, "open", lambda folder: build._Clips(shards.list_shards(folder)))
    streamed = build_vocabulary(features_dir, tmp_path / "streamed", config)
    assert streamed.sha256 == whole.sha256
    assert streamed.report == whole.report
    assert (tmp_path / "streamed" / "exemplars.json").read_bytes() == (tmp_path / "whole" / "exemplars.json").read_bytes()


def test_a_vocabulary_of_before_refinement_loads(tmp_path: Path) -> None:
    x, _ = blobs()
    save_vocabulary(fit_vocabulary(x, VocabConfig(branching=3, levels=1, n_components=0), {}), tmp_path, [])
    values = json.loads((tmp_path / "config.json").read_text())
    del values["config"]["n_refinements"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert load_vocabulary(tmp_path).config.n_refinements == 0
