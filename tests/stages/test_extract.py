"""Frame extraction: rows against the sampling rule, pictures against the decoder, options that make no sense."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from tests.conftest import write_frames
from vbcli import shards
from vbcli.errors import ItemFailure, VbcliError
from vbcli.media.decode import Decoder, MediaOptions
from vbcli.media.filters import Geometry
from vbcli.media.limits import Limits
from vbcli.media.program import find_ffmpeg
from vbcli.media.sampling import AtRate
from vbcli.pipeline import RunOptions, extract_videos
from vbcli.schemas import FRAMES
from vbcli.stages.extract import Extract

MakeVideo = Callable[..., Path]
SERIAL = RunOptions("serial")


def test_rows_hold_the_sampled_frames_of_each_video_in_order(video_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "frames"
    report = extract_videos(video_folder, out, Extract(fps=4, size_px=40), [video_folder / "captions.csv"], SERIAL)
    rows = shards.read_shard(out / "shard-00000.parquet").to_pylist()
    assert report.n_rows == len(rows) == 4 + 6 + 8 + 10
    for name, duration_s in (("a.mp4", 1), ("b.mkv", 1.5), ("c.mp4", 2), ("more/d.mp4", 2.5)):
        mine = [row for row in rows if row["video_id"] == name]
        # Ten frames a second: the first one at or after k/4 s.
        assert [row["pts_s"] for row in mine] == pytest.approx([np.ceil(k / 4 * 10 - 1e-9) / 10 for k in range(int(duration_s * 4))])
        assert [row["frame_index"] for row in mine] == list(range(len(mine)))
        path = str(video_folder / name)
        images = [x for _, x in Decoder(find_ffmpeg()).images(path, AtRate(4), Geometry(40))]
        for row, image in zip(mine, images, strict=True):
            picture = Image.open(io.BytesIO(row["image"]["bytes"]))
            assert picture.format == "JPEG"
            assert picture.size == (row["width_px"], row["height_px"]) == (54, 40)
            assert np.abs(np.asarray(picture).mean((0, 1)) - image.mean((0, 1))).max() < 8
    videos = {row["video_id"]: row for row in shards.read_shard(out / "videos" / "shard-00000.parquet").to_pylist()}
    assert videos["b.mkv"]["split"] == "val"
    manifest = shards.read_manifest(out, "frames")
    assert (manifest.facts, [p["stage"] for p in manifest.parents]) == ({"fps": 4}, ["probe"])


def showing(time_ms: int) -> np.ndarray:
    """A picture of the bits of a time, lowest first, as blocks from left to right, white for one."""
    bits = np.array([time_ms >> i & 1 for i in range(16)], np.uint8)
    return np.ascontiguousarray(np.broadcast_to(np.repeat(bits * 255, 16)[None, :, None], (32, 256, 3)))


@pytest.mark.parametrize(
    "extract", [Extract(fps=2, size_px=32), Extract(fps=1000, size_px=32), Extract(mode="n-frames", n_frames=8, size_px=32)]
)
def test_the_time_of_a_frame_is_the_one_it_shows(tmp_path: Path, extract: Extract) -> None:
    steps_ms = [33, 33, 7, 100, 41, 33, 333, 33, 15, 900, 33, 40] * 6
    (tmp_path / "videos").mkdir()
    times_ms = [sum(steps_ms[:i]) for i in range(len(steps_ms))]
    for suffix in ("mp4", "mkv"):
        write_frames(tmp_path / "videos" / f"a.{suffix}", "libx264", [(time_ms, showing(time_ms)) for time_ms in times_ms])
    extract_videos(tmp_path / "videos", tmp_path / "frames", extract, options=SERIAL)
    rows = shards.read_shard(tmp_path / "frames" / "shard-00000.parquet").to_pylist()
    assert len(rows) >= 2 * 8
    for row in rows:
        picture = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])).convert("L"))
        seen_ms = sum(1 << i for i in range(16) if picture[8:24, 16 * i + 4 : 16 * i + 12].mean() > 128)
        assert row["pts_s"] == pytest.approx(seen_ms / 1000, abs=1e-6)


def test_datasets_decodes_the_pictures(video_folder: Path, tmp_path: Path) -> None:
    extract_videos(video_folder / "a.mp4", tmp_path / "frames", Extract(size_px=32, fit="crop"), options=SERIAL)
    shard = tmp_path / "frames" / "shard-00000.parquet"
    loaded = datasets.Dataset.from_parquet(str(shard), cache_dir=str(tmp_path / "cache"))
    assert isinstance(loaded, datasets.Dataset)
    assert [row["image"].size for row in loaded] == [(32, 32)] * 2  # type: ignore[index]
    assert shards.read_shard(shard).schema.metadata[b"huggingface"] == (FRAMES.metadata or {})[b"huggingface"]
    assert set(json.loads((FRAMES.metadata or {})[b"huggingface"])["info"]["features"]) == set(FRAMES.names)


def test_a_video_that_cannot_be_decoded_fails_alone(video_folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "videos"
    shutil.copytree(video_folder, root)
    (root / "b.mkv").write_bytes(b"no video at all")
    (root / "c.mp4").unlink()
    (root / "c.mp4").symlink_to(tmp_path / "not fetched")
    report = extract_videos(root, tmp_path / "frames", Extract(size_px=32), options=SERIAL)
    assert (report.n_failed, report.exit_status, report.n_rows) == (2, 3, 2 + 5)
    failures = shards.read_failures(tmp_path / "frames")
    assert [(f.video_id, f.stage, f.error) for f in failures] == [("b.mkv", "extract", "MediaError"), ("c.mp4", "extract", "MediaError")]
    assert all(str(root / f.video_id) in f.message for f in failures)
    assert isinstance(failures[0], ItemFailure)


def test_a_moved_folder_and_new_text_do_not_make_the_frames_again(video_folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "videos"
    shutil.copytree(video_folder, root)
    extract_videos(root, tmp_path / "frames", Extract(size_px=32), options=SERIAL)
    before = (tmp_path / "frames" / "shard-00000.parquet").stat()
    moved = root.rename(tmp_path / "moved")
    notes: list[str] = []
    options = RunOptions("serial", on_note=notes.append)
    report = extract_videos(moved, tmp_path / "frames", Extract(size_px=32), [moved / "captions.csv"], options)
    assert (report.n_done, report.n_skipped, notes) == (0, 1, [])
    after = (tmp_path / "frames" / "shard-00000.parquet").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    videos = shards.read_shard(tmp_path / "frames" / "videos" / "shard-00000.parquet").to_pylist()
    assert [len(row["captions"]) for row in videos] == [1, 1, 0, 1]
    assert videos[0]["path"] == str(moved / "a.mp4")
    (tmp_path / "frames" / "shard-00000.parquet").unlink()
    assert extract_videos(moved, tmp_path / "frames", Extract(size_px=32), options=SERIAL).exit_status == 0


def test_another_ffmpeg_is_no_other_configuration(video_folder: Path, tmp_path: Path) -> None:
    """But frames of another size are, and are refused before any video is read."""
    extract_videos(video_folder / "a.mp4", tmp_path / "frames", Extract(size_px=32), options=SERIAL)
    again = extract_videos(
        video_folder / "a.mp4", tmp_path / "frames", Extract(size_px=32, media=MediaOptions(find_ffmpeg())), options=SERIAL
    )
    assert again.n_skipped == 1
    other = tmp_path / "other"
    other.write_text(f'#!/bin/sh\n[ "$1" = -version ] && echo ffmpeg version 0 && exit\nexec "{find_ffmpeg()}" "$@"\n')
    other.chmod(0o755)
    notes: list[str] = []
    stage, options = (
        Extract(size_px=32, media=MediaOptions(str(other))),
        RunOptions("serial", media=MediaOptions(str(other)), on_note=notes.append),
    )
    assert extract_videos(video_folder / "a.mp4", tmp_path / "frames", stage, options=options).n_skipped == 1
    assert "goes on with ffmpeg version 0" in notes[0]
    before = {p: p.read_bytes() for p in (tmp_path / "frames").rglob("*") if p.is_file()}
    with pytest.raises(VbcliError, match="was made with size_px = 32, not 48"):
        extract_videos(video_folder / "a.mp4", tmp_path / "frames", Extract(size_px=48), options=SERIAL)
    assert {p: p.read_bytes() for p in (tmp_path / "frames").rglob("*") if p.is_file()} == before


def test_frames_that_shots_are_found_by_are_not_counted(video_folder: Path, tmp_path: Path) -> None:
    """Ten frames are looked at, two are taken."""
    media = MediaOptions(limits=Limits(max_frames=2))
    stage = Extract(size_px=32, detect_shots="content", media=media)
    report = extract_videos(video_folder / "a.mp4", tmp_path / "frames", stage, options=replace(SERIAL, media=media))
    assert (report.n_failed, report.n_rows) == (0, 2)


def test_more_frames_than_a_shard_holds_of_a_video_cost_that_video(
    tmp_path: Path, make_video: MakeVideo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two gigabytes Arrow makes no one piece: an error of its own ended the run."""
    for name, duration_s in (("long.mp4", 3), ("short.mp4", 0.5)):
        make_video(tmp_path / "videos" / name, duration_s=duration_s)
    whole = extract_videos(tmp_path / "videos", tmp_path / "whole", Extract(fps=10, size_px=32), options=SERIAL)
    sizes = [len(row["image"]["bytes"]) for row in shards.read_rows(tmp_path / "whole")]
    assert (whole.n_failed, len(sizes)) == (0, 35)
    for most, n_failed in ((sum(sizes[:30]), 0), (sum(sizes[:30]) - 1, 1)):
        monkeypatch.setattr("vbcli.stages.extract.MAX_BYTES", most)
        report = extract_videos(tmp_path / "videos", tmp_path / f"{n_failed}", Extract(fps=10, size_px=32), options=SERIAL)
        assert (report.n_failed, report.n_rows) == (n_failed, 35 - 30 * n_failed)
    (failure,) = shards.read_failures(tmp_path / "1")
    assert failure.video_id == "long.mp4"
    assert "of frames that a shard holds of a video (--fps, --size)" in failure.message


