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
from vbcli.workers import is_interrupted

UNFINISHED = "_unfinished"
DEADLY_MESSAGE = "the process that worked on it died: it takes too much memory, or crashes a library"


@dataclass(frozen=True)
class ShardJob:
    """One shard to make: where its input is, where it goes and the key that will be in its footer."""

    index: int
    source: Path | pa.Table
    output_dir: Path
    key: str
    is_retry: bool = False
    """The items that failed before are made again, too."""
    gone: frozenset[str] = frozenset()
    """Videos whose files are gone: what was made of them stays."""
    deadly: frozenset[str] = frozenset()
    """Videos that killed the process that worked on them: they fail, and are not tried."""

    @property
    def output_path(self) -> Path:
        return self.output_dir / shards.shard_name(self.index)

    @property
    def part_path(self) -> Path:
        """Where what was finished of it is kept when an interrupt comes."""
        return self.output_dir / UNFINISHED / shards.shard_name(self.index)


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
    A shard that is made again keeps the rows of videos that are gone. When an interrupt comes, the video in hand is finished, and what is
    finished is kept under the name `ShardJob.part_path`, for the next run to go on with.
    """
    started = time.perf_counter()
    found = _find(stage, job)
    order: list[str] = []
    undone: list[str] = []
    failures = list(found.failures)

    def inputs() -> Rows:
        for video_id, table in iter_items(job):
            order.append(video_id)
            if not _is_due(job, found, video_id):
                continue
            if is_interrupted():
                undone.append(video_id)
            elif video_id in job.deadly:
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
        for table in _merged(outputs(), order, found.kept) if found.kept else outputs():
            writer.write(table)
        places = {video_id: i for i, video_id in enumerate(order)}
        failures.sort(key=lambda failure: places[failure.video_id])
        footer = {**_footer(stage), "key": job.key, "n_items": len(order), "failed": [f.video_id for f in failures]}
        if undone:
            writer.close({**footer, "undone": undone, "failures": [f.as_row() for f in failures]}, job.part_path)
        else:
            shards.write_failures(job.output_dir, job.index, failures)
            writer.close(footer)
            job.part_path.unlink(missing_ok=True)
    return ShardResult(job.index, len(order), writer.n_rows, len(failures), time.perf_counter() - started)


def iter_items(job: ShardJob) -> Iterator[tuple[str, pa.Table]]:
    """The videos of a job's input, each with its rows."""
    tables = shards.split_by_video(job.source) if isinstance(job.source, pa.Table) else shards.iter_videos(job.source)
    for table in tables:
        if table.num_rows:
            yield table.column("video_id")[0].as_py(), table


def try_items(stage: Stage, process: Process, job: ShardJob, trace: Path) -> None:
    """Processes each video of a job for itself, for nothing but to see which one kills this process; an interrupt ends it early.

    Args:
        trace: a file of what was begun, a name a line in JSON; what stands there already is passed over, but the last is tried twice.
    """
    begun = read_trace(trace)
    passed = {video_id for video_id in begun if video_id != begun[-1] or begun.count(video_id) > 1}
    found = _find(stage, job)
    for video_id, table in iter_items(job):
        if is_interrupted():
            return
        if video_id in passed or not _is_due(job, found, video_id):
            continue
        with trace.open("a", encoding="utf-8") as file:
            file.write(json.dumps(video_id) + "\n")
        for _ in process(iter([table])):
            pass


def read_trace(trace: Path) -> list[str]:
    """The videos that `try_items` began with."""
    return [json.loads(line) for line in trace.read_text(encoding="utf-8").splitlines()] if trace.exists() else []


# ---------------------------------------------------------------- what is there already


@dataclass(frozen=True)
class _Found:
    """What there is of a shard already.

    Args:
        due: the videos that are made; None is all of them.
        kept: shards whose rows stay, each with the videos whose rows they are, or None for all.
        failures: of videos that are not tried again.
    """

    due: frozenset[str] | None
    kept: tuple[tuple[Path, frozenset[str] | None], ...]
    failures: tuple[ItemFailure, ...] = ()


