"""Worker processes that end with their parent and never hear of an interrupt, and interrupts that wait for the item in hand."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from functools import cache
from multiprocessing import active_children, forkserver, get_context, parent_process, resource_tracker
from multiprocessing.util import Finalize
from typing import Any, ParamSpec, TypeVar

from vbcli.memory import limit_memory

P = ParamSpec("P")
T = TypeVar("T")

# Not fork: a forked child would inherit threads of torch and faiss in an undefined state. The server that workers are forked from has none.
_START = "forkserver" if sys.platform == "linux" else "spawn"


def preload(modules: Iterable[str]) -> None:
    """Has workers forked from a process that has loaded these modules for all of them; where one was forked before, nothing is done."""
    if _START == "forkserver":
        get_context(_START).set_forkserver_preload(list(modules))
        # Now: it loads them while we look at what is to be done.
        with _interrupts_blocked():
            forkserver.ensure_running()


def spare_pandas() -> None:
    """Has pyarrow not load pandas in this process.

    Where that is installed, pyarrow loads it when it first makes a column of Python's values, to see whether they are of it: a fifth of a
    second of each process. Should anything here ask for a data frame nevertheless, pyarrow loads it then.
    """
    import pyarrow as pa

    if "pandas" in sys.modules:
        return
    sys.meta_path.insert(0, _NoPandas)
    pa.array([0])
    sys.meta_path.remove(_NoPandas)


class _NoPandas:
    """A finder that says that pandas is not installed."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        del path, target
        if name == "pandas":
            raise ModuleNotFoundError("pandas is not to be loaded")


def count_cores() -> int:
    """The cores that are for us."""
    # Only Linux knows of cores that are not.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def open_pool(n_workers: int) -> Iterator[ProcessPoolExecutor]:
    """Worker processes that live until the end of the block; `KeyboardInterrupt` ends them at once. Hand them work with `submit`."""
    told = (_flag(), dict(os.environ))
    pool = ProcessPoolExecutor(n_workers, mp_context=get_context(_START), initializer=_start_pool_worker, initargs=told)
    try:
        yield pool
    except KeyboardInterrupt:
        for worker in active_children():
            worker.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def submit(pool: ProcessPoolExecutor, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
    """`pool.submit`, where a worker that is started by it is safe from an interrupt even while it loads."""
    with _interrupts_blocked():
        return pool.submit(function, *args, **kwargs)


# Memory that workers share, and no event: one that is killed while it looks at an event would leave it locked.
@cache
def _flag() -> Any:
    return get_context("spawn").RawValue("b", 0)


_of_parent: Any = None


def is_interrupted() -> bool:
    """Whether an interrupt came, here or to the process whose worker this is: what is in hand is finished, and nothing else begun."""
    return bool((_flag() if _of_parent is None else _of_parent).value)


@contextmanager
def deferred_interrupts(on_first: Callable[[], None]) -> Iterator[None]:
    """In the block a first interrupt makes `is_interrupted` true, and `KeyboardInterrupt` comes at its end; with a second it comes at once.

    Args:
        on_first: called, in a thread of its own, when the first comes.
    """
    before = signal.getsignal(signal.SIGINT)
    # Who is deaf to interrupts stays so, and other threads never hear of them.
    if before in (None, signal.SIG_IGN) or threading.current_thread() is not threading.main_thread():
        yield
        return

    def hear(*_: object) -> None:
        _flag().value = 1
        signal.signal(signal.SIGINT, before)
        # Not here: what writes may be in the middle of it.
        threading.Thread(target=on_first, daemon=True).start()

    signal.signal(signal.SIGINT, hear)
    try:
        yield
        if is_interrupted():
            raise KeyboardInterrupt
    finally:
        signal.signal(signal.SIGINT, before)
        _flag().value = 0


def run_apart(function: Callable[..., bool], *args: Any, timeout_s: float, memory_mb: int) -> bool:
    """Calls a function in a process of its own, within limits of time and memory (Linux); False, too, where that process dies.

    Raises:
        TimeoutError: it took too long.
    """
    process = get_context("spawn").Process(target=_call, args=(memory_mb, function, args))
    with _interrupts_blocked():
        process.start()
    try:
        process.join(timeout_s)
        if process.exitcode is None:
            raise TimeoutError
        return process.exitcode == 0
    finally:
        process.kill()
        process.join()


def _call(memory_mb: int, function: Callable[..., bool], args: tuple[Any, ...]) -> None:
    _start_worker(None)
    if sys.platform == "linux":
        limit_memory(memory_mb)
    sys.exit(0 if function(*args) else 1)


def _start_pool_worker(flag: Any, environment: dict[str, str]) -> None:
    # The server was started with that of its time.
    os.environ.clear()
    os.environ.update(environment)
    _start_worker(flag)
    spare_pandas()
    # Libraries of neural networks are slow to take leave, and read pages of theirs for it that were never used: hundreds of megabytes.
    Finalize(None, os._exit, args=(0,), exitpriority=-100)


def _start_worker(flag: Any) -> None:
    global _of_parent
    _of_parent = flag
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