def test_one_frame_of_each_shot_is_taken_where_the_container_tells_no_times(tmp_path: Path, make_video: MakeVideo) -> None:
    path = make_video(tmp_path / "a.h264", fps=10, duration_s=2, arguments=["-c:v", "libx264", "-bf", "2"])
    report = extract_videos(path, tmp_path / "frames", Extract(size_px=32, mode="shots", detect_shots="content"), options=SERIAL)
    assert report.n_failed == 0
    (row,) = shards.read_rows(tmp_path / "frames", ["pts_s"])
    assert row["pts_s"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fps": 0}, "--fps 0 is not above 0"),
        ({"fps": -1}, "--fps -1"),
        ({"fps": float("nan")}, "--fps nan"),
        ({"fps": float("inf")}, "--fps inf"),
        ({"size_px": 0}, "--size 0"),
        ({"size_px": 33}, "--size 33 is not an even number"),
        ({"quality": 1}, "--quality 1 "),
        ({"quality": 32}, "--quality 32 "),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(VbcliError, match=message):
        Extract(**options)  # type: ignore[arg-type]


def test_a_video_that_failed_and_is_gone_fails_no_longer(video_folder: Path, tmp_path: Path) -> None:
    videos, frames = tmp_path / "videos", tmp_path / "frames"
    shutil.copytree(video_folder, videos)
    (videos / "bad.mp4").write_bytes(b"no video")
    (videos / "worse.mp4").write_bytes(b"no video")
    assert extract_videos(videos, frames, Extract(size_px=32), options=SERIAL).n_failed == 2
    (videos / "bad.mp4").unlink()
    again = extract_videos(videos, frames, Extract(size_px=32), options=SERIAL)
    assert (again.n_done, again.n_failed, again.n_waiting) == (0, 0, 1)
    retried = extract_videos(videos, frames, Extract(size_px=32), options=replace(SERIAL, is_retry=True))
    assert (retried.n_done, retried.n_failed, retried.n_rows) == (1, 1, again.n_rows)
    assert [failure.video_id for failure in shards.read_failures(frames)] == ["worse.mp4"]
    (videos / "worse.mp4").unlink()
    assert extract_videos(videos, frames, Extract(size_px=32), options=SERIAL).exit_status == 0


def test_what_was_made_of_a_video_that_is_gone_stays(video_folder: Path, tmp_path: Path) -> None:
    """Also when its shard is made again because another video of it changed; one that never gave anything is no failure any more."""
    root, out = tmp_path / "videos", tmp_path / "frames"
    shutil.copytree(video_folder, root)
    (root / "e.mp4").write_bytes(b"this is no video")
    stage = Extract(fps=4, size_px=32)
    extract_videos(root, out, stage, options=SERIAL)
    before = shards.read_shard(out / shards.shard_name(0))
    (root / "b.mkv").unlink()
    (root / "e.mp4").unlink()
    shutil.copy(root / "c.mp4", root / "a.mp4")
    notes: list[str] = []
    report = extract_videos(root, out, stage, options=RunOptions("serial", on_note=notes.append))
    assert (report.n_done, report.n_failed) == (1, 0)
    assert any("2 planned videos are gone from the folder, first b.mkv: what was made of them stays" in note for note in notes)
    after = shards.read_shard(out / shards.shard_name(0))

    def rows(table: pa.Table, video_id: str) -> list[dict]:
        return [{k: v for k, v in row.items() if k != "video_id"} for row in table.to_pylist() if row["video_id"] == video_id]

    for kept in ("b.mkv", "c.mp4", "more/d.mp4"):
        assert rows(after, kept) == rows(before, kept) != []
    assert rows(after, "a.mp4") == rows(before, "c.mp4")
    assert after.column("video_id").unique().to_pylist() == ["a.mp4", "b.mkv", "c.mp4", "more/d.mp4"]
    (row,) = [r for r in shards.read_shard(out / "videos" / shards.shard_name(0)).to_pylist() if r["video_id"] == "b.mkv"]
    assert row["codec"] == "h264"


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="there is no ffmpeg on PATH")
def test_another_ffmpeg_gives_the_same_times(video_folder: Path, tmp_path: Path) -> None:
    times = []
    for media in (MediaOptions("bundled"), MediaOptions("system")):
        out = tmp_path / media.ffmpeg
        extract_videos(video_folder, out, Extract(fps=3, size_px=32, media=media), options=RunOptions("serial", media=media))
        times.append(shards.read_shard(out / shards.shard_name(0)).select(["video_id", "pts_s"]).to_pylist())
    assert times[0] == times[1] != []


