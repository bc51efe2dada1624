"""Videos in tar files: what is in them against the files, the chain over them, and tar files that are none."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest

from tests.e2e.commands import rows, vbcli
from vbcli import shards
from vbcli.curation.exports import export_dataset
from vbcli.pipeline import RunOptions, extract_videos
from vbcli.stages.extract import Extract
from vbcli.stages.scan import scan_videos
from vbcli.tars import Described, TarVideo, describe, find_in_tar, read_tar

SERIAL = RunOptions("serial")


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


@pytest.fixture
def folder(tmp_path: Path, video_folder: Path) -> Path:
    """As img2dataset's family writes them, beside a video of its own."""
    (tmp_path / "data" / "train").mkdir(parents=True)
    with tarfile.open(tmp_path / "data" / "train" / "00000.tar", "w") as tar:
        add(tar, "000000000.mp4", (video_folder / "a.mp4").read_bytes())
        add(tar, "000000000.txt", b"a picture of bars\n")
        add(tar, "000000000.json", json.dumps({"key": "000000000", "caption": "bars, as JSON has it", "status": "success"}).encode())
        add(tar, "000000001.mkv", (video_folder / "b.mkv").read_bytes())
        add(tar, "000000001.txt", "d\u00e9j\u00e0 vu".encode())
        add(tar, "000000001.srt", b"1\n00:00:00,000 --> 00:00:01,000\nHello.\n")
        add(tar, "000000002.mp4", b"no video")
        add(tar, "000000003.jpg", b"no video, by its name")
        described = {"captions": [{"text": "first", "start_s": 0, "end_s": 1}, {"text": "all of it"}], "labels": ["x", "y"], "split": "val"}
        asked = {"questions": [{"question": "what?", "answers": ["bars", "lines"], "candidates": ["bars", "dots"]}]}
        add(tar, "sub/000000004.mp4", (video_folder / "c.mp4").read_bytes())
        add(
            tar,
            "sub/000000004.json",
            json.dumps({**described, **asked, "transcript": [{"start_s": 0, "end_s": 1, "text": "Hi."}]}).encode(),
        )
    shutil.copy(video_folder / "more" / "d.mp4", tmp_path / "data" / "d.mp4")
    return tmp_path / "data"


def test_videos_are_read_where_they_lie(folder: Path, video_folder: Path, tmp_path: Path) -> None:
    report = extract_videos(folder, tmp_path / "frames", Extract(fps=4, size_px=32), options=SERIAL)
    extract_videos(video_folder, tmp_path / "own", Extract(fps=4, size_px=32), options=SERIAL)
    of_tar = {
        "train/00000/000000000.mp4": "a.mp4",
        "train/00000/000000001.mkv": "b.mkv",
        "train/00000/sub/000000004.mp4": "c.mp4",
        "d.mp4": "more/d.mp4",
    }
    for name, own in of_tar.items():
        mine, theirs = (
            [(row["pts_s"], row["image"]["bytes"]) for row in shards.read_rows(tmp_path / place) if row["video_id"] == video_id]
            for place, video_id in (("frames", name), ("own", own))
        )
        assert mine == theirs != []
    assert report.n_failed == 1
    (failure,) = shards.read_failures(tmp_path / "frames")
    assert failure.video_id == "train/00000/000000002.mp4"
    assert extract_videos(folder, tmp_path / "frames", Extract(fps=4, size_px=32), options=SERIAL).n_done == 0


def test_what_is_said_beside_them_is_their_text(folder: Path, tmp_path: Path) -> None:
    extract_videos(folder, tmp_path / "frames", Extract(size_px=32), options=SERIAL)
    known = {row["video_id"]: row for row in shards.read_rows(tmp_path / "frames" / "videos")}
    first, second = known["train/00000/000000000.mp4"], known["train/00000/000000001.mkv"]
    assert [c["text"] for c in first["captions"]] == ["bars, as JSON has it"]
    assert [c["text"] for c in second["captions"]] == ["d\u00e9j\u00e0 vu"]
    assert second["transcript"] == [{"start_s": 0.0, "end_s": 1.0, "text": "Hello."}]
    rich = known["train/00000/sub/000000004.mp4"]
    assert rich["captions"] == [{"text": "first", "start_s": 0.0, "end_s": 1.0}, {"text": "all of it", "start_s": None, "end_s": None}]
    assert (rich["labels"], rich["split"], rich["transcript"][0]["text"]) == (["x", "y"], "val", "Hi.")
    assert rich["questions"] == [{"question": "what?", "answers": ["bars", "lines"], "candidates": ["bars", "dots"]}]
    # A caption file says more than the tar.
    (tmp_path / "captions.csv").write_text("video,caption\n000000001.mkv,from the table\n")
    extract_videos(folder, tmp_path / "frames", Extract(size_px=32), [tmp_path / "captions.csv"], SERIAL)
    extract_videos(folder, tmp_path / "frames", Extract(size_px=32), options=SERIAL)
    known = {row["video_id"]: row for row in shards.read_rows(tmp_path / "frames" / "videos")}
    assert [c["text"] for c in known["train/00000/000000001.mkv"]["captions"]] == ["from the table"]
    assert known["train/00000/sub/000000004.mp4"]["labels"] == ["x", "y"]


