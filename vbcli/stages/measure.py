"""Measures of quality: frames to how bright, sharp and lively each video is, and to hashes of how it looks."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from PIL import Image

from vbcli import pixels
from vbcli.errors import ItemFailure
from vbcli.schemas import MEASURES
from vbcli.stage import Process, Rows, Stage


@dataclass(frozen=True)
class Measure(Stage):
    """Measures of the stored frames of each video."""

    name: ClassVar[str] = "measure"
    version: ClassVar[int] = 2
    output_kind: ClassVar[str] = "measures"

    def output_schema(self) -> pa.Schema:
        return MEASURES

    def open(self) -> Process:
        def process(rows: Rows) -> Rows:
            for table in rows:
                if isinstance(table, ItemFailure):
                    yield table
                    continue
                video_id = table.column("video_id")[0].as_py()
                try:
                    measured = measure_frames(table)
                except OSError as error:
                    yield ItemFailure(video_id, self.name, type(error).__name__, f"a frame of {video_id} cannot be decoded: {error}")
                    continue
                yield pa.Table.from_pylist([{"video_id": video_id, **measured}], schema=MEASURES)

        return process


def measure_frames(table: pa.Table) -> dict[str, Any]:
    """The measures of one video's frames.

    Raises:
        OSError: a frame cannot be decoded.
    """
    hashed = pixels.hashed_frames(table.num_rows)
    before: np.ndarray | None = None
    brightness, sharpness, motion, text, black, hashes = [], [], [], [], [], {}
    for i, picture in enumerate(_pictures(table)):
        shown = pixels.luma(np.asarray(picture))
        brightness.append(float(shown.mean()))
        sharpness.append(pixels.sharpness(shown))
        text.append(pixels.text_share(shown))
        black.append(pixels.is_black(shown))
        if before is not None and before.shape == shown.shape:
            motion.append(pixels.motion(before, shown))
        if i in hashed:
            small = picture.convert("L").resize((pixels.HASH_SIDE, pixels.HASH_SIDE), Image.Resampling.LANCZOS)
            hashes[i] = pixels.perceptual_hash(np.asarray(small, np.float32) / 255)
        before = shown
    return {
        "n_frames": len(brightness),
        "brightness": float(np.mean(brightness)),
        "sharpness": float(np.median(sharpness)),
        "motion": float(np.mean(motion)) if motion else None,
        "text_share": float(np.mean(text)),
        "black_share": float(np.mean(black)),
        "frozen_share": float(np.mean(np.array(motion) < pixels.FROZEN)) if motion else None,
        "hashes": [hashes[i] for i in hashed],
    }


def _pictures(table: pa.Table) -> Iterator[Image.Image]:
    for image in table.column("image").to_pylist():
        with Image.open(io.BytesIO(image["bytes"])) as picture:
            yield picture.convert("RGB")
