"""Videos in tar files: what is in them against the files, the chain over them, and tar files that are none."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest

from tests.e2e.commands import rows, vbcli
from vbcli import shards
from vbcli.curation.exports import export_dataset
from vbcli.errors import VbcliError
from vbcli.pipeline import RunOptions, extract_videos
from vbcli.stages.extract import Extract
from vbcli.tars import find_in_tar, read_tar

SERIAL = RunOptions("serial")


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


@pytest.fixture
def folder(tmp_path: Path, video_folder: Path) -> Path:
    """As img2dataset's family writes them, beside a video of its own."""
    (tmp_path / "data" / "train").mkdir(parents=True)
    with tarfile.open(tmp_path / "data" / "train" / "00000.tar", "w") as tar:
        add(tar, "000000000.mp4", (video_folder / "a.mp4").read_bytes())
        add(tar, "000000000.txt", b"a picture of bars\n")
        add(tar, "000000000.json", json.dumps({"key": "000000000", "caption": "bars, as JSON has it", "status": "success"}).encode())
        add(tar, "000000001.mkv", (video_folder / "b.mkv").read_bytes())
        add(tar, "000000001.txt", "d\u00e9j\u00e0 vu".encode())
        add(tar, "000000001.srt", b"1\n00:00:00,000 --> 00:00:01,000\nHello.\n")
        add(tar, "000000002.mp4", b"no video")
        add(tar, "000000003.jpg", b"no video, by its name")
        described = {"captions": [{"text": "first", "start_s": 0, "end_s": 1}, {"text": "all of it"}], "labels": ["x", "y"], "split": "val"}
        asked = {"questions": [{"question": "what?", "answers": ["bars", "lines"], "candidates": ["bars", "dots"]}]}
        add(tar, "sub/000000004.mp4", (video_folder / "c.mp4").read_bytes())
        add(
            tar,
            "sub/000000004.json",
            json.dumps({**described, **asked, "transcript": [{"start_s": 0, "end_s": 1, "text": "Hi."}]}).encode(),
        )
    shutil.copy(video_folder / "more" / "d.mp4", tmp_path / "data" / "d.mp4")
    return tmp_path / "data"


def test_videos_are_read_where_they_lie(folder: Path, video_folder: Path, tmp_path: Path) -> None:
    report = extract_videos(folder, tmp_path / "frames", Extract(fps=4, size_px=32), options=SERIAL)
    extract_videos(video_folder, tmp_path / "own", Extract(fps=4, size_px=32), options=SERIAL)
    of_tar = {
        "train/00000/000000000.mp4": "a.mp4",
        "train/00000/000000001.mkv": "b.mkv",
        "train/00000/sub/000000004.mp4": "c.mp4",
        "d.mp4": "more/d.mp4",
    }
    for name, own in of_tar.items():
        mine, theirs = (
            [(row["pts_s"], row["image"]["bytes"]) for row in shards.read_rows(tmp_path / place) if row["video_id"] == video_id]
            for place, video_id in (("frames", name), ("own", own))
        )
        assert mine == theirs != []
    assert report.n_failed == 1
    (failure,) = shards.read_failures(tmp_path / "frames")
    assert failure.video_id == "train/00000/000000002.mp4"
    assert extract_videos(folder, tmp_path / "frames", Extract(fps=4, size_px=32), options=SERIAL).n_done == 0


