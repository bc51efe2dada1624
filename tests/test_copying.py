"""Copied cuts, decoded again and compared with the source."""

from __future__ import annotations

import os
from pathlib import Path

import av
import numpy as np
import pytest

from tests.conftest import run_ffmpeg
from tests.test_rendering import counter_video, frames
from vbcli.copying import copy_cuts
from vbcli.errors import MediaError
from vbcli.media.limits import Limits
from vbcli.media.probe import entry_times
from vbcli.rendering import Cut


def test_cuts_at_key_frames_are_copied_bit_by_bit(tmp_path: Path, ffmpeg_exe: str) -> None:
    plain = counter_video(ffmpeg_exe, tmp_path / "plain.mp4")
    for name, options in (("it's closed.mp4", ["-bf", "3"]), ("open.mp4", ["-bf", "3", "-x264-params", "open-gop=1"])):
        keys = ["-c:v", "libx264", "-g", "10", "-keyint_min", "10", "-sc_threshold", "0", *options, "-c:a", "copy"]
        run_ffmpeg(ffmpeg_exe, "-i", str(plain), *keys, str(tmp_path / name))
    video = str(tmp_path / "it's closed.mp4")
    source = [picture for _, picture in frames(Path(video))]
    for spans, numbers in (
        ([(1, 2), (3, 4)], [*range(10, 20), *range(30, 40)]),
        ([(2, 3), (0, 1)], [*range(20, 30), *range(10)]),
        ([(0, 4)], list(range(40))),
    ):
        cuts = [Cut(video, *span) for span in spans]
        assert copy_cuts(cuts, tmp_path / "copied.mp4")
        copied = frames(tmp_path / "copied.mp4")
        assert [time for time, _ in copied] == pytest.approx(np.arange(len(numbers)) / 10, abs=0.002)
        for (_, picture), number in zip(copied, numbers, strict=True):
            np.testing.assert_array_equal(picture, source[number])
    with av.open(str(tmp_path / "copied.mp4")) as container:
        assert len(container.streams.audio) == 1
    assert copy_cuts([Cut(video, 2, 3), Cut(video, 0, 1)], tmp_path / "turned.mp4")
    with av.open(str(tmp_path / "turned.mp4")) as container:
        sound = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    loud = np.sqrt((sound[: len(sound) // 4410 * 4410].reshape(-1, 4410) ** 2).mean(1)) > 0.1
    assert loud[1:9].all()
    assert not loud[11:].any()
    # Frames before a key frame of an open group refer to it, too: nothing can be cut there.
    assert len(entry_times(str(tmp_path / "open.mp4"))) == 1
    assert not copy_cuts([Cut(str(tmp_path / "open.mp4"), 1, 2)], tmp_path / "none.mp4")
    refused = [
        [Cut(video, 1.5, 3)],
        [Cut(video, 1, 2.5)],
        [Cut(video, 1, 2, speed=2)],
        [Cut(video, 1, 2, is_mute=True)],
        [Cut(video, 1, 2), Cut(str(plain), 0, 4)],
    ]
    for cuts in refused:
        assert not copy_cuts(cuts, tmp_path / "none.mp4")
    assert not (tmp_path / "none.mp4").exists()


def test_a_video_that_is_not_read_in_time_is_given_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "waits.mp4")
    with pytest.raises(MediaError, match=r"waits\.mp4 was not read within 0\.5 seconds"):
        copy_cuts([Cut(str(tmp_path / "waits.mp4"), 0, 1)], tmp_path / "copied.mp4", Limits(timeout_s=0.5))


def sound_packets(path: Path) -> list[tuple[float, bytes]]:
    with av.open(str(path)) as container:
        return [(float(p.pts * p.time_base), bytes(p)) for p in container.demux(audio=0) if p.pts is not None and p.time_base is not None]


def test_sound_that_is_stored_far_from_its_pictures_is_copied_to_the_last_packet(tmp_path: Path, ffmpeg_exe: str) -> None:
    near, video = tmp_path / "near.mkv", tmp_path / "apart.mkv"
    inputs = ["-f", "lavfi", "-i", "testsrc=size=160x120:rate=10:duration=12", "-f", "lavfi", "-i", "sine=duration=12"]
    keys = ["-c:v", "libx264", "-g", "10", "-keyint_min", "10", "-sc_threshold", "0", "-bf", "0", "-c:a", "aac"]
    run_ffmpeg(ffmpeg_exe, *inputs, *keys, str(near))
    # Stored as they are handed over: pictures 0.6 s before the sound of their time.
    with av.open(str(near)) as read, av.open(str(video), "w", options={"max_interleave_delta": "1"}) as write:
        streams = {stream.index: write.add_stream_from_template(stream) for stream in read.streams}
        packets = [packet for packet in read.demux() if packet.pts is not None]
        for packet in sorted(packets, key=lambda p: (p.pts or 0) * float(p.time_base or 0) - 0.6 * (p.stream.type == "video")):
            packet.stream = streams[packet.stream.index]
            write.mux(packet)
    with av.open(str(video)) as container:
        seen, lead_s = {"video": 0.0, "audio": 0.0}, 0.0
        for packet in container.demux():
            if packet.pts is not None and packet.time_base is not None:
                seen[packet.stream.type] = float(packet.pts * packet.time_base)
                lead_s = max(lead_s, seen["video"] - seen["audio"])
    assert lead_s == pytest.approx(0.6, abs=0.11)
    source = sound_packets(video)
    for start_s, end_s in [(0, 2), (3, 4), (5, 9), (10, 11)]:
        assert copy_cuts([Cut(str(video), start_s, end_s)], tmp_path / "copied.mp4")
        wanted = [data for time_s, data in source if start_s <= time_s < end_s]
        assert [data for _, data in sound_packets(tmp_path / "copied.mp4")] == wanted
