"""What PyAV finds in a container. Files may be malicious: only the process that `probe` starts calls this, under its limits."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

import av
import av.error
from av.container import InputContainer
from av.format import Flags
from av.stream import Disposition
from av.video.stream import VideoStream

from vbcli.errors import MediaError
from vbcli.media.formats import FORMATS, PROTOCOLS, SEEKABLE
from vbcli.storage import fetch, is_remote, split_member


def media_url(path: str) -> bytes:
    """What FFmpeg opens a video by: a local file, or a part of one."""
    if is_remote(path):
        return b"file:" + os.fsencode(fetch(path))
    member = split_member(path)
    if member is None:
        return b"file:" + open_path(path)
    _, offset, size = member
    return b"subfile,,start,%d,end,%d,,:" % (offset, offset + size) + open_path(path)


def leads_out(path: str, video_id: str) -> bool:
    """Whether a video, or a file beside it, is a link to something outside of the folder that was scanned.

    Args:
        path: of a file as deep in that folder as `video_id`, its path relative to it; of a video in a tar file, that is asked about.
    """
    if is_remote(path):
        return False
    plain = open_path(path)
    root = plain
    for _ in range(_depth(path, video_id) + 1):
        root = os.path.dirname(root)
    real_root = os.path.realpath(root)
    return os.path.commonpath([os.path.realpath(plain), real_root]) != real_root


def _depth(path: str, video_id: str) -> int:
    """How many folders below the one that was scanned a file lies."""
    member = split_member(path)
    if member is None:
        return video_id.count("/")
    # Its name without suffix begins the names of its videos; where several beginnings fit, the shortest lets a link lead least far.
    stem = os.path.splitext(member[0])[0]
    beginnings = itertools.accumulate(video_id.split("/"), "{}/{}".format)
    return next((depth for depth, beginning in enumerate(beginnings) if stem.endswith(f"/{beginning}")), 0)


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


class PacketTime(NamedTuple):
    """When a frame is shown, how long (0 where that is not known), and whether a decoder can begin with it."""

    shown_s: float
    lasts_s: float
    is_key: bool


def absolute_path(path: str) -> str:
    """The same video, wherever the program runs."""
    return path if is_remote(path) or split_member(path) else os.fsdecode(os.path.abspath(open_path(path)))


def open_path(path: str) -> bytes:
    """The file system's name of a path in which bytes outside UTF-8 were percent-escaped; of a video in a tar file, that of the tar.

    Raises:
        MediaError: it is on another machine, and cannot be read there.
    """
    if is_remote(path):
        return os.fsencode(fetch(path))
    member = split_member(path)
    if member is not None:
        path = member[0]
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


def read_info(path: str) -> VideoInfo:
    """Reads a container's header with PyAV.

    Raises:
        MediaError: it cannot be opened, or holds no video.
    """
    url = os.fsdecode(media_url(path))
    try:
        with av.open(url, options={"format_whitelist": FORMATS, "protocol_whitelist": PROTOCOLS}) as container:
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


def read_packets(path: str) -> list[PacketTime]:
    """When the frames of a video are shown, in the order in which they are decoded, without decoding any.

    Raises:
        MediaError: it cannot be read, or no frame has a time.
    """
    info = read_info(path)
    url = os.fsdecode(media_url(path))
    try:
        with av.open(url, options={"format_whitelist": FORMATS, "protocol_whitelist": PROTOCOLS}) as container:
            start_s = (container.start_time or 0) / av.time_base
            stream = container.streams[info.stream_index]
            tick = float(stream.time_base or Fraction(1, av.time_base))
            found = [
                PacketTime(p.pts * tick - start_s, (p.duration or 0) * tick, p.is_keyframe)
                for p in container.demux(stream)
                if p.pts is not None and p.size and not p.is_discard
            ]
    except (av.error.FFmpegError, OSError) as error:
        raise MediaError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not found:
        raise MediaError(f"{path} has no frame with a time")
    return found


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
