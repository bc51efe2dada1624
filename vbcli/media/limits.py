"""How much of a machine one video may take. What takes more is recorded as a failure, and the next video is taken."""

from __future__ import annotations

from dataclasses import dataclass

from vbcli.errors import UsageError


@dataclass(frozen=True)
class Limits:
    """Limits of one video.

    Args:
        timeout_s: seconds until ffmpeg, or the process that reads headers, is ended.
        memory_mb: megabytes of memory that each of them may take, where the system can be told (Linux).
        max_pixels: of one frame, width times height as it is stored.
        max_frames: that are taken of one video.
    """

    timeout_s: float = 1800.0
    memory_mb: int = 4096
    max_pixels: int = 8192 * 8192
    max_frames: int = 200_000

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise UsageError(f"--{name.replace('_', '-')} is {value}", hint="limits are above 0")
