"""Captions by a published captioner: videos to sentences, marked with where they come from."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from PIL import Image

from vbcli.config import DecodingConfig, to_dict
from vbcli.errors import ItemFailure, MediaError, UsageError
from vbcli.media.decode import Decoder, MediaOptions
from vbcli.media.filters import Geometry
from vbcli.media.sampling import AtRate
from vbcli.models.teachers import Teacher, TeacherSpec
from vbcli.schemas import CAPTIONS
from vbcli.stage import Process, Rows, Stage
from vbcli.stages.extract import VIDEO_IDENTITY

SHORT_SIDE_PX = 384


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
    media: MediaOptions = field(default_factory=MediaOptions)

    name: ClassVar[str] = "teach"
    version: ClassVar[int] = 2
    output_kind: ClassVar[str] = "captions"
    input_columns: ClassVar[list[str] | None] = VIDEO_IDENTITY

    def __post_init__(self) -> None:
        if self.decoding.is_sampled:
            raise UsageError("--sample is for captioners of vbcli train", hint="leave it out: a published captioner searches by beams")

    def output_schema(self) -> pa.Schema:
        return CAPTIONS

    def identity(self) -> dict[str, Any]:
        kept = {k: v for k, v in to_dict(self).items() if k not in ("media", "teacher")}
        return {**kept, "teacher_sha256": self.teacher.sha256}

    def open(self) -> Process:
        import torch

        torch.set_num_threads(self.threads)
        teacher, decoder = Teacher(self.teacher, self.device), self.media.open()
        shared = {
            "checkpoint": f"hf:{PurePath(self.teacher.source).name}@{self.teacher.sha256[:16]}",
            "decoding": json.dumps(to_dict(self.decoding), sort_keys=True),
        }

        def process(rows: Rows) -> Rows:
            for table in rows:
                if isinstance(table, ItemFailure):
                    yield table
                    continue
                (video,) = table.select(["video_id", "path"]).to_pylist()
                try:
                    decoder.check_link(video["video_id"], video["path"])
                    frames, end_s = _sample(video["path"], self.teacher.n_frames, decoder)
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


def _sample(path: str, n_frames: int, decoder: Decoder) -> tuple[list[Image.Image], float]:
    """Frames in the middles of n equal parts of a video, repeated where it has fewer, and how long it is.

    Raises:
        MediaError: nothing can be decoded.
    """
    # Of its frames, whatever its container says.
    video = decoder.video(path)
    end_s = video.end_s
    wanted = (np.arange(n_frames) + 0.5) * end_s / n_frames
    nearest: list[tuple[float, np.ndarray]] = []
    # Twice as many as are wanted: every second lies in the middle of a part.
    sampled = video.images(AtRate(2 * n_frames / end_s), Geometry(SHORT_SIDE_PX, None))
    for pts_s, picture in sampled:
        nearest = nearest or [(pts_s, picture)] * n_frames
        nearest = [
            (pts_s, picture) if abs(pts_s - time_s) < abs(best[0] - time_s) else best for best, time_s in zip(nearest, wanted, strict=True)
        ]
    return [Image.fromarray(picture) for _, picture in nearest], end_s
