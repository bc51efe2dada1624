"""The same command again: what failed, what was mended, and what is refused."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from tests.e2e.commands import contents, finish, stamps, vbcli
from vbcli.pipeline import RunOptions, extract_videos
from vbcli.stages.extract import Extract


def counts(result: dict[str, Any]) -> tuple[int, ...]:
    return tuple(result[k] for k in ("n_done", "n_skipped", "n_rows", "n_failed", "n_waiting"))


def test_failed_videos_wait_until_they_are_asked_for(video_folder: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "videos", tmp_path / "frames"
    shutil.copytree(video_folder, folder)
    whole = folder / "c.mp4"
    data, stamp = whole.read_bytes(), 1_700_000_000_000_000_000
    whole.write_bytes(bytes(len(data)))
    os.utime(whole, ns=(stamp, stamp))
    command = ("extract", folder, out, "--size", "32", "--executor", "serial")

    result = finish(*command, "--captions", folder / "captions.csv", status=3)
    assert counts(result) == (1, 0, 2 + 3 + 5, 1, 0)
    assert [f["video_id"] for f in result["failures"]] == ["c.mp4"]
    before = stamps(out)
    assert counts(finish(*command, status=3)) == (0, 1, 10, 0, 1)
    assert stamps(out) == before
    assert counts(finish(*command, "--retry-failed", status=3)) == (1, 0, 10, 1, 0)

    # Mended without a trace, so that nothing but the retry can find it.
    whole.write_bytes(data)
    os.utime(whole, ns=(stamp, stamp))
    assert counts(finish(*command, status=3)) == (0, 1, 10, 0, 1)
    result = finish(*command, "--retry-failed")
    assert (counts(result), result["failures"]) == ((1, 0, 14, 0, 0), [])
    assert counts(finish(*command, "--retry-failed")) == (0, 1, 14, 0, 0)
    extract_videos(folder, tmp_path / "once", Extract(size_px=32), [folder / "captions.csv"], RunOptions("serial"))
    assert contents(out) == contents(tmp_path / "once")


def test_a_mended_video_is_found_by_its_new_date(video_folder: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "videos", tmp_path / "frames"
    shutil.copytree(video_folder, folder)
    (folder / "c.mp4").write_text("no video")
    command = ("extract", folder, out, "--size", "32", "--executor", "serial")
    messages = vbcli(*command, cwd=tmp_path, status=3).stderr
    assert f"warning: c.mp4: {folder}/c.mp4 cannot be opened" in messages
    messages = vbcli(*command, cwd=tmp_path, status=3).stderr
    assert "1 videos that failed before wait for --retry-failed" in messages
    shutil.copy(video_folder / "c.mp4", folder)
    messages = vbcli(*command, "--retry-failed", cwd=tmp_path).stderr
    assert "1 videos changed since they were planned, first c.mp4" in messages
    assert f"{out}/shard-00000.parquet is made again: its input changed" in messages


def test_another_option_in_the_same_folder_is_refused(video_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "frames"
    command = ("extract", video_folder, out, "--executor", "serial", "--size")
    vbcli(*command, "32", cwd=tmp_path)
    before = contents(out)
    ended = vbcli(*command, "48", cwd=tmp_path, status=1)
    assert ended.stdout == ""
    assert ended.stderr == (
        f"error: {out} was made with size_px = 32, not 48\n\n"
        "hint: name another output folder, remove this one, or give the same options again\n"
    )
    assert contents(out) == before


def test_names_are_shown_as_they_are(tmp_path: Path) -> None:
    """Markup and emoji codes in the names of files are neither obeyed nor stumbled over."""
    folder = tmp_path / "[red]:b:"
    folder.mkdir()
    names = ["x\\[/bold].mp4", ":smile:.mp4", "[bold]y.mp4"]
    (folder / names[0]).parent.mkdir()
    for name in names:
        (folder / name).write_text("no video")
    messages = vbcli("extract", folder, tmp_path / "frames", "--executor", "serial", cwd=tmp_path, status=3).stderr
    for name in names:
        assert f"warning: {name}: {folder}/{name} cannot be opened" in messages
