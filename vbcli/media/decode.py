"""The decoder of a run: one ffmpeg, and what one video may take."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from vbcli.errors import MediaError
from vbcli.media.containers import VideoInfo, leads_out
from vbcli.media.filters import Geometry
from vbcli.media.limits import Limits
from vbcli.media.program import find_ffmpeg
from vbcli.media.sampling import Sampling
from vbcli.media.video import Video


@dataclass(frozen=True)
class MediaOptions:
    """How videos are decoded; no part of what makes a dataset, though another build of ffmpeg is warned of.

    Args:
        ffmpeg: `bundled`, `system` or a path.
        follows_links: out of the folder of videos, too.
        threads: cores for one video: so many processes, each under the limit of memory, decode stretches of it, or, where it cannot be cut,
            one in as many threads. Where anything is wrong with it, it is decoded anew with one thread, as what comes of damage depends on
            their number.
    """

    ffmpeg: str = "bundled"
    limits: Limits = field(default_factory=Limits)
    follows_links: bool = False
    threads: int = 1

    def open(self) -> Decoder:
        """
        Raises:
            VbcliError: there is no such ffmpeg.
        """
        return Decoder(find_ffmpeg(self.ffmpeg), self.limits, self.follows_links, self.threads)


@dataclass(frozen=True)
class Decoder:
    """Decodes videos with one ffmpeg, under limits.

    Args:
        executable: from `find_ffmpeg`.
    """

    executable: str
    limits: Limits = field(default_factory=Limits)
    follows_links: bool = False
    threads: int = 1

    def check_link(self, video_id: str, path: str) -> None:
        """Refuses a video that is a link to something outside of its folder.

        Raises:
            MediaError: it is one, and those are not followed.
        """
        if not self.follows_links and leads_out(path, video_id):
            raise MediaError(f"{path} is a link that leads out of its folder", hint="give --follow-links to take such videos")

    def video(self, path: str) -> Video:
        """A video of which several things are asked: they share one time limit."""
        return Video(self.executable, self.limits, path, self.threads)

    def probe(self, path: str) -> VideoInfo:
        """What its container says of a video.

        Raises:
            MediaError: it cannot be opened, holds no video, or breaks a limit.
        """
        return self.video(path).info

    def jpegs(self, path: str, sampling: Sampling, geometry: Geometry, quality: int = 3) -> Iterator[tuple[float, bytes]]:
        """`Video.jpegs` of a video of which nothing else is asked."""
        return self.video(path).jpegs(sampling, geometry, quality)

    def images(self, path: str, sampling: Sampling, geometry: Geometry) -> Iterator[tuple[float, np.ndarray]]:
        """`Video.images` of a video of which nothing else is asked."""
        return self.video(path).images(sampling, geometry)

    def sound(self, path: str, rate: int) -> np.ndarray:
        """`Video.sound` of a video of which nothing else is asked."""
        return self.video(path).sound(rate)
