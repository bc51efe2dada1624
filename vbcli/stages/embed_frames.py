"""Embedding without a trained model: features of an encoder that reads text, too, to vectors of a video and of its parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from vbcli.config import to_dict
from vbcli.errors import ItemFailure
from vbcli.schemas import vectors_schema
from vbcli.stage import Process, Rows, Stage
from vbcli.stages.embed import WHOLE
from vbcli.stages.tokenize import VideoRows
from vbcli.storage import as_path

PART_S = 8.0
"""About how long the parts of a video are, in seconds."""


@dataclass(frozen=True)
class EmbedFrames(Stage):
    """A unit vector of each video and of each of its parts: the mean of its clips' unit vectors.

    Args:
        weights_sha256: of the encoder that the features are of.
        width: P, of the features.
        videos_dir: the videos dataset, for the paths of the videos.
    """

    weights_sha256: str
    width: int
    videos_dir: str

    name: ClassVar[str] = "embed-frames"
    version: ClassVar[int] = 1
    output_kind: ClassVar[str] = "vectors"

    def output_schema(self) -> pa.Schema:
        # Nothing is read again beside the text: there is no need for tokens and features.
        return vectors_schema(self.width, 1, 1)

    def identity(self) -> dict[str, Any]:
        return {k: v for k, v in to_dict(self).items() if k != "videos_dir"}

    def facts(self) -> dict[str, Any]:
        return {"width": self.width, "weights_sha256": self.weights_sha256}

    def open(self) -> Process:
        paths = VideoRows(as_path(self.videos_dir))

        def process(rows: Rows) -> Rows:
            for table in rows:
                if isinstance(table, ItemFailure):
                    yield table
                    continue
                video_id = table.column("video_id")[0].as_py()
                shared = {"video_id": video_id, "path": paths.get(video_id)["path"], "checkpoint": self.weights_sha256[:16]}
                yield pa.Table.from_pylist([{**shared, **row} for row in vectors_of(table)], schema=self.output_schema())

        return process


def vectors_of(table: pa.Table) -> list[dict[str, Any]]:
    """Rows of a video's features: of the whole, and of each part where there are several; times in seconds."""
    from vbcli.vocab.build import feature_matrix

    found = feature_matrix(table).astype(np.float32)  # (V, P)
    unit = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)
    starts_s, ends_s = (table.column(name).to_numpy() for name in ("start_s", "end_s"))
    n_parts = max(1, round(float(ends_s[-1] - starts_s[0]) / PART_S))
    parts = [part for part in np.array_split(np.arange(len(unit)), n_parts) if len(part)]
    named = [(WHOLE, np.arange(len(unit))), *(enumerate(parts) if len(parts) > 1 else ())]
    return [
        {
            "segment_index": number,
            "start_s": float(starts_s[clips[0]]),
            "end_s": float(ends_s[clips[-1]]),
            "vector": _unit_mean(unit[clips]).tolist(),
            "visual_tokens": [],
            "features": [],
        }
        for number, clips in named
    ]


def _unit_mean(vectors: np.ndarray) -> np.ndarray:
    mean = vectors.mean(0)
    return mean / max(float(np.linalg.norm(mean)), 1e-9)
