"""Timelines against what is played, and as another program reads them."""

from __future__ import annotations

from pathlib import Path

import opentimelineio as otio
import pytest

from tests.conftest import MakeVideo, run_ffmpeg
from vbcli.media.probe import frame_times
from vbcli.rendering import Cut, render_cuts
from vbcli.timelines import TimelineClip, write_edl, write_timeline


def clips(*cuts: Cut) -> list[TimelineClip]:
    return [TimelineClip(cut, f"clip {i}") for i, cut in enumerate(cuts)]


def events(path: Path) -> list[list[str]]:
    """Reel, channels and the four times of each event."""
    return [[line.split()[1], line.split()[2], *line.split()[4:]] for line in path.read_text().splitlines() if line[:3].isdigit()]


def test_a_timeline_lasts_as_long_as_its_video(tmp_path: Path, make_video: MakeVideo, ffmpeg_exe: str):
    video = str(make_video(tmp_path / "a video.mp4", duration_s=4, fps=25))
    cuts = [Cut(video, 0, 2, speed=2), Cut(video, 1, 2), Cut(video, 2, 3, speed=0.5)]
    render_cuts(cuts, tmp_path / "played.mp4", ffmpeg_exe)
    write_timeline(tmp_path / "cut.otio", "cut", clips(*cuts))
    timeline = otio.adapters.read_from_file(str(tmp_path / "cut.otio"))
    assert timeline.duration().to_seconds() == pytest.approx(4)
    assert frame_times(str(tmp_path / "played.mp4"))[1] == pytest.approx(4, abs=0.1)
    (track,) = timeline.tracks
    # What each needs of the media: as long as it is played, times its speed.
    used = [c.source_range.duration.to_seconds() * (c.effects[0].time_scalar if c.effects else 1) for c in track]
    assert used == pytest.approx([2, 1, 1])
    assert [c.source_range.start_time.to_seconds() for c in track] == pytest.approx([0, 1, 2])


def test_an_edit_decision_list_counts_what_is_taken_and_what_is_played(tmp_path: Path, make_video: MakeVideo):
    video = str(make_video(tmp_path / "a video.mp4", duration_s=4, fps=25, audio=True))
    write_edl(
        tmp_path / "cut.edl", "cut", clips(Cut(video, 0.4, 2.4, speed=2), Cut(video, 1, 2, is_mute=True), Cut(video, 2, 3, speed=0.5))
    )
    assert events(tmp_path / "cut.edl") == [
        ["avideo", "B", "00:00:00:10", "00:00:02:10", "00:00:00:00", "00:00:01:00"],
        ["avideo", "V", "00:00:01:00", "00:00:02:00", "00:00:01:00", "00:00:02:00"],
        ["avideo", "B", "00:00:02:00", "00:00:03:00", "00:00:02:00", "00:00:04:00"],
    ]
    text = (tmp_path / "cut.edl").read_text()
    assert [line.split()[2] for line in text.splitlines() if line.startswith("M2")] == ["050.0", "012.5"]
    read = otio.adapters.read_from_string(text, "cmx_3600", rate=25)
    assert [track.duration().to_seconds() for track in read.video_tracks()] == [4]


def test_files_whose_names_begin_alike_have_reels_of_their_own(tmp_path: Path, make_video: MakeVideo):
    names = ["holiday_part1.mp4", "holiday_part2.mkv", "more/Holiday_part1.mp4", "holidayp2.mp4", "...mp4"]
    videos = [str(make_video(tmp_path / name, duration_s=1, fps=25)) for name in names]
    played = [0, 1, 0, 2, 3, 4, 1]
    write_edl(tmp_path / "cut.edl", "cut", clips(*(Cut(videos[k], 0, 0.4, speed=2) for k in played)))
    # By hand: eight letters, or seven and a number.
    reels = ["holidayp", "holiday2", "Holiday3", "holiday4", "AX"]
    assert [event[0] for event in events(tmp_path / "cut.edl")] == [reels[k] for k in played]
    speeds = [line.split()[1] for line in (tmp_path / "cut.edl").read_text().splitlines() if line.startswith("M2")]
    assert speeds == [reels[k] for k in played]


def test_frames_are_counted_not_seconds(tmp_path: Path, ffmpeg_exe: str):
    """Ten minutes of 30000/1001 frames a second are 17,982 frames, which a counter of 30 calls 9:59:12."""
    video = tmp_path / "ntsc.mp4"
    picture = "color=size=16x16:rate=30000/1001:duration=610"
    run_ffmpeg(ffmpeg_exe, "-f", "lavfi", "-i", picture, "-c:v", "libx264", "-preset", "ultrafast", str(video))
    times, _ = frame_times(str(video))
    write_edl(tmp_path / "cut.edl", "cut", clips(Cut(str(video), float(times[18000]), float(times[18030]))))
    assert events(tmp_path / "cut.edl") == [["ntsc", "V", "00:10:00:00", "00:10:01:00", "00:00:00:00", "00:00:01:00"]]
