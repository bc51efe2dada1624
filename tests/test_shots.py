"""Shots of made videos, whose cuts are known, and the network against its package's own reading of the same frames."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import run_ffmpeg
from vbcli import shots
from vbcli.media.decode import Decoder
from vbcli.media.filters import Geometry
from vbcli.media.probe import frame_times
from vbcli.media.program import find_ffmpeg
from vbcli.media.sampling import EveryFrame
from vbcli.shots import DETECTORS, Detector, find_cuts, frame_size, shot_of, shot_times

DECODER = Decoder(find_ffmpeg())
SCENES = (
    "testsrc=size=96x64:rate=12",
    "mandelbrot=size=96x64:rate=12",
    "smptebars=size=96x64:rate=12",
    "rgbtestsrc=size=96x64:rate=12",
)


@pytest.fixture(scope="module")
def cut_video(tmp_path_factory: pytest.TempPathFactory, ffmpeg_exe: str) -> Path:
    """Four scenes of two seconds each, the second half of them at half the frame rate."""
    path = tmp_path_factory.mktemp("shots") / "cut.mp4"
    inputs = [argument for scene in SCENES for argument in ("-f", "lavfi", "-t", "2", "-i", scene)]
    joined = "".join(f"[{i}:v]setsar=1,format=yuv420p[v{i}];" for i in range(4)) + "[v0][v1][v2][v3]concat=n=4,"
    thinned = "select='lt(t,4)+not(mod(n,2))'[v]"
    run_ffmpeg(ffmpeg_exe, *inputs, "-filter_complex", joined + thinned, "-map", "[v]", "-fps_mode", "vfr", str(path))
    return path


def frames_for(path: Path, detector: Detector):
    return DECODER.images(str(path), EveryFrame(), Geometry(frame_size(detector)))


@pytest.mark.parametrize("detector", DETECTORS)
def test_cuts_are_the_times_of_the_first_frames_of_scenes(cut_video: Path, detector: Detector) -> None:
    times, _ = frame_times(str(cut_video))
    cuts = find_cuts(frames_for(cut_video, detector), detector)
    assert cuts == pytest.approx([2, 4, 6], abs=0.09)
    assert {round(t, 4) for t in cuts} <= {round(t, 4) for t in times.tolist()}


@pytest.mark.parametrize("detector", DETECTORS)
def test_a_video_of_one_scene_has_no_cut(tmp_path: Path, ffmpeg_exe: str, detector: Detector) -> None:
    run_ffmpeg(ffmpeg_exe, "-f", "lavfi", "-i", SCENES[0], "-t", "2", str(tmp_path / "one.mp4"))
    assert find_cuts(frames_for(tmp_path / "one.mp4", detector), detector) == []
    assert find_cuts([], detector) == []
    assert find_cuts([(0.0, np.zeros((27, 48, 3), np.uint8))], detector) == []


@pytest.mark.parametrize("n", [1, 24, 25, 50, 51, 75, 76, 100, 101, 130])
def test_the_network_says_of_each_frame_what_its_package_says(n: int) -> None:
    rng = np.random.default_rng(n)
    images = np.repeat(rng.integers(0, 255, (n // 10 + 1, 27, 48, 3), dtype=np.uint8), 10, axis=0)[:n]
    found: list[np.ndarray] = []

    def ask(window: np.ndarray) -> np.ndarray:
        assert window.shape == (100, 27, 48, 3)
        with torch.inference_mode():
            logits, _ = network(torch.from_numpy(window[None]))
        return torch.sigmoid(logits)[0, :, 0].numpy()

    network = shots._network()
    found = list(shots._windowed(iter(images), ask))
    expected, _ = network.predict_frames(torch.from_numpy(images), quiet=True)
    assert np.concatenate(found) == pytest.approx(expected.numpy(), abs=1e-6)


def test_the_cuts_of_the_network_are_the_scenes_of_its_package(cut_video: Path) -> None:
    frames = list(frames_for(cut_video, "transnet"))
    predictions, _ = shots._network().predict_frames(torch.from_numpy(np.stack([image for _, image in frames])), quiet=True)
    scenes = shots._network().predictions_to_scenes(predictions.numpy())
    assert find_cuts(frames, "transnet") == [frames[start][0] for start, _ in scenes[1:]]


def test_building_the_network_leaves_random_numbers_alone() -> None:
    shots._network.cache_clear()
    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(5)
    wanted = (torch.rand(1).item(), np.random.rand(), random.random())
    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(5)
    shots._network()
    assert (torch.rand(1).item(), np.random.rand(), random.random()) == wanted
    assert not torch.are_deterministic_algorithms_enabled()


TIMES = st.lists(st.integers(0, 400), min_size=1, max_size=60, unique=True).map(lambda ticks: [tick / 20 for tick in sorted(ticks)])


@given(TIMES, st.data())
def test_frames_of_shots_are_spread_evenly(times: list[float], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.sampled_from(times), max_size=5)))
    n = data.draw(st.integers(1, 8))
    borders = [0.0, *[c for c in cuts if c > 0], np.inf]
    members = [[t for t in times if a <= t < b] for a, b in pairwise(borders)]
    wanted = []
    for of_shot in filter(None, members):
        k = min(n, len(of_shot))
        wanted.append([of_shot[(2 * i + 1) * len(of_shot) // (2 * k)] for i in range(k)])
    assert shot_times(times, [c for c in cuts if c > 0], n) == wanted
    assert [shot_of(cuts, t) for t in times] == [sum(c <= t for c in cuts) for t in times]
