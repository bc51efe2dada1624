"""Classification as a user runs it: train, classify, evaluate, on a small demo world."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.e2e.commands import rows, vbcli

N_VIDEOS = 40
N_FEW = 5
ENCODER = ("--encoder", "timm:test_convnext/random")
SERIAL = ("--executor", "serial")
"""Workers take seconds to start; other tests have them."""


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
    vbcli("encode", "world/videos", "features", "--captions", "world/captions.csv", *ENCODER, *SERIAL, cwd=folder)
    vbcli("build-vocab", "features", "vocab", cwd=folder)
    vbcli("tokenize", "features", "tokens", "--vocab", "vocab", *SERIAL, cwd=folder)
    vbcli("train", "tokens", "model", "--task", "classify", "--max-steps", "20", cwd=folder)
    for video in sorted((folder / "world" / "videos").glob("*.mp4"))[:N_FEW]:
        (folder / "few").mkdir(exist_ok=True)
        shutil.copy(video, folder / "few")
    return folder


def test_a_folder_and_its_tokens_get_the_same_classes(place: Path):
    vbcli("classify", "tokens", "from-tokens", "--checkpoint", "model", *SERIAL, cwd=place)
    vbcli("classify", "few", "from-videos", "--checkpoint", "model", cwd=place)
    query = "select video_id, labels[1], scores[1].probability from '{}/shard-*.parquet' order by video_id"
    tokens, videos = (rows(query.format(place / name)) for name in ("from-tokens", "from-videos"))
    assert (len(tokens), len(videos)) == (N_VIDEOS, N_FEW)
    expected = [row for row in tokens if row[0] in {video for video, _, _ in videos}]
    assert [row[:2] for row in videos] == [row[:2] for row in expected]
    assert [row[2] for row in videos] == pytest.approx([row[2] for row in expected], abs=1e-5)


def test_classes_are_on_stdout_all_of_them(place: Path):
    shown = vbcli("classify", "tokens", "told", "--checkpoint", "model", *SERIAL, cwd=place).stdout
    said = json.loads(vbcli("classify", "tokens", "told", "--checkpoint", "model", *SERIAL, "--json", cwd=place).stdout)
    wanted = rows(f"select video_id, path, labels, scores from '{place}/told/shard-*.parquet' order by video_id")
    assert sorted(tuple(row.values()) for row in said["rows"]) == wanted
    assert len(wanted) == N_VIDEOS
    assert all(shown.count(video_id) == 1 for video_id, *_ in wanted)


def test_classes_are_scored_beside_a_linear_probe(place: Path):
    vbcli("classify", "tokens", "scored", "--checkpoint", "model", "--split", "test", *SERIAL, cwd=place)
    found = json.loads(vbcli("evaluate", "scored", "tokens", "--json", cwd=place).stdout)
    assert found["scores"].keys() == {"classes", "linear probe", "most frequent class"}
    said = rows(f"select video_id, labels[1] from '{place}/scored/shard-*.parquet'")
    assert sum(map(sum, found["confusions"])) == sum(b["n_guesses"] for b in found["reliability"]) == len(said) == N_VIDEOS // 5
    truths = {row["video"]: row["label"] for row in csv.DictReader((place / "world" / "captions.csv").open(newline=""))}
    n_right = sum(truths[video] == label for video, label in said)
    assert found["scores"]["classes"]["accuracy"] == pytest.approx(n_right / len(said))
    shown = vbcli("evaluate", "scored", "tokens", cwd=place).stdout
    assert "linear probe" in shown
    # Another system, and a run of this one that says the same.
    vbcli("train", "tokens", "later", "--task", "classify", "--max-steps", "2", "--seed", "5", cwd=place)
    vbcli("classify", "tokens", "rerun", "--checkpoint", "model", "--split", "test", *SERIAL, cwd=place)
    vbcli("classify", "tokens", "other", "--checkpoint", "later", "--split", "test", *SERIAL, cwd=place)
    systems = ("--also", "classes=rerun", "--also", "other")
    both = json.loads(vbcli("evaluate", "scored", "tokens", *systems, "--json", cwd=place).stdout)
    alone = json.loads(vbcli("evaluate", "other", "tokens", "--json", cwd=place).stdout)
    assert both["scores"] == {**found["scores"], "other": alone["scores"]["classes"]}
    assert both["spread"]["classes"]["accuracy"] == 0
    gain = found["scores"]["classes"]["accuracy"] - alone["scores"]["classes"]["accuracy"]
    assert both["gains"]["other"]["mean"] == pytest.approx(gain)
    assert "Accuracy above" in vbcli("evaluate", "scored", "tokens", *systems, cwd=place).stdout


def test_videos_of_several_classes_have_baselines_too(place: Path):
    # The world's own table: of clips in which two things happen both are labels.
    vbcli("demo-data", "again", "--n-videos", str(N_VIDEOS), cwd=place)
    vbcli("tokenize", "features", "several", "--vocab", "vocab", "--captions", "again/captions.csv", *SERIAL, cwd=place)
    vbcli("train", "several", "several-model", "--task", "classify", "--max-steps", "20", cwd=place)
    vbcli("classify", "several", "several-classes", "--checkpoint", "several-model", "--split", "test", *SERIAL, cwd=place)
    evaluated = json.loads(vbcli("evaluate", "several-classes", "several", "--json", "--picture", "several.svg", cwd=place).stdout)
    found = evaluated["scores"]
    assert found.keys() == {"classes", "linear probe", "class frequencies"}
    assert {tuple(scores) for scores in found.values()} == {("exact match", "macro F1", "mean average precision", "calibration error")}
    # Frequencies say the same of every video: the precision of a class is its share of the videos.
    truths = rows(f"select distinct video_id, labels from '{place}/several/shard-*.parquet' where split = 'test'")
    shares = Counter(label for _, labels in truths for label in labels)
    assert found["class frequencies"]["mean average precision"] == pytest.approx(np.mean([n / len(truths) for n in shares.values()]))
    # Each class against the rest, and each class of each video in the calibration.
    said = Counter(label for (labels,) in rows(f"select labels from '{place}/several-classes/shard-*.parquet'") for label in labels)
    for counts in evaluated["counts"]:
        assert counts["true_positives"] + counts["false_negatives"] == shares[counts["name"]]
        assert counts["true_positives"] + counts["false_positives"] == said[counts["name"]]
        assert sum(value for name, value in counts.items() if name != "name") == len(truths)
    assert evaluated["confusions"] == []
    assert sum(b["n_guesses"] for b in evaluated["reliability"]) == len(truths) * len(evaluated["classes"])
    drawn = (place / "several.svg").read_text()
    assert all(f"<!-- {text} -->" in drawn for text in ("false negatives", "probability of the class", *evaluated["classes"]))
    shown = vbcli("evaluate", "several-classes", "several", cwd=place).stdout
    assert "each class against the rest" in shown


def test_the_picture_of_confusions_and_calibration(place: Path):
    vbcli("classify", "tokens", "drawn", "--checkpoint", "model", "--split", "test", *SERIAL, cwd=place)
    for name in ("one.png", "two.png", "one.svg"):
        assert f"drawn in {name}" in vbcli("evaluate", "drawn", "tokens", "--picture", name, cwd=place).stderr
    assert (place / "one.png").read_bytes() == (place / "two.png").read_bytes()
    with Image.open(place / "one.png") as image:
        assert image.width > image.height > 400
    names = {label for (label,) in rows(f"select distinct labels[1] from '{place}/tokens/shard-*.parquet'")}
    # Letters are drawn as paths, each text with a comment that says it.
    assert all(f"<!-- {name} -->" in (place / "one.svg").read_text() for name in names)


def test_classes_that_nothing_was_trained_for(place: Path):
    """By a VideoBERT and by a captioner, the folder and its tokens alike."""
    (place / "classes.txt").write_text("up\trises\ndown\tfalls\nleft\tmoves left\n")
    for task in ("pretrain", "caption"):
        vbcli("train", "tokens", task, "--task", task, "--max-steps", "20", cwd=place)
        common = ("--classes", "classes.txt", "--template", "we see how a red ball [MASK]", "--checkpoint", task)
        vbcli("classify", "tokens", f"{task}-tokens", *common, *SERIAL, cwd=place)
        vbcli("classify", "few", f"{task}-videos", *common, *SERIAL, cwd=place)
        query = "select video_id, scores from '{}/shard-*.parquet'"
        tokens, videos = (dict(rows(query.format(place / f"{task}-{name}"))) for name in ("tokens", "videos"))
        assert (len(tokens), len(videos)) == (N_VIDEOS, N_FEW)
        for video, scores in videos.items():
            expected = {s["label"]: s["probability"] for s in tokens[video]}
            assert expected.keys() == {"up", "down", "left"}
            assert sum(expected.values()) == pytest.approx(1)
            assert {s["label"]: s["probability"] for s in scores} == pytest.approx(expected, abs=1e-4)


def test_videos_that_failed_and_training_videos_are_told(place: Path):
    """Of a folder's classes, captions and summaries alike."""
    mixed = place / "mixed"
    shutil.copytree(place / "few", mixed)
    (mixed / "bad.mp4").write_bytes(b"no video")
    table = ["video,label,caption,start_s,end_s,split", *(f"{path.name},fall,a ball,0,2,train" for path in sorted(mixed.iterdir()))]
    (place / "mixed.csv").write_text("\n".join(table) + "\n")
    vbcli("train", "tokens", "captioner", "--task", "caption", "--max-steps", "2", cwd=place)
    for command, out, model in (("classify", "c", "model"), ("caption", "t", "captioner"), ("summarize", "s", "captioner")):
        more = ("--length", "1s") if command == "summarize" else ()
        vbcli(command, "mixed", f"mixed-{out}", "--checkpoint", model, *more, cwd=place, status=3)
        found = vbcli("evaluate", f"mixed-{out}", "mixed.csv", "--no-meteor", "--json", cwd=place)
        notes = json.loads(found.stdout)["notes"]
        assert "1 more videos with references failed (see the folder _errors) and are left out" in notes, command
        assert f"all {N_FEW} " in found.stderr
        assert "are in the split 'train'" in found.stderr
        assert "split 'train'" not in vbcli("evaluate", f"mixed-{out}", "mixed.csv", "--split", "train", "--no-meteor", cwd=place).stderr


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("classify", "tokens", "out"), 1, "there is no checkpoint in vbcli-work/checkpoints/classify"),
        (("classify", "nowhere", "out", "--checkpoint", "model"), 1, "nowhere does not exist"),
        (("classify", "features", "out", "--checkpoint", "model"), 1, "is a features dataset: classify takes a folder of videos"),
        (("classify", "tokens", "out", "--checkpoint", "model", "--split", "dev"), 1, "no video of tokens is in the split 'dev'"),
        (("caption", "tokens", "out", "--checkpoint", "model"), 1, "was trained for the task 'classify', not 'caption'"),
        (("classify", "tokens", "out", "--template", "a [MASK]"), 2, "--template goes with --classes"),
        (("classify", "tokens", "out", "--classes", "one.txt", "--checkpoint", "model"), 1, "one.txt must name two classes or more"),
        (
            ("classify", "tokens", "out", "--classes", "two.txt", "--checkpoint", "model"),
            1,
            "was trained for the task 'classify', not 'caption'",
        ),
        (("classify", "tokens", "out", "--classes", "wide.txt", "--checkpoint", "model"), 1, "wide.txt has a line of 3 columns: a"),
        (("evaluate", "tokens", "tokens", "--picture", "out"), 2, "--picture is not for captions"),
        (("train", "tokens", "out", "--task", "caption", "--balance"), 2, "--balance is for --task classify"),
    ],
)
def test_what_cannot_be_classified_is_refused(place: Path, arguments: tuple[str, ...], status: int, message: str):
    for name, text in (("one.txt", "a\n"), ("two.txt", "a\nb\n"), ("wide.txt", "a\tb\tc\nd\n")):
        (place / name).write_text(text)
    assert message in " ".join(vbcli(*arguments, cwd=place, status=status).stderr.split())
    assert not (place / "out").exists()
