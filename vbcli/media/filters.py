"""What is done to each picture, by ffmpeg's filters: made whole, opaque and of ordinary brightness, resized and cropped."""

from __future__ import annotations

from dataclasses import dataclass

from vbcli.media.containers import VideoInfo

LONGEST_PX = 16_384
"""Of a side: JPEG has no more than 65,500, and no picture should be a thousand times as wide as high."""
_TRANSFERS = {16: "smpte2084", 18: "arib-std-b67"}
"""Transfer curves of high dynamic range, PQ and HLG, by their numbers in H.273."""
_UNKNOWN = 2
_WHITE_NITS = 203
"""Of a sheet of paper in HDR video (ITU-R BT.2408): becomes the white of ordinary video."""

Filter = tuple[str, dict[str, str | int]]


@dataclass(frozen=True)
class Geometry:
    """How a frame is resized and cropped.

    Args:
        resize_px: the short side (the long one follows the display aspect ratio, up to 16,384), or (height, width) exactly.
        crop_px: side of the central square that is kept; None keeps all.
    """

    resize_px: int | tuple[int, int]
    crop_px: int | None = None

    def scale_arguments(self) -> dict[str, str | int]:
        """Arguments of ffmpeg's `scale` filter."""
        if isinstance(self.resize_px, tuple):
            return {"w": self.resize_px[1], "h": self.resize_px[0], "flags": "bicubic"}
        side = self.resize_px
        longest = max(side, LONGEST_PX)
        # `dar` counts the shape of a pixel, too; sides are even because JPEG's colours are halved.
        wide, tall = (f"clip(trunc({side}{sign}dar/2+0.5)*2,{side},{longest})" for sign in "*/")
        return {"w": f"if(gte(dar,1),{wide},{side})", "h": f"if(gte(dar,1),{side},{tall})", "flags": "bicubic"}


def whole_frames(info: VideoInfo, *, is_of_one_size: bool = False) -> list[Filter]:
    """Before frames are chosen, as it looks at those around: the lines that an interlaced frame lacks are worked out; times stay.

    Args:
        is_of_one_size: frames of another size on the way are made to fit, where ffmpeg does not build its filters anew for them.
    """
    # `scale` leaves frames as they are that have the size; other filters would read beyond the end of smaller ones.
    is_fitted = is_of_one_size and (info.is_interlaced or info.has_alpha)
    fitted: list[Filter] = [("scale", {"w": info.width_px, "h": info.height_px})] if is_fitted else []
    whole: list[Filter] = [("bwdif", {"mode": "send_frame", "deint": "interlaced"})] if info.is_interlaced else []
    return [*fitted, *whole]


def fitted_frames(info: VideoInfo, geometry: Geometry) -> list[Filter]:
    """What is done to chosen frames. A video that has no alpha and no high dynamic range is resized and cropped alone."""
    filters: list[Filter] = []
    if info.has_alpha:
        # What is seen through becomes black, before neighbours are mixed.
        filters += [("format", {"pix_fmts": "gbrap"}), ("premultiply", {"inplace": 1})]
    filters.append(("scale", geometry.scale_arguments()))
    filters += _ordinary_brightness(info)
    if geometry.crop_px is not None:
        filters.append(("crop", {"w": geometry.crop_px, "h": geometry.crop_px}))
    return [*filters, ("setsar", {"sar": 1})]


def is_hdr(info: VideoInfo) -> bool:
    """Whether its brightness is coded by PQ or HLG."""
    return info.colours[1] in _TRANSFERS


def _ordinary_brightness(info: VideoInfo) -> list[Filter]:
    if not is_hdr(info):
        return []
    primaries, transfer, matrix = info.colours
    source: dict[str, str | int] = {"tin": _TRANSFERS[transfer], "t": "linear", "npl": _WHITE_NITS}
    if primaries == _UNKNOWN:
        source["pin"] = "bt2020"
    if matrix == _UNKNOWN:
        source["min"] = "bt2020nc"
    return [
        ("zscale", source),
        ("format", {"pix_fmts": "gbrpf32le"}),
        ("zscale", {"p": "bt709"}),
        ("tonemap", {"tonemap": "mobius", "desat": 0}),
        ("zscale", {"t": "bt709", "m": "bt709", "r": "tv"}),
        ("format", {"pix_fmts": "yuv420p"}),
    ]
