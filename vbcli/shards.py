"""Datasets on disk: shards (Parquet files), their footers, manifests, plans and records of failed items.

A dataset is a folder:

    manifest.json              what made it: kind, stage, version, configuration; created once, exclusively
    shard-00000.parquet ...    the data; a shard's key and counts are in its footer
    videos/                    the dataset of the videos it came from (text, labels and splits are there)
    _plan/0000.json            which videos are in which shard (only where a folder of videos was scanned)
    _errors/shard-00000.jsonl  failed items
    _runs/*.json               a record of each run: times, host, versions

Every file appears under its final name complete or not at all.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vbcli.errors import ItemFailure, VbcliError

FOOTER_KEY = b"vbcli"
# Rows are gathered into row groups of about this size, by content alone, so that bytes do not depend on who wrote them.
ROW_GROUP_BYTES = 8 << 20


# ---------------------------------------------------------------- files that appear whole


def write_atomic(path: Path, data: bytes, *, is_exclusive: bool = False) -> bool:
    """Writes a file so that it is there complete or not at all.

    Args:
        is_exclusive: leave a file that is already there as it is.

    Returns:
        False where `is_exclusive` found the file there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if is_exclusive:
            try:
                os.link(temporary, path)
            except FileExistsError:
                return False
        else:
            os.replace(temporary, path)
        return True
    except OSError as error:
        raise VbcliError(f"cannot write {path}: {error.strerror or error}", hint="check free space and permissions") from error
    finally:
        temporary.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp-{os.getpid()}")


def write_json(path: Path, value: Any, *, is_exclusive: bool = False) -> bool:
    """Writes JSON through `write_atomic`."""
    return write_atomic(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode(), is_exclusive=is_exclusive)


def read_json(path: Path) -> Any:
    """Reads a JSON file; a damaged one is a `VbcliError` that names it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise VbcliError(f"{path} does not exist") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise VbcliError(f"{path} is not valid JSON: {error}") from error


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

    Used as a context manager: leaving it by an exception removes the temporary file.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path = path
        self.schema = schema
        self.n_rows = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        for stale in path.parent.glob(f".{path.name}.tmp-*"):
            stale.unlink(missing_ok=True)
        self._temporary = _temporary(path)
        self._pending: list[pa.Table] = []
        self._digest = hashlib.sha256()
        try:
            self._writer = pq.ParquetWriter(self._temporary, schema, compression="zstd", write_statistics=False, store_schema=True)
        except OSError as error:
            raise self._failed(error) from error

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._discard()

    def write(self, table: pa.Table) -> None:
        """Adds rows; they are written when a row group is full."""
        if table.num_rows == 0:
            return
        self.n_rows += table.num_rows
        self._pending.append(table.cast(self.schema))
        if sum(t.nbytes for t in self._pending) >= ROW_GROUP_BYTES:
            self._flush()

    def close(self, footer: dict[str, Any]) -> None:
        """Writes the footer (with the number of rows and a digest of them) and renames the file."""
        try:
            self._flush()
            footer = {**footer, "n_rows": self.n_rows, "content_sha256": self._digest.hexdigest()}
            self._writer.add_key_value_metadata({FOOTER_KEY: json.dumps(footer, sort_keys=True)})
            self._writer.close()
            with self._temporary.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(self._temporary, self.path)
        except OSError as error:
            self._discard()
            raise self._failed(error) from error

    def _flush(self) -> None:
        if not self._pending:
            return
        table = pa.concat_tables(self._pending).combine_chunks()
        self._pending = []
        digest_table(table, self._digest)
        try:
            self._writer.write_table(table, row_group_size=table.num_rows)
        except OSError as error:
            self._discard()
            raise self._failed(error) from error

    def _discard(self) -> None:
        self._temporary.unlink(missing_ok=True)

    def _failed(self, error: OSError) -> VbcliError:
        return VbcliError(f"cannot write {self.path}: {error.strerror or error}", hint="check free space and permissions")


def table_digest(table: pa.Table) -> str:
    """SHA-256 (hex) of a table's rows."""
    digest = hashlib.sha256()
    digest_table(table, digest)
    return digest.hexdigest()


def digest_table(table: pa.Table, digest: Any) -> None:
    """Feeds a table's rows to a hashlib digest, independent of how they are chunked."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema.remove_metadata()) as writer:
        for batch in table.combine_chunks().to_batches():
            writer.write_batch(batch)
    digest.update(sink.getvalue())


def read_footer(path: Path) -> dict[str, Any]:
    """What `ShardWriter.close` put into a shard's footer.

    Raises:
        VbcliError: the file is not a shard.
    """
    try:
        metadata = pq.read_metadata(path).metadata or {}
    except (pa.ArrowInvalid, OSError) as error:
        raise VbcliError(f"{path} cannot be read as Parquet: {error}", hint="remove it; the next run makes it again") from error
    if FOOTER_KEY not in metadata:
        raise VbcliError(f"{path} was not written by vbcli")
    return json.loads(metadata[FOOTER_KEY])


def input_digest(path: Path, columns: list[str] | None) -> str:
    """Digest of what a stage reads of a shard: of the named columns, or of everything."""
    if columns is None:
        return str(read_footer(path)["content_sha256"])
    return table_digest(pq.read_table(path, columns=columns))


def iter_videos(path: Path, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """The rows of a shard, one table a video, reading one row group at a time."""
    rest: pa.Table | None = None
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=columns)
            if rest is not None:
                table = pa.concat_tables([rest, table])
            *whole, rest = split_by_video(table)
            yield from whole
    if rest is not None and rest.num_rows:
        yield rest


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
    return [ItemFailure(**json.loads(line)) for path in paths for line in path.read_text(encoding="utf-8").splitlines()]


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


def read_manifest(dataset_dir: Path, *kinds: str) -> Manifest:
    """Reads a dataset's manifest.

    Args:
        kinds: the kinds of dataset that will do; none accepts any.

    Raises:
        VbcliError: there is no dataset, or it is of another kind.
    """
    path = dataset_dir / "manifest.json"
    wanted = " or ".join(kinds) or "vbcli"
    if not path.is_file():
        raise VbcliError(f"{dataset_dir} is not a {wanted} dataset: it has no manifest.json", hint=_hint_for(kinds))
    values = read_json(path)
    try:
        manifest = Manifest(**values)
    except TypeError as error:
        raise VbcliError(f"{path} is not a manifest of a dataset: {error}") from error
    if kinds and manifest.kind not in kinds:
        raise VbcliError(f"{dataset_dir} is a {manifest.kind} dataset, not a {wanted} dataset", hint=_hint_for(kinds))
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
    if not write_json(dataset_dir / "manifest.json", manifest.as_dict(), is_exclusive=True):
        check_manifest(dataset_dir, manifest.stage, manifest.version, manifest.config)


def check_manifest(dataset_dir: Path, stage: str, version: int, config: dict[str, Any]) -> None:
    """Refuses a folder that was made with another stage or configuration.

    Raises:
        VbcliError: it says what differs.
    """
    found = read_manifest(dataset_dir)
    if (found.stage, found.version) != (stage, version):
        raise VbcliError(
            f"{dataset_dir} was made by {found.stage} version {found.version}, not by {stage} version {version}",
            hint="name another output folder, or remove this one",
        )
    mine = json.loads(json.dumps(config))
    for key in sorted(set(found.config) | set(mine)):
        if found.config.get(key) != mine.get(key):
            raise VbcliError(
                f"{dataset_dir} was made with {key} = {_short(found.config.get(key))}, not {_short(mine.get(key))}",
                hint="name another output folder, remove this one, or give the same options again",
            )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
