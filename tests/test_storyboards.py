"""Files of summaries: made again where their rows or their video changed, and only there."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import MakeVideo
from vbcli.errors import MediaError
from vbcli.storyboards import Kept, is_rendered, render_summary


def test_a_summary_is_of_its_rows_and_of_its_video(tmp_path: Path, make_video: MakeVideo, ffmpeg_exe: str) -> None:
    video, folder = make_video(tmp_path / "a.mp4", duration_s=3), tmp_path / "rendered"
    kept = [Kept("a.mp4", str(video), i, i + 1, i + 0.5, f"caption {i}") for i in range(3)]
    assert not is_rendered(kept, folder)
    render_summary(kept, folder, ffmpeg_exe, is_video=True)
    assert is_rendered(kept, folder)
    fewer = [replace(kept[0], caption="another"), kept[2]]
    assert not is_rendered(fewer, folder)
    render_summary(fewer, folder, ffmpeg_exe, is_video=True)
    assert is_rendered(fewer, folder)
    assert not is_rendered(kept, folder)
    # Nothing is left of the third picture.
    assert sorted(path.name for path in (folder / "keyframes").iterdir()) == ["001.jpg", "002.jpg"]
    assert "another" in (folder / "storyboard.html").read_text()
    os.utime(video, (1, 1))
    assert not is_rendered(fewer, folder)
    # A run that was killed before the record was written.
    render_summary(fewer, folder, ffmpeg_exe, is_video=False)
    (folder / "made-from.json").unlink()
    assert not is_rendered(fewer, folder)


def test_what_was_rendered_of_a_video_that_is_gone_stays(tmp_path: Path, make_video: MakeVideo, ffmpeg_exe: str) -> None:
    video, folder = make_video(tmp_path / "a.mp4"), tmp_path / "rendered"
    kept = [Kept("a.mp4", str(video), 0, 1, 0.5, "a caption")]
    render_summary(kept, folder, ffmpeg_exe, is_video=False)
    video.unlink()
    assert is_rendered(kept, folder)
    changed = [replace(kept[0], caption="another")]
    assert not is_rendered(changed, folder)
    with pytest.raises(MediaError):
        render_summary(changed, folder, ffmpeg_exe, is_video=False)
    assert (folder / "keyframes" / "001.jpg").exists()
