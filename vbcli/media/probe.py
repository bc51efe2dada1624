"""What a container says of its best video stream, and when its frames are shown; times count from the container's start.

Headers are read in a process of their own, which is limited in time and memory: a file that crashes or hangs it is an error of that file.
"""

from __future__ import annotations

import atexit
import base64
import json
import os
import selectors
import shlex
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from vbcli.errors import MediaError, VbcliError
from vbcli.media.containers import PacketList, VideoInfo, absolute_path, open_path
from vbcli.media.limits import Budget, Limits
from vbcli.storage import fetch, is_remote

DEFAULT_LIMITS = Limits()
START_S = 120.0
"""How long a process may take to start on a busy machine."""


REORDERED = 16
"""Frames that a decoder may hold back until others are shown: so many no known way of coding takes more."""


@dataclass(frozen=True)
class Packets:
    """The frames of a video as they are stored, in the order in which they are decoded.

    `shown_s` float64 (P,) is when each is shown, from the container's start, `lasts_s` for how long (0 where that is not known), `is_key`
    whether its container says that a decoder can begin with it, `is_disposable` whether no other frame needs it, and `is_beginning` whether
    a decoder that begins with it gives what one gives that began before (none where that is not known). `is_plain`: the container tells
    each time, and they run forwards.
    """

    shown_s: np.ndarray
    lasts_s: np.ndarray
    is_key: np.ndarray
    is_disposable: np.ndarray
    is_beginning: np.ndarray
    is_plain: bool

    @property
    def end_s(self) -> float:
        """When the last one ends."""
        last = int(np.lexsort((self.lasts_s, self.shown_s))[-1])
        return float(self.shown_s[last]) + (float(self.lasts_s[last]) or usual_step(self.shown_s))

    def borders(self, is_beginning: np.ndarray) -> np.ndarray:
        """Of packets with which a decoder can begin the numbers of those at which one can end, too: int (B,). All that is decoded before
        them is shown before them.

        Args:
            is_beginning: bool (P,).
        """
        latest_before = np.maximum.accumulate(np.append(-np.inf, self.shown_s[:-1]))
        earliest_after = np.minimum.accumulate(self.shown_s[::-1])[::-1]
        return np.flatnonzero(is_beginning & (latest_before < self.shown_s) & (self.shown_s <= earliest_after))

    def disposable_but(self, chosen: np.ndarray) -> np.ndarray:
        """Which frames neither another frame needs nor anybody asks for: bool (P,); none where the former is not known.

        Args:
            chosen: numbers of packets, whose frames are asked for.
        """
        is_left_out = self.is_disposable.copy() if len(self.is_disposable) else np.zeros(len(self.shown_s), np.bool_)
        is_left_out[chosen] = False
        return is_left_out


def usual_step(times_s: np.ndarray) -> float:
    """Seconds from one frame to the next, mostly."""
    return float(np.median(np.diff(np.sort(times_s)))) if len(times_s) > 1 else 0.04


def probe_video(path: str, limits: Limits = DEFAULT_LIMITS, budget: Budget | None = None) -> VideoInfo:
    """Reads a container's header.

    Args:
        budget: of the video, where more is asked of it.

    Raises:
        MediaError: it cannot be opened, holds no video, or breaks a limit.
    """
    return _checked(path, _ask("info", path, limits, budget), limits)


def read_contents(path: str, limits: Limits = DEFAULT_LIMITS, budget: Budget | None = None) -> tuple[VideoInfo, Packets]:
    """What a container says, and when the frames of a video are shown, without decoding any; none where the container does not tell.

    Args:
        budget: of the video, where more is asked of it.

    Raises:
        MediaError: it cannot be read, holds no video, or breaks a limit.
    """
    info, packets = _ask("contents", path, limits, budget)
    return _checked(path, info, limits), _unpacked(PacketList(**packets))


def _checked(path: str, answer: dict[str, Any], limits: Limits) -> VideoInfo:
    info = VideoInfo(**{**answer, "colours": tuple(answer["colours"])})
    if info.width_px * info.height_px > limits.max_pixels:
        raise MediaError(f"{path} has frames of {info.width_px}x{info.height_px} pixels, more than the limit of {limits.max_pixels}")
    return info


def _unpacked(packets: PacketList) -> Packets:
    shown, lasts = (np.frombuffer(base64.b64decode(text), np.int64) for text in (packets.shown, packets.lasts))
    tick_s = packets.tick[0] / packets.tick[1]
    # How many of those that are decoded later are shown earlier.
    late = np.empty(len(shown), np.int64)
    late[np.argsort(shown, kind="stable")] = np.arange(len(shown))
    late -= np.arange(len(shown))
    return Packets(
        shown * tick_s - packets.start_s,
        lasts * tick_s,
        np.frombuffer(base64.b64decode(packets.is_key), np.bool_),
        np.frombuffer(base64.b64decode(packets.is_disposable), np.bool_),
        np.frombuffer(base64.b64decode(packets.is_beginning), np.bool_),
        packets.has_own_times and len(shown) > 0 and int(late.max()) <= REORDERED,
    )


