"""The ffmpeg that runs: the bundled one, the system's or a path."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from functools import lru_cache
from typing import IO

import imageio_ffmpeg

from vbcli.errors import VbcliError


def find_ffmpeg(choice: str = "bundled") -> str:
    """Path of the ffmpeg to use.

    Args:
        choice: `bundled` (the one of imageio-ffmpeg), `system` (the one on PATH) or a path.

    Raises:
        VbcliError: there is none.
    """
    if choice == "bundled":
        try:
            return imageio_ffmpeg.get_ffmpeg_exe()
        except RuntimeError as error:
            raise VbcliError(f"imageio-ffmpeg has no ffmpeg for this machine: {error}", hint="give --ffmpeg system, or a path") from error
    found = shutil.which("ffmpeg" if choice == "system" else choice)
    if found is None:
        where = "there is no ffmpeg on PATH" if choice == "system" else f"ffmpeg '{choice}' does not exist or cannot be run"
        raise VbcliError(where, hint="leave --ffmpeg out to use the bundled one")
    # Now, not at the first video: all of them would fail.
    time_base_option(found)
    return found


@lru_cache(maxsize=1)
def _bundled() -> str | None:
    """The bundled ffmpeg, where it is the package's own and not one that its user names instead."""
    return None if "IMAGEIO_FFMPEG_EXE" in os.environ else imageio_ffmpeg.get_ffmpeg_exe()


@lru_cache(maxsize=4)
def ffmpeg_build(executable: str) -> str:
    """First line of `ffmpeg -version`."""
    try:
        run = subprocess.run([executable, "-version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise VbcliError(f"{executable} cannot be run: {error}", hint="leave --ffmpeg out to use the bundled one") from error
    if not run.stdout.startswith("ffmpeg version"):
        raise VbcliError(f"{executable} is not an ffmpeg", hint="leave --ffmpeg out to use the bundled one")
    return run.stdout.splitlines()[0].split(" Copyright")[0]


@lru_cache(maxsize=4)
def time_base_option(executable: str) -> str:
    """What this ffmpeg calls the time base of the source: `demux`, or `-1` before version 6.1.

    Raises:
        VbcliError: it knows neither, or cannot hand frames through with their times.
    """
    # A process less for each of ours; its package is of one version.
    if executable == _bundled():
        return "demux"
    ffmpeg_build(executable)
    source = ["-f", "lavfi", "-i", "color=size=16x16:rate=10:duration=0.1", "-fps_mode", "passthrough"]
    for option in ("demux", "-1"):
        command = [executable, "-nostdin", "-v", "error", *source, "-enc_time_base", option, "-f", "nut", "-c:v", "mjpeg", "pipe:1"]
        if subprocess.run(command, capture_output=True).returncode == 0:
            return option
    raise VbcliError(
        f"{executable} is too old ({ffmpeg_build(executable)})", hint="5.1 or newer is needed; leave --ffmpeg out to use the bundled one"
    )


@lru_cache(maxsize=4)
def can_leave_out(executable: str) -> bool:
    """Whether this ffmpeg can drop packets by their numbers before it decodes: since version 7.1."""
    if executable == _bundled():
        return True
    source = ["-f", "lavfi", "-i", "color=size=16x16:duration=0.1"]
    command = [executable, "-nostdin", "-v", "error", "-bsf:0", "noise=drop='lt(n,1)'", *source, "-f", "null", "-"]
    return subprocess.run(command, capture_output=True).returncode == 0


@lru_cache(maxsize=4)
def filter_names(executable: str) -> frozenset[str]:
    """The filters that an ffmpeg has been built with."""
    run = subprocess.run([executable, "-hide_banner", "-filters"], capture_output=True, text=True)
    return frozenset(columns[1] for columns in map(str.split, run.stdout.splitlines()) if len(columns) > 2)


def first_line(messages: IO[bytes]) -> str:
    """What went wrong first, without ffmpeg's `[part @ address]`."""
    messages.seek(0)
    lines = messages.read(4096).decode(errors="replace").strip().splitlines()
    return re.sub(r"^(\[[^\]]*\] ?)+", "", lines[0]).strip() if lines else ""
