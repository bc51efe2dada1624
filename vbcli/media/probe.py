"""What a container says of its best video stream, and when its frames are shown; times count from the container's start.

Headers are read in a process of their own, which is limited in time and memory: a file that crashes or hangs it is an error of that file.
"""

from __future__ import annotations

import atexit
import itertools
import json
import math
import os
import selectors
import shlex
import signal
import subprocess
import sys
import threading
import time
from functools import lru_cache
from typing import Any

import numpy as np

from vbcli.errors import MediaError, VbcliError
from vbcli.media.containers import PacketTime, VideoInfo, absolute_path, open_path
from vbcli.media.limits import Limits
from vbcli.storage import fetch, is_remote

DEFAULT_LIMITS = Limits()
START_S = 120.0
"""How long a process may take to start on a busy machine."""


def probe_video(path: str, limits: Limits = DEFAULT_LIMITS) -> VideoInfo:
    """Reads a container's header.

    Raises:
        MediaError: it cannot be opened, holds no video, or breaks a limit.
    """
    info = VideoInfo(**_ask("info", path, limits))
    if info.width_px * info.height_px > limits.max_pixels:
        raise MediaError(f"{path} has frames of {info.width_px}x{info.height_px} pixels, more than the limit of {limits.max_pixels}")
    return info


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


def _packet_times(path: str) -> tuple[PacketTime, ...]:
    """The frames of a video in the order in which they are decoded."""
    try:
        status = os.stat(open_path(path))
    except OSError as error:
        raise MediaError(f"{path} cannot be read: {error.strerror}") from error
    return _read_packet_times(path, status.st_size, status.st_mtime_ns)


# Every cut and every picture of a video asks for them, and they are read from all of the file.
@lru_cache(maxsize=2)
def _read_packet_times(path: str, size: int, mtime_ns: int) -> tuple[PacketTime, ...]:
    del size, mtime_ns
    return tuple(PacketTime(*packet) for packet in _ask("packets", path, DEFAULT_LIMITS))


# ---------------------------------------------------------------- the process that opens containers


class _Reader:
    """A `vbcli.media.reader` that is started when it is first asked, and anew when it was lost."""

    def __init__(self, memory_mb: int) -> None:
        self.memory_mb = memory_mb
        self.process: subprocess.Popen[bytes] | None = None
        self.lock = threading.Lock()

    def ask(self, call: str, path: str, timeout_s: float) -> Any:
        with self.lock:
            try:
                reply = self._exchange(json.dumps({"call": call, "path": path}).encode() + b"\n", path, timeout_s)
            except BaseException:
                # Whatever it was, an interrupt, too: its answer must not be taken for that to the next question.
                self.close()
                raise
        if "error" in reply:
            raise MediaError(reply["error"])
        if "bug" in reply:
            raise RuntimeError(reply["bug"])
        return reply["value"]

    def _exchange(self, request: bytes, path: str, timeout_s: float) -> dict[str, Any]:
        if self.process is None or self.process.poll() is not None:
            self._start()
        process = self.process
        assert process is not None
        assert process.stdin is not None
        try:
            process.stdin.write(request)
            return json.loads(self._read_line(timeout_s))
        except TimeoutError:
            raise MediaError(f"{path} was not read within {timeout_s:g} seconds") from None
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


def _ask(call: str, path: str, limits: Limits) -> Any:
    # Fetched here: the reader has neither the time nor the memory for it. Whole, as it may have been started in another folder.
    local = fetch(path) if is_remote(path) else absolute_path(path)
    try:
        return _reader(limits.memory_mb, os.getpid()).ask(call, local, limits.timeout_s)
    except MediaError as error:
        raise MediaError(error.message.replace(local, path)) from error
