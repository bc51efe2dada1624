"""Folders on other machines: in memory, and in a store that speaks S3, run here."""

from __future__ import annotations

import gc
import os
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import s3fs
from moto.server import ThreadedMotoServer
from upath import UPath

from tests.e2e.commands import vbcli
from vbcli import shards
from vbcli.curation.exports import export_dataset
from vbcli.encoders import load_encoder
from vbcli.errors import ItemFailure, MediaError, VbcliError
from vbcli.files import write_atomic, write_json
from vbcli.pipeline import RunOptions, encode_dataset, extract_videos, tokenize_dataset
from vbcli.stages.extract import Extract
from vbcli.storage import MAX_FETCHED, FetchedCopies, as_path, copy_folder, fetch, is_remote, local_output, upload
from vbcli.text.captionfiles import read_caption_file
from vbcli.validation import validate
from vbcli.vocab.build import build_vocabulary
from vbcli.vocab.config import VocabConfig

SERIAL = RunOptions("serial")


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """An empty folder in memory."""
    folder = as_path(f"memory://{tmp_path.name}")
    yield folder
    if folder.exists():
        folder.rmdir(recursive=True)  # type: ignore[call-arg]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    running = ThreadedMotoServer(port=0)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name, value in {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    name = f"bucket-{os.getpid()}-{abs(hash(str(tmp_path))) % 10**8}"
    s3fs.S3FileSystem().mkdir(name)
    return as_path(f"s3://{name}/data")


def test_what_is_an_address_and_what_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(as_path("memory://a/b"), UPath)
    # As a command line passes it on.
    assert str(as_path(Path("memory://a/b"))) == "memory://a/b"
    for plain in ("a/b.mp4", "/a/b", "c:d", "http.mp4", str(tmp_path)):
        assert as_path(plain) == Path(plain)
        assert not is_remote(as_path(plain))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "memory:").mkdir()
    (tmp_path / "memory:" / "own").mkdir()
    assert as_path("memory:/own") == Path("memory:/own")
    with pytest.raises(VbcliError, match="nosuch:// is not known here"):
        as_path("nosuch://a/b")
    for address in ("file:///a/b c.mp4", Path("file:///a/b c.mp4"), "local:///a/b c.mp4"):
        assert as_path(address) == Path("/a/b c.mp4")


def test_a_store_that_cannot_be_reached_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, video_folder: Path) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "key")
    for paths in (["s3://bucket/videos", "out"], [video_folder, "s3://bucket/out"]):
        s3fs.S3FileSystem.clear_instance_cache()
        ended = vbcli("extract", *paths, cwd=tmp_path, status=1)
        assert 'error: a store cannot be used: Could not connect to the endpoint URL: "http://127.0.0.1:9' in ended.stderr.replace(
            "\n", " "
        )
    s3fs.S3FileSystem.clear_instance_cache()


def test_files_appear_whole_and_once(memory: Path) -> None:
    assert write_atomic(memory / "a" / "b.txt", b"one")
    assert not write_atomic(memory / "a" / "b.txt", b"two", is_exclusive=True)
    assert (memory / "a" / "b.txt").read_bytes() == b"one"
    assert write_json(memory / "c.json", {"x": 1}, is_exclusive=True)


def test_a_shard_that_a_store_does_not_hand_out_is_not_damaged(memory: Path) -> None:
    """Else it would be made again, without the videos that are gone."""
    with pytest.raises(VbcliError, match=r"shard-00000\.parquet cannot be read: FileNotFoundError") as caught:
        shards.read_footer(memory / "shard-00000.parquet")
    assert not isinstance(caught.value, shards.DamagedShardError)


def test_a_shard_that_is_not_finished_is_not_there(memory: Path, video_folder: Path, tmp_path: Path) -> None:
    extract_videos(video_folder, tmp_path / "frames", Extract(size_px=32), options=SERIAL)
    table = shards.read_shard(tmp_path / "frames" / "shard-00000.parquet")
    with suppress(RuntimeError), shards.ShardWriter(memory / "shard-00000.parquet", table.schema) as writer:
        writer.write(table)
        raise RuntimeError
    assert not (memory / "shard-00000.parquet").exists()


def break_off(monkeypatch: pytest.MonkeyPatch, name: str, n_bytes: int, error: BaseException) -> None:
    """Has the copying of a file end by an error after so many bytes."""
    copy = shutil.copyfileobj

    def copy_part(read: Any, write: Any, size: int) -> None:
        # A file of fsspec's has no name; it has a path.
        if Path(getattr(read, "path", None) or read.name).name != name:
            copy(read, write, size)
            return
        for _ in range(0, n_bytes, 1 << 20):
            write.write(bytes(min(n_bytes, 1 << 20)))
        raise error

    monkeypatch.setattr("vbcli.storage.shutil.copyfileobj", copy_part)


