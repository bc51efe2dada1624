"""Guesses of words and clips as a user asks for them: of tokens, of a folder of videos, and of one video."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.conftest import MakeVideo
from tests.e2e.commands import vbcli

N_VIDEOS = 8
SERIAL = ("--executor", "serial")
MODEL = ("--checkpoint", "model")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, make_video: MakeVideo) -> Path:
    """A pre-trained model; what made it is gone, but for the videos and their tokens."""
    folder = tmp_path_factory.mktemp("predict")
    lines = ["video,caption,split"]
    for i in range(N_VIDEOS):
        make_video(folder / "videos" / f"{i}.mp4", hue=40 * i, duration_s=5)
        lines.append(f"{i}.mp4,colour {'red' if i % 2 else 'blue'} is seen,{'val' if i > 5 else 'train'}")
    (folder / "captions.csv").write_text("\n".join(lines) + "\n")
    encoder = ("--encoder", "timm:test_convnext/random", "--captions", "captions.csv")
    vbcli("encode", "videos", "features", *encoder, *SERIAL, cwd=folder)
    vbcli("build-vocab", "features", "vocab", "--branching", "3", "--levels", "1", "--codebooks", "2", cwd=folder)
    vbcli("tokenize", "features", "tokens", "--vocab", "vocab", *SERIAL, cwd=folder)
    vbcli("train", "tokens", "model", "--task", "pretrain", "--max-steps", "10", cwd=folder)
    shutil.rmtree(folder / "features")
    shutil.rmtree(folder / "vocab")
    return folder


def guesses(place: Path, source: str | Path, *question: str) -> dict[str, list[list[tuple[str, float]]]]:
    """The guesses of each mask of each video, with their probabilities."""
    said = json.loads(vbcli("predict", source, *MODEL, *question, *SERIAL, "--json", cwd=place).stdout)
    return {v["video_id"]: [[(g["answer"], g["probability"]) for g in mask] for mask in v["masks"]] for v in said["videos"]}


@pytest.mark.parametrize("question", [("--future", "3"), ("--mask-clips", "1"), ("--text", "colour [MASK] is seen")], ids=lambda q: q[0])
def test_videos_and_their_tokens_get_the_same_guesses(place: Path, question: tuple[str, ...]):
    before = {path.name for path in place.iterdir()}
    of_tokens, of_videos = guesses(place, "tokens", *question), guesses(place, "videos", *question)
    assert list(of_videos) == list(of_tokens) == [f"{i}.mp4" for i in range(N_VIDEOS)]
    of_one = guesses(place, "videos/3.mp4", *question)
    assert list(of_one) == ["3.mp4"]
    for video_id, masks in [*of_videos.items(), *of_one.items()]:
        assert len(masks) == (3 if question[0] == "--future" else 1)
        for mask, expected in zip(masks, of_tokens[video_id], strict=True):
            assert [p for _, p in mask] == pytest.approx([p for _, p in expected], abs=1e-5)
    # Nothing is kept of what was made on the way.
    assert {path.name for path in place.iterdir()} == before


def test_the_page_shows_the_videos_of_a_folder(place: Path, tmp_path: Path):
    said = vbcli("predict", "videos", *MODEL, "--future", "1", "--n-best", "1", "--page", tmp_path / "p.html", *SERIAL, "--json", cwd=place)
    assert json.loads(said.stdout)["failures"] == []
    # The last frame of each, and the frame of the vocabulary that its guess looks like.
    assert (tmp_path / "p.html").read_text().count("data:image/jpeg;base64,/9j/") == 2 * N_VIDEOS


def test_videos_that_cannot_be_read_are_told(place: Path, tmp_path: Path):
    (tmp_path / "some").mkdir()
    shutil.copy(place / "videos" / "1.mp4", tmp_path / "some")
    (tmp_path / "some" / "broken.mp4").write_text("no video")
    ask = (*MODEL, "--future", "1", *SERIAL)
    said = vbcli("predict", tmp_path / "some", *ask, "--json", cwd=place, status=3)
    told = json.loads(said.stdout)
    assert ([v["video_id"] for v in told["videos"]], [f["video_id"] for f in told["failures"]]) == (["1.mp4"], ["broken.mp4"])
    assert "broken.mp4" in said.stderr
    alone = vbcli("predict", tmp_path / "some" / "broken.mp4", *ask, cwd=place, status=1)
    assert "broken.mp4 cannot be opened" in alone.stderr
    assert "nowhere does not exist" in vbcli("predict", "nowhere", *ask, cwd=place, status=1).stderr
    assert "--split is for a tokens dataset" in vbcli("predict", "videos", *ask, "--split", "val", cwd=place, status=2).stderr
