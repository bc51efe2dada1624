"""Datasets on disk: shards (Parquet files), their footers, manifests, plans and records of failed items.

A dataset is a folder:

    manifest.json              what made it: kind, stage, version, configuration; created once, exclusively
    shard-00000.parquet ...    the data; a shard's key and counts are in its footer
    videos/                    the dataset of the videos it came from (text, labels and splits are there)
    encoder/                   the encoder that made the features, where it was trained by vbcli
    _plan/0000.json            which videos are in which shard (only where a folder of videos was scanned)
    _plan/given.jsonl          what caption files said of videos (where some were given)
    _errors/shard-00000.jsonl  failed items
    _unfinished/               of shards in whose making an interrupt came, the videos that were finished
    _runs/*.json               a record of each run: times, host, versions

Every file appears under its final name complete or not at all.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vbcli import storage
from vbcli.digests import iter_bytes, table_digest
from vbcli.encoderfolders import CARRIED_NAME
from vbcli.errors import ItemFailure, VbcliError, with_article
from vbcli.files import escape_name, is_free, not_free, not_written, read_json, remove_stale, temporary_path, write_atomic, write_json

FOOTER_KEY = b"vbcli"
FOOTER = {"stage": str, "version": int, "config": dict, "key": str, "n_items": int, "failed": list, "n_rows": int, "content_sha256": str}
"""What is read of a footer."""
# Names of columns, too, are text that may be damaged.
UNREADABLE = (pa.ArrowException, OSError, UnicodeDecodeError)
# Rows are gathered into row groups of about this size, by content alone, so that bytes do not depend on who wrote them.
ROW_GROUP_BYTES = 8 << 20


class DamagedShardError(VbcliError):
    """A file with the name of a shard that is no Parquet, or no longer: cut off, written over, copied in part."""


# ---------------------------------------------------------------- shards


def shard_name(index: int) -> str:
    """File name of shard `index`."""
    return f"shard-{index:05d}.parquet"


def shard_index(path: Path) -> int:
    """Number of a shard file."""
    return int(path.stem.removeprefix("shard-"))


def list_shards(dataset_dir: Path) -> list[Path]:
    """The shards of a dataset, in order."""
    return sorted(dataset_dir.glob("shard-*.parquet"), key=shard_index)


class ShardWriter:
    """Writes one shard under a temporary name; `close` gives it its final name.

    Used as a context manager: leaving it by an exception removes the temporary file. The file's bytes depend on the rows
    alone, not on the tables that they came in: rows of a video follow each other, and a row group holds whole videos.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path = path
        self.schema = schema
        self.n_rows = 0
        self._place = tempfile.TemporaryDirectory(prefix="vbcli-") if storage.is_remote(path) else None
        self._temporary = temporary_path(path) if self._place is None else Path(self._place.name) / path.name
        self._video: list[pa.Table] = []
        self._group: list[pa.Table] = []
        self._group_bytes = 0
        self._digest = hashlib.sha256()
        try:
            if self._place is None:
                path.parent.mkdir(parents=True, exist_ok=True)
                remove_stale(path)
            self._writer = pq.ParquetWriter(self._temporary, schema, compression="zstd", write_statistics=False, store_schema=True)
        except OSError as error:
            raise not_written(path, error) from error

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._temporary.unlink(missing_ok=True)
        if self._place is not None:
            self._place.cleanup()

    def write(self, table: pa.Table) -> None:
        """Adds rows; they are written when a row group is full."""
        for part in split_by_video(table.cast(self.schema)):
            if part.num_rows == 0:
                continue
            if self._video and self._video[0].column("video_id")[0] != part.column("video_id")[0]:
                self._end_video()
            self._video.append(part)
            self.n_rows += part.num_rows

    def close(self, footer: dict[str, Any], path: Path | None = None) -> None:
        """Writes the footer (with the number of rows and a digest of them) and renames the file.

        Args:
            path: another name than was planned.
        """
        path = path or self.path
        self._end_video()
        self._flush()
        footer = {**footer, "n_rows": self.n_rows, "content_sha256": self._digest.hexdigest()}
        try:
            self._writer.add_key_value_metadata({FOOTER_KEY: json.dumps(footer, sort_keys=True)})
            self._writer.close()
            if self._place is not None:
                # In parts; the object is there when the last one has arrived.
                storage.upload(self._temporary, path)
                return
            with self._temporary.open("rb") as file:
                os.fsync(file.fileno())
            path.parent.mkdir(exist_ok=True)
            os.replace(self._temporary, path)
        except OSError as error:
            raise not_written(path, error) from error

    def _end_video(self) -> None:
        if not self._video:
            return
        table = pa.concat_tables(self._video).combine_chunks()
        self._video = []
        for data in iter_bytes(table):
            self._digest.update(data)
            self._group_bytes += len(data)
        self._group.append(table)
        if self._group_bytes >= ROW_GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if not self._group:
            return
        table = pa.concat_tables(self._group).combine_chunks()
        self._group, self._group_bytes = [], 0
        try:
            self._writer.write_table(table, row_group_size=table.num_rows)
        except OSError as error:
            raise not_written(self.path, error) from error


