"""Caption files: the same table in every format, pandas as reference, messages, and names matched by brute force."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path, PurePosixPath

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbcli.errors import VbcliError
from vbcli.text.captionfiles import CaptionRow, VideoText, match_rows, read_caption_file

CLIPS_DIR = Path(__file__).parents[2] / "../shared/data/clips"
YOUCOOK2 = Path(__file__).parents[2] / "../shared/data/text/youcook2_annotations_trainval.json"

TABLE = pd.DataFrame(
    {
        "video": ["a b.mp4", "sub/c.mp4", "é.mp4"],
        "caption": ["A man\nwaves, twice.", 'She says "hi".', None],
        "start_s": [0.5, None, None],
        "end_s": [2.25, None, None],
        "split": ["train", "val", None],
        "category": ["Food", "Sport", "Food"],
        "question": [None, "What colour?", "Who?"],
        "answer": [None, "red", None],
        "candidates": [None, ["red", "blue"], None],
        "note": [1, 2, 3],
    }
)
EXPECTED = [
    CaptionRow("a b.mp4", "A man\nwaves, twice.", 0.5, 2.25, "train", "Food", None, None, None, 1),
    CaptionRow("sub/c.mp4", 'She says "hi".', None, None, "val", "Sport", "What colour?", "red", ("red", "blue"), 2),
    CaptionRow("é.mp4", None, None, None, None, "Food", "Who?", None, None, 3),
]


def row(video: str, line: int = 1, **values: object) -> CaptionRow:
    empty = {f.name: None for f in dataclasses.fields(CaptionRow)}
    return CaptionRow(**{**empty, "video": video, "line": line, **values})  # type: ignore[arg-type]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def numbered(rows: list[CaptionRow]) -> list[CaptionRow]:
    return [dataclasses.replace(r, line=i) for i, r in enumerate(rows, start=1)]


@pytest.mark.parametrize(("suffix", "separator"), [(".csv", ","), (".tsv", "\t"), (".CSV", ",")])
@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_tables_written_by_pandas(tmp_path: Path, suffix: str, separator: str, as_json: bool, encoding: str) -> None:
    path = tmp_path / f"captions{suffix}"
    join = json.dumps if as_json else " | ".join
    table = TABLE.assign(candidates=[join(c) if isinstance(c, list) else None for c in TABLE["candidates"]])
    table.to_csv(path, sep=separator, index=False, encoding=encoding, lineterminator="\r\n")
    rows = read_caption_file(path)
    assert numbered(rows) == EXPECTED
    assert [r.line for r in rows] == [2, 4, 5]  # the first caption takes two lines


def test_jsonl_and_parquet_written_by_pandas(tmp_path: Path) -> None:
    TABLE.to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    TABLE.to_parquet(tmp_path / "a.parquet")
    assert read_caption_file(tmp_path / "a.jsonl") == EXPECTED
    assert read_caption_file(tmp_path / "a.parquet") == EXPECTED


def test_other_columns_and_other_types(tmp_path: Path) -> None:
    pd.DataFrame({"video": [7, 8], "label": [3.0, None], "category": ["x", "y"]}).to_parquet(tmp_path / "a.parquet")
    assert [(r.video, r.label) for r in read_caption_file(tmp_path / "a.parquet")] == [("7", "3"), ("8", "y")]


def test_msrvtt(tmp_path: Path) -> None:
    content = {
        "info": {"year": "2016"},
        "videos": [
            {"category": 9, "url": "u", "video_id": "video0", "start time": 1.5, "split": "train", "id": 0},
            {"category": 16, "url": "u", "video_id": "video1", "start time": 2.5, "split": "test", "id": 1},
        ],
        "sentences": [
            {"caption": "a car is shown", "video_id": "video0", "sen_id": 0},
            {"caption": "a man drives", "video_id": "video0", "sen_id": 1},
        ],
    }
    rows = read_caption_file(write(tmp_path / "train_val.json", json.dumps(content)))
    assert rows == [
        row("video0", 1, caption="a car is shown", split="train", label="9"),
        row("video0", 2, caption="a man drives", split="train", label="9"),
        row("video1", 2, split="test", label="16"),
    ]
    texts, unmatched = match_rows(rows, ["TrainValVideo/video0.mp4", "TrainValVideo/video1.mp4"], "train_val.json")
    captions: list[tuple[str, float | None, float | None]] = [("a car is shown", None, None), ("a man drives", None, None)]
    assert texts == {
        "TrainValVideo/video0.mp4": VideoText(captions, ["9"], [], "train"),
        "TrainValVideo/video1.mp4": VideoText([], ["16"], [], "test"),
    }
    assert unmatched == []


def test_coco(tmp_path: Path) -> None:
    content = {
        "images": [{"id": 4, "file_name": "four.mp4"}, {"id": 5, "file_name": "five.mp4"}],
        "annotations": [
            {"image_id": 5, "id": 1, "caption": "five one "},
            {"image_id": 4, "id": 2, "caption": "four"},
            {"image_id": 5, "id": 3, "caption": "five two"},
        ],
    }
    rows = read_caption_file(write(tmp_path / "coco.json", json.dumps(content)))
    assert rows == [row("five.mp4", 1, caption="five one"), row("four.mp4", 2, caption="four"), row("five.mp4", 3, caption="five two")]


def test_coco_of_evaluation_kits_names_videos_by_their_id(tmp_path: Path) -> None:
    """As the kits for MSR-VTT and MSVD have it."""
    content = {
        "info": {},
        "type": "captions",
        "images": [{"id": "video7010"}, {"id": 12, "file_name": None}],
        "annotations": [{"image_id": "video7010", "id": 0, "caption": "a girl sings"}, {"image_id": 12, "id": 1, "caption": "a man"}],
    }
    rows = read_caption_file(write(tmp_path / "coco.json", json.dumps(content)))
    assert rows == [row("video7010", 1, caption="a girl sings"), row("12", 2, caption="a man")]


def test_vatex(tmp_path: Path) -> None:
    content = [
        {"videoID": "Ptf_2VRj-V0_000122_000132", "enCap": ["A man claps.", "Hands are clapped."], "chCap": ["一个人在拍手。"]},
        {"videoID": "G9zN5TTuGO4_000179_000189"},
    ]
    rows = read_caption_file(write(tmp_path / "vatex.json", json.dumps(content)))
    assert rows == [
        row("Ptf_2VRj-V0_000122_000132", 1, caption="A man claps."),
        row("Ptf_2VRj-V0_000122_000132", 1, caption="Hands are clapped."),
        row("G9zN5TTuGO4_000179_000189", 2),
    ]


def test_youcook2(tmp_path: Path) -> None:
    content = {
        "database": {
            "GLd3aX16zBg": {
                "duration": 241.62,
                "subset": "training",
                "recipe_type": "113",
                "annotations": [
                    {"segment": [90, 102], "id": 0, "sentence": "spread margarine on two slices"},
                    {"segment": [114, 127], "id": 1, "sentence": "place a slice of cheese"},
                ],
            },
            "later": {"duration": 3, "subset": "testing", "recipe_type": "9"},
        }
    }
    rows = read_caption_file(write(tmp_path / "youcook2.json", json.dumps(content)))
    assert rows == [
        row("GLd3aX16zBg", 1, caption="spread margarine on two slices", start_s=90, end_s=102, split="train", label="113"),
        row("GLd3aX16zBg", 1, caption="place a slice of cheese", start_s=114, end_s=127, split="train", label="113"),
        row("later", 2, split="test", label="9"),
    ]


def test_activitynet(tmp_path: Path) -> None:
    classes = {"database": {"a": {"subset": "validation", "annotations": [{"segment": [1.5, 9], "label": "Long jump"}]}}}
    assert read_caption_file(write(tmp_path / "classes.json", json.dumps(classes))) == [row("a", 1, split="val", label="Long jump")]
    captions = {
        "v_one": {"duration": 82.7, "timestamps": [[0.83, 19.86], [25.0, 20.5]], "sentences": ["A man jumps. ", " He lands."]},
        "v_two": {"duration": 3.0, "timestamps": [], "sentences": []},
    }
    rows = read_caption_file(write(tmp_path / "val_1.json", json.dumps(captions)))
    assert rows == [
        row("v_one", 1, caption="A man jumps.", start_s=0.83, end_s=19.86),
        row("v_one", 1, caption="He lands.", start_s=20.5, end_s=25.0),
    ]


def test_rows_in_json_are_those_of_json_lines(tmp_path: Path) -> None:
    objects = [{"video": "a.mp4", "caption": "one"}, {"video": "b.mp4", "label": 3, "other": [1]}]
    wanted = [row("a.mp4", 1, caption="one"), row("b.mp4", 2, label="3")]
    assert read_caption_file(write(tmp_path / "list.json", json.dumps(objects, indent=1))) == wanted
    assert read_caption_file(write(tmp_path / "lines.json", "\n".join(map(json.dumps, objects)))) == wanted


def test_a_list_of_captions_is_a_row_each(tmp_path: Path) -> None:
    said = {"video": "a.mp4", "caption": ["one", " two "], "split": "val", "question": "q?", "answer": "yes"}
    wanted = [row("a.mp4", 1, caption="one", split="val", question="q?", answer="yes"), row("a.mp4", 1, caption="two", split="val")]
    none = {"video": "b.mp4", "caption": [], "label": "x"}
    assert read_caption_file(write(tmp_path / "a.json", json.dumps([said, none]))) == [*wanted, row("b.mp4", 2, label="x")]
    assert read_caption_file(write(tmp_path / "a.jsonl", json.dumps(said))) == wanted
    pd.DataFrame([said]).to_parquet(tmp_path / "a.parquet")
    assert read_caption_file(tmp_path / "a.parquet") == wanted
    # Asked once, the question has one answer.
    assert match_rows(wanted, ["a.mp4"], "a.json").texts["a.mp4"].questions == [("q?", ["yes"], [])]


def test_halves_of_characters_are_replaced_but_in_names(tmp_path: Path) -> None:
    names = ("caption", "split", "label", "question", "answer")
    fields = ", ".join(f'"{name}": "{name} \\ud83d"' for name in names)
    path = write(tmp_path / "a.jsonl", f'{{"video": "caf\\udce9", "candidates": ["x \\ud83d"], {fields}}}')
    expected = {name: f"{name} \ufffd" for name in names}
    assert read_caption_file(path) == [row("caf\udce9", 1, candidates=("x \ufffd",), **expected)]


@pytest.mark.skipif(not YOUCOOK2.exists(), reason=f"{YOUCOOK2} is not there")
def test_the_annotations_of_youcook2_as_published() -> None:
    rows = read_caption_file(YOUCOOK2)
    published = json.loads(YOUCOOK2.read_text())["database"]
    assert len(rows) == sum(max(1, len(video["annotations"])) for video in published.values())
    assert {row.video for row in rows} == set(published)
    one = published["GLd3aX16zBg"]["annotations"][2]
    (found,) = [r for r in rows if r.video == "GLd3aX16zBg" and r.start_s == one["segment"][0]]
    assert (found.end_s, found.caption, found.split) == (one["segment"][1], one["sentence"], "train")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "video,caption\na.mp4,x\n\n,y\n", r"a\.csv, line 4: column 'video' is empty"),
        ("a.csv", 'video,caption\na,"x\ny"\n  ,z\n', r"a\.csv, line 4: column 'video' is empty"),
        ("a.csv", "file;caption\na;x\n", r"a\.csv has no column 'video' \(found: file;caption\)"),
        ("a.csv", "file,caption\na,x\n", r"a\.csv has no column 'video' \(found: file, caption\)"),
        ("a.csv", "", r"a\.csv has no column 'video' \(found: none\)"),
        ("a.csv", "video,caption\n", r"a\.csv holds no rows"),
        ("a.csv", "video,caption,caption\na,x,y\n", r"a\.csv has the column 'caption' twice"),
        ("a.csv", "video,caption\na,x, y\n", r"a\.csv, line 2: 3 values where the first line names 2 columns"),
        ("a.csv", 'video,caption\na,x\nb,"y\nc,z\n', r"a\.csv, line 3: unexpected end of data"),
        ("a.csv", b"video,caption\na,x\nb,caf\xe9\n", r"a\.csv, line 3: a character is not UTF-8"),
        ("a.csv", "video,start_s,end_s\na,1,2\nb,soon,3\n", r"a\.csv, line 3: column 'start_s' is 'soon', not a number"),
        ("a.csv", "video,start_s,end_s\na,-1,2\n", r"a\.csv, line 2: column 'start_s' is '-1', not a number of seconds from 0"),
        ("a.csv", "video,start_s,end_s\na,1,inf\n", r"a\.csv, line 2: column 'end_s' is 'inf', not a number"),
        ("a.csv", "video,start_s,end_s\na,3,2\n", r"a\.csv, line 2: column 'end_s' is 2, before the start at 3"),
        ("a.csv", "video,start_s\na,3\n", r"a\.csv, line 2: column 'end_s' is empty where 'start_s' is given"),
        ("a.tsv", "video\tanswer\na\tyes\n", r"a\.tsv, line 2: column 'question' is empty where 'answer' is given"),
        ("a.csv", 'video,question,candidates\na,q,"[1"\n', r"a\.csv, line 2: column 'candidates' is not a valid JSON list"),
        ("a.jsonl", '{"video": "a"}\n{"caption": "x", "id": 1}\n', r"a\.jsonl, line 2: no field 'video' \(found: caption, id\)"),
        ("a.jsonl", '{"video": "a"}\n\n{"video": }\n', r"a\.jsonl, line 3: not valid JSON"),
        ("a.jsonl", "[1]\n", r"a\.jsonl, line 1: not a JSON object"),
        ("a.jsonl", '{"video": "a", "caption": {}}\n', r"a\.jsonl, line 1: field 'caption' is not text but dict"),
        ("a.jsonl", '{"video": "a"}\n{"video": "a", "caption": ["x", ["y"]]}\n', r"a\.jsonl, line 2: field 'caption' is not text but list"),
        (
            "a.jsonl",
            '{"video": "a", "start_s": 1' + "0" * 400 + ', "end_s": 1}\n',
            r"a\.jsonl, line 1: field 'start_s' is 10*, not a number",
        ),
        (
            "a.csv",
            'video,question,candidates\na,q,"' + "[" * 100_000 + '"\n',
            r"a\.csv, line 2: column 'candidates' is not a valid JSON list",
        ),
        (
            "a.csv",
            'video,question,candidates\na,q,"[' + "1" * 5000 + ']"\n',
            r"a\.csv, line 2: column 'candidates' is not a valid JSON list",
        ),
        ("a.jsonl", '{"video": "a", "start_s": true, "end_s": 1}\n', r"a\.jsonl, line 1: field 'start_s' is True, not a number"),
        ("a.jsonl", '{"video": null}\n', r"a\.jsonl, line 1: field 'video' is empty"),
        ("a.json", '{"videos": [],\n "sentences": [}', r"a\.json, line 2: not valid JSON"),
        ("a.json", '{"data": {}}', r"a\.json is an object with the fields data, none of MSR-VTT"),
        ("a.json", "3", r"a\.json is an int, none of MSR-VTT"),
        ("a.json", "[]", r"a\.json holds no rows"),
        ("a.json", "[" * 100_000, r"a\.json is not read: "),
        ("a.json", "1" * 5000, r"a\.json is not read: Exceeds the limit"),
        ("a.jsonl", "1" * 5000, r"a\.jsonl, line 1: not valid JSON: Exceeds the limit"),
        ("a.json", '{"video": "a"}\n{"caption": "b"}', r"a\.json, entry 2: no field 'video'"),
        ("a.json", '[{"video": "a"}, {"caption": "b"}]', r"a\.json, entry 2: not an object with the field 'video'"),
        ("a.json", '{"database": {}}', r"a\.json holds no rows"),
        ("a.json", '{"database": {"v": 3}}', r"a\.json, 'database', video 'v': not an object"),
        (
            "a.json",
            '{"database": {"v": {"annotations": [{"segment": [1], "sentence": "x"}]}}}',
            r"a\.json, 'database', video 'v', entry 1 of 'annotations': field 'segment' is not a pair of seconds",
        ),
        (
            "a.json",
            '{"database": {"v": {"annotations": [{"segment": [1, 2]}]}}}',
            r"video 'v', entry 1 of 'annotations': field 'label' is missing",
        ),
        ("a.json", '{"v_1": {"timestamps": [[0, 1]], "sentences": []}}', r"video 'v_1': 'timestamps' and 'sentences' are not lists of one"),
        (
            "a.json",
            '{"v_1": {"timestamps": [[0, true]], "sentences": ["x"]}}',
            r"video 'v_1': field 'timestamps, entry 1' is not a pair of seconds",
        ),
        *(
            (
                "a.json",
                f'{{"v_1": {{"timestamps": [[0, 1], {span}], "sentences": ["x", "y"]}}}}',
                r"a\.json, video 'v_1': field 'timestamps, entry 2' is not a pair of seconds from 0 on",
            )
            for span in ("[NaN, 1]", "[0, Infinity]", "[-1, 1]", "[NaN, NaN]", "[1e999, 2]")
        ),
        ("a.json", '{"v_1": {"timestamps": [[0, 1]], "sentences": [7]}}', r"video 'v_1': field 'sentences', entry 1 is not text"),
        ("a.json", '{"videos": {}, "sentences": []}', r"a\.json: 'videos' is not a list"),
        ("a.json", '{"videos": [], "sentences": []}', r"a\.json holds no rows"),
        ("a.json", '{"videos": [], "sentences": [{"video_id": "v"}]}', r"a\.json, entry 1 of 'sentences': field 'caption' is missing"),
        (
            "a.json",
            '{"images": [], "annotations": [{"image_id": 1, "caption": "x"}]}',
            r"entry 1 of 'annotations': image_id 1 is not among",
        ),
        ("a.json", '{"images": [{"file_name": "x"}], "annotations": []}', r"a\.json, entry 1 of 'images': field 'id' is missing"),
        ("a.json", '{"images": [{"id": 1, "file_name": []}], "annotations": []}', r"entry 1 of 'images': field 'file_name' is not text"),
        ("a.json", '{"videos": [{"video_id": "v", "split": []}], "sentences": []}', r"entry 1 of 'videos': field 'split' is not text"),
        ("a.json", '{"videos": [{"video_id": true}], "sentences": []}', r"entry 1 of 'videos': field 'video_id' is not text"),
        ("a.json", '{"database": {"v": {"subset": {}}}}', r"a\.json, 'database', video 'v': field 'subset' is not text"),
        ("a.json", '[{"videoID": "v"}, {"enCap": []}]', r"a\.json, entry 2: field 'videoID' is missing"),
        ("a.json", '[{"videoID": "v", "enCap": "x"}]', r"a\.json, entry 1: field 'enCap' is not a list of texts"),
        ("a.json", '[{"videoID": "v"}, 3]', r"a\.json, entry 2: not an object"),
        ("a.json", '{"images": [3], "annotations": []}', r"a\.json, entry 1 of 'images': not an object"),
        ("a.parquet", "not Parquet at all", r"a\.parquet is not a readable Parquet file"),
        ("a.txt", "video\n", r"a\.txt is not a kind of caption file"),
    ],
)
def test_messages_name_file_line_and_field(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    with pytest.raises(VbcliError, match=message):
        read_caption_file(write(tmp_path / name, content))


def test_messages_about_parquet_and_missing_files(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pd.DataFrame({"file": ["a"]}).to_parquet(path)
    with pytest.raises(VbcliError, match=r"a\.parquet has no column 'video' \(found: file\)"):
        read_caption_file(path)
    pd.DataFrame({"video": ["a", "b", ""]}).to_parquet(path)
    with pytest.raises(VbcliError, match=r"a\.parquet, row 3: column 'video' is empty"):
        read_caption_file(path)
    pd.DataFrame({"video": ["a"] * 70_000 + [""]}).to_parquet(path)  # more than one batch
    with pytest.raises(VbcliError, match=r"a\.parquet, row 70001: column 'video' is empty"):
        read_caption_file(path)
    damaged = pa.Array.from_buffers(pa.string(), 2, pa.array([b"fine", b"\xff"]).buffers())
    pq.write_table(pa.table({"video": ["a", "b"], "caption": damaged}), path)
    with pytest.raises(VbcliError, match=r"a\.parquet, row 2: column 'caption' holds a character that is not UTF-8"):
        read_caption_file(path)
    path.write_bytes(path.read_bytes().replace(b"caption", b"\xffaption"))
    with pytest.raises(VbcliError, match=r"a\.parquet is not a readable Parquet file"):
        read_caption_file(path)
    with pytest.raises(VbcliError, match=r"none\.csv does not exist"):
        read_caption_file(tmp_path / "none.csv")
    (tmp_path / "dir.csv").mkdir()
    with pytest.raises(VbcliError, match=r"dir\.csv is a folder"):
        read_caption_file(tmp_path / "dir.csv")


PARTS = st.sampled_from(["a", "b", "a.b", "é", "a b"])
IDS = st.builds(
    lambda folders, stem, suffix: "/".join([*folders, stem]) + suffix, st.lists(PARTS, max_size=2), PARTS, st.sampled_from([".mp4", ".b"])
)
NAMES = IDS | PARTS | st.builds(lambda a, b: f"{a}/{b}", PARTS, PARTS)


@given(st.lists(IDS, max_size=8, unique=True), st.lists(NAMES, max_size=8))
def test_names_match_by_path_then_name_then_stem_then_without_suffix(video_ids: list[str], names: list[str]) -> None:
    paths = [PurePosixPath(v) for v in video_ids]
    for name in names:
        bare = name.removesuffix(".mp4")
        by_rank = [
            [str(p) for p in paths if str(p) == name],
            [str(p) for p in paths if p.name == name],
            [str(p) for p in paths if p.stem == name],
            # Imported features are of videos without a suffix.
            [str(p) for p in paths if str(p) == bare],
            [str(p) for p in paths if p.name == bare],
        ]
        expected = next((found for found in by_rank if found), [])
        if len(expected) > 1:
            with pytest.raises(VbcliError) as caught:
                match_rows([row(name, 5, caption="x")], video_ids, "c.csv")
            assert caught.value.message == f"c.csv, line 5: '{name}' names {len(expected)} videos: {', '.join(sorted(expected)[:5])}" + (
                ", ..." if len(expected) > 5 else ""
            )
        else:
            texts, unmatched = match_rows([row(name, 5, caption="x")], video_ids, "c.csv")
            assert (list(texts), unmatched) == (expected, [] if expected else [name])


def test_names_that_are_written_in_another_way(tmp_path: Path) -> None:
    decomposed = "cafe\u0301.mp4"
    video_ids = ["caf%E9.mp4", decomposed, " padded.mp4"]
    path = write(tmp_path / "a.jsonl", '{"video": "caf\\udce9.mp4", "caption": "bytes"}\n{"video": "caf\\u00e9", "caption": "accent"}\n')
    texts, unmatched = match_rows([*read_caption_file(path), row("padded.mp4 ", caption="spaces")], video_ids, "a.jsonl")
    assert {video_id: text.captions[0][0] for video_id, text in texts.items()} == dict(
        zip(video_ids, ["bytes", "accent", "spaces"], strict=True)
    )
    assert unmatched == []


def test_rows_of_one_video_are_gathered() -> None:
    rows = [
        row("v.mp4", 2, caption="one", start_s=0.0, end_s=1.5, label="Food", split="train"),
        row("gone", 3, caption="lost"),
        row("v", 4, caption="two", label="Sport", question="Who?", answer="a cook", candidates=("a cook", "a cat")),
        row("d/v.mp4", 5, label="Food", split="train", question="Who?", answer="a man", candidates=("a man", "a cat")),
        row("gone", 6),
        row("v", 7, question="Where?"),
        row("w", 8, question="Who?", answer="nobody"),
    ]
    texts, unmatched = match_rows(rows, ["d/v.mp4", "w.mp4", "unnamed.mp4"], "c.csv")
    assert texts == {
        "d/v.mp4": VideoText(
            captions=[("one", 0.0, 1.5), ("two", None, None)],
            labels=["Food", "Sport"],
            questions=[("Who?", ["a cook", "a man"], ["a cook", "a cat", "a man"]), ("Where?", [], [])],
            split="train",
        ),
        "w.mp4": VideoText(questions=[("Who?", ["nobody"], [])]),
    }
    assert unmatched == ["gone"]


def test_a_video_in_two_splits_is_an_error() -> None:
    rows = [row("v", 2, split="train"), row("v.mp4", 3), row("d/v.mp4", 4, split="val")]
    with pytest.raises(VbcliError, match=r"^c\.csv, line 4: video 'd/v\.mp4' is in split 'val', but in 'train' further up$"):
        match_rows(rows, ["d/v.mp4"], "c.csv")
    with pytest.raises(VbcliError, match=r"^c\.parquet, row 4: video"):
        match_rows(rows, ["d/v.mp4"], "c.parquet")


def test_matching_does_not_slow_down_with_size() -> None:
    """Fifty thousand rows for as many videos: comparing each with each would take minutes."""
    rows = [row(f"v{i}", i, caption="x") for i in range(50_000)]
    start = time.process_time()
    texts, _ = match_rows(rows, [f"d{i % 7}/v{i}.mp4" for i in range(50_000)], "c.csv")
    assert len(texts) == 50_000
    assert time.process_time() - start < 5


@pytest.mark.skipif(not CLIPS_DIR.is_dir(), reason="the folder shared/data/clips is not beside the repository")
def test_the_captions_of_the_real_clips() -> None:
    path = CLIPS_DIR / "captions.csv"
    reference = pd.read_csv(path)
    rows = read_caption_file(path)
    assert len(rows) == len(reference) == 110
    assert [(r.video, r.caption, r.label, r.split) for r in rows] == list(
        reference[["video", "caption", "category", "split"]].itertuples(index=False, name=None)
    )
    video_ids = sorted(p.name for p in CLIPS_DIR.glob("*.mp4"))
    texts, unmatched = match_rows(rows, video_ids, str(path))
    assert sorted(texts) == video_ids
    assert unmatched == []
    assert {v: t.split for v, t in texts.items()} == dict(zip(reference["video"], reference["split"], strict=True))
    stems = [dataclasses.replace(r, video=r.video.removesuffix(".mp4")) for r in rows]
    assert match_rows(stems, [f"sub dir/{v}" for v in video_ids], str(path)).texts == {f"sub dir/{v}": t for v, t in texts.items()}
