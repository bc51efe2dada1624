"""Questions as a user asks them: train, answer, evaluate, on a small demo world."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from tests.e2e.commands import rows, vbcli

N_VIDEOS = 20
ENCODER = ("--encoder", "timm:test_convnext/random")
SERIAL = ("--executor", "serial")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("answer")
    vbcli("demo-data", "world", "--n-videos", str(N_VIDEOS), cwd=folder)
    both = ("--captions", "world/captions.csv", "--captions", "world/questions.jsonl")
    vbcli("encode", "world/videos", "features", *both, *ENCODER, *SERIAL, cwd=folder)
    vbcli("build-vocab", "features", "vocab", cwd=folder)
    vbcli("tokenize", "features", "tokens", "--vocab", "vocab", *SERIAL, cwd=folder)
    vbcli("train", "tokens", "model", "--task", "answer", "--max-steps", "40", cwd=folder)
    return folder


def asked(place: Path, *arguments: str) -> list[dict]:
    return json.loads(vbcli("answer", *arguments, "--checkpoint", "model", *SERIAL, "--json", cwd=place).stdout)["rows"]


def test_one_question_of_one_video(place: Path):
    video = sorted((place / "world" / "videos").glob("*.mp4"))[0]
    (row,) = asked(place, str(video), "what color is the thing that falls?", "--out", "one")
    assert (row["video_id"], row["question"]) == (video.name, "what color is the thing that falls?")
    assert row["candidates"] == []
    assert 0 < row["probability"] <= 1
    (chosen,) = asked(place, str(video), "what color?", "--choose", "red", "--choose", "blue", "--choose", "green", "--out", "chosen")
    assert {c["answer"] for c in chosen["candidates"]} == {"red", "blue", "green"}
    assert sum(c["probability"] for c in chosen["candidates"]) == pytest.approx(1)
    assert chosen["answer"] == max(chosen["candidates"], key=lambda c: c["probability"])["answer"]


def test_questions_of_a_dataset_and_of_a_table_get_the_same_answers(place: Path):
    of_tokens = {(r["video_id"], r["question"]): r["answer"] for r in asked(place, "tokens", "--split", "test", "--out", "of-tokens")}
    table = [json.loads(line) for line in (place / "world" / "questions.jsonl").read_text().splitlines()]
    names = {video for video, _ in of_tokens}
    with (place / "asked.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["video", "question"])
        writer.writerows([r["video"].removesuffix(".mp4"), r["question"]] for r in table if r["video"] in names)
    of_table = {
        (r["video_id"], r["question"]): r["answer"] for r in asked(place, "world/videos", "--questions", "asked.csv", "--out", "of-table")
    }
    assert of_table == of_tokens
    assert len(of_tokens) == len({(r["video"], r["question"]) for r in table if r["video"] in names})


def test_answers_tell_the_part_that_they_rest_on(place: Path):
    found = asked(place, "tokens", "--split", "test", "--out", "rests", "--evidence")
    spans = {v: (a, b) for v, a, b in rows(f"select video_id, min(start_s), max(end_s) from '{place}/tokens/shard-*.parquet' group by 1")}
    for row in found:
        start_s, end_s = spans[row["video_id"]]
        assert start_s <= row["evidence_start_s"] < row["evidence_end_s"] <= end_s
    assert [row["answer"] for row in found] == [row["answer"] for row in asked(place, "tokens", "--split", "test", "--out", "of-tokens")]
    table = vbcli("answer", "tokens", "--split", "test", "--out", "rests", "--evidence", "--checkpoint", "model", *SERIAL, cwd=place).stdout
    assert "rests on" in table
    assert f"{found[0]['evidence_start_s']:.1f} to {found[0]['evidence_end_s']:.1f} s" in table


def test_answers_are_scored_beside_what_the_question_suggests(place: Path):
    found = json.loads(vbcli("evaluate", "of-tokens", "tokens", "--json", cwd=place).stdout)
    assert list(found["scores"]) == ["answers", "the question alone", "most frequent answer"]
    answers = {(v, q): a for v, q, a in rows(f"select video_id, question, answer from '{place}/of-tokens/shard-*.parquet'")}
    truths: dict[tuple[str, str], set[str]] = {}
    for line in (place / "world" / "questions.jsonl").read_text().splitlines():
        row = json.loads(line)
        truths.setdefault((row["video"], row["question"]), set()).add(row["answer"])
    assert found["scores"]["answers"]["exact match"] == pytest.approx(sum(a in truths[k] for k, a in answers.items()) / len(answers))
    assert sum(kind["questions"] for kind in found["kinds"].values()) == len(answers)


def test_a_video_that_cannot_be_read_is_told_in_json_too(place: Path, tmp_path: Path):
    video = sorted((place / "world" / "videos").glob("*.mp4"))[0]
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / video.name).symlink_to(video)
    (tmp_path / "videos" / "broken.mp4").write_text("no video")
    command = ("answer", "videos", "what color?", "--checkpoint", place / "model", *SERIAL, "--json")
    found = json.loads(vbcli(*command, cwd=tmp_path, status=3).stdout)
    assert [row["video_id"] for row in found["rows"]] == [video.name]
    assert [failure["video_id"] for failure in found["failures"]] == ["broken.mp4"]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("answer", "world/videos"), 2, "there is no question"),
        (("answer", "world/videos", " "), 2, "the question is empty"),
        (("answer", "tokens", "what?", "--questions", "asked.csv"), 2, "give one question, or --questions FILE"),
        (("answer", "tokens", "what?", "--choose", "red"), 2, "--choose goes with one question"),
        (("answer", "tokens", "--questions", "world/captions.csv"), 1, "holds no questions"),
        (("answer", "features", "what?"), 1, "is a features dataset"),
        (("train", "vocabless", "out", "--task", "answer"), 1, "vocabless is not a tokens dataset"),
    ],
)
def test_what_cannot_be_answered_is_refused(place: Path, arguments: tuple[str, ...], status: int, message: str):
    extra = () if arguments[0] == "train" else ("--out", "out", "--checkpoint", "model")
    assert message in " ".join(vbcli(*arguments, *extra, cwd=place, status=status).stderr.split())
    assert not (place / "out").exists()
