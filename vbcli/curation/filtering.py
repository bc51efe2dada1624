"""Filters: a dataset without the rows that an expression is not true of, and a count of what was left out, and why."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from vbcli import shards
from vbcli.config import config_hash
from vbcli.errors import ItemFailure, UsageError, VbcliError
from vbcli.files import write_json
from vbcli.pipeline import RunOptions, note_missing, parents_of, run_noted
from vbcli.runner import RunReport, dataset_inputs
from vbcli.stage import Process, Rows, Stage
from vbcli.storage import as_path, opened

_CLOCK = (
    *("now", "today", "transaction_timestamp", "get_current_timestamp", "get_current_time", "current_localtime", "current_localtimestamp"),
    *("current_date", "current_time", "current_timestamp", "localtime", "localtimestamp", "age", "ago"),
)
"""What DuckDB calls by the time of day."""
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
        schema: of the rows, as Arrow writes it.
    """

    where: tuple[str, ...]
    kind: str
    videos_dir: str
    quality_dir: str | None
    schema: bytes

    name: ClassVar[str] = "filter"
    version: ClassVar[int] = 1

    @property
    def output_kind(self) -> str:  # type: ignore[override]
        return self.kind

    def output_schema(self) -> pa.Schema:
        return pa.ipc.read_schema(pa.py_buffer(self.schema))

    def identity(self) -> dict[str, Any]:
        return {"where": list(self.where), "has_quality": self.quality_dir is not None}

    def open(self) -> Process:
        known = _known(as_path(self.videos_dir), None if self.quality_dir is None else as_path(self.quality_dir))
        expressions = Expressions(self.where, known)

        def process(rows: Rows) -> Rows:
            for table in rows:
                if isinstance(table, ItemFailure):
                    yield table
                    continue
                reasons = expressions.left_out(table)
                yield table.filter(pa.array([reason is None for reason in reasons]))

        return process


class Expressions:
    """SQL expressions over the rows of one video after the other.

    Args:
        where: the expressions.
        known: columns by `video_id`.

    Raises:
        UsageError: an expression is none, or looks at more than its row.
    """

    def __init__(self, where: Sequence[str], known: pa.Table) -> None:
        self.where = where
        self._known = known
        self._places = {video_id: i for i, video_id in enumerate(known.column("video_id").to_pylist())}
        self._connection = duckdb.connect()
        # They are somebody's: they may look at these columns, and at no file.
        self._connection.execute("set enable_external_access = false")
        for expression in where:
            self._check(expression)

    def left_out(self, table: pa.Table) -> list[str | None]:
        """The first expression that is not true of each row of a video; None where all are.

        Raises:
            UsageError: an expression is none.
        """
        rows = _plain(table)
        place = self._places.get(table.column("video_id")[0].as_py()) if table.num_rows else None
        others = self._known.drop_columns([name for name in self._known.column_names if name in rows.column_names])
        others = others.take(pa.array([place] * table.num_rows, pa.int64()))
        for name, column in (("_row", pa.array(range(table.num_rows))), *zip(others.column_names, others.columns, strict=True)):
            rows = rows.append_column(name, column)
        self._connection.register("joined", rows)
        reasons: list[str | None] = [None] * table.num_rows
        for expression in reversed(self.where):
            try:
                found = self._connection.execute(_query(expression)).fetchall()
            except duckdb.Error as error:
                columns = ", ".join(name for name in rows.column_names if name != "_row")
                raise UsageError(
                    f"--where '{expression}' is not understood: {str(error).splitlines()[0]}", hint=f"columns: {columns}"
                ) from error
            for (row,) in found:
                reasons[row] = expression
        return reasons

    def _check(self, expression: str) -> None:
        """Refuses what is not a property of a row: a later run would find another answer, and the counts would be untrue."""
        ((answer,),) = self._connection.execute("select json_serialize_sql(?)", [_query(expression)]).fetchall()
        parsed = json.loads(answer)
        if parsed["error"]:
            return  # told, with the columns, when it is run
        hint = "compare columns of the row with values"
        nodes = list(_nodes(parsed["statements"]))
        if any(node.get("class") == "SUBQUERY" or node.get("type") == "SET_OPERATION_NODE" for node in nodes):
            raise UsageError(f"--where '{expression}' looks at other rows than its own, by a subquery", hint=hint)
        volatile = self._connection.execute("select function_name from duckdb_functions() where stability = 'VOLATILE'").fetchall()
        changing = {*_CLOCK, *(name for (name,) in volatile)}
        named = [name for node in nodes for name in (node.get("function_name"), *node.get("column_names", ()))]
        found = next((name for name in named if name and name.lower() in changing), None)
        if found is not None:
            raise UsageError(f"--where '{expression}' is not the same in each run, by {found}", hint=hint)


