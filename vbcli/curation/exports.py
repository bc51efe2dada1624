"""Datasets in the forms of other programs: WebDataset (tar files), JSON lines and CSV."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import pyarrow as pa

from vbcli import shards
from vbcli.config import config_hash
from vbcli.errors import MediaError, VbcliError
from vbcli.files import check_free, not_written, read_json, remove_temporary, temporary_path, write_atomic, write_json
from vbcli.media.containers import open_path
from vbcli.runner import read_videos
from vbcli.storage import is_remote, split_member

ExportForm = Literal["webdataset", "jsonl", "csv"]
BINARY = ("image", "feature", "features", "fused")
"""Columns that tables of text leave out, and that are files of their own in WebDataset."""
RECORD_NAME = ".vbcli-export.json"
"""Beside the files, what they were made of; hidden, as readers of JSON lines take every `*.json` of a folder."""


def export_dataset(dataset_dir: Path, out_dir: Path, form: ExportForm) -> list[str]:
    """Writes a dataset for other programs, a file for each of its shards.

    webdataset  `shard-00000.tar` with a sample for each video: its row of the videos dataset and its own rows as `KEY.json`, and beside it
                the frames (`KEY.00000.jpg`, ...), the features (`KEY.npy`) or, of other datasets, the video itself (`KEY.mp4`)
    jsonl, csv  a line for each row, without frames and features; lists in CSV are JSON

    A file that is there is made again where its shard, or what is known of its videos, changed, and where videos could not be read.

    Returns:
        Sentences on videos that could not be read, and are in no tar.

    Raises:
        VbcliError: there is no such dataset, or `out_dir` holds something else, such as the export of another one.
    """
    manifest = shards.read_manifest(dataset_dir)
    paths = shards.list_shards(dataset_dir)
    if not paths:
        raise VbcliError(f"{dataset_dir} has no shards", hint="run the command that makes it")
    suffix = "tar" if form == "webdataset" else form
    targets = {path: out_dir / f"{path.stem}.{suffix}" for path in paths}
    videos_dir = dataset_dir if manifest.kind == "videos" else dataset_dir / "videos"
    made_of = _claim(out_dir, [target.name for target in targets.values()], _identity(dataset_dir, manifest, videos_dir, form))
    videos = {row["video_id"]: row for row in _video_rows(dataset_dir, manifest.kind)}
    keys = sample_keys(videos)
    notes: list[str] = []
    for path, target in targets.items():
        digest = config_hash([shards.read_footer(p)["content_sha256"] for p in (path, videos_dir / path.name)])
        if target.exists() and made_of["files"].get(target.name) == digest:
            continue
        n_before = len(notes)
        if form == "webdataset":
            _write_tar(target, shards.iter_videos(path), videos, keys, notes)
        else:
            _write_text(target, shards.iter_videos(path), form)
        # What lacks a video is not what its digest promises: the next run tries again.
        made_of["files"][target.name] = digest if len(notes) == n_before else None
        write_json(out_dir / RECORD_NAME, made_of)
    return notes


def _identity(dataset_dir: Path, manifest: shards.Manifest, videos_dir: Path, form: ExportForm) -> dict[str, Any]:
    """What stays the same of a dataset when its videos change: how it was made, and with which video each shard begins."""
    made = [[m["kind"], m["stage"], m["version"], m["config"]] for m in (manifest.as_dict(), *manifest.parents)]
    first = {path.stem: _first_video(path) for path in shards.list_shards(videos_dir)}
    path = str(dataset_dir if is_remote(dataset_dir) else dataset_dir.absolute())
    return {"dataset": path, "form": form, "made": config_hash(made), "first_videos": first, "files": {}}


def _first_video(path: Path) -> str | None:
    return next((table.column("video_id")[0].as_py() for table in shards.iter_videos(path, ["video_id"])), None)


def _claim(out_dir: Path, names: list[str], identity: dict[str, Any]) -> dict[str, Any]:
    """The record of what the files in a folder were made of; a folder that is free gets one.

    Raises:
        VbcliError: the folder holds something else.
    """
    record = out_dir / RECORD_NAME
    if not record.is_file():
        check_free(out_dir)
        write_json(record, identity)
        return identity
    there = read_json(record)
    if not isinstance(there, dict) or there.keys() != identity.keys():
        raise VbcliError(f"{record} is no record of an export", hint=f"it is damaged: delete {out_dir}, and export again")
    first, mine = there["first_videos"], identity["first_videos"]
    is_same = (there["form"], there["made"]) == (identity["form"], identity["made"])
    if not is_same or any(mine.get(name) != video_id for name, video_id in first.items()):
        raise VbcliError(
            f"{out_dir} holds {there['form']} of {there['dataset']}, and not {identity['form']} of the dataset {identity['dataset']}",
            hint="name a new folder, or delete this one",
        )
    check_free(out_dir, (RECORD_NAME, *names))
    return {**identity, "files": there["files"]}


def _video_rows(dataset_dir: Path, kind: str) -> list[dict[str, Any]]:
    return shards.read_rows(dataset_dir) if kind == "videos" else read_videos(dataset_dir).to_pylist()


# ---------------------------------------------------------------- tables of text


def _write_text(target: Path, tables: Iterator[pa.Table], form: ExportForm) -> None:
    buffer = io.StringIO(newline="")
    writer = None
    for table in tables:
        kept = table.drop_columns([name for name in BINARY if name in table.column_names])
        for row in kept.to_pylist():
            if form == "jsonl":
                buffer.write(json.dumps(row, ensure_ascii=False) + "\n")
                continue
            if writer is None:
                writer = csv.DictWriter(buffer, list(row), lineterminator="\n")
                writer.writeheader()
            writer.writerow({k: json.dumps(v, ensure_ascii=False) if isinstance(v, list | dict) else v for k, v in row.items()})
    write_atomic(target, buffer.getvalue().encode())


# ---------------------------------------------------------------- WebDataset


def _write_tar(target: Path, tables: Iterator[pa.Table], videos: dict[str, dict[str, Any]], keys: dict[str, str], notes: list[str]) -> None:
    temporary = temporary_path(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(temporary, "w", format=tarfile.GNU_FORMAT) as tar:
            for table in tables:
                video_id = table.column("video_id")[0].as_py()
                try:
                    _write_sample(tar, keys[video_id], table, videos[video_id])
                except MediaError as error:
                    notes.append(error.message)
        os.replace(temporary, target)
    except OSError as error:
        raise not_written(target, error) from error
    finally:
        remove_temporary(temporary)


def _write_sample(tar: tarfile.TarFile, key: str, table: pa.Table, video: dict[str, Any]) -> None:
    """The members of one video; all of them have names that begin with its key, as WebDataset wants it."""
    rows = table.drop_columns([name for name in BINARY if name in table.column_names]).to_pylist()
    described = json.dumps({**video, "rows": rows}, ensure_ascii=False).encode()
    # The video before its description: what cannot be read leaves no half sample.
    for name, data in _binary_files(key, table, video["video_id"], video["path"]):
        _add(tar, name, data)
    _add(tar, f"{key}.json", described)


def _binary_files(key: str, table: pa.Table, video_id: str, path: str) -> Iterator[tuple[str, bytes | BinaryIO]]:
    if "image" in table.column_names:
        for row in table.select(["frame_index", "image"]).to_pylist():
            yield f"{key}.{row['frame_index']:05d}.jpg", row["image"]["bytes"]
        return
    name = next((n for n in BINARY if n in table.column_names), None)
    if name is not None:
        values = [value for row in table.column(name).to_pylist() for value in (row if _is_nested(row) else [row])]
        yield f"{key}.npy", _as_npy(np.array(values, np.float32))
        return
    member = split_member(path)
    suffix = os.path.splitext(path if member is None else video_id)[1].lower()
    try:
        with open(open_path(path), "rb") as file:
            if member is None or is_remote(path):
                yield f"{key}{suffix}", file  # of a tar file in a store the video was fetched alone
            else:
                file.seek(member[1])
                yield f"{key}{suffix}", file.read(member[2])
    except OSError as error:
        raise MediaError(f"{path} cannot be read: {error.strerror}") from error


def _is_nested(value: list[Any]) -> bool:
    return bool(value) and isinstance(value[0], list)


def _as_npy(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()


def sample_keys(video_ids: Iterable[str]) -> dict[str, str]:
    """A key for each video, without dots but those of folders: what stands behind the first dot of a name is the kind of file."""
    keys: dict[str, str] = {}
    taken: set[str] = set()
    for video_id in video_ids:
        folder, _, name = video_id.rpartition("/")
        folder = f"{folder.replace('.', '_')}/" if folder else ""
        stem = f"{folder}{os.path.splitext(name)[0].replace('.', '_')}"
        names = itertools.chain([stem], (f"{stem}_{n}" for n in itertools.count(2)))
        keys[video_id] = next(key for key in names if key not in taken)
        taken.add(keys[video_id])
    return keys


def _add(tar: tarfile.TarFile, name: str, data: bytes | BinaryIO) -> None:
    # No times and owners: equal datasets give equal files.
    member = tarfile.TarInfo(name)
    member.mode = 0o644
    member.size = len(data) if isinstance(data, bytes) else os.fstat(data.fileno()).st_size
    tar.addfile(member, io.BytesIO(data) if isinstance(data, bytes) else data)
