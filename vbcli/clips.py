"""Clips: spans of a video that an encoder turns into one feature each.

fixed          of the encoder's length, one after the other from the start of the video
respect-shots  the same from the start of each shot, so that none lies across a cut
shots          each is a shot
frames         each is a stored frame, until the next
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from vbcli.encoderspecs import EncoderSpec
from vbcli.shots import TimedFrame, shot_of

ClipRule = Literal["fixed", "respect-shots", "shots", "frames"]

# A stamp this close before a clip's edge counts as on it: times are multiples of odd fractions.
EDGE_S = 1e-5
HELD_S = 600.0
"""So long a frame is taken to be shown until the next one comes; a longer gap is an error in the times of a video."""


@dataclass(frozen=True)
class Clip:
    """Pixels of one clip: uint8 (n_frames, size_px, size_px, 3), repeated where the video has fewer frames.

    `n_frames` is how many of them differ.
    """

    index: int
    start_s: float
    end_s: float
    shot_index: int
    n_frames: int
    pixels: np.ndarray


def gather_clips(
    frames: Iterable[TimedFrame], spec: EncoderSpec, rule: ClipRule, cuts: Sequence[float] = (), video_end_s: float = math.inf
) -> Iterator[Clip]:
    """Gathers frames into clips.

    Args:
        frames: in order of time; for the rule `shots` those of `shot_times`.
        cuts: when shots begin, all but the first, in seconds.
        video_end_s: where the last shot ends, for the rule `shots`.
    """
    if rule == "fixed":
        for clip in _fixed_clips(frames, spec, 0.0, math.inf):
            yield replace(clip, shot_index=shot_of(cuts, clip.start_s))
        return
    if rule == "frames":
        yield from _frame_clips(frames, spec, cuts)
        return
    borders = [0.0, *cuts, video_end_s]
    n_clips = 0
    for shot, members in itertools.groupby(frames, key=lambda frame: shot_of(cuts, frame[0])):
        start_s, end_s = borders[shot], borders[shot + 1]
        if rule == "shots":
            found = iter([_spread_clip(list(members), spec, start_s, end_s)])
        else:
            found = _fixed_clips(members, spec, start_s, end_s)
        for clip in found:
            yield replace(clip, index=n_clips, shot_index=shot)
            n_clips += 1


def _fixed_clips(frames: Iterable[TimedFrame], spec: EncoderSpec, start_s: float, end_s: float) -> Iterator[Clip]:
    """Clip c covers [c, c + 1) * clip_s from a start; its slot k shows the first frame at or after its time.

    A slot after the last frame repeats it. A clip without a frame of its own shows the one before, as a slide is shown until the next, or
    is left out where that would take longer than `HELD_S`. A last clip that is less than half filled is left out, unless it is the only
    one.
    """
    clip_s = spec.clip_s
    current, members, n_clips = -1, [], 0

    def build(index: int, members: Sequence[TimedFrame]) -> Clip:
        begins_s = start_s + index * clip_s
        slots, at = [], 0
        for k in range(spec.n_frames):
            while at < len(members) - 1 and members[at][0] + EDGE_S < begins_s + k / spec.fps:
                at += 1
            slots.append(at)
        pixels = np.stack([members[i][1] for i in slots])
        return Clip(index, begins_s, min(begins_s + clip_s, end_s), 0, len(set(slots)), pixels)

    for pts_s, pixels in frames:
        index = max(0, math.floor((pts_s - start_s + EDGE_S) / clip_s))
        if index != current and members:
            yield build(current, members)
            held = members[-1:]
            if (index - current) * clip_s <= HELD_S:
                yield from (build(i, held) for i in range(current + 1, index))
            n_clips += 1
            members = []
        current = index
        members.append((pts_s, pixels))
    if members:
        until_s = end_s if math.isfinite(end_s) else members[-1][0] + 1 / spec.fps + EDGE_S

        def is_filled(index: int) -> bool:
            return (until_s - start_s - index * clip_s) * spec.fps >= spec.n_frames / 2

        if is_filled(current) or n_clips == 0:
            yield build(current, members)
        held = members[-1:]
        # Where the end is known; else what was shown last may be over.
        if end_s - held[0][0] <= HELD_S:
            yield from (build(i, held) for i in itertools.takewhile(is_filled, itertools.count(current + 1)))


def _spread_clip(members: list[TimedFrame], spec: EncoderSpec, start_s: float, end_s: float) -> Clip:
    """A clip that shows its frames one after the other, each for as many slots as another."""
    slots = (np.arange(spec.n_frames) * len(members) // spec.n_frames).tolist()
    return Clip(0, start_s, end_s, 0, len(set(slots)), np.stack([members[i][1] for i in slots]))


def _frame_clips(frames: Iterable[TimedFrame], spec: EncoderSpec, cuts: Sequence[float]) -> Iterator[Clip]:
    """Each frame until the next; the last one for as long as a clip of the encoder."""
    for index, (frame, following) in enumerate(itertools.pairwise(itertools.chain(frames, [None]))):
        assert frame is not None
        pts_s, pixels = frame
        end_s = pts_s + spec.clip_s if following is None else following[0]
        yield Clip(index, pts_s, end_s, shot_of(cuts, pts_s), 1, np.stack([pixels] * spec.n_frames))
