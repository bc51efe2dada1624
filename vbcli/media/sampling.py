"""Which frames of a video are taken.

Where the container tells all times, and they run forwards, ffmpeg chooses as it decodes (`expression`). Else the times of all frames are
looked up first, and some of them are chosen (`choose`). Both by the same rules; of frames with one and the same time the first is taken.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SLACK_S = 1e-6
"""So much too early a frame counts as on time: a container's start is known in whole microseconds."""
NEAR_S = 1e-5
"""So near to a chosen time is the frame that was meant."""
PARTS_AT_ONCE = 1000
"""Of chosen times, or of shots; more are taken in several passes, as a command cannot be of any length."""


@dataclass(frozen=True)
class AtRate:
    """For k = 0, 1, 2, ... the first frame with pts_s >= k / fps: never one that is stamped anew.

    Args:
        cuts: when k and the seconds begin anew, in order: no shot is without a frame.
    """

    fps: float
    cuts: tuple[float, ...] = ()

    def expression(self, start_s: float) -> str:
        """ffmpeg's `select` expression. A frame is taken when a multiple of 1/fps lies in (time of the frame before, its own time]."""
        if self.cuts:
            return self._of_shots(self.cuts, start_s, -math.inf, math.inf)
        now, before = _since(start_s, "t"), _since(start_s, "prev_t")
        return f"gt(floor({now}*{self.fps!r}),if(isnan(prev_pts),-1,max(-1,floor({before}*{self.fps!r}))))"

    def expressions(self, start_s: float) -> list[str]:
        """The same for as many passes as are needed."""
        starts = range(0, len(self.cuts), PARTS_AT_ONCE)
        if len(starts) < 2:
            return [self.expression(start_s)]
        parts = [self.cuts[i : i + PARTS_AT_ONCE] for i in starts]
        borders = [-math.inf, *(part[0] for part in parts[1:]), math.inf]
        return [self._of_shots(part, start_s, *borders[i : i + 2]) for i, part in enumerate(parts)]

    def _of_shots(self, cuts: Sequence[float], start_s: float, from_s: float, until_s: float) -> str:
        # 0: when the shot began; 1, 2: that and k of the frame before; 3: k; 4: whether the frame is taken; 5: its time.
        k, is_taken = f"floor((ld(5)-ld(0))*{self.fps!r})", "gt(ld(0),ld(1))+gt(ld(3),if(isnan(prev_pts),-1,max(-1,ld(2))))"
        origin = _search((0.0, *cuts), cuts, "ld(5)")
        bounds = [f"gte(ld(5),{from_s!r})"] * math.isfinite(from_s) + [f"lt(ld(5),{until_s!r})"] * math.isfinite(until_s)
        taken = "*".join([f"gt({is_taken},0)", *bounds])
        return f"(st(5,{_since(start_s, 't')});st(0,{origin});st(3,{k});st(4,{taken});st(1,ld(0));st(2,ld(3));ld(4))"

    def step(self, pts_s: float) -> tuple[float, float]:
        """Of two frames that are taken the later has the higher step."""
        shot = bisect_right(self.cuts, pts_s + SLACK_S)
        origin_s = self.cuts[shot - 1] if shot else 0.0
        return origin_s, math.floor((pts_s + SLACK_S - origin_s) * self.fps)

    def choose(self, times_s: np.ndarray, is_key: np.ndarray) -> np.ndarray:
        """Which of all frames are taken, in the order of their times.

        Args:
            times_s: float64 (F,), of all frames in the order in which they are decoded; nan of one that has none.
            is_key: bool (F,).
        """
        ordered = _distinct(times_s)
        steps = [(0.0, -1.0), *(self.step(time_s) for time_s in times_s[ordered].tolist())]
        return ordered[[i for i in range(len(ordered)) if steps[i + 1] > max(steps[0], steps[i])]]


@dataclass(frozen=True)
class EveryFrame:
    """All frames."""

    def expression(self, start_s: float) -> str:
        return "1"

    def choose(self, times_s: np.ndarray, is_key: np.ndarray) -> np.ndarray:
        return _distinct(times_s)


@dataclass(frozen=True)
class KeyFrames:
    """The frames that are coded without any other; where a decoder can, it passes over the rest."""

    def expression(self, start_s: float) -> str:
        return "key"

    def choose(self, times_s: np.ndarray, is_key: np.ndarray) -> np.ndarray:
        ordered = _distinct(times_s)
        return ordered[is_key[ordered]]


@dataclass(frozen=True)
class AtTimes:
    """The frames with these times, in seconds from the container's start, in order."""

    times_s: tuple[float, ...]

    def expression(self, start_s: float) -> str:
        times = self.times_s
        between = [(times[i] + times[i + 1]) / 2 for i in range(len(times) - 1)]
        now = _since(start_s, "t")
        return f"(st(0,{now});lt(abs({_search(times, between, 'ld(0)')}-ld(0)),{NEAR_S!r}))"

    def expressions(self, start_s: float) -> list[str]:
        """The same for as many passes as are needed."""
        starts = range(0, len(self.times_s), PARTS_AT_ONCE)
        return [AtTimes(self.times_s[i : i + PARTS_AT_ONCE]).expression(start_s) for i in starts]

    def choose(self, times_s: np.ndarray, is_key: np.ndarray) -> np.ndarray:
        ordered = _distinct(times_s)
        wanted, known = np.array(self.times_s), np.append(times_s[ordered], np.inf)
        at = np.searchsorted(known, wanted - NEAR_S)
        return ordered[np.unique(at[known[at] < wanted + NEAR_S])]


@dataclass(frozen=True)
class Uniform:
    """The frames in the middles of n equal parts of the frames of a video, all of them where it has no more than n."""

    n_frames: int

    def among(self, times_s: np.ndarray) -> AtTimes:
        """Their times, where those of all frames are known: float64 (F,)."""
        return AtTimes(tuple(times_s[self.choose(times_s, np.zeros(len(times_s), np.bool_))].tolist()))

    def choose(self, times_s: np.ndarray, is_key: np.ndarray) -> np.ndarray:
        ordered = _distinct(times_s)
        n = min(self.n_frames, len(ordered))
        return ordered[((np.arange(n) + 0.5) * len(ordered) / max(n, 1)).astype(int)]


Sampling = AtRate | EveryFrame | KeyFrames | AtTimes | Uniform


def at_positions(positions: Sequence[int]) -> str:
    """The `select` expression of frames by their places among all, from 0, in order."""
    between = [positions[i + 1] - 0.5 for i in range(len(positions) - 1)]
    return f"eq(n,{_search(positions, between, 'n')})"


def _since(start_s: float, time: str) -> str:
    return f"({time}-({start_s!r})+{SLACK_S!r})"


def _search(values: Sequence[float], borders: Sequence[float], name: str) -> str:
    """The value between whose borders a variable lies, by a tree of comparisons: a sum of as many would be worked out for every frame."""
    if len(values) == 1:
        return repr(values[0])
    middle = len(values) // 2
    lower, upper = _search(values[:middle], borders[: middle - 1], name), _search(values[middle:], borders[middle:], name)
    return f"if(lt({name},{borders[middle - 1]!r}),{lower},{upper})"


def _distinct(times_s: np.ndarray) -> np.ndarray:
    """The frames in the order of their times, without those that have none, or that of another."""
    ordered = np.argsort(times_s, kind="stable")
    ordered = ordered[: np.count_nonzero(~np.isnan(times_s))]
    return ordered[np.append(True, np.diff(times_s[ordered]) > 0)[: len(ordered)]]
