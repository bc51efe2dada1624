"""Frames of a video, chosen and resized within one ffmpeg process.

Frames leave ffmpeg through a NUT stream on its standard output, which carries each frame's presentation time in the
video's own time base; PyAV takes the stream apart. `pts_s` is relative to the container's start.
"""

from __future__ import annotations

import math
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import IO, TypeVar

import av
import av.error
import ffmpeg
import numpy as np

from vbcli.errors import MediaError
from vbcli.media.containers import VideoInfo, leads_out, media_url
from vbcli.media.formats import FORMATS, PROTOCOLS
from vbcli.media.limits import Limits
from vbcli.media.probe import frame_times, probe_video
from vbcli.media.program import find_ffmpeg, first_line, time_base_option

T = TypeVar("T")

# ---------------------------------------------------------------- which frames

_ROUNDING = "0.00001"
_IS_LATER = "isnan(prev_selected_pts)+gt(pts,prev_selected_pts)"
"""Of frames with one and the same time the first: an encoder refuses the second, and any whose time runs backwards."""
_TIMES_AT_ONCE = 1000
"""Of chosen times; more are taken in several passes, as a command cannot be of any length."""


@dataclass(frozen=True)
class AtRate:
    """For k = 0, 1, 2, ... the first frame with pts_s >= k / fps: never one that is stamped anew."""

    fps: float

    def expression(self) -> str:
        """ffmpeg's `select` expression.

        A frame is taken when a multiple of 1/fps lies in (time of the frame before, its own time]; the first is always
        taken. The small number absorbs the rounding of times that are multiples in exact arithmetic.
        """
        return f"isnan(prev_pts)+gt(floor(t*{self.fps!r}+{_ROUNDING}),floor(prev_t*{self.fps!r}+{_ROUNDING}))"

    def step(self, pts_s: float) -> float:
        """Of two frames that are taken the later has the higher step."""
        return math.floor(pts_s * self.fps + float(_ROUNDING))


@dataclass(frozen=True)
class EveryFrame:
    """All frames, or those alone that are coded without any other: the decoder passes over the rest."""

    is_key: bool = False

    def expression(self) -> str:
        return _IS_LATER

    def step(self, pts_s: float) -> float:
        return pts_s


@dataclass(frozen=True)
class AtTimes:
    """The frames with these times, in seconds and in order, as `frame_times` gives them."""

    times_s: tuple[float, ...]

    def expression(self) -> str:
        return f"({_IS_LATER})*{self._search(0, len(self.times_s))}"

    def _search(self, low: int, high: int) -> str:
        """A tree of comparisons: a sum of as many would be worked out for every frame."""
        if high - low == 1:
            return f"lt(abs(t-{self.times_s[low]:.6f}),{_ROUNDING})"
        middle = (low + high) // 2
        between_s = (self.times_s[middle - 1] + self.times_s[middle]) / 2
        return f"if(lt(t,{between_s:.6f}),{self._search(low, middle)},{self._search(middle, high)})"

    def step(self, pts_s: float) -> float:
        return pts_s


Sampling = AtRate | EveryFrame | AtTimes


def uniform_times(path: str, n_frames: int) -> AtTimes:
    """The frames in the middles of n equal parts of the frames of a video, all of them where it has no more than n.

    Raises:
        MediaError: it cannot be read.
    """
    times = np.unique(frame_times(path)[0])
    n = min(n_frames, len(times))
    return AtTimes(tuple(times[((np.arange(n) + 0.5) * len(times) / n).astype(int)].tolist()))


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


# ---------------------------------------------------------------- decoding


@dataclass(frozen=True)
class MediaOptions:
    """How videos are decoded; no part of what makes a dataset, though another build of ffmpeg is warned of.

    Args:
        ffmpeg: `bundled`, `system` or a path.
        follows_links: out of the folder of videos, too.
    """

    ffmpeg: str = "bundled"
    limits: Limits = field(default_factory=Limits)
    follows_links: bool = False

    def open(self) -> Decoder:
        """
        Raises:
            VbcliError: there is no such ffmpeg.
        """
        return Decoder(find_ffmpeg(self.ffmpeg), self.limits, self.follows_links)


