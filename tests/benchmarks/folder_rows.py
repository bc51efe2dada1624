"""Row from videos to sentences: `caption FOLDER` against a straightforward script."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from captioners import captioner, exported
from harness import BYTES, OURS, Prepared, Row, Run, Side, at_least, at_most, peer_command, run_process
from materials import Inputs, clips, plain_vocabulary
from media_rows import command_side

from vbcli import shards

PEER = "script"
MIN_SAME = 0.95
"""Share of the captions that may not differ: other libraries scale frames otherwise, and the encoder computes in bfloat16."""


def folder_rows(inputs: Inputs) -> list[Row]:
    """`caption FOLDER` against OpenCV, timm in float32, faiss and transformers."""
    return [Row("caption-folder", (at_least(3.0, PEER), at_most(1.0, PEER, BYTES)), partial(_caption_folder, inputs))]


def captions_of(dataset_dir: Path) -> dict[str, str]:
    """Caption of each video."""
    tables = [pq.read_table(path, columns=["video_id", "caption"]) for path in shards.list_shards(dataset_dir)]
    return {row["video_id"]: row["caption"] for table in tables for row in table.to_pylist()}


def different(ours: dict[str, str], theirs: dict[str, str], min_same: float) -> str:
    """What differs in captions that should be the same; also where all are alike, for then nothing was compared."""
    same = sum(ours.get(name) == text for name, text in theirs.items())
    if len(ours) != len(theirs) or same < min_same * len(theirs):
        return f"{len(theirs) - same} of {len(theirs)} captions differ"
    return "all captions are alike" if len(set(theirs.values())) < 2 else ""


def _caption_folder(inputs: Inputs) -> Prepared:
    folder, checkpoint = clips(inputs), captioner(inputs, "mini")
    peer = peer_command("caption", folder, plain_vocabulary(inputs), exported(inputs, "mini"))

    def script() -> Run:
        run = run_process(peer, watches_memory=True)
        return Run(run.quantities, json.loads(run.result))

    command = ("caption", folder, "OUT", "--checkpoint", checkpoint)
    sides: dict[str, Side] = {
        OURS: command_side(inputs, "captions", *command, read=captions_of, watches_memory=True),
        PEER: script,
    }

    def check(results: dict[str, Any]) -> str:
        return different(results[OURS], results[PEER], MIN_SAME)

    return Prepared(sides, check, len(list(folder.glob("*.mp4"))), "videos")