def test_what_was_exported_is_read_back(video_folder: Path, tmp_path: Path) -> None:
    extract_videos(video_folder, tmp_path / "frames", Extract(fps=4, size_px=32), [video_folder / "captions.csv"], SERIAL)
    export_dataset(tmp_path / "frames" / "videos", tmp_path / "wds", "webdataset")
    extract_videos(tmp_path / "wds", tmp_path / "again", Extract(fps=4, size_px=32), options=SERIAL)
    names = ("captions", "labels", "questions", "split", "transcript", "duration_s", "codec")
    before, after = (
        sorted(([row[n] for n in names] for row in shards.read_rows(tmp_path / place / "videos")), key=str) for place in ("frames", "again")
    )
    assert before == after
    pictures = [sorted(row["image"]["bytes"] for row in shards.read_rows(tmp_path / place)) for place in ("frames", "again")]
    assert pictures[0] == pictures[1]


def test_the_rest_of_the_program_takes_them_too(folder: Path, tmp_path: Path) -> None:
    vbcli("encode", folder, "features", "--encoder", "timm:test_convnext/random", "--pool", "mean", cwd=tmp_path, status=3)
    assert rows(f"select count(distinct video_id) from '{tmp_path}/features/shard-*.parquet'") == [(4,)]
    tar = next(folder.rglob("*.tar"))
    vbcli("edit", folder / "d.mp4", "--instruction", "drop the first second", "--out", "cut.mp4", cwd=tmp_path)
    vbcli("extract", tar, "of-one", cwd=tmp_path, status=3)
    assert rows(f"select count(distinct video_id) from '{tmp_path}/of-one/shard-*.parquet'") == [(3,)]


def test_links_in_a_tar_are_passed_over(tmp_path: Path, video_folder: Path) -> None:
    with tarfile.open(tmp_path / "links.tar", "w") as tar:
        link = tarfile.TarInfo("secret.mp4")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        add(tar, "a.mp4", (video_folder / "a.mp4").read_bytes())
    assert [video.name for video in read_tar(tmp_path / "links.tar").videos] == ["a.mp4"]


def test_videos_whose_names_have_dots_are_all_there(tmp_path: Path) -> None:
    path = tmp_path / "parts.tar"
    with tarfile.open(path, "w") as tar:
        for name in ("film.000.mp4", "film.001.mp4", "film.webm"):
            add(tar, name, name.encode())
        add(tar, "film.txt", b"of all of them")
        add(tar, "film.001.TXT", b"its own")
    found = [(video.name, captions_of(video), find_in_tar(path, video.offset) == video) for video in read_tar(path).videos]
    assert found == [
        ("film.000.mp4", ["of all of them"], True),
        ("film.001.mp4", ["its own"], True),
        ("film.webm", ["of all of them"], True),
    ]


def captions_of(video: TarVideo) -> list[str | None]:
    return [row.caption for row in describe(video, "x").rows]


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            add(tar, name, data)
    return path


# ---------------------------------------------------------------- damage


# In a tar file of a.mp4, b.txt and c.mp4, 512 bytes a header and a content each: cut off where, and which videos are left.
@pytest.mark.parametrize(
    ("size", "names"),
    [
        (0, []),
        (100, []),
        (1023, ["a.mp4"]),
        (1024, ["a.mp4"]),
        (1100, ["a.mp4"]),
        (1636, ["a.mp4"]),
        (2500, ["a.mp4"]),
        (2660, ["a.mp4", "c.mp4"]),
        (3000, ["a.mp4", "c.mp4"]),
        (3072, ["a.mp4", "c.mp4"]),
    ],
)
def test_of_a_tar_that_was_cut_off_the_videos_before_are_left(tmp_path: Path, size: int, names: list[str]) -> None:
    path = write_tar(tmp_path / "x.tar", {"a.mp4": b"a" * 512, "b.txt": b"b" * 512, "c.mp4": b"c" * 512})
    path.write_bytes(path.read_bytes()[:size])
    videos, notes = read_tar(path)
    assert [video.name for video in videos] == names
    # A tar file that ends where a member does is one that somebody closed early; all that it names is there.
    assert len(notes) == (size not in (1024, 3072))
    assert all(note.startswith(f"{path} ") and "damaged or compressed" in note for note in notes)


