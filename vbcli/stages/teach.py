"""Captions by a published captioner: videos to sentences, marked with where they come from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from PIL import Image

from vbcli.config import to_dict
from vbcli.errors import ItemFailure, MediaError, UsageError
from vbcli.media import Geometry, find_ffmpeg, iter_images, probe_video
from vbcli.models.decoding import DecodingConfig
from vbcli.models.teachers import Teacher, TeacherSpec
from vbcli.runner import Process, Rows, Stage
from vbcli.schemas import CAPTIONS
from vbcli.stages.extract import VIDEO_IDENTITY

SHORT_SIDE_PX = 384
DEFAULT_FPS = 1.0
"""Of videos that do not say how long they are."""


@dataclass(frozen=True, kw_only=True)
class TeacherCaption(Stage):
    """One caption a video.

    Args:
        teacher: the captioner; its hash, not its place, is part of the identity.
        threads: of a worker; part of the identity.
    """

    teacher: TeacherSpec
    decoding: DecodingConfig
    threads: int = 1
    device: str = "cpu"
    ffmpeg: str = "bundled"

    name: ClassVar[str] = "teach"
    version: ClassVar[int] = 1
    output_kind: ClassVar[str] = "captions"
    input_columns: ClassVar[list[str] | None] = VIDEO_IDENTITY

    def __post_init__(self) -> None:
        if self.decoding.is_sampled:
            raise UsageError("--sample is for captioners of vbcli train", hint="leave it out: a published captioner searches by beams")

    def output_schema(self) -> pa.Schema:
        return CAPTIONS

    def identity(self) -> dict[str, Any]:
        kept = {k: v for k, v in to_dict(self).items() if k not in ("ffmpeg", "teacher")}
        return {**kept, "teacher_sha256": self.teacher.sha256}

    def open(self) -> Process:
        import torch

        torch.set_num_threads(self.threads)
        teacher, executable = Teacher(self.teacher, self.device), find_ffmpeg(self.ffmpeg)
        shared = {
            "checkpoint": f"hf:{self.teacher.source}@{self.teacher.sha256[:16]}",
            "decoding": json.dumps(to_dict(self.decoding), sort_keys=True),
        }

        def process(rows: Rows) -> Rows:
            for table in rows:
                if isinstance(table, ItemFailure):
                    yield table
                    continue
                (video,) = table.select(["video_id", "path", "duration_s"]).to_pylist()
                try:
                    frames, end_s = _sample(video["path"], video["duration_s"], self.teacher.n_frames, executable)
                except MediaError as error:
                    yield ItemFailure(video["video_id"], self.name, type(error).__name__, error.message)
                    continue
                caption, score = teacher.caption(frames, self.decoding)
                row = {
                    "video_id": video["video_id"],
                    "path": video["path"],
                    "start_s": 0.0,
                    "end_s": end_s,
                    "caption": caption,
                    "score": score,
                }
                yield pa.Table.from_pylist([{**row, **shared}], schema=CAPTIONS)

        return process


def _sample(path: str, duration_s: float | None, n_frames: int, executable: str) -> tuple[list[Image.Image], float]:
    """Frames in the middles of n equal parts of a video, repeated where it has fewer, and how long it is.

    Raises:
        MediaError: nothing can be decoded.
    """
    # Twice as many as are wanted: every second lies in the middle of a part.
    fps = 2 * n_frames / duration_s if duration_s else DEFAULT_FPS
    found = list(iter_images(path, probe_video(path), fps=fps, geometry=Geometry(SHORT_SIDE_PX, None), executable=executable))
    times: Sequence[float] = [pts_s for pts_s, _ in found]
    end_s = duration_s or times[-1]
    wanted = (np.arange(n_frames) + 0.5) * end_s / n_frames
    nearest = [int(np.abs(np.array(times) - time_s).argmin()) for time_s in wanted]
    return [Image.fromarray(found[i][1]) for i in nearest], end_s
