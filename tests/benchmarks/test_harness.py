"""The arithmetic of the benchmarks, on made figures."""

from __future__ import annotations

import sys
from itertools import count
from typing import Any

import pytest
from harness import (
    BYTES,
    OURS,
    SECONDS,
    Prepared,
    Row,
    Run,
    at_least,
    at_most,
    compare,
    fit_exponent,
    is_good,
    lines_of,
    measure,
    run_process,
)


def test_a_speedup_is_theirs_over_ours() -> None:
    ratio = compare(at_least(3.0, "peer"), [1.0, 2.0, 4.0], [9.0, 4.0, 8.0])
    assert ratio.of_medians == 4.0  # 8 / 2
    assert (ratio.lowest, ratio.highest) == (2.0, 9.0)
    assert ratio.meets(at_least(4.0, "peer"))
    assert not ratio.meets(at_least(4.01, "peer"))


def test_a_share_is_ours_over_theirs() -> None:
    ratio = compare(at_most(1.1, "peer"), [11.0, 12.0, 10.0], [10.0, 10.0, 10.0])
    assert (ratio.of_medians, ratio.lowest, ratio.highest) == (1.1, 1.0, 1.2)
    assert ratio.meets(at_most(1.1, "peer"))
    assert not ratio.meets(at_most(1.09, "peer"))
    assert ratio.meets(at_most(None, "peer"))


def made_row(calls: list[str], *, ours_s: float = 2.0, difference: str = "") -> Row:
    """Of two sides, whose first runs are ten times as slow."""

    def side(name: str, seconds: float) -> Any:
        number = count()

        def run() -> Run:
            calls.append(name)
            return Run({SECONDS: seconds * (1 if next(number) else 10), BYTES: 5e6}, name)

        return run

    def check(results: dict[str, Any]) -> str:
        assert results == {OURS: OURS, "peer": "peer"}
        return difference

    prepared = Prepared({OURS: side(OURS, ours_s), "peer": side("peer", 6.0)}, check, 12, "images")
    return Row("made", (at_least(3.0, "peer"), at_most(1.0, "peer", BYTES)), lambda: prepared)


def test_sides_alternate_after_a_first_run_that_is_not_counted() -> None:
    calls: list[str] = []
    found = measure(made_row(calls), 3, is_quick=False)
    assert calls == [OURS, "peer", OURS, "peer", "peer", OURS, OURS, "peer"]
    assert found["runs"][OURS] == [{SECONDS: 2.0, BYTES: 5e6}] * 3
    assert [goal["verdict"] for goal in found["goals"]] == ["met", "met"]
    assert lines_of(found) == [
        "| made | peer | 2 s, 6 images/s | 6 s, 2 images/s | 3.00 (3.00 to 3.00) | >= 3 | met |\n",
        "| made | peer | 5 MB | 5 MB | 1.00 (1.00 to 1.00) | <= 1 | met |\n",
    ]
    assert is_good([found])


def test_a_goal_that_is_not_reached_is_missed_and_not_judged_by_a_quick_run() -> None:
    missed = measure(made_row([], ours_s=2.1), 2, is_quick=False)
    assert [goal["verdict"] for goal in missed["goals"]] == ["MISSED", "met"]
    assert not is_good([missed])
    calls: list[str] = []
    quick = measure(made_row(calls, ours_s=2.1), 2, is_quick=True)
    assert calls == [OURS, "peer"]
    assert quick["runs"]["peer"] == [{SECONDS: 60.0, BYTES: 5e6}]
    assert {goal["verdict"] for goal in quick["goals"]} == {"not judged"}
    assert is_good([quick])


def test_other_results_are_told_before_figures() -> None:
    found = measure(made_row([], difference="2 captions differ"), 1, is_quick=False)
    assert lines_of(found)[0] == "| made | | | | | | differs: 2 captions differ |\n"
    assert not is_good([found])


def test_the_exponent_of_a_power() -> None:
    sizes = [10, 100, 1000]
    assert fit_exponent(sizes, [3 * n**1.5 for n in sizes]) == pytest.approx(1.5)
    # By hand: of log10 costs 0, 0, 3 at log10 sizes 1, 2, 3 the slope is 1.5.
    assert fit_exponent(sizes, [1, 1, 1000]) == pytest.approx(1.5)


def test_memory_of_a_process_and_of_its_child_is_counted() -> None:
    hold = "import time; block = bytearray(b'x') * (100 << 20); time.sleep(1)"
    start = f"import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', {hold!r}]); {hold}; child.wait(); print('done')"
    run = run_process([sys.executable, "-c", start], watches_memory=True)
    assert run.result == "done\n"
    assert 200 << 20 < run.quantities[BYTES] < 300 << 20
    assert run.quantities[SECONDS] > 1


def test_a_process_that_fails_says_why() -> None:
    with pytest.raises(RuntimeError, match="no such thing"):
        run_process([sys.executable, "-c", "raise SystemExit('no such thing')"])
