"""One run of ffmpeg over a video: the frames that come, with their times; and which packets it need not decode."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import av
import av.error
import numpy as np

from vbcli.errors import MediaError
from vbcli.media.limits import Budget, Limits
from vbcli.media.running import Run, running

TRUE_S = 1e-3
"""Two programs agree on a time when they differ by less."""
_BITS = 50
"""Packets that one number of ffmpeg's expressions, a double, tells of."""
_MAX_EXPRESSION = 100_000
"""Characters: Linux takes arguments of up to 128 KiB."""


class Frame(NamedTuple):
    """A frame as it comes: `data` is a JPEG, or RGB bytes."""

    pts_s: float
    data: bytes
    width_px: int
    height_px: int


class UntrueTimesError(Exception):
    """ffmpeg's frames have other times than the packets, or run backwards."""


class ComplaintError(Exception):
    """Frames do not come as they should where some are left out, or several decoders are at work."""


def frames_of(run: Run, path: str, max_pixels: int) -> Iterator[Frame]:
    """The frames of a run of ffmpeg that writes NUT, with its times.

    Raises:
        MediaError: it ends in the middle of a frame, or frames are larger than they may be.
    """
    n = 0
    try:
        # The descriptor, not the file: PyAV drops an interrupt that comes while it reads from a Python object.
        with run.budget.waiting():
            options = {"fd": str(run.stdout.fileno())}
            opened = av.open("fd:", format="nut", mode="r", options=options, metadata_errors="replace")
        with opened as container:
            video = container.streams.video[0]
            width, height = video.codec_context.width, video.codec_context.height
            if width * height > max_pixels:
                raise MediaError(f"{path} gives frames of {width}x{height} pixels, more than the limit of {max_pixels}")
            for packet in run.budget.timed(container.demux(video)):
                if packet.pts is None or packet.time_base is None or packet.size == 0:
                    continue
                n += 1
                yield Frame(float(packet.pts * packet.time_base), bytes(packet), width, height)
    except (av.error.FFmpegError, IndexError) as error:
        # Closed, so that ffmpeg ends and can be waited for; mostly it has ended already, and says itself why.
        run.stdout.close()
        if n:
            raise MediaError(f"{path} cannot be decoded: {error}") from error


def expected_frames(
    command: list[bytes | str], wanted_s: list[float], time_of: Callable[[Frame], float], path: str, limits: Limits, budget: Budget
) -> Iterator[Frame]:
    """The frames of a run of ffmpeg that is to give those with these times, in order.

    Args:
        time_of: our time of a frame, which has ffmpeg's.

    Raises:
        ComplaintError: another frame comes than the one that is next, or ffmpeg says anything at all.
    """
    n = 0
    try:
        with running(command, path, limits, budget) as run:
            for frame in frames_of(run, path, limits.max_pixels):
                pts_s = time_of(frame)
                # It complains before it hands out a frame that is wrong.
                if n == len(wanted_s) or abs(pts_s - wanted_s[n]) >= TRUE_S or run.has_complained:
                    raise ComplaintError
                n += 1
                yield frame._replace(pts_s=pts_s)
    except MediaError as error:
        raise ComplaintError from error
    if run.said or n < len(wanted_s):
        raise ComplaintError


def without_packets(is_left_out: np.ndarray, begins_s: float | None = None) -> str | None:
    """What the bitstream filter `noise` is told to drop packets before they are decoded; None where that is too much to say.

    Args:
        is_left_out: bool (P,), of the packets in their order.
        begins_s: the time of the first, where not all of a video is read. Where another packet comes first, none is dropped.
    """
    padded = np.append(is_left_out, np.zeros(-len(is_left_out) % _BITS, np.bool_)).reshape(-1, _BITS)
    numbers = (padded @ (1 << np.arange(_BITS, dtype=np.int64))).tolist()

    def tree(first: int, last: int) -> str:
        if last - first == 1:
            return f"mod(floor({numbers[first]}/pow(2,n-{first * _BITS})),2)" if numbers[first] else "0"
        middle = (first + last) // 2
        return f"if(lt(n,{middle * _BITS}),{tree(first, middle)},{tree(middle, last)})"

    is_ours = "1" if begins_s is None else f"lt(abs(startpts*tb-({begins_s!r})),{TRUE_S!r})"
    text = f"noise=drop='if(lt(n,{len(is_left_out)}),{tree(0, len(numbers))},0)*{is_ours}'"
    return text if len(text) <= _MAX_EXPRESSION else None


def nearest(times: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Where in times that are in order, of which there are some, the nearest to each lies."""
    after = np.searchsorted(known, times).clip(0, len(known) - 1)
    before = (after - 1).clip(0)
    return np.where(np.abs(known[before] - times) < np.abs(known[after] - times), before, after)


def are_near(times: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Which of the times are known, known ones being in order: bool (F,)."""
    if not len(known):
        return np.zeros(len(times), np.bool_)
    return np.abs(known[nearest(times, known)] - times) < TRUE_S
