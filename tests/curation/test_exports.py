"""Exports, read again by the libraries that they are for."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from webdataset.compat import WebDataset

from tests.e2e.commands import vbcli
from vbcli import shards
from vbcli.curation.exports import export_dataset, sample_keys
from vbcli.curation.filtering import filter_dataset
from vbcli.encoders import load_encoder
from vbcli.errors import VbcliError
from vbcli.pipeline import RunOptions, encode_dataset, extract_videos
from vbcli.stages.extract import Extract
from vbcli.vocab.build import feature_matrix

SERIAL = RunOptions("serial")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, video_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("export")
    shutil.copytree(video_folder, folder / "videos")
    shutil.copy(folder / "videos" / "a.mp4", folder / "videos" / "a.b.mp4")
    extract_videos(folder / "videos", folder / "frames", Extract(size_px=32), [folder / "videos" / "captions.csv"], SERIAL)
    encoder = load_encoder("timm:test_convnext/random", pool="mean", precision="float32", clip_s=0.5).spec
    encode_dataset(folder / "videos", folder / "features", encoder, options=SERIAL)
    return folder


def samples(folder: Path) -> dict[str, dict]:
    urls = [str(path) for path in sorted(folder.glob("*.tar"))]
    return {sample["__key__"]: sample for sample in WebDataset(urls, shardshuffle=False)}


def test_a_webdataset_of_videos_holds_the_files_and_their_text(place: Path, tmp_path: Path) -> None:
    assert export_dataset(place / "frames" / "videos", tmp_path / "wds", "webdataset") == []
    found = samples(tmp_path / "wds")
    assert set(found) == {"a", "a_b", "b", "c", "more/d"}
    for key, name in (("a", "a.mp4"), ("a_b", "a.b.mp4"), ("b", "b.mkv"), ("more/d", "more/d.mp4")):
        assert found[key][Path(name).suffix[1:]] == (place / "videos" / name).read_bytes()
        assert json.loads(found[key]["json"])["video_id"] == name
    said = json.loads(found["a"]["json"])
    assert (said["captions"][0]["text"], said["split"], said["transcript"][0]["text"]) == ("A picture of bars.", "train", "The bars move.")
    with tarfile.open(tmp_path / "wds" / "shard-00000.tar") as tar:
        assert {member.mtime for member in tar} == {0}


def test_a_webdataset_of_frames_and_of_features(place: Path, tmp_path: Path) -> None:
    export_dataset(place / "frames", tmp_path / "frames", "webdataset")
    rows = [row for row in shards.read_rows(place / "frames") if row["video_id"] == "c.mp4"]
    sample = samples(tmp_path / "frames")["c"]
    assert [sample[f"{row['frame_index']:05d}.jpg"] for row in rows] == [row["image"]["bytes"] for row in rows]
    assert [row["pts_s"] for row in json.loads(sample["json"])["rows"]] == [row["pts_s"] for row in rows]
    export_dataset(place / "features", tmp_path / "features", "webdataset")
    tables = {t.column("video_id")[0].as_py(): t for t in shards.iter_videos(place / "features" / "shard-00000.parquet")}
    arrays = {key: np.load(io.BytesIO(sample["npy"])) for key, sample in samples(tmp_path / "features").items()}
    keys = {"a": "a.mp4", "a_b": "a.b.mp4", "b": "b.mkv", "c": "c.mp4", "more/d": "more/d.mp4"}
    assert set(arrays) == {key for key, name in keys.items() if name in tables}
    for key, array in arrays.items():
        assert np.array_equal(array, feature_matrix(tables[keys[key]]).astype(np.float32))


def test_tables_of_text_have_every_row(place: Path, tmp_path: Path) -> None:
    export_dataset(place / "frames", tmp_path / "lines", "jsonl")
    export_dataset(place / "frames" / "videos", tmp_path / "tables", "csv")
    lines = pd.read_json(tmp_path / "lines" / "shard-00000.jsonl", lines=True)
    rows = shards.read_rows(place / "frames")
    assert list(lines.columns) == ["video_id", "frame_index", "pts_s", "shot_index", "width_px", "height_px"]
    assert lines["pts_s"].tolist() == pytest.approx([row["pts_s"] for row in rows])
    table = pd.read_csv(tmp_path / "tables" / "shard-00000.csv").set_index("video_id")
    assert json.loads(table.loc["a.mp4", "captions"])[0]["text"] == "A picture of bars."  # type: ignore[arg-type]
    assert table.loc["b.mkv", "codec"] == "h264"


def test_a_video_that_is_gone_is_told_and_the_others_are_written(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "videos", tmp_path / "videos")
    extract_videos(tmp_path / "videos", tmp_path / "frames", Extract(size_px=32), options=SERIAL)
    (tmp_path / "videos" / "b.mkv").unlink()
    (note,) = export_dataset(tmp_path / "frames" / "videos", tmp_path / "wds", "webdataset")
    assert "b.mkv cannot be read: No such file" in note
    assert set(samples(tmp_path / "wds")) == {"a", "a_b", "c", "more/d"}
    # A later run has it where it can be read again.
    shutil.copy(place / "videos" / "b.mkv", tmp_path / "videos")
    assert export_dataset(tmp_path / "frames" / "videos", tmp_path / "wds", "webdataset") == []
    assert set(samples(tmp_path / "wds")) == {"a", "a_b", "b", "c", "more/d"}
    before = (tmp_path / "wds" / "shard-00000.tar").stat().st_mtime_ns
    assert export_dataset(tmp_path / "frames" / "videos", tmp_path / "wds", "webdataset") == []
    assert (tmp_path / "wds" / "shard-00000.tar").stat().st_mtime_ns == before


def test_a_folder_keeps_to_the_dataset_that_it_was_made_of(place: Path, tmp_path: Path) -> None:
    export_dataset(place / "frames", tmp_path / "x", "jsonl")
    lines = (tmp_path / "x" / "shard-00000.jsonl").read_bytes()
    filter_dataset(place / "frames", tmp_path / "late", ["pts_s >= 0.5"], options=SERIAL)
    filter_dataset(place / "frames", tmp_path / "later", ["pts_s >= 1"], options=SERIAL)
    extract_videos(place / "videos" / "more", tmp_path / "more", Extract(size_px=32), options=SERIAL)
    for other, form in (("late", "jsonl"), ("more", "jsonl")):
        with pytest.raises(VbcliError, match=f"holds jsonl of {place}/frames, and not {form} of the dataset {tmp_path}/{other}"):
            export_dataset(tmp_path / other, tmp_path / "x", form)  # type: ignore[arg-type]
    with pytest.raises(VbcliError, match=r"holds jsonl of .*, and not csv of"):
        export_dataset(place / "frames", tmp_path / "x", "csv")
    assert (tmp_path / "x" / "shard-00000.jsonl").read_bytes() == lines
    export_dataset(tmp_path / "late", tmp_path / "y", "jsonl")
    with pytest.raises(VbcliError, match="holds jsonl of"):
        export_dataset(tmp_path / "later", tmp_path / "y", "jsonl")


@pytest.mark.parametrize("form", ["jsonl", "webdataset"])
def test_files_of_a_dataset_that_changed_are_made_again(place: Path, tmp_path: Path, form: str) -> None:
    shutil.copytree(place / "videos", tmp_path / "videos")
    extract_videos(tmp_path / "videos", tmp_path / "frames", Extract(size_px=32), options=SERIAL)
    suffix = "tar" if form == "webdataset" else form

    def export() -> bytes:
        assert export_dataset(tmp_path / "frames", tmp_path / "x", form) == []  # type: ignore[arg-type]
        return (tmp_path / "x" / f"shard-00000.{suffix}").read_bytes()

    before = export()
    shutil.copy(place / "videos" / "c.mp4", tmp_path / "videos" / "a.mp4")
    shutil.copy(place / "videos" / "c.mp4", tmp_path / "videos" / "new.mp4")
    extract_videos(tmp_path / "videos", tmp_path / "frames", Extract(size_px=32), options=SERIAL)
    after = export()
    export_dataset(tmp_path / "frames", tmp_path / "fresh", form)  # type: ignore[arg-type]
    assert after == (tmp_path / "fresh" / f"shard-00000.{suffix}").read_bytes() != before
    assert (tmp_path / "x" / f"shard-00001.{suffix}").is_file()


def test_keys_have_no_dots_and_are_their_own() -> None:
    keys = sample_keys(["a.mp4", "a.mkv", "b.c.mp4", "b_c.mp4", "v1.2/x.mp4"])
    assert list(keys.values()) == ["a", "a_2", "b_c", "b_c_2", "v1_2/x"]


def test_the_command_says_what_it_wrote_and_refuses_what_is_no_dataset(place: Path, tmp_path: Path) -> None:
    said = vbcli("export", place / "frames", "out", "--to", "webdataset", cwd=tmp_path).stderr
    assert "webdataset, a file for each shard" in " ".join(said.split())
    listed = subprocess.run(["tar", "tf", tmp_path / "out" / "shard-00000.tar"], capture_output=True, text=True, check=True).stdout
    assert "more/d.00000.jpg" in listed
    for source, target, message in (("videos", "x", "has no manifest"), ("frames", place / "videos", "is not an empty folder")):
        said = vbcli("export", place / source, target, "--to", "csv", cwd=tmp_path, status=1).stderr
        assert message in " ".join(said.split())
