"""Features that others computed, as a features dataset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from vbcli.encoderspecs import EncoderSpec
from vbcli.errors import ItemFailure, MediaError
from vbcli.featurefiles import read_features
from vbcli.schemas import VIDEOS, features_schema
from vbcli.stage import Process, Rows, Stage
from vbcli.stages.extract import VIDEO_IDENTITY


@dataclass(frozen=True)
class ListVideos(Stage):
    """The videos that features are of, as they were found: there is no container to ask."""

    name: ClassVar[str] = "list"
    version: ClassVar[int] = 1
    output_kind: ClassVar[str] = "videos"

    def output_schema(self) -> pa.Schema:
        return VIDEOS

    def open(self) -> Process:
        return lambda rows: rows


@dataclass(frozen=True)
class ImportFeatures(Stage):
    """Reads the feature file of each video.

    Args:
        encoder: what made the features, as `imported_encoder` describes it.
        times: name of the times in a file; None: features follow each other at the encoder's rate.
        follows_links: also read files that are links out of their folder.
    """

    encoder: EncoderSpec
    times: str | None = None
    follows_links: bool = False

    name: ClassVar[str] = "import-features"
    version: ClassVar[int] = 2
    output_kind: ClassVar[str] = "features"
    input_columns: ClassVar[list[str] | None] = VIDEO_IDENTITY

    def output_schema(self) -> pa.Schema:
        return features_schema(self.encoder.width, pa.float32())

    def identity(self) -> dict[str, Any]:
        return {"encoder": self.encoder.as_dict(), "times": self.times}

    def facts(self) -> dict[str, Any]:
        return {"encoder": self.encoder.as_dict(), "clip_s": self.encoder.clip_s}

    def open(self) -> Process:
        def process(rows: Rows) -> Rows:
            for table in rows:
                if isinstance(table, ItemFailure):
                    yield table
                    continue
                (video,) = table.select(["video_id", "path"]).to_pylist()
                try:
                    yield self._features(video["video_id"], video["path"])
                except MediaError as error:
                    yield ItemFailure(video["video_id"], self.name, type(error).__name__, error.message)

        return process

    def _features(self, video_id: str, path: str) -> pa.Table:
        features, times = read_features(path, video_id, self.times, follows_links=self.follows_links)
        n, width = features.shape
        if width != self.encoder.width:
            raise MediaError(f"{path} has features of {width} numbers, and the others of {self.encoder.width}")
        clip_s = self.encoder.clip_s
        starts = np.arange(n) * clip_s if times is None else times
        ends = np.append(starts[1:], starts[-1] + clip_s)
        columns = [
            pa.array([video_id] * n),
            pa.array(range(n), pa.int32()),
            pa.array(starts, pa.float64()),
            pa.array(ends, pa.float64()),
            pa.array([0] * n, pa.int32()),
            pa.array([1] * n, pa.int32()),
            pa.FixedSizeListArray.from_arrays(pa.array(features.ravel()), type=self.output_schema().field("feature").type),
        ]
        return pa.Table.from_arrays(columns, schema=self.output_schema())
