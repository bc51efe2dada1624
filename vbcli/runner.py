"""Stages, the one function that runs a stage over a shard, and the run over a dataset.

A stage is a frozen dataclass: its fields are its configuration. It turns the rows of one input shard into the rows of
one output shard and knows nothing of executors, files or resume.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from vbcli import shards
from vbcli.config import config_hash, to_dict
from vbcli.errors import ItemFailure, VbcliError
from vbcli.files import escape_name, read_json, write_atomic, write_json

Rows = Iterator[pa.Table | ItemFailure]
Process = Callable[[Rows], Rows]


class Stage(ABC):
    """One step from shard to shard.

    `process`, which `open` returns, takes the rows of a shard as an iterator of tables (one a video) and yields tables
    in `output_schema`, letting failures pass through, so that stages compose and memory stays bounded by a batch.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    output_kind: ClassVar[str]
    input_columns: ClassVar[list[str] | None] = None
    """Columns of the input that decide the output; None means all."""
    is_batched: ClassVar[bool] = False
    """The last bits of an item's rows depend on what it is processed with: a retry then redoes its whole shard."""

    @abstractmethod
    def output_schema(self) -> pa.Schema:
        """Schema of the rows that the stage yields."""

    @abstractmethod
    def open(self) -> Process:
        """Loads weights, once a worker, and returns the function that processes rows."""

    def identity(self) -> dict[str, Any]:
        """Everything that decides the output's bytes, JSON-ready. By default the fields."""
        return to_dict(self)

    def facts(self) -> dict[str, Any]:
        """What later stages need to know of the output."""
        return {}

    def origin(self) -> dict[str, Any]:
        """What readers want to know of how the output came about; it stands beside the facts of the manifest alone.

        Shards are without it: equal weights make equal shards, wherever they were trained.
        """
        return {}


@dataclass(frozen=True)
class Chain(Stage):
    """Stages one after the other as one stage: rows stream through, nothing in between is written."""

    stages: tuple[Stage, ...]

    @property
    def name(self) -> str:  # type: ignore[override]
        return "+".join(s.name for s in self.stages)

    @property
    def version(self) -> int:  # type: ignore[override]
        return int("".join(str(s.version) for s in self.stages))

    @property
    def output_kind(self) -> str:  # type: ignore[override]
        return self.stages[-1].output_kind

    @property
    def input_columns(self) -> list[str] | None:  # type: ignore[override]
        return self.stages[0].input_columns

    @property
    def is_batched(self) -> bool:  # type: ignore[override]
        return any(s.is_batched for s in self.stages)

    def output_schema(self) -> pa.Schema:
        return self.stages[-1].output_schema()

    def identity(self) -> dict[str, Any]:
        return {s.name: s.identity() for s in self.stages}

    def facts(self) -> dict[str, Any]:
        return self.stages[-1].facts()

    def origin(self) -> dict[str, Any]:
        return self.stages[-1].origin()

    def open(self) -> Process:
        processes = [s.open() for s in self.stages]

        def run(rows: Rows) -> Rows:
            for process in processes:
                rows = process(rows)
            return rows

        return run


# ---------------------------------------------------------------- one shard


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
    tables = list(shards.split_by_video(job.source)) if isinstance(job.source, pa.Table) else shards.iter_videos(job.source)
    order: list[str] = []
    # From the shard itself: the record of failures is another file, and a kill may come between the two.
    retried = set(shards.read_footer(job.output_path)["failed"]) if job.is_retry and not stage.is_batched else None
    kept = _kept_videos(job)

    def inputs() -> Rows:
        for table in tables:
            if table.num_rows == 0:
                continue
            video_id = table.column("video_id")[0].as_py()
            order.append(video_id)
            # Of a video that is gone there is what was made of it, or nothing: it does not fail anew.
            if video_id not in job.gone and (retried is None or video_id in retried):
                yield table

    failures: list[ItemFailure] = []

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


