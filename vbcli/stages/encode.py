"""Feature encoding: clips of frames to features, from a frames dataset or straight from videos."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from PIL import Image

from vbcli.config import to_dict
from vbcli.encoders import Encoder, EncoderSpec, load_encoder
from vbcli.errors import ItemFailure, MediaError, VbcliError
from vbcli.media import Geometry, find_ffmpeg, iter_images, probe_video
from vbcli.runner import Process, Rows, Stage
from vbcli.schemas import features_schema
from vbcli.stages.extract import VIDEO_IDENTITY

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
    n_frames: int
    pixels: np.ndarray


@dataclass(frozen=True)
class Encode(Stage):
    """Features of the clips of each video.

    Args:
        encoder: specification from `load_encoder`; its weights' hash is checked when they are loaded again.
        source: `frames` or `videos`, the kind of rows that come in.
        threads: of a worker; part of the identity, for sums may be ordered by it.
        encoder_dir: of an encoder that was trained; its weights' hash, not its place, is part of the identity.
    """

    encoder: EncoderSpec
    source: str
    device: str = "cpu"
    threads: int = 1
    ffmpeg: str = "bundled"
    encoder_dir: str | None = None

    name: ClassVar[str] = "encode"
    version: ClassVar[int] = 3
    output_kind: ClassVar[str] = "features"

    @property
    def input_columns(self) -> list[str] | None:  # type: ignore[override]
        return VIDEO_IDENTITY if self.source == "videos" else None

    def output_schema(self) -> pa.Schema:
        return features_schema(self.encoder.width, pa.float16())

    def identity(self) -> dict[str, Any]:
        return {k: v for k, v in to_dict(self).items() if k not in ("ffmpeg", "encoder_dir")}

    def facts(self) -> dict[str, Any]:
        return {"encoder": self.encoder.as_dict(), "clip_s": self.encoder.clip_s}

    def open(self) -> Process:
        import torch

        torch.set_num_threads(self.threads)
        spec = self.encoder
        precision = "bfloat16" if spec.precision == "bfloat16" else "float32"
        encoder = load_encoder(self.encoder_dir or spec.name, pool=spec.pool, precision=precision, clip_s=spec.clip_s, device=self.device)
        if encoder.spec.weights_sha256 != spec.weights_sha256:
            raise VbcliError(
                f"the weights of encoder {spec.name} are not those that the dataset was begun with", hint="encode into a new folder"
            )
        read = self._read_frames if self.source == "frames" else self._read_video

        def process(rows: Rows) -> Rows:
            return _encode_videos(
                encoder, ((r if isinstance(r, ItemFailure) else (_video_id(r), read(r))) for r in rows), self.output_schema()
            )

        return process

    def _read_frames(self, table: pa.Table) -> Iterator[tuple[float, np.ndarray]]:
        geometry = self.encoder.preprocessing.geometry
        for pts_s, image in zip(table.column("pts_s").to_pylist(), table.column("image").to_pylist(), strict=True):
            with Image.open(io.BytesIO(image["bytes"])) as picture:
                yield pts_s, fit_picture(picture.convert("RGB"), geometry)

    def _read_video(self, table: pa.Table) -> Iterator[tuple[float, np.ndarray]]:
        path = table.column("path")[0].as_py()
        spec = self.encoder
        # A generator: what goes wrong is raised where the video's clips are gathered, and costs this video alone.
        yield from iter_images(
            path, probe_video(path), fps=spec.fps, geometry=spec.preprocessing.geometry, executable=find_ffmpeg(self.ffmpeg)
        )


def check_sampling(frames_fps: float, encoder: EncoderSpec, frames_dir: object) -> None:
    """Refuses frames that are stored too sparsely for an encoder's clips."""
    if frames_fps < encoder.fps * (1 - 1e-6):
        raise VbcliError(
            f"{frames_dir} holds {frames_fps:g} frames a second, but {encoder.name} needs {encoder.fps:g}",
            hint="encode from the videos (vbcli encode VIDEOS_DIR), extract with a higher --fps, or give a longer --clip-s",
        )


def _video_id(table: pa.Table) -> str:
    return table.column("video_id")[0].as_py()


def fit_picture(picture: Image.Image, geometry: Geometry) -> np.ndarray:
    """Resizes (bicubic) and crops a picture in the middle.

    Returns:
        uint8 (crop_px, crop_px, 3).
    """
    if isinstance(geometry.resize_px, tuple):
        height, width = geometry.resize_px
    else:
        ratio = geometry.resize_px / min(picture.size)
        width, height = (max(geometry.resize_px, round(side * ratio)) for side in picture.size)
    if (width, height) != picture.size:
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    side = geometry.crop_px
    assert side is not None
    left, top = (width - side) // 2, (height - side) // 2
    return np.asarray(picture.crop((left, top, left + side, top + side)))


