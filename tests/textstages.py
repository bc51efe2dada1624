"""Stages over text files, quick and told apart by what they give, for tests of how stages are run."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from vbcli import shards
from vbcli.config import config_hash
from vbcli.errors import ItemFailure
from vbcli.executors import SerialExecutor
from vbcli.runner import RunReport, ShardInput, run_stage
from vbcli.stage import Process, Rows, Stage

LINES = pa.schema([pa.field("video_id", pa.string(), nullable=False), pa.field("line", pa.string()), pa.field("n_chars", pa.int32())])
SEEN: list[str] = []
INTERRUPTS: list[str] = []
"""Videos with which an interrupt comes, and with what is named twice a second one."""


@dataclass(frozen=True)
class ReadLines(Stage):
    """The lines of each "video", a text file; the file may be missing."""

    name: ClassVar[str] = "read"
    version: ClassVar[int] = 1
    output_kind: ClassVar[str] = "lines"
    input_columns: ClassVar[list[str] | None] = ["video_id"]

    def output_schema(self) -> pa.Schema:
        return LINES

    def open(self) -> Process:
        return self.process

    def process(self, rows: Rows) -> Rows:
        for table in rows:
            assert not isinstance(table, ItemFailure)
            video_id, path = (table.column(name)[0].as_py() for name in ("video_id", "path"))
            SEEN.append(video_id)
            while video_id in INTERRUPTS:
                INTERRUPTS.remove(video_id)
                os.kill(os.getpid(), signal.SIGINT)
            try:
                lines = Path(path).read_text().splitlines()
            except FileNotFoundError:
                yield ItemFailure(video_id, self.name, "FileNotFoundError", f"{video_id} is missing")
                continue
            yield pa.Table.from_pylist([{"video_id": video_id, "line": line, "n_chars": len(line)} for line in lines], schema=LINES)


@dataclass(frozen=True)
class Shout(Stage):
    """Lines in capitals; a video with a line that is capital already fails, and a digit is a bug."""

    mark: str = "!"

    name: ClassVar[str] = "shout"
    version: ClassVar[int] = 1
    output_kind: ClassVar[str] = "lines"

    def output_schema(self) -> pa.Schema:
        return LINES

    def open(self) -> Process:
        return self.process

    def process(self, rows: Rows) -> Rows:
        for table in rows:
            if isinstance(table, ItemFailure):
                yield table
                continue
            lines = table.to_pylist()
            if any(row["line"].isupper() for row in lines):
                yield ItemFailure(lines[0]["video_id"], self.name, "ValueError", "loud already")
                continue
            if any(row["line"].isdigit() for row in lines):
                raise ZeroDivisionError("a bug")
            yield pa.Table.from_pylist([{**row, "line": row["line"].upper() + self.mark} for row in lines], schema=LINES)


@dataclass(frozen=True)
class Together(ReadLines):
    """A batched stage: each row tells how many videos it was read with."""

    is_batched: ClassVar[bool] = True

    def process(self, rows: Rows) -> Rows:
        read = list(super().process(rows))
        n_videos = sum(isinstance(r, pa.Table) for r in read)
        for table in read:
            if isinstance(table, ItemFailure):
                yield table
            else:
                yield pa.Table.from_pylist([{**row, "n_chars": n_videos} for row in table.to_pylist()], schema=LINES)


def inputs_of(folder: Path, per_shard: int = 3, salt: str = "") -> list[ShardInput]:
    """Planned shards of text files 0 to 8, which may be missing."""
    rows = [{"video_id": f"{i}.txt", "path": str(folder / f"{i}.txt")} for i in range(9)]
    groups = [rows[i : i + per_shard] for i in range(0, len(rows), per_shard)]
    return [
        ShardInput(i, pa.Table.from_pylist(g), config_hash([r["video_id"] for r in g] + [salt * (i == 1)])) for i, g in enumerate(groups)
    ]


def run(stage: Stage, inputs: list[ShardInput], output_dir: Path, **options: Any) -> RunReport:
    SEEN.clear()
    return run_stage(stage, inputs, output_dir, SerialExecutor(), **options)


def data_of(folder: Path) -> dict[str, bytes]:
    """What must be equal between runs: everything but the record of runs."""
    files = [p for p in folder.rglob("*") if p.is_file() and "_runs" not in p.parts]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    return {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in shards.list_shards(folder)}


def lines_in(folder: Path) -> list[dict[str, Any]]:
    return [row for path in shards.list_shards(folder) for row in shards.read_shard(path).to_pylist()]
