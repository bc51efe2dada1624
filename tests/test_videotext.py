"""The text of videos: which of what caption files, tar files and subtitles say is theirs, and what stays from one run to the next."""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from vbcli import shards
from vbcli.errors import VbcliError
from vbcli.executors import SerialExecutor
from vbcli.runner import run_stage
from vbcli.schemas import VIDEOS
from vbcli.stages.scan import Probe, Scan, scan_videos


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six files that pass for videos as long as nobody opens them."""
    root = tmp_path / "videos"
    for name in ("b.mp4", "a/z.MKV", "a/y.avi", "a.mp4", "c d.webm", "B.mp4"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def rows_of(scanned: Scan) -> list[list[dict[str, Any]]]:
    groups = []
    for planned in scanned.inputs:
        table = planned.source
        assert not isinstance(table, Path)
        assert table.schema.equals(VIDEOS)
        groups.append(table.to_pylist())
    return groups


def test_captions_and_subtitles_are_joined(video_folder: Path, tmp_path: Path) -> None:
    scanned = scan_videos(video_folder, tmp_path / "out", [video_folder / "captions.csv"])
    rows = {row["video_id"]: row for row in rows_of(scanned)[0]}
    assert rows["a.mp4"]["captions"] == [{"text": "A picture of bars.", "start_s": None, "end_s": None}]
    assert rows["a.mp4"]["transcript"] == [{"start_s": 0.0, "end_s": 0.8, "text": "The bars move."}]
    assert {v: (row["split"], len(row["captions"]), len(row["transcript"])) for v, row in rows.items()} == {
        "a.mp4": ("train", 1, 1),
        "b.mkv": ("val", 1, 0),
        "c.mp4": (None, 0, 0),
        "more/d.mp4": ("train", 1, 0),
    }


def test_captions_stay_when_the_command_is_repeated_without_them(video_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    given_once = scan_videos(video_folder, out, [video_folder / "captions.csv"])
    run_stage(Probe(), given_once.inputs, out / "videos", SerialExecutor())
    assert scan_videos(video_folder, out).inputs[0].digest == given_once.inputs[0].digest
    (tmp_path / "other.csv").write_text("video,caption\nc,Other words.\nnobody,Nothing.\n")
    other = scan_videos(video_folder, out, [tmp_path / "other.csv"])
    assert [[c["text"] for c in row["captions"]] for row in rows_of(other)[0]] == [[], [], ["Other words."], []]
    assert other.notes == [f"{tmp_path}/other.csv names 1 videos that are not in {video_folder}, first 'nobody'"]


def test_captions_of_other_videos_are_refused_before_anything_is_written(video_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "captions.csv").write_text("video,caption\nx.mp4,Nothing here.\n")
    with pytest.raises(VbcliError, match=r"captions\.csv names none of the 4 videos") as caught:
        scan_videos(video_folder, tmp_path / "out", [tmp_path / "captions.csv"])
    assert caught.value.hint == "a video here is called 'a.mp4'"
    assert not (tmp_path / "out").exists()


def test_subtitles_that_cannot_be_read_cost_the_transcript_alone(folder: Path, tmp_path: Path) -> None:
    (folder / "a.srt").write_bytes(b"\x00\x01\x02 no subtitles")
    (folder / "b.en.vtt").write_text("WEBVTT\n\n00:01.000 --> 00:02.000\nHello.\n")
    scanned = scan_videos(folder, tmp_path / "out")
    transcripts = {row["video_id"]: row["transcript"] for row in rows_of(scanned)[0]}
    assert transcripts.pop("b.mp4") == [{"start_s": 1.0, "end_s": 2.0, "text": "Hello."}]
    assert set(map(len, transcripts.values())) == {0}
    (note,) = scanned.notes
    assert str(folder / "a.srt") in note


def test_captions_with_halves_of_characters_are_mended_and_told(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text(
        '{"video": "a.mp4", "caption": "Nice \\ud83d"}\n{"video": "b.mp4", "caption": "Nice \\ud83d\\ude00"}\n'
    )
    scanned = scan_videos(folder, tmp_path / "out", [tmp_path / "c.jsonl"])
    captions = {row["video_id"]: row["captions"] for row in rows_of(scanned)[0]}
    assert [captions[name][0]["text"] for name in ("a.mp4", "b.mp4")] == ["Nice \ufffd", "Nice \U0001f600"]
    assert scanned.notes == [f"{tmp_path}/c.jsonl holds 1 captions with damaged characters, first of 'a.mp4'"]


def said(scanned: Scan) -> dict[str, list[str]]:
    return {row["video_id"]: [segment["text"] for segment in row["transcript"]] for rows in rows_of(scanned) for row in rows}


def write_cue(path: Path, text: str) -> None:
    path.write_text(f"1\n00:00:00,000 --> 00:00:01,000\n{text}\n")


def test_the_next_subtitles_are_read_where_the_first_cannot_be(folder: Path, tmp_path: Path) -> None:
    (folder / "a.srt").write_text("no subtitles")
    (folder / "a.json3").write_text("{")
    write_cue(folder / "a.en.srt", "Hello.")
    (folder / "b.json").write_text('{"events": []}')
    write_cue(folder / "b.en.srt", "There.")
    write_cue(tmp_path / "secret.srt", "Secret.")
    (folder / "B.srt").symlink_to(tmp_path / "secret.srt")
    write_cue(folder / "B.en.srt", "Open.")
    scanned = scan_videos(folder, tmp_path / "out")
    assert {name: texts for name, texts in said(scanned).items() if texts} == {"a.mp4": ["Hello."], "b.mp4": ["There."], "B.mp4": ["Open."]}
    assert [note.partition(" ")[0] for note in scanned.notes] == [str(folder / name) for name in ("B.srt", "a.srt", "a.json3")]
    assert [note.rpartition("; ")[2] for note in scanned.notes] == [f"{name}.en.srt is read instead" for name in ("B", "a", "a")]


def test_subtitles_in_several_languages_are_told_and_chosen(folder: Path, tmp_path: Path) -> None:
    write_cue(folder / "a.de.srt", "Hallo.")
    write_cue(folder / "a.en.srt", "Hello.")
    write_cue(folder / "b.de.srt", "Da.")
    unasked = scan_videos(folder, tmp_path / "out")
    assert {name: texts for name, texts in said(unasked).items() if texts} == {"a.mp4": ["Hallo."], "b.mp4": ["Da."]}
    (note,) = unasked.notes
    assert note.startswith(f"1 videos have subtitles in several languages, first {folder}/a.de.srt was read")
    english = scan_videos(folder, tmp_path / "out", language="en")
    assert {name: texts for name, texts in said(english).items() if texts} == {"a.mp4": ["Hello."]}
    assert english.notes == [f"1 videos have subtitles in other languages than en alone, first {folder}/b.de.srt"]
    german = scan_videos(folder, tmp_path / "out", language="de")
    assert (said(german), german.notes) == (said(unasked), [])


def test_subtitles_of_names_outside_utf8_are_found(tmp_path: Path) -> None:
    root = os.fsencode(tmp_path / "videos")
    os.mkdir(root)
    for name in (b"\xff.mp4", b"\xff.srt"):
        with open(os.path.join(root, name), "wb") as file:
            file.write(b"1\n00:00:00,000 --> 00:00:01,000\nHello.\n")
    (row,) = rows_of(scan_videos(tmp_path / "videos", tmp_path / "out"))[0]
    assert (row["video_id"], row["transcript"][0]["text"]) == ("%FF.mp4", "Hello.")


# ---------------------------------------------------------------- what stays, and what is replaced


def texts_of(scanned: Scan) -> dict[str, dict[str, Any]]:
    """Captions, labels and split of each video that has any."""
    found = {
        row["video_id"]: {"captions": [c["text"] for c in row["captions"]], "labels": row["labels"], "split": row["split"]}
        for rows in rows_of(scanned)
        for row in rows
    }
    return {video_id: text for video_id, text in found.items() if any(text.values())}


def write_tar(path: Path, said: dict[str, dict[str, Any]]) -> None:
    with tarfile.open(path, "w") as tar:
        for key, description in said.items():
            for name, data in ((f"{key}.mp4", key.encode()), (f"{key}.json", json.dumps(description).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def captions_file(path: Path, *lines: str) -> list[Path]:
    path.write_text("\n".join(lines) + "\n")
    return [path]


def run(folder: Path, out: Path, captions: Sequence[Path] = ()) -> dict[str, dict[str, Any]]:
    """A scan and its probing, as a command does them; what is said of the videos then."""
    scanned = scan_videos(folder, out, captions)
    run_stage(Probe(), scanned.inputs, out / "videos", SerialExecutor())
    rows = [row for path in shards.list_shards(out / "videos") for row in shards.read_shard(path).to_pylist()]
    planned = [row for group in rows_of(scanned) for row in group]
    assert [row["captions"] for row in rows] == [row["captions"] for row in planned]
    return texts_of(scanned)


def test_a_caption_file_replaces_of_what_a_tar_says_the_columns_that_it_has(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    write_tar(tmp_path / "videos" / "x.tar", {"0": {"captions": ["a man"], "labels": ["dog"], "split": "train"}, "1": {"caption": "b"}})
    splits = captions_file(tmp_path / "splits.csv", "video,split", "0,test", "1,val")
    expected = {
        "x/0.mp4": {"captions": ["a man"], "labels": ["dog"], "split": "test"},
        "x/1.mp4": {"captions": ["b"], "labels": [], "split": "val"},
    }
    assert run(tmp_path / "videos", tmp_path / "out", splits) == expected
    assert run(tmp_path / "videos", tmp_path / "out") == expected


def test_what_a_tar_says_is_read_anew_and_what_was_given_stays(tmp_path: Path) -> None:
    folder, out = tmp_path / "videos", tmp_path / "out"
    folder.mkdir()
    write_tar(folder / "x.tar", {"0": {"caption": "first", "label": "dog"}, "1": {"caption": "old"}, "2": {"caption": "old"}})
    given = captions_file(tmp_path / "c.csv", "video,caption,split", "1,given,val")
    run(folder, out, given)
    write_tar(folder / "x.tar", {"0": {"caption": "second"}, "1": {"caption": "newer"}, "2": {}})
    assert run(folder, out) == {
        "x/0.mp4": {"captions": ["second"], "labels": [], "split": None},
        "x/1.mp4": {"captions": ["given"], "labels": [], "split": "val"},
    }
    # Another caption file takes the first one's place, and what the tar says shows again.
    other = captions_file(tmp_path / "d.csv", "video,label", "0,cat")
    assert run(folder, out, other) == {
        "x/0.mp4": {"captions": ["second"], "labels": ["cat"], "split": None},
        "x/1.mp4": {"captions": ["newer"], "labels": [], "split": None},
    }


def test_what_was_given_outlasts_a_run_that_was_killed_before_it_was_written(folder: Path, tmp_path: Path) -> None:
    given = captions_file(tmp_path / "c.csv", "video,caption", "b.mp4,said")
    expected = texts_of(scan_videos(folder, tmp_path / "out", given))
    assert texts_of(scan_videos(folder, tmp_path / "out")) == expected != {}
    scan_videos(folder, tmp_path / "dry", given, is_dry=True)
    assert not (tmp_path / "dry").exists()


def test_a_video_that_was_moved_has_the_captions_of_its_name(tmp_path: Path) -> None:
    folder, out = tmp_path / "videos", tmp_path / "out"
    for name in ("a.mp4", "x/b.mp4", "x/c.mp4"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    given = captions_file(tmp_path / "c.csv", "video,caption", "a.mp4,of a", "b.mp4,of b", "x/c.mp4,of c")
    before = run(folder, out, given)
    for name in ("sub", "y"):
        (folder / name).mkdir()
    (folder / "a.mp4").rename(folder / "sub" / "a.mp4")
    (folder / "x" / "b.mp4").rename(folder / "y" / "b.mp4")
    moved = scan_videos(folder, out, given)
    found = {video_id: text["captions"] for video_id, text in texts_of(moved).items()}
    # What was made of those that are gone stays, and with it what was said of them.
    assert found == {
        **{video_id: text["captions"] for video_id, text in before.items()},
        "sub/a.mp4": ["of a"],
        "y/b.mp4": ["of b"],
    }
    assert moved.inputs[0].digest == scan_videos(folder, out).inputs[0].digest


def test_of_two_caption_files_the_one_with_the_mistake_is_named(folder: Path, tmp_path: Path) -> None:
    one = captions_file(tmp_path / "one.csv", "video,split", "b.mp4,train", "a.mp4,val")
    two = captions_file(tmp_path / "two.jsonl", '{"video": "y.avi"}', '{"video": "a.mp4", "split": "train"}')
    message = f"{tmp_path}/two.jsonl, line 2: video 'a.mp4' is in split 'train', but in 'val' in {tmp_path}/one.csv"
    with pytest.raises(VbcliError, match=f"^{re.escape(message)}$"):
        scan_videos(folder, tmp_path / "out", [*one, *two])
    (folder / "a" / "z.mp4").write_text("")
    three = captions_file(tmp_path / "three.csv", "video,caption", "z,which?")
    with pytest.raises(VbcliError, match=re.escape(f"{tmp_path}/three.csv, line 2: 'z' names 2 videos")):
        scan_videos(folder, tmp_path / "out", [*three, *one])


def test_a_record_of_captions_that_is_damaged_is_named(folder: Path, tmp_path: Path) -> None:
    scan_videos(folder, tmp_path / "out", captions_file(tmp_path / "c.csv", "video,caption", "b.mp4,said"))
    path = tmp_path / "out" / "_plan" / "given.jsonl"
    for data in (b"{", b"[]\n", b'{"video_id": "b.mp4"}\n', b"\xff"):
        path.write_bytes(data)
        with pytest.raises(VbcliError, match=f"{path} cannot be read") as caught:
            scan_videos(folder, tmp_path / "out")
        assert caught.value.hint == "remove it, and give the caption files again with --captions"