# ---------------------------------------------------------------- clips


def iter_clips(frames: Iterable[tuple[float, np.ndarray]], spec: EncoderSpec) -> Iterator[Clip]:
    """Gathers frames into clips: clip c covers [c, c + 1) * clip_s; its slot k shows the first frame at or after its time.

    A slot after the last frame repeats it. A clip without a frame of its own shows the one before, as a slide is shown until the next, or
    is left out where that would take longer than `HELD_S`. A last clip that is less than half filled is left out, unless it is the only
    one.
    """
    clip_s = spec.clip_s
    current, members, n_clips = -1, [], 0
    for pts_s, pixels in frames:
        index = max(0, math.floor((pts_s + EDGE_S) / clip_s))
        if index != current and members:
            yield _build_clip(current, members, spec)
            held = members[-1:]
            if (index - current) * clip_s <= HELD_S:
                yield from (_build_clip(i, held, spec) for i in range(current + 1, index))
            n_clips += 1
            members = []
        current = index
        members.append((pts_s, pixels))
    if members:
        filled = (members[-1][0] + EDGE_S - current * clip_s) * spec.fps + 1
        if filled >= spec.n_frames / 2 or n_clips == 0:
            yield _build_clip(current, members, spec)


def _build_clip(index: int, members: list[tuple[float, np.ndarray]], spec: EncoderSpec) -> Clip:
    start_s = index * spec.clip_s
    slots, at = [], 0
    for k in range(spec.n_frames):
        while at < len(members) - 1 and members[at][0] + EDGE_S < start_s + k / spec.fps:
            at += 1
        slots.append(at)
    pixels = np.stack([members[i][1] for i in slots])
    return Clip(index, start_s, start_s + spec.clip_s, len(set(slots)), pixels)


def _encode_videos(
    encoder: Encoder, videos: Iterable[ItemFailure | tuple[str, Iterator[tuple[float, np.ndarray]]]], schema: pa.Schema
) -> Rows:
    """Encodes clips in full batches that may span videos, and yields one table a video, in order."""
    queue: list[ItemFailure | tuple[str, list[Clip], list[np.ndarray]]] = []
    pending: list[tuple[Clip, list[np.ndarray]]] = []

    def flush() -> None:
        if pending:
            encoded = encoder.encode(np.stack([clip.pixels for clip, _ in pending]))
            for row, (_, target) in zip(encoded, pending, strict=True):
                target.append(row)
            pending.clear()

    def finished() -> Rows:
        for entry in queue:
            yield entry if isinstance(entry, ItemFailure) else _feature_table(*entry, schema)
        queue.clear()

    for entry in videos:
        if isinstance(entry, ItemFailure):
            queue.append(entry)
            continue
        video_id, frames = entry
        clips: list[Clip] = []
        rows: list[np.ndarray] = []
        try:
            for clip in iter_clips(frames, encoder.spec):
                pending.append((clip, rows))
                # A copy, not a view: the pixels live only until they are encoded.
                clips.append(Clip(clip.index, clip.start_s, clip.end_s, clip.n_frames, clip.pixels[:0].copy()))
                if len(pending) == encoder.batch_size:
                    flush()
                    yield from finished()
        except (MediaError, OSError) as error:
            pending[:] = [p for p in pending if p[1] is not rows]
            queue.append(ItemFailure(video_id, Encode.name, type(error).__name__, getattr(error, "message", str(error))))
            continue
        queue.append((video_id, clips, rows))
    flush()
    yield from finished()


def _feature_table(video_id: str, clips: list[Clip], features: list[np.ndarray], schema: pa.Schema) -> pa.Table:
    n = len(clips)
    values = pa.array(np.stack(features).astype(np.float16).ravel())
    columns = [
        pa.array([video_id] * n),
        pa.array([c.index for c in clips], pa.int32()),
        pa.array([c.start_s for c in clips], pa.float64()),
        pa.array([c.end_s for c in clips], pa.float64()),
        pa.array([0] * n, pa.int32()),
        pa.array([c.n_frames for c in clips], pa.int32()),
        pa.FixedSizeListArray.from_arrays(values, type=schema.field("feature").type),
    ]
    return pa.Table.from_arrays(columns, schema=schema)
