"""Probing and decoding, against PyAV's own decoder and the sampling rule applied by brute force."""

from __future__ import annotations

import io
import math
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from vbcli.errors import MediaError
from vbcli.media import sampling as sampling_module
from vbcli.media.containers import open_path
from vbcli.media.decode import Decoder
from vbcli.media.filters import Geometry
from vbcli.media.formats import FORMATS
from vbcli.media.probe import probe_video
from vbcli.media.program import find_ffmpeg
from vbcli.media.sampling import AtRate, AtTimes, EveryFrame, KeyFrames, Uniform

MakeVideo = Callable[..., Path]
SMALL = Geometry(32)
DECODER = Decoder(find_ffmpeg())
LOSSLESS = ["-c:v", "ffv1"]


def decode(path: Path | bytes, stream_index: int, until_s: float = math.inf) -> list[tuple[Fraction, av.VideoFrame]]:
    """Frames by PyAV with exact times from the container's start; damaged packets are passed over."""
    frames = []
    with av.open(os.fsdecode(path)) as container:
        start = Fraction(container.start_time or 0, av.time_base)
        for packet in container.demux(container.streams[stream_index]):
            try:
                decoded = packet.decode()
            except av.error.InvalidDataError:
                continue
            for frame in decoded:
                assert isinstance(frame, av.VideoFrame)
                assert frame.pts is not None
                assert frame.time_base is not None
                frames.append((frame.pts * frame.time_base - start, frame))
            if frames and frames[-1][0] > until_s:
                break
    return frames


def sampled_times(times: Sequence[Fraction], fps: float) -> list[Fraction]:
    """For k = 0, 1, 2, ... the first time that is k/fps or later; PyAV gives the start in whole microseconds only."""
    step, slack = 1 / Fraction(fps), Fraction(1, 500_000)
    n_steps = math.floor((times[-1] + slack) / step) + 1
    return sorted({next(t for t in times if t >= k * step - slack) for k in range(n_steps)})


def times_of(path: Path, fps: float) -> list[float]:
    return [t for t, _ in DECODER.jpegs(str(path), AtRate(fps), SMALL)]


def images_of(path: Path | str, fps: float = 1, geometry: Geometry = SMALL) -> list[np.ndarray]:
    return [x for _, x in DECODER.images(str(path), AtRate(fps), geometry)]


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """Mean absolute difference of brightness; colours are stored at half the size, and programs differ in how they fill in."""
    weights = np.array([0.299, 0.587, 0.114])
    return float(np.abs(a @ weights - b @ weights).mean())


# ---------------------------------------------------------------- times

VIDEOS: dict[str, dict[str, Any]] = {
    "plain.mp4": {},
    "ntsc.mp4": {"fps": "30000/1001", "duration_s": 1.5},
    "film.mkv": {"fps": "24000/1001", "duration_s": 1.5, "audio": True},
    "fast.mov": {"fps": 60},
    "slow.mp4": {"fps": 1.5, "duration_s": 4},
    "uneven.mp4": {"fps": 12, "duration_s": 2, "variable": True},
    "uneven.webm": {"fps": 12, "duration_s": 2, "variable": True, "arguments": ["-c:v", "libvpx", "-b:v", "200k"]},
    "late.ts": {"fps": 25, "audio": True, "arguments": ["-output_ts_offset", "71.3"]},
    "old.avi": {"fps": 15, "arguments": ["-c:v", "mpeg4", "-bf", "2"]},
    "reordered.mp4": {"fps": 30, "arguments": ["-c:v", "libx264", "-bf", "3"]},
    "moving.gif": {"fps": 10},
    "turned.mp4": {"rotation": 90},
    "odd.mkv": {"size": (61, 47), "arguments": ["-c:v", "ffv1"]},
    "call.h261": {"size": (176, 144), "fps": "30000/1001", "arguments": ["-f", "h261"]},
    "pictures.mjpeg": {"arguments": ["-c:v", "mjpeg", "-pix_fmt", "yuvj420p", "-f", "mjpeg"]},
    "game.cpk": {"arguments": ["-c:v", "cinepak", "-pix_fmt", "rgb24", "-f", "film_cpk"]},
}


