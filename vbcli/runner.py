"""The run of a stage over a dataset: which shards are to be made, by whom, and what came of it."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import pyarrow as pa

from vbcli import shards
from vbcli.config import config_hash
from vbcli.errors import VbcliError
from vbcli.files import escape_name, read_json, remove_stale, stale_below, write_atomic, write_json
from vbcli.jobs import UNFINISHED, ShardJob, ShardResult, iter_items, video_ids
from vbcli.stage import Stage
from vbcli.storage import is_remote
from vbcli.workers import deferred_interrupts

P = ParamSpec("P")
T = TypeVar("T")


def shard_key(stage: Stage, input_key: str) -> str:
    """Key of an output shard: stage, version, configuration and what it is made from."""
    return config_hash([stage.name, stage.version, stage.identity(), input_key])


class Executor(ABC):
    """Runs jobs of a stage, here or elsewhere; results come as they finish."""

    @abstractmethod
    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls a function where jobs run: what it loads, this process need not load."""

    @abstractmethod
    def run(self, stage: Stage, jobs: list[ShardJob]) -> Iterator[ShardResult]: ...


# ---------------------------------------------------------------- one run over a dataset

INTERRUPTED = "the videos in hand are finished first; another interrupt ends at once"


@dataclass
class RunReport:
    """Counts of one run; `n_waiting` failed items of earlier runs wait for a retry, and of a dry run `n_planned` shards would be made."""

    output_dir: Path
    n_shards: int = 0
    n_done: int = 0
    n_skipped: int = 0
    n_rows: int = 0
    n_failed: int = 0
    n_waiting: int = 0
    n_planned: int = 0
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


def no_note(text: str) -> None:
    """Tells nothing."""
    del text


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
    on_note: Callable[[str], None] = no_note,
    environment: dict[str, Any] | None = None,
) -> RunReport:
    """Makes every output shard that is missing or made from something else, and leaves the others alone.

    Args:
        parents: manifests of the datasets that the inputs come from, nearest first.
        videos_dir: the `videos` dataset to carry along.
        is_retry: also redo the items that failed before.
        on_note: told, in another thread, that an interrupt was heard.
        environment: facts for the run's record, such as the ffmpeg build.

    Raises:
        KeyboardInterrupt: an interrupt came; the videos in hand were finished first, unless the stage is batched or another interrupt came.
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
    _remove_left(inputs, jobs, output_dir)
    progress(report.n_skipped, report.n_shards, "")
    # Of a batched stage there is nothing to keep: its videos are made together.
    with nullcontext() if stage.is_batched else deferred_interrupts(lambda: on_note(INTERRUPTED)):
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


def count_jobs(stage: Stage, inputs: list[ShardInput], output_dir: Path, *, is_retry: bool) -> RunReport:
    """What `run_stage` would do, without doing it."""
    report = RunReport(output_dir, n_shards=len(inputs), gone=frozenset().union(*(shard.gone for shard in inputs)))
    report.n_planned = len(_plan_jobs(stage, inputs, output_dir, is_retry, report))
    return report


def _plan_jobs(stage: Stage, inputs: list[ShardInput], output_dir: Path, is_retry: bool, report: RunReport) -> list[ShardJob]:
    jobs = []
    for shard in inputs:
        key = shard_key(stage, shard.digest)
        job = ShardJob(shard.index, shard.source, output_dir, key, is_retry, shard.gone)
        if not job.output_path.exists():
            jobs.append(job)
            continue
        try:
            footer = shards.read_footer(job.output_path)
        except shards.DamagedShardError as error:
            lost = [video_id for video_id, _ in iter_items(job) if video_id in shard.gone] if shard.gone else []
            without = f" without {len(lost)} videos that are gone, first {lost[0]}" if lost else ""
            report.notes.append(f"{error.message}; it is made again{without}")
            jobs.append(job)
            continue
        if footer["key"] != key:
            report.notes.append(f"{job.output_path} is made again: its input changed")
            jobs.append(job)
        elif is_retry and stage.failed_in(job.output_path):
            jobs.append(job)
        else:
            report.n_skipped += 1
            report.n_rows += footer["n_rows"]
            report.n_waiting += len(set(footer["failed"]) - shard.gone)
    return jobs


def _remove_left(inputs: list[ShardInput], jobs: list[ShardJob], output_dir: Path) -> None:
    """Removes what runs that were killed left: files half written, and what an interrupt kept of shards that are whole now.

    Of the other shards it stays: by that a job knows that a process died while it made one.
    """
    whole = {shards.shard_name(index) for index in {shard.index for shard in inputs} - {job.index for job in jobs}}
    left = [path for path in shards.list_shards(output_dir / UNFINISHED) if path.name in whole]
    if not is_remote(output_dir):
        left += [
            path for path, name in stale_below(output_dir) if not name.endswith(".parquet") or (path.parent == output_dir and name in whole)
        ]
    for path in left:
        path.unlink(missing_ok=True)


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
            if not is_remote(copy):
                remove_stale(copy)
            write_atomic(copy, data)


def check_same_videos(source: Path, target: Path) -> None:
    """Each shard of the target must be one of the source's, and share videos with it: plans grow, and never change.

    Raises:
        VbcliError: it does not.
    """
    for path in shards.list_shards(target):
        try:
            origin, found = source / path.name, video_ids(path)
        except shards.DamagedShardError:
            continue  # told where it is read, or made anew
        if not origin.exists() or (found and found.isdisjoint(video_ids(origin))):
            raise VbcliError(
                f"{target.parent} holds other videos than {source.parent}", hint="name another output folder, or remove this one"
            )


def read_videos(dataset_dir: Path) -> pa.Table:
    """All rows of a dataset's `videos`, in order."""
    paths = shards.list_shards(dataset_dir / "videos")
    if not paths:
        raise VbcliError(f"{dataset_dir} has no videos dataset beside it", hint="it was not made by vbcli, or is incomplete")
    return pa.concat_tables([shards.read_shard(p) for p in paths])


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
