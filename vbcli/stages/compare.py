"""Quality: the measures of each video, beside what comparing all of them found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa

from vbcli import shards
from vbcli.duplicates import HASH_DISTANCE, SIMILARITY
from vbcli.errors import ItemFailure
from vbcli.files import read_json
from vbcli.schemas import QUALITY
from vbcli.stage import Process, Rows, Stage
from vbcli.storage import as_path


@dataclass(frozen=True)
class Compare(Stage):
    """Joins measures with what is known of each video and its neighbours.

    Args:
        compared: JSON of `quality.compare_videos`; its values are part of each shard's key, not of the identity.
        videos_dir: the videos dataset with paths and splits.
        encoder: of the features that were compared; None where only looks were.
    """

    compared: str
    videos_dir: str
    encoder: str | None = None
    hash_distance: float = HASH_DISTANCE
    similarity: float = SIMILARITY

    name: ClassVar[str] = "compare"
    version: ClassVar[int] = 1
    output_kind: ClassVar[str] = "quality"

    def output_schema(self) -> pa.Schema:
        return QUALITY

    def identity(self) -> dict[str, Any]:
        return {"encoder": self.encoder, "hash_distance": self.hash_distance, "similarity": self.similarity}

    def open(self) -> Process:
        known = {row["video_id"]: row for row in shards.read_rows(as_path(self.videos_dir), ["video_id", "path", "split"])}
        compared = read_json(as_path(self.compared))

        def process(rows: Rows) -> Rows:
            for table in rows:
                if isinstance(table, ItemFailure):
                    yield table
                    continue
                (row,) = table.to_pylist()
                yield pa.Table.from_pylist([{**row, **known[row["video_id"]], **compared[row["video_id"]]}], schema=QUALITY)

        return process
