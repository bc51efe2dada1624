"""What is done ahead comes in order, no further ahead than it may, and errors come in their place."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from vbcli.ahead import mapped_ahead, read_ahead


def test_results_come_in_order_and_at_once() -> None:
    both = threading.Barrier(2, timeout=10)

    def slow(n: int) -> int:
        both.wait()  # passes only where two are in hand
        time.sleep(0.02 * (n % 2))
        return n * n

    assert list(mapped_ahead(slow, range(8), 2)) == [n * n for n in range(8)]


def test_no_more_items_are_taken_than_are_in_hand() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for n in range(9):
            taken.append(n)
            yield n

    results = mapped_ahead(lambda n: n, items(), 3)
    assert next(results) == 0
    assert taken == [0, 1, 2]
    results.close()  # type: ignore[attr-defined]


def test_an_error_comes_where_its_result_would_have() -> None:
    results = mapped_ahead(lambda n: 1 // (2 - n), range(5), 2)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def counted(n: int, taken: list[int]) -> Iterator[int]:
    for i in range(n):
        taken.append(i)
        yield i
    raise KeyError("end")


def test_items_are_read_ahead_no_further_than_they_may() -> None:
    taken: list[int] = []
    items = read_ahead(counted(50, taken), 4)
    assert next(items) == 0
    deadline = time.monotonic() + 10
    while len(taken) < 6 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert len(taken) == 6  # one was taken, four wait, and one is in the hand of who fetches them
    assert [next(items) for _ in range(49)] == list(range(1, 50))
    with pytest.raises(KeyError, match="end"):
        next(items)


def test_who_stops_early_leaves_no_thread() -> None:
    before = threading.active_count()
    items = read_ahead(counted(50, []), 4)
    next(items)
    items.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
