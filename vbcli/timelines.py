"""Timelines that editing programs open: OpenTimelineIO."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import opentimelineio as otio

from vbcli.files import write_atomic
from vbcli.media import frame_times, open_path, probe_video
from vbcli.rendering import Cut

DEFAULT_RATE = 25.0
TIMECODE_RATES = (24, 25, 30, 48, 50, 60)
"""Frames a second that an edit decision list can count in."""


@dataclass(frozen=True)
class TimelineClip:
    """A cut and what it is called."""

    cut: Cut
    name: str


def write_timeline(target: Path, name: str, clips: Sequence[TimelineClip]) -> None:
    """Writes cuts as one video track of a timeline, OpenTimelineIO's own JSON; times have the rate of each video.

    Raises:
        MediaError: a video cannot be read.
        VbcliError: `target` cannot be written.
    """
    write_atomic(target, (_timeline(name, clips).to_json_string(indent=2) + "\n").encode())


def write_edl(target: Path, name: str, clips: Sequence[TimelineClip]) -> None:
    """Writes cuts as an edit decision list (CMX 3600), in whole frames of the first video's rate or a multiple of it.

    Raises:
        MediaError: a video cannot be read.
        VbcliError: `target` cannot be written.
    """
    fps = round(probe_video(clips[0].cut.path).fps or DEFAULT_RATE)
    rate = float(next((rate for rate in TIMECODE_RATES if fps and rate % fps == 0), TIMECODE_RATES[-1]))
    timeline = _timeline(name, clips, rate)
    write_atomic(target, otio.adapters.write_to_string(timeline, "cmx_3600", rate=rate).encode())


def _timeline(name: str, clips: Sequence[TimelineClip], whole_rate: float | None = None) -> otio.schema.Timeline:
    """A timeline of one video track.

    Args:
        whole_rate: round all times to frames of this rate.
    """
    timeline = otio.schema.Timeline(name=name)
    track = otio.schema.Track(name="video", kind=otio.schema.TrackKind.Video)
    timeline.tracks.append(track)
    for clip in clips:
        cut = clip.cut
        rate = whole_rate or probe_video(cut.path).fps or DEFAULT_RATE
        _, end_s = frame_times(cut.path)
        path = Path(os.fsdecode(open_path(cut.path))).absolute()
        digits = 0 if whole_rate else 6
        media = otio.schema.ExternalReference(target_url=path.as_uri(), available_range=_range(0.0, end_s, rate, digits))
        entry = otio.schema.Clip(clip.name, media, _range(cut.start_s, cut.end_s, rate, digits))
        if cut.speed != 1:
            entry.effects.append(otio.schema.LinearTimeWarp(time_scalar=cut.speed))
        if cut.is_mute:
            entry.metadata["vbcli"] = {"mute": True}
        track.append(entry)
    return timeline


def _range(start_s: float, end_s: float, rate: float, digits: int) -> otio.opentime.TimeRange:
    start, end = round(start_s * rate, digits), round(end_s * rate, digits)
    return otio.opentime.TimeRange(otio.opentime.RationalTime(start, rate), otio.opentime.RationalTime(round(end - start, 6), rate))
