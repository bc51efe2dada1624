"""Executors: where the jobs of a stage run."""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Literal, ParamSpec, TypeVar

from vbcli.errors import VbcliError
from vbcli.files import stale_files
from vbcli.jobs import ShardJob, ShardResult, read_trace, run_shard, try_items
from vbcli.runner import Executor
from vbcli.stage import Process, Stage
from vbcli.storage import is_remote
from vbcli.workers import count_cores, is_interrupted, open_pool, preload, submit

P = ParamSpec("P")
T = TypeVar("T")

ExecutorName = Literal["serial", "processes"]


@lru_cache(maxsize=4)
def _opened(stage: Stage) -> Process:
    return stage.open()


def _run_in_worker(stage: Stage, job: ShardJob) -> ShardResult:
    return run_shard(stage, _opened(stage), job)


def _try_in_worker(stage: Stage, job: ShardJob, trace: Path) -> None:
    try_items(stage, _opened(stage), job, trace)


class SerialExecutor(Executor):
    """Runs jobs one after the other in this process.

    A job during which an earlier process was killed is run in one of its own: a video may have done that, and must not do it again.
    """

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return function(*args, **kwargs)

    def run(self, stage: Stage, jobs: list[ShardJob]) -> Iterator[ShardResult]:
        process: Process | None = None
        for job in jobs:
            if is_interrupted():
                return
            if not is_remote(job.output_path) and stale_files(job.output_path):
                yield from _run_apart(stage, job)
            else:
                process = process or stage.open()
                yield run_shard(stage, process, job)


class ProcessExecutor(Executor):
    """Runs jobs in worker processes, at most one job a worker at a time; a job that is alone in this process, where there is no worker yet.

    Where a worker dies, the jobs that were under way are looked at one by one: the video that kills the process is found, recorded as a
    failure, and the others are made.
    """

    def __init__(self, n_workers: int) -> None:
        self.n_workers = n_workers
        self.opened = ExitStack()
        """What ends with the executor, and hears of an interrupt."""
        self._pool: ProcessPoolExecutor | None = None

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return submit(self._opened_pool(), function, *args, **kwargs).result()
        except BrokenProcessPool as error:
            self._close()
            raise VbcliError("a worker process died while it loaded", hint="often out of memory: give fewer --workers") from error

    def run(self, stage: Stage, jobs: list[ShardJob]) -> Iterator[ShardResult]:
        if len(jobs) == 1 and self._pool is None:
            # A worker would load libraries and model again, for nothing.
            yield from SerialExecutor().run(stage, jobs)
            return
        waiting = deque(jobs)
        while waiting and not is_interrupted():
            running: dict[Future[ShardResult], ShardJob] = {}
            try:
                yield from self._run_waiting(stage, waiting, running)
            except BrokenProcessPool:
                self._close()
                for job in running.values():
                    yield from _run_suspect(stage, job)

    def _opened_pool(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pool = self.opened.enter_context(open_pool(self.n_workers))
        return self._pool

    def _close(self) -> None:
        self.opened.pop_all().close()
        self._pool = None

    def _run_waiting(self, stage: Stage, waiting: deque[ShardJob], running: dict[Future[ShardResult], ShardJob]) -> Iterator[ShardResult]:
        pool = self._opened_pool()
        while True:
            # Handing out one job a worker at a time keeps an interrupt short: nothing is queued behind it.
            while len(running) < self.n_workers and waiting and not is_interrupted():
                # In the list before it is under way: a pool that is broken refuses it.
                job = waiting.popleft()
                try:
                    running[submit(pool, _run_in_worker, stage, job)] = job
                except BrokenProcessPool:
                    waiting.appendleft(job)
                    raise
            if not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                result = future.result()
                del running[future]
                yield result


def _run_apart(stage: Stage, job: ShardJob) -> Iterator[ShardResult]:
    try:
        with open_pool(1) as pool:
            result = submit(pool, _run_in_worker, stage, job).result()
    except BrokenProcessPool:
        yield from _run_suspect(stage, job)
    else:
        yield result


def _run_suspect(stage: Stage, job: ShardJob) -> Iterator[ShardResult]:
    """Makes the shard of a job under which a worker died: its videos are tried one by one, each that kills its process twice is recorded.

    After an interrupt it makes nothing.

    Raises:
        VbcliError: workers die whatever they work on.
    """
    deadly: set[str] = set()
    with tempfile.TemporaryDirectory() as place:
        trace = Path(place) / "trace.jsonl"
        while True:
            n_begun = len(read_trace(trace))
            try:
                with open_pool(1) as pool:
                    submit(pool, _try_in_worker, stage, job, trace).result()
                break
            except BrokenProcessPool as error:
                begun = read_trace(trace)
                if len(begun) == n_begun:
                    raise _worker_died(job) from error
                # Once may have been the doing of somebody else.
                if begun.count(begun[-1]) > 1:
                    deadly.add(begun[-1])
    if is_interrupted():
        return
    try:
        with open_pool(1) as pool:
            result = submit(pool, _run_in_worker, stage, replace(job, deadly=frozenset(deadly))).result()
    except BrokenProcessPool as error:
        raise _worker_died(job) from error
    yield result


def _worker_died(job: ShardJob) -> VbcliError:
    return VbcliError(
        f"a worker process died while making {job.output_path}, whatever it worked on",
        hint="often out of memory: give fewer --workers; run the same command again to go on",
    )


@contextmanager
def open_executor(name: ExecutorName, n_workers: int, modules: Iterable[str] = (), threads: int = 1) -> Iterator[Executor]:
    """Opens an executor; worker processes live until the end of the block.

    Args:
        name: `serial` or `processes`.
        n_workers: worker processes; 0 means as many as keep all cores busy.
        modules: what the workers are going to load.
        threads: that each of them computes in.
    """
    if name == "serial" or n_workers == 1 or count_cores() == 1:
        yield SerialExecutor()
        return
    executor = ProcessExecutor(n_workers or max(1, count_cores() // threads))
    if executor.n_workers > 1:
        preload(modules)
    with executor.opened:
        yield executor
