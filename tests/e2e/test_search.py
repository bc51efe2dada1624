"""Search as a user runs it: train, index, search, evaluate, on a small demo world."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.conftest import run_ffmpeg
from tests.e2e.commands import vbcli
from vbcli.editing.plan import Span
from vbcli.media.probe import frame_times

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
    told = json.loads(vbcli("inspect", "index", "--json", cwd=tmp_path).stdout)
    assert (told["index"], told["videos"], told["removed"]) == ("index", len(names) - 1, [names[1]])
    assert told["segments"] == len(found(tmp_path, "index", "a ball", "--level", "segment", "--n", "500"))
    assert told["model_sha256"] == json.loads(vbcli("inspect", place / "model", "--json", cwd=tmp_path).stdout)["model_sha256"]
    assert [link["stage"] for link in told["chain"]][-1] == "probe"
    said = vbcli("index", "videos", "index", "--checkpoint", place / "model", cwd=tmp_path).stderr
    assert f"1 videos that are gone from videos are found no longer, first {names[1]}" in " ".join(said.split())
    refused = vbcli("index", f"videos/{names[2]}", "index", "--checkpoint", place / "model", cwd=tmp_path, status=1).stderr
    assert f"index is of a folder of videos, not of videos/{names[2]} alone" in " ".join(refused.split())
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


def test_a_query_may_have_any_name(place: Path, tmp_path: Path):
    source = min((place / "world" / "videos").glob("*.mp4"))
    shutil.copy(source, tmp_path / "b\udcff.mp4")
    asked = ("--video", "b\udcff.mp4", "--page", tmp_path / "found.html")
    assert found(tmp_path, str(place / "index"), *map(str, asked))[0]["video_id"] == source.name
    assert "<h1>b%FF.mp4</h1>" in (tmp_path / "found.html").read_text()


def test_a_query_that_cannot_be_looked_at_is_named(place: Path, tmp_path: Path, ffmpeg_exe: str):
    run_ffmpeg(ffmpeg_exe, "-f", "lavfi", "-i", "sine=duration=1", str(tmp_path / "sound.mp4"))
    said = vbcli("search", place / "index", "--video", "sound.mp4", cwd=tmp_path, status=1).stderr
    assert " ".join(said.split()).startswith(f"error: {tmp_path.resolve()}/sound.mp4 has no video stream hint: ")


@pytest.mark.parametrize("name", ["plain.mp4", "film.dat", ".hidden.mp4", "b\udcff.mp4", "b.mp\udcfe", "100%41.MKV"])
def test_an_edit_looks_at_videos_and_their_subtitles_whatever_their_names(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    source = min((place / "world" / "videos").glob("*.mp4"))
    shutil.copy(source, tmp_path / name)
    (tmp_path / f"{Path(name).stem}.en.srt").write_text(
        "1\n00:00:00,000 --> 00:00:03,000\nOne.\n\n2\n00:00:03,000 --> 00:00:06,000\nTwo.\n"
    )

    def second_part(checkpoint: object, videos: list, what: object) -> list[Span]:
        del checkpoint, what
        assert [len(video.parts) for video in videos] == [2]
        return [Span(0, videos[0].parts[1].start_s, videos[0].parts[1].end_s, 0.75)]

    monkeypatch.setattr("vbcli.editing.apply.find_parts", second_part)
    asked = ("--instruction", "keep a ball", "--segments", "transcript", "--checkpoint", place / "model", "--json", *SERIAL)
    (said,) = json.loads(vbcli("edit", name, *asked, cwd=tmp_path).stdout)["decisions"]
    # The second cue, to the end of the video.
    assert (said["start_s"], said["end_s"], said["score"]) == (pytest.approx(3), pytest.approx(frame_times(str(source))[1]), 0.75)
    assert said["path"].encode()
    assert (tmp_path / "edited.mp4").exists()


def test_what_cannot_be_looked_at_for_an_edit_is_named(place: Path, tmp_path: Path):
    whole = min((place / "world" / "videos").glob("*.mp4")).read_bytes()
    shutil.copy(min((place / "world" / "videos").glob("*.mp4")), tmp_path / "fine.mp4")
    # Its list of frames is whole, and no frame is.
    start, end = whole.index(b"mdat") + 4, whole.rindex(b"moov")
    broken = whole[:start] + bytes(end - start - 4) + whole[end - 4 :] if end > start else whole[:start] + bytes(len(whole) - start)
    (tmp_path / "broken\udcff.mp4").write_bytes(broken)
    (tmp_path / "fine.srt").write_text("nothing")
    asked = ("--instruction", "keep a ball", "--checkpoint", place / "model", *SERIAL)
    said = " ".join(vbcli("edit", "fine.mp4", "broken\udcff.mp4", *asked, cwd=tmp_path, status=1).stderr.split())
    assert "error: broken%FF.mp4 " in said
    assert "edit: fine.srt holds no readable subtitle" in said
    assert "/videos" not in said
    assert sorted(os.listdir(tmp_path)) == ["broken\udcff.mp4", "fine.mp4", "fine.srt"]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("search", "tokens", "a ball"), 1, "tokens is not an index"),
        (("search", "index"), 2, "name what to look for"),
        (("search", "index", " "), 2, "empty sentence"),
        (("search", "index", "--video", "nowhere.mp4"), 1, "nowhere.mp4 does not exist"),
        (("search", "index", "--video", "world/videos"), 2, "--video is world/videos, a folder"),
        (("index", "tokens", "out", "--checkpoint", "vocab"), 1, "vocab is not a checkpoint"),
        (("index", "features", "out", "--checkpoint", "model"), 1, "is a features dataset"),
        (("train", "tokens", "out", "--task", "retrieve", "--accumulation", "2"), 2, "--accumulation is 2"),
    ],
)
def test_what_cannot_be_searched_is_refused(place: Path, arguments: tuple[str, ...], status: int, message: str):
    assert message in " ".join(vbcli(*arguments, cwd=place, status=status).stderr.split())
    assert not (place / "out").exists()