def _kept_videos(job: ShardJob) -> frozenset[str]:
    """Of the videos that are gone, those that the shard has rows of."""
    if not job.gone or not job.output_path.exists():
        return frozenset()
    return job.gone & _video_ids(job.output_path)


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
            if wanted is None or video_id in wanted:
                yield head
            head = next(kept, None)


def _footer(stage: Stage) -> dict[str, Any]:
    return {"stage": stage.name, "version": stage.version, "config": stage.identity(), "facts": stage.facts()}


def shard_key(stage: Stage, input_key: str) -> str:
    """Key of an output shard: stage, version, configuration and what it is made from."""
    return config_hash([stage.name, stage.version, stage.identity(), input_key])


class Executor(ABC):
    """Runs jobs of a stage, here or elsewhere; results come as they finish."""

    @abstractmethod
    def run(self, stage: Stage, jobs: list[ShardJob]) -> Iterator[ShardResult]: ...


# ---------------------------------------------------------------- one run over a dataset


@dataclass
class RunReport:
    """Counts of one run; `n_waiting` failed items of earlier runs wait for a retry."""

    output_dir: Path
    n_shards: int = 0
    n_done: int = 0
    n_skipped: int = 0
    n_rows: int = 0
    n_failed: int = 0
    n_waiting: int = 0
    notes: list[str] = field(default_factory=list)
    gone: frozenset[str] = frozenset()
    """Videos that are gone from the folder: that they failed once is of no interest."""

    @property
    def exit_status(self) -> int:
        return 3 if self.n_failed or self.n_waiting else 0


Progress = Callable[[int, int, str], None]
"""Called with (shards done, shards in all, a word on what was done)."""


def no_progress(done: int, total: int, text: str) -> None:
    """Shows nothing."""
    del done, total, text


@dataclass(frozen=True)
class ShardInput:
    """One input shard of a run: rows in memory (planned videos) or a file, and the digest that enters the key."""

    index: int
    source: Path | pa.Table
    digest: str
    gone: frozenset[str] = frozenset()


def dataset_inputs(input_dir: Path, stage: Stage, gone: frozenset[str] = frozenset()) -> list[ShardInput]:
    """The shards of a dataset as inputs of a stage.

    Args:
        gone: videos whose files are gone.
    """
    paths = shards.list_shards(input_dir)
    return [ShardInput(shards.shard_index(p), p, shards.input_digest(p, stage.input_columns), gone) for p in paths]


def run_stage(
    stage: Stage,
    inputs: list[ShardInput],
    output_dir: Path,
    executor: Executor,
    *,
    parents: list[dict[str, Any]] | None = None,
    videos_dir: Path | None = None,
    is_retry: bool = False,
    progress: Progress = no_progress,
    environment: dict[str, Any] | None = None,
) -> RunReport:
    """Makes every output shard that is missing or made from something else, and leaves the others alone.

    Args:
        parents: manifests of the datasets that the inputs come from, nearest first.
        videos_dir: the `videos` dataset to carry along.
        is_retry: also redo the items that failed before.
        environment: facts for the run's record, such as the ffmpeg build.

    Raises:
        VbcliError: the folder holds the output of another configuration, or cannot be written.
    """
    started = time.time()
    facts = {**stage.facts(), **stage.origin()}
    manifest = shards.Manifest(stage.output_kind, stage.name, stage.version, stage.identity(), facts, parents or [])
    shards.claim_manifest(output_dir, manifest)
    report = RunReport(output_dir, n_shards=len(inputs), gone=frozenset().union(*(shard.gone for shard in inputs)))
    if videos_dir is not None:
        carry_videos(videos_dir, output_dir / "videos")
    jobs = _plan_jobs(stage, inputs, output_dir, is_retry, report)
    progress(report.n_skipped, report.n_shards, "")
    for result in executor.run(stage, jobs):
        report.n_done += 1
        report.n_rows += result.n_rows
        report.n_failed += result.n_failed
        # Of one item its own failure tells enough.
        if result.n_failed == result.n_items > 1:
            report.notes.append(f"all {result.n_items} items of {output_dir / shards.shard_name(result.index)} failed")
        progress(report.n_skipped + report.n_done, report.n_shards, shards.shard_name(result.index))
    if jobs:
        _record_run(report, started, environment or {})
    return report


