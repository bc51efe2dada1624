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
    timeline = otio.schema.Timeline(name=name)
    track = otio.schema.Track(name="video", kind=otio.schema.TrackKind.Video)
    timeline.tracks.append(track)
    for clip in clips:
        rate = probe_video(clip.cut.path).fps or DEFAULT_RATE
        _, end_s = frame_times(clip.cut.path)
        media = otio.schema.ExternalReference(
            target_url=Path(os.fsdecode(open_path(clip.cut.path))).absolute().as_uri(), available_range=_range(0.0, end_s, rate)
        )
        track.append(otio.schema.Clip(clip.name, media, _range(clip.cut.start_s, clip.cut.end_s, rate)))
    write_atomic(target, (timeline.to_json_string(indent=2) + "\n").encode())


def _range(start_s: float, end_s: float, rate: float) -> otio.opentime.TimeRange:
    start = otio.opentime.RationalTime(round(start_s * rate, 6), rate)
    return otio.opentime.TimeRange(start, otio.opentime.RationalTime(round((end_s - start_s) * rate, 6), rate))
