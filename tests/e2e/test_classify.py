"""Classification as a user runs it: train, classify, evaluate, on a small demo world."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import duckdb
import pytest

from tests.e2e.commands import vbcli

N_VIDEOS = 40
SMALL = ("--encoder", "timm:test_convnext/random", "--executor", "serial")
"""What is tried here is not the encoder, and workers take seconds to start."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a classifier of a demo world."""
    folder = tmp_path_factory.mktemp("classify")
    vbcli("demo-data", "world", "--n-videos", str(N_VIDEOS), cwd=folder)
    # One label a video: of clips in which two things happen, what happens first.
    table = folder / "world" / "captions.csv"
    rows = {row["video"]: row for row in reversed(list(csv.DictReader(table.open(newline=""))))}
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["video", "caption", "split", "label"])
        writer.writeheader()
        writer.writerows(rows.values())
    vbcli("encode", "world/videos", "features", "--captions", "world/captions.csv", *SMALL, cwd=folder)
    vbcli("build-vocab", "features", "vocab", cwd=folder)
    vbcli("tokenize", "features", "tokens", "--vocab", "vocab", cwd=folder)
    vbcli("train", "tokens", "model", "--task", "classify", "--max-steps", "20", cwd=folder)
    return folder


def test_a_folder_and_its_tokens_get_the_same_classes(place: Path):
    vbcli("classify", "tokens", "from-tokens", "--checkpoint", "model", cwd=place)
    vbcli("classify", "world/videos", "from-videos", "--checkpoint", "model", cwd=place)
    query = "select video_id, labels[1], scores[1].probability from '{}/shard-*.parquet' order by video_id"
    with duckdb.connect() as connection:
        tokens, videos = (connection.execute(query.format(place / name)).fetchall() for name in ("from-tokens", "from-videos"))
    assert len(tokens) == N_VIDEOS
    assert [row[:2] for row in videos] == [row[:2] for row in tokens]
    assert [row[2] for row in videos] == pytest.approx([row[2] for row in tokens], abs=1e-5)


def test_classes_are_scored_beside_a_linear_probe(place: Path):
    vbcli("classify", "tokens", "scored", "--checkpoint", "model", "--split", "test", cwd=place)
    found = json.loads(vbcli("evaluate", "scored", "tokens", "--json", cwd=place).stdout)
    assert found["scores"].keys() == {"classes", "linear probe", "most frequent class"}
    with duckdb.connect() as connection:
        rows = connection.execute(f"select video_id, labels[1] from '{place}/scored/shard-*.parquet'").fetchall()
    assert sum(map(sum, found["confusions"])) == sum(b["n_videos"] for b in found["reliability"]) == len(rows) == N_VIDEOS // 5
    truths = {row["video"]: row["label"] for row in csv.DictReader((place / "world" / "captions.csv").open(newline=""))}
    n_right = sum(truths[video] == label for video, label in rows)
    assert found["scores"]["classes"]["accuracy"] == pytest.approx(n_right / len(rows))
    shown = vbcli("evaluate", "scored", "tokens", cwd=place).stdout
    assert "linear probe" in shown


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("classify", "tokens", "out"), 1, "there is no checkpoint in vbcli-work/checkpoints/classify"),
        (("classify", "nowhere", "out", "--checkpoint", "model"), 1, "nowhere does not exist"),
        (("classify", "features", "out", "--checkpoint", "model"), 1, "is a features dataset: classify takes a folder of videos"),
        (("classify", "tokens", "out", "--checkpoint", "model", "--split", "dev"), 1, "no video of tokens is in the split 'dev'"),
        (("caption", "tokens", "out", "--checkpoint", "model"), 1, "was trained for the task 'classify', not 'caption'"),
        (("train", "tokens", "out", "--task", "caption", "--balance"), 2, "--balance is for --task classify"),
    ],
)
def test_what_cannot_be_classified_is_refused(place: Path, arguments: tuple[str, ...], status: int, message: str):
    assert message in " ".join(vbcli(*arguments, cwd=place, status=status).stderr.split())
    assert not (place / "out").exists()