def _plan_jobs(stage: Stage, inputs: list[ShardInput], output_dir: Path, is_retry: bool, report: RunReport) -> list[ShardJob]:
    jobs = []
    for shard in inputs:
        key = shard_key(stage, shard.digest)
        job = ShardJob(shard.index, shard.source, output_dir, key, gone=shard.gone)
        if not job.output_path.exists():
            jobs.append(job)
            continue
        footer = shards.read_footer(job.output_path)
        if footer["key"] != key:
            report.notes.append(f"{job.output_path} is made again: its input changed")
            jobs.append(job)
        elif footer["failed"] and is_retry:
            jobs.append(replace(job, is_retry=True))
        else:
            report.n_skipped += 1
            report.n_rows += footer["n_rows"]
            report.n_waiting += len(set(footer["failed"]) - shard.gone)
    return jobs


def carry_videos(source: Path, target: Path) -> None:
    """Copies the videos dataset forward, shard by shard, where it is not there or differs.

    Raises:
        VbcliError: the target is of other videos.
    """
    check_same_videos(source, target)
    manifest = source / "manifest.json"
    if not manifest.is_file():
        raise VbcliError(
            f"{source.parent} has no videos dataset beside it", hint="it was not made by vbcli, or is incomplete: make it again"
        )
    if not (target / "manifest.json").exists():
        write_atomic(target / "manifest.json", manifest.read_bytes())
    for path in shards.list_shards(source):
        copy = target / path.name
        data = path.read_bytes()
        if not copy.exists() or copy.read_bytes() != data:
            write_atomic(copy, data)


def check_same_videos(source: Path, target: Path) -> None:
    """Each shard of the target must be one of the source's, and share videos with it: plans grow, and never change.

    Raises:
        VbcliError: it does not.
    """
    for path in shards.list_shards(target):
        origin, found = source / path.name, _video_ids(path)
        if not origin.exists() or (found and found.isdisjoint(_video_ids(origin))):
            raise VbcliError(
                f"{target.parent} holds other videos than {source.parent}", hint="name another output folder, or remove this one"
            )


def _video_ids(path: Path) -> set[str]:
    return set(shards.read_shard(path, columns=["video_id"]).column("video_id").to_pylist())


def read_videos(dataset_dir: Path) -> pa.Table:
    """All rows of a dataset's `videos`, in order."""
    paths = shards.list_shards(dataset_dir / "videos")
    if not paths:
        raise VbcliError(f"{dataset_dir} has no videos dataset beside it", hint="it was not made by vbcli, or is incomplete")
    return pa.concat_tables([pa.concat_tables(list(shards.iter_videos(p))) for p in paths])


def _record_run(report: RunReport, started: float, environment: dict[str, Any]) -> None:
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(started))
    record = {
        "started": stamp,
        "seconds": round(time.time() - started, 3),
        "host": platform.node(),
        "python": sys.version.split()[0],
        # Bytes of a file name that are no UTF-8 cannot be written as JSON.
        "command": [escape_name(os.fsencode(argument)) for argument in sys.argv],
        "counts": {k: getattr(report, k) for k in ("n_shards", "n_done", "n_skipped", "n_rows", "n_failed", "n_waiting")},
        "packages": {
            name: _package_version(name) for name in ("vbcli", "torch", "torchvision", "timm", "open_clip_torch", "av", "pyarrow")
        },
        **environment,
    }
    write_json(report.output_dir / "_runs" / f"{stamp}-{platform.node()}-{os.getpid()}.json", json.loads(json.dumps(record)))


def last_run(output_dir: Path) -> dict[str, Any]:
    """The record of the newest run that did something; empty where there is none."""
    records = sorted((output_dir / "_runs").glob("*.json"))
    return read_json(records[-1]) if records else {}


def _package_version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
