"""Clips to train an encoder on: the frames of a dataset, small and decoded, in a file that is mapped into memory.

Notation: N frames of a video, F frames of a clip, S side of a frame in pixels.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor

from vbcli import shards
from vbcli.clips import EDGE_S
from vbcli.errors import VbcliError
from vbcli.files import not_written
from vbcli.media.filters import Geometry
from vbcli.runner import read_videos
from vbcli.stages.encode import fit_picture


@dataclass
class VideoFrames:
    """A video with its frames' place in the store, and what is known of it.

    Args:
        captions: as in the videos dataset; those without times are of the whole video.
        first: its first frame's place in the store.
        pts_s: float64 (N,), presentation times.
        shard: that it was read from.
    """

    video_id: str
    split: str | None
    labels: list[str]
    captions: list[dict[str, Any]]
    first: int
    pts_s: np.ndarray
    shard: str


@dataclass
class ClipBatch:
    """Clips of a step: uint8 (B, F, S, S, 3)."""

    frames: Tensor

    def to(self, device: torch.device) -> ClipBatch:
        return ClipBatch(self.frames.to(device))


def read_frames(frames_dir: Path, geometry: Geometry, scratch: IO[bytes]) -> tuple[list[VideoFrames], np.ndarray]:
    """Decodes a frames dataset.

    Memory holds one video at a time, and of the store what the system keeps of the file: 3 S^2 bytes a frame (12 KiB at 64 pixels).

    Args:
        geometry: of the frames that an encoder is given.
        scratch: an open file to decode into.

    Returns:
        The videos in order, and the store, uint8 (frames, S, S, 3).

    Raises:
        VbcliError: the dataset is empty, a picture is damaged, or the disk is full.
    """
    side = geometry.crop_px
    assert side is not None
    texts = {row["video_id"]: row for row in read_videos(frames_dir).select(["video_id", "labels", "captions", "split"]).to_pylist()}
    videos, n_frames = [], 0
    for path in shards.list_shards(frames_dir):
        for table in shards.iter_videos(path, columns=["video_id", "pts_s", "image"]):
            video_id = table.column("video_id")[0].as_py()
            _decode(table, geometry, scratch, f"a frame of {video_id} in {path}")
            text = texts[video_id]
            pts_s = table.column("pts_s").to_numpy()
            videos.append(VideoFrames(video_id, text["split"], text["labels"] or [], text["captions"] or [], n_frames, pts_s, str(path)))
            n_frames += len(pts_s)
    if not videos:
        raise VbcliError(f"the frames dataset {frames_dir} holds no frames", hint="see its _errors folder")
    scratch.flush()
    return videos, np.memmap(scratch, np.uint8, "r", shape=(n_frames, side, side, 3))  # type: ignore[call-overload]


def _decode(table: pa.Table, geometry: Geometry, scratch: IO[bytes], name: str) -> None:
    for image in table.column("image").to_pylist():
        try:
            with Image.open(io.BytesIO(image["bytes"])) as picture:
                pixels = fit_picture(picture.convert("RGB"), geometry)
        except OSError as error:
            raise VbcliError(f"{name} cannot be decoded: {error}", hint="extract the video again") from error
        try:
            scratch.write(pixels.tobytes())
        except OSError as error:
            raise not_written(Path(scratch.name), error) from error


def clip_starts(pts_s: np.ndarray, n_frames: int, fps: float) -> list[float]:
    """When the clips of a video begin, as they are encoded: one after the other, and no last one that is less than half filled.

    Args:
        pts_s: float64 (N,).
    """
    clip_s = n_frames / fps
    last = math.floor((pts_s[-1] + EDGE_S) / clip_s)
    is_filled = (pts_s[-1] + EDGE_S - last * clip_s) * fps + 1 >= n_frames / 2
    return [c * clip_s for c in range(last + 1 if is_filled or last == 0 else last)]


def clip_frames(pts_s: np.ndarray, start_s: float, n_frames: int, fps: float) -> np.ndarray:
    """Which frame each slot of a clip shows: the first at or after its time, or the last there is; int64 (F,)."""
    times = start_s + np.arange(n_frames) / fps
    return np.minimum(np.searchsorted(pts_s + EDGE_S, times), len(pts_s) - 1)
