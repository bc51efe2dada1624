"""How much of a machine one video may take. What takes more is recorded as a failure, and the next video is taken."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from vbcli.errors import UsageError

T = TypeVar("T")

_RANGES = {"timeout_s": (0.1, 1_000_000), "memory_mb": (256, 1 << 20), "max_pixels": (1, (1 << 31) - 1), "max_frames": (1, (1 << 31) - 1)}
"""With less memory neither ffmpeg nor the process that reads headers starts; with more than the largest numbers they cannot be told."""


@dataclass(frozen=True)
class Limits:
    """Limits of one video.

    Args:
        timeout_s: seconds that ffmpeg and the process that reads headers may keep us waiting, all in all; 0.1 to 1,000,000.
        memory_mb: megabytes of memory that each of them may take, where the system can be told (Linux); 256 to 1,048,576.
        max_pixels: of one frame, width times height as it is stored or as it comes out.
        max_frames: that are taken of one video.
    """

    timeout_s: float = 1800.0
    memory_mb: int = 4096
    max_pixels: int = 8192 * 8192
    max_frames: int = 200_000

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            lowest, highest = _RANGES[name]
            # The other way round nan would pass.
            if not lowest <= value <= highest:
                raise UsageError(f"--{name.replace('_', '-')} is {value}", hint=f"it may be {lowest:,} to {highest:,}")


class Budget:
    """Seconds that one video may keep us waiting, whatever is asked of it; what we do with its frames meanwhile costs it none."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._waited_s = 0.0
        self._since: float | None = None

    @property
    def left_s(self) -> float:
        since = self._since
        return self.limit_s - self._waited_s - (0.0 if since is None else time.monotonic() - since)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The time that the block takes is the video's."""
        started = self._since = time.monotonic()
        try:
            yield
        finally:
            self._waited_s, self._since = self._waited_s + time.monotonic() - started, None

    def timed(self, items: Iterable[T]) -> Iterator[T]:
        """The items; the time until each comes is the video's."""
        iterator = iter(items)
        while True:
            with self.waiting():
                item = next(iterator, None)
            if item is None:
                return
            yield item
