"""Rendered videos, decoded again by PyAV."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from tests.conftest import MakeVideo, run_ffmpeg
from vbcli import rendering
from vbcli.errors import MediaError, VbcliError
from vbcli.media.limits import Limits
from vbcli.media.probe import frame_times
from vbcli.rendering import Cut, burn_subtitles, grab_jpeg, input_arguments, render_cuts, snap_cut
from vbcli.text.transcripts import TranscriptSegment


def frames(path: Path) -> list[tuple[float, np.ndarray]]:
    with av.open(str(path)) as container:
        return [(frame.time or 0.0, frame.to_ndarray(format="gray").astype(int)) for frame in container.decode(video=0)]


@pytest.mark.parametrize("has_fonts", [True, False])
def test_captions_show_at_their_times_and_only_there(
    tmp_path: Path, make_video: MakeVideo, ffmpeg_exe: str, monkeypatch: pytest.MonkeyPatch, has_fonts: bool
) -> None:
    if not has_fonts:
        (tmp_path / "fonts.conf").write_text(f"<fontconfig><dir>{tmp_path / 'none'}</dir></fontconfig>")
        monkeypatch.setenv("FONTCONFIG_FILE", str(tmp_path / "fonts.conf"))
    video = make_video(tmp_path / "odd name, 'quoted'.mp4", size=(322, 240), duration_s=2, audio=True)
    burn_subtitles(str(video), [TranscriptSegment(0.5, 1.5, "a ball: it's [falling]")], tmp_path / "out" / "shown.mp4", ffmpeg_exe)
    before, after = frames(video), frames(tmp_path / "out" / "shown.mp4")
    assert [t for t, _ in after] == pytest.approx([t for t, _ in before], abs=0.001)
    for (time_s, old), (_, new) in zip(before, after, strict=True):
        changed = np.abs(old - new) > 120  # coding again changes less
        assert not changed[:160].any()
        assert changed[160:].any() == (0.5 <= time_s < 1.5)
    with av.open(str(tmp_path / "out" / "shown.mp4")) as container:
        assert container.streams.audio
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["shown.mp4"]


def test_what_cannot_be_decoded_leaves_nothing(tmp_path: Path, ffmpeg_exe: str) -> None:
    (tmp_path / "no.mp4").write_bytes(b"no video")
    with pytest.raises(MediaError, match=r"no\.mp4"):
        burn_subtitles(str(tmp_path / "no.mp4"), [TranscriptSegment(0, 1, "a")], tmp_path / "out" / "shown.mp4", ffmpeg_exe)
    assert not (tmp_path / "out").exists()


def test_a_target_that_cannot_be_written_is_named(tmp_path: Path, make_video: MakeVideo, ffmpeg_exe: str) -> None:
    video = str(make_video(tmp_path / "one.mp4"))
    (tmp_path / "file").write_text("in the way")
    for target in (tmp_path / "file" / "cut.mp4", Path("/proc/cut.mp4")):
        with pytest.raises(VbcliError, match=f"cannot write {target}"):
            render_cuts([Cut(video, 0, 1)], target, ffmpeg_exe)


def counter_video(exe: str, path: Path, *, seconds: float = 4, rate: int = 10, audio: bool = True, size: str = "160x120") -> Path:
    """A video whose brightness tells the number of a frame, two levels a frame, and whose tone begins after two seconds."""
    picture = f"color=black:size={size}:rate={rate}:duration={seconds},geq=lum='20+2*N':cb=128:cr=128"
    tone = ["-f", "lavfi", "-i", f"aevalsrc='sin(2*PI*440*t)*gte(t,2)':s=44100:d={seconds}"] if audio else []
    codec = ["-c:v", "libx264", "-qp", "1", "-pix_fmt", "yuv420p", "-color_range", "tv", "-c:a", "aac"]
    run_ffmpeg(exe, "-f", "lavfi", "-i", picture, *tone, *codec, str(path))
    return path


def shown(path: Path) -> list[int]:
    """The frame numbers that a video shows."""
    with av.open(str(path)) as container:
        return [round((float(frame.to_ndarray(format="yuv420p")[:100, 45:110].mean()) - 20) / 2) for frame in container.decode(video=0)]


def test_cuts_hold_exactly_their_frames_and_join_without_gaps(tmp_path: Path, ffmpeg_exe: str) -> None:
    one = counter_video(ffmpeg_exe, tmp_path / "one.mp4")
    two = counter_video(ffmpeg_exe, tmp_path / "two.mp4", audio=False, size="80x120")
    wanted = [(one, 1.95, 2.95), (two, 0, 0.35), (one, 0.5, 1.5), (one, 3.75, 9)]
    cuts = [snap_cut(Cut(str(path), start_s, end_s)) for path, start_s, end_s in wanted]
    assert [(round(c.start_s, 3), round(c.end_s, 3)) for c in cuts if c] == [(2, 3), (0, 0.4), (0.5, 1.5), (3.8, 4)]
    render_cuts([c for c in cuts if c], tmp_path / "joined.mp4", ffmpeg_exe)
    assert shown(tmp_path / "joined.mp4") == [*range(20, 30), *range(4), *range(5, 15), 38, 39]
    with av.open(str(tmp_path / "joined.mp4")) as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == (160, 120)
        times = [frame.time for frame in container.decode(video=0)]
        assert times == pytest.approx(np.arange(26) / 10, abs=0.001)
        container.seek(0)
        sound = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    # The tone sounds in the first and in the last cut, not in what has none or where it has not begun.
    loud = np.sqrt((sound[: len(sound) // 4410 * 4410].reshape(-1, 4410) ** 2).mean(1)) > 0.1
    assert loud[1:9].all()
    assert not loud[11:23].any()
    assert loud[24:26].any()


def test_many_cuts_are_rendered_in_groups_without_a_seam(tmp_path: Path, ffmpeg_exe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "GROUP", 2)
    one = counter_video(ffmpeg_exe, tmp_path / "one.mp4")
    cuts = [Cut(str(one), start_s, start_s + 0.7) for start_s in (0.1, 2.2, 1.1, 3.0, 2.5)]
    render_cuts(cuts, tmp_path / "joined.mp4", ffmpeg_exe)
    assert shown(tmp_path / "joined.mp4") == [*range(1, 8), *range(22, 29), *range(11, 18), *range(30, 37), *range(25, 32)]
    with av.open(str(tmp_path / "joined.mp4")) as container:
        times = [frame.time for frame in container.decode(video=0)]
    assert times == pytest.approx(np.arange(35) / 10, abs=0.001)
    # The tone begins after two seconds: it is in the second, fourth and fifth cut alone.
    loud = loudness(tmp_path / "joined.mp4") > 0.1
    assert loud[[8, 10, 12, 22, 24, 26, 27, 28, 29, 31, 33]].all()
    assert not loud[[*range(1, 6), *range(15, 20)]].any()


def test_cuts_without_frames_are_none(tmp_path: Path, ffmpeg_exe: str) -> None:
    video = counter_video(ffmpeg_exe, tmp_path / "one.mp4", seconds=1, audio=False)
    assert snap_cut(Cut(str(video), 0.41, 0.49)) is None
    assert snap_cut(Cut(str(video), 5, 6)) is None


def test_a_grabbed_frame_is_the_one_shown(tmp_path: Path, ffmpeg_exe: str) -> None:
    video = counter_video(ffmpeg_exe, tmp_path / "one.mp4", audio=False)
    for time_s, number in ((0.0, 0), (1.7, 17), (1.79, 17), (3.9, 39), (9, 39)):
        with Image.open(io.BytesIO(grab_jpeg(str(video), time_s, ffmpeg_exe, width_px=80))) as picture:
            assert picture.size == (80, 60)
            # Limited range to full: 16 to 235 becomes 0 to 255.
            assert np.asarray(picture.convert("L")).mean() == pytest.approx((20 + 2 * number - 16) * 255 / 219, abs=1.5)
    (tmp_path / "no.mp4").write_bytes(b"no video")
    with pytest.raises(MediaError, match="cannot be opened"):
        grab_jpeg(str(tmp_path / "no.mp4"), 1, ffmpeg_exe)


def loudness(path: Path) -> np.ndarray:
    """Of each tenth of a second."""
    with av.open(str(path)) as container:
        sound = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    return np.sqrt((sound[: len(sound) // 4410 * 4410].reshape(-1, 4410) ** 2).mean(1))


@pytest.mark.parametrize("suffix", [".ts", ".mpg", ".flv", ".mkv", ".avi", ".mp4"])
def test_frames_far_behind_a_key_frame_are_found_in_every_container(tmp_path: Path, ffmpeg_exe: str, suffix: str) -> None:
    whole = counter_video(ffmpeg_exe, tmp_path / "whole.mp4", seconds=10)
    video = tmp_path / f"one{suffix}"
    # MPEG-1 begins a group of pictures every half second; the others have one key frame in all.
    coded = (
        ["-c:v", "mpeg1video", "-r", "25", "-q:v", "1", "-c:a", "mp2"]
        if suffix == ".mpg"
        # AVI has no times of frames that are shown in another order than they are coded.
        else ["-c:v", "libx264", "-qp", "1", "-bf", "0" if suffix == ".avi" else "2", "-g", "1000", "-c:a", "aac"]
    )
    run_ffmpeg(ffmpeg_exe, "-i", str(whole), *coded, str(video))
    cut = snap_cut(Cut(str(video), 6, 8))
    assert cut is not None
    render_cuts([cut], tmp_path / "cut.mp4", ffmpeg_exe)
    numbers = shown(tmp_path / "cut.mp4")
    assert len(numbers) == (50 if suffix == ".mpg" else 20)
    # A tenth of a second, for containers whose clock begins with the sound.
    late = 0 if suffix in (".mp4", ".mkv") else 1
    assert abs(numbers[0] - 60) <= late
    assert abs(numbers[-1] - 79) <= late
    render_cuts([replace(cut, is_mute=True)], tmp_path / "mute.mp4", ffmpeg_exe)
    assert shown(tmp_path / "mute.mp4") == numbers
    with Image.open(io.BytesIO(grab_jpeg(str(video), cut.start_s, ffmpeg_exe))) as picture:
        number = ((np.asarray(picture.convert("L")).mean() * 219 / 255 + 16) - 20) / 2
        assert number == pytest.approx(numbers[0], abs=0.6)


def test_sound_that_begins_late_stays_with_its_pictures(tmp_path: Path, ffmpeg_exe: str) -> None:
    silent = counter_video(ffmpeg_exe, tmp_path / "silent.mp4", audio=False)
    tone = ["-itsoffset", "1.5", "-f", "lavfi", "-i", "sine=f=440:d=2.5:r=44100"]
    run_ffmpeg(ffmpeg_exe, "-i", str(silent), *tone, "-c:v", "copy", "-c:a", "aac", str(tmp_path / "late.mp4"))
    for speed in (1.0, 2.0):
        render_cuts([Cut(str(tmp_path / "late.mp4"), 0.5, 4, speed=speed)], tmp_path / "cut.mp4", ffmpeg_exe)
        loud = loudness(tmp_path / "cut.mp4") > 0.05
        begins = round(10 / speed)
        assert not loud[: begins - 1].any()
        assert loud[begins + 1 : -2].all()


def test_a_turned_video_and_one_of_oblong_pixels_are_shown_as_they_are_meant(tmp_path: Path, ffmpeg_exe: str) -> None:
    plain = counter_video(ffmpeg_exe, tmp_path / "plain.mp4", audio=False, size="160x90")
    run_ffmpeg(ffmpeg_exe, "-display_rotation", "90", "-i", str(plain), "-c", "copy", str(tmp_path / "turned.mp4"))
    run_ffmpeg(ffmpeg_exe, "-i", str(plain), "-vf", "setsar=2", str(tmp_path / "oblong.mp4"))
    for name, size in (("turned", (90, 160)), ("oblong", (320, 90))):
        render_cuts([Cut(str(tmp_path / f"{name}.mp4"), 0, 1)], tmp_path / "cut.mp4", ffmpeg_exe)
        with av.open(str(tmp_path / "cut.mp4")) as container:
            stream = container.streams.video[0]
            assert (stream.width, stream.height, stream.sample_aspect_ratio) == (*size, 1)
        with Image.open(io.BytesIO(grab_jpeg(str(tmp_path / f"{name}.mp4"), 0.5, ffmpeg_exe))) as picture:
            assert picture.size == size
    burn_subtitles(str(tmp_path / "oblong.mp4"), [TranscriptSegment(0, 1, "a ball")], tmp_path / "burnt.mp4", ffmpeg_exe)
    with av.open(str(tmp_path / "burnt.mp4")) as container:
        assert container.streams.video[0].display_aspect_ratio == pytest.approx(32 / 9)


def test_a_last_frame_that_is_held_is_whole(tmp_path: Path, ffmpeg_exe: str) -> None:
    video = counter_video(ffmpeg_exe, tmp_path / "one.mp4", seconds=1, audio=False)
    run_ffmpeg(ffmpeg_exe, "-i", str(video), "-vf", "setpts='PTS+gte(N,9)*5/TB'", "-fps_mode", "vfr", str(tmp_path / "held.mkv"))
    times, _ = frame_times(str(tmp_path / "held.mkv"))
    assert times[-1] - times[-2] > 4
    cut = snap_cut(Cut(str(tmp_path / "held.mkv"), 0, float(times[-1])))
    assert cut is not None
    render_cuts([cut], tmp_path / "cut.mp4", ffmpeg_exe)
    assert shown(tmp_path / "cut.mp4") == list(range(9))


def test_a_video_whose_frames_are_lost_is_refused(tmp_path: Path, ffmpeg_exe: str) -> None:
    video = counter_video(ffmpeg_exe, tmp_path / "one.mp4", audio=False)
    run_ffmpeg(ffmpeg_exe, "-i", str(video), "-c", "copy", "-movflags", "+faststart", str(tmp_path / "lost.mp4"))
    data = (tmp_path / "lost.mp4").read_bytes()
    # Its index is whole, and a part of what it lists is gone.
    start = data.index(b"mdat")
    kept = start + (len(data) - start) * 3 // 4
    (tmp_path / "lost.mp4").write_bytes(data[:kept] + bytes(len(data) - kept))
    assert len(frame_times(str(tmp_path / "lost.mp4"))[0]) == 40
    with pytest.raises(MediaError, match=r"cut\.mp4 cannot be rendered: its last frame is at .* s, not at 3\.90 s"):
        render_cuts([Cut(str(tmp_path / "lost.mp4"), 0, 4)], tmp_path / "cut.mp4", ffmpeg_exe)
    assert not (tmp_path / "cut.mp4").exists()


def test_speed_and_silence(tmp_path: Path, ffmpeg_exe: str) -> None:
    video = str(counter_video(ffmpeg_exe, tmp_path / "one.mp4"))
    cuts = [Cut(video, 2, 4, speed=2), Cut(video, 2, 3, is_mute=True), Cut(video, 3, 4, speed=0.5)]
    render_cuts(cuts, tmp_path / "played.mp4", ffmpeg_exe)
    with av.open(str(tmp_path / "played.mp4")) as container:
        times = [frame.time for frame in container.decode(video=0)]
        container.seek(0)
        sound = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    assert times == pytest.approx([*np.arange(20) / 20, *(1 + np.arange(10) / 10), *(2 + np.arange(10) / 5)], abs=0.002)
    loud = np.sqrt((sound[: len(sound) // 4410 * 4410].reshape(-1, 4410) ** 2).mean(1)) > 0.1
    assert (loud[1:9].all(), loud[11:19].any(), loud[21:38].all()) == (True, False, True)
    # Faster, not higher: the tone keeps its 440 Hz.
    part = sound[44100 // 5 : 44100 // 5 + 22050]
    assert np.abs(np.fft.rfft(part)).argmax() * 2 == pytest.approx(440, abs=6)


def test_a_file_that_is_replaced_has_the_times_of_the_new_one(tmp_path: Path, make_video: MakeVideo):
    video = tmp_path / "one.mp4"
    make_video(video, duration_s=1)
    assert len(frame_times(str(video))[0]) == 10
    make_video(video, duration_s=2)
    assert len(frame_times(str(video))[0]) == 20


def length_s(path: Path) -> float:
    """Of the video stream, as its container has it."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.duration is not None
        assert stream.time_base is not None
        return float(stream.duration * stream.time_base)