@pytest.mark.parametrize("name", VIDEOS)
def test_frames_are_sampled_by_the_rule_at_pyavs_times(tmp_path: Path, make_video: MakeVideo, name: str) -> None:
    path = make_video(tmp_path / name, **VIDEOS[name])
    times = [t for t, _ in decode(path, probe_video(str(path)).stream_index)]
    assert len(times) > 5
    for fps in (2, 7.5, 1000):
        assert times_of(path, fps) == pytest.approx([float(t) for t in sampled_times(times, fps)], abs=1e-3)


def test_each_container_that_is_opened_is_one_of_ffmpegs(ffmpeg_exe: str) -> None:
    listed = subprocess.run([ffmpeg_exe, "-hide_banner", "-demuxers"], capture_output=True, text=True, check=True).stdout
    known = {name for line in listed.splitlines() if line.startswith(" D") for name in line.split()[1].split(",")}
    assert set(FORMATS.split(",")) - known == set()


def test_a_video_that_begins_after_the_sound_keeps_its_times(tmp_path: Path, make_video: MakeVideo, ffmpeg_exe: str) -> None:
    plain, path = make_video(tmp_path / "plain.mp4", audio=True), tmp_path / "late.mkv"
    late = ["-i", plain, "-itsoffset", "0.7", "-i", plain, "-map", "0:a", "-map", "1:v", "-c", "copy", path]
    subprocess.run([ffmpeg_exe, "-nostdin", "-v", "error", *late], check=True)
    assert times_of(path, 2) == pytest.approx([0.7, 1.0, 1.5], abs=1e-3)


@settings(max_examples=15)
@example([40] * 40, 25)  # 1.16 s * 25 is less than 29 by the last bit
@given(
    st.lists(st.integers(1, 900), min_size=1, max_size=20),
    st.one_of(st.sampled_from([0.5, 1, 2, 3, 25, 30000 / 1001]), st.floats(0.3, 40)),
)
def test_the_rule_holds_for_any_times(tmp_path_factory: pytest.TempPathFactory, steps_ms: list[int], fps: float) -> None:
    path = tmp_path_factory.mktemp("uneven") / "uneven.nut"
    times_ms = [sum(steps_ms[:i]) for i in range(len(steps_ms))]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=1000)
        stream.width, stream.height, stream.pix_fmt, stream.time_base = 16, 16, "yuv420p", Fraction(1, 1000)
        stream.codec_context.time_base = Fraction(1, 1000)
        for time_ms in times_ms:
            frame = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), "rgb24")
            frame.pts, frame.time_base = time_ms, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert times_of(path, fps) == pytest.approx([float(t) for t in sampled_times([Fraction(t, 1000) for t in times_ms], fps)], abs=1e-6)


def test_a_picture_that_changes_its_size_on_the_way_adds_no_frame(tmp_path: Path, make_video: MakeVideo) -> None:
    parts = [
        make_video(tmp_path / "a.ts", fps=8, duration_s=1.25, arguments=["-c:v", "mpeg2video"]),
        make_video(tmp_path / "b.ts", fps=8, size=(48, 96), arguments=["-c:v", "mpeg2video", "-output_ts_offset", "1.25"]),
    ]
    path = tmp_path / "both.ts"
    path.write_bytes(b"".join(p.read_bytes() for p in parts))
    times = [t for t, _ in decode(path, 0)]
    for fps in (1, 2, 3):
        assert times_of(path, fps) == pytest.approx([float(t) for t in sampled_times(times, fps)], abs=1e-3)
    assert {x.shape for x in images_of(path, geometry=Geometry(32, 32))} == {(32, 32, 3)}


# ---------------------------------------------------------------- pictures


def test_jpegs_are_the_same_bytes_again_and_show_the_frames(tmp_path: Path, make_video: MakeVideo) -> None:
    path = make_video(tmp_path / "a.mkv", fps=10, duration_s=2, arguments=LOSSLESS)
    runs = [list(DECODER.jpegs(str(path), AtRate(2), SMALL, quality=2)) for _ in range(2)]
    assert runs[0] == runs[1]
    pictures = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for _, data in runs[0]]
    for picture, image in zip(pictures, images_of(path, fps=2), strict=True):
        assert difference(picture, image) < 6
    coarse = list(DECODER.jpegs(str(path), AtRate(2), SMALL, quality=31))
    assert sum(len(d) for _, d in coarse) < 0.7 * sum(len(d) for _, d in runs[0])