def frame_times(path: str, limits: Limits = DEFAULT_LIMITS) -> tuple[np.ndarray, float]:
    """When each frame is shown, without decoding any: presentation times float64 (F,) in order, and the time at which the last one ends.

    Times count from the container's start, as those of sampled frames do.

    Raises:
        MediaError: it cannot be read, no frame has a time, or a limit is broken.
    """
    packets = _timed_packets(path, limits)
    return np.sort(packets.shown_s), packets.end_s


def entry_times(path: str, limits: Limits = DEFAULT_LIMITS) -> list[float]:
    """When key frames are shown at which a decoder can begin, and end, without any other frame; in order.

    Raises:
        MediaError: it cannot be read, no frame has a time, or a limit is broken.
    """
    packets = _timed_packets(path, limits)
    return packets.shown_s[packets.borders(packets.is_key)].tolist()


def _timed_packets(path: str, limits: Limits) -> Packets:
    try:
        status = os.stat(open_path(path))
    except OSError as error:
        raise MediaError(f"{path} cannot be read: {error.strerror}") from error
    packets = _kept_packets(path, status.st_size, status.st_mtime_ns, limits)
    if not len(packets.shown_s):
        raise MediaError(f"{path} has no frame with a time")
    return packets


# Every cut and every picture of a video asks for them, and they are read from all of the file.
@lru_cache(maxsize=2)
def _kept_packets(path: str, size: int, mtime_ns: int, limits: Limits) -> Packets:
    del size, mtime_ns
    return read_contents(path, limits)[1]


# ---------------------------------------------------------------- the process that opens containers


class _Reader:
    """A `vbcli.media.reader` that is started when it is first asked, and anew when it was lost."""

    def __init__(self, memory_mb: int) -> None:
        self.memory_mb = memory_mb
        self.process: subprocess.Popen[bytes] | None = None
        self.lock = threading.Lock()

    def ask(self, call: str, path: str, budget: Budget) -> Any:
        with self.lock:
            try:
                reply = self._exchange(json.dumps({"call": call, "path": path}).encode() + b"\n", path, budget)
            except BaseException:
                # Whatever it was, an interrupt, too: its answer must not be taken for that to the next question.
                self.close()
                raise
        if "error" in reply:
            raise MediaError(reply["error"])
        if "bug" in reply:
            raise RuntimeError(reply["bug"])
        return reply["value"]

    def _exchange(self, request: bytes, path: str, budget: Budget) -> dict[str, Any]:
        if self.process is None or self.process.poll() is not None:
            self._start()
        process = self.process
        assert process is not None
        assert process.stdin is not None
        try:
            process.stdin.write(request)
            with budget.waiting():
                line = self._read_line(budget.left_s)
            return json.loads(line)
        except TimeoutError:
            raise MediaError(f"{path} was not read within {budget.limit_s:g} seconds") from None
        except BrokenPipeError:
            status = process.wait()
            how = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
            raise MediaError(f"{path} brings down the process that reads it ({how})") from None

    def _start(self) -> None:
        # -P: modules of the folder that the user is in are none of ours.
        command = [sys.executable, "-P", "-m", "vbcli.media.reader", str(self.memory_mb)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0, process_group=0
        )
        try:
            self._read_line(START_S)
        except (TimeoutError, BrokenPipeError):
            # No file's fault.
            raise VbcliError("the process that reads videos does not start", hint=f"see what it says: {shlex.join(command)}") from None

    def _read_line(self, timeout_s: float) -> bytes:
        """What the process says next.

        Raises:
            TimeoutError: it says nothing.
            BrokenPipeError: it has ended.
        """
        assert self.process is not None
        assert self.process.stdout is not None
        ends_at, line = time.monotonic() + timeout_s, bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(max(0.0, ends_at - time.monotonic())):
                    raise TimeoutError
                part = os.read(self.process.stdout.fileno(), 1 << 20)
                if not part:
                    raise BrokenPipeError
                line += part
        return bytes(line)

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                assert pipe is not None
                pipe.close()
            self.process = None


@lru_cache(maxsize=4)
def _reader(memory_mb: int, process_id: int) -> _Reader:
    del process_id  # a forked child must not share its parent's
    reader = _Reader(memory_mb)
    atexit.register(reader.close)
    return reader


def _ask(call: str, path: str, limits: Limits, budget: Budget | None) -> Any:
    # Fetched here: the reader has neither the time nor the memory for it. Whole, as it may have been started in another folder.
    local = fetch(path) if is_remote(path) else absolute_path(path)
    try:
        return _reader(limits.memory_mb, os.getpid()).ask(call, local, budget or Budget(limits.timeout_s))
    except MediaError as error:
        raise MediaError(error.message.replace(local, path)) from error
