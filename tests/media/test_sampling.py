"""Which frames are taken: what ffmpeg is told and what is chosen from a list, both against the rules by brute force."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import write_frames
from vbcli.media import sampling as sampling_module
from vbcli.media.decode import Decoder
from vbcli.media.filters import Geometry
from vbcli.media.program import find_ffmpeg
from vbcli.media.sampling import AtRate, AtTimes, EveryFrame, KeyFrames, Uniform

DECODER = Decoder(find_ffmpeg())
STEPS_MS = st.lists(st.integers(1, 700), min_size=2, max_size=30)
CUTS = [0.5, 0.62, 1.3, 1.34, 2.0, 2.9, 3.0, 3.01]


def timed_video(path: Path, times_ms: list[int]) -> Path:
    return write_frames(path, "ffv1", [(time_ms, np.zeros((16, 16, 3), np.uint8)) for time_ms in times_ms])


def by_rule(times: list[Fraction], fps: Fraction, cuts: list[Fraction]) -> list[Fraction]:
    """For each shot and k, the first of its frames at or after its start and k / fps."""
    borders = [Fraction(0), *cuts, times[-1] + 1]
    taken = set()
    for start, end in itertools.pairwise(borders):
        members = [t for t in times if start <= t < end]
        for k in range(math.ceil((end - start) * fps)):
            taken.update([t for t in members if t >= start + k / fps][:1])
    return sorted(taken)


@pytest.mark.parametrize("parts_at_once", [1000, 3])
@pytest.mark.parametrize("fps", [1, 2, 7])
def test_of_each_shot_the_first_frame_is_taken_and_then_one_in_each_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fps: int, parts_at_once: int
) -> None:
    monkeypatch.setattr(sampling_module, "PARTS_AT_ONCE", parts_at_once)
    times_ms = [20 * i + 5 * (i % 3) for i in range(190)]
    path = timed_video(tmp_path / "a.nut", times_ms)
    exact = [Fraction(t, 1000) for t in times_ms]
    # Shots begin with frames.
    cuts = sorted({min(t for t in exact if t >= Fraction(str(cut))) for cut in CUTS})
    found = [t for t, _ in DECODER.jpegs(str(path), AtRate(fps, tuple(map(float, cuts))), Geometry(16))]
    wanted = by_rule(exact, Fraction(fps), cuts)
    assert set(cuts) <= set(wanted)
    assert found == pytest.approx([float(t) for t in wanted], abs=1e-6)


@given(STEPS_MS, st.sampled_from([Fraction(1, 2), Fraction(2), Fraction(15, 2)]), st.data())
def test_the_same_frames_are_chosen_from_a_list_in_any_order(steps_ms: list[int], fps: Fraction, data: st.DataObject) -> None:
    times = [Fraction(sum(steps_ms[:i]), 1000) for i in range(len(steps_ms))]
    cuts = sorted(data.draw(st.sets(st.sampled_from(times[1:]), max_size=4)))
    order = data.draw(st.permutations(range(len(times))))
    shuffled, is_key = np.array([float(times[i]) for i in order]), np.array([i % 3 == 0 for i in order])
    assert [times[order[i]] for i in AtRate(float(fps), tuple(map(float, cuts))).choose(shuffled, is_key)] == by_rule(times, fps, cuts)
    assert [times[order[i]] for i in EveryFrame().choose(shuffled, is_key)] == times
    assert [times[order[i]] for i in KeyFrames().choose(shuffled, is_key)] == times[::3]
    wanted = tuple(float(t) + 3e-6 for t in times[::2])
    assert [times[order[i]] for i in AtTimes((*wanted, 1e6)).choose(shuffled, is_key)] == times[::2]
    n = data.draw(st.integers(1, 40))
    parts = min(n, len(times))
    middles = [times[(2 * k + 1) * len(times) // (2 * parts)] for k in range(parts)]
    assert [times[order[i]] for i in Uniform(n).choose(shuffled, is_key)] == middles


def test_of_frames_with_one_time_the_first_is_chosen_and_none_without_a_time() -> None:
    times = np.array([5.0, 1.0, np.nan, 1.0, 0.0])
    assert EveryFrame().choose(times, times == 1).tolist() == [4, 1, 0]
    assert [x.choose(np.array([]), np.array([], bool)).tolist() for x in (AtRate(2), EveryFrame(), Uniform(3), AtTimes((1.0,)))] == [[]] * 4
