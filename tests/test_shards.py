"""Datasets on disk: against plain pyarrow, hand-made damage, and the same rows written in other pieces."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vbcli import shards
from vbcli.digests import table_digest
from vbcli.errors import ItemFailure, VbcliError
from vbcli.files import write_atomic
from vbcli.shards import Manifest, ShardWriter

SCHEMA = pa.schema(
    [
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("pts_s", pa.float64()),
        pa.field("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        pa.field("captions", pa.list_(pa.struct([("text", pa.string()), ("start_s", pa.float64())]))),
        pa.field("feature", pa.list_(pa.float32(), 2), nullable=False),
    ]
)
CAPTION = st.fixed_dictionaries({"text": st.text(max_size=3), "start_s": st.none() | st.floats(0, 9)})
ROW = st.fixed_dictionaries(
    {
        "video_id": st.sampled_from(["a", "b", "c", "d"]),
        "pts_s": st.none() | st.floats(allow_nan=False),
        "image": st.none() | st.fixed_dictionaries({"bytes": st.none() | st.binary(max_size=20), "path": st.none()}),
        "captions": st.none() | st.lists(CAPTION, max_size=2),
        "feature": st.lists(st.floats(0, 1, width=32), min_size=2, max_size=2),
    }
)
ROWS = st.lists(ROW, max_size=12).map(lambda rows: sorted(rows, key=lambda row: str(row["video_id"])))
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
MANIFEST = Manifest("frames", "extract", 1, {"fps": 2.0, "fit": "short"}, {"fps": 2.0}, [])


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row groups of about two rows."""
    monkeypatch.setattr(shards, "ROW_GROUP_BYTES", 400)


