"""What several processes decode, each from a frame at which a decoder can begin, is what one decodes."""

from __future__ import annotations

import itertools
import time
from collections.abc import Generator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import MakeVideo, run_ffmpeg
from vbcli.errors import MediaError
from vbcli.media import stretches
from vbcli.media.decode import Decoder
from vbcli.media.filters import Geometry
from vbcli.media.limits import Budget, Limits
from vbcli.media.probe import Packets
from vbcli.media.program import find_ffmpeg
from vbcli.media.sampling import AtRate, AtTimes, EveryFrame, Sampling
from vbcli.media.stretches import Stretch, cut_stretches
from vbcli.media.video import Video
from vbcli.storage import member_path

FFMPEG = find_ffmpeg()
H264 = ["-c:v", "libx264", "-g", "24", "-x264-params", "scenecut=0"]
CASES = [
    ("b-frames.mp4", [*H264, "-bf", "3"]),
    ("b-frames.mkv", [*H264, "-bf", "3"]),
    ("none.mp4", [*H264, "-bf", "0", "-movflags", "faststart"]),
    ("later.mp4", [*H264, "-output_ts_offset", "7.3"]),
    ("later.mkv", [*H264, "-output_ts_offset", "7.3"]),
    ("fragments.mp4", [*H264, "-movflags", "frag_keyframe+empty_moov"]),
    ("b.mp4", ["-c:v", "libx265", "-x265-params", "log-level=none:keyint=24:min-keyint=24:open-gop=0:scenecut=0"]),
    # Parameter sets in each packet that begins anew, too, and in the header.
    ("sets.mp4", ["-c:v", "libx264", "-g", "24", "-x264-params", "scenecut=0:repeat-headers=1"]),
    ("c.webm", ["-c:v", "libvpx-vp9", "-g", "24", "-cpu-used", "8"]),
    ("sound.mp4", [*H264, "-bf", "2", "-metadata", "title=a"]),
    ("e.mkv", ["-c:v", "libsvtav1", "-g", "24", "-preset", "12"]),
]