def _find(stage: Stage, job: ShardJob) -> _Found:
    gone = _kept_videos(job)
    kept = ((job.output_path, gone),) if gone else ()
    if stage.is_batched:
        return _Found(None, kept)
    # What an interrupted retry left is more than what it began with. A shard that another machine has made meanwhile is made again.
    for path in (job.part_path, *([job.output_path] if job.is_retry else [])):
        footer = _footer_at(path)
        if footer is not None and footer["key"] == job.key:
            undone, failures = ([], []) if path == job.output_path else _read_part(path, footer)
            # From the shard itself: the record of failures is another file, and a kill may come between the two.
            due = frozenset(undone) | (stage.failed_in(path) if job.is_retry else frozenset())
            known = tuple(failure for failure in failures if failure.video_id not in due | job.gone)
            return _Found(due, ((path, None), *(kept if path != job.output_path else ())), known)
    return _Found(None, kept)


def _read_part(path: Path, footer: dict[str, Any]) -> tuple[list[str], list[ItemFailure]]:
    """The videos that an unfinished shard lacks, and its failures."""
    try:
        return list(footer["undone"]), [ItemFailure(**row) for row in footer["failures"]]
    except (KeyError, TypeError) as error:
        raise shards.damaged(path, error) from error


def _is_due(job: ShardJob, found: _Found, video_id: str) -> bool:
    # Of a video that is gone there is what was made of it, or nothing: it does not fail anew.
    return video_id not in job.gone and (found.due is None or video_id in found.due)


def _kept_videos(job: ShardJob) -> frozenset[str]:
    """Of the videos that are gone, those that the shard has rows of."""
    if not job.gone or _footer_at(job.output_path) is None:
        return frozenset()
    return job.gone & video_ids(job.output_path)


def _footer_at(path: Path) -> dict[str, Any] | None:
    """The footer of a shard; None where there is none, or one that cannot be read: it is made anew, and nothing in it is kept."""
    try:
        return shards.read_footer(path) if path.exists() else None
    except shards.DamagedShardError:
        return None


class _Rows:
    """The rows of a shard, to be taken a video at a time, in order.

    Args:
        wanted: the videos whose rows are looked at; None is all of them.
    """

    def __init__(self, path: Path, wanted: frozenset[str] | None) -> None:
        tables = ((table.column("video_id")[0].as_py(), table) for table in shards.iter_videos(path))
        self._tables = (row for row in tables if wanted is None or row[0] in wanted)
        self._next = next(self._tables, None)

    def take(self, video_id: str) -> list[pa.Table]:
        taken = []
        while self._next is not None and self._next[0] == video_id:
            taken.append(self._next[1])
            self._next = next(self._tables, None)
        return taken


def _merged(new: Iterable[pa.Table], order: list[str], kept: Iterable[tuple[Path, frozenset[str] | None]]) -> Iterator[pa.Table]:
    """New rows and rows that stay, in the order of the input's videos; of a video that has both, the new ones.

    Args:
        new: in that order, too.
        order: the videos of the input, as far as it was read when a table of `new` comes.
    """
    sources = [_Rows(path, wanted) for path, wanted in kept]
    n_passed, current = 0, None

    def stay_until(end: int) -> Iterator[pa.Table]:
        for video_id in order[n_passed:end]:
            found = [source.take(video_id) for source in sources]
            yield from next((tables for tables in found if tables), [])

    for table in new:
        for part in shards.split_by_video(table) if table.num_rows else ():
            video_id = part.column("video_id")[0].as_py()
            if video_id != current:
                place = order.index(video_id, n_passed)
                yield from stay_until(place)
                for source in sources:
                    source.take(video_id)
                n_passed, current = place + 1, video_id
            yield part
    yield from stay_until(len(order))


def _footer(stage: Stage) -> dict[str, Any]:
    return {"stage": stage.name, "version": stage.version, "config": stage.identity(), "facts": stage.facts()}


def video_ids(path: Path) -> set[str]:
    """The videos that a shard has rows of."""
    return set(shards.read_shard(path, columns=["video_id"]).column("video_id").to_pylist())
