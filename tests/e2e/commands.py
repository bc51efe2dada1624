"""Commands run as `vbcli` runs them, in this process: starting a new one for each would take most of the tests' time."""

from __future__ import annotations

import io
import json
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from vbcli import shards
from vbcli.cli.app import main


@dataclass(frozen=True)
class Ended:
    """What a command wrote and its exit status."""

    status: int
    stdout: str
    stderr: str


def run(*arguments: str | Path, cwd: Path) -> Ended:
    """Runs `vbcli ARGUMENTS` in a folder, whatever its status; a traceback fails the test."""
    argv, stdout, stderr, status = sys.argv, io.StringIO(), io.StringIO(), 0
    sys.argv = ["vbcli", *map(str, arguments)]
    try:
        with chdir(cwd), redirect_stdout(stdout), redirect_stderr(stderr):
            main()
    except SystemExit as ended:
        status = int(ended.code or 0)
    finally:
        sys.argv = argv
    return Ended(status, stdout.getvalue(), stderr.getvalue())


def vbcli(*arguments: str | Path, cwd: Path, status: int = 0) -> Ended:
    """`run`, for a command that must end with `status`."""
    ended = run(*arguments, cwd=cwd)
    assert ended.status == status, f"{arguments} ended with {ended.status}\n{ended.stdout}\n{ended.stderr}"
    return ended


def rows(query: str) -> list[tuple[Any, ...]]:
    """What DuckDB answers."""
    with duckdb.connect() as connection:
        return connection.execute(query).fetchall()


def finish(*command: str | Path, status: int = 0) -> dict[str, Any]:
    """Runs a command to its end, in this process; what it says of itself."""
    return json.loads(vbcli(*command, "--json", cwd=Path(), status=status).stdout)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file that must be equal between runs; a killed process may not be buried yet, and then what it left stays for now."""
    files = [p for p in folder.rglob("*") if p.is_file() and "_runs" not in p.parts and ".tmp-" not in p.name]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    return {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in shards.list_shards(folder)}
