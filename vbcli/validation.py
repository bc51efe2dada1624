"""Checks of what vbcli made: whether datasets and artifacts are whole, and say of themselves what is true."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from vbcli import shards
from vbcli.digests import iter_bytes
from vbcli.errors import VbcliError
from vbcli.files import is_temporary, read_json
from vbcli.inspection import not_ours
from vbcli.models.checkpoint import load_checkpoint
from vbcli.models.encoder_checkpoint import load_encoder_checkpoint
from vbcli.retrieval.index import VideoIndex
from vbcli.storage import opened
from vbcli.vocab.artifact import load_vocabulary


def validate(path: Path, *, reads_data: bool = False) -> Iterator[str]:
    """What is wrong with what vbcli made, a sentence each; nothing where all is whole.

    Args:
        reads_data: also read every row of datasets, and compare it with the digest that was taken when it was written.

    Raises:
        VbcliError: vbcli did not make it.
    """
    if path.is_file() and path.suffix == ".parquet":
        yield from _check_shard(path, reads_data)
    elif (path / "manifest.json").is_file():
        yield from _check_dataset(path, reads_data)
    elif (path / "config.json").is_file():
        yield from _check_artifact(path, reads_data)
    else:
        raise not_ours(path)


def _check_artifact(path: Path, reads_data: bool) -> Iterator[str]:
    values = read_json(path / "config.json")
    kind = values.get("kind") if isinstance(values, dict) else None
    load = {
        "checkpoint": load_checkpoint,
        "encoder": load_encoder_checkpoint,
        "vocabulary": load_vocabulary,
        "index": VideoIndex,
    }.get(str(kind))
    if load is None:
        raise VbcliError(f"{path} is no artifact of vbcli: its config.json names no kind", hint="name a folder that vbcli made")
    try:
        load(path)
    except VbcliError as error:
        yield error.message
    if kind == "index":
        yield from _check_dataset(path / "vectors", reads_data)


def _check_dataset(path: Path, reads_data: bool) -> Iterator[str]:
    manifest = shards.read_manifest(path)
    found = shards.list_shards(path)
    schema: pa.Schema | None = None
    for shard in found:
        problems = list(_check_shard(shard, reads_data))
        yield from problems
        if problems:
            continue
        footer = shards.read_footer(shard)
        with opened(shard) as file:
            own = pq.read_schema(file)
        if (footer["stage"], footer["version"], footer["config"]) != (manifest.stage, manifest.version, manifest.config):
            yield f"{shard} was made by another stage or configuration than the manifest names"
        if schema is not None and not own.equals(schema):
            yield f"{shard} has other columns than {found[0]}"
        schema = schema or own
        yield from _check_failures(path, shard, footer)
    for left in sorted(p for p in path.rglob("*") if is_temporary(p)):
        yield f"{left} is left from a run that was killed: remove it, unless a run goes on there"
    if manifest.kind != "videos":
        yield from _check_videos(path, found, reads_data)


def _check_shard(path: Path, reads_data: bool) -> Iterator[str]:
    try:
        footer = shards.read_footer(path)
        with opened(path) as file:
            n_rows = pq.read_metadata(file).num_rows
        if footer["n_rows"] != n_rows:
            yield f"{path} has {n_rows} rows, and its footer says {footer['n_rows']}"
        if not reads_data:
            return
        digest = hashlib.sha256()
        for table in shards.iter_videos(path):
            for data in iter_bytes(table.combine_chunks()):
                digest.update(data)
            yield from _check_pictures(path, table)
    except VbcliError as error:
        yield error.message
        return
    if digest.hexdigest() != footer["content_sha256"]:
        yield f"{path} holds other rows than were written"


def _check_pictures(path: Path, table: pa.Table) -> Iterator[str]:
    if "image" not in table.column_names:
        return
    for row in table.select(["video_id", "frame_index", "image"]).to_pylist():
        try:
            with Image.open(io.BytesIO(row["image"]["bytes"])) as picture:
                picture.load()
        except OSError as error:
            yield f"{path}: frame {row['frame_index']} of {row['video_id']} cannot be decoded: {error}"


def _check_failures(path: Path, shard: Path, footer: dict[str, object]) -> Iterator[str]:
    try:
        recorded = [failure.video_id for failure in shards.read_failures(path, shards.shard_index(shard))]
    except VbcliError as error:
        yield error.message
        return
    if recorded != footer["failed"]:
        yield f"{shard} says that {len(list(footer['failed']))} videos failed, and {len(recorded)} are recorded in _errors"  # type: ignore[call-overload]


def _check_videos(path: Path, found: list[Path], reads_data: bool) -> Iterator[str]:
    """The videos dataset beside the shards: there must be a shard of videos for each, and none may be of other videos."""
    videos_dir = path / "videos"
    if not (videos_dir / "manifest.json").is_file():
        yield f"{path} has no videos dataset beside it"
        return
    yield from _check_dataset(videos_dir, reads_data)
    planned = {shards.shard_index(p): p for p in shards.list_shards(videos_dir)}
    missing = sorted(set(planned) - {shards.shard_index(p) for p in found})
    if missing:
        yield f"{path} is incomplete: {len(missing)} of {len(planned)} shards are missing, first {shards.shard_name(missing[0])}"
    for shard in found:
        try:
            known = shards.read_shard(planned[shards.shard_index(shard)], ["video_id"]) if shards.shard_index(shard) in planned else None
            rows = shards.read_shard(shard, ["video_id"])
        except VbcliError:
            continue  # told above
        if known is None:
            yield f"{shard} has no shard of videos"
        elif strangers := set(rows.column("video_id").to_pylist()) - set(known.column("video_id").to_pylist()):
            yield f"{shard} has rows of {len(strangers)} videos that are not in {videos_dir}, first {min(strangers)}"
