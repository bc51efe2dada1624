from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from vbcli import shards
from vbcli.errors import VbcliError
from vbcli.evaluation.captions import References, evaluate_captions, name_systems, read_captions, read_references
from vbcli.metrics.captions import score_captions
from vbcli.schemas import CAPTIONS, VIDEOS, tokens_schema

TRUTHS = {
    f"v{i}.mp4": [f"a {c} ball {v}", f"the {c} ball {v} slowly"]
    for i, (c, v) in enumerate([("red", "falls"), ("blue", "rises"), ("green", "spins"), ("red", "grows")])
}
LEXICON = {"object": {c: [c] for c in ("red", "blue", "green")}, "action": {v: [v] for v in ("falls", "rises", "spins", "grows")}}


@pytest.fixture
def tokens_dir(tmp_path):
    """Two training videos that look like v0 and v1, beside the four themselves."""
    schema = tokens_schema(1, 2)
    looks = {"v0.mp4": (1, 0), "v1.mp4": (0, 1), "v2.mp4": (1, 0.1), "v3.mp4": (0.1, 1), "t0.mp4": (2, 0), "t1.mp4": (0, 3)}
    texts = {"t0.mp4": "a red ball falls", "t1.mp4": "a cat sleeps"}
    rows = [
        {
            "video_id": v, "segment_index": 0, "start_s": 0.0, "end_s": 1.0, "visual_tokens": [[0]], "features": [list(look)], "text": "",
            "captions": [{"text": texts[v], "start_s": None, "end_s": None}] if v in texts else [], "labels": [], "questions": [],
            "split": "train" if v in texts else "test",
        }
        for v, look in sorted(looks.items())
    ]  # fmt: skip
    with shards.ShardWriter(tmp_path / "tokens" / shards.shard_name(0), schema) as writer:
        writer.write(pa.Table.from_pylist(rows, schema=schema))
        writer.close({"n_items": 6, "n_failed": 0, "key": ""})
    return tmp_path / "tokens"


def test_perfect_captions_and_baselines_by_hand(tokens_dir):
    captions = {v: truths[0] for v, truths in TRUTHS.items()}
    found = evaluate_captions(captions, TRUTHS, tokens_dir=tokens_dir, lexicon=LEXICON, with_meteor=False)
    assert found.scores["captions"]["object"] == found.scores["captions"]["action"] == 1
    assert found.scores["captions"]["Bleu_4"] == pytest.approx(1)
    # v0 and v2 look like t0, v1 and v3 like t1.
    nearest = {"v0.mp4": "a red ball falls", "v2.mp4": "a red ball falls", "v1.mp4": "a cat sleeps", "v3.mp4": "a cat sleeps"}
    expected = score_captions(nearest, TRUTHS, with_meteor=False)
    assert found.scores["nearest training video"]["CIDEr"] == pytest.approx(expected.cider)
    assert found.scores["nearest training video"]["object"] == 0.25
    # No video keeps its caption, and all four actions differ.
    assert found.scores["shuffled videos"]["action"] == 0
    for name, gain in found.gains.items():
        assert gain.mean == pytest.approx(found.scores["captions"]["CIDEr"] - found.scores[name]["CIDEr"])
        assert gain.low <= gain.mean <= gain.high
    assert set(found.gains) == {"nearest training video", "best constant"}
    assert found.spread["shuffled videos"]["action"] == 0
    assert 0 < found.scores["shuffled videos"]["object"] < 1


def test_captions_without_reference_are_said():
    found = evaluate_captions({"v0.mp4": "a red ball falls", "v9.mp4": "x"}, TRUTHS, with_meteor=False)
    assert any("1 of 2 captions have no reference" in note for note in found.notes)
    with pytest.raises(VbcliError, match="none of the 1 captioned videos has a reference"):
        evaluate_captions({"v9.mp4": "x"}, TRUTHS, with_meteor=False)


def test_other_systems_need_the_same_videos():
    captions = {v: t[0] for v, t in TRUTHS.items()}
    found = evaluate_captions(captions, TRUTHS, others={"worse": [dict.fromkeys(TRUTHS, "a cat")]}, with_meteor=False)
    assert found.scores["worse"]["CIDEr"] < found.scores["captions"]["CIDEr"]
    with pytest.raises(VbcliError, match="worse has no caption for 3 of the 4 videos"):
        evaluate_captions(captions, TRUTHS, others={"worse": [{"v0.mp4": "a cat"}]}, with_meteor=False)


def test_runs_of_a_system_have_a_mean_and_a_spread():
    right = {v: t[0] for v, t in TRUTHS.items()}
    wrong = dict.fromkeys(TRUTHS, "a cat")
    found = evaluate_captions(right, TRUTHS, reruns=[wrong], others={"mixed": [wrong, right, right]}, lexicon=LEXICON, with_meteor=False)
    alone = [score_captions(run, TRUTHS, with_meteor=False).cider for run in (right, wrong)]
    assert found.scores["captions"]["CIDEr"] == pytest.approx(sum(alone) / 2)
    assert found.spread["captions"]["CIDEr"] == pytest.approx(abs(alone[0] - alone[1]) / 2**0.5)
    assert found.scores["mixed"]["CIDEr"] == pytest.approx((2 * alone[0] + alone[1]) / 3)
    assert found.spread["mixed"]["CIDEr"] == pytest.approx(abs(alone[0] - alone[1]) / 3**0.5)
    assert found.gains["mixed"].mean == pytest.approx(found.scores["captions"]["CIDEr"] - found.scores["mixed"]["CIDEr"])
    assert "mixed: mean and standard deviation of 3 runs" in found.notes


