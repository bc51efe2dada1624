from __future__ import annotations

import csv
import json

import pyarrow as pa
import pytest

from vbcli import shards
from vbcli.captionfiles import read_caption_file
from vbcli.exports import export_captions
from vbcli.schemas import CAPTIONS
from vbcli.subtitles import read_cues

ROWS = [
    ("sub/a b.mp4", 0.0, 4.5, 'a "red" ball, falling'),
    ("ü.mkv", 0.0, 61.25, "zwei Bälle"),
]


@pytest.fixture
def captions_dir(tmp_path):
    rows = [
        {"video_id": v, "path": f"/x/{v}", "start_s": a, "end_s": b, "caption": c, "score": -0.5, "checkpoint": "0", "decoding": "{}"}
        for v, a, b, c in ROWS
    ]
    with shards.ShardWriter(tmp_path / shards.shard_name(0), CAPTIONS) as writer:
        writer.write(pa.Table.from_pylist(rows, schema=CAPTIONS))
        writer.close({})
    return tmp_path


def test_jsonl(captions_dir):
    lines = export_captions(captions_dir, "jsonl").read_text(encoding="utf-8").splitlines()
    assert [(r["video"], r["start_s"], r["end_s"], r["caption"]) for r in map(json.loads, lines)] == ROWS


def test_csv_reads_back_as_references(captions_dir):
    path = export_captions(captions_dir, "csv")
    with path.open(newline="", encoding="utf-8") as file:
        assert [r["caption"] for r in csv.DictReader(file)] == [row[3] for row in ROWS]
    assert [(r.video, r.caption) for r in read_caption_file(path)] == [(row[0], row[3]) for row in ROWS]


@pytest.mark.parametrize("suffix", ["srt", "vtt"])
def test_subtitles_lie_under_the_video_s_name(captions_dir, suffix):
    folder = export_captions(captions_dir, suffix)
    for video_id, start_s, end_s, text in ROWS:
        (segment,) = read_cues(folder / f"{video_id}.{suffix}") or []
        assert (segment.start_s, segment.end_s, segment.text) == (start_s, end_s, text)
