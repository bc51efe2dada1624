"""Long videos in stretches: each begins with a frame at which a decoder can begin, and is decoded by a process of its own."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from vbcli.media.passes import nearest
from vbcli.media.probe import Packets
from vbcli.media.sampling import PARTS_AT_ONCE

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
    n, shown_s, borders = len(packets.shown_s), packets.shown_s, _borders(packets)
    if not len(borders):
        return []
    wanted = n_at_once * -(-n // (n_at_once * PACKETS_EACH))
    firsts = np.unique(np.append(0, borders[nearest(np.arange(1, wanted) * n / wanted, borders)]))
    # What is decoded before a border is shown before it.
    parts = np.split(chosen, np.searchsorted(shown_s[chosen], shown_s[firsts[1:]]))
    cut = zip(itertools.pairwise([*firsts.tolist(), n]), parts, strict=True)
    stretches = [Stretch(first, last, part) for (first, last), part in cut if len(part)]
    # What is chosen of each is told in one expression.
    return stretches if len(stretches) > 1 and max(len(stretch.chosen) for stretch in stretches) <= PARTS_AT_ONCE else []


def seek_options(packets: Packets, stretch: Stretch) -> dict[str, float | None]:
    """What ffmpeg is told so that it reads a stretch, and little more: that it is over it knows by the frames that come next."""
    shown_s = packets.shown_s[stretch.first : stretch.last]
    first_s = float(shown_s.min())
    lasts_s = float(shown_s.max()) - first_s + _BEYOND_S
    return {"t": lasts_s, **({"noaccurate_seek": None, "ss": first_s + _BEYOND_S} if stretch.first else {})}


def _borders(packets: Packets) -> np.ndarray:
    """Numbers of the packets with which a stretch may begin: not the first, and none that another key frame follows so soon that seeking
    would find that one."""
    if not len(packets.is_beginning):
        return np.empty(0, np.int64)
    keys_s, found = np.sort(packets.shown_s[packets.is_key]), packets.borders(packets.is_beginning)
    shown_s = packets.shown_s[found]
    following_s = np.append(keys_s, np.inf)[np.searchsorted(keys_s, shown_s, side="right")]
    return found[(following_s > shown_s + 2 * _BEYOND_S) & (found > 0)]