def test_a_header_that_is_none_is_no_end(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", dict.fromkeys(("a.mp4", "b.mp4", "c.mp4"), b"a" * 512))
    data = bytearray(path.read_bytes())
    data[1024:1124] = b"\xff" * 100
    path.write_bytes(data)
    (video,), (note,) = read_tar(path)
    assert video.name == "a.mp4"
    assert (
        note
        == f"{path} is read in part: 1 videos stand before the place where it is damaged or compressed (there is no header at byte 1024)"
    )


def test_what_is_compressed_or_no_tar_is_named(tmp_path: Path) -> None:
    for name, data in (("a.tar", gzip.compress(b"x" * 2000)), ("b.tar", b"no tar" * 200)):
        (tmp_path / name).write_bytes(data)
        videos, (note,) = read_tar(tmp_path / name)
        assert videos == []
        assert note.startswith(f"{tmp_path / name} cannot be read as a tar file: it is damaged or compressed (")
    assert read_tar(tmp_path / "none.tar") == ([], [f"{tmp_path}/none.tar cannot be read: No such file or directory"])


def test_a_size_below_nothing_does_not_go_round_for_ever(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {"a.mp4": b"a" * 512, "b.mp4": b"b" * 512})
    data = bytearray(path.read_bytes())
    # Numbers of base 256: all ones is minus one. Then the sum over the header, whose own place counts as spaces.
    data[1024 + 124 : 1024 + 136] = b"\xff" * 10 + b"\xfc\x00"
    data[1024 + 148 : 1024 + 156] = b" " * 8
    data[1024 + 148 : 1024 + 156] = b"%06o\0 " % sum(data[1024:1536])
    path.write_bytes(data)
    (video,), (note,) = read_tar(path)
    assert (video.name, "a size is negative" in note) == ("a.mp4", True)


def test_of_a_video_that_was_added_again_the_last_is_taken(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {"a.mp4": b"old", "b.mp4": b"b"})
    with tarfile.open(path, "a") as tar:
        add(tar, "./a.mp4", b"newer")
    videos, notes = read_tar(path)
    assert [(video.name, video.size) for video in videos] == [("a.mp4", 5), ("b.mp4", 1)]
    assert notes == [f"{path} holds 1 videos again under the same name, first a.mp4: the last is taken, as by unpacking"]


# ---------------------------------------------------------------- names


def test_names_are_text_and_lead_nowhere_else(tmp_path: Path) -> None:
    names = {
        "./0.mp4": "0.mp4",
        "/data/1.mp4": "data/1.mp4",
        "../../2.mp4": "2.mp4",
        "s/.././3.mp4": "3.mp4",
        "d\udce9j\udce0.mp4": "d%E9j%E0.mp4",
        "d\u00e9j\u00e0.mp4": "d\u00e9j\u00e0.mp4",
    }
    hidden = ("._0.mp4", ".git/4.mp4", "s/.5.mp4")
    path = write_tar(tmp_path / "x.tar", dict.fromkeys((*names, *hidden), b"x"))
    assert [video.name for video in read_tar(path).videos] == list(names.values())


def test_a_video_whose_name_is_latin_is_extracted_with_what_is_said_of_it(tmp_path: Path, video_folder: Path) -> None:
    (tmp_path / "data").mkdir()
    members = {"d\udce9j\udce0.mp4": (video_folder / "a.mp4").read_bytes(), "d\udce9j\udce0.txt": b"said"}
    write_tar(tmp_path / "data" / "x.tar", members)
    extract_videos(tmp_path / "data", tmp_path / "frames", Extract(size_px=32), options=SERIAL)
    (video,) = shards.read_rows(tmp_path / "frames" / "videos")
    assert (video["video_id"], video["captions"][0]["text"]) == ("x/d%E9j%E0.mp4", "said")
    assert {row["video_id"] for row in shards.read_rows(tmp_path / "frames")} == {"x/d%E9j%E0.mp4"}


# ---------------------------------------------------------------- what is said


def described(tmp_path: Path, said: object) -> Described:
    data = said if isinstance(said, bytes) else json.dumps(said).encode()
    (video,) = read_tar(write_tar(tmp_path / "x.tar", {"0.mp4": b"x", "0.json": data})).videos
    return describe(video, "x/0.mp4")


def test_one_value_is_a_list_of_one(tmp_path: Path) -> None:
    rows = described(tmp_path, {"captions": "a man", "labels": "dog", "questions": {"question": "what?", "answers": "this"}}).rows
    assert [row.caption for row in rows if row.caption] == ["a man"]
    assert [row.label for row in rows if row.label] == ["dog"]
    assert [(row.question, row.answer) for row in rows if row.question] == [("what?", "this")]
    rows = described(tmp_path, {"caption": ["one", {"text": "two", "start_s": 0, "end_s": 1.5}], "label": 3, "category": "x"}).rows
    assert [(row.caption, row.end_s) for row in rows if row.caption] == [("one", None), ("two", 1.5)]
    assert [row.label for row in rows if row.label] == ["3", "x"]
    assert [row.caption for row in described(tmp_path, {"captions": [], "caption": "", "text": "third"}).rows] == ["third"]


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ({"labels": [["dog"]]}, "field 'labels' is not text but list"),
        ({"captions": [{"sentence": "a man"}]}, "field 'captions' has an object without a text"),
        ({"captions": [{"text": "a man", "start_s": 1}]}, "field 'end_s' is empty where 'start_s' is given"),
        ({"caption": True}, "field 'caption' is not text but bool"),
        ({"text": {"a": 1}}, "field 'text' has an object without a text"),
        ({"label": {"id": 3}}, "field 'label' is not text but dict"),
        ({"split": ["train"]}, "field 'split' is not text but list"),
        ({"questions": ["what?"]}, "field 'questions' has str where an object with a question and its answers belongs"),
        ({"questions": [{"question": "what?", "answers": [{}]}]}, "field 'answer' is not text but dict"),
        ({"questions": [{"question": "what?", "candidates": 5}]}, "field 'candidates' is not a list but int"),
    ],
)
def test_a_wrong_value_costs_its_field_and_is_named(tmp_path: Path, said: dict[str, object], problem: str) -> None:
    rows, problems = described(tmp_path, {"split": "val", "key": "0", "category": "kept", **said})
    assert problems == [f"{tmp_path}/x.tar/0.json, entry 1: {problem}"]
    assert [row.split for row in rows if row.split] == [] if "split" in said else ["val"]
    assert [row.label for row in rows if row.label] == [] if "label" in problem else ["kept"]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"{", "x.tar/0.json is not valid JSON: "),
        (b'{"caption": "\xe9"}', "x.tar/0.json is not valid JSON: 'utf-8' codec"),
        (b"[1]", "x.tar/0.json is no JSON object but list"),
        (b"[" * 100_000, "x.tar/0.json is not valid JSON: "),
    ],
)
def test_a_description_that_is_none_is_named(tmp_path: Path, data: bytes, problem: str) -> None:
    rows, (found,) = described(tmp_path, data)
    assert (rows, problem in found) == ([], True)