# ---------------------------------------------------------------- how much is done


def names_in(dataset: Path) -> list[str]:
    return [row["video_id"] for row in shards.read_rows(dataset / "videos", ["video_id"])]


@pytest.fixture
def many(video_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eight videos, three to a shard."""
    monkeypatch.setattr("vbcli.stages.scan.VIDEOS_PER_SHARD", 3)
    (tmp_path / "many").mkdir()
    for i in range(8):
        shutil.copy(video_folder / "a.mp4", tmp_path / "many" / f"{i}.mp4")
    return tmp_path / "many"


def test_parts_make_together_what_one_run_makes(many: Path, tmp_path: Path) -> None:
    stage = Extract(size_px=32)
    whole = extract_videos(many, tmp_path / "whole", stage, options=SERIAL)
    parts = [extract_videos(many, tmp_path / "parts", stage, options=replace(SERIAL, part=(i, 2))) for i in (2, 1)]
    assert [(p.n_shards, p.n_done) for p in parts] == [(1, 1), (2, 2)]
    assert sum(p.n_rows for p in parts) == whole.n_rows
    for path in shards.list_shards(tmp_path / "whole"):
        assert (tmp_path / "parts" / path.name).read_bytes() == path.read_bytes()


def test_a_limit_plans_the_first_videos_and_leaves_the_others_for_later(many: Path, tmp_path: Path) -> None:
    out, notes = tmp_path / "frames", list[str]()
    limited = replace(SERIAL, limit=4, on_note=notes.append)
    assert extract_videos(many, out, Extract(size_px=32), options=limited).n_shards == 2
    assert names_in(out) == ["0.mp4", "1.mp4", "2.mp4", "3.mp4"]
    assert any("4 of 8 videos are over the limit of 4" in note for note in notes)
    assert not any("gone" in note for note in notes)
    assert extract_videos(many, out, Extract(size_px=32), options=limited).n_done == 0
    assert extract_videos(many, out, Extract(size_px=32), options=replace(SERIAL, limit=5)).n_done == 1
    rest = extract_videos(many, out, Extract(size_px=32), options=SERIAL)
    assert (rest.n_done, rest.n_skipped) == (1, 3)
    assert names_in(out) == [f"{i}.mp4" for i in range(8)]


def test_a_dry_run_counts_and_writes_nothing(many: Path, tmp_path: Path) -> None:
    out, dry = tmp_path / "frames", replace(SERIAL, is_dry=True)
    planned = extract_videos(many, out, Extract(size_px=32), options=dry)
    assert (planned.n_shards, planned.n_planned, planned.n_skipped) == (3, 3, 0)
    assert not out.exists()
    extract_videos(many, out, Extract(size_px=32), options=replace(SERIAL, limit=4))
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    (many / "1.mp4").write_bytes(b"no video")
    planned = extract_videos(many, out, Extract(size_px=32), options=dry)
    # The shard of the changed one, and two new ones for the four that are not planned yet.
    assert (planned.n_shards, planned.n_planned, planned.n_skipped) == (4, 3, 1)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    report = extract_videos(many, out, Extract(size_px=32), options=SERIAL)
    assert (report.n_done, report.n_skipped) == (3, 1)


def test_links_out_of_the_folder_are_followed_only_when_that_is_asked_for(video_folder: Path, tmp_path: Path) -> None:
    videos, notes = tmp_path / "videos", list[str]()
    (videos / "more").mkdir(parents=True)
    shutil.copy(video_folder / "a.mp4", videos / "a.mp4")
    (videos / "within.mp4").symlink_to("a.mp4")
    (videos / "more" / "out.mp4").symlink_to(video_folder / "b.mkv")
    secret = tmp_path / "secret.srt"
    secret.write_text("1\n00:00:00,000 --> 00:00:01,000\nmy secret\n")
    (videos / "a.srt").symlink_to(secret)
    report = extract_videos(videos, tmp_path / "frames", Extract(size_px=32), options=replace(SERIAL, on_note=notes.append))
    assert (report.n_failed, report.exit_status) == (1, 3)
    (failure,) = shards.read_failures(tmp_path / "frames")
    assert (failure.video_id, failure.message) == ("more/out.mp4", f"{videos}/more/out.mp4 is a link that leads out of its folder")
    (text,) = [row for row in shards.read_rows(tmp_path / "frames" / "videos") if row["video_id"] == "a.mp4"]
    assert text["transcript"] == []
    assert any("a.srt is a link that leads out of its folder, and is not read" in note for note in notes)
    (unopened,) = [row for row in shards.read_rows(tmp_path / "frames" / "videos") if row["video_id"] == "more/out.mp4"]
    assert unopened["codec"] is None
    assert {row["video_id"] for row in shards.read_rows(tmp_path / "frames", ["video_id"])} == {"a.mp4", "within.mp4"}
    media = MediaOptions(follows_links=True)
    followed = extract_videos(videos, tmp_path / "all", Extract(size_px=32, media=media), options=replace(SERIAL, media=media))
    assert followed.n_failed == 0
    (text,) = [row for row in shards.read_rows(tmp_path / "all" / "videos") if row["video_id"] == "a.mp4"]
    assert text["transcript"][0]["text"] == "my secret"
    # One that is named itself is meant.
    named = extract_videos(videos / "more" / "out.mp4", tmp_path / "named", Extract(size_px=32), options=SERIAL)
    assert (named.n_failed, named.n_rows) == (0, 3)
