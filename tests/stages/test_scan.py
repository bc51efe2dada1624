"""Scanning: plans, names, text and probing, on real folders."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import av
import pytest

from vbcli import shards
from vbcli.errors import VbcliError
from vbcli.executors import SerialExecutor
from vbcli.listing import list_videos
from vbcli.runner import run_stage
from vbcli.schemas import VIDEOS
from vbcli.stages import scan
from vbcli.stages.scan import Probe, Scan, scan_videos


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six files that pass for videos as long as nobody opens them."""
    root = tmp_path / "videos"
    for name in ("b.mp4", "a/z.MKV", "a/y.avi", "a.mp4", "c d.webm", "B.mp4"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four videos in a shard."""
    monkeypatch.setattr(scan, "VIDEOS_PER_SHARD", 4)


def rows_of(scanned: Scan) -> list[list[dict[str, Any]]]:
    groups = []
    for planned in scanned.inputs:
        table = planned.source
        assert not isinstance(table, Path)
        assert table.schema.equals(VIDEOS)
        groups.append(table.to_pylist())
    return groups


def ids_of(scanned: Scan) -> list[list[str]]:
    return [[row["video_id"] for row in rows] for rows in rows_of(scanned)]


# ---------------------------------------------------------------- plans


@pytest.mark.usefixtures("small_shards")
def test_a_plan_is_written_once_and_new_videos_go_to_new_shards(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = scan_videos(folder, out)
    assert ids_of(first) == [["B.mp4", "a.mp4", "a/y.avi", "a/z.MKV"], ["b.mp4", "c d.webm"]]
    assert first.notes == []
    plan = (out / "_plan" / "0000.json").read_bytes()
    assert [[v["video_id"] for v in s] for s in json.loads(plan)["shards"]] == ids_of(first)

    again = scan_videos(folder, out)
    assert [(i.index, i.digest) for i in again.inputs] == [(i.index, i.digest) for i in first.inputs]
    (folder / "0.mp4").write_text("")
    (folder / "bb.mp4").write_text("")
    later = scan_videos(folder, out)
    assert ids_of(later) == [*ids_of(first), ["0.mp4", "bb.mp4"]]
    assert [i.digest for i in later.inputs[:2]] == [i.digest for i in first.inputs]
    assert later.notes == ["2 new videos go to new shards, first 0.mp4"]
    assert scan_videos(folder, out).notes == []
    assert sorted(p.name for p in (out / "_plan").iterdir()) == ["0000.json", "0001.json"]
    assert (out / "_plan" / "0000.json").read_bytes() == plan


@pytest.mark.usefixtures("small_shards")
def test_removed_and_changed_videos_are_said_and_only_changes_touch_a_shard(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = scan_videos(folder, out)
    (folder / "c d.webm").unlink()
    removed = scan_videos(folder, out)
    assert ids_of(removed) == ids_of(first)
    assert [i.digest for i in removed.inputs] == [i.digest for i in first.inputs]
    assert removed.notes == ["1 planned videos are gone from the folder, first c d.webm: what was made of them stays"]
    (folder / "a.mp4").write_text("longer than it was")
    changed = scan_videos(folder, out)
    assert [a.digest == b.digest for a, b in zip(changed.inputs, first.inputs, strict=True)] == [False, True]
    assert changed.notes[1] == "1 videos changed since they were planned, first a.mp4"
    assert rows_of(changed)[0][1]["bytes"] == len("longer than it was")


def test_a_moved_folder_is_the_same_videos_in_another_place(folder: Path, tmp_path: Path) -> None:
    scan_videos(folder, tmp_path / "out")
    moved = folder.rename(tmp_path / "moved")
    scanned = scan_videos(moved, tmp_path / "out")
    assert scanned.notes == []
    assert [row["path"] for row in rows_of(scanned)[0]] == [str(moved / v) for v in ids_of(scanned)[0]]
    run_stage(Probe(), scanned.inputs, tmp_path / "out" / "videos", SerialExecutor())
    again = moved.rename(tmp_path / "again")
    run_stage(Probe(), scan_videos(again, tmp_path / "out").inputs, tmp_path / "out" / "videos", SerialExecutor())
    (path,) = shards.list_shards(tmp_path / "out" / "videos")
    assert all(p.startswith(str(again)) for p in shards.read_shard(path).column("path").to_pylist())


def test_a_plan_of_other_videos_is_refused(folder: Path, tmp_path: Path) -> None:
    scan_videos(folder, tmp_path / "out")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x.mp4").write_text("")
    with pytest.raises(VbcliError, match=f"{tmp_path}/out holds other videos"):
        scan_videos(tmp_path / "other", tmp_path / "out")


def test_what_is_passed_over_is_counted_and_text_is_not(folder: Path, tmp_path: Path) -> None:
    for name in ("film.mk3d", "a/raw.264", "tv.WTV", "b.mp4.part", "a/untitled", "b.txt", "captions.csv", "a/.hidden"):
        (folder / name).write_text("")
    scanned = scan_videos(folder, tmp_path / "out")
    found = [video_id for shard in ids_of(scanned) for video_id in shard]
    assert {"film.mk3d", "a/raw.264", "tv.WTV"} == set(found) - {"B.mp4", "a.mp4", "a/y.avi", "a/z.MKV", "b.mp4", "c d.webm"}
    assert scanned.notes == ["2 files are no videos by their names and are passed over, first a/untitled"]


def test_linked_folders_are_looked_into_once_and_only_where_that_is_asked_for(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "deep").mkdir(parents=True)
    (other / "deep" / "o.mp4").write_text("o")
    for name, target in {"link": other, "again": other / "deep", "a/above": folder, "a/self": folder / "a"}.items():
        (folder / name).symlink_to(target)
    (other / "back").symlink_to(folder)
    plain = {"B.mp4", "a.mp4", "a/y.avi", "a/z.MKV", "b.mp4", "c d.webm"}
    scanned = scan_videos(folder, tmp_path / "out")
    assert {video_id for shard in ids_of(scanned) for video_id in shard} == plain
    assert scanned.notes == ["4 linked folders are passed over, first a/above; --follow-links takes them"]
    followed = scan_videos(folder, tmp_path / "all", follows_links=True)
    assert {video_id for shard in ids_of(followed) for video_id in shard} == {*plain, "again/o.mp4"}
    assert followed.notes == []


@pytest.mark.usefixtures("small_shards")
def test_a_plan_that_another_machine_writes_meanwhile_is_followed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one writes its plan when ours has read what is there; it does not see one of the new videos yet."""
    out = tmp_path / "out"
    first = scan_videos(folder, out)
    (folder / "0.mp4").write_text("")
    (folder / "1.mp4").write_text("")
    ours, read = list_videos(folder).videos, scan._read_plan

    def slow(path: Path) -> list[list[dict[str, Any]]]:
        plan = read(path)
        monkeypatch.setattr(scan, "_read_plan", read)
        scan.update_plan(out, [v for v in ours if v.video_id != "1.mp4"])
        return plan

    monkeypatch.setattr(scan, "_read_plan", slow)
    planned, notes = scan.update_plan(out, ours)
    assert [[v.video_id for v in shard] for shard in planned] == [*ids_of(first), ["0.mp4"], ["1.mp4"]]
    assert notes == ["1 new videos go to new shards, first 0.mp4", "1 new videos go to new shards, first 1.mp4"]
    assert ids_of(scan_videos(folder, out)) == [*ids_of(first), ["0.mp4"], ["1.mp4"]]


@pytest.mark.parametrize("damage", [{"bytes": None}, {"bytes": "1"}, {"mtime_ns": 1.5}, {"other": 1}])
def test_a_damaged_plan_is_an_error_that_names_it(folder: Path, tmp_path: Path, damage: dict[str, Any]) -> None:
    scan_videos(folder, tmp_path / "out")
    path = tmp_path / "out" / "_plan" / "0000.json"
    plan = json.loads(path.read_text())
    plan["shards"][0][1] = {k: v for k, v in {**plan["shards"][0][1], **damage}.items() if v is not None}
    path.write_text(json.dumps(plan))
    with pytest.raises(VbcliError, match=f"{path} is not a plan of videos"):
        scan_videos(folder, tmp_path / "out")


def test_a_large_folder_is_scanned_in_little_time(tmp_path: Path) -> None:
    root = tmp_path / "videos"
    root.mkdir()
    for i in range(4000):
        (root / f"{i}.mp4").touch()
    started = time.process_time()
    assert len(scan_videos(root, tmp_path / "out").inputs) == 125
    assert time.process_time() - started < 4


# ---------------------------------------------------------------- probing


def test_probing_fills_in_what_pyav_says_and_keeps_what_cannot_be_opened(video_folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "videos"
    shutil.copytree(video_folder, root)
    (root / "broken.mp4").write_text("no video")
    scanned = scan_videos(root, tmp_path / "out", [root / "captions.csv"])
    report = run_stage(Probe(), scanned.inputs, tmp_path / "out" / "videos", SerialExecutor())
    assert (report.n_rows, report.n_failed) == (5, 0)
    rows = shards.read_shard(tmp_path / "out" / "videos" / "shard-00000.parquet").to_pylist()
    probed = ("duration_s", "width_px", "height_px", "fps", "codec", "has_audio")
    planned = rows_of(scanned)[0]
    assert [{k: v for k, v in r.items() if k not in probed} for r in rows] == [
        {k: v for k, v in r.items() if k not in probed} for r in planned
    ]
    for row in rows:
        if row["video_id"] == "broken.mp4":
            assert {row[k] for k in probed} == {None}
            continue
        with av.open(str(root / row["video_id"])) as container:
            stream = container.streams.video[0]
            assert (row["width_px"], row["height_px"], row["codec"]) == (64, 48, stream.codec_context.name)
            assert row["fps"] == pytest.approx(10)
            assert row["duration_s"] == pytest.approx(sum(1 for _ in container.decode(stream)) / 10, abs=0.01)
