"""Worker processes that end with their parent and never hear of an interrupt."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import active_children, get_context, parent_process, resource_tracker
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def count_cores() -> int:
    """The cores that are for us."""
    # Only Linux knows of cores that are not.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def open_pool(n_workers: int) -> Iterator[ProcessPoolExecutor]:
    """Worker processes that live until the end of the block; an interrupt ends them at once. Hand them work with `submit`."""
    # spawn: a forked child would inherit threads of torch and faiss in an undefined state.
    pool = ProcessPoolExecutor(n_workers, mp_context=get_context("spawn"), initializer=_start_worker)
    try:
        yield pool
    except KeyboardInterrupt:
        # What is unfinished is made anew by the next run: there is nothing to wait for.
        for worker in active_children():
            worker.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def submit(pool: ProcessPoolExecutor, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
    """`pool.submit`, where a worker that is started by it is safe from an interrupt even while it loads."""
    with _interrupts_blocked():
        return pool.submit(function, *args, **kwargs)


def _start_worker() -> None:
    # The parent decides what an interrupt means; a worker that dies of it would break the pool.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Processes that start in the block inherit the block; an interrupt reaches us after it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # Starting the tracker unblocks the signal: it must run before.
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
