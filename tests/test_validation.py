"""Damage that is done on purpose, and is found: in datasets, their shards and what lies beside them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vbcli import shards
from vbcli.errors import VbcliError
from vbcli.inspection import describe
from vbcli.pipeline import RunOptions, extract_videos
from vbcli.stages.extract import Extract
from vbcli.validation import validate


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, video_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("validation")
    shutil.copytree(video_folder, folder / "videos")
    (folder / "videos" / "broken.mp4").write_bytes(b"no video")
    extract_videos(folder / "videos", folder / "frames", Extract(size_px=32), options=RunOptions("serial"))
    return folder / "frames"


@pytest.fixture
def frames(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "frames"))


def rewritten(shard: Path, change: Callable[[pa.Table], pa.Table], **footer: object) -> None:
    """Other rows under the footer that is there, or another footer."""
    table = change(pq.read_table(shard))
    said = {**shards.read_footer(shard), **footer}
    pq.write_table(table.replace_schema_metadata({**(table.schema.metadata or {}), b"vbcli": json.dumps(said).encode()}), shard)


def test_what_is_whole_has_no_problems(whole: Path) -> None:
    assert list(validate(whole)) == []
    assert list(validate(whole, reads_data=True)) == []
    assert list(validate(whole / "shard-00000.parquet", reads_data=True)) == []


def cut_off(dataset: Path) -> None:
    path = dataset / "shard-00000.parquet"
    path.write_bytes(path.read_bytes()[:-20])


def without_shard(dataset: Path) -> None:
    (dataset / "shard-00000.parquet").unlink()


def without_videos(dataset: Path) -> None:
    shutil.rmtree(dataset / "videos")


def of_other_videos(dataset: Path) -> None:
    def renamed(table: pa.Table) -> pa.Table:
        names = pa.array([f"x{name}" for name in table.column("video_id").to_pylist()])
        return table.set_column(0, table.schema.field("video_id"), names)

    rewritten(dataset / "shard-00000.parquet", renamed)


def of_another_configuration(dataset: Path) -> None:
    rewritten(dataset / "shard-00000.parquet", lambda table: table, config={"fps": 3})


def with_fewer_rows(dataset: Path) -> None:
    rewritten(dataset / "shard-00000.parquet", lambda table: table.slice(1))


def without_record_of_failures(dataset: Path) -> None:
    shutil.rmtree(dataset / "_errors")


def with_a_damaged_record_of_failures(dataset: Path) -> None:
    (dataset / "_errors" / "shard-00000.jsonl").write_bytes(b'{"video_id": "bro')
    without_videos(dataset)


def with_something_left(dataset: Path) -> None:
    (dataset / ".shard-00003.parquet.tmp-host-1").write_bytes(b"half")


def of_an_unknown_shard(dataset: Path) -> None:
    shutil.copy(dataset / "shard-00000.parquet", dataset / "shard-00007.parquet")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_off, "cannot be read as Parquet"),
        (without_shard, "is incomplete: 1 of 1 shards are missing, first shard-00000.parquet"),
        (without_videos, "has no videos dataset beside it"),
        (of_other_videos, "has rows of 4 videos that are not in"),
        (of_another_configuration, "was made by another stage or configuration"),
        (with_fewer_rows, "rows, and its footer says"),
        (without_record_of_failures, "says that 1 videos failed, and 0 are recorded"),
        (with_a_damaged_record_of_failures, "shard-00000.jsonl is not a record of failed items"),
        # What comes after it is told, too.
        (with_a_damaged_record_of_failures, "has no videos dataset beside it"),
        (with_something_left, "is left from a run that was killed"),
        (of_an_unknown_shard, "shard-00007.parquet has no shard of videos"),
    ],
)
def test_damage_is_found_without_reading_the_rows(frames: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(frames)
    found = list(validate(frames))
    assert any(message in problem for problem in found), found


def test_other_rows_and_pictures_are_found_by_reading_them(frames: Path) -> None:
    def dimmed(table: pa.Table) -> pa.Table:
        rows = table.to_pylist()
        rows[0]["pts_s"] += 0.001
        rows[1]["image"]["bytes"] = rows[1]["image"]["bytes"][:50]
        return pa.Table.from_pylist(rows, schema=table.schema)

    rewritten(frames / "shard-00000.parquet", dimmed)
    assert list(validate(frames)) == []
    found = list(validate(frames, reads_data=True))
    assert any("holds other rows than were written" in problem for problem in found)
    assert any("frame 1 of a.mp4 cannot be decoded" in problem for problem in found)


def test_a_shard_with_a_bit_turned_is_a_problem_or_an_error_and_no_traceback(frames: Path) -> None:
    shard = frames / "shard-00000.parquet"
    whole = shard.read_bytes()
    footer = whole.index(b"vbcli", len(whole) - 4000)
    n_found = 0
    for place in range(footer, footer + 700, 11):
        shard.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        n_found += bool(list(validate(frames, reads_data=True)))
        with suppress(VbcliError):
            describe(frames)
    assert n_found > 20


def test_what_vbcli_did_not_make_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VbcliError, match="is no dataset"):
        list(validate(tmp_path))
    with pytest.raises(VbcliError, match="does not exist"):
        list(validate(tmp_path / "none"))
    (tmp_path / "config.json").write_text('{"kind": "recipe"}')
    with pytest.raises(VbcliError, match="names no kind"):
        list(validate(tmp_path))
