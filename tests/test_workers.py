"""Calls in processes of their own."""

from __future__ import annotations

import operator
import os
import subprocess
import sys
import time

import pytest

from vbcli.workers import run_apart


def takes(n_bytes: int) -> bool:
    try:
        return len(bytearray(n_bytes)) == n_bytes
    except MemoryError:
        return False


def waits(seconds: float) -> bool:
    time.sleep(seconds)
    return True


def test_a_call_apart_tells_whether_it_went_well() -> None:
    assert run_apart(operator.eq, 1, 1, timeout_s=100, memory_mb=4096)
    assert not run_apart(operator.eq, 1, 2, timeout_s=100, memory_mb=4096)
    assert not run_apart(os.abort, timeout_s=100, memory_mb=4096)


def test_a_call_apart_keeps_its_limits() -> None:
    assert run_apart(takes, 1 << 30, timeout_s=100, memory_mb=8192)
    assert not run_apart(takes, 1 << 30, timeout_s=100, memory_mb=1024)
    with pytest.raises(TimeoutError):
        run_apart(waits, 100.0, timeout_s=0.5, memory_mb=4096)


def test_a_limit_from_outside_that_is_lower_holds_for_a_call_apart() -> None:
    """It cannot be raised: no call went well."""
    limited = f"import operator, resource; resource.setrlimit(resource.RLIMIT_AS, ({3 << 30}, {3 << 30}));"
    code = "from vbcli.workers import run_apart; print(run_apart(operator.eq, 1, 1, timeout_s=100, memory_mb=4096))"
    run = subprocess.run([sys.executable, "-c", f"{limited} {code}"], capture_output=True, text=True)
    assert (run.stdout, run.stderr) == ("True\n", "")


def test_pyarrow_loads_no_pandas_until_a_data_frame_is_asked_for() -> None:
    code = (
        "import sys; from vbcli.workers import spare_pandas; spare_pandas(); import pyarrow as pa\n"
        "table = pa.table({'a': pa.array(['x', 'y'])}); assert 'pandas' not in sys.modules\n"
        "import pandas; assert table.to_pandas().equals(pandas.DataFrame({'a': ['x', 'y']}, dtype=table.to_pandas()['a'].dtype))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