@pytest.mark.parametrize("speed", [0.25, 0.5, 1.0, 3.0, 8.0])
@pytest.mark.parametrize("audio", [True, False])
def test_a_rendered_video_is_as_long_as_its_cuts(tmp_path: Path, ffmpeg_exe: str, speed: float, audio: bool) -> None:
    video = str(counter_video(ffmpeg_exe, tmp_path / "one.mp4", audio=audio))
    cuts = [Cut(video, 0.5, 1.5, speed=speed), Cut(video, 3, 4, speed=speed)]
    render_cuts(cuts, tmp_path / "played.mp4", ffmpeg_exe)
    assert length_s(tmp_path / "played.mp4") == pytest.approx(2 / speed, abs=0.001)


def test_a_frame_that_is_held_can_be_cut_within(tmp_path: Path, ffmpeg_exe: str) -> None:
    """Frame 3 is shown from 0.3 to 5.4 s, then come 4 to 9."""
    video = counter_video(ffmpeg_exe, tmp_path / "one.mp4", seconds=1, audio=False)
    run_ffmpeg(ffmpeg_exe, "-i", str(video), "-vf", "setpts='PTS+gte(N,4)*5/TB'", "-fps_mode", "vfr", str(tmp_path / "held.mp4"))
    held = str(tmp_path / "held.mp4")
    cuts = [snap_cut(Cut(held, start_s, end_s)) for start_s, end_s in ((0.1, 1.3), (2.3, 3.3), (4.9, 5.6), (6, 7))]
    assert cuts.pop() is None
    kept = [cut for cut in cuts if cut]
    assert [(cut.start_s, cut.end_s) for cut in kept] == [
        (pytest.approx(0.1), pytest.approx(1.3, abs=0.04)),
        (pytest.approx(2.3, abs=0.04), pytest.approx(3.3, abs=0.04)),
        (pytest.approx(4.9, abs=0.04), pytest.approx(5.6)),
    ]
    render_cuts(kept, tmp_path / "cut.mp4", ffmpeg_exe)
    assert shown(tmp_path / "cut.mp4") == [1, 2, 3, 3, 3, 4, 5]
    times, end_s = frame_times(str(tmp_path / "cut.mp4"))
    first, second, _ = (cut.length_s for cut in kept)
    assert times == pytest.approx([0, 0.1, 0.2, first, first + second, first + second + 5.4 - kept[2].start_s, end_s - 0.1], abs=0.002)
    assert end_s == pytest.approx(sum(cut.length_s for cut in kept), abs=0.002)
    assert length_s(tmp_path / "cut.mp4") == pytest.approx(end_s, abs=0.002)


