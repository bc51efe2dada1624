from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow as pa
import pytest

from tests.conftest import MakeVideo
from vbcli import shards
from vbcli.errors import MediaError
from vbcli.exports import burn_captions, export_captions
from vbcli.schemas import CAPTIONS
from vbcli.text.captionfiles import read_caption_file
from vbcli.text.subtitles import read_cues

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


def test_burnt_in_copies_are_made_again_where_their_captions_or_their_video_changed(
    tmp_path: Path, make_video: MakeVideo, ffmpeg_exe: str
) -> None:
    videos, shown = [make_video(tmp_path / "videos" / "sub" / f"{i}.mp4", hue=90 * i) for i in range(3)], tmp_path / "shown"

    def burn(*captions: str) -> dict[str, bytes]:
        """Captions of the videos in order; the copies that are made for them."""
        rows = [
            {"video_id": f"sub/{v.name}", "path": str(v), "start_s": 0, "end_s": 1, "caption": c, "checkpoint": "0"}
            for v, c in zip(videos, captions, strict=True)
        ]
        with shards.ShardWriter(tmp_path / shards.shard_name(0), CAPTIONS) as writer:
            writer.write(pa.Table.from_pylist(rows, schema=CAPTIONS))
            writer.close({})
        made = {}
        for video_id, job in burn_captions(tmp_path, shown, ffmpeg_exe):
            job()
            made[video_id] = (shown / f"{video_id}.mp4").read_bytes()
        return made

    first = burn("a ball", "a cube", "a cone")
    assert list(first) == ["sub/0.mp4", "sub/1.mp4", "sub/2.mp4"]
    assert burn("a ball", "a cube", "a cone") == {}
    # Other captions, another video, and a copy that somebody removed.
    again = burn("a disc", "a cube", "a cone")
    assert list(again) == ["sub/0.mp4"]
    assert again["sub/0.mp4"] != first["sub/0.mp4"]
    make_video(videos[1], hue=20)
    (shown / "sub" / "2.mp4.mp4").unlink()
    assert list(burn("a disc", "a cube", "a cone")) == ["sub/1.mp4", "sub/2.mp4"]
    # What was made of a video that is gone stays, unless it would say something else.
    videos[0].unlink()
    assert burn("a disc", "a cube", "a cone") == {}
    with pytest.raises(MediaError):
        burn("a ball", "a cube", "a cone")
    assert (shown / "sub" / "0.mp4.mp4").read_bytes() == again["sub/0.mp4"]
    videos[0].write_bytes(videos[1].read_bytes())
    assert list(burn("a disc", "a cube", "a cone")) == ["sub/0.mp4"]


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
        found = read_cues(folder / f"{video_id}.{suffix}")
        assert found is not None
        (segment,) = found.cues
        assert (segment.start_s, segment.end_s, segment.text) == (start_s, end_s, text)