# s3fs begins an upload in parts at 50 MB.
@pytest.mark.parametrize(("n_bytes", "error"), [(1000, KeyboardInterrupt()), (60 << 20, OSError("no such sector"))])
@pytest.mark.parametrize("place", ["memory", "bucket"])
def test_an_upload_that_breaks_off_leaves_nothing(
    place: str, n_bytes: int, error: BaseException, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root: Path = request.getfixturevalue(place)
    write_atomic(root / "other", b"other")
    (tmp_path / "new").write_bytes(b"")
    break_off(monkeypatch, "new", n_bytes, error)
    with pytest.raises(type(error)):
        upload(tmp_path / "new", root / "new")
    gc.collect()
    assert [path.name for path in root.iterdir()] == ["other"]
    if place == "bucket":
        assert s3fs.S3FileSystem().list_multipart_uploads(root.parts[0].strip("/")) == []
        write_atomic(root / "new", b"as it was")
        with pytest.raises(type(error)):
            upload(tmp_path / "new", root / "new")
        gc.collect()
        assert (root / "new").read_bytes() == b"as it was"


def test_a_folder_whose_copying_breaks_off_has_whole_files_alone(bucket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "from").mkdir()
    for name in ("a", "b", "c"):
        (tmp_path / "from" / name).write_text(name)
    break_off(monkeypatch, "b", 1000, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        copy_folder(tmp_path / "from", bucket / "to")
    gc.collect()
    assert {path.name: path.read_bytes() for path in (bucket / "to").iterdir()} == {"a": b"a"}


def test_a_model_that_arrived_in_part_is_fetched_again(memory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("a", "b"):
        write_atomic(memory / "model" / name, name.encode())
    with monkeypatch.context() as patched:
        break_off(patched, "b", 1000, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt), local_output(memory / "model"):
            pass
    with local_output(memory / "model") as folder:
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"a": b"a", "b": b"b"}


def test_each_of_many_remote_videos_is_fetched_as_itself(memory: Path) -> None:
    names = [f"{i // 10}/{i % 10}.mp4" for i in range(MAX_FETCHED + 20)]
    for name in names:
        write_atomic(memory / name, name.encode())
    # The second time those come first that were asked for last.
    for name in (*names, *reversed(names)):
        copy = Path(fetch(str(memory / name)))
        assert (copy.name.endswith(Path(name).name), copy.read_bytes()) == (True, name.encode())
    # A copy that somebody removed is no reason to stop.
    Path(fetch(str(memory / names[0]))).unlink()
    for name in reversed(names[1:]):
        assert Path(fetch(str(memory / name))).read_bytes() == name.encode()


def test_copies_that_fill_the_disk_make_room_for_the_next(memory: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        write_atomic(memory / name, name.encode())
    copies = FetchedCopies()
    kept = Path(copies.get(str(memory / "a.mp4")))
    # Where the next one goes there is no room.
    Path(copies.folder, "2-b.mp4").symlink_to("/dev/full")
    assert Path(copies.get(str(memory / "b.mp4"))).read_bytes() == b"b.mp4"
    assert not kept.exists()
    full = FetchedCopies()
    Path(full.folder, "1-a.mp4").symlink_to("/dev/full")
    with pytest.raises(VbcliError, match=r"has no room for a copy of .*a\.mp4") as caught:
        full.get(str(memory / "a.mp4"))
    # No fault of the video.
    assert not isinstance(caught.value, MediaError)
    assert list(Path(full.folder).iterdir()) == []


def chain(videos: Path, root: Path) -> dict[str, list]:
    """The chain from videos to tokens, and what is in it."""
    extract_videos(videos, root / "frames", Extract(fps=4, size_px=48), [videos / "captions.csv"], SERIAL)
    encoder = load_encoder("timm:test_convnext/random", pool="mean", precision="float32", clip_s=0.25).spec
    encode_dataset(root / "frames", root / "features", encoder, options=SERIAL)
    build_vocabulary(root / "features", root / "vocab", VocabConfig(2, 2, 0, n_codebooks=1))
    tokenize_dataset(root / "features", root / "tokens", root / "vocab", options=SERIAL)
    names = {"frames": ["video_id", "pts_s", "image"], "features": ["video_id", "start_s", "feature"]}
    names["tokens"] = ["video_id", "visual_tokens", "text"]
    return {name: shards.read_rows(root / name, columns) for name, columns in names.items()}


@pytest.mark.parametrize("place", ["memory", "bucket"])
def test_the_chain_on_another_machine_is_that_on_this(
    place: str, request: pytest.FixtureRequest, video_folder: Path, tmp_path: Path
) -> None:
    root: Path = request.getfixturevalue(place)
    copy_folder(video_folder, root / "videos")
    (root / "videos" / "broken.mp4").write_bytes(b"no video")
    shutil.copytree(video_folder, tmp_path / "videos")
    (tmp_path / "videos" / "broken.mp4").write_bytes(b"no video")
    assert chain(root / "videos", root) == chain(tmp_path / "videos", tmp_path)
    for name in ("frames", "features", "tokens"):
        assert list(validate(root / name, reads_data=True)) == []
    (failure,) = shards.read_failures(root / "frames")
    assert isinstance(failure, ItemFailure)
    assert failure.message.startswith(f"{root}/videos/broken.mp4 cannot be opened")
    # The same again does nothing.
    again = extract_videos(root / "videos", root / "frames", Extract(fps=4, size_px=48), options=SERIAL)
    assert (again.n_done, again.n_waiting) == (0, 1)
    videos = {row["video_id"]: row for row in shards.read_rows(root / "frames" / "videos")}
    assert videos["a.mp4"]["transcript"][0]["text"] == "The bars move."
    assert videos["a.mp4"]["path"] == f"{root}/videos/a.mp4"


def test_videos_in_tars_of_a_store_are_those_of_tars_here(bucket: Path, video_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    with tarfile.open(tmp_path / "videos" / "x.tar", "w") as tar:
        for name in ("a.mp4", "a.srt", "c.mp4"):
            tar.add(video_folder / name, f"sub/{name}")
        (tmp_path / "said.json").write_text('{"caption": "said"}')
        tar.add(tmp_path / "said.json", "sub/c.json")
    (tmp_path / "videos" / "broken.tar").write_bytes(b"no tar" * 200)
    copy_folder(tmp_path / "videos", bucket / "videos")
    made = []
    for root, out in ((tmp_path / "videos", tmp_path / "here"), (bucket / "videos", tmp_path / "there")):
        notes: list[str] = []
        options = RunOptions("serial", on_note=notes.append)
        assert extract_videos(root, out, Extract(size_px=32), options=options).n_failed == 0
        assert [note.startswith(f"{root}/broken.tar cannot be read as a tar file") for note in notes] == [True]
        said = [[row["captions"], row["transcript"], row["duration_s"]] for row in shards.read_rows(out / "videos")]
        made.append((said, shards.read_rows(out, ["video_id", "pts_s", "image"])))
    assert made[0] == made[1]
    assert {row["video_id"] for row in made[0][1]} == {"x/sub/a.mp4", "x/sub/c.mp4"}
    # As files of their own, too, and by the address of the tar file alone.
    extract_videos(bucket / "videos" / "x.tar", tmp_path / "one", Extract(size_px=32), options=SERIAL)
    assert shards.read_rows(tmp_path / "one", ["video_id", "pts_s", "image"]) == made[0][1]
    export_dataset(tmp_path / "there" / "videos", tmp_path / "wds", "webdataset")
    with tarfile.open(tmp_path / "wds" / "shard-00000.tar") as tar:
        file = tar.extractfile("x/sub/c.mp4")
        assert file is not None
        assert file.read() == (video_folder / "c.mp4").read_bytes()


def test_a_mistake_in_a_caption_file_of_a_store_is_named(memory: Path) -> None:
    write_atomic(memory / "c.csv", b"video,caption\n,nothing\n")
    with pytest.raises(VbcliError, match=f"{memory}/c.csv, line 2: column 'video' is empty"):
        read_caption_file(memory / "c.csv")


def test_commands_take_addresses(bucket: Path, video_folder: Path, tmp_path: Path) -> None:
    copy_folder(video_folder, bucket / "videos")
    address = str(bucket)
    vbcli("extract", f"{address}/videos", f"{address}/frames", "--size", "32", "--executor", "serial", cwd=tmp_path)
    assert "is whole" in vbcli("validate", f"{address}/frames", "--read-data", cwd=tmp_path).stdout
    assert "kind: frames" in vbcli("inspect", f"{address}/frames", cwd=tmp_path).stdout
    vbcli("filter", f"{address}/frames", "here", "--where", "pts_s < 1", cwd=tmp_path)
    assert {row["pts_s"] < 1 for row in shards.read_rows(tmp_path / "here", ["pts_s"])} == {True}
    said = vbcli("extract", f"{address}/nowhere", "x", cwd=tmp_path, status=1).stderr
    assert f"{address}/nowhere does not exist" in " ".join(said.split())
    assert not any(tmp_path.glob("s3:*"))


def test_models_and_videos_go_to_the_store(bucket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    at = f"{bucket}/"
    vbcli("demo-data", at + "world", "--n-videos", "4", cwd=tmp_path)
    said = vbcli("demo-data", at + "world", "--n-videos", "4", cwd=tmp_path, status=1).stderr
    assert f"{bucket}/world exists and is not an empty folder" in " ".join(said.split())
    copy_folder(bucket / "world", tmp_path / "world")
    assert (tmp_path / "world" / "README.txt").read_text().startswith("A made video world")
    copy_folder(tmp_path / "world" / "videos", bucket / "videos")
    small = ("--encoder", "timm:test_convnext/random", "--pool", "mean", "--executor", "serial")
    vbcli("encode", at + "videos", at + "features", "--captions", at + "world/captions.csv", *small, cwd=tmp_path)
    vbcli("build-vocab", at + "features", at + "vocab", "--codebooks", "1", "--whiten", "0", cwd=tmp_path)
    vbcli("tokenize", at + "features", at + "tokens", "--vocab", at + "vocab", cwd=tmp_path)
    train = ("train", at + "tokens", at + "model", "--task", "caption", "--max-steps", "2", "--model", "videobert-tiny")
    vbcli(*train, cwd=tmp_path)
    assert "trained already" in " ".join(vbcli(*train, cwd=tmp_path).stderr.split())
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
    further = ("--task", "pretrain", "--init", at + "model", "--text", at + "world/captions.csv", "--max-steps", "2")
    vbcli("train", at + "tokens", at + "further", *further, cwd=tmp_path)
    assert (bucket / "further" / "config.json").is_file()
    vbcli("caption", at + "videos", at + "captions", "--checkpoint", at + "model", "--executor", "serial", cwd=tmp_path)
    assert len(shards.read_rows(bucket / "captions")) == 4
    also = ("--also", f"same={at}captions", "--split", "train", "--lexicon", at + "world/lexicon.json", "--no-meteor")
    assert "same" in vbcli("evaluate", at + "captions", at + "world/captions.csv", *also, cwd=tmp_path).stdout
    vbcli("summarize", at + "videos", at + "short", "--checkpoint", at + "model", "--executor", "serial", cwd=tmp_path)
    assert len([path for path in (bucket / "short").rglob("*") if path.name == "summary.mp4"]) == 4
    first, second = sorted(path.name for path in (tmp_path / "world" / "videos").glob("*.mp4"))[:2]
    said = ("--instruction", "drop the first second", "--out", at + "edits/cut.mp4")
    vbcli("edit", at + "videos/" + first, f"world/videos/{second}", *said, cwd=tmp_path)
    assert sorted(path.name for path in (bucket / "edits").iterdir()) == ["cut.edl", "cut.mp4", "cut.otio"]
    vbcli("export", at + "captions", at + "tables", "--to", "csv", cwd=tmp_path)
    assert (bucket / "tables" / "shard-00000.csv").read_bytes().startswith(b"video_id,")


def test_worker_processes_write_to_the_store_too(bucket: Path, video_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vbcli.stages.scan.VIDEOS_PER_SHARD", 2)
    extract_videos(video_folder, bucket / "frames", Extract(size_px=32), options=RunOptions("processes", 2))
    extract_videos(video_folder, tmp_path / "frames", Extract(size_px=32), options=SERIAL)
    assert len(shards.list_shards(bucket / "frames")) == 2
    for path in shards.list_shards(bucket / "frames"):
        assert path.read_bytes() == (tmp_path / "frames" / path.name).read_bytes()


def test_a_folder_that_is_written_here_is_uploaded_when_it_is_finished(
    memory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with local_output(memory / "model") as folder:
        folder.mkdir()
        (folder / "weights").write_bytes(b"1")
        assert not (memory / "model").exists()
    assert (memory / "model" / "weights").read_bytes() == b"1"
    with suppress(RuntimeError), local_output(memory / "model") as folder:
        assert (folder / "weights").read_bytes() == b"1"
        (folder / "weights").write_bytes(b"2")
        raise RuntimeError
    assert (memory / "model" / "weights").read_bytes() == b"1"
    # What was done is not lost: the next run goes on with it.
    with local_output(memory / "model") as folder:
        assert (folder / "weights").read_bytes() == b"2"
    assert (memory / "model" / "weights").read_bytes() == b"2"
    assert not any(path.is_file() for path in (tmp_path / "cache").rglob("*"))
