"""Executors: where the jobs of a stage run."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import lru_cache
from typing import Literal

from vbcli.errors import VbcliError
from vbcli.runner import Executor, Process, ShardJob, ShardResult, Stage, run_shard
from vbcli.workers import count_cores, open_pool, submit

ExecutorName = Literal["serial", "processes"]


@lru_cache(maxsize=4)
def _opened(stage: Stage) -> Process:
    return stage.open()


def _run_in_worker(stage: Stage, job: ShardJob) -> ShardResult:
    return run_shard(stage, _opened(stage), job)


class SerialExecutor(Executor):
    """Runs jobs one after the other in this process."""

    def run(self, stage: Stage, jobs: list[ShardJob]) -> Iterator[ShardResult]:
        if not jobs:
            return
        process = stage.open()
        for job in jobs:
            yield run_shard(stage, process, job)


class ProcessExecutor(Executor):
    """Runs jobs in worker processes, at most one job a worker at a time; a job that is alone in this process."""

    def __init__(self, pool: ProcessPoolExecutor, n_workers: int) -> None:
        self.pool = pool
        self.n_workers = n_workers

    def run(self, stage: Stage, jobs: list[ShardJob]) -> Iterator[ShardResult]:
        if len(jobs) == 1:
            # A worker would load libraries and model again, for nothing.
            yield from SerialExecutor().run(stage, jobs)
            return
        waiting = iter(jobs)
        running: dict[Future[ShardResult], ShardJob] = {}
        try:
            while True:
                # Handing out one job a worker at a time keeps an interrupt short: nothing is queued behind it.
                while len(running) < self.n_workers and (job := next(waiting, None)) is not None:
                    running[submit(self.pool, _run_in_worker, stage, job)] = job
                if not running:
                    return
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    result = future.result()
                    del running[future]
                    yield result
        except BrokenProcessPool as error:
            names = " or ".join(str(j.output_path) for j in running.values())
            raise VbcliError(
                f"a worker process died while making {names}",
                hint="often out of memory: give fewer --workers; run the same command again to go on",
            ) from error


@contextmanager
def open_executor(name: ExecutorName, n_workers: int) -> Iterator[Executor]:
    """Opens an executor; worker processes live until the end of the block.

    Args:
        name: `serial` or `processes`.
        n_workers: worker processes; 0 means one a core.
    """
    n_workers = n_workers or count_cores()
    if name == "serial" or n_workers == 1:
        yield SerialExecutor()
        return
    with open_pool(n_workers) as pool:
        yield ProcessExecutor(pool, n_workers)