def test_what_is_said_beside_them_is_their_text(folder: Path, tmp_path: Path) -> None:
    extract_videos(folder, tmp_path / "frames", Extract(size_px=32), options=SERIAL)
    known = {row["video_id"]: row for row in shards.read_rows(tmp_path / "frames" / "videos")}
    first, second = known["train/00000/000000000.mp4"], known["train/00000/000000001.mkv"]
    assert [c["text"] for c in first["captions"]] == ["bars, as JSON has it"]
    assert [c["text"] for c in second["captions"]] == ["d\u00e9j\u00e0 vu"]
    assert second["transcript"] == [{"start_s": 0.0, "end_s": 1.0, "text": "Hello."}]
    rich = known["train/00000/sub/000000004.mp4"]
    assert rich["captions"] == [{"text": "first", "start_s": 0.0, "end_s": 1.0}, {"text": "all of it", "start_s": None, "end_s": None}]
    assert (rich["labels"], rich["split"], rich["transcript"][0]["text"]) == (["x", "y"], "val", "Hi.")
    assert rich["questions"] == [{"question": "what?", "answers": ["bars", "lines"], "candidates": ["bars", "dots"]}]
    # A caption file says more than the tar.
    (tmp_path / "captions.csv").write_text("video,caption\n000000001.mkv,from the table\n")
    extract_videos(folder, tmp_path / "frames", Extract(size_px=32), [tmp_path / "captions.csv"], SERIAL)
    extract_videos(folder, tmp_path / "frames", Extract(size_px=32), options=SERIAL)
    known = {row["video_id"]: row for row in shards.read_rows(tmp_path / "frames" / "videos")}
    assert [c["text"] for c in known["train/00000/000000001.mkv"]["captions"]] == ["from the table"]
    assert known["train/00000/sub/000000004.mp4"]["labels"] == ["x", "y"]


def test_what_was_exported_is_read_back(video_folder: Path, tmp_path: Path) -> None:
    extract_videos(video_folder, tmp_path / "frames", Extract(fps=4, size_px=32), [video_folder / "captions.csv"], SERIAL)
    export_dataset(tmp_path / "frames" / "videos", tmp_path / "wds", "webdataset")
    extract_videos(tmp_path / "wds", tmp_path / "again", Extract(fps=4, size_px=32), options=SERIAL)
    names = ("captions", "labels", "questions", "split", "transcript", "duration_s", "codec")
    before, after = (
        sorted(([row[n] for n in names] for row in shards.read_rows(tmp_path / place / "videos")), key=str) for place in ("frames", "again")
    )
    assert before == after
    pictures = [sorted(row["image"]["bytes"] for row in shards.read_rows(tmp_path / place)) for place in ("frames", "again")]
    assert pictures[0] == pictures[1]


def test_the_rest_of_the_program_takes_them_too(folder: Path, tmp_path: Path) -> None:
    vbcli("encode", folder, "features", "--encoder", "timm:test_convnext/random", "--pool", "mean", cwd=tmp_path, status=3)
    assert rows(f"select count(distinct video_id) from '{tmp_path}/features/shard-*.parquet'") == [(4,)]
    tar = next(folder.rglob("*.tar"))
    vbcli("edit", folder / "d.mp4", "--instruction", "drop the first second", "--out", "cut.mp4", cwd=tmp_path)
    vbcli("extract", tar, "of-one", cwd=tmp_path, status=3)
    assert rows(f"select count(distinct video_id) from '{tmp_path}/of-one/shard-*.parquet'") == [(3,)]


def test_what_is_no_tar_is_named_and_links_in_one_are_passed_over(tmp_path: Path, video_folder: Path) -> None:
    (tmp_path / "broken.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(VbcliError, match=r"broken\.tar cannot be read as a tar file"):
        read_tar(tmp_path / "broken.tar")
    with tarfile.open(tmp_path / "links.tar", "w") as tar:
        link = tarfile.TarInfo("secret.mp4")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        add(tar, "a.mp4", (video_folder / "a.mp4").read_bytes())
    assert [video.name for video in read_tar(tmp_path / "links.tar")] == ["a.mp4"]


def test_videos_whose_names_have_dots_are_all_there(tmp_path: Path) -> None:
    path = tmp_path / "parts.tar"
    with tarfile.open(path, "w") as tar:
        for name in ("film.000.mp4", "film.001.mp4", "film.webm"):
            add(tar, name, name.encode())
        add(tar, "film.txt", b"of all of them")
        add(tar, "film.001.TXT", b"its own")
    found = [(video.name, video.text, find_in_tar(path, video.offset) == video) for video in read_tar(path)]
    assert found == [("film.000.mp4", "of all of them", True), ("film.001.mp4", "its own", True), ("film.webm", "of all of them", True)]
