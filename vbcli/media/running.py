"""One ffmpeg process: started, limited in time and memory, and ended."""

from __future__ import annotations

import io
import os
import re
import resource
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO

from vbcli.errors import MediaError
from vbcli.media.limits import Budget, Limits
from vbcli.media.program import first_line
from vbcli.memory import memory_limits

_PRINTED = re.compile(rb"\[Eval @ [^\]]*\] (-?[\d.]+|-?nan)\r?\n")
"""What the function `print` of an expression writes among the messages."""


@dataclass
class Run:
    """An ffmpeg at work: its standard output; once it has ended, its messages."""

    stdout: IO[bytes]
    budget: Budget
    messages: IO[bytes]
    said: bytes = b""

    @property
    def has_complained(self) -> bool:
        """Whether it has said anything so far."""
        return os.fstat(self.messages.fileno()).st_size > 0

    @property
    def printed(self) -> list[float]:
        """What its expressions have printed."""
        return [float(number) for number in _PRINTED.findall(self.said)]


@contextmanager
def running(command: list[bytes | str], path: str, limits: Limits, budget: Budget) -> Iterator[Run]:
    """Runs ffmpeg; it is killed when the block is left early, or a limit is reached.

    Raises:
        MediaError: when the block is left, ffmpeg failed.
    """
    with tempfile.TemporaryFile() as messages:
        # Its own process group: an interrupt at the terminal is for us, and must not look like a video that cannot be decoded.
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=messages, bufsize=0, process_group=0
        ) as process:
            assert process.stdout is not None
            _limit_memory(process, limits.memory_mb)
            watch = _Watch(process, budget)
            run = Run(process.stdout, budget, messages)
            try:
                yield run
                with budget.waiting():
                    process.wait()
            finally:
                watch.stop()
                process.kill()
        if watch.is_late:
            raise MediaError(f"{path} was not decoded within {limits.timeout_s:g} seconds")
        messages.seek(0)
        run.said = messages.read()
        if process.returncode:
            complaint = first_line(io.BytesIO(_PRINTED.sub(b"", run.said)))
            raise MediaError(f"{path} cannot be decoded: {complaint or f'ffmpeg ended with {process.returncode}'}")


def run_limited(command: Sequence[str | bytes], limits: Limits, output: IO[bytes], messages: IO[bytes], *, cwd: str | None = None) -> int:
    """Runs ffmpeg within limits of time and memory; its exit status.

    Raises:
        TimeoutError: it took too long.
    """
    # Its own process group: an interrupt at the terminal is for us, and must not look like a video that cannot be decoded.
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=messages, cwd=cwd, process_group=0) as process:
        try:
            _limit_memory(process, limits.memory_mb)
            return process.wait(limits.timeout_s)
        except subprocess.TimeoutExpired:
            raise TimeoutError from None
        finally:
            process.kill()


class _Watch:
    """Ends a process that keeps us waiting for too long."""

    def __init__(self, process: subprocess.Popen[bytes], budget: Budget) -> None:
        self.process = process
        self.budget = budget
        self.is_late = False
        self._is_over = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def stop(self) -> None:
        self._is_over.set()

    def _watch(self) -> None:
        while not self._is_over.wait(max(0.01, min(1.0, self.budget.limit_s / 4, self.budget.left_s))):
            if self.budget.left_s < 0:
                self.is_late = True
                self.process.kill()
                return


def _limit_memory(process: subprocess.Popen[bytes], memory_mb: int) -> None:
    # Only Linux lets a process limit another.
    if sys.platform == "linux":
        with suppress(ProcessLookupError):
            _, hard = resource.prlimit(process.pid, resource.RLIMIT_AS)
            resource.prlimit(process.pid, resource.RLIMIT_AS, memory_limits(memory_mb, hard))
