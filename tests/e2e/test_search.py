"""Search as a user runs it: train, index, search, evaluate, on a small demo world."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.e2e.commands import vbcli

N_VIDEOS = 16
ENCODER = ("--encoder", "timm:test_convnext/random")
SERIAL = ("--executor", "serial")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("search")
    vbcli("demo-data", "world", "--n-videos", str(N_VIDEOS), cwd=folder)
    vbcli("encode", "world/videos", "features", "--captions", "world/captions.csv", *ENCODER, *SERIAL, cwd=folder)
    vbcli("build-vocab", "features", "vocab", cwd=folder)
    vbcli("tokenize", "features", "tokens", "--vocab", "vocab", *SERIAL, cwd=folder)
    vbcli("train", "tokens", "model", "--task", "retrieve", "--max-steps", "30", cwd=folder)
    vbcli("index", "tokens", "index", "--checkpoint", "model", *SERIAL, cwd=folder)
    return folder


def found(place: Path, *arguments: str) -> list[dict]:
    return json.loads(vbcli("search", *arguments, "--json", cwd=place).stdout)["found"]


def test_a_video_is_most_like_itself(place: Path):
    video = sorted((place / "world" / "videos").glob("*.mp4"))[3]
    first, *others = found(place, "index", "--video", str(video), "--n", "5")
    assert first["video_id"] == video.name
    assert first["similarity"] == pytest.approx(1, abs=1e-4)
    assert len(others) == 4
    vbcli("search", "index", "a <red> ball", "--n", "3", "--page", "found.html", cwd=place)
    page = (place / "found.html").read_text()
    assert page.count("data:image/jpeg;base64,/9j/") == 3
    assert "<h1>a &lt;red&gt; ball</h1>" in page
    assert all(o["similarity"] <= first["similarity"] for o in others)


def test_segments_have_times_within_their_videos(place: Path):
    rows = found(place, "index", "a red ball falls", "--level", "segment", "--n", "200")
    assert len(rows) > N_VIDEOS
    assert [r["score"] for r in rows[:50]] == sorted((r["score"] for r in rows[:50]), reverse=True)
    assert all(0 <= r["start_s"] < r["end_s"] for r in rows)
    assert "a red ball" not in vbcli("search", "index", "a red ball falls", cwd=place).stderr


def test_an_index_follows_its_folder(place: Path, tmp_path: Path):
    shutil.copytree(place / "world" / "videos", tmp_path / "videos")
    names = sorted(p.name for p in (tmp_path / "videos").glob("*.mp4"))
    (tmp_path / "videos" / names[0]).unlink()
    vbcli("index", "videos", "index", "--checkpoint", place / "model", cwd=tmp_path)
    assert {r["video_id"] for r in found(tmp_path, "index", "a ball", "--n", "50")} == set(names[1:])
    shutil.copy(place / "world" / "videos" / names[0], tmp_path / "videos")
    (tmp_path / "videos" / names[1]).unlink()
    vbcli("index", "videos", "index", "--checkpoint", place / "model", cwd=tmp_path)
    assert {r["video_id"] for r in found(tmp_path, "index", "a ball", "--n", "50")} == {names[0], *names[2:]}
    # Made of the videos themselves, the vectors are those of the tokens.
    for mine, theirs in ((tmp_path, place),):
        other = {r["video_id"]: r["similarity"] for r in found(theirs, "index", "a ball", "--n", "50", "--rerank", "0")}
        for row in found(mine, "index", "a ball", "--n", "50", "--rerank", "0"):
            assert row["similarity"] == pytest.approx(other[row["video_id"]], abs=1e-4)


def test_recall_and_ranks_are_printed_beside_chance(place: Path):
    scores = json.loads(vbcli("evaluate", "index", "tokens", "--split", "train", "--json", cwd=place).stdout)["scores"]
    assert list(scores)[:2] == ["caption to video", "video to caption"]
    n = len({r["video_id"] for r in found(place, "index", "a ball", "--n", "50")})
    assert scores["caption to video, chance"]["R@1"] >= 1 / n
    assert all(0 <= s["R@1"] <= s["R@5"] <= s["R@10"] <= 1 and s["median rank"] >= 1 for s in scores.values())
    assert "median rank" in vbcli("evaluate", "index", "tokens", cwd=place).stdout


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("search", "tokens", "a ball"), 1, "tokens is not an index"),
        (("search", "index"), 2, "name what to look for"),
        (("search", "index", " "), 2, "empty sentence"),
        (("search", "index", "--video", "nowhere.mp4"), 1, "nowhere.mp4 does not exist"),
        (("index", "tokens", "out", "--checkpoint", "vocab"), 1, "vocab is not a checkpoint"),
        (("index", "features", "out", "--checkpoint", "model"), 1, "is a features dataset"),
        (("train", "tokens", "out", "--task", "retrieve", "--accumulation", "2"), 2, "--accumulation is 2"),
    ],
)
def test_what_cannot_be_searched_is_refused(place: Path, arguments: tuple[str, ...], status: int, message: str):
    assert message in " ".join(vbcli(*arguments, cwd=place, status=status).stderr.split())
    assert not (place / "out").exists()