def test_ffmpeg_is_given_up_where_it_takes_too_long_or_too_much(tmp_path: Path, make_video: MakeVideo, ffmpeg_exe: str) -> None:
    video, hanging = str(make_video(tmp_path / "a.mp4")), tmp_path / "hanging"
    hanging.write_text("#!/bin/sh\nexec sleep 60\n")
    hanging.chmod(0o755)
    limits, target = Limits(timeout_s=1), tmp_path / "out.mp4"
    with pytest.raises(MediaError, match=r"a\.mp4 was not decoded within 1 seconds"):
        grab_jpeg(video, 0.5, str(hanging), limits)
    with pytest.raises(MediaError, match=r"out\.mp4 was not rendered within 1 seconds"):
        burn_subtitles(video, [TranscriptSegment(0, 1, "a")], target, str(hanging), limits)
    for render in (
        lambda: grab_jpeg(video, 0.5, ffmpeg_exe, Limits(max_pixels=3000)),
        lambda: render_cuts([Cut(video, 0, 1)], target, ffmpeg_exe, Limits(max_pixels=3000)),
        lambda: rendering.run_ffmpeg(ffmpeg_exe, input_arguments(video, Limits(max_pixels=3000)), target, Limits()),
    ):
        with pytest.raises(MediaError):
            render()
    rendering.run_ffmpeg(ffmpeg_exe, input_arguments(video, Limits()), target, Limits())
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == ["out.mp4"]