def test_systems_have_rows_of_their_own_whatever_their_folders_are_called(tmp_path: Path):
    assert name_systems(["a/one", "b/two"]) == {"one": [Path("a/one")], "two": [Path("b/two")]}
    assert name_systems(["x=a/0", "captions=b", "x=a/1"]) == {"x": [Path("a/0"), Path("a/1")], "captions": [Path("b")]}
    (tmp_path / "rate=2").mkdir()
    assert name_systems([f"{tmp_path}/rate=2"]) == {"rate=2": [tmp_path / "rate=2"]}
    assert name_systems(["captions"]) == {"./captions": [Path("captions")]}
    assert name_systems(["x=a", "x"]) == {"x": [Path("a")], "./x": [Path("x")]}
    assert list(name_systems(["a/captions", "answers=b"], ("answers", "chance"))) == ["answers", "captions"]
    with pytest.raises(VbcliError, match="'chance', as a baseline is called"):
        name_systems(["chance=a"], ("answers", "chance"))
    with pytest.raises(VbcliError, match="'best constant', as a baseline is called"):
        name_systems(["best constant=a"])
    assert list(name_systems(["a/captions", "b/same", "c/same", "x/best constant"])) == [
        "a/captions",
        "b/same",
        "c/same",
        "x/best constant",
    ]
    with pytest.raises(VbcliError, match="the same results twice"):
        name_systems(["captions", "captions"])


def test_both_sides_are_read_from_files_and_datasets(tmp_path):
    (tmp_path / "refs.csv").write_text("video,caption,split\na,one,val\na,two,val\nb,three,train\n")
    references = read_references(tmp_path / "refs.csv", ["a.mp4", "b.mp4"])
    assert references.captions == {"a.mp4": ["one", "two"], "b.mp4": ["three"]}
    assert references.held_out(["a.mp4", "b.mp4"], None) == ["a.mp4"]
    assert references.held_out(["a.mp4", "b.mp4"], "train") == ["b.mp4"]
    assert references.held_out(["b.mp4"], None) == ["b.mp4"]
    assert not references.are_for_training(["a.mp4", "b.mp4"])
    assert references.are_for_training(["b.mp4"])
    (tmp_path / "captions.csv").write_text("video,caption\na.mp4,hello\n")
    assert read_captions(tmp_path / "captions.csv", tmp_path / "refs.csv") == {"a.mp4": "hello"}
    with pytest.raises(VbcliError, match="several captions for a"):
        read_captions(tmp_path / "refs.csv", tmp_path / "refs.csv")
    dataset = tmp_path / "captions"
    shards.claim_manifest(dataset, shards.Manifest("captions", "caption", 1, {}, {}, []))
    values = {
        "video_id": "a.mp4",
        "path": "/a.mp4",
        "start_s": 0.0,
        "end_s": 1.0,
        "caption": "hi",
        "score": np.float32(0),
        "checkpoint": "",
        "decoding": "{}",
    }
    for folder, schema, row in ((dataset, CAPTIONS, values), (dataset / "videos", VIDEOS, _video_row())):
        with shards.ShardWriter(folder / shards.shard_name(0), schema) as writer:
            writer.write(pa.Table.from_pylist([row], schema=schema))
            writer.close({})
    assert read_captions(dataset, dataset) == {"a.mp4": "hi"}
    (tmp_path / "stems.csv").write_text("video,caption\na,hello\nelsewhere,bye\n")
    assert read_captions(tmp_path / "stems.csv", dataset) == {"a.mp4": "hello", "elsewhere": "bye"}
    assert read_references(dataset, []).captions == {"a.mp4": ["hi there"]}


def test_videos_that_failed_are_counted_where_they_would_be_scored():
    splits = {"a": "test", "b": "test", "c": "val", "d": "train", "e": "train", "f": None}
    references = References({}, {}, {}, {}, splits)
    truths = {v: ["x"] for v in "abcde"}

    def n_failed(failed: str, scored: str, split: str | None = None) -> str:
        return " ".join(note.split()[0] for note in references.failure_notes(list(failed), truths, list(scored), split))

    # Training videos are scored where no others are, or by name; f has no reference.
    assert n_failed("bcef", "a") == "2"
    assert n_failed("bcef", "a", "test") == "1"
    assert n_failed("ef", "d") == "1"
    assert n_failed("bef", "d", "train") == "1"
    assert n_failed("ef", "a") == ""


def _video_row():
    empty = dict.fromkeys(VIDEOS.names)
    return {**empty, "video_id": "a.mp4", "path": "/a.mp4", "captions": [{"text": "hi there", "start_s": None, "end_s": None}]}
