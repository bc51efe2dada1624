"""What one video may take, and what limits may be."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from vbcli.errors import UsageError
from vbcli.media.limits import Budget, Limits
from vbcli.memory import memory_limits


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout_s": float("inf")}, "--timeout-s is inf"),
        ({"timeout_s": float("nan")}, "--timeout-s is nan"),
        ({"timeout_s": 0}, "--timeout-s is 0"),
        ({"memory_mb": 64}, "--memory-mb is 64"),
        ({"memory_mb": 99_999_999_999_999}, "--memory-mb is 99999999999999"),
        ({"max_pixels": 1 << 31}, "--max-pixels is 2147483648"),
        ({"max_frames": -1}, "--max-frames is -1"),
    ],
)
def test_limits_that_cannot_be_kept_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        Limits(**options)  # type: ignore[arg-type]
    assert "it may be" in str(caught.value.hint)


@pytest.mark.parametrize("limits", [Limits(memory_mb=256), Limits(timeout_s=1_000_000, memory_mb=1 << 20)])
def test_the_lowest_and_the_highest_limits_let_videos_be_read(shared_data: Path, limits: Limits) -> None:
    from vbcli.media.probe import probe_video

    assert probe_video(str(shared_data / "hostile" / "torchcodec__nasa_13013.mp4"), limits).width_px == 480


def test_a_limit_from_outside_is_not_raised(tmp_path: Path) -> None:
    """Only a superuser may: for others all videos failed."""
    assert memory_limits(4096, resource.RLIM_INFINITY) == (4 << 30, 4 << 30)
    assert memory_limits(4096, 3 << 30) == (3 << 30, 3 << 30)
    limited = f"import resource, sys; resource.setrlimit(resource.RLIMIT_AS, ({3 << 30}, {3 << 30}));"
    code = "sys.argv = ['reader', '4096']; from vbcli.media import reader; reader.main()"
    command = [sys.executable, "-c", f"{limited} {code}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == '"ready"\n'
        rows = Path(f"/proc/{process.pid}/limits").read_text().splitlines()
        process.stdin.close()
    (row,) = [row.split()[-3:-1] for row in rows if row.startswith("Max address space")]
    assert row == [str(3 << 30)] * 2


def test_a_budget_is_spent_by_waiting_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 13.0, 20.0, 21.0, 22.5])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    budget = Budget(10)
    with budget.waiting():
        pass
    assert budget.left_s == 7
    with budget.waiting():
        assert budget.left_s == 6
    assert budget.left_s == 4.5
