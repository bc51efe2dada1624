"""What packets say of their frames: those that no other frame needs are not decoded where nobody asks for them, and with others a decoder
can begin.

Sources: ITU-T H.264, section 7.4.1 (`nal_ref_idc` 0: of no picture the reference) and table 7-1; H.265, section 3 ("sub-layer
non-reference picture") and table 7-1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple


class PacketKind(NamedTuple):
    """Of a picture: its temporal layer, whether no other of that layer needs it, whether it needs none before it, nor does what
    follows it, and whether its packet has parameter sets, some or all."""

    layer: int
    is_unneeded: bool
    is_anew: bool
    has_sets: bool
    has_all_sets: bool


Kind = PacketKind | None
"""None where it is not known."""
_EXACT = ("mov", "mp4", "matroska", "webm")
"""Containers in which a packet is a frame, whoever takes them apart."""
_VERSION = 1
"""Of the records that say how long the lengths before each unit are: they begin with it."""
_H264_ASIDE, _H265_ASIDE = (6, 9, 12), (35, 38, 39, 40)
"""Units that say nothing to other frames: access unit delimiters, filler, supplements."""
_H264_IDR, _H264_SETS = 5, frozenset([7, 8])
_H265_ANEW, _H265_PICTURES, _H265_SETS = range(16, 22), range(32), frozenset([32, 33, 34])
_H264_PREDICTIVE = 244
"""Profile High 4:4:4 Predictive, of whose lossless blocks FFmpeg decodes those of older encoders otherwise: which encoder it was the first
packet alone says."""
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
        can_begin = extradata[1] != _H264_PREDICTIVE
        return lambda packet: _h264_kind(packet, (extradata[4] & 3) + 1, can_begin)
    if codec == "hevc" and len(extradata) > 22 and extradata[0] == _VERSION:
        return lambda packet: _h265_kind(packet, (extradata[21] & 3) + 1)
    return None


def disposable(kinds: Iterable[Kind]) -> bytes:
    """For each packet whether its frame can be left out, a byte each: those of the highest layer; nothing where that is not known."""
    found: list[PacketKind] = []
    for kind in kinds:
        if kind is None:
            return b""
        found.append(kind)
    # Pictures of a higher layer may need one that none of its own layer needs.
    highest = max((kind.layer for kind in found), default=0)
    return bytes(kind.is_unneeded and kind.layer == highest for kind in found)


def beginnings(kinds: Iterable[Kind]) -> bytes:
    """For each packet whether a decoder that has the container's header can begin with it, a byte each; nothing where that is not known."""
    found, has_sets = bytearray(), False
    for kind in kinds:
        if kind is None:
            return b""
        # Parameter sets on the way take the place of the header's.
        found.append(kind.is_anew and (kind.has_all_sets or not has_sets))
        has_sets = has_sets or kind.has_sets
    return bytes(found)


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


def _h264_kind(packet: memoryview, length_size: int, can_begin: bool) -> Kind:
    is_unneeded, is_picture, kinds = True, False, set[int]()
    for unit in _units(packet, length_size):
        if unit is None:
            return None
        kind = unit[0] & 31
        kinds.add(kind)
        if kind not in _H264_ASIDE:
            is_picture = True
            is_unneeded = is_unneeded and kind == 1 and not unit[0] & 0x60
    is_anew = can_begin and _H264_IDR in kinds and 1 not in kinds
    return PacketKind(0, is_unneeded and is_picture, is_anew, not kinds.isdisjoint(_H264_SETS), kinds >= _H264_SETS)


def _h265_kind(packet: memoryview, length_size: int) -> Kind:
    layer, is_unneeded, is_picture, kinds = 0, True, False, set[int]()
    for unit in _units(packet, length_size):
        if unit is None:
            return None
        kind = unit[0] >> 1 & 63
        kinds.add(kind)
        if kind not in _H265_ASIDE:
            layer, is_picture = max(layer, unit[1] & 7), True
            is_unneeded = is_unneeded and kind <= _H265_LAST_TRAILING and not kind % 2
    pictures = kinds.intersection(_H265_PICTURES)
    is_anew = bool(pictures) and pictures.issubset(_H265_ANEW)
    return PacketKind(layer, is_unneeded and is_picture, is_anew, not kinds.isdisjoint(_H265_SETS), kinds >= _H265_SETS)
