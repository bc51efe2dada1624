"""The only caller of ffmpeg: probing, and decoding to frames with true presentation times.

Frames leave ffmpeg through a NUT stream on its standard output, which carries each frame's presentation time in the
video's own time base; PyAV takes the stream apart. `pts_s` is relative to the container's start.
"""

from __future__ import annotations

import itertools
import math
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import IO, NamedTuple
from urllib.parse import unquote_to_bytes

import av
import av.error
import ffmpeg
import imageio_ffmpeg
import numpy as np
from av.container import InputContainer
from av.format import Flags
from av.stream import Disposition
from av.video.stream import VideoStream

from vbcli.errors import MediaError, VbcliError

VIDEO_SUFFIXES = frozenset(
    [
        ".3g2",
        ".3gp",
        ".asf",
        ".avi",
        ".divx",
        ".dv",
        ".f4v",
        ".flv",
        ".gif",
        ".h264",
        ".h265",
        ".hevc",
        ".ivf",
        ".m1v",
        ".m2ts",
        ".m2v",
        ".m4v",
        ".mkv",
        ".mov",
        ".mp4",
        ".mpeg",
        ".mpg",
        ".mts",
        ".mxf",
        ".nut",
        ".ogm",
        ".ogv",
        ".qt",
        ".rm",
        ".rmvb",
        ".ts",
        ".vob",
        ".webm",
        ".wmv",
        ".y4m",
    ]
)

# Containers that hold media themselves. Playlists, concat scripts and image sequences, which open other files or
# addresses, are not among them: a list of protocols alone does not stop those.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,live_flv,mpegts,mpeg,mpegvideo,mpegtsraw,ogg,asf,asf_o,gif,h264,hevc,h263,m4v,ivf,"
    "nut,rm,mxf,wtv,dv,yuv4mpegpipe,av1,obu,vc1,swf,apng,rawvideo,mjpeg,ea,roq,smk,bink,nsv,dxa,gxf,mv,vivo,amv,cavsvideo,vvc,evc,aac,wav,mp3,flac"
)
PROTOCOLS = "file,pipe,fd"
SEEKABLE = ("mp4", "matroska")
"""Containers with an index: in others seeking may land behind the frames that are wanted."""


@dataclass(frozen=True)
class VideoInfo:
    """What a container says of its best video stream.

    `delay_s` is how much later than the container the stream begins, where ffmpeg would forget it. `is_seekable` says whether ffmpeg finds
    the frames after a time without reading all before it.
    """

    stream_index: int
    duration_s: float | None
    width_px: int
    height_px: int
    fps: float | None
    codec: str
    has_audio: bool
    delay_s: float
    is_seekable: bool


def find_ffmpeg(choice: str = "bundled") -> str:
    """Path of the ffmpeg to use.

    Args:
        choice: `bundled` (the one of imageio-ffmpeg), `system` (the one on PATH) or a path.

    Raises:
        VbcliError: there is none.
    """
    if choice == "bundled":
        try:
            return imageio_ffmpeg.get_ffmpeg_exe()
        except RuntimeError as error:
            raise VbcliError(f"imageio-ffmpeg has no ffmpeg for this machine: {error}", hint="give --ffmpeg system, or a path") from error
    found = shutil.which("ffmpeg" if choice == "system" else choice)
    if found is None:
        where = "there is no ffmpeg on PATH" if choice == "system" else f"ffmpeg '{choice}' does not exist or cannot be run"
        raise VbcliError(where, hint="leave --ffmpeg out to use the bundled one")
    # Now, not at the first video: all of them would fail.
    _time_base_option(found)
    return found