def table_of(rows: Sequence[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=SCHEMA)


def row(video_id: str, value: float = 0.5) -> dict[str, Any]:
    return {"video_id": video_id, "pts_s": value, "image": {"bytes": b"jpeg", "path": None}, "captions": [], "feature": [value, 1.0]}


def write_shard(path: Path, tables: Sequence[pa.Table], **footer: Any) -> Path:
    with ShardWriter(path, SCHEMA) as writer:
        for table in tables:
            writer.write(table)
        writer.close({"stage": "", "version": 1, "config": {}, "key": "", "n_items": 0, "failed": [], **footer})
    return path


def names_in(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_targets_that_cannot_be_written_are_errors_that_name_them(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    inside_file = tmp_path / "file" / "out.json"
    with pytest.raises(VbcliError, match=f"cannot write {inside_file}: File exists"):
        write_atomic(inside_file, b"x")
    with pytest.raises(VbcliError, match=f"cannot write {tmp_path}/file/shard-00000.parquet: File exists"):
        ShardWriter(tmp_path / "file" / "shard-00000.parquet", SCHEMA)
    (tmp_path / "shard-00001.parquet" / "in the way").mkdir(parents=True)
    with pytest.raises(VbcliError, match=r"cannot write .*shard-00001\.parquet: Is a directory"):
        write_shard(tmp_path / "shard-00001.parquet", [table_of([row("a")])])
    with pytest.raises(VbcliError, match=r"cannot write .*shard-00001\.parquet: Is a directory"):
        write_atomic(tmp_path / "shard-00001.parquet", b"x")
    assert names_in(tmp_path) == ["file"]


def test_a_full_disk_is_an_error_that_names_the_file_and_leaves_nothing(tmp_path: Path) -> None:
    """A limit on the size of files, in a process of its own, stands for the disk: writes beyond it fail in the same way."""
    code = """
import os, resource, signal, sys
from pathlib import Path
import pyarrow as pa
from vbcli.digests import table_digest
from vbcli.errors import VbcliError
from vbcli.files import write_atomic
from vbcli.shards import ShardWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
folder, noise = Path(sys.argv[1]), os.urandom(300_000)
table = pa.table({"video_id": ["a"], "image": [noise]})
def close():
    with ShardWriter(folder / "shard-00000.parquet", table.schema) as writer:
        writer.write(table)
        writer.close({})
def flush():
    with ShardWriter(folder / "shard-00001.parquet", table.schema) as writer:
        for i in range(40):
            writer.write(pa.table({"video_id": [str(i)], "image": [os.urandom(300_000)]}))
for attempt in (close, flush, lambda: write_atomic(folder / "plan.json", noise)):
    try:
        attempt()
    except VbcliError as error:
        print(error.message)
"""
    run = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    lines = run.stdout.splitlines()
    assert [line.split(": ")[0] for line in lines] == [
        f"cannot write {tmp_path / n}" for n in ("shard-00000.parquet", "shard-00001.parquet", "plan.json")
    ]
    assert all("File too large" in line for line in lines)
    assert names_in(tmp_path) == []


# ---------------------------------------------------------------- shards


def test_a_shard_is_plain_parquet_with_a_footer(tmp_path: Path) -> None:
    table = table_of([row("a"), row("a", 1.5), row("b")])
    path = write_shard(tmp_path / "shard-00007.parquet", [table], stage="extract", key="é", config={"fps": 2.0})
    assert pq.read_table(path).cast(SCHEMA).equals(table)
    footer = shards.read_footer(path)
    assert {k: footer[k] for k in ("stage", "key", "config", "n_rows")} == {
        "stage": "extract",
        "key": "é",
        "config": {"fps": 2.0},
        "n_rows": 3,
    }
    assert shards.shard_index(path) == 7
    assert names_in(tmp_path) == ["shard-00007.parquet"]


def test_shards_are_listed_by_number(tmp_path: Path) -> None:
    for index in (100_000, 99_999, 2):
        write_shard(tmp_path / shards.shard_name(index), [])
    (tmp_path / ".shard-00003.parquet.tmp-1").write_bytes(b"")
    assert [shards.shard_index(p) for p in shards.list_shards(tmp_path)] == [2, 99_999, 100_000]


def test_an_exception_leaves_nothing_and_an_old_shard_as_it_was(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "shard-00000.parquet", [table_of([row("a")])])
    before = path.read_bytes()

    def interrupted(target: Path) -> None:
        with ShardWriter(target, SCHEMA) as writer:
            writer.write(table_of([row("b")]))
            assert len(names_in(tmp_path)) == 1 + (target != path) + (target == path)
            raise KeyboardInterrupt

    for target in (path, tmp_path / "shard-00001.parquet"):
        with pytest.raises(KeyboardInterrupt):
            interrupted(target)
    assert names_in(tmp_path) == ["shard-00000.parquet"]
    assert path.read_bytes() == before


def test_what_a_killed_process_left_is_removed_and_a_live_ones_file_is_not(tmp_path: Path) -> None:
    code = "import os, sys, time; from vbcli.shards import ShardWriter; from pathlib import Path; import pyarrow as pa\n"
    code += "ShardWriter(Path(sys.argv[1]), pa.schema([('video_id', pa.string())])); print(flush=True); time.sleep(60)"
    path = tmp_path / "shard-00000.parquet"
    others = [subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE) for _ in range(2)]
    try:
        for other in others:
            assert other.stdout is not None
            assert other.stdout.readline()
        assert len(names_in(tmp_path)) == 2
        others[0].kill()
        others[0].wait()
        write_shard(path, [table_of([row("a")])])
        assert len(names_in(tmp_path)) == 2
        assert path.name in names_in(tmp_path)
    finally:
        for other in others:
            other.kill()
            other.communicate()
    write_shard(path, [table_of([row("a")])])
    assert names_in(tmp_path) == [path.name]


def cut(rows: list[dict[str, Any]], cuts: Sequence[int]) -> list[pa.Table]:
    bounds = [0, *sorted(min(c, len(rows)) for c in cuts), len(rows)]
    return [table_of(rows[a:b]) for a, b in itertools.pairwise(bounds)]


@settings(max_examples=30)
@given(ROWS, st.lists(st.integers(0, 12), max_size=5))
def test_a_shard_does_not_depend_on_how_its_rows_came(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], cuts: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "ROW_GROUP_BYTES", 400)
        whole = write_shard(folder / "shard-00000.parquet", [table_of(rows)])
        pieces = write_shard(folder / "shard-00001.parquet", cut(rows, cuts))
        slices = write_shard(folder / "shard-00002.parquet", [table_of([row("z"), *rows, row("z")]).slice(1, len(rows))])
        reread = write_shard(folder / "shard-00003.parquet", list(shards.iter_videos(pieces)))
    assert len({shards.read_footer(p)["content_sha256"] for p in (whole, pieces, slices, reread)}) == 1
    assert whole.read_bytes() == pieces.read_bytes() == slices.read_bytes() == reread.read_bytes()


@settings(max_examples=30)
@given(ROWS.filter(bool), st.data())
def test_the_digest_of_a_shard_changes_with_any_value(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    at = data.draw(st.integers(0, len(rows) - 1))
    name = data.draw(st.sampled_from(["pts_s", "image", "captions", "feature"]))
    other = [dict(r) for r in rows]
    other[at][name] = data.draw(ROW.map(lambda r: r[name]))
    tables = [table_of(rows), table_of(other)]
    paths = [write_shard(folder / shards.shard_name(i), [table]) for i, table in enumerate(tables)]
    digests = [shards.read_footer(p)["content_sha256"] for p in paths]
    # 0.0 and -0.0 are equal to Python and different as bits.
    assert (digests[0] == digests[1]) == (repr(tables[0].to_pylist()) == repr(tables[1].to_pylist()))
    narrow = [shards.input_digest(p, ["video_id", "pts_s"]) for p in paths]
    assert (narrow[0] == narrow[1]) == (repr(rows[at]["pts_s"]) == repr(other[at]["pts_s"]))
    assert shards.input_digest(paths[0], None) == digests[0]


@pytest.mark.parametrize(
    ("kind", "one", "other"),
    [
        (pa.string(), ["ab", "c"], ["a", "bc"]),
        (pa.string(), ["", None], [None, ""]),
        (pa.binary(), [b"a\0", b""], [b"a", b"\0"]),
        (pa.list_(pa.int32()), [[1], [2, 3]], [[1, 2], [3]]),
        (pa.list_(pa.int32()), [[], None], [None, []]),
        (pa.list_(pa.string()), [["a"], ["b", "c"]], [["a", "b"], ["c"]]),
        (pa.struct([("x", pa.int8()), ("y", pa.int8())]), [{"x": 1, "y": None}], [{"x": None, "y": 1}]),
        (pa.struct([("x", pa.int8())]), [None], [{"x": None}]),
        (pa.int64(), [0, None], [None, 0]),
        (pa.bool_(), [True, False], [False, True]),
        (pa.list_(pa.float16(), 2), [[1, 2], [3, 4]], [[1, 3], [2, 4]]),
    ],
)
def test_rows_that_are_alike_when_run_together_have_other_digests(kind: pa.DataType, one: list[Any], other: list[Any]) -> None:
    tables = [pa.table({"a": pa.array(values, kind)}) for values in (one, other)]
    assert table_digest(tables[0]) != table_digest(tables[1])
    again = pa.table({"a": pa.chunked_array([pa.array(one[:1], kind), pa.array(one[1:], kind)])})
    assert table_digest(again) == table_digest(tables[0])
    assert table_digest(again.rename_columns(["b"])) != table_digest(tables[0])
    assert table_digest(pa.table({"a": pa.array([None, *one, None], kind)}).slice(1, len(one))) == table_digest(tables[0])


def test_videos_are_put_together_again_across_row_groups(tmp_path: Path) -> None:
    """Row groups that cut videos in pieces, as another writer may leave them."""
    rows = [row(video_id, i / 8) for i, video_id in enumerate("aaabccccccdd")]
    path = tmp_path / "shard-00000.parquet"
    for group_size in (1, 2, 5, 12):
        pq.write_table(table_of(rows), path, row_group_size=group_size)
        tables = list(shards.iter_videos(path))
        assert [t.column("video_id").to_pylist() for t in tables] == [["a"] * 3, ["b"], ["c"] * 6, ["d"] * 2]
        assert pa.concat_tables(tables).equals(pq.read_table(path))
        assert [t.num_rows for t in shards.iter_videos(path, ["video_id"])] == [3, 1, 6, 2]
        assert next(shards.iter_videos(path, ["video_id"])).column_names == ["video_id"]


@pytest.mark.usefixtures("small_groups")
def test_row_groups_hold_whole_videos(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "shard-00000.parquet", [table_of([row(v)]) for v in "aaaaaaaabcdddddddd"])
    with pq.ParquetFile(path) as file:
        groups = [file.read_row_group(i).column("video_id").to_pylist() for i in range(file.num_row_groups)]
    assert len(groups) > 1
    assert not any(a[-1] == b[0] for a, b in itertools.pairwise(groups))


def test_a_shard_without_rows_can_be_read(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "shard-00000.parquet", [SCHEMA.empty_table()])
    assert list(shards.iter_videos(path)) == []
    assert shards.read_footer(path)["n_rows"] == 0
    assert pq.read_table(path).num_rows == 0


@given(st.lists(st.sampled_from("abc"), max_size=8))
def test_rows_are_split_where_the_video_changes(names: list[str]) -> None:
    table = table_of([row(v, i) for i, v in enumerate(names)])
    parts = shards.split_by_video(table)
    assert pa.concat_tables(parts).equals(table)
    runs = [v for i, v in enumerate(names) if i == 0 or names[i - 1] != v]
    assert [p.column("video_id").to_pylist()[0] for p in parts if p.num_rows] == runs
    assert all(len(set(p.column("video_id").to_pylist())) <= 1 for p in parts)


def damaged(path: Path) -> Iterator[bytes]:
    data = path.read_bytes()
    yield b""
    yield b"not Parquet at all"
    yield data[: len(data) // 2]
    yield data[:-4] + b"XXXX"


def test_a_damaged_shard_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "shard-00000.parquet", [table_of([row("a", i / 7) for i in range(50)])])
    good = path.read_bytes()
    for data in damaged(path):
        path.write_bytes(data)
        for read in (shards.read_footer, lambda p: shards.input_digest(p, ["video_id"]), lambda p: list(shards.iter_videos(p))):
            with pytest.raises(VbcliError, match=f"{path} cannot be read as Parquet"):
                read(path)
    # The footer is whole and the pages are not.
    path.write_bytes(good[:4] + bytes(range(100)) + good[104:])
    assert shards.read_footer(path)["n_rows"] == 50
    with pytest.raises(VbcliError, match=f"{path} cannot be read as Parquet"):
        list(shards.iter_videos(path))
    text, digest = (good.replace(*pair) for pair in ((b'"failed"', b'"fail\xff"'), (b'"content_sha256"', b'"content_sha257"')))
    for data in (text, digest, good.replace(b'"n_rows": 50', b'"n_rows": "5')):
        path.write_bytes(data)
        with pytest.raises(VbcliError, match=f"{path} cannot be read as Parquet"):
            shards.read_footer(path)
    pq.write_table(table_of([row("a")]), path)
    with pytest.raises(VbcliError, match=f"{path} was not written by vbcli"):
        shards.read_footer(path)


def test_a_shard_that_cannot_be_reached_is_not_damaged(tmp_path: Path) -> None:
    with pytest.raises(VbcliError, match=r"none\.parquet cannot be read: No such file or directory") as caught:
        shards.read_footer(tmp_path / "none.parquet")
    assert not isinstance(caught.value, shards.DamagedShardError)


def test_a_column_that_is_lost_and_text_that_is_none_are_damage(tmp_path: Path) -> None:
    path = tmp_path / "shard-00000.parquet"
    bad = pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff"))
    for table, reads in (
        (pa.table({"video_je": ["a"], "pts_s": [0.5]}), [None, ["video_id"]]),
        (pa.table({"video_id": bad, "pts_s": [0.5]}), [None, ["video_id"]]),
        (pa.table({"video_id": ["a"]}), [["video_id", "pts_s"]]),
    ):
        pq.write_table(table, path)
        for columns in reads:
            for read in (shards.read_shard, lambda p, c: list(shards.iter_videos(p, c))):
                with pytest.raises(VbcliError, match=f"{path} cannot be read as Parquet"):
                    read(path, columns)


# ---------------------------------------------------------------- failures and manifests


@settings(max_examples=40)
@given(st.lists(st.tuples(TEXT, TEXT, TEXT, TEXT), max_size=4))
def test_failures_are_read_back(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str, str]]) -> None:
    folder = tmp_path_factory.mktemp("frames")
    failures = [ItemFailure(*r) for r in rows]
    shards.write_failures(folder, 3, failures)
    assert shards.read_failures(folder, 3) == failures
    assert shards.read_failures(folder, 2) == []
    shards.write_failures(folder, 2, [ItemFailure("b", "extract", "MediaError", "first")])
    assert shards.read_failures(folder)[1:] == failures
    shards.write_failures(folder, 3, [])
    assert names_in(folder) == ["_errors/shard-00002.jsonl"]