@dataclass(frozen=True)
class Decoder:
    """Decodes videos with one ffmpeg, under limits.

    Args:
        executable: from `find_ffmpeg`.
    """

    executable: str
    limits: Limits = field(default_factory=Limits)
    follows_links: bool = False

    def check_link(self, video_id: str, path: str) -> None:
        """Refuses a video that is a link to something outside of its folder.

        Raises:
            MediaError: it is one, and those are not followed.
        """
        if not self.follows_links and leads_out(path, video_id):
            raise MediaError(f"{path} is a link that leads out of its folder", hint="give --follow-links to take such videos")

    def probe(self, path: str) -> VideoInfo:
        """What its container says of a video.

        Raises:
            MediaError: it cannot be opened, holds no video, or breaks a limit.
        """
        return probe_video(path, self.limits)

    def jpegs(self, path: str, sampling: Sampling, geometry: Geometry, quality: int = 3) -> Iterator[tuple[float, bytes]]:
        """Samples a video and encodes the frames as JPEG, all inside one ffmpeg process with one decoder thread.

        Args:
            quality: ffmpeg's `-q:v`, 2 (best) to 31.

        Yields:
            (pts_s, JPEG bytes), in order of presentation.

        Raises:
            MediaError: nothing can be decoded, or a limit is broken.
        """
        output: dict[str, str | int] = {"vcodec": "mjpeg", "q:v": quality, "pix_fmt": "yuvj420p", "threads": 1}
        for pts_s, data, _, _ in self._iter_packets(path, sampling, geometry, output):
            yield pts_s, data

    def images(self, path: str, sampling: Sampling, geometry: Geometry) -> Iterator[tuple[float, np.ndarray]]:
        """Samples a video as raw pixels.

        Yields:
            (pts_s, uint8 (height_px, width_px, 3) RGB).

        Raises:
            MediaError: nothing can be decoded, or a limit is broken.
        """
        output: dict[str, str | int] = {"vcodec": "rawvideo", "pix_fmt": "rgb24"}
        for pts_s, data, width, height in self._iter_packets(path, sampling, geometry, output):
            if len(data) != height * width * 3:
                raise MediaError(f"{path} cannot be decoded: ffmpeg ended in the middle of a frame")
            yield pts_s, np.frombuffer(data, np.uint8).reshape(height, width, 3)

    def sound(self, path: str, rate: int) -> np.ndarray:
        """The first sound of a video, mixed to one channel.

        Args:
            rate: samples a second.

        Returns:
            float32 (N,), -1 to 1; from the container's start, silent until the sound begins.

        Raises:
            MediaError: it has none, nothing can be decoded, or a limit is broken.
        """
        if not self.probe(path).has_audio:
            raise MediaError(f"{path} has no sound")
        opened = ["-protocol_whitelist", PROTOCOLS, "-format_whitelist", FORMATS, "-i", media_url(path)]
        mixed = ["-map", "0:a:0", "-af", "aresample=async=1:first_pts=0", "-ac", "1", "-ar", str(rate), "-f", "f32le", "pipe:1"]
        data = bytearray()
        with _running([self.executable, "-nostdin", "-v", "error", *opened, *mixed], path, self.limits) as (stdout, clock):
            for part in clock.timed(iter(lambda: stdout.read(1 << 20), b"")):
                data += part
        return np.frombuffer(bytes(data[: len(data) // 4 * 4]), np.float32)

    def _iter_packets(
        self, path: str, sampling: Sampling, geometry: Geometry, output: dict[str, str | int]
    ) -> Iterator[tuple[float, bytes, int, int]]:
        """(pts_s, packet, width, height) of each sampled frame."""
        info, n_frames = self.probe(path), 0
        for part in _passes(sampling):
            for packet in self._iter_pass(path, self._command(path, info, part, geometry, output), part):
                n_frames += 1
                if n_frames > self.limits.max_frames:
                    raise MediaError(f"{path} gives more frames than the limit of {self.limits.max_frames}")
                yield packet
        if not n_frames:
            raise MediaError(f"{path} has no frame that can be decoded")

    def _command(
        self, path: str, info: VideoInfo, sampling: Sampling, geometry: Geometry, output: dict[str, str | int]
    ) -> list[bytes | str]:
        # ffmpeg-python wants text: the name takes its place afterwards, so that any bytes in it reach ffmpeg unchanged.
        marker = "input-name"
        options: dict[str, str | int] = {"threads": 1, "protocol_whitelist": PROTOCOLS, "format_whitelist": FORMATS}
        options |= {"itsoffset": f"{info.delay_s:.6f}", "max_pixels": self.limits.max_pixels}
        if isinstance(sampling, EveryFrame) and sampling.is_key:
            options["skip_frame"] = "nokey"
        stream = ffmpeg.input(marker, **options)[str(info.stream_index)]
        frames = stream.filter("select", sampling.expression()).filter("scale", **geometry.scale_arguments())
        if geometry.crop_px is not None:
            frames = frames.filter("crop", geometry.crop_px, geometry.crop_px)
        frames = frames.filter("setsar", 1)
        timed = {"format": "nut", "fps_mode": "passthrough", "enc_time_base": time_base_option(self.executable)}
        target = ffmpeg.output(frames, "pipe:1", **timed, **output)
        arguments = target.global_args("-nostdin", "-v", "error", "-filter_threads", "1").compile(cmd=self.executable)
        return [media_url(path) if a == marker else a for a in arguments]

    def _iter_pass(self, path: str, command: list[bytes | str], sampling: Sampling) -> Iterator[tuple[float, bytes, int, int]]:
        last = -math.inf
        with _running(command, path, self.limits) as (stdout, clock):
            try:
                # The descriptor, not the file: PyAV drops an interrupt that comes while it reads from a Python object.
                with clock.waiting():
                    opened = av.open("fd:", format="nut", mode="r", options={"fd": str(stdout.fileno())})
                with opened as container:
                    video = container.streams.video[0]
                    for packet in clock.timed(container.demux(video)):
                        if packet.pts is None or packet.time_base is None or packet.size == 0:
                            continue
                        pts_s = float(packet.pts * packet.time_base)
                        # Where the picture's size changes, ffmpeg builds its filters anew and takes the next frame for the first.
                        if sampling.step(pts_s) > last:
                            last = sampling.step(pts_s)
                            yield pts_s, bytes(packet), video.codec_context.width, video.codec_context.height
            except (av.error.FFmpegError, IndexError) as error:
                # Closed, so that ffmpeg ends and can be waited for; mostly it has ended already, and says itself why.
                stdout.close()
                if last > -math.inf:
                    raise MediaError(f"{path} cannot be decoded: {error}") from error


def _passes(sampling: Sampling) -> Sequence[Sampling]:
    if not isinstance(sampling, AtTimes):
        return [sampling]
    times = sampling.times_s
    return [AtTimes(times[i : i + _TIMES_AT_ONCE]) for i in range(0, len(times), _TIMES_AT_ONCE)]


class _Clock:
    """Ends a process that keeps us waiting for too long; what we do with its frames meanwhile costs it no time."""

    def __init__(self, process: subprocess.Popen[bytes], limit_s: float) -> None:
        self.process = process
        self.limit_s = limit_s
        self.is_late = False
        self._waited_s = 0.0
        self._waiting_since: float | None = None
        self._is_over = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def timed(self, items: Iterable[T]) -> Iterator[T]:
        """The items; the time until each comes counts."""
        iterator = iter(items)
        while True:
            with self.waiting():
                item = next(iterator, None)
            if item is None:
                return
            yield item

    @contextmanager
    def waiting(self) -> Iterator[None]:
        self._waiting_since = time.monotonic()
        try:
            yield
        finally:
            self._waited_s, self._waiting_since = self._spent_s(), None

    def stop(self) -> None:
        self._is_over.set()

    def _spent_s(self) -> float:
        since = self._waiting_since
        return self._waited_s + (0.0 if since is None else time.monotonic() - since)

    def _watch(self) -> None:
        while not self._is_over.wait(min(1.0, self.limit_s / 4)):
            if self._spent_s() > self.limit_s:
                self.is_late = True
                self.process.kill()
                return


@contextmanager
def _running(command: list[bytes | str], path: str, limits: Limits) -> Iterator[tuple[IO[bytes], _Clock]]:
    """Runs ffmpeg and gives its standard output; it is killed when the block is left early, or a limit is reached."""
    with tempfile.TemporaryFile() as messages:
        # Its own process group: an interrupt at the terminal is for us, and must not look like a video that cannot be decoded.
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=messages, bufsize=0, process_group=0
        ) as process:
            assert process.stdout is not None
            _limit_memory(process, limits.memory_mb << 20)
            clock = _Clock(process, limits.timeout_s)
            try:
                yield process.stdout, clock
                with clock.waiting():
                    process.wait()
            finally:
                clock.stop()
                process.kill()
        if clock.is_late:
            raise MediaError(f"{path} was not decoded within {limits.timeout_s:g} seconds")
        if process.returncode:
            raise MediaError(f"{path} cannot be decoded: {first_line(messages) or f'ffmpeg ended with {process.returncode}'}")


def _limit_memory(process: subprocess.Popen[bytes], n_bytes: int) -> None:
    # Only Linux lets a process limit another.
    if sys.platform == "linux":
        with suppress(ProcessLookupError):
            resource.prlimit(process.pid, resource.RLIMIT_AS, (n_bytes, n_bytes))