@pytest.mark.parametrize(
    ("size", "geometry", "expected"),
    [
        ((64, 48), Geometry(32), (42, 32)),
        ((48, 64), Geometry(32), (32, 42)),
        ((61, 47), Geometry(32), (42, 32)),
        ((64, 48), Geometry(96), (128, 96)),
        ((64, 64), Geometry(32), (32, 32)),
        ((64, 48), Geometry(32, 32), (32, 32)),
        ((48, 64), Geometry(40, 24), (24, 24)),
        ((64, 48), Geometry((30, 50)), (50, 30)),
        ((64, 48), Geometry((30, 50), 20), (20, 20)),
    ],
)
def test_pixels_are_those_of_a_bicubic_resize_by_pillow(
    tmp_path: Path, make_video: MakeVideo, size: tuple[int, int], geometry: Geometry, expected: tuple[int, int]
) -> None:
    path = make_video(tmp_path / "a.mkv", size=size, arguments=LOSSLESS)
    (image, *_) = images_of(path, geometry=geometry)
    assert image.shape == (expected[1], expected[0], 3)
    picture = Image.fromarray(decode(path, 0)[0][1].to_ndarray(format="rgb24"))
    assert picture.size == size
    if isinstance(geometry.resize_px, tuple):
        height, width = geometry.resize_px
    else:
        width, height = (max(geometry.resize_px, 2 * round(side * geometry.resize_px / min(size) / 2)) for side in size)
    side = geometry.crop_px
    resized = np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))
    if side is not None:
        top, left = (height - side) // 2, (width - side) // 2
        resized = resized[top : top + side, left : left + side]
    shifted = [difference(np.roll(image, step, axis), resized) for step in (-2, 2) for axis in (0, 1)]
    assert difference(image, resized) < min(3, *shifted)


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_a_turned_picture_is_turned_back(tmp_path: Path, make_video: MakeVideo, rotation: int) -> None:
    path = make_video(tmp_path / "turned.mp4", rotation=rotation)
    (image, *_) = images_of(path, geometry=Geometry(48))
    upright = decode(path, 0)[0][1].to_ndarray(format="rgb24")
    assert upright.shape == (48, 64, 3)
    differences = [difference(image, np.rot90(upright, k)) for k in range(4) if np.rot90(upright, k).shape == image.shape]
    assert difference(image, np.rot90(upright, rotation // 90)) == min(differences) < 8
    assert max(differences) > 30


def test_pixels_that_are_not_square_are_stretched(tmp_path: Path, make_video: MakeVideo) -> None:
    path = make_video(tmp_path / "wide.mkv", size=(64, 48), arguments=["-aspect", "16:9"])
    assert images_of(path)[0].shape == (32, 56, 3)


# ---------------------------------------------------------------- which stream


def test_probing_says_what_the_container_holds(tmp_path: Path, make_video: MakeVideo) -> None:
    info = probe_video(str(make_video(tmp_path / "a.mp4", size=(64, 48), fps="30000/1001", duration_s=2.002, audio=True)))
    assert (info.width_px, info.height_px, info.codec, info.has_audio) == (64, 48, "h264", True)
    assert info.fps == pytest.approx(30000 / 1001)
    assert info.duration_s == pytest.approx(2.002, abs=1e-3)
    assert not probe_video(str(make_video(tmp_path / "b.mkv"))).has_audio
    assert probe_video(str(tmp_path / "b.mkv")).duration_s == pytest.approx(1.0, abs=1e-3)


def test_the_best_of_several_streams_is_taken_and_never_a_cover(tmp_path: Path, make_video: MakeVideo, ffmpeg_exe: str) -> None:
    small, large = make_video(tmp_path / "small.mp4", size=(32, 32)), make_video(tmp_path / "large.mp4", audio=True)
    cover = tmp_path / "cover.png"
    Image.new("RGB", (400, 300), "red").save(cover)
    run = [ffmpeg_exe, "-nostdin", "-v", "error"]
    two, covered, sound = tmp_path / "two.mp4", tmp_path / "covered.mp4", tmp_path / "sound.m4a"
    subprocess.run([*run, "-i", small, "-i", large, "-map", "0:v", "-map", "1", "-c", "copy", two], check=True)
    cover_first = ["-map", "0", "-map", "1:v", "-c", "copy", "-disposition:v:0", "attached_pic", covered]
    subprocess.run([*run, "-i", cover, "-i", large, *cover_first], check=True)
    cover_only = ["-map", "1:a", "-map", "0", "-c", "copy", "-disposition:v:0", "attached_pic", sound]
    subprocess.run([*run, "-i", cover, "-i", large, *cover_only], check=True)
    (expected, *_) = images_of(large)
    for path in (two, covered):
        with av.open(str(path)) as container:
            assert len(container.streams.video) == 2
        info = probe_video(str(path))
        assert (info.width_px, info.height_px) == (64, 48)
        assert np.array_equal(images_of(path)[0], expected)
    with av.open(str(sound)) as container:
        assert len(container.streams.video) == 1
    with pytest.raises(MediaError, match=rf"{sound} has no video stream"):
        probe_video(str(sound))


# ---------------------------------------------------------------- names

NAMES = [
    b"with  spaces.mp4", b"-dash.mp4", "ünïcøde 視頻 🎬.mp4".encode(), b"new\nline.mp4", b"latin-\xe9\xff.mp4", b"100%.mp4",
    b"%41.mp4", b"%d.mp4",
    b"\xff%41.mp4", b"quote'\".mp4", b"file:pipe:0.mp4", b"[a]*?{b}.mp4", b"back\\slash,;=.mp4",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_any_file_name_will_do(tmp_path: Path, video_folder: Path, name: bytes) -> None:
    from vbcli.listing import list_videos

    raw = os.path.join(os.fsencode(tmp_path), name)
    shutil.copy(os.fsencode(video_folder / "a.mp4"), raw)
    # What `escape_name` would make of other files must not hide this one.
    (found,) = list_videos(tmp_path).videos
    assert found.video_id.isprintable() or b"\n" in name
    assert open_path(found.path) == raw
    assert np.array_equal(images_of(found.path), images_of(video_folder / "a.mp4"))


def test_a_file_that_is_gone_is_not_taken_for_another(tmp_path: Path, video_folder: Path) -> None:
    shutil.copy(video_folder / "a.mp4", tmp_path / "a b.mp4")
    with pytest.raises(MediaError, match=r"a%20b\.mp4 cannot be opened: No such file"):
        probe_video(str(tmp_path / "a%20b.mp4"))


# ---------------------------------------------------------------- which frames


def uneven_video(make_video: MakeVideo, path: Path) -> Path:
    """Variable frame rate, a key frame every seven frames."""
    return make_video(
        path, fps=12, duration_s=4, variable=True, arguments=["-fps_mode", "vfr", "-g", "7", "-sc_threshold", "0", "-bf", "2"]
    )


def true_times(path: Path) -> list[float]:
    times = [float(t) for t, _ in decode(path, 0)]
    assert len(set(np.diff(times).round(3))) > 2
    return times


def test_every_frame_and_key_frames_are_those_of_pyav(tmp_path: Path, make_video: MakeVideo) -> None:
    path = uneven_video(make_video, tmp_path / "a.mp4")
    decoded = decode(path, 0)
    assert [t for t, _ in DECODER.jpegs(str(path), EveryFrame(), SMALL)] == pytest.approx(true_times(path), abs=1e-6)
    keys = [float(t) for t, frame in decoded if frame.key_frame]
    assert 1 < len(keys) < len(decoded) / 2
    assert [t for t, _ in DECODER.jpegs(str(path), KeyFrames(), SMALL)] == pytest.approx(keys, abs=1e-6)


@pytest.mark.parametrize("n", [1, 2, 7, 47, 48, 500])
def test_so_many_frames_are_taken_in_the_middles_of_equal_parts(tmp_path: Path, make_video: MakeVideo, n: int) -> None:
    path = uneven_video(make_video, tmp_path / "a.mp4")
    times = true_times(path)
    n_taken = min(n, len(times))
    # The middle of part k of n, in frames: (2k + 1) F / 2n.
    wanted = [times[(2 * k + 1) * len(times) // (2 * n_taken)] for k in range(n_taken)]
    found = [t for t, _ in DECODER.jpegs(str(path), Uniform(n), SMALL)]
    assert found == pytest.approx(wanted, abs=1e-6)


def test_many_chosen_times_are_taken_in_several_passes(tmp_path: Path, make_video: MakeVideo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling_module, "PARTS_AT_ONCE", 5)
    path = uneven_video(make_video, tmp_path / "a.mp4")
    times = true_times(path)[::3]
    assert [t for t, _ in DECODER.images(str(path), AtTimes(tuple(times)), SMALL)] == pytest.approx(times, abs=1e-6)
