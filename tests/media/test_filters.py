"""What is done to pictures that are not plain: high dynamic range, interlacing, alpha."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import MakeVideo, run_ffmpeg
from vbcli.errors import MediaError
from vbcli.media.containers import VideoInfo
from vbcli.media.decode import Decoder
from vbcli.media.filters import Geometry, fitted_frames, whole_frames
from vbcli.media.program import find_ffmpeg
from vbcli.media.sampling import AtRate, EveryFrame

DECODER = Decoder(find_ffmpeg())
PLAIN = VideoInfo(0, 1.0, 64, 48, 10.0, "h264", False, 0.0, True)


def pq_code(nits: float) -> int:
    """Of the luma of grey light, ten bits (SMPTE ST 2084)."""
    y, m1, m2 = nits / 10_000, 2610 / 16384, 2523 / 4096 * 128
    value = ((3424 / 4096 + 2413 / 4096 * 32 * y**m1) / (1 + 2392 / 4096 * 32 * y**m1)) ** m2
    return round(64 + 876 * value)


def grey_video(path: Path, ffmpeg_exe: str, code: int, transfer: str) -> Path:
    frame = np.full(64 * 64, code, np.uint16).tobytes() + np.full(64 * 32, 512, np.uint16).tobytes()
    raw = ["-f", "rawvideo", "-pix_fmt", "yuv420p10le", "-s", "64x64", "-r", "5", "-i", "-"]
    colours = f"log-level=none:lossless=1:colorprim=bt2020:transfer={transfer}:colormatrix=bt2020nc"
    tagged = ["-c:v", "libx265", "-x265-params", colours, "-color_trc", transfer, "-color_primaries", "bt2020", "-colorspace", "bt2020nc"]
    subprocess.run([ffmpeg_exe, "-nostdin", "-v", "error", *raw, *tagged, path], input=frame * 2, check=True)
    return path


def shown(path: Path) -> np.ndarray:
    return next(iter(DECODER.images(str(path), AtRate(1), Geometry(32, 32))))[1]


def combs(images: np.ndarray) -> float:
    """How much lines differ from those beside them, more than from the next but one: uint8 (F, H, W)."""
    x = images.astype(float)
    return float(np.abs(x[:, 1:-1] - x[:, :-2]).mean() - np.abs(x[:, 2:] - x[:, :-2]).mean())


@pytest.mark.parametrize(("nits", "tolerance"), [(2, 6), (10, 6), (40, 6), (100, 15)])
def test_light_of_high_dynamic_range_is_what_an_ordinary_screen_shows(tmp_path: Path, ffmpeg_exe: str, nits: float, tolerance: int) -> None:
    """The white of paper, 203 nits, is the white of the screen, whose curve is a power of 2.4; near it light is compressed."""
    image = shown(grey_video(tmp_path / "a.mp4", ffmpeg_exe, pq_code(nits), "smpte2084"))
    assert image.mean() == pytest.approx(255 * (nits / 203) ** (1 / 2.4), abs=tolerance)


def test_brighter_light_stays_brighter(tmp_path: Path, ffmpeg_exe: str) -> None:
    levels = [shown(grey_video(tmp_path / f"{nits}.mp4", ffmpeg_exe, pq_code(nits), "smpte2084")).mean() for nits in (100, 203, 500, 1000)]
    assert levels == sorted(set(levels))
    assert 200 < levels[1] < levels[-1] <= 255
    grey = shown(grey_video(tmp_path / "hlg.mp4", ffmpeg_exe, 500, "arib-std-b67")).mean()
    assert 100 < grey < 255


def test_an_ffmpeg_that_cannot_show_it_is_an_error(tmp_path: Path, ffmpeg_exe: str) -> None:
    path, poor = grey_video(tmp_path / "a.mp4", ffmpeg_exe, 500, "smpte2084"), tmp_path / "poor"
    poor.write_text(f'#!/bin/sh\ncase "$*" in *-filters*) exit 0;; esac\nexec {ffmpeg_exe} "$@"\n')
    poor.chmod(0o755)
    with pytest.raises(MediaError, match=r"a\.mp4 has a high dynamic range, for which this ffmpeg lacks the filter zscale"):
        list(Decoder(str(poor)).images(str(path), AtRate(1), Geometry(32)))


def test_interlaced_pictures_have_no_combs_and_keep_their_times(tmp_path: Path, ffmpeg_exe: str) -> None:
    """A bar that moves fast: in the lines of one field it is elsewhere than in those of the other."""
    moving = "color=black:s=128x96:r=50:d=1[b];color=white:s=16x96:r=50:d=1[w];[b][w]overlay=x='2*n':y=0:eval=frame,interlace=lowpass=off"
    path = tmp_path / "fields.ts"
    run_ffmpeg(ffmpeg_exe, "-filter_complex", moving, "-c:v", "mpeg2video", "-q:v", "2", "-flags", "+ilme+ildct", str(path))
    as_stored = subprocess.run([ffmpeg_exe, "-v", "error", "-i", path, "-f", "rawvideo", "-pix_fmt", "gray", "-"], capture_output=True)
    stored = np.frombuffer(as_stored.stdout, np.uint8).reshape(-1, 96, 128)
    frames = list(DECODER.images(str(path), EveryFrame(), Geometry((96, 128))))
    assert len(frames) == len(stored) == 25
    assert combs(np.stack([image[..., 1] for _, image in frames])) < 0.2 * combs(stored)
    assert np.diff([t for t, _ in frames]) == pytest.approx(np.full(24, 0.04), abs=1e-3)


def test_what_is_seen_through_is_black(tmp_path: Path, ffmpeg_exe: str) -> None:
    for alpha, name in ((0, "clear"), (128, "half"), (255, "full")):
        picture = f"color=red:s=64x64:r=5:d=0.4,format=rgba,colorchannelmixer=aa={alpha / 255}"
        run_ffmpeg(ffmpeg_exe, "-f", "lavfi", "-i", picture, "-c:v", "qtrle", "-pix_fmt", "argb", str(tmp_path / f"{name}.mov"))
        assert shown(tmp_path / f"{name}.mov").mean((0, 1)) == pytest.approx([alpha, 0, 0], abs=3)


def test_a_plain_video_is_resized_alone(tmp_path: Path, make_video: MakeVideo) -> None:
    assert whole_frames(PLAIN) == []
    assert [name for name, _ in fitted_frames(PLAIN, Geometry(32, 24))] == ["scale", "crop", "setsar"]
    info = DECODER.probe(str(make_video(tmp_path / "a.mp4")))
    assert (info.is_interlaced, info.has_alpha, info.colours[1]) == (False, False, 2)
