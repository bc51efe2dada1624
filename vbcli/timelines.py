"""Timelines that editing programs open: OpenTimelineIO and edit decision lists."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import opentimelineio as otio

from vbcli.files import write_atomic
from vbcli.media.containers import open_path
from vbcli.media.probe import frame_times, probe_video
from vbcli.rendering import Cut
from vbcli.storage import as_path, is_remote

DEFAULT_RATE = 25.0
DROP = 1001 / 1000
"""Of television in America: 30 frames take 1.001 seconds."""
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
    """Writes cuts as an edit decision list (CMX 3600), in frames of the first video's rate or a multiple of it, counted without drops.

    Ours, as OpenTimelineIO's divides by a clip's speed where it must multiply.

    Raises:
        MediaError: a video cannot be read.
        VbcliError: `target` cannot be written.
    """
    fps = probe_video(clips[0].cut.path).fps or DEFAULT_RATE
    # 29.97 frames a second are counted as 30: a second of the counter is a little longer than one of the clock.
    whole = round(fps * DROP) if abs(fps * DROP - round(fps * DROP)) < 1e-3 else round(fps)
    rate = next((rate for rate in TIMECODE_RATES if whole and rate % whole == 0), TIMECODE_RATES[-1])
    frames_a_second = rate / DROP if abs(fps * DROP - whole) < 1e-3 else float(rate)
    reels = _reels([_path_of(clip.cut) for clip in clips])
    lines = [f"TITLE: {name}", "FCM: NON-DROP FRAME"]
    played_s = 0.0
    for i, clip in enumerate(clips):
        cut, path = clip.cut, _path_of(clip.cut)
        reel = reels[path]
        channels = "B" if probe_video(cut.path).has_audio and not cut.is_mute else "V"
        ends = [round(time_s * frames_a_second) for time_s in (cut.start_s, cut.end_s, played_s, played_s + cut.length_s)]
        codes = " ".join(_timecode(frame, rate) for frame in ends)
        lines += ["", f"{i + 1:03d}  {reel:<8} {channels:<5} C        {codes}"]
        if cut.speed != 1:
            lines.append(f"M2   {reel:<8}       {cut.speed * rate:05.1f}                {_timecode(ends[0], rate)}")
        lines += [f"* FROM CLIP NAME: {' '.join(clip.name.split())}", f"* FROM CLIP: {path.as_uri()}"]
        played_s += cut.length_s
    write_atomic(target, ("\n".join(lines) + "\n").encode())


def _reels(paths: Sequence[Path]) -> dict[Path, str]:
    """A name of up to eight letters and digits for each file, whatever their case; of two that begin alike the later is numbered."""
    reels: dict[Path, str] = {}
    taken: set[str] = set()
    for path in dict.fromkeys(paths):
        stem = re.sub("[^A-Za-z0-9]", "", path.stem) or "AX"
        names = itertools.chain([stem[:8]], (f"{stem[: 8 - len(str(n))]}{n}" for n in itertools.count(2)))
        reels[path] = next(name for name in names if name.lower() not in taken)
        taken.add(reels[path].lower())
    return reels


def _timecode(frame: int, rate: int) -> str:
    seconds, frames = divmod(frame, rate)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}:{frames:02d}"


def _path_of(cut: Cut) -> Path:
    return as_path(cut.path) if is_remote(cut.path) else Path(os.fsdecode(open_path(cut.path))).absolute()


def _timeline(name: str, clips: Sequence[TimelineClip]) -> otio.schema.Timeline:
    """A timeline of one video track."""
    timeline = otio.schema.Timeline(name=name)
    track = otio.schema.Track(name="video", kind=otio.schema.TrackKind.Video)
    timeline.tracks.append(track)
    for clip in clips:
        cut = clip.cut
        rate = probe_video(cut.path).fps or DEFAULT_RATE
        _, end_s = frame_times(cut.path)
        media = otio.schema.ExternalReference(target_url=_path_of(cut).as_uri(), available_range=_range(0.0, end_s, rate))
        # A range lasts as long as it is played; what its effects need of the media follows from that.
        entry = otio.schema.Clip(clip.name, media, _range(cut.start_s, cut.start_s + cut.length_s, rate))
        if cut.speed != 1:
            entry.effects.append(otio.schema.LinearTimeWarp(time_scalar=cut.speed))
        if cut.is_mute:
            entry.metadata["vbcli"] = {"mute": True}
        track.append(entry)
    return timeline


def _range(start_s: float, end_s: float, rate: float) -> otio.opentime.TimeRange:
    start, end = round(start_s * rate, 6), round(end_s * rate, 6)
    return otio.opentime.TimeRange(otio.opentime.RationalTime(start, rate), otio.opentime.RationalTime(round(end - start, 6), rate))
