"""Times of frames in containers that do not tell them, tell them wrongly, or are damaged: those of PyAV's own decoder."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import av
import av.error
import numpy as np
import pytest
from PIL import Image

from tests.conftest import MakeVideo
from vbcli.errors import MediaError
from vbcli.media import sampling as sampling_module
from vbcli.media.decode import Decoder
from vbcli.media.filters import Geometry
from vbcli.media.limits import Limits
from vbcli.media.program import find_ffmpeg
from vbcli.media.sampling import AtRate, AtTimes, EveryFrame, KeyFrames, Sampling, Uniform

DECODER = Decoder(find_ffmpeg())
SMALL = Geometry(32)
MPEG4 = ["-c:v", "mpeg4", "-bf", "2", "-g", "12"]
H264 = ["-c:v", "libx264", "-bf", "3", "-g", "12", "-sc_threshold", "0"]


def decoded(path: Path) -> list[tuple[float | None, bool]]:
    """(time from the container's start, whether it is a key frame) of PyAV's frames, in the order in which they come."""
    frames = []
    with av.open(os.fsdecode(path), metadata_errors="replace") as container:
        start_s = (container.start_time or 0) / av.time_base
        for packet in container.demux(container.streams.video[0]):
            try:
                found = packet.decode()
            except av.error.InvalidDataError:
                continue
            frames += [(None if f.time is None else f.time - start_s, f.key_frame) for f in found if isinstance(f, av.VideoFrame)]
    return frames


def times_of(path: Path, sampling: Sampling, decoder: Decoder = DECODER) -> list[float]:
    return [t for t, _ in decoder.jpegs(str(path), sampling, SMALL)]


def check_all_samplings(path: Path, shown: list[float], keys: list[float]) -> None:
    """By the rules, from the times in order, each once."""
    times, keys = (sorted({round(t, 6) for t in these}) for these in (shown, keys))
    assert times_of(path, EveryFrame()) == pytest.approx(times, abs=1e-3)
    # Rounded as they are: a container's start is known in whole microseconds.
    by_rule = sorted({min(t for t in times if t >= k / 4 - 1e-6) for k in range(int(times[-1] * 4 + 1e-5) + 1)})
    assert times_of(path, AtRate(4)) == pytest.approx(by_rule, abs=1e-3)
    assert times_of(path, Uniform(5)) == pytest.approx([times[(2 * k + 1) * len(times) // 10] for k in range(5)], abs=1e-3)
    assert times_of(path, KeyFrames()) == pytest.approx(keys, abs=1e-3)


VIDEOS = {
    "b-frames.avi": MPEG4,
    "h264.avi": H264,
    "b-frames.mp4": MPEG4,
    "h264.mp4": H264,
    "open.mp4": ["-c:v", "libx264", "-x264-params", "open-gop=1:keyint=10:bframes=2"],
    "program.mpg": ["-c:v", "mpeg2video", "-bf", "2"],
    "interlaced.mpg": ["-c:v", "mpeg2video", "-bf", "2", "-flags", "+ilme+ildct", "-vf", "setfield=tff"],
    "raw.m2v": ["-c:v", "mpeg2video", "-bf", "2"],
    "stream.obu": ["-c:v", "libaom-av1", "-cpu-used", "8", "-g", "12"],
    "vp9.webm": ["-c:v", "libvpx-vp9", "-b:v", "100k", "-g", "20", "-deadline", "realtime", "-cpu-used", "8"],
    "moving.gif": ["-pix_fmt", "rgb8"],
    "lossless.mkv": ["-c:v", "ffv1", "-g", "12"],
    "cinepak.avi": ["-c:v", "cinepak", "-g", "12"],
    "before-zero.ts": [*H264, "-output_ts_offset", "95440"],
}


@pytest.mark.parametrize("name", VIDEOS)
def test_frames_have_the_times_of_pyav_in_every_container(tmp_path: Path, make_video: MakeVideo, name: str) -> None:
    path = make_video(tmp_path / name, fps=25, duration_s=1.2, arguments=VIDEOS[name])
    frames = [(t, is_key) for t, is_key in decoded(path) if t is not None]
    assert len(frames) == 30
    check_all_samplings(path, [t for t, _ in frames], [t for t, is_key in frames if is_key])


def test_frames_without_any_times_come_at_the_rate_of_the_video(tmp_path: Path, make_video: MakeVideo) -> None:
    path = make_video(tmp_path / "raw.h264", fps=25, duration_s=1.2, arguments=H264)
    assert {t for t, _ in decoded(path)} == {None}
    check_all_samplings(path, [i / 25 for i in range(30)], [0, 12 / 25, 24 / 25])


def test_key_frames_of_a_codec_that_does_not_mark_them_are_those_of_the_container(tmp_path: Path, make_video: MakeVideo) -> None:
    path = make_video(tmp_path / "a.mov", fps=25, arguments=["-c:v", "qtrle", "-pix_fmt", "rgb24", "-g", "12"])
    assert {is_key for _, is_key in decoded(path)} == {False}
    assert times_of(path, KeyFrames()) == pytest.approx([0, 12 / 25, 24 / 25])


def test_a_start_that_is_no_frame_is_counted_from(tmp_path: Path, ffmpeg_exe: str) -> None:
    """Sound begins 13 ms late, and pictures are counted in fortieths of a second: ffmpeg rounds the start to those."""
    path = tmp_path / "a.mov"
    inputs = ["-f", "lavfi", "-i", "testsrc=s=64x48:r=25:d=2", "-itsoffset", "0.013", "-f", "lavfi", "-i", "sine=d=2"]
    moved = ["-itsoffset", "0.02", *inputs]
    subprocess.run([ffmpeg_exe, "-nostdin", "-v", "error", *moved, "-video_track_timescale", "25", *H264, path], check=True)
    frames = decoded(path)
    check_all_samplings(path, [t for t, _ in frames if t is not None], [t for t, is_key in frames if is_key and t is not None])


@pytest.mark.parametrize("suffix", ["ts", "mpg"])
def test_joined_files_are_in_the_order_of_their_times(tmp_path: Path, make_video: MakeVideo, suffix: str) -> None:
    parts = [
        make_video(tmp_path / f"{i}.{suffix}", fps=fps, duration_s=1.2, hue=90 * i, arguments=["-c:v", "mpeg2video"])
        for i, fps in enumerate((25, 30))
    ]
    path = tmp_path / f"both.{suffix}"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    frames = [(t, is_key) for t, is_key in decoded(path) if t is not None]
    assert len(frames) == 66
    assert any(b < a for (a, _), (b, _) in itertools.pairwise(frames))
    check_all_samplings(path, [t for t, _ in frames], [t for t, is_key in frames if is_key])


def test_a_recording_may_begin_another_stream_in_its_middle(tmp_path: Path, make_video: MakeVideo) -> None:
    """Longer than what is read before: neither its beginning nor its end tells of the sound."""
    coded = ["-c:v", "mpeg2video", "-output_ts_offset"]
    parts = [
        make_video(tmp_path / f"{start_s}.ts", fps=5, duration_s=length_s, audio=length_s == 2, arguments=[*coded, str(start_s)])
        for start_s, length_s in ((10, 60), (70, 2), (72, 60))
    ]
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    with av.open(str(path)) as container:
        assert len(container.streams) == 1
    times = times_of(path, EveryFrame())
    assert times == pytest.approx([i / 5 for i in range(122 * 5)], abs=1e-3)


# ---------------------------------------------------------------- what is damaged


def with_tags(path: Path, change: Callable[[int, bytearray, int, int], None]) -> Path:
    """An FLV file changed at each of its pictures: (number, bytes, where its tag begins, size)."""
    data, at, n = bytearray(path.read_bytes()), 13, 0
    while at + 11 <= len(data):
        size = int.from_bytes(data[at + 1 : at + 4], "big")
        if data[at] == 9:
            change(n, data, at, size)
            n += 1
        at += 15 + size
    changed = path.with_name(f"changed-{path.name}")
    changed.write_bytes(data)
    return changed


def stamp(data: bytearray, at: int, time_ms: int) -> None:
    data[at + 4 : at + 7], data[at + 7] = (time_ms & 0xFFFFFF).to_bytes(3, "big"), time_ms >> 24


@pytest.mark.parametrize("kind", ["back once", "far ahead"])
def test_no_frame_is_lost_where_times_jump(tmp_path: Path, make_video: MakeVideo, kind: str) -> None:
    video = make_video(tmp_path / "a.flv", fps=25, duration_s=2, arguments=["-c:v", "flv1", "-g", "12"])

    def change(n: int, data: bytearray, at: int, size: int) -> None:
        if kind == "back once" and n >= 25:
            stamp(data, at, 40 * n - 490)
        elif kind == "far ahead" and n == 10:
            stamp(data, at, 100_000)

    path = with_tags(video, change)
    frames = [(t, is_key) for t, is_key in decoded(path) if t is not None]
    assert len({round(t, 6) for t, _ in frames}) == 50
    check_all_samplings(path, [t for t, _ in frames], [t for t, is_key in frames if is_key])
    # The pictures come with their own times, whatever the order of the file is.
    ordered = sorted(zip([t for t, _ in frames], pictures_of(video), strict=True), key=lambda row: row[0])
    for (_, wanted), found in zip(ordered, pictures_of(path), strict=True):
        assert np.array_equal(wanted, found)


def pictures_of(path: Path) -> list[np.ndarray]:
    return [image for _, image in DECODER.images(str(path), EveryFrame(), SMALL)]


def test_what_is_left_of_a_video_that_is_mostly_damaged_is_taken(tmp_path: Path, make_video: MakeVideo) -> None:
    video = make_video(tmp_path / "a.flv", fps=25, duration_s=2, arguments=H264)

    def change(n: int, data: bytearray, at: int, size: int) -> None:
        # The first tag is the header of the codec; lengths that no picture has.
        if n > 10:
            data[at + 16 : at + 11 + size] = b"\xff" * (size - 5)

    path = with_tags(video, change)
    known = [t for t, _ in decoded(path) if t is not None]
    assert 3 < len(known) < 20
    assert times_of(path, EveryFrame()) == pytest.approx(known, abs=1e-3)
    # Frames in the middles of parts of those that there are, not of those that there should be.
    assert times_of(path, Uniform(3)) == pytest.approx([known[(2 * k + 1) * len(known) // 6] for k in range(3)], abs=1e-3)


def test_a_video_of_which_no_frame_comes_has_no_end(tmp_path: Path, make_video: MakeVideo) -> None:
    silent = tmp_path / "silent"
    silent.write_text("#!/bin/sh\n")
    silent.chmod(0o755)
    path = make_video(tmp_path / "a.h264", fps=10)
    with pytest.raises(MediaError, match=r"a\.h264 has no frame that can be decoded"):
        _ = Decoder(str(silent)).video(str(path)).end_s
    assert DECODER.video(str(path)).end_s == pytest.approx(1)


def test_frames_that_were_asked_for_and_do_not_come_are_an_error(tmp_path: Path, make_video: MakeVideo) -> None:
    path = make_video(tmp_path / "a.mp4", fps=10)
    with pytest.raises(MediaError, match=r"a\.mp4 gives 2 of 3 frames that were asked for"):
        times_of(path, AtTimes((0.1, 0.25, 0.4)))
    raw = make_video(tmp_path / "a.h264", fps=10)
    with pytest.raises(MediaError, match=r"a\.h264 gives 2 of 3 frames that were asked for"):
        times_of(raw, AtTimes((0.1, 0.25, 0.4)))


def test_titles_in_any_encoding_are_no_hindrance(tmp_path: Path, make_video: MakeVideo, ffmpeg_exe: str) -> None:
    plain, path = make_video(tmp_path / "plain.mkv"), tmp_path / "a.mkv"
    titled = ["-i", plain, "-c", "copy", "-metadata", b"title=caf\xe9", "-metadata:s:v", b"title=\xff\xfe", path]
    subprocess.run([ffmpeg_exe, "-nostdin", "-v", "error", *titled], check=True)
    assert b"caf\xe9" in path.read_bytes()
    assert times_of(path, EveryFrame()) == times_of(plain, EveryFrame())


# ---------------------------------------------------------------- limits


def test_all_that_is_asked_of_a_video_shares_one_limit_of_time(
    tmp_path: Path, make_video: MakeVideo, ffmpeg_exe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four passes of a third of a second each: none is too long by itself."""
    slow = tmp_path / "slow"
    slow.write_text(f'#!/bin/sh\ncase "$*" in *-version*|*lavfi*) exec {ffmpeg_exe} "$@";; esac\nsleep 0.35\nexec {ffmpeg_exe} "$@"\n')
    slow.chmod(0o755)
    monkeypatch.setattr(sampling_module, "PARTS_AT_ONCE", 2)
    path, decoder = make_video(tmp_path / "a.mp4"), Decoder(str(slow), Limits(timeout_s=1.2))
    assert len(times_of(path, AtTimes((0.1, 0.2)), decoder)) == 2
    with pytest.raises(MediaError, match=r"a\.mp4 was not decoded within 1\.2 seconds"):
        times_of(path, AtTimes(tuple(i / 10 for i in range(8))), decoder)


def test_frames_that_are_only_looked_at_are_not_counted(tmp_path: Path, make_video: MakeVideo) -> None:
    path, decoder = str(make_video(tmp_path / "a.mp4", fps=10)), Decoder(DECODER.executable, Limits(max_frames=9))
    with pytest.raises(MediaError, match="gives more frames than the limit of 9"):
        list(decoder.images(path, EveryFrame(), SMALL))
    assert len(list(decoder.video(path).images(EveryFrame(), SMALL, is_taken=False))) == 10


def test_more_sound_than_fits_is_an_error(tmp_path: Path, make_video: MakeVideo, ffmpeg_exe: str) -> None:
    video, path = make_video(tmp_path / "a.mp4", audio=True), tmp_path / "late.mkv"
    late = ["-i", video, "-itsoffset", "1500", "-i", video, "-map", "0:v", "-map", "1:a", "-c", "copy", path]
    subprocess.run([ffmpeg_exe, "-nostdin", "-v", "error", *late], check=True)
    endless = tmp_path / "endless"
    endless.write_text("#!/bin/sh\nexec head -c 300000000 /dev/zero\n")
    endless.chmod(0o755)
    for executable in (DECODER.executable, str(endless)):
        with pytest.raises(MediaError, match=r"late\.mkv has more sound than fits into the limit of 256 MB"):
            Decoder(executable, Limits(memory_mb=256)).sound(str(path), 48_000)
    assert DECODER.sound(str(path), 8).shape == pytest.approx((1501 * 8,), abs=8)


@pytest.mark.parametrize(("size", "expected"), [((2000, 2), (16384, 32)), ((2, 2000), (32, 16384)), ((640, 64), (320, 32))])
def test_pictures_of_any_shape_have_sides_that_can_be_stored(
    tmp_path: Path, make_video: MakeVideo, size: tuple[int, int], expected: tuple[int, int]
) -> None:
    path = make_video(tmp_path / "a.mkv", size=size, duration_s=0.1, arguments=["-c:v", "libx264"])
    ((_, data),) = DECODER.jpegs(str(path), AtRate(1), SMALL)
    (tmp_path / "a.jpg").write_bytes(data)
    with Image.open(tmp_path / "a.jpg") as picture:
        assert picture.size == expected


def test_pictures_that_come_out_too_large_are_an_error(tmp_path: Path, make_video: MakeVideo) -> None:
    path = make_video(tmp_path / "a.mkv", size=(64, 2), duration_s=0.1, arguments=["-c:v", "ffv1"])
    decoder = Decoder(DECODER.executable, Limits(max_pixels=10_000))
    with pytest.raises(MediaError, match=r"a\.mkv gives frames of 1024x32 pixels, more than the limit of 10000"):
        list(decoder.images(str(path), AtRate(1), SMALL))
