"""Search by the text tower of an open_clip encoder, against open_clip itself, on a folder in its format with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file

from tests.e2e.commands import rows, vbcli

MODEL = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}
SERIAL = ("--executor", "serial")
ENCODER = ("--encoder", "open_clip:ViT-B-32/clip")
ASKED = "a red ball falls"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tower")
    (folder / "clip").mkdir()
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "shortest"}
    (folder / "clip" / "open_clip_config.json").write_text(json.dumps({"model_cfg": MODEL, "preprocess_cfg": preprocess}))
    torch.manual_seed(5)
    model: Any = open_clip.CLIP(**MODEL)
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()}, str(folder / "clip" / "open_clip_model.safetensors")
    )
    vbcli("demo-data", "world", "--n-videos", "12", cwd=folder)
    vbcli("encode", "world/videos", "features", "--captions", "world/captions.csv", *ENCODER, "--pool", "mean", *SERIAL, cwd=folder)
    vbcli("index", "features", "index", *SERIAL, cwd=folder)
    return folder


def found(place: Path, *arguments: str) -> list[dict]:
    return json.loads(vbcli("search", *arguments, "--json", cwd=place).stdout)["found"]


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_similarities_are_those_of_open_clip(place: Path):
    name = f"local-dir:{place / 'clip'}"
    model = open_clip.create_model(name).eval()
    with torch.inference_mode():
        text = unit(model.encode_text(open_clip.get_tokenizer(name)([ASKED])).numpy()[0])  # type: ignore[operator]
    clips: dict[str, list[np.ndarray]] = {}
    for video, feature in rows(f"select video_id, feature from '{place}/features/shard-*.parquet' order by video_id, clip_index"):
        clips.setdefault(video, []).append(unit(np.array(feature, np.float32)))
    expected = {video: float(unit(np.mean(of_video, axis=0)) @ text) for video, of_video in clips.items()}
    matches = found(place, "index", ASKED, "--n", "12")
    assert [m["video_id"] for m in matches] == sorted(expected, key=lambda video: -expected[video])
    for match in matches:
        assert match["similarity"] == pytest.approx(expected[match["video_id"]], abs=1e-4)


def test_a_folder_of_videos_gives_the_same_index_and_parts_have_times(place: Path):
    vbcli("index", "world/videos", "of-videos", *ENCODER, *SERIAL, cwd=place)
    for level in ("video", "segment"):
        mine, other = (found(place, index, ASKED, "--n", "50", "--level", level) for index in ("of-videos", "index"))
        assert [(m["video_id"], m["start_s"], m["end_s"]) for m in mine] == [(m["video_id"], m["start_s"], m["end_s"]) for m in other]
        assert [m["similarity"] for m in mine] == pytest.approx([m["similarity"] for m in other], abs=1e-3)
    video = sorted((place / "world" / "videos").glob("*.mp4"))[2]
    first, *_ = found(place, "index", "--video", str(video))
    assert (first["video_id"], first["similarity"]) == (video.name, pytest.approx(1, abs=1e-3))


def test_it_is_scored_as_any_index(place: Path):
    scores = json.loads(vbcli("evaluate", "index", "features", "--split", "train", "--json", cwd=place).stdout)["scores"]
    assert list(scores) == [f"{way}, {how}" for how in ("vectors alone", "chance") for way in ("caption to video", "video to caption")]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("index", "world/videos", "out", "--encoder", "timm:test_convnext/random"), 1, "reads no text"),
        (("index", "world/videos", "out", *ENCODER, "--checkpoint", "x"), 2, "give --checkpoint or --encoder, not both"),
        (("index", "grid", "out"), 1, "pooled by 'grid3'"),
        (("index", "nowhere", "out"), 1, "nowhere does not exist"),
        (("index", "features", "out", "--encoder", "open_clip:ViT-S-32-alt/random"), 1, "is not of the encoder that is asked for"),
    ],
)
def test_what_no_text_can_be_compared_with_is_refused(place: Path, arguments: tuple[str, ...], status: int, message: str):
    if "grid" in arguments:
        vbcli("encode", "world/videos", "grid", *ENCODER, "--pool", "grid3", *SERIAL, cwd=place)
    assert message in " ".join(vbcli(*arguments, cwd=place, status=status).stderr.split())
    assert not (place / "out").exists()


def test_other_weights_are_noticed(place: Path, tmp_path: Path):
    path = place / "index" / "config.json"
    values = json.loads(path.read_text())
    values["encoder"]["weights_sha256"] = "0" * 64
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "vectors").symlink_to(place / "index" / "vectors")
    (tmp_path / "index" / "config.json").write_text(json.dumps(values))
    assert "are not those that the features were made with" in vbcli("search", tmp_path / "index", ASKED, cwd=place, status=1).stderr