@lru_cache(maxsize=4)
def ffmpeg_build(executable: str) -> str:
    """First line of `ffmpeg -version`."""
    try:
        run = subprocess.run([executable, "-version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise VbcliError(f"{executable} cannot be run: {error}", hint="leave --ffmpeg out to use the bundled one") from error
    if not run.stdout.startswith("ffmpeg version"):
        raise VbcliError(f"{executable} is not an ffmpeg", hint="leave --ffmpeg out to use the bundled one")
    return run.stdout.splitlines()[0].split(" Copyright")[0]


@lru_cache(maxsize=4)
def _time_base_option(executable: str) -> str:
    """What this ffmpeg calls the time base of the source: `demux`, or `-1` before version 6.1.

    Raises:
        VbcliError: it knows neither, or cannot hand frames through with their times.
    """
    ffmpeg_build(executable)
    source = ["-f", "lavfi", "-i", "color=size=16x16:rate=10:duration=0.1", "-fps_mode", "passthrough"]
    for option in ("demux", "-1"):
        command = [executable, "-nostdin", "-v", "error", *source, "-enc_time_base", option, "-f", "nut", "-c:v", "mjpeg", "pipe:1"]
        if subprocess.run(command, capture_output=True).returncode == 0:
            return option
    raise VbcliError(
        f"{executable} is too old ({ffmpeg_build(executable)})", hint="5.1 or newer is needed; leave --ffmpeg out to use the bundled one"
    )


def open_path(path: str) -> bytes:
    """The file system's name of a path in which bytes outside UTF-8 were percent-escaped."""
    plain = os.fsencode(path)
    if os.path.lexists(plain):
        return plain
    raw = unquote_to_bytes(path)
    try:
        raw.decode()
    except UnicodeDecodeError:
        return raw
    # Nothing in it had to be escaped: its per cent signs are its own, and the file is gone.
    return plain


def probe_video(path: str) -> VideoInfo:
    """Reads a container's header with PyAV.

    Raises:
        MediaError: it cannot be opened, or holds no video.
    """
    name = os.fsdecode(open_path(path))
    try:
        with av.open(f"file:{name}", options={"format_whitelist": FORMATS, "protocol_whitelist": PROTOCOLS}) as container:
            moving = [s for s in container.streams.video if not _is_picture(s)]
            if not moving:
                raise MediaError(f"{path} has no video stream")
            best = container.streams.best("video")
            stream = next((s for s in moving if s == best), moving[0])
            context = stream.codec_context
            if context is None or not context.width or not context.height:
                raise MediaError(f"{path}: the size of its video is unknown")
            rate = stream.average_rate or stream.guessed_rate
            return VideoInfo(
                stream_index=stream.index,
                duration_s=_duration_s(container, stream),
                width_px=context.width,
                height_px=context.height,
                fps=float(rate) if rate else None,
                codec=context.codec.canonical_name,
                has_audio=len(container.streams.audio) > 0,
                delay_s=_delay_s(container, stream),
                is_seekable=any(name in SEEKABLE for name in container.format.name.split(",")),
            )
    except (av.error.FFmpegError, OSError) as error:
        raise MediaError(f"{path} cannot be opened: {getattr(error, 'strerror', None) or error}") from error
    except (ValueError, UnicodeError) as error:
        raise MediaError(f"{path} cannot be read: {error}") from error


def frame_times(path: str) -> tuple[np.ndarray, float]:
    """When each frame is shown, without decoding any: presentation times float64 (F,) in order, and the time at which the last one ends.

    Times count from the container's start, as those of sampled frames do.

    Raises:
        MediaError: it cannot be read, or no frame has a time.
    """
    packets = sorted(_packet_times(path))
    times = np.array([packet.shown_s for packet in packets])
    usual = float(np.median(np.diff(times))) if len(times) > 1 else 0.04
    return times, float(times[-1] + (packets[-1].lasts_s or usual))


def entry_times(path: str) -> list[float]:
    """When key frames are shown at which a decoder can begin, and end, without any other frame; in order.

    Raises:
        MediaError: it cannot be read, or no frame has a time.
    """
    packets = _packet_times(path)
    latest_before = list(itertools.accumulate((p.shown_s for p in packets), max, initial=-math.inf))[:-1]
    earliest_after = list(itertools.accumulate((p.shown_s for p in reversed(packets)), min))[::-1]
    rows = zip(packets, latest_before, earliest_after, strict=True)
    return [packet.shown_s for packet, before, after in rows if packet.is_key and before < packet.shown_s <= after]


class _PacketTime(NamedTuple):
    shown_s: float
    lasts_s: float
    is_key: bool


def _packet_times(path: str) -> tuple[_PacketTime, ...]:
    """The frames of a video in the order in which they are decoded."""
    try:
        status = os.stat(open_path(path))
    except OSError as error:
        raise MediaError(f"{path} cannot be read: {error.strerror}") from error
    return _read_packet_times(path, status.st_size, status.st_mtime_ns)


# Every cut and every picture of a video asks for them, and they are read from all of the file.
@lru_cache(maxsize=2)
def _read_packet_times(path: str, size: int, mtime_ns: int) -> tuple[_PacketTime, ...]:
    del size, mtime_ns
    info = probe_video(path)
    name = os.fsdecode(open_path(path))
    try:
        with av.open(f"file:{name}", options={"format_whitelist": FORMATS, "protocol_whitelist": PROTOCOLS}) as container:
            start_s = (container.start_time or 0) / av.time_base
            stream = container.streams[info.stream_index]
            tick = float(stream.time_base or Fraction(1, av.time_base))
            found = [
                _PacketTime(p.pts * tick - start_s, (p.duration or 0) * tick, p.is_keyframe)
                for p in container.demux(stream)
                if p.pts is not None and p.size and not p.is_discard
            ]
    except (av.error.FFmpegError, OSError) as error:
        raise MediaError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not found:
        raise MediaError(f"{path} has no frame with a time")
    return tuple(found)


def _is_picture(stream: VideoStream) -> bool:
    return bool(stream.disposition & Disposition.attached_pic)


def _duration_s(container: InputContainer, stream: VideoStream) -> float | None:
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration is not None else None


def _delay_s(container: InputContainer, stream: VideoStream) -> float:
    # In MPEG streams ffmpeg counts from the earliest of the streams that it is told to read, not of all.
    if not container.format.flags & Flags.ts_discont.value or container.start_time is None or stream.start_time is None:
        return 0.0
    assert stream.time_base is not None
    return float(stream.start_time * stream.time_base - Fraction(container.start_time, av.time_base))


# ---------------------------------------------------------------- decoding

_ROUNDING = "0.00001"


def sampling_filter(fps: float) -> str:
    """ffmpeg `select` expression for DESIGN's rule: for k = 0, 1, 2, ... the first frame with pts_s >= k/fps.

    A frame is taken when a multiple of 1/fps lies in (time of the frame before, its own time]; the first is always
    taken. The small number absorbs the rounding of times that are multiples in exact arithmetic.
    """
    return f"isnan(prev_pts)+gt(floor(t*{fps!r}+{_ROUNDING}),floor(prev_t*{fps!r}+{_ROUNDING}))"


@dataclass(frozen=True)
class Geometry:
    """How a frame is resized and cropped.

    Args:
        resize_px: the short side (the long one follows the display aspect ratio), or (height, width) exactly.
        crop_px: side of the central square that is kept; None keeps all.
    """

    resize_px: int | tuple[int, int]
    crop_px: int | None = None

    def scale_arguments(self) -> dict[str, str | int]:
        """Arguments of ffmpeg's `scale` filter."""
        if isinstance(self.resize_px, tuple):
            return {"w": self.resize_px[1], "h": self.resize_px[0], "flags": "bicubic"}
        side = self.resize_px
        # `dar` counts the shape of a pixel, too; sides are even because JPEG's colours are halved.
        wide, tall = f"max({side},trunc({side}*dar/2+0.5)*2)", f"max({side},trunc({side}/dar/2+0.5)*2)"
        return {"w": f"if(gte(dar,1),{wide},{side})", "h": f"if(gte(dar,1),{side},{tall})", "flags": "bicubic"}


def _command(
    path: str, info: VideoInfo, fps: float, geometry: Geometry, executable: str, output: dict[str, str | int]
) -> list[bytes | str]:
    # ffmpeg-python wants text: the name takes its place afterwards, so that any bytes in it reach ffmpeg unchanged.
    marker = "input-name"
    options = {"threads": 1, "protocol_whitelist": PROTOCOLS, "format_whitelist": FORMATS, "itsoffset": f"{info.delay_s:.6f}"}
    stream = ffmpeg.input(marker, **options)[str(info.stream_index)]
    frames = stream.filter("select", sampling_filter(fps)).filter("scale", **geometry.scale_arguments())
    if geometry.crop_px is not None:
        frames = frames.filter("crop", geometry.crop_px, geometry.crop_px)
    frames = frames.filter("setsar", 1)
    target = ffmpeg.output(frames, "pipe:1", format="nut", fps_mode="passthrough", enc_time_base=_time_base_option(executable), **output)
    arguments = target.global_args("-nostdin", "-v", "error", "-filter_threads", "1").compile(cmd=executable)
    return [b"file:" + open_path(path) if a == marker else a for a in arguments]


@contextmanager
def _running(command: list[bytes | str], path: str) -> Iterator[IO[bytes]]:
    """Runs ffmpeg and gives its standard output; it is killed when the block is left early."""
    with tempfile.TemporaryFile() as messages:
        # Its own process group: an interrupt at the terminal is for us, and must not look like a video that cannot be decoded.
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=messages, bufsize=0, process_group=0
        ) as process:
            assert process.stdout is not None
            try:
                yield process.stdout
                process.wait()
            finally:
                process.kill()
        if process.returncode:
            raise MediaError(f"{path} cannot be decoded: {first_line(messages) or f'ffmpeg ended with {process.returncode}'}")


def first_line(messages: IO[bytes]) -> str:
    """What went wrong first, without ffmpeg's `[part @ address]`."""
    messages.seek(0)
    lines = messages.read(4096).decode(errors="replace").strip().splitlines()
    return re.sub(r"^(\[[^\]]*\] ?)+", "", lines[0]).strip() if lines else ""


def _iter_packets(path: str, command: list[bytes | str], fps: float) -> Iterator[tuple[float, bytes, int, int]]:
    """(pts_s, packet, width, height) of each sampled frame."""
    last = -math.inf
    with _running(command, path) as stdout:
        try:
            # The descriptor, not the file: PyAV drops an interrupt that comes while it reads from a Python object.
            with av.open("fd:", format="nut", mode="r", options={"fd": str(stdout.fileno())}) as container:
                video = container.streams.video[0]
                for packet in container.demux(video):
                    if packet.pts is None or packet.time_base is None or packet.size == 0:
                        continue
                    pts_s = float(packet.pts * packet.time_base)
                    step = math.floor(pts_s * fps + float(_ROUNDING))
                    # Where the picture's size changes, ffmpeg builds its filters anew and takes the next frame for the first.
                    if step > last:
                        last = step
                        yield pts_s, bytes(packet), video.codec_context.width, video.codec_context.height
        except (av.error.FFmpegError, IndexError) as error:
            # Closed, so that ffmpeg ends and can be waited for; mostly it has ended already, and says itself why.
            stdout.close()
            if last > -math.inf:
                raise MediaError(f"{path} cannot be decoded: {error}") from error
    if last == -math.inf:
        raise MediaError(f"{path} has no frame that can be decoded")


def iter_jpegs(
    path: str, info: VideoInfo, *, fps: float, geometry: Geometry, quality: int = 3, executable: str
) -> Iterator[tuple[float, bytes]]:
    """Samples a video and encodes the frames as JPEG, all inside one ffmpeg process with one decoder thread.

    Args:
        fps: sampling rate; for k = 0, 1, 2, ... the first frame with pts_s >= k/fps.
        quality: ffmpeg's `-q:v`, 2 (best) to 31.
        executable: from `find_ffmpeg`.

    Yields:
        (pts_s, JPEG bytes), in order of presentation.

    Raises:
        MediaError: nothing can be decoded.
    """
    output: dict[str, str | int] = {"vcodec": "mjpeg", "q:v": quality, "pix_fmt": "yuvj420p", "threads": 1}
    for pts_s, data, _, _ in _iter_packets(path, _command(path, info, fps, geometry, executable, output), fps):
        yield pts_s, data


def iter_images(path: str, info: VideoInfo, *, fps: float, geometry: Geometry, executable: str) -> Iterator[tuple[float, np.ndarray]]:
    """Samples a video as raw pixels.

    Yields:
        (pts_s, uint8 (height_px, width_px, 3) RGB).

    Raises:
        MediaError: nothing can be decoded.
    """
    output: dict[str, str | int] = {"vcodec": "rawvideo", "pix_fmt": "rgb24"}
    for pts_s, data, width, height in _iter_packets(path, _command(path, info, fps, geometry, executable, output), fps):
        if len(data) != height * width * 3:
            raise MediaError(f"{path} cannot be decoded: ffmpeg ended in the middle of a frame")
        yield pts_s, np.frombuffer(data, np.uint8).reshape(height, width, 3)