def test_half_a_character_is_replaced_and_told(tmp_path: Path) -> None:
    (row,), problems = described(tmp_path, b'{"caption": "cut \\ud83d", "key": "\\ud83d\\ude00"}')
    assert row.caption == "cut \ufffd"
    assert problems == [f"{tmp_path}/x.tar/0.json has halves of characters, which become U+FFFD"]
    (row,), problems = described(tmp_path, b'{"caption": "whole \\ud83d\\ude00"}')
    assert (row.caption, problems) == ("whole \U0001f600", [])


def test_a_text_that_is_no_utf8_is_no_caption(tmp_path: Path) -> None:
    one, other = read_tar(
        write_tar(tmp_path / "x.tar", {"0.mp4": b"x", "0.txt": b"\xef\xbb\xbfmarked", "1.mp4": b"x", "1.txt": b"d\xe9j\xe0"})
    ).videos
    assert captions_of(one) == ["marked"]
    assert describe(other, "x") == ([], [f"{tmp_path}/x.tar/1.txt is not UTF-8, and no caption"])


def test_one_wrong_description_does_not_stop_the_others(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    members = {f"{i}.json": json.dumps({"captions": i if i else {}, "split": "val"}).encode() for i in range(3)}
    write_tar(tmp_path / "data" / "x.tar", {**{f"{i}.mp4": b"x" for i in range(3)}, **members})
    scan = scan_videos(tmp_path / "data", tmp_path / "out")
    place = f"{tmp_path}/data/x.tar/0.json, entry 1"
    assert scan.notes == [f"1 texts in tar files are not used as they are, first {place}: field 'captions' has an object without a text"]
    table = scan.inputs[0].source
    assert not isinstance(table, Path)
    assert [[c["text"] for c in row["captions"]] for row in table.to_pylist()] == [[], ["1"], ["2"]]
    assert {row["split"] for row in table.to_pylist()} == {"val"}


# ---------------------------------------------------------------- subtitles

CUE = "00:00:00,000 --> 00:00:01,000"
ASS = b"""[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
Dialogue: 0,0:00:00.00,0:00:01.00,D,,0,0,0,,One.
"""
WHISPER = {"text": "Hi there.", "segments": [{"start": 0.5, "end": 1.0, "text": " Hi there."}]}


def spoken(tmp_path: Path, members: dict[str, bytes]) -> tuple[list[tuple[float, str]], list[str], list[str]]:
    """The transcript of the video in a tar file, its captions, and the notes of a scan."""
    (tmp_path / "data").mkdir()
    write_tar(tmp_path / "data" / "x.tar", {"0.mp4": b"x", **members})
    scan = scan_videos(tmp_path / "data", tmp_path / "out")
    table = scan.inputs[0].source
    assert not isinstance(table, Path)
    (row,) = table.to_pylist()
    return [(s["start_s"], s["text"]) for s in row["transcript"]], [c["text"] for c in row["captions"]], scan.notes


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("0.srt", f"1\n{CUE}\nd\u00e9j\u00e0 vu\n".encode("cp1252"), "d\u00e9j\u00e0 vu"),
        ("0.VTT", b"\xef\xbb\xbfWEBVTT\n\n00:00.000 --> 00:01.000\nOne.\n\nNOTE no text\n", "One."),
        ("0.en.vtt", b"WEBVTT\n\n00:00.000 --> 00:01.000\nOne.\n", "One."),
        ("0.ass", ASS, "One."),
        ("0.json3", json.dumps({"events": [{"tStartMs": 0, "dDurationMs": 1000, "segs": [{"utf8": "One."}]}]}).encode(), "One."),
    ],
)
def test_subtitles_follow_the_rules_for_those_beside_files(tmp_path: Path, name: str, data: bytes, expected: str) -> None:
    found, captions, notes = spoken(tmp_path, {name: data})
    assert (found, captions) == ([(0.0, expected)], [])
    # A guess at the letters is told.
    assert ["Windows-1252" in note for note in notes] == [True] * (name == "0.srt")