class Spy:
    """What became of the stretches."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cut: list[Stretch] = []
        self.n_whole = 0
        monkeypatch.setattr(stretches, "PACKETS_EACH", 40)
        decode, whole = Video._of_stretch, Video._passes

        def of_stretch(video: Video, stretch: Stretch, *arguments: object) -> object:
            self.cut.append(stretch)
            return decode(video, stretch, *arguments)  # type: ignore[arg-type]

        def passes(video: Video, *arguments: object, **named: object) -> object:
            self.n_whole += 1
            return whole(video, *arguments, **named)  # type: ignore[arg-type]

        monkeypatch.setattr(Video, "_of_stretch", of_stretch)
        monkeypatch.setattr(Video, "_passes", passes)


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    return Spy(monkeypatch)


def frames(path: Path, sampling: Sampling, threads: int) -> list[tuple[float, bytes]]:
    return list(Decoder(FFMPEG, threads=threads).jpegs(str(path), sampling, Geometry(48)))


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_frames_are_the_same_in_stretches(tmp_path: Path, make_video: MakeVideo, spy: Spy, name: str, arguments: list[str]) -> None:
    path = make_video(tmp_path / name, duration_s=8, fps=24, audio=name == "sound.mp4", arguments=arguments)
    some = tuple(pts_s for pts_s, _ in frames(path, EveryFrame(), 1)[5::31])
    for sampling in (AtRate(2), AtRate(7), EveryFrame(), AtTimes(some)):
        alone = frames(path, sampling, 1)
        spy.cut, spy.n_whole = [], 0
        assert frames(path, sampling, 2) == alone
        assert len(spy.cut) == 6 if isinstance(sampling, EveryFrame) else len(spy.cut) >= 2
        assert not spy.n_whole
        assert sum(len(stretch.chosen) for stretch in spy.cut) == len(alone)
    pixels = [list(Decoder(FFMPEG, threads=n).video(str(path)).images(AtRate(4), Geometry(48))) for n in (1, 2)]
    assert all(a == b and (x == y).all() for (a, x), (b, y) in zip(*pixels, strict=True))


def test_stretches_of_which_nothing_is_asked_are_not_decoded(tmp_path: Path, make_video: MakeVideo, spy: Spy) -> None:
    path = make_video(tmp_path / "a.mp4", duration_s=8, fps=24, arguments=H264)
    assert frames(path, AtRate(0.2), 2) == frames(path, AtRate(0.2), 1)
    assert [stretch.chosen.tolist() for stretch in spy.cut] == [[0], [120]]


def test_a_part_of_another_file_is_cut_as_a_file(tmp_path: Path, make_video: MakeVideo, spy: Spy) -> None:
    path = make_video(tmp_path / "a.mp4", duration_s=8, fps=24, arguments=H264)
    data = path.read_bytes()
    (tmp_path / "x.tar").write_bytes(bytes(512) + data + bytes(1024))
    inside = member_path(str(tmp_path / "x.tar"), 512, len(data))
    assert list(Decoder(FFMPEG, threads=2).jpegs(inside, AtRate(4), Geometry(48))) == frames(path, AtRate(4), 1)
    assert len(spy.cut) == 6


def test_where_ffmpeg_seeks_by_another_stream_frames_are_the_same(tmp_path: Path, make_video: MakeVideo, spy: Spy) -> None:
    """The one that is shown has more to say than the first, which has key frames elsewhere."""
    small = make_video(tmp_path / "small.mp4", size=(32, 24), duration_s=8, fps=24, arguments=["-c:v", "libx264", "-g", "100"])
    large = make_video(tmp_path / "large.mp4", size=(96, 64), duration_s=8, fps=24, hue=90, arguments=H264)
    path = tmp_path / "two.mkv"
    run_ffmpeg(FFMPEG, "-i", str(small), "-i", str(large), "-map", "0", "-map", "1", "-c", "copy", str(path))
    alone = frames(path, AtRate(4), 1)
    assert frames(path, AtRate(4), 2) == alone
    assert len(alone) == 32


@pytest.mark.parametrize(
    "arguments",
    [
        ["-c:v", "libx264", "-g", "24", "-flags", "-cgop"],
        ["-c:v", "libx264", "-x264-params", "intra-refresh=1:keyint=24"],
        # Its containers call the first frame of each refresh a key frame.
        ["-c:v", "libx264", "-x264-params", "intra-refresh=1:keyint=24:bframes=0"],
        ["-c:v", "libx264", "-g", "24", "-qp", "0", "-profile:v", "high444"],
        ["-c:v", "libvpx", "-g", "24", "-cpu-used", "8", "-f", "matroska"],
        ["-c:v", "libx265", "-x265-params", "log-level=none:keyint=24:open-gop=1"],
        ["-c:v", "mpeg4", "-g", "24"],
        ["-c:v", "libx264", "-g", "9999"],
    ],
)
def test_where_a_decoder_cannot_begin_nothing_is_cut(tmp_path: Path, make_video: MakeVideo, spy: Spy, arguments: list[str]) -> None:
    path = make_video(tmp_path / "a.mp4", duration_s=8, fps=24, arguments=arguments)
    assert frames(path, AtRate(4), 2) == frames(path, AtRate(4), 1)
    assert not spy.cut


def test_a_stream_without_an_index_is_not_cut(tmp_path: Path, make_video: MakeVideo, spy: Spy) -> None:
    path = make_video(tmp_path / "a.ts", duration_s=8, fps=24, arguments=H264)
    assert frames(path, AtRate(4), 2) == frames(path, AtRate(4), 1)
    assert not spy.cut


@pytest.mark.parametrize("begins", [0.0, 1.0, 7.5])
def test_where_ffmpeg_begins_elsewhere_frames_are_the_same(
    tmp_path: Path, make_video: MakeVideo, spy: Spy, monkeypatch: pytest.MonkeyPatch, begins: float
) -> None:
    """Too early: nothing is dropped by wrong numbers. Too late: frames are missing, and all is decoded."""
    path = make_video(tmp_path / "a.mp4", duration_s=8, fps=24, arguments=[*H264, "-bf", "3"])
    alone = frames(path, AtRate(4), 1)
    monkeypatch.setattr("vbcli.media.video.seek_options", lambda *_: {"noaccurate_seek": None, "ss": begins})
    spy.n_whole = 0
    assert frames(path, AtRate(4), 2) == alone
    assert spy.cut
    assert bool(spy.n_whole) == (begins > 0)


def test_damage_is_met_as_without_stretches(tmp_path: Path, make_video: MakeVideo, spy: Spy) -> None:
    """Whether or not the packets can still be told apart, as they must be where a video is cut."""
    arguments = [*H264, "-bf", "2", "-movflags", "faststart"]
    path = make_video(tmp_path / "a.mp4", size=(160, 120), duration_s=8, fps=24, arguments=arguments)
    whole, n_cut = path.read_bytes(), []
    for seed in range(4):
        data, rng = bytearray(whole), np.random.default_rng(seed)
        for place in rng.integers(len(data) // 3, len(data), 12).tolist():
            data[place] ^= 0xFF
        path.write_bytes(data)
        spy.cut = []
        assert frames(path, AtRate(4), 2) == frames(path, AtRate(4), 1)
        n_cut.append(len(spy.cut))
    assert any(n_cut)


def test_two_pictures_of_other_sizes_in_one_video(tmp_path: Path, make_video: MakeVideo, spy: Spy) -> None:
    """Each process gives frames the size of its first: what follows a change has another in a stretch of its own."""
    sizes = [(64, 48), (96, 48)]
    parts = [make_video(tmp_path / f"{i}.mp4", size=size, duration_s=4, fps=24, arguments=H264) for i, size in enumerate(sizes)]
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"file '{part}'\n" for part in parts))
    path = tmp_path / "a.mp4"
    run_ffmpeg(FFMPEG, "-f", "concat", "-safe", "0", "-i", str(listed), "-c", "copy", str(path))
    found = frames(path, AtRate(4), 2)
    assert spy.cut
    assert spy.n_whole == 1
    assert found == frames(path, AtRate(4), 1)


@given(st.lists(st.tuples(st.integers(1, 8), st.integers(0, 2), st.booleans()), min_size=1, max_size=40), st.integers(1, 5), st.data())
def test_stretches_are_parts_that_begin_with_entries(groups: list[tuple[int, int, bool]], n_at_once: int, data: st.DataObject) -> None:
    """Of groups of pictures, some of which begin with frames that are shown before their key frame."""
    shown: list[float] = []
    is_key: list[bool] = []
    is_idr: list[bool] = []
    for length, n_leading, is_true in groups:
        n_leading = min(n_leading, length - 1)
        order = [n_leading, *range(n_leading), *range(n_leading + 1, length)]
        shown += [(len(is_key) + place) / 10 for place in order]
        is_key += [True] + [False] * (length - 1)
        is_idr += [is_true] + [False] * (length - 1)
    n = len(shown)
    packets = Packets(np.array(shown), np.zeros(n), np.array(is_key), np.zeros(n, np.bool_), np.array(is_idr), True)
    chosen = np.array(sorted(data.draw(st.sets(st.integers(0, n - 1))), key=lambda i: shown[i]), np.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stretches, "PACKETS_EACH", 5)
        found = cut_stretches(packets, chosen, n_at_once)
    if not found:
        return
    assert np.concatenate([stretch.chosen for stretch in found]).tolist() == chosen.tolist()
    assert len(found) >= 2
    for stretch in found:
        assert stretch.first <= stretch.chosen.min() <= stretch.chosen.max() < stretch.last
    for before, after in itertools.pairwise(found):
        assert before.last <= after.first
        assert is_idr[after.first]
        # ffmpeg, told to seek to 0.2 s behind it or earlier by up to 3/23 s, finds this one.
        assert not any(key and 0 < pts_s - shown[after.first] < 0.4 for key, pts_s in zip(is_key, shown, strict=True))
        assert max(shown[: after.first]) < min(shown[after.first :]) == shown[after.first]


def test_a_process_reads_its_stretch_alone(tmp_path: Path, make_video: MakeVideo, spy: Spy, monkeypatch: pytest.MonkeyPatch) -> None:
    """ffmpeg would complain of what is missing of the file behind it."""
    path = make_video(tmp_path / "a.mp4", duration_s=30, fps=24, arguments=[*H264, "-movflags", "faststart"])
    alone, cut_off = frames(path, AtRate(2), 1), tmp_path / "cut-off.mp4"
    cut_off.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    video = Decoder(FFMPEG, threads=2).video(str(path))
    chosen = AtRate(2).choose(video._packets.shown_s, video._packets.is_key)
    first = cut_stretches(video._packets, chosen, 2)[0]
    is_left_out = video._packets.disposable_but(chosen)[: first.last]
    monkeypatch.setattr(video, "path", str(cut_off))
    output: dict[str, str | int] = {"vcodec": "mjpeg", "q:v": 3, "pix_fmt": "yuvj420p", "threads": 1}
    found = video._of_stretch(first, is_left_out, Geometry(48), output, Budget(60))
    assert [(frame.pts_s, frame.data) for frame in found] == alone[: len(first.chosen)]


@pytest.mark.parametrize("limits", [Limits(max_frames=20), Limits(timeout_s=0.1)])
def test_limits_hold(tmp_path: Path, make_video: MakeVideo, spy: Spy, limits: Limits) -> None:
    path = make_video(tmp_path / "a.mp4", size=(640, 480), duration_s=20, fps=24, arguments=H264)
    taken = list[tuple[float, bytes]]()
    with pytest.raises(MediaError, match=r"more frames than the limit of 20|within 0.1 seconds"):
        taken.extend(Decoder(FFMPEG, limits, threads=2).jpegs(str(path), EveryFrame(), Geometry(480)))
    assert len(taken) <= min(limits.max_frames, 479)


def test_frames_that_take_too_much_memory_are_decoded_by_one_process(
    tmp_path: Path, make_video: MakeVideo, spy: Spy, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_video(tmp_path / "a.mp4", duration_s=8, fps=24, arguments=H264)
    alone = frames(path, EveryFrame(), 1)
    decoder = Decoder(FFMPEG, threads=2)
    video = decoder.video(str(path))
    _ = video._packets
    spy.n_whole = 0
    monkeypatch.setattr(video, "limits", SimpleNamespace(**{**vars(Limits()), "memory_mb": 0}))
    monkeypatch.setattr("vbcli.media.running._limit_memory", lambda *_: None)
    assert list(video.jpegs(EveryFrame(), Geometry(48))) == alone
    assert spy.n_whole == 1


def test_who_leaves_early_leaves_no_process(tmp_path: Path, make_video: MakeVideo) -> None:
    """The second of two stretches is 39 times as long as the first."""
    arguments = ["-c:v", "libx264", "-preset", "ultrafast", "-g", "9999", "-force_key_frames", "1"]
    path = make_video(tmp_path / "a.mp4", size=(1280, 720), duration_s=40, fps=24, arguments=arguments)
    taken = Decoder(FFMPEG, threads=2).jpegs(str(path), AtRate(12), Geometry(720))
    assert isinstance(taken, Generator)
    next(taken)
    before = time.monotonic()
    taken.close()
    assert time.monotonic() - before < 2.5
    assert not [child for child in psutil.Process().children() if child.name().startswith("ffmpeg")]
