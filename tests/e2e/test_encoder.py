"""A 3-D encoder that was trained here, from frames to captions, wherever its folder goes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pytest

from tests.e2e.commands import vbcli
from vbcli.demo import write_demo_data

N_VIDEOS = 18
MODEL = '{"n_frames": 8, "size_px": 32, "widths": [8, 16], "time_strides": [1, 2]}'
TRAIN = ("--task", "encoder", "--model", "small.json", "--max-steps", "6", "--batch-size", "8", "--threads", "1")
SERIAL = ("--executor", "serial")


def query(statement: str) -> list[tuple]:
    with duckdb.connect() as connection:
        return connection.execute(statement).fetchall()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with videos, their frames, an encoder and its features."""
    place = tmp_path_factory.mktemp("three")
    write_demo_data(place / "world", N_VIDEOS, 3)
    (place / "small.json").write_text(MODEL)
    (place / "short.json").write_text(MODEL.replace("8", "2", 1))
    vbcli("extract", "world/videos", "frames", "--captions", "world/captions.csv", "--fps", "4", "--size", "64", *SERIAL, cwd=place)
    notes = vbcli("train", "frames", "encoder", *TRAIN, cwd=place).stderr
    assert "the encoder learns which of 8 labels a clip has" in notes
    assert "clips of 8 frames at 4 a second, 2 s" in notes
    vbcli("encode", "frames", "features", "--encoder", "encoder", *SERIAL, cwd=place)
    return place


def test_an_encoder_is_a_folder_of_four(place: Path):
    names = {p.name for p in (place / "encoder").iterdir()}
    assert names == {"config.json", "model.safetensors", "metrics.jsonl", "tensorboard"}
    told = json.loads(vbcli("inspect", "encoder", "--json", cwd=place).stdout)
    assert told["fps"] == 4
    assert told["trained_on"]["objective"] == "labels"
    assert len(told["trained_on"]["classes"]) == 8
    # A clip lasts 2 s, and videos 4, 5 or 6: one is left over where it is half filled.
    clips = query(
        f"select f.video_id, count(*), any_value(v.duration_s) from '{place}/features/shard-*.parquet' f "
        f"join '{place}/features/videos/shard-*.parquet' v using (video_id) group by 1"
    )
    assert len(clips) == N_VIDEOS
    assert all(n == (3 if duration_s > 4.5 else 2) for _, n, duration_s in clips)


def test_the_same_run_is_not_made_again_and_another_is_refused(place: Path):
    assert "trained already" in vbcli("train", "frames", "encoder", *TRAIN, cwd=place).stderr
    refused = vbcli("train", "frames", "encoder", *TRAIN, "--seed", "1", cwd=place, status=1).stderr
    assert "encoder holds a checkpoint of the task 'encoder', trained with other options" in refused
    assert "trained with other options" in vbcli("train", "frames", "encoder", *TRAIN, "--objective", "words", cwd=place, status=1).stderr


def test_frames_that_do_not_fit_are_refused(place: Path):
    vbcli("extract", "world/videos", "sparse", "--fps", "1", "--size", "32", *SERIAL, cwd=place)
    refused = vbcli("train", "sparse", "other", *TRAIN, cwd=place, status=1).stderr
    assert "sparse holds 1 frames a second, 5 a video, and a clip of the encoder has 8" in refused
    assert "extract with --fps 2 or more" in refused
    assert "needs 4" in vbcli("encode", "sparse", "other", "--encoder", "encoder", cwd=place, status=1).stderr
    wanted = ("--objective", "labels", "--model", "short.json")
    assert "have 0 labels" in vbcli("train", "sparse", "other", *TRAIN, *wanted, cwd=place, status=1).stderr
    assert (
        "'videobert-tiny' is not a preset of a 3-D encoder"
        in vbcli("train", "frames", "x", *TRAIN, "--model", "videobert-tiny", cwd=place, status=1).stderr
    )


