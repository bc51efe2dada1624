"""Cuts without coding: packets of a video, taken over as they are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream

from vbcli.errors import MediaError
from vbcli.files import not_written, remove_temporary, temporary_path
from vbcli.media.containers import demuxed, media_url
from vbcli.media.formats import FORMATS, PROTOCOLS
from vbcli.media.limits import Limits
from vbcli.media.probe import DEFAULT_LIMITS, entry_times, frame_times, probe_video
from vbcli.rendering import Cut
from vbcli.workers import run_apart


def copy_cuts(cuts: Sequence[Cut], target: Path, limits: Limits = DEFAULT_LIMITS) -> bool:
    """Writes cuts one after the other as MP4, coding nothing again; False, and no file, where other frames would come out.

    It does where all are of one video, played as they are, and begin and end where a decoder can: at key frames that no frame refers
    across. Sound is cut to its packets, about 20 ms. What was written is counted before it is kept.

    Args:
        cuts: at least one, of `snap_cut`.
        limits: of the process that reads the video.

    Raises:
        MediaError: the video cannot be read, or not in time.
        VbcliError: `target` cannot be written.
    """
    if len({cut.path for cut in cuts}) > 1 or any(cut.speed != 1 or cut.is_mute for cut in cuts):
        return False
    path = cuts[0].path
    times, end_s = frame_times(path, limits)
    borders = np.array([*entry_times(path, limits), end_s])
    if any(np.abs(borders - time_s).min() > 1e-4 for cut in cuts for time_s in (cut.start_s, cut.end_s)):
        return False
    n_frames = sum(int(((times >= cut.start_s - 1e-4) & (times < cut.end_s - 1e-4)).sum()) for cut in cuts)
    temporary = temporary_path(target.absolute())
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        stream = probe_video(path, limits).stream_index
        try:
            # MP4 does not hold every codec; what it does not hold is coded again, and so is what brings its process down.
            if not run_apart(_remux, path, stream, cuts, temporary, timeout_s=limits.timeout_s, memory_mb=limits.memory_mb):
                return False
        except TimeoutError:
            raise MediaError(f"{path} was not copied within {limits.timeout_s:g} seconds", hint="allow more with --timeout-s") from None
        found, found_end_s = frame_times(str(temporary), limits)
        tolerance_s = float(np.diff(times).min(initial=0.04)) / 2
        length_s = sum(cut.length_s for cut in cuts)
        if len(found) != n_frames or abs(found[0]) > tolerance_s or abs(found_end_s - length_s) > tolerance_s:
            return False
        os.replace(temporary, target)
        return True
    except OSError as error:
        raise not_written(target, error) from error
    finally:
        remove_temporary(temporary)


def _remux(path: str, stream_index: int, cuts: Sequence[Cut], target: Path) -> bool:
    """Writes the packets of cuts; whether that could be done."""
    try:
        _copy_packets(path, stream_index, cuts, target)
    except (av.error.FFmpegError, ValueError, MemoryError):
        return False
    return True


def _copy_packets(path: str, stream_index: int, cuts: Sequence[Cut], target: Path) -> None:
    url = os.fsdecode(media_url(path))
    options = {"format_whitelist": FORMATS, "protocol_whitelist": PROTOCOLS}
    with (
        av.open(url, options=options, metadata_errors="replace") as source,
        av.open(f"file:{target}", "w", format="mp4", options={"movflags": "faststart"}) as written,
    ):
        chosen: list[Stream] = [source.streams[stream_index], *source.streams.audio[:1]]
        copies = {stream.index: written.add_stream_from_template(stream) for stream in chosen}
        played_s = 0.0
        for cut in cuts:
            for packet in _packets(source, chosen, cut):
                assert packet.time_base is not None
                assert packet.pts is not None
                shift = round((played_s - cut.start_s - _start_s(source)) / packet.time_base)
                packet.pts += shift
                packet.dts = packet.pts if packet.dts is None else packet.dts + shift
                packet.stream = copies[packet.stream.index]
                written.mux_one(packet)
            played_s += cut.length_s


def _start_s(source: InputContainer) -> float:
    return (source.start_time or 0) / av.time_base


def _packets(source: InputContainer, streams: Sequence[Stream], cut: Cut) -> list[Packet]:
    """The packets that are shown or heard within a cut, in the order in which they are decoded."""
    start_s, end_s = cut.start_s + _start_s(source), cut.end_s + _start_s(source)
    source.seek(int(max(start_s - 1, _start_s(source)) * av.time_base))
    found: list[tuple[float, Packet]] = []
    # A file may store sound far behind the pictures that it belongs to.
    unfinished = {stream.index for stream in streams}
    for packet in demuxed(source, *streams):
        if packet.pts is None or packet.dts is None or not packet.size or packet.time_base is None:
            continue
        tick = Fraction(packet.time_base)
        shown_s, decoded_s = float(packet.pts * tick), float(packet.dts * tick)
        if decoded_s >= end_s:
            unfinished.discard(packet.stream.index)
            if not unfinished:
                break
        if start_s - 1e-4 <= shown_s < end_s - 1e-4:
            found.append((decoded_s, packet))
    return [packet for _, packet in sorted(found, key=lambda row: row[0])]