def _query(expression: str) -> str:
    return f"select _row from joined where ({expression}) is not true"


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """All objects of a tree of JSON."""
    if isinstance(tree, dict):
        yield tree
    for branch in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from _nodes(branch)


def _plain(table: pa.Table) -> pa.Table:
    """Its columns of numbers, texts and truth values."""
    return table.select([field.name for field in table.schema if any(is_kind(field.type) for is_kind in _PLAIN)])


def _known(videos_dir: Path, quality_dir: Path | None) -> pa.Table:
    """What is known of each video: its container, split and counts of its text, and its quality."""
    videos = _whole(videos_dir)
    columns = _plain(videos)
    for name, counted in (("n_captions", "captions"), ("n_labels", "labels"), ("n_questions", "questions"), ("n_cues", "transcript")):
        columns = columns.append_column(name, pa.array([len(value or []) for value in videos.column(counted).to_pylist()]))
    if quality_dir is None:
        return columns
    quality = _plain(_whole(quality_dir))
    places = {video_id: i for i, video_id in enumerate(quality.column("video_id").to_pylist())}
    rows = pa.array([places.get(video_id) for video_id in columns.column("video_id").to_pylist()], pa.int64())
    for name in quality.column_names:
        if name not in columns.column_names:
            columns = columns.append_column(name, quality.column(name).take(rows))
    return columns


def _whole(dataset_dir: Path) -> pa.Table:
    paths = shards.list_shards(dataset_dir)
    if not paths:
        raise VbcliError(f"{dataset_dir} has no shards", hint="it is incomplete: run the command that makes it again")
    return pa.concat_tables([shards.read_shard(path) for path in paths])


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
    # Rows of a videos dataset are themselves what is known of the videos.
    is_videos = manifest.kind == "videos"
    videos_dir = dataset_dir if is_videos else dataset_dir / "videos"
    known = _known(videos_dir, quality_dir)
    expressions = Expressions(where, known)
    # Before the folder is bound to them: a wrong expression writes nothing.
    schema = _schema(paths[0]) if paths else pa.schema([])
    plain = _plain(schema.empty_table()).column_names
    reasons = Counter(r for path in paths for table in shards.iter_videos(path, plain) for r in expressions.left_out(table))
    quality = None if quality_dir is None else str(quality_dir)
    stage = Filter(tuple(where), manifest.kind, str(videos_dir), quality, schema.serialize().to_pybytes())
    note_missing(dataset_dir, options)
    digest = config_hash(known.to_pylist())
    with options.open(stage.modules()) as executor:
        inputs = [replace(shard, digest=config_hash([shard.digest, digest])) for shard in dataset_inputs(dataset_dir, stage)]
        carried = None if is_videos else videos_dir
        report = run_noted(stage, inputs, out_dir, executor, options, parents=parents_of(dataset_dir), videos_dir=carried)
    counts = {expression: reasons[expression] for expression in where}
    written = shards.read_manifest(out_dir)
    facts = {**manifest.facts, "n_kept": report.n_rows, "n_left_out": counts}
    write_json(out_dir / "manifest.json", replace(written, facts=facts).as_dict())
    return report, counts


def _schema(path: Path) -> pa.Schema:
    with opened(path) as file:
        return pq.read_schema(file)
