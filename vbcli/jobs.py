"""One shard: the job to make it, how it is made, and how the video is found that kills the process that works on it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from vbcli import shards
from vbcli.errors import ItemFailure
from vbcli.stage import Process, Rows, Stage

DEADLY_MESSAGE = "the process that worked on it died: it takes too much memory, or crashes a library"


@dataclass(frozen=True)
class ShardJob:
    """One shard to make: where its input is, where it goes and the key that will be in its footer."""

    index: int
    source: Path | pa.Table
    output_dir: Path
    key: str
    is_retry: bool = False
    gone: frozenset[str] = frozenset()
    """Videos whose files are gone: what was made of them stays."""
    deadly: frozenset[str] = frozenset()
    """Videos that killed the process that worked on them: they fail, and are not tried."""

    @property
    def output_path(self) -> Path:
        return self.output_dir / shards.shard_name(self.index)


@dataclass(frozen=True)
class ShardResult:
    """What `run_shard` did."""

    index: int
    n_items: int
    n_rows: int
    n_failed: int
    seconds: float


def run_shard(stage: Stage, process: Process, job: ShardJob) -> ShardResult:
    """Makes one output shard from one input shard and records the items that failed.

    The shard is written under a temporary name and renamed at the end. A retry processes only the items that failed
    before and merges their rows with those that are there, in the order of the input; of a batched stage it makes the shard anew.
    A shard that is made again keeps the rows of videos that are gone.
    """
    started = time.perf_counter()
    order: list[str] = []
    retried = _retried(stage, job)
    kept = _kept_videos(job)
    failures: list[ItemFailure] = []

    def inputs() -> Rows:
        for video_id, table in iter_items(job):
            order.append(video_id)
            if not _is_due(job, retried, video_id):
                continue
            if video_id in job.deadly:
                failures.append(ItemFailure(video_id, stage.name, "WorkerDied", DEADLY_MESSAGE))
            else:
                yield table

    def outputs() -> Iterator[pa.Table]:
        for out in process(inputs()):
            if isinstance(out, ItemFailure):
                failures.append(out)
            else:
                yield out

    with shards.ShardWriter(job.output_path, stage.output_schema()) as writer:
        for table in (
            outputs() if retried is None and not kept else _merged(job.output_path, outputs(), order, kept if retried is None else None)
        ):
            writer.write(table)
        shards.write_failures(job.output_dir, job.index, failures)
        writer.close({**_footer(stage), "key": job.key, "n_items": len(order), "failed": [f.video_id for f in failures]})
    return ShardResult(job.index, len(order), writer.n_rows, len(failures), time.perf_counter() - started)


def iter_items(job: ShardJob) -> Iterator[tuple[str, pa.Table]]:
    """The videos of a job's input, each with its rows."""
    tables = shards.split_by_video(job.source) if isinstance(job.source, pa.Table) else shards.iter_videos(job.source)
    for table in tables:
        if table.num_rows:
            yield table.column("video_id")[0].as_py(), table


def try_items(stage: Stage, process: Process, job: ShardJob, trace: Path) -> None:
    """Processes each video of a job for itself, for nothing but to see which one kills this process.

    Args:
        trace: a file of what was begun, a name a line in JSON; what stands there already is passed over.
    """
    begun = set(read_trace(trace))
    retried = _retried(stage, job)
    for video_id, table in iter_items(job):
        if video_id in begun or not _is_due(job, retried, video_id):
            continue
        with trace.open("a", encoding="utf-8") as file:
            file.write(json.dumps(video_id) + "\n")
        for _ in process(iter([table])):
            pass


def read_trace(trace: Path) -> list[str]:
    """The videos that `try_items` began with."""
    return [json.loads(line) for line in trace.read_text(encoding="utf-8").splitlines()] if trace.exists() else []


def _retried(stage: Stage, job: ShardJob) -> frozenset[str] | None:
    """The videos that are made again; None is all of them."""
    # From the shard itself: the record of failures is another file, and a kill may come between the two.
    return stage.failed_in(job.output_path) if job.is_retry and not stage.is_batched else None


def _is_due(job: ShardJob, retried: frozenset[str] | None, video_id: str) -> bool:
    # Of a video that is gone there is what was made of it, or nothing: it does not fail anew.
    return video_id not in job.gone and (retried is None or video_id in retried)


def _kept_videos(job: ShardJob) -> frozenset[str]:
    """Of the videos that are gone, those that the shard has rows of."""
    if not job.gone or not job.output_path.exists():
        return frozenset()
    return job.gone & video_ids(job.output_path)


def _merged(path: Path, new: Iterable[pa.Table], order: list[str], wanted: frozenset[str] | None) -> Iterator[pa.Table]:
    """Rows of the shard at `path`, of the wanted videos or of all, and new rows, in the order of the input's videos."""
    redone: dict[str, list[pa.Table]] = {}
    for table in new:
        for part in shards.split_by_video(table):
            redone.setdefault(part.column("video_id")[0].as_py(), []).append(part)
    kept = shards.iter_videos(path)
    head = next(kept, None)
    for video_id in order:
        if video_id in redone:
            yield from redone[video_id]
        while head is not None and head.column("video_id")[0].as_py() == video_id:
            if video_id not in redone and (wanted is None or video_id in wanted):
                yield head
            head = next(kept, None)


def _footer(stage: Stage) -> dict[str, Any]:
    return {"stage": stage.name, "version": stage.version, "config": stage.identity(), "facts": stage.facts()}


def video_ids(path: Path) -> set[str]:
    """The videos that a shard has rows of."""
    return set(shards.read_shard(path, columns=["video_id"]).column("video_id").to_pylist())