def read_footer(path: Path) -> dict[str, Any]:
    """What `ShardWriter.close` put into a shard's footer.

    Raises:
        VbcliError: the file is not a shard, or is damaged.
    """
    try:
        with storage.opened(path) as file:
            metadata = pq.read_metadata(file).metadata or {}
    except UNREADABLE as error:
        raise damaged(path, error) from error
    if FOOTER_KEY not in metadata:
        raise VbcliError(f"{path} was not written by vbcli", hint="name a dataset that a command of vbcli made")
    try:
        footer = json.loads(metadata[FOOTER_KEY])
    except ValueError as error:
        raise damaged(path, error) from error
    wrong = [name for name, kind in FOOTER.items() if not (isinstance(footer, dict) and isinstance(footer.get(name), kind))]
    if wrong:
        raise damaged(path, f"its footer has no {wrong[0]}")
    return footer


def read_shard(path: Path, columns: list[str] | None = None) -> pa.Table:
    """All rows of a shard.

    Raises:
        VbcliError: the file is not a shard, or is damaged.
    """
    try:
        with storage.opened(path) as file:
            return _checked(path, pq.read_table(file, columns=columns), columns)
    except UNREADABLE as error:
        raise damaged(path, error) from error


def read_rows(dataset_dir: Path, columns: list[str] | None = None) -> list[dict[str, Any]]:
    """All rows of a dataset, in order."""
    return [row for path in list_shards(dataset_dir) for row in read_shard(path, columns).to_pylist()]


def _checked(path: Path, table: pa.Table, columns: list[str] | None) -> pa.Table:
    missing = set(columns or ["video_id"]) - set(table.column_names)
    if missing:
        raise damaged(path, f"it has no column '{min(missing)}'")
    # Text that is no UTF-8 would be found where it is looked at.
    table.validate(full=True)
    return table


def damaged(path: Path, error: object) -> VbcliError:
    # Arrow's errors about what stands in a file are of no kind and have no number; those of stores are of some kind.
    if isinstance(error, OSError) and (error.errno is not None or type(error) is not OSError):
        cause = f"{type(error).__name__} {error}".strip() if error.errno is None else os.strerror(error.errno)
        return VbcliError(f"{path} cannot be read: {cause}", hint="look at its permissions, and at the disk or network")
    return DamagedShardError(f"{path} cannot be read as Parquet: {error}", hint="remove it; the run that made it makes it again")


def input_digest(path: Path, columns: list[str] | None) -> str:
    """Digest of what a stage reads of a shard: of the named columns, or of everything."""
    if columns is None:
        return str(read_footer(path)["content_sha256"])
    return table_digest(read_shard(path, columns))


