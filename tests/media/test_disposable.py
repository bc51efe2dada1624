"""What is told to be needed by no other frame is not: without it the others are decoded to the same pixels."""

from __future__ import annotations

import os
from pathlib import Path

import av
import numpy as np
import pytest

from tests.conftest import MakeVideo, run_ffmpeg
from vbcli.media.containers import read_contents
from vbcli.media.decode import Decoder
from vbcli.media.disposable import PacketKind, beginnings
from vbcli.media.filters import Geometry
from vbcli.media.passes import without_packets
from vbcli.media.probe import read_contents as read_packets
from vbcli.media.program import can_leave_out, find_ffmpeg
from vbcli.media.sampling import AtRate, AtTimes
from vbcli.media.video import Video

FFMPEG = find_ffmpeg()
DECODER = Decoder(FFMPEG)
H264 = ["-c:v", "libx264", "-bf", "3", "-g", "24", "-x264-params", "b-pyramid=normal:scenecut=0"]
H265 = ["-c:v", "libx265", "-bf", "4", "-g", "24", "-x265-params", "log-level=none:b-pyramid=1:temporal-layers=1"]
CASES = [("a.mp4", H264), ("a.mkv", H264), ("open.mp4", [*H264, "-flags", "-cgop"]), ("b.mp4", H265), ("b.mkv", H265)]


def pixels(path: Path, is_left_out: np.ndarray | None = None) -> dict[int, bytes]:
    """Of each frame by its time, by PyAV's decoder; packets may be left out."""
    found: dict[int, bytes] = {}
    with av.open(os.fsdecode(path)) as container:
        stream = container.streams.video[0]
        for n, packet in enumerate(container.demux(stream)):
            if packet.size and is_left_out is not None and is_left_out[n]:
                continue
            for frame in packet.decode():
                assert isinstance(frame, av.VideoFrame)
                assert frame.pts is not None
                found[frame.pts] = frame.to_ndarray().tobytes()
    return found


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_the_other_frames_are_the_same_without_them(tmp_path: Path, make_video: MakeVideo, name: str, arguments: list[str]) -> None:
    path = make_video(tmp_path / name, duration_s=4, fps=24, arguments=arguments)
    is_disposable = read_packets(str(path))[1].is_disposable
    assert 0.2 < is_disposable.mean() < 0.8
    whole, rest = pixels(path), pixels(path, is_disposable)
    assert len(rest) == len(whole) - is_disposable.sum()
    assert all(whole[pts] == image for pts, image in rest.items())


def test_every_other_frame_is_needed(tmp_path: Path, make_video: MakeVideo) -> None:
    """No frame is kept that could go: without any one that is called needed, others change."""
    path = make_video(tmp_path / "a.mp4", duration_s=1, fps=24, arguments=H264)
    is_disposable = read_packets(str(path))[1].is_disposable
    whole = pixels(path)
    for n in np.flatnonzero(~is_disposable)[:-1].tolist():
        rest = pixels(path, np.arange(len(is_disposable)) == n)
        assert len(rest) != len(whole) - 1 or any(whole[pts] != image for pts, image in rest.items()), n


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_a_decoder_can_begin_where_a_packet_says_so(tmp_path: Path, make_video: MakeVideo, name: str, arguments: list[str]) -> None:
    path = make_video(tmp_path / name, duration_s=4, fps=24, arguments=arguments)
    packets, whole = read_packets(str(path))[1], pixels(path)
    begins = np.flatnonzero(packets.is_beginning)
    # An open group of pictures begins with one that those before it are shown after.
    assert len(begins) >= (1 if name == "open.mp4" else 4)
    for n in begins.tolist():
        rest = pixels(path, np.arange(len(packets.shown_s)) < n)
        assert sorted(rest) == sorted(whole)[-len(rest) :]
        assert all(whole[pts] == image for pts, image in rest.items())


def test_parameter_sets_on_the_way_replace_those_of_the_header() -> None:
    def kind(*, is_anew: bool = True, has_sets: bool = False, has_all_sets: bool = False) -> PacketKind:
        return PacketKind(0, False, is_anew, has_sets, has_all_sets)

    some, every = kind(has_sets=True), kind(has_sets=True, has_all_sets=True)
    assert list(beginnings([kind(), kind(is_anew=False), kind()])) == [1, 0, 1]
    assert list(beginnings([kind(), every, kind(), every, some])) == [1, 1, 0, 1, 0]
    assert list(beginnings([kind(), kind(is_anew=False, has_sets=True), kind()])) == [1, 0, 0]
    assert beginnings([kind(), None, kind()]) == b""


