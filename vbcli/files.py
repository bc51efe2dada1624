"""Files that appear whole, folders that are free, and names as text."""

from __future__ import annotations

import codecs
import json
import os
import platform
from contextlib import suppress
from pathlib import Path
from typing import Any

from vbcli import storage
from vbcli.errors import VbcliError


def write_atomic(path: Path, data: bytes, *, is_exclusive: bool = False) -> bool:
    """Writes a file so that it is there complete or not at all.

    Args:
        is_exclusive: leave a file that is already there as it is.

    Returns:
        False where `is_exclusive` found the file there.
    """
    try:
        if storage.is_remote(path):
            return storage.write_remote(path, data, is_exclusive=is_exclusive)
        temporary = temporary_path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if not is_exclusive:
                os.replace(temporary, path)
                return True
            try:
                os.link(temporary, path)
            except FileExistsError:
                return False
            return True
        finally:
            remove_temporary(temporary)
    except OSError as error:
        raise not_written(path, error) from error


def check_free(path: Path, own: tuple[str, ...] = ()) -> None:
    """Refuses an output folder that holds something else.

    Args:
        own: names of what a run that was killed may have left there.

    Raises:
        VbcliError: it is a file, or holds other names.
    """
    if not is_free(path, own):
        raise not_free(path)


def is_free(path: Path, own: tuple[str, ...]) -> bool:
    return not path.exists() or (path.is_dir() and all(p.name in own or is_temporary(p) for p in path.iterdir()))


def not_free(path: Path) -> VbcliError:
    return VbcliError(f"{path} exists and is not an empty folder", hint="name a new folder, or delete this one")


def not_written(path: Path, error: OSError) -> VbcliError:
    return VbcliError(f"cannot write {path}: {error.strerror or error}", hint="check free space and permissions")


def temporary_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp-{platform.node()}-{os.getpid()}")


def remove_temporary(path: Path) -> None:
    """Removes a temporary file, if it was made: its folder may be none."""
    with suppress(FileNotFoundError, NotADirectoryError):
        path.unlink()


def is_temporary(path: Path) -> bool:
    return path.name.startswith(".") and ".tmp-" in path.name


def stale_files(path: Path) -> list[Path]:
    """What processes of this machine left when they were killed while writing `path`."""
    return [stale for stale in path.parent.glob(f".{path.name}.tmp-*") if _is_stale(stale)]


def stale_below(folder: Path) -> list[tuple[Path, str]]:
    """All such files below a folder, each with the name of the file that it would have become."""
    return [(stale, stale.name[1:].rpartition(".tmp-")[0]) for stale in folder.rglob(".*.tmp-*") if _is_stale(stale)]


def _is_stale(path: Path) -> bool:
    host, _, process_id = path.name.rpartition(".tmp-")[2].rpartition("-")
    # Another run may be making the same shard just now, here or on another machine: its file stays.
    return host == platform.node() and process_id.isdecimal() and path.is_file() and not _is_running(int(process_id))


def remove_stale(path: Path) -> None:
    """Removes `stale_files`."""
    for stale in stale_files(path):
        stale.unlink(missing_ok=True)


def _is_running(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def write_json(path: Path, value: Any, *, is_exclusive: bool = False) -> bool:
    """Writes JSON through `write_atomic`."""
    return write_atomic(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode(), is_exclusive=is_exclusive)


def read_lines(path: Path, unit: str) -> list[str]:
    """The lines of a text file that are not empty, without the space around them.

    Args:
        unit: what a line is, for the hint.

    Raises:
        VbcliError: it cannot be read, or there are none.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        cause = (isinstance(error, OSError) and error.strerror) or "it is not UTF-8"
        raise VbcliError(f"{path} cannot be read: {cause}", hint=f"name a text file with one {unit} on each line") from error
    if not any(lines):
        raise VbcliError(f"{path} is empty", hint=f"write one {unit} on each line")
    return [line for line in lines if line]


def read_json(path: Path) -> Any:
    """Reads a JSON file; a damaged one is a `VbcliError` that names it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise VbcliError(f"{path} does not exist", hint="look at the name, or make the folder again that it belongs to") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise VbcliError(f"{path} is not valid JSON: {error}", hint="it is damaged: copy it again, or make it again") from error
    except OSError as error:
        raise VbcliError(f"{path} cannot be read: {error.strerror}", hint="look at its permissions") from error


def escape_name(name: bytes) -> str:
    """A file name as text: bytes outside UTF-8 are percent-escaped, and then every other `%` is, too."""
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError:
        return name.replace(b"%", b"%25").decode("utf-8", errors="percent-escape")


codecs.register_error("percent-escape", lambda error: ("".join(f"%{b:02X}" for b in error.object[error.start : error.end]), error.end))  # type: ignore[union-attr]