def iter_videos(path: Path, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """The rows of a shard, one table a video, reading one row group at a time.

    Raises:
        VbcliError: the file is not a shard, or is damaged.
    """
    rest: pa.Table | None = None
    for table in _iter_row_groups(path, columns):
        *whole, rest = split_by_video(table if rest is None else pa.concat_tables([rest, table]))
        yield from whole
    if rest is not None and rest.num_rows:
        yield rest


def _iter_row_groups(path: Path, columns: list[str] | None) -> Iterator[pa.Table]:
    try:
        with storage.opened(path) as source, pq.ParquetFile(source) as file:
            for group in range(file.num_row_groups):
                yield _checked(path, file.read_row_group(group, columns=columns), columns)
    except UNREADABLE as error:
        raise damaged(path, error) from error


def split_by_video(table: pa.Table) -> list[pa.Table]:
    """Splits rows into tables of consecutive rows with the same `video_id`."""
    if table.num_rows == 0:
        return [table]
    video_ids = table.column("video_id").to_pylist()
    starts = [0, *(i for i in range(1, len(video_ids)) if video_ids[i] != video_ids[i - 1]), len(video_ids)]
    return [table.slice(a, b - a) for a, b in itertools.pairwise(starts)]


# ---------------------------------------------------------------- failed items


def errors_path(dataset_dir: Path, index: int) -> Path:
    """Where the failed items of shard `index` are recorded."""
    return dataset_dir / "_errors" / f"shard-{index:05d}.jsonl"


def write_failures(dataset_dir: Path, index: int, failures: Iterable[ItemFailure]) -> None:
    """Records the failed items of a shard; none removes the record."""
    path = errors_path(dataset_dir, index)
    lines = "".join(json.dumps(f.as_row(), ensure_ascii=False) + "\n" for f in failures)
    if lines:
        write_atomic(path, lines.encode())
    else:
        path.unlink(missing_ok=True)


def read_failures(dataset_dir: Path, index: int | None = None) -> list[ItemFailure]:
    """The failed items of one shard, or of all."""
    if index is None:
        paths = sorted((dataset_dir / "_errors").glob("shard-*.jsonl"))
    else:
        paths = [p for p in [errors_path(dataset_dir, index)] if p.exists()]
    return [failure for path in paths for failure in _parse_failures(path)]


def _parse_failures(path: Path) -> list[ItemFailure]:
    try:
        # Not `splitlines`: a message may hold what it counts as the end of a line.
        return [ItemFailure(**json.loads(line)) for line in path.read_text(encoding="utf-8").split("\n") if line]
    except (OSError, ValueError, TypeError) as error:
        raise VbcliError(f"{path} is not a record of failed items: {error}", hint="remove it") from error


# ---------------------------------------------------------------- manifests


@dataclass(frozen=True)
class Manifest:
    """`manifest.json`: what made a dataset.

    `facts` are what later stages need to know (an encoder's dimensions, a vocabulary's size); `parents` are the
    manifests of the datasets it came from, nearest first.
    """

    kind: str
    stage: str
    version: int
    config: dict[str, Any]
    facts: dict[str, Any]
    parents: list[dict[str, Any]]

    def as_dict(self) -> dict[str, Any]:
        return {k: getattr(self, k) for k in ("kind", "stage", "version", "config", "facts", "parents")}

    def fact(self, name: str) -> Any:
        """One of the facts.

        Raises:
            VbcliError: the manifest does not have it.
        """
        if name not in self.facts:
            raise VbcliError(
                f"the manifest of {with_article(self.kind)} dataset has no '{name}'", hint="it is damaged: make the dataset again"
            )
        return self.facts[name]


def read_manifest(dataset_dir: Path, *kinds: str) -> Manifest:
    """Reads a dataset's manifest.

    Args:
        kinds: the kinds of dataset that will do; none accepts any.

    Raises:
        VbcliError: there is no dataset, or it is of another kind.
    """
    path = dataset_dir / "manifest.json"
    wanted = f"{with_article(' or '.join(kinds) or 'vbcli')} dataset"
    if not path.is_file():
        raise VbcliError(f"{dataset_dir} is not {wanted}: it has no manifest.json", hint=_hint_for(kinds))
    values = read_json(path)
    try:
        manifest = Manifest(**values)
    except TypeError as error:
        raise VbcliError(f"{path} is not a manifest of a dataset: {error}", hint="it is damaged: make the dataset again") from error
    if kinds and manifest.kind not in kinds:
        raise VbcliError(f"{dataset_dir} is {with_article(manifest.kind)} dataset, not {wanted}", hint=_hint_for(kinds))
    return manifest


def _hint_for(kinds: tuple[str, ...]) -> str | None:
    commands = {
        "frames": "vbcli extract VIDEOS_DIR",
        "features": "vbcli encode",
        "tokens": "vbcli tokenize",
        "captions": "vbcli caption FOLDER",
    }
    made = [commands[k] for k in kinds if k in commands]
    return f"make one with: {made[0]}" if made else None


def claim_manifest(dataset_dir: Path, manifest: Manifest) -> None:
    """Creates the manifest, or checks that the one there says the same.

    Raises:
        VbcliError: the folder was made with another stage or configuration.
    """
    check_manifest(dataset_dir, manifest.stage, manifest.version, manifest.config)
    if not write_json(dataset_dir / "manifest.json", manifest.as_dict(), is_exclusive=True):
        check_manifest(dataset_dir, manifest.stage, manifest.version, manifest.config)


def _check_name(dataset_dir: Path) -> None:
    """Refuses a path that is no UTF-8: Arrow opens no file there.

    Raises:
        VbcliError: it is none.
    """
    if storage.is_remote(dataset_dir):
        return
    shown = escape_name(os.fsencode(dataset_dir))
    if shown != str(dataset_dir):
        raise VbcliError(f"{shown} cannot hold a dataset: the path is not UTF-8", hint="name another folder; videos may lie in this one")


def check_manifest(dataset_dir: Path, stage: str, version: int, config: dict[str, Any]) -> None:
    """Refuses a folder that was made with another stage or configuration, or that holds something else.

    Raises:
        VbcliError: it says what differs.
    """
    _check_name(dataset_dir)
    # Looked into before the manifest is looked for: another machine may claim and fill the folder just now.
    videos_dir = dataset_dir / "videos"
    is_ours = (videos_dir / "manifest.json").is_file() or (videos_dir.is_dir() and not any(videos_dir.iterdir()))
    begun = ("_plan", "_measures", "_compared.json", CARRIED_NAME)
    found_free = is_free(dataset_dir, (*begun, *(["videos"] if is_ours else [])))
    if not (dataset_dir / "manifest.json").exists():
        if not found_free:
            raise not_free(dataset_dir)
        return
    found = read_manifest(dataset_dir)
    if (found.stage, found.version) != (stage, version):
        raise VbcliError(
            f"{dataset_dir} was made by {found.stage} version {found.version}, not by {stage} version {version}",
            hint="name another output folder, or remove this one",
        )
    mine = json.loads(json.dumps(config))
    for key in sorted(set(found.config) | set(mine)):
        if found.config.get(key) != mine.get(key):
            name, there, here = _first_difference(key, found.config.get(key), mine.get(key))
            raise VbcliError(
                f"{dataset_dir} was made with {name} = {there}, not {here}",
                hint="name another output folder, remove this one, or give the same options again",
            )


def _first_difference(name: str, found: Any, wanted: Any) -> tuple[str, str, str]:
    """Where two values first differ, down to the entry, and both as short JSON."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        key = next(k for k in sorted({*found, *wanted}) if found.get(k) != wanted.get(k))
        return _first_difference(f"{name}.{key}", found.get(key), wanted.get(key))
    there, here = (text if len(text) <= 80 else text[:77] + "..." for text in (json.dumps(found), json.dumps(wanted)))
    return name, there, here
