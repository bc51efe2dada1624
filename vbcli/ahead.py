"""Work that goes on ahead of who takes it, in threads: of what waits for other processes, or computes outside of Python."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")


def mapped_ahead(function: Callable[[S], T], items: Iterable[S], n_at_once: int) -> Iterator[T]:
    """What `function` makes of each item, in order; so many items are in hand at once, each in a thread.

    An exception of `items` or of `function` comes where its result would have.
    """
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(n_at_once) as pool:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) == n_at_once:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def read_ahead(items: Iterator[T], n_ahead: int) -> Iterator[T]:
    """The items, taken in another thread, up to so many before they are asked for; an exception of theirs comes in its place.

    Where nobody takes any more, it is waited for the item that is in the making.
    """
    ready: queue.Queue[tuple[T] | BaseException | None] = queue.Queue(n_ahead)
    is_over = threading.Event()

    def put(entry: tuple[T] | BaseException | None) -> None:
        while not is_over.is_set():
            try:
                ready.put(entry, timeout=0.2)
                return
            except queue.Full:
                pass

    def take() -> None:
        try:
            for item in items:
                put((item,))
                if is_over.is_set():
                    break
        except BaseException as error:  # noqa: BLE001 - raised where the item would have come: who waits for it would wait for ever
            put(error)
        else:
            put(None)

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    try:
        while (entry := ready.get()) is not None:
            if isinstance(entry, BaseException):
                raise entry
            yield entry[0]
    finally:
        is_over.set()
        thread.join()
