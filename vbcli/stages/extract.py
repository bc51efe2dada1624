"""Frame extraction: videos to JPEG frames with true presentation times."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import pyarrow as pa
from PIL import Image

from vbcli.ahead import mapped_ahead
from vbcli.config import to_dict
from vbcli.errors import ItemFailure, MediaError, UsageError
from vbcli.media.decode import MediaOptions
from vbcli.media.filters import Geometry
from vbcli.media.sampling import AtRate, AtTimes, EveryFrame, KeyFrames, Sampling, Uniform
from vbcli.media.video import Video
from vbcli.schemas import FRAMES
from vbcli.shots import Detector, TimedFrame, check_detector, find_cuts, frame_size, shot_of, shot_times
from vbcli.stage import Process, Stage

# What of a video decides its frames: not its text, and not where the folder lies.
VIDEO_IDENTITY = ["video_id", "bytes", "mtime_ns"]

MAX_BYTES = (1 << 31) - (64 << 20)
"""Of the frames of one video: Arrow holds 2 GB in one piece, and a row group holds whole videos."""

N_AT_ONCE = 4
"""Videos that a worker has in hand: while it takes the frames of one apart, or writes a shard, ffmpeg decodes the others."""

Mode = Literal["fps", "keyframes", "n-frames", "shots"]


@dataclass(frozen=True)
class Extract(Stage):
    """Samples each video and stores the frames as JPEG.

    Args:
        fps: of the mode `fps`: for k = 0, 1, 2, ... the first frame at or after k / fps seconds.
        size_px: the short side, or both sides with `fit` crop.
        fit: `short` keeps the whole frame, `crop` its central square.
        quality: ffmpeg's `-q:v`, 2 (best) to 31.
        mode: `fps`; `keyframes`, those that are coded without any other; `n-frames`, those in the middles of `n_frames` equal parts;
            `shots`, that in the middle of each shot.
        n_frames: of the mode `n-frames`.
        detect_shots: what finds the shots that `shot_index` counts; None: all of a video is one.
        media: how videos are decoded; no part of the identity (another build of ffmpeg is warned of).
    """

    fps: float = 2.0
    size_px: int = 224
    fit: Literal["short", "crop"] = "short"
    quality: int = 3
    mode: Mode = "fps"
    n_frames: int = 0
    detect_shots: Detector | None = None
    media: MediaOptions = field(default_factory=MediaOptions)

    name: ClassVar[str] = "extract"
    version: ClassVar[int] = 3
    output_kind: ClassVar[str] = "frames"
    input_columns: ClassVar[list[str] | None] = VIDEO_IDENTITY

    def __post_init__(self) -> None:
        if not 0 < self.fps < math.inf:
            raise UsageError(f"--fps {self.fps:g} is not above 0 and finite", hint="2 takes two frames a second")
        if self.size_px < 2 or self.size_px % 2:
            raise UsageError(f"--size {self.size_px} is not an even number of pixels", hint="224 is what most encoders read")
        if not 2 <= self.quality <= 31:
            raise UsageError(f"--quality {self.quality} is not between 2 and 31", hint="2 is best, 3 the default")
        if (self.mode == "n-frames") != (self.n_frames > 0):
            raise UsageError(f"--n-frames is {self.n_frames}", hint="8 takes eight frames of each video")
        if self.mode == "shots" and self.detect_shots is None:
            raise UsageError("--shots needs --detect-shots", hint="content finds cuts, transnet dissolves, too")

    def output_schema(self) -> pa.Schema:
        return FRAMES

    def identity(self) -> dict[str, Any]:
        return {k: v for k, v in to_dict(self).items() if k != "media"}

    def facts(self) -> dict[str, Any]:
        return {"fps": self.fps if self.mode == "fps" else None}

    def open(self) -> Process:
        decoder = self.media.open()
        geometry = Geometry(self.size_px, self.size_px if self.fit == "crop" else None)
        if self.detect_shots is not None:
            check_detector(self.detect_shots)

        def frames_of(table: pa.Table | ItemFailure) -> pa.Table | ItemFailure:
            if isinstance(table, ItemFailure):
                return table
            video_id, path = table.column("video_id")[0].as_py(), table.column("path")[0].as_py()
            try:
                decoder.check_link(video_id, path)
                video = decoder.video(path)
                cuts, times = detect_cuts(video, self.detect_shots)
                jpegs = _gather(path, video.jpegs(self._sampling(cuts, times), geometry, self.quality))
            except MediaError as error:
                return ItemFailure(video_id, self.name, type(error).__name__, error.message)
            return _frame_table(video_id, jpegs, cuts)

        return lambda rows: mapped_ahead(frames_of, rows, N_AT_ONCE)

    def _sampling(self, cuts: Sequence[float], times: Sequence[float]) -> Sampling:
        if self.mode == "n-frames":
            return Uniform(self.n_frames)
        if self.mode == "shots":
            return AtTimes(tuple(time_s for (time_s,) in shot_times(times, cuts, 1)))
        return KeyFrames() if self.mode == "keyframes" else AtRate(self.fps)


def detect_cuts(video: Video, detector: Detector | None) -> tuple[list[float], list[float]]:
    """When the shots of a video begin, all but the first, and when its frames are shown, in seconds; none where nothing looks for them.

    Raises:
        MediaError: nothing can be decoded.
    """
    if detector is None:
        return [], []
    geometry, times = Geometry(frame_size(detector)), list[float]()

    def frames() -> Iterator[TimedFrame]:
        for pts_s, image in video.images(EveryFrame(), geometry, is_taken=False):
            times.append(pts_s)
            yield pts_s, image

    return find_cuts(frames(), detector), times


def _gather(path: str, frames: Iterable[tuple[float, bytes]]) -> list[tuple[float, bytes]]:
    gathered, n_bytes = [], 0
    for pts_s, data in frames:
        n_bytes += len(data)
        if n_bytes > MAX_BYTES:
            raise MediaError(f"{path} gives more than the {MAX_BYTES >> 20} MB of frames that a shard holds of a video (--fps, --size)")
        gathered.append((pts_s, data))
    return gathered


def _frame_table(video_id: str, jpegs: list[tuple[float, bytes]], cuts: Sequence[float]) -> pa.Table:
    rows = []
    for index, (pts_s, data) in enumerate(jpegs):
        width, height = Image.open(io.BytesIO(data)).size
        rows.append(
            {
                "video_id": video_id,
                "frame_index": index,
                "pts_s": pts_s,
                "shot_index": shot_of(cuts, pts_s),
                "image": {"bytes": data, "path": None},
                "width_px": width,
                "height_px": height,
            }
        )
    return pa.Table.from_pylist(rows, schema=FRAMES)