def test_what_was_recognised_is_a_transcript_and_no_description(tmp_path: Path) -> None:
    assert spoken(tmp_path, {"0.json": json.dumps(WHISPER).encode()}) == ([(0.5, "Hi there.")], [], [])


def test_a_description_beside_subtitles_is_one(tmp_path: Path) -> None:
    members = {"0.json": b'{"caption": "a man"}', "0.en.json": json.dumps(WHISPER).encode()}
    assert spoken(tmp_path, members) == ([(0.5, "Hi there.")], ["a man"], [])


def test_repairs_are_counted(tmp_path: Path) -> None:
    found, _, notes = spoken(tmp_path, {"0.srt": f"1\n{CUE}\nOne.\n\n2\n{CUE}\n\n0 --> z\nTwo.\n".encode()})
    assert found == [(0.0, "One.")]
    assert notes == [
        f"1 transcripts were mended, first {tmp_path}/data/x.tar/0.srt: 1 empty cues left out, 1 cues with unusable times left out"
    ]


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        ({"0.srt": b"no subtitles"}, "0.srt holds no readable subtitle"),
        ({"0.json": b'{"transcript": "a man speaks"}'}, "0.json, entry 1: field 'transcript' is no list of start_s, end_s and text"),
        ({"0.json": b'{"transcript": [{"start_s": 2, "end_s": 1, "text": "x"}]}'}, "0.json, entry 1: field 'transcript' is no list"),
    ],
)
def test_a_transcript_that_cannot_be_read_is_named(tmp_path: Path, members: dict[str, bytes], problem: str) -> None:
    found, _, (note,) = spoken(tmp_path, members)
    assert found == []
    assert note.startswith(f"1 transcripts in tar files cannot be read, first {tmp_path}/data/x.tar/{problem}")
