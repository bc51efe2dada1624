"""The C library's allocator, told to keep what it has or to give it back."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_freed_memory_is_kept_until_it_is_released():
    code = (
        "import psutil, torch; from vbcli.memory import keep_freed_memory, release_freed_memory\n"
        "megabytes = lambda: psutil.Process().memory_info().rss >> 20\n"
        "keep_freed_memory(); before = megabytes(); x = torch.ones(300 << 18); del x; kept = megabytes() - before\n"
        "release_freed_memory(); print(kept, megabytes() - before)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    kept, left = map(int, run.stdout.split())
    assert kept >= 290
    assert left <= 50