def test_a_damaged_record_of_failures_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = shards.errors_path(tmp_path, 0)
    for text in ('{"video_id": "a"', '{"video_id": "a"}\n', "[]\n"):
        write_atomic(path, text.encode())
        with pytest.raises(VbcliError, match=str(path)):
            shards.read_failures(tmp_path)


def test_another_configuration_is_refused_and_named(tmp_path: Path) -> None:
    shards.claim_manifest(tmp_path, MANIFEST)
    shards.claim_manifest(tmp_path, MANIFEST)
    assert shards.read_manifest(tmp_path, "features", "frames") == MANIFEST
    for config, message in (
        ({"fps": 4.0, "fit": "short"}, "was made with fps = 2.0, not 4.0"),
        ({"fps": 2.0}, 'was made with fit = "short", not null'),
        ({"fps": 2.0, "fit": "short", "size_px": 32}, "was made with size_px = null, not 32"),
        ({"fps": 2.0, "fit": "x" * 99}, r"not \"x{76}\.\.\.$"),
    ):
        with pytest.raises(VbcliError, match=message) as caught:
            shards.claim_manifest(tmp_path, Manifest("frames", "extract", 1, config, {}, []))
        assert str(tmp_path) in caught.value.message
        assert "another output folder" in str(caught.value.hint)
    for stage, version in (("encode", 1), ("extract", 2)):
        with pytest.raises(VbcliError, match=f"made by extract version 1, not by {stage} version {version}"):
            shards.claim_manifest(tmp_path, Manifest("frames", stage, version, MANIFEST.config, {}, []))
    assert shards.read_manifest(tmp_path) == MANIFEST
    shards.claim_manifest(tmp_path / "tuples", Manifest("frames", "extract", 1, {"a": (1, 2)}, {}, []))
    shards.claim_manifest(tmp_path / "tuples", Manifest("frames", "extract", 1, {"a": (1, 2)}, {}, []))


