"""Frame extraction: videos to JPEG frames with true presentation times."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pyarrow as pa
from PIL import Image

from vbcli.config import to_dict
from vbcli.errors import ItemFailure, MediaError, UsageError
from vbcli.media import Geometry, find_ffmpeg, iter_jpegs, probe_video
from vbcli.runner import Process, Rows, Stage
from vbcli.schemas import FRAMES

# What of a video decides its frames: not its text, and not where the folder lies.
VIDEO_IDENTITY = ["video_id", "bytes", "mtime_ns"]


@dataclass(frozen=True)
class Extract(Stage):
    """Samples each video at `fps` and stores the frames as JPEG.

    Args:
        fps: for k = 0, 1, 2, ... the first frame at or after k / fps seconds.
        size_px: the short side, or both sides with `fit` crop.
        fit: `short` keeps the whole frame, `crop` its central square.
        quality: ffmpeg's `-q:v`, 2 (best) to 31.
        ffmpeg: `bundled`, `system` or a path; no part of the identity (another build is warned of).
    """

    fps: float = 2.0
    size_px: int = 224
    fit: Literal["short", "crop"] = "short"
    quality: int = 3
    ffmpeg: str = "bundled"

    name: ClassVar[str] = "extract"
    version: ClassVar[int] = 1
    output_kind: ClassVar[str] = "frames"
    input_columns: ClassVar[list[str] | None] = VIDEO_IDENTITY

    def __post_init__(self) -> None:
        if not 0 < self.fps < math.inf:
            raise UsageError(f"--fps {self.fps:g} is not above 0 and finite", hint="2 takes two frames a second")
        if self.size_px < 2 or self.size_px % 2:
            raise UsageError(f"--size {self.size_px} is not an even number of pixels", hint="224 is what most encoders read")
        if not 2 <= self.quality <= 31:
            raise UsageError(f"--quality {self.quality} is not between 2 and 31", hint="2 is best, 3 the default")

    def output_schema(self) -> pa.Schema:
        return FRAMES

    def identity(self) -> dict[str, Any]:
        return {k: v for k, v in to_dict(self).items() if k != "ffmpeg"}

    def facts(self) -> dict[str, Any]:
        return {"fps": self.fps}

    def open(self) -> Process:
        executable = find_ffmpeg(self.ffmpeg)
        geometry = Geometry(self.size_px, self.size_px if self.fit == "crop" else None)

        def process(rows: Rows) -> Rows:
            for table in rows:
                if isinstance(table, ItemFailure):
                    yield table
                    continue
                video_id, path = table.column("video_id")[0].as_py(), table.column("path")[0].as_py()
                try:
                    jpegs = list(
                        iter_jpegs(path, probe_video(path), fps=self.fps, geometry=geometry, quality=self.quality, executable=executable)
                    )
                except MediaError as error:
                    yield ItemFailure(video_id, self.name, type(error).__name__, error.message)
                    continue
                yield _frame_table(video_id, jpegs)

        return process


def _frame_table(video_id: str, jpegs: list[tuple[float, bytes]]) -> pa.Table:
    rows = []
    for index, (pts_s, data) in enumerate(jpegs):
        width, height = Image.open(io.BytesIO(data)).size
        rows.append(
            {
                "video_id": video_id,
                "frame_index": index,
                "pts_s": pts_s,
                "shot_index": 0,
                "image": {"bytes": data, "path": None},
                "width_px": width,
                "height_px": height,
            }
        )
    return pa.Table.from_pylist(rows, schema=FRAMES)
