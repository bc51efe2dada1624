"""Filters: a dataset without the rows that an expression is not true of, and a count of what was left out, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from vbcli import shards
from vbcli.config import config_hash
from vbcli.errors import ItemFailure, UsageError
from vbcli.files import write_json
from vbcli.pipeline import RunOptions, note_missing, parents_of, run_noted
from vbcli.runner import RunReport, dataset_inputs
from vbcli.stage import Process, Rows, Stage
from vbcli.storage import as_path

_PLAIN = (pa.types.is_integer, pa.types.is_floating, pa.types.is_string, pa.types.is_boolean)


@dataclass(frozen=True)
class Filter(Stage):
    """Keeps the rows that all expressions are true of.

    Args:
        where: SQL expressions of DuckDB over the columns of the rows, of their videos and, where it is given, of their quality. A row that
            one of them is NULL for is left out.
        kind: of the dataset.
        videos_dir: its videos dataset.
        quality_dir: of `measure`; what it says is part of each shard's key.
    """

    where: tuple[str, ...]
    kind: str
    videos_dir: str
    quality_dir: str | None
    schema: bytes

    @property
    def name(self) -> str:  # type: ignore[override]
        return "filter"

    @property
    def version(self) -> int:  # type: ignore[override]
        return 1

    @property
    def output_kind(self) -> str:  # type: ignore[override]
        return self.kind

    def output_schema(self) -> pa.Schema:
        return pa.ipc.read_schema(pa.py_buffer(self.schema))

    def identity(self) -> dict[str, Any]:
        return {"where": list(self.where), "has_quality": self.quality_dir is not None}

    def open(self) -> Process:
        known = _known(as_path(self.videos_dir), None if self.quality_dir is None else as_path(self.quality_dir))

        def process(rows: Rows) -> Rows:
            for table in rows:
                if isinstance(table, ItemFailure):
                    yield table
                    continue
                reasons = left_out(table, known, self.where)
                yield table.filter(pa.array([reason is None for reason in reasons]))

        return process


def left_out(table: pa.Table, known: pa.Table, where: Sequence[str]) -> list[str | None]:
    """The first expression that is not true of each row; None where all are.

    Args:
        known: columns by `video_id`.

    Raises:
        UsageError: an expression is none.
    """
    rows = _plain(table)
    others = [name for name in known.column_names if name not in rows.column_names]
    rows = rows.append_column("_row", pa.array(range(rows.num_rows)))
    reasons: list[str | None] = [None] * table.num_rows
    with duckdb.connect() as connection:
        connection.register("_rows", rows)
        connection.register("_known", known.select(["video_id", *others]))
        connection.execute("create table joined as select * from _rows left join _known using (video_id)")
        # What follows is somebody's expression: it may look at these columns, and at no file.
        connection.execute("set enable_external_access = false")
        for expression in reversed(where):
            try:
                found = connection.execute(f"select _row from joined where ({expression}) is not true").fetchall()
            except duckdb.Error as error:
                columns = ", ".join([*(n for n in rows.column_names if n != "_row"), *others])
                raise UsageError(
                    f"--where '{expression}' is not understood: {str(error).splitlines()[0]}", hint=f"columns: {columns}"
                ) from error
            for (row,) in found:
                reasons[row] = expression
    return reasons


def _plain(table: pa.Table) -> pa.Table:
    """Its columns of numbers, texts and truth values."""
    return table.select([field.name for field in table.schema if any(is_kind(field.type) for is_kind in _PLAIN)])


def _known(videos_dir: Path, quality_dir: Path | None) -> pa.Table:
    """What is known of each video: its container, split and counts of its text, and its quality."""
    videos = pa.concat_tables([shards.read_shard(path) for path in shards.list_shards(videos_dir)])
    columns = _plain(videos)
    for name, counted in (("n_captions", "captions"), ("n_labels", "labels"), ("n_questions", "questions"), ("n_cues", "transcript")):
        columns = columns.append_column(name, pa.array([len(value or []) for value in videos.column(counted).to_pylist()]))
    if quality_dir is None:
        return columns
    quality = _plain(pa.concat_tables([shards.read_shard(path) for path in shards.list_shards(quality_dir)]))
    new = [name for name in quality.column_names if name not in columns.column_names]
    with duckdb.connect() as connection:
        connection.register("_videos", columns)
        connection.register("_quality", quality.select(["video_id", *new]))
        return connection.sql("select * from _videos left join _quality using (video_id)").to_arrow_table()


def filter_dataset(
    dataset_dir: Path, out_dir: Path, where: Sequence[str], quality_dir: Path | None = None, options: RunOptions | None = None
) -> tuple[RunReport, dict[str, int]]:
    """Copies a dataset without the rows that an expression is not true of; the manifest counts what was left out, and why.

    Returns:
        The run, and rows by the first expression that left them out.

    Raises:
        VbcliError: there is no such dataset, or `out_dir` holds something else.
        UsageError: an expression is none.
    """
    options = options or RunOptions()
    manifest = shards.read_manifest(dataset_dir)
    paths = shards.list_shards(dataset_dir)
    if quality_dir is not None:
        shards.read_manifest(quality_dir, "quality")
    known = _known(dataset_dir / "videos", quality_dir)
    # Before the folder is bound to them: a wrong expression writes nothing.
    reasons = Counter(reason or "" for path in paths for reason in left_out(shards.read_shard(path), known, where))
    n_kept = reasons.pop("", 0)
    schema = shards.read_shard(paths[0]).schema if paths else pa.schema([])
    quality = None if quality_dir is None else str(quality_dir)
    stage = Filter(tuple(where), manifest.kind, str(dataset_dir / "videos"), quality, schema.serialize().to_pybytes())
    note_missing(dataset_dir, options)
    digest = config_hash(known.to_pylist())
    with options.open() as executor:
        inputs = [replace(shard, digest=config_hash([shard.digest, digest])) for shard in dataset_inputs(dataset_dir, stage)]
        report = run_noted(stage, inputs, out_dir, executor, options, parents=parents_of(dataset_dir), videos_dir=dataset_dir / "videos")
    counts = {expression: reasons.get(expression, 0) for expression in where}
    written = shards.read_manifest(out_dir)
    facts = {**manifest.facts, "n_kept": n_kept, "n_left_out": counts}
    write_json(out_dir / "manifest.json", replace(written, facts=facts).as_dict())
    return report, counts