def test_a_folder_that_is_no_such_dataset_is_refused_with_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(VbcliError, match=f"{tmp_path} is not a frames dataset: it has no manifest.json") as caught:
        shards.read_manifest(tmp_path, "frames")
    assert caught.value.hint == "make one with: vbcli extract VIDEOS_DIR"
    shards.claim_manifest(tmp_path, MANIFEST)
    with pytest.raises(VbcliError, match=f"{tmp_path} is a frames dataset, not a features or tokens dataset") as caught:
        shards.read_manifest(tmp_path, "features", "tokens")
    assert caught.value.hint == "make one with: vbcli encode"


@pytest.mark.parametrize("data", [b"", b"{", b"[1, 2]", b"null", b'{"kind": "frames"}', b"\xff\xfe", b'{"kind": 1, "colour": 2}'])
def test_a_damaged_manifest_is_an_error_that_names_it(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(data)
    with pytest.raises(VbcliError, match=str(path)):
        shards.claim_manifest(tmp_path, MANIFEST)
    assert path.read_bytes() == data


def test_messages_name_a_kind_with_its_article(tmp_path: Path):
    shards.claim_manifest(tmp_path, Manifest("answers", "answer", 1, {}, {}, []))
    for kinds, said in (
        (("tokens",), "an answers dataset, not a tokens dataset"),
        (("index",), "an answers dataset, not an index dataset"),
    ):
        with pytest.raises(VbcliError, match=f"{tmp_path} is {said}"):
            shards.read_manifest(tmp_path, *kinds)
    with pytest.raises(VbcliError, match="the manifest of an answers dataset has no 'fps'"):
        shards.read_manifest(tmp_path).fact("fps")
    with pytest.raises(VbcliError, match="is not an answers or tokens dataset: it has no manifest"):
        shards.read_manifest(tmp_path / "nothing", "answers", "tokens")
