"""What PyAV finds in a container. Files may be malicious: only the process that `probe` starts calls this, under its limits."""

from __future__ import annotations

import base64
import itertools
import os
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

import av
import av.error
from av.container import InputContainer
from av.format import Flags
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from vbcli.errors import MediaError
from vbcli.media.disposable import Kind, beginnings, disposable, packet_kinds
from vbcli.media.formats import FORMATS, PROTOCOLS, SEEKABLE
from vbcli.storage import fetch, is_remote, split_member

MAX_PACKETS = 4_000_000
"""Of one video: two days of it."""
_TRUE_KEYS = ("vp9", "av1")
"""Codecs whose key frames forget all that was before them."""
_INTERLACED_ORDERS = (2, 3, 4, 5)
"""FFmpeg's AVFieldOrder: one is progressive, 0 unknown."""
_INTERLACED_CODECS = ("dvvideo",)
"""Of which only decoding tells: those frames alone that turn out to be interlaced are treated as such."""


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

    `start_s` is when the container starts: times of frames count from there. `delay_s` is how much later than the container the stream
    begins, where ffmpeg would forget it. `is_seekable` says whether ffmpeg finds the frames after a time without reading all before it.
    `colours` are numbers of ITU-T H.273: of the primaries, the transfer curve and the matrix.
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
    start_s: float = 0.0
    is_interlaced: bool = False
    has_alpha: bool = False
    colours: tuple[int, int, int] = (2, 2, 2)


@dataclass(frozen=True)
class PacketList:
    """The frames of a video as they are stored, in the order in which they are decoded.

    `shown` and `lasts` are 64-bit integers in base64: presentation times and durations (0 where not known), in ticks of `tick`, numerator
    and denominator, in seconds. `is_key` has a byte for each, and `is_disposable`, whether no other frame needs it; that is empty where it
    is not known. `is_beginning` says whether a decoder can begin with it, as if there were nothing before; it is empty, too, where that is
    not known. Times that the container lacks are worked out from its others, or the packet is left out. `has_own_times` says that it
    lacks none, and that no packet is decoded before the one in front of it.
    """

    shown: str
    lasts: str
    is_key: str
    is_disposable: str
    is_beginning: str
    tick: tuple[int, int]
    start_s: float
    has_own_times: bool


class _Packet(NamedTuple):
    """Times in ticks."""

    shown: int | None
    decoded: int | None
    lasts: int
    is_key: bool
    kind: Kind


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
    with _opened(path) as container:
        return _info(container, _best_stream(container, path))


def read_contents(path: str) -> tuple[VideoInfo, PacketList]:
    """What a container says, and when the frames of a video are shown, without decoding any.

    Raises:
        MediaError: it cannot be read, holds no video, or is too long.
    """
    with _opened(path, "-genpts") as container:
        stream = _best_stream(container, path)
        info, tick = _info(container, stream), stream.time_base or Fraction(1, av.time_base)
        has_times = not container.format.flags & Flags.no_timestamps.value
        kind_of = packet_kinds(container.format.name, info.codec, stream.codec_context.extradata)
        own, n_passed = _packets(container, stream, path, kind_of)
    has_all = all(packet.shown is not None for packet in own)
    filled = own
    if not has_all:
        with _opened(path, "+genpts") as container:
            filled, _ = _packets(container, _best_stream(container, path), path, None)
    timed = [packet for packet in filled if packet.shown is not None]
    # By their numbers packets are left out: all must be there that ffmpeg counts.
    kinds = [packet.kind for packet in own] if has_all and not n_passed else []
    # Decoders of these say so where they cannot.
    is_beginning = bytes(packet.is_key for packet in own) if kinds and info.codec in _TRUE_KEYS else beginnings(kinds)
    return info, PacketList(
        shown=_packed(packet.shown or 0 for packet in timed),
        lasts=_packed(packet.lasts for packet in timed),
        is_key=base64.b64encode(bytes(packet.is_key for packet in timed)).decode(),
        is_disposable=base64.b64encode(disposable(kinds)).decode(),
        is_beginning=base64.b64encode(is_beginning).decode(),
        tick=(tick.numerator, tick.denominator),
        start_s=info.start_s,
        has_own_times=has_times and has_all and _is_ordered(p.decoded for p in own),
    )


def _info(container: InputContainer, stream: VideoStream) -> VideoInfo:
    context = stream.codec_context
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
        start_s=(container.start_time or 0) / av.time_base,
        is_interlaced=context.field_order in _INTERLACED_ORDERS or context.codec.canonical_name in _INTERLACED_CODECS,
        has_alpha=context.format is not None and any(part.is_alpha for part in context.format.components),
        colours=(context.color_primaries, context.color_trc, context.colorspace),
    )


@contextmanager
def _opened(path: str, fflags: str = "+genpts") -> Iterator[InputContainer]:
    """A container; what is wrong with it is an error of its file."""
    options = {"format_whitelist": FORMATS, "protocol_whitelist": PROTOCOLS, "fflags": fflags}
    try:
        # Titles and names of authors are in any encoding.
        with av.open(os.fsdecode(media_url(path)), options=options, metadata_errors="replace") as container:
            yield container
    except (av.error.FFmpegError, OSError) as error:
        raise MediaError(f"{path} cannot be opened: {getattr(error, 'strerror', None) or error}") from error
    except (ValueError, UnicodeError) as error:
        raise MediaError(f"{path} cannot be read: {error}") from error


def _best_stream(container: InputContainer, path: str) -> VideoStream:
    """The stream of moving pictures that players show.

    Raises:
        MediaError: there is none, or its size is unknown.
    """
    moving = [s for s in container.streams.video if not _is_picture(s)]
    if not moving:
        raise MediaError(f"{path} has no video stream")
    best = container.streams.best("video")
    stream = next((s for s in moving if s == best), moving[0])
    context = stream.codec_context
    if context is None or not context.width or not context.height:
        raise MediaError(f"{path}: the size of its video is unknown")
    return stream


def demuxed(container: InputContainer, *streams: Stream) -> Iterator[Packet]:
    """The packets of streams, in the order in which they are stored.

    A recording may begin another stream in its middle, as where two were joined: PyAV does not know it, and stumbles over its packets.
    """
    while True:
        try:
            yield from container.demux(*streams)
        except IndexError:
            continue
        return


def _packets(
    container: InputContainer, stream: VideoStream, path: str, kind_of: Callable[[memoryview], Kind] | None
) -> tuple[list[_Packet], int]:
    """The packets of a stream, and how many are not frames that are shown."""
    found: list[_Packet] = []
    n_passed = 0
    try:
        for p in demuxed(container, stream):
            if p.size and not p.is_discard:
                kind = None if kind_of is None else kind_of(memoryview(p))
                found.append(_Packet(p.pts, p.dts, p.duration or 0, p.is_keyframe, kind))
            # The last, which is empty, says that there are no more.
            elif p.size:
                n_passed += 1
            if len(found) > MAX_PACKETS:
                raise MediaError(f"{path} has more than {MAX_PACKETS:,} frames")
    except av.error.FFmpegError as error:
        # ffmpeg, too, takes what lies before the damage.
        if not found:
            raise MediaError(f"{path} cannot be read: {error.strerror or error}") from error
        n_passed += 1
    return found, n_passed


def _is_ordered(times: Iterable[int | None]) -> bool:
    known = [time for time in times if time is not None]
    return all(known[i] <= known[i + 1] for i in range(len(known) - 1))


def _packed(numbers: Iterable[int]) -> str:
    return base64.b64encode(array("q", numbers).tobytes()).decode()


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
