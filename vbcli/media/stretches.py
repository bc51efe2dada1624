"""Long videos in stretches: each begins with a frame at which a decoder can begin, and is decoded by a process of its own."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from vbcli.media.probe import Packets
from vbcli.media.sampling import PARTS_AT_ONCE

CODECS = ("h264", "hevc", "vp8", "vp9", "av1")
"""Of which nothing before such a frame matters to what follows it; that one begins anew each of these standards says."""
PACKETS_EACH = 800
"""About so many a stretch: half a minute, whose frames are held in memory until those before them are taken."""
_BEYOND_S = 0.2
"""ffmpeg seeks to a time, and in some containers 3/23 s before it, so as to find frames that are decoded earlier than they are shown."""


@dataclass(frozen=True)
class Stretch:
    """Packets that one process decodes.

    Args:
        first, last: numbers of packets; `last` is the first that is none of them.
        chosen: numbers of the packets whose frames are asked for, in the order in which these are shown.
    """

    first: int
    last: int
    chosen: np.ndarray


def cut_stretches(packets: Packets, chosen: np.ndarray, n_at_once: int) -> list[Stretch]:
    """Stretches of like length for so many processes, without those of which nothing is asked; none where a video is not to be cut.

    Args:
        chosen: numbers of packets, in the order in which their frames are shown.
    """
    n = len(packets.shown_s)
    wanted = n_at_once * -(-n // (n_at_once * PACKETS_EACH))
    entries = _entries(packets)
    if not len(entries):
        return []
    ideal = np.arange(1, wanted) * n / wanted
    borders = [0, *np.unique(entries[np.abs(entries[:, None] - ideal).argmin(0)]).tolist(), n]
    stretches = [Stretch(a, b, chosen[(chosen >= a) & (chosen < b)]) for a, b in itertools.pairwise(borders)]
    asked = [stretch for stretch in stretches if len(stretch.chosen)]
    # What is chosen of each is told in one expression.
    return asked if len(asked) > 1 and max(len(stretch.chosen) for stretch in asked) <= PARTS_AT_ONCE else []


def seek_options(packets: Packets, stretch: Stretch) -> dict[str, float | None]:
    """What ffmpeg is told so that it reads a stretch, and little more."""
    begins_s = float(packets.shown_s[stretch.first]) + _BEYOND_S
    ends_s = float(packets.shown_s[stretch.first : stretch.last].max()) + 2 * _BEYOND_S
    if not stretch.first:
        return {"t": ends_s}
    return {"noaccurate_seek": None, "ss": begins_s, "t": ends_s - begins_s}


def _entries(packets: Packets) -> np.ndarray:
    """Numbers of the packets with which a stretch may begin: not the first, and none that another follows before seeking is past it."""
    keys_s = np.sort(packets.shown_s[packets.is_key])
    shown_s = packets.shown_s[packets.entries]
    following_s = np.append(keys_s, np.inf)[np.searchsorted(keys_s, shown_s, side="right")]
    return packets.entries[(following_s > shown_s + 2 * _BEYOND_S) & (packets.entries > 0)]
