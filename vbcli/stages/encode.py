"""Feature encoding: clips of frames to features, from a frames dataset or straight from videos."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa
from PIL import Image

from vbcli.ahead import read_ahead
from vbcli.clips import Clip, ClipRule, gather_clips
from vbcli.config import Precision, to_dict
from vbcli.encoderspecs import EncoderSpec, Pool
from vbcli.errors import ItemFailure, MediaError, UsageError, VbcliError
from vbcli.media.decode import Decoder, MediaOptions
from vbcli.media.filters import Geometry
from vbcli.media.sampling import AtRate, AtTimes
from vbcli.schemas import features_schema
from vbcli.shots import Detector, TimedFrame, check_detector, shot_times
from vbcli.stage import Process, Rows, Stage
from vbcli.stages.extract import VIDEO_IDENTITY, detect_cuts

if TYPE_CHECKING:
    from vbcli.encoders import Encoder
    from vbcli.models.devices import Device

_described: dict[tuple[EncoderSpec, str], Encoder] = {}
"""The encoder that this process was asked to describe: it is likely to be asked to encode with it."""


class EncoderFacts(NamedTuple):
    """What one who runs an encoder must know of it: its specification, its folder where it was trained here, and where it runs."""

    spec: EncoderSpec
    folder: Path | None
    device: str


def describe_encoder(name: str, pool: Pool, precision: Precision, clip_s: float | None, device: Device) -> EncoderFacts:
    """What `load_encoder` finds.

    Raises:
        VbcliError: as `load_encoder`, or the device is not there.
    """
    from vbcli.encoders import load_encoder
    from vbcli.models.devices import resolve_device

    found = resolve_device(device)
    encoder = load_encoder(name, pool=pool, precision=precision, clip_s=clip_s, device=found)
    _described.clear()
    _described[encoder.spec, found] = encoder
    return EncoderFacts(encoder.spec, encoder.folder, found)


def encoder_modules(name: str) -> tuple[str, ...]:
    """What is loaded to run an encoder of this name."""
    library = name.partition(":")[0]
    return ("vbcli.encoders", *([library] if library in ("timm", "open_clip") else []))


N_BATCHES_AHEAD = 2
"""Of clips that are decoded and wait."""

Event = Clip | str | ItemFailure
"""A clip of a video, its name when all of them have come, or its failure."""


@dataclass(frozen=True)
class Encode(Stage):
    """Features of the clips of each video.

    Args:
        encoder: specification from `load_encoder`; its weights' hash is checked when they are loaded again.
        source: `frames` or `videos`, the kind of rows that come in.
        threads: of a worker; part of the identity, for sums may be ordered by it.
        clips: `fixed` are of the encoder's length; `respect-shots` begin anew in each shot, so that none lies across a cut; of `shots`
            each is a shot, and of `frames` each is a frame that is stored, until the next.
        detect_shots: what finds the shots of videos; frames know theirs.
        media: how videos are decoded; no part of the identity.
        encoder_dir: of an encoder that was trained; its weights' hash, not its place, is part of the identity.
    """

    encoder: EncoderSpec
    source: str
    device: str = "cpu"
    threads: int = 1
    media: MediaOptions = field(default_factory=MediaOptions)
    encoder_dir: str | None = None
    clips: ClipRule = "fixed"
    detect_shots: Detector | None = None

    name: ClassVar[str] = "encode"
    version: ClassVar[int] = 5
    output_kind: ClassVar[str] = "features"

    def __post_init__(self) -> None:
        if self.source == "videos" and self.clips in ("respect-shots", "shots") and self.detect_shots is None:
            raise UsageError(f"--{self.clips} needs --detect-shots", hint="content finds cuts, transnet dissolves, too")

    @property
    def input_columns(self) -> list[str] | None:  # type: ignore[override]
        return VIDEO_IDENTITY if self.source == "videos" else None

    def output_schema(self) -> pa.Schema:
        return features_schema(self.encoder.width, pa.float16())

    def identity(self) -> dict[str, Any]:
        return {k: v for k, v in to_dict(self).items() if k not in ("media", "encoder_dir")}

    def facts(self) -> dict[str, Any]:
        return {"encoder": self.encoder.as_dict(), "clip_s": self.encoder.clip_s}

    def modules(self) -> tuple[str, ...]:
        return (*super().modules(), *encoder_modules(self.encoder.name))

    def open(self) -> Process:
        import torch

        torch.set_num_threads(self.threads)
        spec = self.encoder
        encoder = _described.pop((spec, self.device), None) or self._load()
        if encoder.spec.weights_sha256 != spec.weights_sha256:
            raise VbcliError(
                f"the weights of encoder {spec.name} are not those that the dataset was begun with", hint="encode into a new folder"
            )
        decoder = self.media.open()
        if self.detect_shots is not None:
            check_detector(self.detect_shots)
        clips_of = self._clips_of_frames if self.source == "frames" else partial(self._clips_of_video, decoder)

        def process(rows: Rows) -> Rows:
            # Decoding goes on while the network computes.
            events = read_ahead(self._events(rows, clips_of), N_BATCHES_AHEAD * encoder.batch_size)
            return _encode_videos(encoder, events, self.output_schema())

        return process

    def _load(self) -> Encoder:
        from vbcli.encoders import load_encoder

        spec = self.encoder
        precision = "bfloat16" if spec.precision == "bfloat16" else "float32"
        return load_encoder(self.encoder_dir or spec.name, pool=spec.pool, precision=precision, clip_s=spec.clip_s, device=self.device)

    def _events(self, rows: Rows, clips_of: Callable[[pa.Table], Iterator[Clip]]) -> Iterator[Event]:
        for row in rows:
            if isinstance(row, ItemFailure):
                yield row
                continue
            video_id = _video_id(row)
            try:
                yield from self._counted(video_id, clips_of(row))
            except (MediaError, OSError) as error:
                yield ItemFailure(video_id, self.name, type(error).__name__, getattr(error, "message", str(error)))
            else:
                yield video_id

    def _clips_of_frames(self, table: pa.Table) -> Iterator[Clip]:
        geometry = self.encoder.preprocessing.geometry
        times, shots = (table.column(name).to_pylist() for name in ("pts_s", "shot_index"))
        cuts = [times[i] for i in range(1, len(times)) if shots[i] != shots[i - 1]]
        wanted = set(itertools.chain(*shot_times(times, cuts, self.encoder.n_frames))) if self.clips == "shots" else set(times)

        def frames() -> Iterator[TimedFrame]:
            for pts_s, image in zip(times, table.column("image").to_pylist(), strict=True):
                if pts_s in wanted:
                    with Image.open(io.BytesIO(image["bytes"])) as picture:
                        yield pts_s, fit_picture(picture.convert("RGB"), geometry)

        yield from gather_clips(frames(), self.encoder, self.clips, cuts, times[-1] + self.encoder.clip_s)

    def _clips_of_video(self, decoder: Decoder, table: pa.Table) -> Iterator[Clip]:
        path = table.column("path")[0].as_py()
        spec = self.encoder
        # A generator: what goes wrong is raised where the video's clips are gathered, and costs this video alone.
        decoder.check_link(_video_id(table), path)
        video = decoder.video(path)
        cuts, times = detect_cuts(video, self.detect_shots)
        sampling, ends_s = AtRate(spec.fps), math.inf
        if self.clips == "respect-shots":
            sampling = AtRate(spec.fps, tuple(cuts))
        elif self.clips == "shots":
            sampling, ends_s = AtTimes(tuple(itertools.chain(*shot_times(times, cuts, spec.n_frames)))), video.end_s
        yield from gather_clips(video.images(sampling, spec.preprocessing.geometry), spec, self.clips, cuts, ends_s)

    def _counted(self, name: str, clips: Iterable[Clip]) -> Iterator[Clip]:
        """The clips of a video; a frame that is held for long makes many."""
        for n, clip in enumerate(clips):
            if n == self.media.limits.max_frames:
                raise MediaError(f"{name} gives more clips than the limit of {n} (--max-frames)")
            yield clip


def check_sampling(frames_fps: float | None, encoder: EncoderSpec, frames_dir: object) -> ClipRule:
    """The clips of stored frames: the encoder's, or one a frame where they are not of a rate.

    Raises:
        VbcliError: they are stored too sparsely for the encoder's clips.
    """
    hint = "encode from the videos (vbcli encode VIDEOS_DIR), extract with a higher --fps, or give a longer --clip-s"
    if frames_fps is None:
        if encoder.n_frames > 1:
            raise VbcliError(f"{frames_dir} holds single frames, but {encoder.name} needs {encoder.n_frames} of a clip", hint=hint)
        return "frames"
    if frames_fps < encoder.fps * (1 - 1e-6):
        raise VbcliError(f"{frames_dir} holds {frames_fps:g} frames a second, but {encoder.name} needs {encoder.fps:g}", hint=hint)
    return "fixed"


def check_shots(clips: ClipRule, configuration: Mapping[str, Any], frames_dir: object) -> None:
    """Stored frames know their shots when these were looked for.

    Args:
        configuration: of the stage that made the frames.

    Raises:
        VbcliError: clips are to be those of shots, and nothing has looked for them.
    """
    if clips in ("respect-shots", "shots") and configuration.get("detect_shots") is None:
        raise VbcliError(
            f"{frames_dir} was made without --detect-shots: its frames know of no shots, which --{clips} needs",
            hint="encode from the videos (vbcli encode VIDEOS_DIR), or extract into another folder with --detect-shots content",
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


def _encode_videos(encoder: Encoder, events: Iterator[Event], schema: pa.Schema) -> Rows:
    """Encodes clips in full batches that may span videos, and yields one table a video, in order."""
    finished: list[ItemFailure | tuple[str, list[Clip], list[np.ndarray]]] = []
    pending: list[tuple[Clip, list[np.ndarray]]] = []
    clips: list[Clip] = []
    rows: list[np.ndarray] = []

    def flush() -> Rows:
        if pending:
            encoded = encoder.encode(np.stack([clip.pixels for clip, _ in pending]))
            for row, (_, target) in zip(encoded, pending, strict=True):
                target.append(row)
            pending.clear()
        for entry in finished:
            yield entry if isinstance(entry, ItemFailure) else _feature_table(*entry, schema)
        finished.clear()

    for event in events:
        if isinstance(event, Clip):
            pending.append((event, rows))
            # A copy, not a view: the pixels live only until they are encoded.
            clips.append(replace(event, pixels=event.pixels[:0].copy()))
            if len(pending) == encoder.batch_size:
                yield from flush()
            continue
        if isinstance(event, ItemFailure):
            pending[:] = [p for p in pending if p[1] is not rows]
        finished.append(event if isinstance(event, ItemFailure) else (event, clips, rows))
        clips, rows = [], []
    yield from flush()


def _feature_table(video_id: str, clips: list[Clip], features: list[np.ndarray], schema: pa.Schema) -> pa.Table:
    n = len(clips)
    values = pa.array(np.stack(features).astype(np.float16).ravel())
    columns = [
        pa.array([video_id] * n),
        pa.array([c.index for c in clips], pa.int32()),
        pa.array([c.start_s for c in clips], pa.float64()),
        pa.array([c.end_s for c in clips], pa.float64()),
        pa.array([c.shot_index for c in clips], pa.int32()),
        pa.array([c.n_frames for c in clips], pa.int32()),
        pa.FixedSizeListArray.from_arrays(values, type=schema.field("feature").type),
    ]
    return pa.Table.from_arrays(columns, schema=schema)
