"""What a user can do wrong: one sentence, a hint, no traceback, the right status."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.commands import run

CASES = [
    (["extract", "nowhere"], 1, "nowhere does not exist"),
    (["extract", "empty"], 1, "empty holds no videos"),
    (["extract", "videos", "--fps", "0"], 2, "--fps 0 is not above 0"),
    (["extract", "videos", "--captions", "none.csv"], 1, "none.csv"),
    (["extract", "videos", "--captions", "broken.csv"], 1, "broken.csv"),
    (["extract", "videos", "--language", "english"], 2, "--language is 'english'"),
    (["extract"], 2, "Missing argument"),
    (["extract", "broken.csv"], 1, "broken.csv is no video by its name"),
    (["extract", "videos", "videos"], 1, "videos exists and is not an empty folder"),
    (["encode", "nowhere"], 1, "nowhere does not exist"),
    (["encode", "videos", "--language", "english"], 2, "--language is 'english'"),
    (["encode", "empty", "--checkpoint", "empty", "--language", "en"], 2, "--language is for frames and videos"),
    (["encode", "videos", "--encoder", "resnet50"], 1, "unknown encoder 'resnet50'"),
    (["encode", "videos", "--encoder", "timm:resnet18"], 1, "needs weights"),
    (["encode", "videos", "--checkpoint", "empty"], 1, "there is no checkpoint in empty"),
    (["encode", "empty", "--checkpoint", "empty", "--pool", "mean"], 2, "--pool is for frames and videos"),
    (["encode", "--checkpoint", "empty", "--encoder", "timm:tf_efficientnet_lite0"], 2, "--encoder is for frames and videos"),
    (["encode", "empty", "--checkpoint", "empty", "--timeout-s", "5"], 2, "--timeout-s is for frames and videos"),
    (["encode", "stills", "--limit", "2"], 2, "--limit is for videos: frames were taken before"),
    (["encode", "stills", "--follow-links"], 2, "--follow-links is for videos"),
    (["encode", "stills", "--max-frames", "9"], 2, "--max-frames is for videos"),
    (["encode", "stills", "--shots", "--detect-shots", "content"], 2, "--detect-shots is for videos"),
    (["caption", "videos", "--timeout-s", "0"], 2, "--timeout-s is 0.0"),
    (["classify", "videos", "--memory-mb", "0"], 2, "--memory-mb is 0"),
    (["answer", "videos", "what?", "--max-pixels", "0"], 2, "--max-pixels is 0"),
    (["index", "videos", "out", "--max-frames", "0"], 2, "--max-frames is 0"),
    (["search", "out", "--video", "videos/a.mp4", "--timeout-s", "0"], 2, "--timeout-s is 0.0"),
    (["summarize", "videos", "--timeout-s", "0"], 2, "--timeout-s is 0.0"),
    (["predict", "videos", "--timeout-s", "0"], 2, "--timeout-s is 0.0"),
    (["edit", "videos/a.mp4", "--instruction", "keep everything", "--timeout-s", "0"], 2, "--timeout-s is 0.0"),
    (["transcribe", "videos", "--timeout-s", "0"], 2, "--timeout-s is 0.0"),
    (["build-vocab", "empty"], 1, "empty is not a features dataset"),
    (["tokenize"], 1, "is not a features dataset"),
    (["train"], 1, "has no features and no tokens"),
    (["train", "empty"], 1, "empty is not a tokens dataset"),
    (["train", "empty", "--task", "dense"], 2, "Invalid value for '--task': 'dense' is not one of 'pretrain', "),
    (["train", "empty", "--task", "denoise", "--n-clips", "2"], 2, "--n-clips is for --task caption"),
    (["train", "--task", "encoder"], 1, "vbcli-work/frames is not a frames dataset"),
    (["train", "empty", "--task", "encoder", "--init", "minilm"], 2, "--init is not for --task encoder"),
    (["train", "empty", "--task", "classify", "--text", "good.csv"], 2, "--text is not for --task classify"),
    (["train", "empty", "--task", "denoise", "--text", "none.txt"], 1, "none.txt does not exist"),
    (["train", "empty", "--objective", "words"], 2, "--objective is for --task encoder"),
    (["train", "empty", "--text-input", "features"], 2, "--text-input features needs --init"),
    (["train", "empty", "--text-input", "features", "--task", "encoder"], 2, "--text-input is not for --task encoder"),
    (["encode", "videos", "--encoder", "empty"], 1, "there is no trained encoder in empty"),
    (["train", "--n-clips", "1"], 2, "--n-clips is for --task caption"),
    (["train", "empty", "--fusion", "both"], 2, "Invalid value for '--fusion'"),
    (["train", "empty", "--keep-init", "2"], 2, "Invalid value for '--keep-init'"),
    (["predict"], 1, "there is no checkpoint in vbcli-work/checkpoints/pretrain"),
    (["predict", "--future", "2", "--mask-clips", "1"], 2, "ask one at a time"),
    (["predict", "--text", "no mask", "--verbs", "broken.csv"], 2, "has no [MASK] to fill"),
    (["predict", "--text", "one [MASK]", "--objects", "broken.csv"], 2, "has 1 times [MASK]"),
    (["train", "empty", "--regime-weights", "inf", "0", "0"], 2, "--regime-weights is (inf, 0.0, 0.0)"),
    (["caption", "videos", "--length-penalty", "1000"], 2, "--length-penalty is 1000.0"),
    (["caption", "videos", "--length-penalty", "nan"], 2, "--length-penalty is nan"),
    (["build-vocab", "empty", "--seed", "-1"], 2, "Invalid value for '--seed'"),
    (["extract", "videos", "--ffmpeg", "/bin/true"], 1, "/bin/true is not an ffmpeg"),
    (["extract", "videos", "--ffmpeg", "/bin/echo"], 1, "/bin/echo is not an ffmpeg"),
    (["import", "empty", "out"], 1, "empty is not a model in Hugging Face's format"),
    (["import", "./nowhere", "out"], 1, "./nowhere does not exist"),
    (["import", "empty", "videos"], 1, "videos exists and is not an empty folder"),
    (["extract", "videos", "own"], 1, "own exists and is not an empty folder"),
    (["predict", "--verbs", "none.txt"], 1, "none.txt cannot be read: No such file or directory"),
    (["train", "empty", "--regime-weights", "0", "0", "0"], 2, "--regime-weights is (0.0, 0.0, 0.0)"),
    (["export", "empty", "out", "--to", "transformers"], 1, "there is no checkpoint in empty"),
    (["export", "empty", "out", "--to", "keras"], 2, "Invalid value for '--to'"),
    (["caption", "videos"], 1, "there is no checkpoint in vbcli-work/checkpoints/caption"),
    (["caption", "videos", "--checkpoint", "empty"], 1, "there is no checkpoint in empty"),
    (["caption", "videos", "--beams", "0"], 2, "--beams is 0"),
    (["caption", "videos", "--beams", "100000"], 2, "--beams is 100000"),
    (["evaluate"], 1, "has no captions"),
    (["evaluate", "nowhere", "good.csv"], 1, "nowhere does not exist"),
    (["evaluate", "good.csv", "nowhere.csv"], 1, "nowhere.csv does not exist"),
    (["evaluate", "broken.csv", "broken.csv"], 1, "broken.csv"),
    (["evaluate", "good.csv", "good.csv", "--split", "dev"], 1, "no video to score is in the split 'dev'"),
    (["evaluate", "good.csv", "good.csv", "--baselines", "videos"], 1, "videos is not a tokens dataset"),
    (["evaluate", "good.csv", "good.csv", "--also", "good.csv", "--also", "good.csv"], 1, "the same results twice"),
    (["evaluate", "good.csv", "good.csv", "--candidates", "5"], 2, "--candidates is not for captions"),
    (["evaluate", "empty", "good.csv"], 1, "empty is not a captions dataset"),
    (["evaluate", "good.csv", "videos"], 1, "videos is neither a dataset nor a caption file"),
    (["inspect", "videos"], 1, "videos is no dataset, shard, checkpoint, encoder, vocabulary or index"),
    (["paint"], 2, "No such command"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wrong")
    (folder / "empty").mkdir()
    (folder / "videos").mkdir()
    (folder / "videos" / "a.mp4").write_bytes(b"this is no video")
    frames = {"kind": "frames", "stage": "extract", "version": 2, "config": {}, "facts": {"fps": 2.0}, "parents": []}
    (folder / "stills").mkdir()
    (folder / "stills" / "manifest.json").write_text(json.dumps(frames))
    (folder / "own" / "videos").mkdir(parents=True)
    (folder / "own" / "videos" / "mine.mp4").write_bytes(b"a video of the user's own")
    (folder / "good.csv").write_text("video,caption,split\na.mp4,hello,test\n")
    (folder / "broken.csv").write_text("name,text\na.mp4,hello\n")
    return folder


@pytest.mark.parametrize(("arguments", "status", "sentence"), CASES, ids=lambda value: " ".join(value) if isinstance(value, list) else None)
def test_wrong_invocation(place: Path, arguments, status, sentence):
    ended = run(*arguments, cwd=place)
    assert ended.status == status, ended.stderr
    assert sentence in ended.stderr
    assert ended.stdout == ""
    first, empty, second = ended.stderr.strip().splitlines()
    assert first.startswith("error: ")
    assert empty == ""
    assert second.startswith("hint: ")
    assert {p.name for p in place.iterdir()} == {"empty", "videos", "stills", "own", "good.csv", "broken.csv"}


def test_a_broken_video_is_recorded_and_the_status_is_3(place: Path):
    # In a process of its own, as a user runs it.
    command = [sys.executable, "-m", "vbcli.cli.app", "extract", "videos", "frames"]
    ended = subprocess.run(command, cwd=place, capture_output=True, text=True)
    assert ended.returncode == 3
    assert "a.mp4" in ended.stderr
    assert '"video_id": "a.mp4"' in (place / "frames/_errors/shard-00000.jsonl").read_text()