@pytest.mark.parametrize("arguments", [["-c:v", "libx264", "-bf", "0"], ["-c:v", "mpeg4", "-bf", "2"]])
def test_where_it_is_not_known_nothing_is_left_out(tmp_path: Path, make_video: MakeVideo, arguments: list[str]) -> None:
    path = make_video(tmp_path / "a.mp4", arguments=arguments)
    assert not read_packets(str(path))[1].is_disposable.any()
    stream = make_video(tmp_path / "a.ts", arguments=H264)
    assert read_contents(str(stream))[1].is_disposable == ""


def test_packets_are_dropped_by_their_numbers(tmp_path: Path, make_video: MakeVideo) -> None:
    """What ffmpeg copies then is what is left: 230 packets, which one number does not hold."""
    path, target = make_video(tmp_path / "a.avi", duration_s=23, arguments=["-c:v", "mjpeg"]), tmp_path / "rest.avi"
    is_left_out = np.random.default_rng(0).random(230) < 0.5
    is_left_out[100:150] = False
    text = without_packets(is_left_out)
    assert text is not None
    assert can_leave_out(FFMPEG)
    run_ffmpeg(FFMPEG, "-bsf:0", text, "-i", str(path), "-c", "copy", "-fps_mode", "passthrough", str(target))
    with av.open(str(path)) as container:
        kept = [bytes(p) for n, p in enumerate(container.demux(video=0)) if p.size and not is_left_out[n]]
    with av.open(str(target)) as container:
        assert [bytes(p) for p in container.demux(video=0) if p.size] == kept
    assert without_packets(np.ones(10_000_000, np.bool_)) is None


def frames(path: Path, sampling: AtRate | AtTimes) -> list[tuple[float, bytes]]:
    return list(DECODER.jpegs(str(path), sampling, Geometry(48)))


def all_decoded(path: Path, sampling: AtRate | AtTimes, monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, bytes]]:
    with monkeypatch.context() as patch:
        patch.setattr(Video, "_hurried", lambda *_: None)
        return frames(path, sampling)


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_frames_are_the_same_in_haste(
    tmp_path: Path, make_video: MakeVideo, monkeypatch: pytest.MonkeyPatch, name: str, arguments: list[str]
) -> None:
    path = make_video(tmp_path / name, duration_s=6, fps="24000/1001", arguments=arguments)
    for sampling in (AtRate(2), AtRate(7), AtRate(2, (1.3, 4.1)), AtTimes(tuple(t for t, _ in frames(path, AtRate(3))))):
        video = DECODER.video(str(path))
        assert video._is_simple(sampling)
        assert video._packets.disposable_but(sampling.choose(video._packets.shown_s, video._packets.is_key)).any()
        assert frames(path, sampling) == all_decoded(path, sampling, monkeypatch)


def test_of_frames_of_one_time_the_first_is_taken(tmp_path: Path, make_video: MakeVideo, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_video(tmp_path / "a.mp4", duration_s=6, fps=24, variable=True, arguments=H264)
    shown = DECODER.video(str(path))._packets.shown_s
    assert len(np.unique(shown)) < len(shown)
    assert frames(path, AtRate(7)) == all_decoded(path, AtRate(7), monkeypatch)


@pytest.mark.parametrize("seed", range(4))
def test_damage_is_met_as_without_haste(tmp_path: Path, make_video: MakeVideo, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    path = make_video(tmp_path / "a.mp4", size=(160, 120), duration_s=6, fps=24, arguments=[*H264, "-movflags", "faststart"])
    data, rng = bytearray(path.read_bytes()), np.random.default_rng(seed)
    for place in rng.integers(len(data) // 3, len(data), 12).tolist():
        data[place] ^= 0xFF
    path.write_bytes(data)
    assert frames(path, AtRate(4)) == all_decoded(path, AtRate(4), monkeypatch)


@pytest.mark.parametrize("arguments", [H264, ["-c:v", "libx264", "-bf", "0"]])
def test_frames_are_the_same_in_several_threads(tmp_path: Path, make_video: MakeVideo, arguments: list[str]) -> None:
    path = make_video(tmp_path / "a.mp4", size=(160, 120), duration_s=6, fps=24, arguments=[*arguments, "-movflags", "faststart"])
    threaded = Decoder(FFMPEG, threads=4)
    assert list(threaded.jpegs(str(path), AtRate(4), Geometry(48))) == frames(path, AtRate(4))
    data, rng = bytearray(path.read_bytes()), np.random.default_rng(3)
    for place in rng.integers(len(data) // 3, len(data), 12).tolist():
        data[place] ^= 0xFF
    path.write_bytes(data)
    assert list(threaded.jpegs(str(path), AtRate(4), Geometry(48))) == frames(path, AtRate(4))