def test_videos_are_captioned_when_all_that_made_the_captioner_is_gone(place: Path, tmp_path: Path):
    for name in ("world", "features", "encoder"):
        shutil.copytree(place / name, tmp_path / name)
    vbcli("build-vocab", "features", "vocab", "--branching", "4", "--levels", "2", cwd=tmp_path)
    vbcli("tokenize", "features", "tokens", "--vocab", "vocab", cwd=tmp_path)
    few = ("--max-steps", "8", "--batch-size", "8")
    vbcli("train", "tokens", "captioner", "--task", "caption", *few, cwd=tmp_path)
    vbcli("caption", "tokens", "from-tokens", "--checkpoint", "captioner", *SERIAL, cwd=tmp_path)
    for name in ("features", "encoder", "vocab", "tokens"):
        shutil.rmtree(tmp_path / name)
    (tmp_path / "captioner").rename(tmp_path / "moved")
    vbcli("caption", "world/videos", "from-videos", "--checkpoint", "moved", *SERIAL, cwd=tmp_path)
    read = "select video_id, caption from '{}/shard-*.parquet' order by 1"
    found, expected = (query(read.format(tmp_path / name)) for name in ("from-videos", "from-tokens"))
    assert [v for v, _ in found] == [v for v, _ in expected]
    assert len(found) == N_VIDEOS


def test_features_know_their_encoder_where_it_is_not_named(place: Path, tmp_path: Path):
    """build-vocab encodes frames as the features there were encoded, with the encoder that they carry."""
    shutil.copytree(place / "frames", tmp_path / "vbcli-work/frames")
    vbcli("encode", "--encoder", str(place / "encoder"), *SERIAL, cwd=tmp_path)
    shard = tmp_path / "vbcli-work/features/shard-00000.parquet"
    assert shard.read_bytes() == (place / "features/shard-00000.parquet").read_bytes()
    before = shard.read_bytes()
    shard.unlink()
    (place / "encoder").rename(place / "hidden")
    try:
        vbcli("build-vocab", "--branching", "4", "--levels", "2", cwd=tmp_path)
    finally:
        (place / "hidden").rename(place / "encoder")
    assert shard.read_bytes() == before
    shutil.rmtree(tmp_path / "vbcli-work/features/encoder")
    shard.unlink()
    assert "the folder of the trained encoder conv3d:" in vbcli("build-vocab", cwd=tmp_path, status=1).stderr


def test_videos_are_encoded_directly(place: Path, tmp_path: Path):
    vbcli("encode", str(place / "world/videos"), "features", "--encoder", str(place / "encoder"), *SERIAL, cwd=tmp_path)
    read = "select video_id, clip_index, start_s, feature::float[] from '{}/shard-*.parquet' order by 1, 2"
    direct, stored = (query(read.format(folder)) for folder in (tmp_path / "features", place / "features"))
    assert [row[:3] for row in direct] == [row[:3] for row in stored]
    # The stored frames were smaller, and JPEGs: not equal, but of no other clip.
    one, other = (np.array([row[3] for row in rows]) for rows in (direct, stored))
    nearest = np.linalg.norm(one[:, None] - other[None], axis=2).argmin(1)
    assert np.mean(nearest == np.arange(len(one))) >= 0.9
    assert (tmp_path / "features/encoder/model.safetensors").read_bytes() == (place / "encoder/model.safetensors").read_bytes()


def test_training_that_is_killed_ends_with_the_weights_of_one_that_was_not(place: Path, tmp_path: Path):
    command = [sys.executable, "-m", "vbcli.cli.app", "train", str(place / "frames"), "encoder", *TRAIN]
    # Steps after the only validation are lost with the kill; so the run is long enough to have more of them.
    command[command.index("6")] = "60"
    (tmp_path / "small.json").write_text(MODEL)
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    _wait_for(lambda: (tmp_path / "encoder/_training/state.pt").exists(), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    left = {p.name for p in (tmp_path / "encoder").iterdir()}
    # What was being written when it was killed may lie beside it, under a hidden name.
    assert {name for name in left if not name.startswith(".")} <= {"_training", "metrics.jsonl", "tensorboard"}
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    once = [*command]
    once[once.index("encoder")] = "once"
    subprocess.run(once, cwd=tmp_path, check=True, capture_output=True)
    names = ("config.json", "model.safetensors", "metrics.jsonl")
    for name in names:
        assert (tmp_path / "encoder" / name).read_bytes() == (tmp_path / "once" / name).read_bytes(), name
    assert not (tmp_path / "encoder/_training").exists()


def _wait_for(is_so: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not is_so():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
