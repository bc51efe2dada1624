"""Frames that no other frame needs: told from their packets, they need not be decoded where nobody asks for them.

Sources: ITU-T H.264, section 7.4.1 (`nal_ref_idc` 0: of no picture the reference); H.265, section 3 ("sub-layer non-reference picture")
and table 7-1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

Kind = tuple[int, bool] | None
"""Of a picture: its temporal layer, and whether no other of that layer needs it; None where that is not known."""
_EXACT = ("mov", "mp4", "matroska", "webm")
"""Containers in which a packet is a frame, whoever takes them apart."""
_VERSION = 1
"""Of the records that say how long the lengths before each unit are: they begin with it."""
_H264_ASIDE, _H265_ASIDE = (6, 9, 12), (35, 38, 39, 40)
"""Units that say nothing to other frames: access unit delimiters, filler, supplements."""
_H265_LAST_TRAILING = 15
"""Of the kinds of pictures up to it, the even ones are needed by no other of their layer; those after it begin anew."""


def packet_kinds(format_name: str, codec: str, extradata: bytes | None) -> Callable[[memoryview], Kind] | None:
    """What tells the kinds of the packets of a stream; None where nothing can.

    Args:
        format_name: names of the container's format, separated by commas.
        codec: its canonical name.
        extradata: the codec's, from the container's header.
    """
    if not extradata or not any(name in _EXACT for name in format_name.split(",")):
        return None
    if codec == "h264" and len(extradata) > 6 and extradata[0] == _VERSION:
        return lambda packet: _h264_kind(packet, (extradata[4] & 3) + 1)
    if codec == "hevc" and len(extradata) > 22 and extradata[0] == _VERSION:
        return lambda packet: _h265_kind(packet, (extradata[21] & 3) + 1)
    return None


def disposable(kinds: Iterable[Kind]) -> bytes:
    """For each packet whether its frame can be left out, a byte each: those of the highest layer; nothing where that is not known."""
    found: list[tuple[int, bool]] = []
    for kind in kinds:
        if kind is None:
            return b""
        found.append(kind)
    # Pictures of a higher layer may need one that none of its own layer needs.
    highest = max((layer for layer, _ in found), default=0)
    return bytes(is_unneeded and layer == highest for layer, is_unneeded in found)


def _units(packet: memoryview, length_size: int) -> Iterator[memoryview | None]:
    """The units of a packet; None at the end where the lengths are wrong."""
    place = 0
    while place < len(packet):
        start = place + length_size
        size = int.from_bytes(packet[place:start], "big")
        place = start + size
        if size < 3 or place > len(packet):
            yield None
            return
        yield packet[start:place]


def _h264_kind(packet: memoryview, length_size: int) -> Kind:
    is_unneeded, is_picture = True, False
    for unit in _units(packet, length_size):
        if unit is None:
            return None
        kind = unit[0] & 31
        if kind not in _H264_ASIDE:
            is_picture = True
            is_unneeded = is_unneeded and kind == 1 and not unit[0] & 0x60
    return 0, is_unneeded and is_picture


def _h265_kind(packet: memoryview, length_size: int) -> Kind:
    layer, is_unneeded, is_picture = 0, True, False
    for unit in _units(packet, length_size):
        if unit is None:
            return None
        kind = unit[0] >> 1 & 63
        if kind not in _H265_ASIDE:
            layer, is_picture = max(layer, unit[1] & 7), True
            is_unneeded = is_unneeded and kind <= _H265_LAST_TRAILING and not kind % 2
    return layer, is_unneeded and is_picture
