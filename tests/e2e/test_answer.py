"""Questions as a user asks them: train, answer, evaluate, on a small demo world."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
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
    assert list(found["scores"]) == ["answers", "the question alone", "most frequent answer", "a random training answer"]
    answers = {(v, q): a for v, q, a in rows(f"select video_id, question, answer from '{place}/of-tokens/shard-*.parquet'")}
    truths: dict[tuple[str, str], set[str]] = {}
    for line in (place / "world" / "questions.jsonl").read_text().splitlines():
        row = json.loads(line)
        truths.setdefault((row["video"], row["question"]), set()).add(row["answer"])
    assert found["scores"]["answers"]["exact match"] == pytest.approx(sum(a in truths[k] for k, a in answers.items()) / len(answers))
    assert sum(kind["questions"] for kind in found["kinds"].values()) == len(answers)


def test_a_question_that_was_not_asked_is_no_wrong_answer(place: Path, tmp_path: Path):
    first = rows(f"select video_id from '{place}/of-tokens/shard-*.parquet' limit 1")[0][0]
    more = json.dumps({"video": first, "question": "why?", "answer": "who knows"}) + "\n"
    (tmp_path / "more.jsonl").write_text((place / "world" / "questions.jsonl").read_text() + more)
    for answers in ("of-tokens", "of-table"):
        found, plain = (
            json.loads(vbcli("evaluate", answers, references, "--json", cwd=place).stdout)
            for references in (tmp_path / "more.jsonl", "world/questions.jsonl")
        )
        assert found["scores"]["answers"] == plain["scores"]["answers"]
        assert "1 more questions about these videos that the references ask were not asked" in found["notes"]
    several = vbcli("evaluate", "of-tokens", "tokens", "--also", "table=of-table", "--split", "test", cwd=place).stdout
    assert "table" in several
    assert "Exact match above" in several


def test_a_table_may_name_videos_that_come_later(place: Path, tmp_path: Path):
    first, second = sorted((place / "world" / "videos").glob("*.mp4"))[:2]
    (tmp_path / "videos").mkdir()
    shutil.copy(first, tmp_path / "videos")
    (tmp_path / "asked.csv").write_text(f"video,question\n{first.stem},what color?\n{second.stem},which shape?\n")
    command = ("answer", "videos", "--questions", "asked.csv", "--checkpoint", place / "model", "--out", "out", *SERIAL, "--json")
    assert [row["video_id"] for row in json.loads(vbcli(*command, cwd=tmp_path).stdout)["rows"]] == [first.name]
    shutil.copy(second, tmp_path / "videos")
    later = json.loads(vbcli(*command, cwd=tmp_path).stdout)
    assert {(row["video_id"], row["question"]) for row in later["rows"]} == {(first.name, "what color?"), (second.name, "which shape?")}
    assert (later["n_done"], later["n_skipped"]) == (1, 1)


def test_a_video_that_cannot_be_read_is_told_in_json_too(place: Path, tmp_path: Path):
    video = sorted((place / "world" / "videos").glob("*.mp4"))[0]
    (tmp_path / "videos").mkdir()
    shutil.copy(video, tmp_path / "videos")
    (tmp_path / "videos" / "broken.mp4").write_text("no video")
    command = ("answer", "videos", "what color?", "--checkpoint", place / "model", *SERIAL, "--json")
    found = json.loads(vbcli(*command, cwd=tmp_path, status=3).stdout)
    assert [row["video_id"] for row in found["rows"]] == [video.name]
    assert [failure["video_id"] for failure in found["failures"]] == ["broken.mp4"]


def test_a_question_with_a_word_that_training_questions_never_had_is_not_sure(place: Path):
    video = sorted((place / "world" / "videos").glob("*.mp4"))[0]
    splits = dict(rows(f"select video_id, split from '{place}/tokens/videos/shard-*.parquet'"))
    table = [json.loads(line) for line in (place / "world" / "questions.jsonl").read_text().splitlines()]
    learned = {word.strip("?").lower() for row in table if splits.get(row["video"]) == "train" for word in row["question"].split()}
    kept = json.loads((place / "model" / "config.json").read_text())["question_words"]
    assert kept == sorted(kept)
    assert set(kept) <= learned
    assert {"color", "falls"} <= set(kept)
    assert {"what", "is", "the"} & set(kept) == set()
    likely = ("--choose", "red", "--choose", "blue")
    (known,) = asked(place, str(video), "What COLOR is there that falls?", *likely, "--out", "known")
    assert known["unknown_words"] == []
    (unknown,) = asked(place, str(video), "what color is Grandmother's 2nd hat?", *likely, "--out", "unknown")
    assert (unknown["is_sure"], unknown["unknown_words"]) == (False, ["2nd", "grandmother", "hat"])
    command = ("answer", video, "what color is Grandmother's 2nd hat?", *likely, "--out", "unknown", "--checkpoint", "model", *SERIAL)
    shown = " ".join(vbcli(*command, cwd=place).stdout.split())
    assert f"not sure: {unknown['answer']} (no training question had: 2nd, grandmother, hat)" in shown


def test_a_checkpoint_that_kept_no_words_of_questions_still_answers(place: Path, tmp_path: Path):
    shutil.copytree(place / "model", tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps({k: v for k, v in json.loads(config.read_text()).items() if k != "question_words"}))
    video = sorted((place / "world" / "videos").glob("*.mp4"))[0]
    command = ("answer", video, "a hat?", "--choose", "red", "--choose", "blue", "--checkpoint", "model", *SERIAL, "--json")
    (row,) = json.loads(vbcli(*command, cwd=tmp_path).stdout)["rows"]
    assert row["unknown_words"] == []


def test_a_table_that_lets_nothing_choose_is_refused_and_one_that_asks_nothing_is_not_sure(place: Path, tmp_path: Path):
    video = min((place / "world" / "videos").glob("*.mp4"))
    command = ("answer", video, "--questions", "asked.csv", "--out", "out", "--checkpoint", place / "model", *SERIAL)
    for candidates, named in (("red", "a single answer, 'red'"), ("red|Red", "as the model reads 'red' and 'Red' alike")):
        (tmp_path / "asked.csv").write_text(f"video,question,candidates\n{video.stem},what falls?,a|b\n{video.stem},what?,{candidates}\n")
        said = " ".join(vbcli(*command, cwd=tmp_path, status=1).stderr.split())
        assert "asked.csv, line 3: column 'candidates' names a single answer" in said
        assert named in said
        assert not (tmp_path / "out").exists()
    (tmp_path / "asked.csv").write_text(f"video,question,candidates\n{video.stem},?,red|Red|blue\n")
    assert "(the question names nothing to look for)" in " ".join(vbcli(*command, cwd=tmp_path).stdout.split())
    (row,) = json.loads(vbcli(*command, "--json", cwd=tmp_path).stdout)["rows"]
    assert (row["is_sure"], {c["answer"] for c in row["candidates"]}) == (False, {"red", "blue"})


def test_names_of_a_table_are_those_of_caption_files(place: Path, tmp_path: Path):
    one, other = sorted((place / "world" / "videos").glob("*.mp4"))[:2]
    for target, video in (("a/clip.mp4", one), ("b/clip.mp4", other), ("alone.mp4", one)):
        (tmp_path / "videos" / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(video, tmp_path / "videos" / target)
    command = ("answer", "videos", "--questions", "asked.csv", "--out", "out", "--checkpoint", place / "model", *SERIAL, "--json")
    (tmp_path / "asked.csv").write_text("video,question\nalone,what color?\nclip,what falls?\n")
    said = " ".join(vbcli(*command, cwd=tmp_path, status=1).stderr.split())
    assert "asked.csv, line 3: 'clip' names 2 videos: a/clip.mp4, b/clip.mp4" in said
    assert not (tmp_path / "out").exists()
    (tmp_path / "asked.csv").write_text("video,question\nalone,what color?\na/clip.mp4,\nb/clip.mp4,what falls?\nb/clip.mp4, \nno,what?\n")
    said = vbcli(*command, cwd=tmp_path)
    found = {(row["video_id"], row["question"]) for row in json.loads(said.stdout)["rows"]}
    assert found == {("alone.mp4", "what color?"), ("b/clip.mp4", "what falls?")}
    assert "2 rows of asked.csv have no question and are left out" in said.stderr
    assert "asked.csv names 1 of its videos that are not there, first no" in said.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_folders_whose_names_are_no_utf8_are_answered_about(place: Path, tmp_path: Path):
    video, folder = sorted((place / "world" / "videos").glob("*.mp4"))[0], os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    os.mkdir(folder)
    shutil.copy(video, f"{folder}/clip.mp4")
    command = ("answer", folder, "what color?", "--checkpoint", place / "model", *SERIAL, "--json")
    found = json.loads(vbcli(*command, cwd=tmp_path).stdout)
    assert [row["video_id"] for row in found["rows"]] == ["clip.mp4"]
    (record,) = (tmp_path / found["output_dir"] / "_runs").glob("*.json")
    assert json.loads(record.read_text())["command"][2].endswith("caf%E9")
    said = vbcli(*command, "--out", f"{folder}/answers", cwd=tmp_path, status=1)
    assert "caf%E9/answers cannot hold a dataset: the path is not UTF-8" in " ".join(said.stderr.split())
    assert os.listdir(folder) == ["clip.mp4"]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("answer", "world/videos"), 2, "there is no question"),
        (("answer", "world/videos", " "), 2, "the question is empty"),
        (("answer", "tokens", "what?", "--questions", "asked.csv"), 2, "give one question, or --questions FILE"),
        (("answer", "tokens", "what?", "--choose", "red"), 2, "--choose goes with one question"),
        (("answer", "tokens", "--questions", "world/captions.csv"), 1, "holds no questions"),
        (("answer", "world/videos", "?"), 2, "there is no question in '?'"),
        (("answer", "world/videos", "... !"), 2, "there is no question in '... !'"),
        (("answer", "tokens", "what color?", "--choose", "red", "--choose", "Red."), 2, "'red' and 'Red.', which the model reads alike"),
        (("answer", "features", "what color?"), 1, "is a features dataset"),
        (("train", "vocabless", "out", "--task", "answer"), 1, "vocabless is not a tokens dataset"),
    ],
)
def test_what_cannot_be_answered_is_refused(place: Path, arguments: tuple[str, ...], status: int, message: str):
    extra = () if arguments[0] == "train" else ("--out", "out", "--checkpoint", "model")
    assert message in " ".join(vbcli(*arguments, *extra, cwd=place, status=status).stderr.split())
    assert not (place / "out").exists()
