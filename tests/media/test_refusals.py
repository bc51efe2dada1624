"""What is no video, and what takes more than it may: errors that name the file, and cost nothing else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import MakeVideo
from tests.test_media import DECODER, SMALL, decode, images_of, times_of
from vbcli.errors import MediaError, VbcliError
from vbcli.media.containers import VideoInfo
from vbcli.media.decode import Decoder
from vbcli.media.filters import Geometry
from vbcli.media.limits import Limits
from vbcli.media.probe import Packets, probe_video
from vbcli.media.program import ffmpeg_build, find_ffmpeg
from vbcli.media.sampling import AtRate
from vbcli.media.video import Video

# ---------------------------------------------------------------- what is no video


def failure(path: Path) -> str:
    with pytest.raises(MediaError) as caught:
        list(DECODER.jpegs(str(path), AtRate(1), SMALL))
    return caught.value.message


def test_files_that_are_no_videos_are_errors_that_name_them(tmp_path: Path, make_video: MakeVideo, ffmpeg_exe: str) -> None:
    video = make_video(tmp_path / "good.mp4", audio=True)
    sound = tmp_path / "sound.mp4"
    subprocess.run([ffmpeg_exe, "-nostdin", "-v", "error", "-i", video, "-map", "0:a", "-c", "copy", sound], check=True)
    contents = {"text.mp4": b"A text is no video.\n" * 20, "empty.mkv": b"", "cut.mp4": video.read_bytes()[:600], "zero.avi": bytes(5000)}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder.mp4").mkdir()
    for name in (*contents, "sound.mp4", "folder.mp4", "missing.mp4"):
        assert str(tmp_path / name) in failure(tmp_path / name)


def test_a_video_that_breaks_off_gives_the_frames_it_has(tmp_path: Path, make_video: MakeVideo) -> None:
    """The index is at the front, the pictures are not all there."""
    whole = make_video(tmp_path / "whole.mp4", duration_s=3, arguments=["-movflags", "faststart"])
    path = tmp_path / "cut.mp4"
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    times = times_of(path, 10)
    assert times == times_of(whole, 10)[: len(times)]
    assert 1 < len(times) < 30


class Trusting(Decoder):
    """As if reading the header had let a file pass: what ffmpeg itself refuses."""

    def video(self, path: str) -> Video:
        video = super().video(path)
        video.info = VideoInfo(0, 1.0, 64, 48, 10.0, "h264", False, 0.0, True)
        times = np.arange(10) / 10
        video._packets = Packets(times, times, times == 0, times < 0, times < 0, True)
        return video


@pytest.mark.parametrize("kind", ["m3u8", "ffconcat", "concat:"])
def test_lists_of_other_files_are_not_followed(tmp_path: Path, make_video: MakeVideo, ffmpeg_exe: str, kind: str) -> None:
    """A file from outside must not make us read, or fetch, another one."""
    secret = make_video(tmp_path / "secret.ts")
    texts = {
        "m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{secret.name}\n#EXT-X-ENDLIST\n",
        "ffconcat": f"ffconcat version 1.0\nfile {secret.name}\n",
        "concat:": "",
    }
    path = tmp_path / ("list.mp4" if texts[kind] else f"concat:{secret.name}")
    path.write_text(texts[kind])
    if texts[kind]:
        allow = ["-f", "hls" if kind == "m3u8" else "concat", "-allowed_extensions", "ALL"][: 4 if kind == "m3u8" else 2]
        followed = subprocess.run([ffmpeg_exe, "-nostdin", "-v", "error", *allow, "-i", path, "-f", "null", "-"], capture_output=True)
        assert followed.returncode == 0, followed.stderr
    with pytest.raises(MediaError, match=re.escape(str(path))):
        probe_video(str(path))
    with pytest.raises(MediaError, match=re.escape(str(path))):
        list(Trusting(DECODER.executable).jpegs(str(path), AtRate(1), SMALL))


def test_an_ffmpeg_that_dies_costs_the_video_and_no_more(tmp_path: Path, make_video: MakeVideo, ffmpeg_exe: str) -> None:
    path = make_video(tmp_path / "a.mp4", duration_s=2)
    for n_bytes, status in ((0, 1), (0, 0), (300, 1), (300, 0), (20_000, 1)):
        dying = tmp_path / f"dies-{n_bytes}-{status}"
        is_asked = 'case "$*" in *-version*|*lavfi*) exec "$ffmpeg" "$@";; esac'  # what it can do; it dies at its work
        script = f'#!/bin/sh\nffmpeg="{ffmpeg_exe}"\n{is_asked}\n"$ffmpeg" "$@" 2>/dev/null | head -c {n_bytes}\nexit {status}\n'
        dying.write_text(script)
        dying.chmod(0o755)
        for iter_frames in (Decoder(str(dying)).jpegs, Decoder(str(dying)).images):
            with pytest.raises(MediaError, match=str(path)):
                list(iter_frames(str(path), AtRate(10), Geometry(64)))


def test_an_ffmpeg_is_ended_when_nobody_reads_on(tmp_path: Path, make_video: MakeVideo, ffmpeg_exe: str) -> None:
    path = make_video(tmp_path / "a.mp4", duration_s=3)
    noting = tmp_path / "noting"
    noting.write_text(f'#!/bin/sh\necho $$ > "{tmp_path}/pid"\nexec "{ffmpeg_exe}" "$@"\n')
    noting.chmod(0o755)
    frames = Decoder(str(noting)).images(str(path), AtRate(10), Geometry(600))
    next(frames)
    process_id = int((tmp_path / "pid").read_text())
    os.kill(process_id, 0)
    # An interrupt at the terminal goes to a whole group: it must not end the decoder before it ends us.
    assert os.getpgid(process_id) != os.getpgid(0)
    frames.close()  # type: ignore[attr-defined]
    with pytest.raises(ProcessLookupError):
        os.kill(process_id, 0)


def test_an_ffmpeg_that_is_not_there_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(VbcliError, match=r"ffmpeg '.*none' does not exist"):
        find_ffmpeg(str(tmp_path / "none"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(VbcliError, match="no ffmpeg on PATH"):
        find_ffmpeg("system")
    (tmp_path / "ffmpeg").write_text("#!/bin/sh\necho ffmpeg version 1 Copyright nobody\n")
    (tmp_path / "ffmpeg").chmod(0o755)
    assert ffmpeg_build(find_ffmpeg("system")) == "ffmpeg version 1"


# ---------------------------------------------------------------- real files


def test_hostile_files_give_true_times_or_an_error(shared_data: Path) -> None:
    paths = sorted(p for p in (shared_data / "hostile").iterdir() if p.suffix != ".json")
    assert len(paths) > 40
    n_refused = 0
    for path in paths:
        try:
            info = probe_video(str(path))
            times = times_of(path, 2)
        except MediaError:
            assert str(path) in failure(path)
            n_refused += 1
            continue
        assert times == sorted(set(times))
        known = np.array([float(t) for t, _ in decode(path, info.stream_index, until_s=3)])
        assert max(float(np.abs(known - t).min()) for t in times if t < 3) < 1e-3, path
    assert n_refused < 12


# ---------------------------------------------------------------- limits


def hanging_ffmpeg(folder: Path, exe: str) -> str:
    """An ffmpeg that never comes to work, but says what it can do."""
    path = folder / "hanging"
    path.write_text(f'#!/bin/sh\ncase "$*" in *-version*|*lavfi*) exec {exe} "$@";; esac\nexec sleep 60\n')
    path.chmod(0o755)
    return str(path)


def test_a_video_that_takes_too_long_is_given_up(tmp_path: Path, make_video: MakeVideo, ffmpeg_exe: str) -> None:
    path = str(make_video(tmp_path / "a.mp4"))
    started = time.monotonic()
    with pytest.raises(MediaError, match=r"a\.mp4 was not decoded within 0\.5 seconds"):
        list(Decoder(hanging_ffmpeg(tmp_path, ffmpeg_exe), Limits(timeout_s=0.5)).jpegs(path, AtRate(2), SMALL))
    assert time.monotonic() - started < 5


def test_what_is_done_with_the_frames_costs_no_time(tmp_path: Path, make_video: MakeVideo) -> None:
    path, n = str(make_video(tmp_path / "a.mp4", duration_s=2)), 0
    for _ in Decoder(DECODER.executable, Limits(timeout_s=1)).images(path, AtRate(4), SMALL):
        time.sleep(0.3)
        n += 1
    assert n == 8


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(max_frames=3), "gives more frames than the limit of 3"),
        (Limits(max_pixels=64 * 48 - 1), "has frames of 64x48 pixels, more than the limit of 3071"),
    ],
)
def test_a_video_that_takes_too_much_is_given_up(tmp_path: Path, make_video: MakeVideo, limits: Limits, message: str) -> None:
    path = str(make_video(tmp_path / "a.mp4", duration_s=2))
    with pytest.raises(MediaError, match=re.escape(message)):
        list(Decoder(DECODER.executable, limits).images(path, AtRate(2), SMALL))


def test_ffmpeg_itself_keeps_the_limits(tmp_path: Path, make_video: MakeVideo) -> None:
    path = str(make_video(tmp_path / "a.mp4"))
    with pytest.raises(MediaError, match=r"a\.mp4 cannot be decoded: .*exceeds specified max pixel count 100"):
        list(Trusting(DECODER.executable, Limits(max_pixels=100)).images(path, AtRate(2), SMALL))
    large = str(make_video(tmp_path / "large.avi", size=(7680, 4320), duration_s=0.1, arguments=["-c:v", "mjpeg", "-pix_fmt", "yuvj420p"]))
    assert len(images_of(large)) == 1
    with pytest.raises(MediaError, match=r"large\.avi "):
        list(Trusting(DECODER.executable, Limits(memory_mb=256)).images(large, AtRate(2), SMALL))


@pytest.mark.parametrize(("signal_name", "action"), [("SIGSEGV", "kill -SEGV $$"), ("SIGKILL", "kill -KILL $$")])
def test_a_file_that_brings_the_reader_down_costs_itself(
    tmp_path: Path, make_video: MakeVideo, monkeypatch: pytest.MonkeyPatch, signal_name: str, action: str
) -> None:
    path = str(make_video(tmp_path / "a.mp4"))
    dying = tmp_path / "python"
    dying.write_text(f"#!/bin/sh\necho ready\nread line\n{action}\n")
    dying.chmod(0o755)
    limits = Limits(memory_mb=3000 + len(action) + (signal_name == "SIGKILL"))  # a reader of its own
    with monkeypatch.context() as patched:
        patched.setattr(sys, "executable", str(dying))
        with pytest.raises(MediaError, match=rf"a\.mp4 brings down the process that reads it \(signal {signal_name}\)"):
            probe_video(path, limits)
    assert probe_video(path, limits).width_px == 64


def test_a_reader_that_does_not_start_is_no_fault_of_the_file(
    tmp_path: Path, make_video: MakeVideo, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(make_video(tmp_path / "a.mp4"))
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(VbcliError, match="the process that reads videos does not start") as caught:
        probe_video(path, Limits(memory_mb=3100))
    assert not isinstance(caught.value, MediaError)


def test_programs_in_the_folder_of_the_user_are_not_run(tmp_path: Path, make_video: MakeVideo, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(make_video(tmp_path / "a.mp4"))
    (tmp_path / "json.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    assert probe_video(path, Limits(memory_mb=3200)).width_px == 64


def test_a_file_that_makes_the_reader_hang_costs_itself(tmp_path: Path, make_video: MakeVideo) -> None:
    path = str(make_video(tmp_path / "a.mp4"))
    os.mkfifo(tmp_path / "waits.mp4")
    started = time.monotonic()
    with pytest.raises(MediaError, match=r"waits\.mp4 was not read within 1 seconds"):
        probe_video(str(tmp_path / "waits.mp4"), Limits(timeout_s=1))
    assert time.monotonic() - started < 4
    assert probe_video(path).width_px == 64
